//! The steps of a root in their order, and for each mount what a missing target means.
//!
//! Pure bookkeeping: which target lies in the image (a mount point may have to be added), in a tmpfs of the plan (made
//! there) or in a host directory (never made).

use super::devices;
use super::inside::InsidePath;
use super::mounts::{Placed, What};
use super::request::Dev;
use super::step::{Access, Content, Like, Missing, MountPoint, Step, Target, User};
use crate::record::Libc;

/// Steps in the making, with what lies where.
#[derive(Default)]
pub struct Layout {
    pub steps: Vec<Step>,
    points: Vec<MountPoint>,
    later: Vec<Step>,
    /// What covers the image so far: a target below a tmpfs is made there, one below a bind is the host's.
    covers: Vec<(InsidePath, bool)>,
}

impl Layout {
    /// What a missing target means at this place, and a mount point if the image has to have it.
    fn target(&mut self, at: &InsidePath, like: Like) -> Target {
        let covering = self
            .covers
            .iter()
            .rev()
            .filter(|(above, _)| at.is_within(above));
        // The deepest mount above decides.
        match covering.max_by_key(|(above, _)| above.as_path().components().count()) {
            Some((_, true)) => Target::Make,
            Some((_, false)) => Target::Ready,
            None => {
                self.points.push(MountPoint {
                    at: at.clone(),
                    like,
                });
                Target::Ready
            }
        }
    }

    pub fn system(&mut self, dev: Dev) {
        for (index, mut step) in devices::dev(dev).into_iter().enumerate() {
            if index == 0 {
                let at = InsidePath::fixed("/dev");
                let ready = self.target(&at, Like::Directory);
                if let Step::Bind { target, .. } | Step::Tmpfs { target, .. } = &mut step {
                    *target = ready;
                }
                self.covers.push((at, dev == Dev::Minimal));
            }
            self.later.push(step);
        }
        for path in ["/proc", "/sys"] {
            let at = InsidePath::fixed(path);
            let target = self.target(&at, Like::Directory);
            self.later.push(Step::Bind {
                from: path.into(),
                to: at.clone(),
                access: Access::ReadWrite,
                missing: Missing::Fail,
                target,
            });
            self.covers.push((at, false));
        }
    }

    pub fn place(&mut self, mount: &Placed) {
        let at = mount.at.clone();
        match &mount.what {
            What::Bind {
                from,
                access,
                missing,
            } => {
                let like = match missing {
                    Missing::MakeDirectory => Like::Directory,
                    _ => Like::Source(from.clone()),
                };
                let target = self.target(&at, like);
                self.later.push(Step::Bind {
                    from: from.clone(),
                    to: at.clone(),
                    access: *access,
                    missing: *missing,
                    target,
                });
                self.covers.push((at, false));
            }
            What::Tmpfs { size, mode } => {
                let target = self.target(&at, Like::Directory);
                self.later.push(Step::Tmpfs {
                    at: at.clone(),
                    size: *size,
                    mode: *mode,
                    target,
                });
                self.covers.push((at, true));
            }
        }
    }

    /// Names, users and the clock's zone, unless somebody mounted there.
    pub fn files(&mut self, user: User) {
        let free = |layout: &Layout, at: &InsidePath| {
            !layout.covers.iter().any(|(above, _)| at.is_within(above))
        };
        for (path, needed) in [
            ("/etc/hosts", true),
            ("/etc/resolv.conf", true),
            ("/etc/localtime", false),
        ] {
            let at = InsidePath::fixed(path);
            if free(self, &at) {
                let target = match needed {
                    true => self.target(&at, Like::Source(path.into())),
                    false => Target::IfThere,
                };
                self.later.push(Step::Bind {
                    from: path.into(),
                    to: at,
                    access: Access::ReadOnly,
                    missing: Missing::Skip,
                    target,
                });
            }
        }
        // Last: their content is the image's, and its server has less to do by then.
        for (path, content) in [
            ("/etc/passwd", Content::Passwd(user.clone())),
            ("/etc/group", Content::Group(user)),
        ] {
            let at = InsidePath::fixed(path);
            if free(self, &at) {
                let target = self.target(&at, Like::File);
                self.later.push(Step::File {
                    at,
                    content,
                    target,
                });
            }
        }
    }

    pub fn devices(&mut self, steps: Vec<Step>) {
        let directory = InsidePath::fixed("/run/carrack");
        let uses_directory = steps
            .iter()
            .any(|step| matches!(step, Step::Bind { to, .. } if to.is_within(&directory)));
        if uses_directory {
            self.place(&Placed {
                at: directory,
                what: What::Tmpfs {
                    size: None,
                    mode: 0o755,
                },
            });
        }
        for mut step in steps {
            if let Step::Bind {
                from, to, target, ..
            } = &mut step
            {
                *target = self.target(&to.clone(), Like::Source(from.clone()));
            }
            if let Step::Tmpfs { at, target, .. } = &mut step {
                *target = self.target(&at.clone(), Like::Directory);
                self.covers.push((at.clone(), true));
            }
            self.later.push(step);
        }
    }

    /// Lets the image's loader find these, also in programs that clear their environment.
    pub fn libraries(&mut self, paths: &[InsidePath], libc: Option<&Libc>) {
        let Some(directory) = paths.first().and_then(|path| path.as_path().parent()) else {
            return;
        };
        let kind = libc.map(|libc| libc.kind.as_str());
        let directory = directory.to_path_buf();
        let musl = format!("/etc/ld-musl-{}.path", std::env::consts::ARCH);
        for (path, of, content) in [
            (
                "/etc/ld.so.cache",
                "glibc",
                Content::LoaderCache(paths.to_vec()),
            ),
            (musl.as_str(), "musl", Content::LoaderPath(directory)),
        ] {
            let Ok(at) = InsidePath::new(path) else {
                continue;
            };
            let covered = self.covers.iter().any(|(above, _)| at.is_within(above));
            let target = match kind {
                _ if covered => continue,
                Some(kind) if kind == of => self.target(&at, Like::File),
                Some(_) => continue,
                // An image of another tool: most have glibc, and others do not mind.
                None if of == "glibc" => self.target(&at, Like::File),
                None => Target::IfThere,
            };
            self.later.push(Step::File {
                at,
                content,
                target,
            });
        }
    }

    pub fn finish(mut self) -> Vec<Step> {
        let mut seen: Vec<InsidePath> = Vec::new();
        self.points.retain(|point| {
            let new = !seen.contains(&point.at);
            seen.push(point.at.clone());
            new
        });
        if !self.points.is_empty() {
            self.steps.push(Step::MountPoints(self.points));
        }
        self.steps.extend(self.later);
        self.steps.push(Step::EnterRoot);
        self.steps
    }
}
