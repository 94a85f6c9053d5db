//! The trial calls. Whatever changes a process (namespaces, mounts) is done in one that ends right after, so that nothing is
//! left and this one stays as it was.

use super::explain::{self, Answer, Settings};
use super::{Finding, Level, hardware};
use crate::image::store::space;
use crate::launch::bundle::Injection;
use crate::launch::facts::Vendor;
use crate::launch::probe;
use crate::record::Contents;
use crate::sys::mount::{self, Attributes};
use crate::sys::namespace::{self, Kind};
use crate::sys::{Errno, process, socket};
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// Everything about this node and, if one is known, the store.
pub fn all(store: Option<&Path>) -> Vec<Finding> {
    let settings = settings();
    let mut findings = namespaces(&settings);
    findings.push(explain::yama(&settings));
    findings.push(mounts());
    findings.push(shared_memory());
    findings.push(users());
    findings.extend(store.into_iter().flat_map(self::store));
    findings.push(gpus());
    findings.push(fabrics());
    findings.extend(slurm());
    findings
}

/// GPUs, driver and CDI documents in detail.
pub fn gpu_in_detail(directories: &[String]) -> Vec<Finding> {
    let mut facts = probe::caller();
    facts.gpus = probe::gpus();
    facts.driver = probe::driver();
    facts.cdi = probe::cdi_devices(directories);
    hardware::gpu(&facts, Path::new("/dev/nvidia-uvm").exists())
}

/// What MPI meets on this node, in detail.
pub fn mpi_in_detail() -> Vec<Finding> {
    let facts = probe::caller();
    let injection = Injection {
        callers_path: true,
        ..Injection::default()
    };
    // Any image: only what was found is told.
    let host = probe::host_mpi(&Contents::default(), &injection, &facts);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let shared = rustix::fs::statfs("/dev/shm").ok();
    let size =
        |stat: rustix::fs::StatFs| u64::try_from(stat.f_bsize).ok()?.checked_mul(stat.f_blocks);
    let fabric = hardware::Fabric {
        nodes: probe::fabric_nodes(),
        locked_memory: limit.current,
        shared_memory: shared.and_then(size),
        processors: std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
        mpi_default: match which::which("scontrol") {
            Ok(_) => crate::jobs::queue::mpi_default(),
            Err(_) => None,
        },
    };
    let mut findings = hardware::mpi(&fabric, &host);
    findings.push(explain::yama(&settings()));
    if let Some(text) = ask("srun", &["--mpi=list"]) {
        findings.push(explain::mpi_list(&text));
    }
    findings
}

fn settings() -> Settings {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    Settings {
        max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
        unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        ptrace_scope: number("/proc/sys/kernel/yama/ptrace_scope"),
        nested: std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().next_back() != Some("4294967295")),
        program: std::env::current_exe()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    }
}

/// The calls of a launch in their order; the answers after the first refusal are missing.
fn namespaces(settings: &Settings) -> Vec<Finding> {
    let device = explain::fuse_device(open_fuse().map(drop));
    let answers = in_child(|| trials().join("\n"));
    let Some(answers) = answers else {
        return vec![
            Finding::fail("user-namespace", "cannot start a trial process"),
            device,
        ];
    };
    let answer = |name: &str| -> Option<Answer> {
        let line = answers
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(match line.parse() {
            Ok(0) => Ok(()),
            Ok(errno) => Err(Errno::from_raw_os_error(errno)),
            Err(_) => Err(Errno::INVAL),
        })
    };
    let mut findings = Vec::new();
    findings.extend(answer("userns").map(|a| explain::user_namespace(a, settings)));
    findings.extend(answer("map").map(|a| explain::id_map(a, settings)));
    findings.extend(answer("mount").map(|a| explain::mount(a, settings)));
    findings.push(device);
    findings.extend(answer("fuse").map(explain::fuse_mount));
    findings.extend(answer("overlay").map(explain::overlay));
    findings.extend(answer("network").map(explain::network));
    if settings.nested {
        findings.push(Finding::ok(
            "nested",
            "this process is in a user namespace already; answers are those of the inside",
        ));
    }
    findings
}

fn open_fuse() -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Runs in the trial process: one line for each call with its errno, 0 for success.
fn trials() -> Vec<String> {
    let mut lines = Vec::new();
    let mut note = |name: &str, answer: Answer| {
        let code = answer.err().map_or(0, Errno::raw_os_error);
        lines.push(format!("{name} {code}"));
        code == 0
    };
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if !note("userns", namespace::unshare(&[Kind::User, Kind::Mount])) {
        return lines;
    }
    let mapped = namespace::map_ids((uid, uid), (gid, gid)).map_err(|refused| refused.errno);
    if !note("map", mapped) {
        return lines;
    }
    let stage = || -> Answer {
        mount::receive_only()?;
        let at = rustix::fs::open(
            "/tmp",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        mount::tmpfs(&at, None, 0o755, Attributes::default())?;
        for name in ["lower", "upper", "work", "over", "fuse"] {
            rustix::fs::mkdir(format!("/tmp/{name}"), Mode::RWXU)?;
        }
        Ok(())
    };
    if !note("mount", stage()) {
        return lines;
    }
    if let Ok(device) = open_fuse() {
        note(
            "fuse",
            mount::fuse(&device, "/tmp/fuse", uid, gid, "carrack-doctor"),
        );
    }
    note(
        "overlay",
        mount::overlay(
            "/tmp/over",
            "carrack-doctor",
            &["/tmp/lower"],
            Some(("/tmp/upper", "/tmp/work")),
        ),
    );
    note(
        "network",
        namespace::unshare(&[Kind::Network]).and_then(|()| namespace::loopback_up()),
    );
    lines
}

/// What a function says that runs in a process of its own.
fn in_child(run: impl FnOnce() -> String) -> Option<String> {
    let (ours, theirs) = socket::pair().ok()?;
    process::detach(&[theirs.as_fd()], |fds| {
        let text = run();
        if let Some(fd) = fds.first() {
            let _ = socket::send(fd, text.as_bytes(), &[]);
        }
    })
    .ok()?;
    drop(theirs);
    let (bytes, _) = socket::receive(&ours, 4096).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn mounts() -> Finding {
    match std::fs::read_to_string("/proc/self/mountinfo") {
        Ok(text) => explain::mount_count(text.lines().count()),
        Err(error) => Finding::fail("mounts", "cannot read /proc/self/mountinfo")
            .cause(error.to_string())
            .remedy("carrack needs /proc; a container around this process may hide it"),
    }
}

fn shared_memory() -> Finding {
    let access =
        rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::access("/dev/shm", access) {
        Ok(()) => Finding::ok("shared-memory", "/dev/shm can be used"),
        Err(errno) => Finding::warn(
            "shared-memory",
            format!("/dev/shm cannot be used ({errno})"),
        )
        .cause("MPI ranks of one node, and carrack's tasks, meet there")
        .remedy("mount a tmpfs with mode 1777 on /dev/shm"),
    }
}

fn users() -> Finding {
    let facts = probe::caller();
    let account = probe::account(facts.uid, &facts.groups);
    if account.name.is_empty() {
        return Finding::warn(
            "user-name",
            format!("nobody knows a name for user {}", facts.uid),
        )
        .cause("neither /etc/passwd nor `getent` has it on this node")
        .remedy(format!(
            "programs in images will see `u{}`; check the node's name service",
            facts.uid
        ));
    }
    let unknown = facts.groups.len().saturating_sub(account.groups.len());
    let plural = if facts.groups.len() == 1 { "" } else { "s" };
    let text = format!(
        "user `{}`, {} group{plural}",
        account.name,
        facts.groups.len()
    );
    if unknown > 0 {
        return Finding::warn("user-name", text)
            .cause(format!("{unknown} of the groups have no name here"))
            .remedy("they still give access; check the node's name service");
    }
    Finding::ok("user-name", text)
}

fn store(path: &Path) -> Vec<Finding> {
    let there = path
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"));
    let Ok(stat) = rustix::fs::statfs(there) else {
        return vec![Finding::warn(
            "store",
            format!("cannot look at `{}`", path.display()),
        )];
    };
    let block = u64::try_from(stat.f_bsize).unwrap_or(0);
    let free = stat.f_bavail.checked_mul(block);
    let in_job = std::env::var_os("SLURMD_NODENAME").is_some();
    let magic = stat.f_type;
    let mut findings = vec![explain::store(
        &path.display().to_string(),
        magic,
        free,
        path.is_dir(),
        in_job,
    )];
    findings.extend(explain::quota(
        &path.display().to_string(),
        magic,
        space::quota(there),
    ));
    if explain::file_system(magic) == "Lustre"
        && let Some(text) = ask(
            "lfs",
            &["getstripe", "-d", "-c", &there.display().to_string()],
        )
        && let Ok(count) = text.trim().parse()
    {
        findings.push(explain::striping(count));
    }
    findings
}

fn gpus() -> Finding {
    let gpus = probe::gpus();
    if gpus.is_empty() {
        return Finding::ok("gpu", "no GPUs on this node");
    }
    let open = gpus.iter().filter(|gpu| gpu.allowed).count();
    let text = format!("{} GPUs, {open} may be opened here", gpus.len());
    if gpus.iter().any(|gpu| gpu.vendor == Vendor::Nvidia) {
        let libraries = probe::driver().libraries;
        let has = |name: &str| {
            libraries
                .iter()
                .any(|library| library.soname.contains(name))
        };
        if !has("libcuda.so") {
            return Finding::warn("gpu", text)
                .cause("libcuda.so.1 is not in the host's loader cache")
                .remedy("install NVIDIA's user-space driver and run `ldconfig`");
        }
        return Finding::ok(
            "gpu",
            format!(
                "{text}; {} driver libraries will be injected",
                libraries.len()
            ),
        );
    }
    Finding::ok("gpu", text)
}

fn fabrics() -> Finding {
    let names = |directory: &str, prefix: &str| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix)).count()
    };
    let found: Vec<String> = [
        ("InfiniBand or RoCE", names("/dev/infiniband", "uverbs")),
        ("Slingshot", names("/dev", "cxi")),
        ("Omni-Path", names("/dev", "hfi1_")),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(name, count)| format!("{count} × {name}"))
    .collect();
    match found.is_empty() {
        true => Finding::ok("fabric", "no fast network on this node"),
        false => Finding::ok(
            "fabric",
            format!("{}; visible inside images", found.join(", ")),
        ),
    }
}

fn slurm() -> Vec<Finding> {
    if which::which("srun").is_err() {
        return vec![Finding::ok(
            "slurm",
            "not installed here; images can be started without it",
        )];
    }
    let mut findings = match ask("scontrol", &["show", "config"]) {
        Some(text) => explain::slurm_config(&text),
        None => vec![
            Finding::warn("slurm", "`scontrol show config` does not answer")
                .remedy("check munge and slurm.conf on this node"),
        ],
    };
    if let Some(text) = ask("srun", &["--mpi=list"]) {
        findings.push(explain::mpi_list(&text));
    }
    findings
}

/// What a program of the site prints on both outputs; `None` if it fails or takes too long.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let program = which::which(program).ok()?;
    let (reader, writer) = std::io::pipe().ok()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().ok()?)
        .stderr(writer);
    let mut child = command.spawn().ok()?;
    // Its copies of the pipe must close, or the end is never seen.
    drop(command);
    let text = probe::read_for(&reader, probe::PATIENCE);
    let ended = child.try_wait().ok().flatten();
    if ended.is_none() {
        // The pipe is closed or time is up; give it a moment to end by itself only in the former case.
        let _ = child.kill();
    }
    let status = ended.or_else(|| child.wait().ok())?;
    status
        .success()
        .then(|| String::from_utf8_lossy(&text).into_owned())
}

/// Whether anything would keep an image from starting.
pub fn exit(findings: &[Finding]) -> u8 {
    match explain::worst(findings) {
        Level::Fail => 1,
        _ => 0,
    }
}
