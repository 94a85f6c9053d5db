//! Who the process is inside. One entry in each id map: no subordinate ids, no helper, files stay the caller's.

use super::facts::HostFacts;
use super::passwd::image_user;
use super::request::IdChoice;
use super::step::Identity;
use crate::error::{Error, Result};
use crate::record::ImageRecord;

/// The identity, and the home directory that the image gives to that user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub identity: Identity,
    pub image_home: Option<String>,
}

/// Whether the image's own user files must be read to resolve a choice.
pub fn needs_image_users(choice: &IdChoice) -> bool {
    matches!(choice, IdChoice::Image | IdChoice::Number { .. })
}

pub fn resolve(choice: &IdChoice, facts: &HostFacts, record: &ImageRecord) -> Result<Resolved> {
    let inside = |inside_uid, inside_gid, image_home| Resolved {
        identity: Identity {
            outside_uid: facts.uid,
            outside_gid: facts.gid,
            inside_uid,
            inside_gid,
        },
        image_home,
    };
    let empty = Default::default();
    let users = facts.image_users.as_ref().unwrap_or(&empty);
    let lookup = |user: &str| image_user(user, &users.passwd, &users.group);
    match choice {
        IdChoice::Keep => Ok(inside(facts.uid, facts.gid, None)),
        IdChoice::Root => Ok(inside(0, 0, Some("/root".into()))),
        IdChoice::Number { uid, gid } => {
            let known = lookup(&uid.to_string());
            let home = known.as_ref().and_then(|(_, _, home)| home.clone());
            // Without a group: the one that the image gives this user, else the same number.
            let of_image = known.filter(|_| home.is_some()).map(|(_, gid, _)| gid);
            Ok(inside(*uid, gid.or(of_image).unwrap_or(*uid), home))
        }
        IdChoice::Image => {
            let user = &record.config.user;
            match lookup(user) {
                Some((0, gid, None)) => Ok(inside(0, gid, Some("/root".into()))),
                Some((uid, gid, home)) => Ok(inside(uid, gid, home)),
                None => Err(
                    Error::new(format!("cannot appear as the image's user `{user}`"))
                        .cause("the image's /etc/passwd or /etc/group does not have it")
                        .hint("give the numbers: `--id UID:GID`"),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::ImageUsers;
    use super::*;

    #[test]
    fn choices() {
        let facts = HostFacts {
            uid: 70_000,
            gid: 80_000,
            image_users: Some(ImageUsers {
                passwd: b"root:x:0:0::/root:/bin/sh\nds:x:1000:1001::/home/ds:/bin/sh\n".to_vec(),
                group: b"ds:x:1001:\nstaff:x:50:\n".to_vec(),
            }),
            ..HostFacts::plain()
        };
        let number = |uid, gid| IdChoice::Number { uid, gid };
        for (choice, user, expected) in [
            (IdChoice::Keep, "ds", "70000:80000 as 70000:80000"),
            (IdChoice::Root, "ds", "70000:80000 as 0:0 /root"),
            (IdChoice::Image, "ds", "70000:80000 as 1000:1001 /home/ds"),
            (
                IdChoice::Image,
                "ds:staff",
                "70000:80000 as 1000:50 /home/ds",
            ),
            (
                IdChoice::Image,
                "1000:50",
                "70000:80000 as 1000:50 /home/ds",
            ),
            (IdChoice::Image, "", "70000:80000 as 0:0 /root"),
            (IdChoice::Image, "5:6", "70000:80000 as 5:6"),
            (number(1000, None), "", "70000:80000 as 1000:1001 /home/ds"),
            (number(1000, Some(7)), "", "70000:80000 as 1000:7 /home/ds"),
            (number(77, None), "", "70000:80000 as 77:77"),
        ] {
            let mut record = ImageRecord::default();
            record.config.user = user.into();
            let resolved = resolve(&choice, &facts, &record).unwrap();
            let home = resolved.image_home.map(|home| format!(" {home}"));
            let shown = format!("{}{}", resolved.identity, home.unwrap_or_default());
            assert_eq!(shown, expected, "{choice:?} {user}");
        }
        let mut record = ImageRecord::default();
        record.config.user = "ghost".into();
        let error = resolve(&IdChoice::Image, &facts, &record).unwrap_err();
        assert!(error.to_string().contains("--id UID:GID"));
    }
}
