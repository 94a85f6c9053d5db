//! `/etc/passwd` and `/etc/group` of a capsule: the image's lines, with the user's where programs look for them.
//!
//! The image's system users stay, because daemons and package scripts look them up. The user's own line comes first, so
//! that it wins over an image's user of the same number. Input is hostile on both sides: the image's file may be anything,
//! and what `getent` says may hold bytes that would make another line.

use super::library_cache;
use super::step::{Content, User};
use std::path::Path;

/// What the host knows of the user; made by `probe::account` once per capsule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Empty when nobody on the host knows the number.
    pub name: String,
    pub gecos: String,
    /// Empty like the name.
    pub home: String,
    /// Number and name of the primary and the supplementary groups, as far as known.
    pub groups: Vec<(u32, String)>,
}

/// An image's file beyond this is cut: a real one has kilobytes.
const MAX_IMAGE_BYTES: usize = 1 << 20;

/// The bytes of a generated file, from the image's own (empty if it has none).
pub fn content(content: &Content, image: &[u8], account: &Account) -> Vec<u8> {
    match content {
        Content::Bytes(bytes) => bytes.clone(),
        Content::Passwd(user) => passwd(user, image, account),
        Content::Group(user) => group(user, image, account),
        Content::LoaderCache(paths) => {
            let paths: Vec<&Path> = paths.iter().map(|path| path.as_path()).collect();
            library_cache::with_libraries(image, &paths)
        }
        Content::LoaderPath(directory) => library_cache::musl_path(image, directory),
    }
}

fn passwd(user: &User, image: &[u8], account: &Account) -> Vec<u8> {
    let uid = user.identity.inside_uid;
    let kept = uid == user.identity.outside_uid;
    let lines = lines(image);
    let of_image = lines.iter().find(|line| line.number == Some(uid));
    let name = match (&of_image, kept) {
        // Someone else's number: the image's name for it, if it has one.
        (Some(line), false) => String::from_utf8_lossy(line.name).into_owned(),
        _ if uid == 0 => "root".to_string(),
        _ => user_name(account, uid),
    };
    let mut out = format!(
        "{name}:x:{uid}:{}:{}:{}:{}\n",
        user.identity.inside_gid,
        clean(&account.gecos),
        clean(&user.home.to_string_lossy()),
        clean(&user.shell),
    )
    .into_bytes();
    for line in lines {
        let ours = line.number == Some(uid) || line.name == name.as_bytes();
        if !ours {
            out.extend_from_slice(line.text);
            out.push(b'\n');
        }
    }
    out
}

fn group(user: &User, image: &[u8], account: &Account) -> Vec<u8> {
    let identity = user.identity;
    let lines = lines(image);
    let of_image = |gid: u32| lines.iter().find(|line| line.number == Some(gid));
    let host_name = |gid: u32| {
        let known = account.groups.iter().find(|(number, _)| *number == gid);
        known
            .map(|(_, name)| clean(name))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("g{gid}"))
    };
    let mut ours: Vec<(u32, String)> = Vec::new();
    let name = match (
        of_image(identity.inside_gid),
        identity.inside_gid == identity.outside_gid,
    ) {
        (Some(line), false) => String::from_utf8_lossy(line.name).into_owned(),
        (None, false) if identity.inside_gid == 0 => "root".to_string(),
        (None, false) => format!("g{}", identity.inside_gid),
        (_, true) => host_name(identity.inside_gid),
    };
    ours.push((identity.inside_gid, name));
    // Other groups keep their rights but show as `nogroup`: only one number can be mapped. Their names are still worth
    // having where the image does not use number or name for something else.
    for gid in &user.groups {
        let name = host_name(*gid);
        let taken = ours
            .iter()
            .any(|(number, other)| number == gid || *other == name)
            || of_image(*gid).is_some()
            || lines.iter().any(|line| line.name == name.as_bytes());
        if !taken {
            ours.push((*gid, name));
        }
    }
    let mut out = Vec::new();
    for (gid, name) in &ours {
        out.extend_from_slice(format!("{name}:x:{gid}:\n").as_bytes());
    }
    for line in &lines {
        let replaced = ours
            .first()
            .is_some_and(|(gid, name)| line.number == Some(*gid) || line.name == name.as_bytes());
        if !replaced {
            out.extend_from_slice(line.text);
            out.push(b'\n');
        }
    }
    out
}

/// A name for a user that the host may not know; some programs fail on a number without any.
fn user_name(account: &Account, uid: u32) -> String {
    match clean(&account.name) {
        name if name.is_empty() => format!("u{uid}"),
        name => name,
    }
}

/// A well-formed line of the image's file.
struct Line<'a> {
    text: &'a [u8],
    name: &'a [u8],
    /// The third field.
    number: Option<u32>,
}

/// Looked at once, because a launch waits for it.
fn lines(image: &[u8]) -> Vec<Line<'_>> {
    let image = image
        .get(..MAX_IMAGE_BYTES.min(image.len()))
        .unwrap_or_default();
    image.split(|b| *b == b'\n').filter_map(line).collect()
}

fn line(text: &[u8]) -> Option<Line<'_>> {
    if text.is_empty() || text.starts_with(b"#") || text.contains(&0) {
        return None;
    }
    let mut colons = text.iter().enumerate().filter(|(_, b)| **b == b':');
    let mut next = || colons.next().map(|(at, _)| at);
    let (first, second, third) = (next()?, next()?, next()?);
    Some(Line {
        text,
        name: text.get(..first)?,
        number: digits(text.get(second + 1..third)?),
    })
}

fn digits(text: &[u8]) -> Option<u32> {
    let number = |number: u32, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    };
    (!text.is_empty()).then_some(())?;
    text.iter().try_fold(0, number)
}

fn field(line: &[u8], index: usize) -> &[u8] {
    line.split(|b| *b == b':').nth(index).unwrap_or_default()
}

/// Without what would end a field or a line.
fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| *c != ':' && !c.is_control())
        .collect()
}

/// The image's user by name or number, with group and home, as docker resolves `USER`.
pub fn image_user(user: &str, passwd: &[u8], group: &[u8]) -> Option<(u32, u32, Option<String>)> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let users = lines(passwd);
    let line = users.iter().find(|line| {
        line.name == user.as_bytes() || line.number.is_some_and(|n| user.parse() == Ok(n))
    });
    let uid = match line {
        Some(line) => line.number?,
        None => user.parse().ok().filter(|uid| *uid != u32::MAX)?,
    };
    let gid = match wanted_group {
        Some(wanted) => {
            let groups = lines(group);
            match groups.iter().find(|line| line.name == wanted.as_bytes()) {
                Some(line) => line.number?,
                None => wanted.parse().ok().filter(|gid| *gid != u32::MAX)?,
            }
        }
        None => line
            .and_then(|line| digits(field(line.text, 3)))
            .unwrap_or(0),
    };
    let home = line
        .map(|line| String::from_utf8_lossy(field(line.text, 5)).into_owned())
        .filter(|home| home.starts_with('/'));
    Some((uid, gid, home))
}

#[cfg(test)]
mod tests {
    use super::super::step::Identity;
    use super::*;

    const IMAGE: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n\
        ds:x:1001:1002::/home/ds:/bin/sh\nbroken line\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n";
    const GROUPS: &[u8] = b"root:x:0:\nstaff:x:50:\nds:x:1002:ds\n";

    fn user(inside_uid: u32, inside_gid: u32) -> User {
        User {
            identity: Identity {
                outside_uid: 1000,
                outside_gid: 1000,
                inside_uid,
                inside_gid,
            },
            groups: vec![1000, 5000, 50, 70000],
            home: "/home/alice".into(),
            shell: "/bin/sh".into(),
        }
    }

    fn alice() -> Account {
        Account {
            name: "alice".into(),
            gecos: "Alice A.".into(),
            home: String::new(),
            groups: vec![(1000, "alice".into()), (5000, "project".into())],
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn first_lines() {
        let unknown = Account::default();
        let hostile = Account {
            name: "eve:x:0:0\nroot2".into(),
            gecos: "a:b\nc".into(),
            home: String::new(),
            groups: vec![],
        };
        for (user, account, line) in [
            (
                user(1000, 1000),
                alice(),
                "alice:x:1000:1000:Alice A.:/home/alice:/bin/sh",
            ),
            (
                user(0, 0),
                alice(),
                "root:x:0:0:Alice A.:/home/alice:/bin/sh",
            ),
            (
                user(1001, 1002),
                alice(),
                "ds:x:1001:1002:Alice A.:/home/alice:/bin/sh",
            ),
            (
                user(7, 7),
                alice(),
                "alice:x:7:7:Alice A.:/home/alice:/bin/sh",
            ),
            (
                user(1000, 1000),
                unknown,
                "u1000:x:1000:1000::/home/alice:/bin/sh",
            ),
            (
                user(1000, 1000),
                hostile,
                "evex00root2:x:1000:1000:abc:/home/alice:/bin/sh",
            ),
        ] {
            let made = text(content(&Content::Passwd(user), IMAGE, &account));
            assert_eq!(made.lines().next(), Some(line));
            assert!(made.contains("sshd:x:101"), "system users stay: {made}");
        }
    }

    #[test]
    fn nobody_has_two_lines() {
        let made = text(content(&Content::Passwd(user(1000, 1000)), IMAGE, &alice()));
        assert!(
            !made.contains("ubuntu") && !made.contains("broken"),
            "{made}"
        );
        assert_eq!(made.lines().count(), 4);
        let made = text(content(&Content::Passwd(user(1000, 1000)), b"", &alice()));
        assert_eq!(made.lines().count(), 1);
    }

    #[test]
    fn groups_of_image_and_user() {
        let made = text(content(&Content::Group(user(1000, 1000)), GROUPS, &alice()));
        // 50 is the image's `staff`; 70000 has no name on the host.
        assert_eq!(
            made,
            "alice:x:1000:\nproject:x:5000:\ng70000:x:70000:\nroot:x:0:\nstaff:x:50:\nds:x:1002:ds\n"
        );
        let made = text(content(&Content::Group(user(0, 0)), b"", &alice()));
        assert!(made.starts_with("root:x:0:\n"), "{made}");
    }

    #[test]
    fn names_in_user_are_the_images() {
        let home = |path: &str| Some(path.to_string());
        for (name, expected) in [
            ("", Some((0, 0, home("/root")))),
            ("ds", Some((1001, 1002, home("/home/ds")))),
            ("ds:staff", Some((1001, 50, home("/home/ds")))),
            ("1001", Some((1001, 1002, home("/home/ds")))),
            ("1234", Some((1234, 0, None))),
            ("1234:77", Some((1234, 77, None))),
            ("nobody-here", None),
            ("ds:nogroup-here", None),
            ("4294967295", None),
        ] {
            assert_eq!(image_user(name, IMAGE, GROUPS), expected, "{name}");
        }
    }
}
