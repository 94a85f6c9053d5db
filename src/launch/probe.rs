//! Fills [`HostFacts`]: the only reader of this process's environment, `/dev`, `/sys` and the host's users.
//!
//! Helpers of the host run with an empty environment, from `/`, by absolute path: nothing that an image or a user says
//! reaches them. What every task would look up is kept to what the request needs.

mod cdi;
mod driver;
mod mpi;
#[cfg(feature = "cli")]
mod yaml;

pub use cdi::devices as cdi_devices;
pub use driver::driver;
pub use mpi::{fabric_nodes, host_mpi};

use super::devices;
use super::facts::{GpuNode, HostFacts, ImageUsers, Vendor};
use super::identity;
use super::passwd::Account;
use super::profile::Profile;
use super::request::{EnvRule, Gpu, Request};
use super::step::Image;
use crate::config::Config;
use crate::error::{Error, Result};
use rustix::fs::{Access, AtFlags, CWD};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod project;

pub use project::{group_names, has_ended, look, words};

/// A file of variables may have this much; see `environment.rs`.
const MAX_FILE: u64 = (4 << 20) + 1;
/// User files and CDI specifications beyond this are broken or hostile.
const MAX_DATABASE: u64 = 16 << 20;
/// How long a name service may take before the user goes without a name.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the node as far as a request needs it; `facts` has what [`caller`] says.
pub fn facts(
    mut facts: HostFacts,
    request: &Request,
    profile: &Profile,
    config: &Config,
) -> Result<HostFacts> {
    let gpu = request.gpu.unwrap_or(profile.gpu);
    facts.gpus = gpus();
    facts.refused_parts = refused_parts();
    let nvidia = facts.gpus.iter().any(|gpu| gpu.vendor == Vendor::Nvidia);
    let named = request.devices.iter().any(|name| !name.starts_with('/'));
    if named || (nvidia && gpu != Gpu::None) {
        // Where mounts are the site's, so is the list of directories.
        let open = profile.user_binds && profile.user_bind_paths.is_empty();
        let sites = config
            .fixed
            .iter()
            .any(|key| "launch.cdi_directories".starts_with(key));
        facts.cdi = match open || sites {
            true => cdi_devices(&config.launch.cdi_directories),
            false => cdi_devices(&Config::default().launch.cdi_directories),
        };
    }
    // A document of the site is nearer to the truth than a search.
    if nvidia && gpu != Gpu::None && devices::described(&facts).is_none() {
        facts.driver = driver();
    }
    for rule in &request.environment {
        if let EnvRule::File(path) | EnvRule::File0(path) = rule {
            let bytes = read(path, MAX_FILE)
                .map_err(|error| Error::unread("the variables in", path, error))?;
            facts.files.insert(path.clone(), bytes);
        }
    }
    look(&mut facts, request, profile)?;
    Ok(facts)
}

/// This process.
pub fn caller() -> HostFacts {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let groups = rustix::process::getgroups().unwrap_or_default();
    HostFacts {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.into_iter().map(|gid| gid.as_raw()).collect(),
        environment: std::env::vars_os().collect(),
        cwd: std::env::current_dir().ok(),
        parent: u32::try_from(parent).unwrap_or(0),
        ..HostFacts::default()
    }
}

fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    // Room for most in one call; without any, the first reads are tiny.
    let mut bytes = Vec::with_capacity(8 << 10);
    let file = std::fs::File::open(path)?;
    file.take(limit).read_to_end(&mut bytes)?;
    bytes.shrink_to_fit();
    Ok(bytes)
}

/// GPU nodes. Access is asked for, not tried: opening a GPU may wake its driver for seconds, and the device cgroup answers
/// either way.
pub fn gpus() -> Vec<GpuNode> {
    let names = |directory: &str| -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };
    let number = |name: &str, prefix: &str| name.strip_prefix(prefix)?.parse::<u32>().ok();
    let mut found: Vec<(Vendor, u32, PathBuf)> = Vec::new();
    for name in names("/dev") {
        if let Some(index) = number(&name, "nvidia") {
            found.push((Vendor::Nvidia, index, Path::new("/dev").join(name)));
        }
    }
    for name in names("/dev/dri") {
        let Some(minor) = number(&name, "renderD") else {
            continue;
        };
        let vendor = std::fs::read_to_string(format!("/sys/class/drm/{name}/device/vendor"));
        let vendor = match vendor.unwrap_or_default().trim() {
            "0x1002" => Vendor::Amd,
            "0x8086" => Vendor::Intel,
            _ => continue,
        };
        found.push((vendor, minor, Path::new("/dev/dri").join(name)));
    }
    found.sort();
    let mut counted: BTreeMap<Vendor, u32> = BTreeMap::new();
    found
        .into_iter()
        .map(|(vendor, minor, path)| {
            let place = counted.entry(vendor).or_default();
            let index = if vendor == Vendor::Nvidia {
                minor
            } else {
                *place
            };
            *place += 1;
            let allowed = !is_refused(&path);
            let also = match vendor {
                Vendor::Nvidia => Vec::new(),
                Vendor::Amd | Vendor::Intel => {
                    names(&format!("/sys/class/drm/renderD{minor}/device/drm"))
                        .iter()
                        .filter(|name| name.starts_with("card"))
                        .map(|name| Path::new("/dev/dri").join(name))
                        .collect()
                }
            };
            GpuNode {
                vendor,
                path,
                also,
                index,
                allowed,
            }
        })
        .collect()
}

/// Whether the device cgroup forbids it, whatever the node's mode says.
fn is_refused(path: &Path) -> bool {
    let access = Access::READ_OK | Access::WRITE_OK;
    let answer = rustix::fs::accessat(CWD, path, access, AtFlags::empty());
    answer == Err(rustix::io::Errno::PERM)
}

fn refused_parts() -> Vec<PathBuf> {
    let directories = ["/dev/nvidia-caps", "/dev/nvidia-caps-imex-channels"];
    let entries = directories
        .iter()
        .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten());
    let mut refused: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| is_refused(path))
        .collect();
    refused.sort();
    refused
}

/// Adds the image's own user files, where the request's identity depends on them.
pub fn image_users(
    facts: &mut HostFacts,
    request: &Request,
    profile: &Profile,
    image: &Image,
) -> Result<()> {
    if !identity::needs_image_users(request.id.as_ref().unwrap_or(&profile.id)) {
        return Ok(());
    }
    let file = |path: &str| super::image_file::read(image, path, 1 << 20);
    facts.image_users = Some(ImageUsers {
        passwd: file("/etc/passwd")?,
        group: file("/etc/group")?,
    });
    Ok(())
}

/// What the host knows of the user and the groups; numbers without names are no error.
pub fn account(uid: u32, groups: &[u32]) -> Account {
    let local = |path: &str| read(Path::new(path), MAX_DATABASE).unwrap_or_default();
    // Most answers are in the local files; a name service may be slow, and is asked for the rest at once.
    let mut users = String::from_utf8_lossy(&local("/etc/passwd")).into_owned();
    if find(&users, uid).is_none() {
        users = getent("passwd", &[uid]);
    }
    let mut names = String::from_utf8_lossy(&local("/etc/group")).into_owned();
    let missing: Vec<u32> = groups
        .iter()
        .copied()
        .filter(|gid| find(&names, *gid).is_none())
        .collect();
    if !missing.is_empty() {
        names.push('\n');
        names.push_str(&getent("group", &missing));
    }
    let field =
        |line: &str, index: usize| line.split(':').nth(index).unwrap_or_default().to_string();
    let user = find(&users, uid);
    Account {
        name: user.map(|line| field(line, 0)).unwrap_or_default(),
        gecos: user.map(|line| field(line, 4)).unwrap_or_default(),
        home: user.map(|line| field(line, 5)).unwrap_or_default(),
        groups: groups
            .iter()
            .filter_map(|gid| Some((*gid, field(find(&names, *gid)?, 0))))
            .collect(),
    }
}

/// The line of a user or group database with this number. Looks for the number first: a site's file may be long, and a
/// launch waits for the answer.
fn find(database: &str, number: u32) -> Option<&str> {
    let field = format!(":{number}:");
    let mut from = 0;
    while let Some(found) = database.get(from..)?.find(&field) {
        let at = from + found;
        let start = database.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
        if database.get(start..at)?.matches(':').count() == 1 {
            return database.get(start..)?.lines().next();
        }
        from = at + 1;
    }
    None
}

/// Asks the host's name services. This binary is static and has none of its own.
pub fn getent(database: &str, keys: &[u32]) -> String {
    let keys: Vec<String> = keys.iter().map(u32::to_string).collect();
    ask_getent(database, &keys)
}

/// The number of a user (`passwd`) or group (`group`) by name.
pub fn number_of(database: &str, name: &str) -> Option<u32> {
    // A word that begins like an option would be one.
    if name.is_empty() || name.starts_with('-') {
        return None;
    }
    let answer = ask_getent(database, &[name.to_string()]);
    let line = answer.lines().next()?;
    // Asked for a number, it answers as well; only names are meant here.
    let mut fields = line.split(':');
    let found = fields.next()? == name;
    found.then(|| fields.nth(1)?.parse().ok()).flatten()
}

fn ask_getent(database: &str, keys: &[String]) -> String {
    let Some(program) = ["/usr/bin/getent", "/bin/getent"]
        .iter()
        .find(|path| Path::new(path).exists())
    else {
        return String::new();
    };
    let child = Command::new(program)
        .arg(database)
        .args(keys)
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return String::new();
    };
    let answer = match child.stdout.take() {
        Some(output) => read_for(output, PATIENCE),
        None => Vec::new(),
    };
    // Whether it has answered or hangs: nothing more is wanted from it.
    let _ = child.kill();
    let _ = child.wait();
    String::from_utf8_lossy(&answer).into_owned()
}

/// What a helper writes until it closes its output or time is up.
pub fn read_for(mut from: impl Read + AsFd, patience: Duration) -> Vec<u8> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let end = Instant::now() + patience;
    let mut answer = Vec::new();
    let mut buffer = [0; 16384];
    while (answer.len() as u64) < MAX_DATABASE {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos() as _,
        };
        let mut fds = [PollFd::new(&from, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(1..) => {}
            _ => break,
        }
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
    answer
}

/// Where this is: for messages.
pub fn node_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_user_has_an_account() {
        let facts = caller();
        let account = account(facts.uid, &[facts.gid]);
        // A number that nobody has is no error.
        let nobody = super::account(4_000_000_123, &[4_000_000_123]);
        assert_eq!(nobody, Account::default());
        assert!(account.name.is_empty() || !account.name.contains(':'));
    }

    #[test]
    fn lines_are_found_by_number() {
        let database = "root:x:0:0::/root:/bin/sh\nbroken\na:x:70000:1::/:/\n";
        assert_eq!(find(database, 70_000), Some("a:x:70000:1::/:/"));
        assert_eq!(find(database, 1), None);
        let twice = "a:7:8:7:x\nb:9:9:9:y\nc:x:9:1:z";
        assert_eq!(find(twice, 7), None);
        assert_eq!(find(twice, 9), Some("b:9:9:9:y"));
        assert_eq!(find("c:x:9:", 9), Some("c:x:9:"));
    }
}
