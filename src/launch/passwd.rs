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
    let of_image = lines(image).find(|line| number(line, 2) == Some(uid));
    let name = match (&of_image, kept) {
        // Someone else's number: the image's name for it, if it has one.
        (Some(line), false) => String::from_utf8_lossy(field(line, 0)).into_owned(),
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
    for line in lines(image) {
        let ours = number(line, 2) == Some(uid) || field(line, 0) == name.as_bytes();
        if !ours {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
    }
    out
}

fn group(user: &User, image: &[u8], account: &Account) -> Vec<u8> {
    let identity = user.identity;
    let of_image = |gid: u32| lines(image).find(|line| number(line, 2) == Some(gid));
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
        (Some(line), false) => String::from_utf8_lossy(field(line, 0)).into_owned(),
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
            || lines(image).any(|line| field(line, 0) == name.as_bytes());
        if !taken {
            ours.push((*gid, name));
        }
    }
    let mut out = Vec::new();
    for (gid, name) in &ours {
        out.extend_from_slice(format!("{name}:x:{gid}:\n").as_bytes());
    }
    for line in lines(image) {
        let replaced = ours.first().is_some_and(|(gid, name)| {
            number(line, 2) == Some(*gid) || field(line, 0) == name.as_bytes()
        });
        if !replaced {
            out.extend_from_slice(line);
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

/// Well-formed lines of the image's file.
fn lines(image: &[u8]) -> impl Iterator<Item = &[u8]> {
    let image = image
        .get(..MAX_IMAGE_BYTES.min(image.len()))
        .unwrap_or_default();
    image
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty() && !line.starts_with(b"#") && !line.contains(&0))
        .filter(|line| line.iter().filter(|b| **b == b':').count() >= 3)
}

fn field(line: &[u8], index: usize) -> &[u8] {
    line.split(|b| *b == b':').nth(index).unwrap_or_default()
}

fn number(line: &[u8], index: usize) -> Option<u32> {
    std::str::from_utf8(field(line, index)).ok()?.parse().ok()
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
    let line = lines(passwd).find(|line| {
        field(line, 0) == user.as_bytes() || number(line, 2).is_some_and(|n| user.parse() == Ok(n))
    });
    let uid = match line {
        Some(line) => number(line, 2)?,
        None => user.parse().ok().filter(|uid| *uid != u32::MAX)?,
    };
    let gid = match wanted_group {
        Some(wanted) => {
            let line = lines(group).find(|line| field(line, 0) == wanted.as_bytes());
            match line {
                Some(line) => number(line, 2)?,
                None => wanted.parse().ok().filter(|gid| *gid != u32::MAX)?,
            }
        }
        None => line.and_then(|line| number(line, 3)).unwrap_or(0),
    };
    let home = line
        .map(|line| String::from_utf8_lossy(field(line, 5)).into_owned())
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
