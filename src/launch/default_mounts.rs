//! Which mounts a process gets: the defaults of a profile, then the site's, then the user's, and what a user may not mount.

use super::contract;
use super::facts::HostFacts;
use super::inside::InsidePath;
use super::mounts::{MountSpec, Placed, What, ordered};
use super::profile::Profile;
use super::request::{Home, Request, Tmp};
use super::step::{Access, Missing};
use crate::error::{Error, Result};
use std::path::Path;

/// Directories that belong to the image: a caller who stands in one does not want the host's over it.
const OF_THE_IMAGE: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root",
    "/run", "/sbin", "/sys", "/usr", "/var",
];

/// The home directory's mount, if it is to be shown.
pub fn home(request: &Request, profile: &Profile, facts: &HostFacts) -> Result<Option<Placed>> {
    let Some(at) = facts.directory_variable("HOME") else {
        return Ok(None);
    };
    let (from, missing) = match &request.home {
        Some(Home::Hide) => return Ok(None),
        Some(Home::MountFrom(from)) => {
            let from = facts.absolute(from);
            check_source(&from, "--home", profile, facts)?;
            (facts.real(&from).to_path_buf(), Missing::Fail)
        }
        None if !profile.home => return Ok(None),
        Some(Home::Mount) | None => {
            let own = facts.account_home.as_deref().map(|own| facts.real(own));
            if own != Some(facts.real(&at)) {
                check_source(&at, "$HOME", profile, facts)?;
            }
            (at.clone(), Missing::Skip)
        }
    };
    // A home with `..` or beyond the kernel's limits is no place to mount.
    let Ok(at) = InsidePath::new(&at) else {
        return Ok(None);
    };
    Ok(Some(Placed {
        at,
        what: What::Bind {
            from,
            access: Access::ReadWrite,
            missing,
        },
    }))
}

fn same_place(path: &Path) -> Option<Placed> {
    Some(Placed {
        at: InsidePath::new(path).ok()?,
        what: What::Bind {
            from: path.to_path_buf(),
            access: Access::ReadWrite,
            missing: Missing::Skip,
        },
    })
}

/// All mounts that a person or a site could name, in order.
pub fn mounts(
    request: &Request,
    profile: &Profile,
    facts: &HostFacts,
    home: Option<&Placed>,
) -> Result<Vec<Placed>> {
    let mut all: Vec<Placed> = Vec::new();
    match request.tmp.unwrap_or(profile.tmp) {
        Tmp::Host => {
            all.extend(
                ["/tmp", "/var/tmp"]
                    .iter()
                    .filter_map(|path| same_place(Path::new(path))),
            );
            // A job's own directory for temporary files, where the site has one.
            let own = facts.directory_variable("TMPDIR");
            all.extend(
                own.filter(|path| !shown(&all, facts.real(path)))
                    .filter(|path| check_source(path, "$TMPDIR", profile, facts).is_ok())
                    .and_then(|path| same_place(&path)),
            );
        }
        Tmp::Private => all.extend(["/tmp", "/var/tmp"].map(|path| Placed {
            at: InsidePath::fixed(path),
            what: What::Tmpfs {
                size: None,
                mode: 0o1777,
            },
        })),
    }
    all.extend(home.cloned());
    let scratch = contract::scratch_directory(profile, facts)?;
    let filler = contract::Filler {
        facts,
        dataset: None,
        scratch: scratch.as_deref(),
    };
    for spec in &profile.binds {
        // A site's list fits all its nodes: what one of them lacks is left out there.
        add(&mut all, &filler.mount(spec)?, facts, true)?;
    }
    if profile.cwd
        && let Some(cwd) = facts.cwd.as_ref().filter(|cwd| may_show(cwd, facts))
        && !shown(&all, cwd)
        && may_see(cwd, profile, facts)
    {
        all.extend(same_place(cwd));
    }
    // The server's files of the process manager, at their own path.
    if let Some(path) = facts.directory_variable("PMIX_SERVER_TMPDIR")
        && !shown(&all, &path)
        && (facts.pmix_is_slurms || !profile.is_restricted())
    {
        all.extend(same_place(&path));
    }
    for spec in &request.mounts {
        check_bind(spec, profile, facts)?;
        add(&mut all, &real_source(spec, profile, facts), facts, false)?;
    }
    // What the profile promises is last, so that nothing lies over it.
    all.extend(contract::mounts(request, profile, facts)?);
    Ok(ordered(all))
}

/// Whether the caller's directory may be laid over the image's: not over system directories, and not if that would show a
/// home that is to be hidden.
fn may_show(cwd: &Path, facts: &HostFacts) -> bool {
    let of_image = OF_THE_IMAGE.iter().any(|path| cwd.starts_with(path));
    let holds_home = facts
        .directory_variable("HOME")
        .is_some_and(|home| home.starts_with(cwd));
    cwd.is_absolute() && cwd.parent().is_some() && !of_image && !holds_home
}

/// Whether a host directory is already seen at its own path.
fn shown(mounts: &[Placed], path: &Path) -> bool {
    mounts.iter().any(|mount| match &mount.what {
        What::Bind { from, .. } => from == mount.at.as_path() && path.starts_with(from),
        What::Tmpfs { .. } => false,
    })
}

/// Old names of places that distributions moved: a mount there would be hidden by one at the real place.
fn modern(path: InsidePath) -> InsidePath {
    let moved = |old: &str, new: &str| {
        let rest = path.as_path().strip_prefix(old).ok()?;
        InsidePath::new(Path::new(new).join(rest)).ok()
    };
    moved("/var/run", "/run")
        .or_else(|| moved("/var/lock", "/run/lock"))
        .unwrap_or(path)
}

fn add(all: &mut Vec<Placed>, spec: &MountSpec, facts: &HostFacts, site: bool) -> Result<()> {
    match spec {
        MountSpec::Bind {
            from,
            to,
            access,
            missing,
        } => {
            let from = facts.absolute(from);
            let at = match to {
                Some(to) => to.clone(),
                None => InsidePath::new(&from)?,
            };
            all.push(Placed {
                at: modern(at),
                what: What::Bind {
                    from,
                    access: *access,
                    missing: match missing {
                        Missing::Fail if site => Missing::Skip,
                        other => *other,
                    },
                },
            });
        }
        MountSpec::Tmpfs { at, size, mode } => all.push(Placed {
            at: modern(at.clone()),
            what: What::Tmpfs {
                size: *size,
                mode: *mode,
            },
        }),
        MountSpec::Omit { at } => all.retain(|mount| mount.at != *at),
    }
    Ok(())
}

/// A user's mount: where it may land, and whether the site allows its source.
fn check_bind(spec: &MountSpec, profile: &Profile, facts: &HostFacts) -> Result<()> {
    let from = match spec {
        MountSpec::Bind { from, .. } => Some(facts.absolute(from)),
        _ => None,
    };
    let target = match (spec.target(), &from) {
        (Some(target), _) => target.clone(),
        (None, Some(from)) => InsidePath::new(from)?,
        (None, None) => return Ok(()),
    };
    let over = |path: &str| target.as_path() == Path::new(path);
    if target.is_root() || over("/dev") || over("/sys") || target.as_path().starts_with("/proc") {
        return Err(Error::usage(format!("cannot mount on `{target}`"))
            .cause("a capsule needs what is there")
            .hint("choose another target: `SRC:DST`"));
    }
    let Some(from) = from else { return Ok(()) };
    check_source(&from, "a mount", profile, facts)
}

/// Where the site limits mounts, what was looked at is what is mounted.
fn real_source(spec: &MountSpec, profile: &Profile, facts: &HostFacts) -> MountSpec {
    let mut spec = spec.clone();
    if profile.is_restricted()
        && let MountSpec::Bind { from, to, .. } = &mut spec
    {
        let asked = facts.absolute(from);
        if to.is_none() {
            *to = InsidePath::new(&asked).ok();
        }
        *from = facts.real(&asked).to_path_buf();
    }
    spec
}

/// A directory that a user can steer: below his home or where the site allows mounts.
fn may_see(path: &Path, profile: &Profile, facts: &HostFacts) -> bool {
    let own = facts.account_home.as_deref().map(|own| facts.real(own));
    own.is_some_and(|own| facts.real(path).starts_with(own))
        || check_source(path, "a directory", profile, facts).is_ok()
}

/// Refuses a source outside of what the site lets users mount, wherever its links lead.
fn check_source(from: &Path, what: &str, profile: &Profile, facts: &HostFacts) -> Result<()> {
    if !profile.is_restricted() {
        return Ok(());
    }
    let refused = Error::usage(format!(
        "mounting `{}` is not allowed here ({what})",
        from.display()
    ));
    if !profile.user_binds && profile.user_bind_paths.is_empty() {
        return Err(refused.cause(format!(
            "the profile `{}` allows no mounts of your own (`user_binds`)",
            profile.name
        )));
    }
    let real = facts.real(from);
    let allowed = profile.allowed_paths(facts);
    let plain = InsidePath::new(real).is_ok();
    if plain
        && allowed
            .iter()
            .any(|path| real.starts_with(facts.real(path)))
    {
        return Ok(());
    }
    Err(refused.cause(format!(
        "it leads to `{}`; the site allows mounts from: {} (`user_bind_paths`)",
        real.display(),
        profile.user_bind_paths.join(", ")
    )))
}
