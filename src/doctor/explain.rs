//! What the kernel's and the node's answers mean, and what to do about them. Pure: answers in, findings out.

use super::{Finding, Level};
use crate::sys::Errno;
use crate::sys::quota::Quota;

/// What one trial call said.
pub type Answer = Result<(), Errno>;

/// Settings of the node that explain refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub max_user_namespaces: Option<u64>,
    /// Debian's and old Ubuntu's own switch.
    pub unprivileged_userns_clone: Option<u64>,
    pub apparmor_restricts: Option<u64>,
    pub ptrace_scope: Option<u64>,
    /// `/proc/self/ns/user` is not the initial one, or the root is not the real one.
    pub nested: bool,
    /// The path of this program, for the AppArmor profile.
    pub program: String,
}

/// Making a user namespace.
pub fn user_namespace(answer: Answer, settings: &Settings) -> Finding {
    const SUBJECT: &str = "user-namespace";
    let Err(errno) = answer else {
        return Finding::ok(SUBJECT, "users can make namespaces");
    };
    let finding = Finding::fail(SUBJECT, format!("cannot make a user namespace ({errno})"));
    match errno {
        Errno::NOSPC if settings.max_user_namespaces == Some(0) => finding
            .cause("user.max_user_namespaces is 0")
            .remedy("as root: `sysctl user.max_user_namespaces=16384`, and the same in /etc/sysctl.d"),
        Errno::NOSPC => finding
            .cause("the number of user namespaces is used up")
            .remedy("as root: raise `user.max_user_namespaces`; look for processes that leak namespaces"),
        Errno::USERS => finding
            .cause("namespaces are nested 32 deep")
            .remedy("start from outside the other container"),
        Errno::PERM if settings.unprivileged_userns_clone == Some(0) => finding
            .cause("kernel.unprivileged_userns_clone is 0")
            .remedy("as root: `sysctl kernel.unprivileged_userns_clone=1`, and the same in /etc/sysctl.d"),
        Errno::PERM => finding
            .cause("a seccomp filter forbids it, or this process is in a chroot")
            .remedy("start from outside the other container or chroot"),
        Errno::NOSYS | Errno::INVAL => finding
            .cause("the kernel is built without user namespaces (CONFIG_USER_NS)")
            .remedy("use the distribution's own kernel"),
        _ => finding,
    }
}

/// Writing the id map, the first thing that Ubuntu's restriction refuses.
pub fn id_map(answer: Answer, settings: &Settings) -> Finding {
    const SUBJECT: &str = "id-map";
    match answer {
        Ok(()) => Finding::ok(SUBJECT, "users can map their own id"),
        Err(errno) => restricted(
            Finding::fail(SUBJECT, format!("cannot map the user's id ({errno})")),
            errno,
            settings,
        ),
    }
}

pub fn mount(answer: Answer, settings: &Settings) -> Finding {
    const SUBJECT: &str = "mount";
    match answer {
        Ok(()) => Finding::ok(SUBJECT, "users can mount in their namespace"),
        Err(errno) => restricted(
            Finding::fail(
                SUBJECT,
                format!("cannot mount in a namespace of its own ({errno})"),
            ),
            errno,
            settings,
        ),
    }
}

fn restricted(finding: Finding, errno: Errno, settings: &Settings) -> Finding {
    if matches!(errno, Errno::ACCESS | Errno::PERM) && settings.apparmor_restricts == Some(1) {
        return finding
            .cause("AppArmor keeps programs without a profile from using namespaces (kernel.apparmor_restrict_unprivileged_userns=1)")
            .remedy(format!(
                "as root: install share/apparmor/carrack as /etc/apparmor.d/carrack with the path `{}`, then `apparmor_parser -r` it",
                settings.program
            ));
    }
    match errno {
        Errno::NOSPC => finding
            .cause("fs.mount-max is reached")
            .remedy("as root: raise `fs.mount-max`"),
        Errno::ACCESS | Errno::PERM => finding
            .cause("a security module or a container around this process forbids it")
            .remedy("look for `DENIED` in the kernel's log"),
        _ => finding,
    }
}

/// Opening `/dev/fuse`.
pub fn fuse_device(answer: Answer) -> Finding {
    const SUBJECT: &str = "fuse-device";
    let Err(errno) = answer else {
        return Finding::ok(SUBJECT, "/dev/fuse can be opened");
    };
    let finding = Finding::fail(SUBJECT, format!("cannot open /dev/fuse ({errno})"));
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => finding
            .cause("the kernel module `fuse` is not loaded")
            .remedy("as root: `modprobe fuse`, and `fuse` in /etc/modules-load.d"),
        Errno::ACCESS => finding
            .cause("its mode does not let users in")
            .remedy("as root: `chmod 0666 /dev/fuse`, which is what udev's rules set"),
        Errno::PERM => finding
            .cause("the device cgroup of this process forbids it")
            .remedy("allow `c 10:229 rwm` in the device list of the container or job"),
        _ => finding,
    }
}

pub fn fuse_mount(answer: Answer) -> Finding {
    const SUBJECT: &str = "fuse-mount";
    let Err(errno) = answer else {
        return Finding::ok(
            SUBJECT,
            "users can mount FUSE file systems in their namespace",
        );
    };
    let finding = Finding::fail(
        SUBJECT,
        format!("cannot mount a FUSE file system ({errno})"),
    );
    match errno {
        Errno::INVAL => finding
            .cause("the kernel does not allow FUSE in user namespaces")
            .remedy("Linux 4.18 or RHEL 8 is needed"),
        Errno::PERM | Errno::ACCESS => finding
            .cause("a security module forbids it")
            .remedy("look for `DENIED` in the kernel's log"),
        _ => finding,
    }
}

/// Needed for `--writable`, and for speed: without it a server is asked for more than it has to be.
pub fn overlay(answer: Answer) -> Finding {
    const SUBJECT: &str = "overlay";
    match answer {
        Ok(()) => Finding::ok(SUBJECT, "`--writable` works"),
        Err(errno) => Finding::warn(
            SUBJECT,
            format!("`--writable` does not work ({errno}), and imports of python in many tasks take longer"),
        )
            .cause("the kernel does not allow overlays in user namespaces")
            .remedy("Linux 5.11 or RHEL 9 is needed; `--mount type=tmpfs,dst=DIR` makes single directories writable"),
    }
}

pub fn network(answer: Answer) -> Finding {
    const SUBJECT: &str = "network";
    match answer {
        Ok(()) => Finding::ok(SUBJECT, "`--network none` works"),
        Err(errno) => Finding::warn(SUBJECT, format!("`--network none` does not work ({errno})"))
            .cause("network namespaces are used up or not allowed")
            .remedy("as root: look at `user.max_net_namespaces`"),
    }
}

pub fn mount_count(count: usize) -> Finding {
    const SUBJECT: &str = "mounts";
    let cost = count as f64 * 1.6 / 1000.0;
    if count <= 300 {
        return Finding::ok(SUBJECT, format!("{count} mounts on this node"));
    }
    Finding::warn(SUBJECT, format!("{count} mounts on this node"))
        .cause(format!(
            "each start copies them all, which takes about {cost:.1} ms"
        ))
        .remedy("look for automounts and container engines that leave mounts behind")
}

pub fn yama(settings: &Settings) -> Finding {
    const SUBJECT: &str = "ptrace";
    match settings.ptrace_scope {
        None | Some(0) => Finding::ok(SUBJECT, "ranks of one user can read each other's memory"),
        Some(scope) => Finding::warn(SUBJECT, format!("kernel.yama.ptrace_scope is {scope}"))
            .cause("MPI libraries that do not ask for it cannot copy between ranks directly, with or without images")
            .remedy("as root: `sysctl kernel.yama.ptrace_scope=0` on compute nodes"),
    }
}

/// A file system by the number that `statfs` gives it.
pub fn file_system(magic: i64) -> &'static str {
    match magic & 0xffff_ffff {
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x6969 => "NFS",
        0x1983_0326 => "BeeGFS",
        0x00c3_6400 => "Ceph",
        0xef53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683e => "Btrfs",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "ZFS",
        0x794c_7630 => "overlay",
        0x6573_5546 => "FUSE",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        _ => "unknown file system",
    }
}

/// What the store's place means for launches on many nodes.
pub fn store(path: &str, magic: i64, free: Option<u64>, exists: bool, in_job: bool) -> Finding {
    const SUBJECT: &str = "store";
    let kind = file_system(magic);
    let space = free.map(|bytes| format!(", {} free", crate::config::Size(bytes)));
    let text = format!("`{path}` on {kind}{}", space.unwrap_or_default());
    if free.is_some_and(|bytes| bytes < 2 << 30) {
        return Finding::warn(SUBJECT, text)
            .cause("little space for images")
            .remedy("`carrack gc`, or another place with `CARRACK_STORE`");
    }
    match kind {
        "tmpfs" => Finding::warn(SUBJECT, text)
            .cause("other nodes do not see it, and it is lost at a reboot")
            .remedy("set `CARRACK_STORE` to a directory on the shared file system"),
        _ if !exists && in_job => Finding::warn(SUBJECT, text)
            .cause("it does not exist on this compute node")
            .remedy("set `CARRACK_STORE` to a directory that all nodes see"),
        _ => Finding::ok(SUBJECT, text),
    }
}

/// What the store's quota leaves. Where the kernel does not know, the site's own program does.
pub fn quota(path: &str, magic: i64, quota: Option<Quota>) -> Option<Finding> {
    const SUBJECT: &str = "quota";
    let Some(quota) = quota else {
        let program = match file_system(magic) {
            "Lustre" => format!("lfs quota -h -u $USER {path}"),
            "GPFS" => "mmlsquota".to_string(),
            "NFS" => "quota -s".to_string(),
            _ => return None,
        };
        let text = format!("not known here; `{program}` tells");
        return Some(Finding::ok(SUBJECT, text));
    };
    let size = crate::config::Size;
    let text = format!("{} left of {}", size(quota.left()), size(quota.limit));
    Some(match quota.left() < 2 << 30 {
        true => Finding::warn(SUBJECT, text)
            .cause("little space for images")
            .remedy("`carrack gc`, or another place with `CARRACK_STORE`"),
        false => Finding::ok(SUBJECT, text),
    })
}

/// Lustre's stripe count of the store's directory.
pub fn striping(count: i64) -> Finding {
    const SUBJECT: &str = "striping";
    if count == 1 {
        return Finding::warn(SUBJECT, "new images lie on one storage target")
            .cause("all nodes of a job read the image from it")
            .remedy("set `store.stripe_count` to 8 or -1 in the settings");
    }
    Finding::ok(SUBJECT, format!("stripe count of new images: {count}"))
}

/// What `srun --mpi=list` printed.
pub fn mpi_list(text: &str) -> Finding {
    const SUBJECT: &str = "mpi";
    let known: Vec<&str> = text
        .split_whitespace()
        .filter(|word| {
            ["pmix", "pmi2", "cray_shasta", "none"]
                .iter()
                .any(|kind| word.starts_with(kind))
        })
        .collect();
    let list = known.join(", ");
    if known.iter().any(|word| word.starts_with("pmix")) {
        Finding::ok(SUBJECT, format!("srun offers {list}"))
    } else {
        Finding::warn(
            SUBJECT,
            format!(
                "srun offers {}",
                if list.is_empty() { "nothing" } else { &list }
            ),
        )
        .cause("Open MPI needs pmix to be started by srun on several nodes")
        .remedy("build Slurm with PMIx; inside one node `mpirun` of the image works")
    }
}

/// What `scontrol show config` says about what matters to images.
pub fn slurm_config(text: &str) -> Vec<Finding> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_string())
    };
    let version = value("SLURM_VERSION").unwrap_or_else(|| "of unknown version".into());
    let mut found = vec![Finding::ok("slurm", format!("Slurm {version}"))];
    let tasks = value("TaskPlugin").unwrap_or_default();
    if value("GresTypes").is_some_and(|types| types.contains("gpu")) {
        let limits = value("ConstrainDevices").is_none_or(|word| word == "yes");
        found.push(if tasks.contains("cgroup") && limits {
            Finding::ok("devices", "Slurm limits the devices of a job")
        } else {
            Finding::warn("devices", "Slurm does not limit the devices of a job")
                .cause("TaskPlugin without task/cgroup, or ConstrainDevices=no in cgroup.conf")
                .remedy("set both; until then carrack hides the other jobs' GPUs from programs in images only")
        });
    }
    if let Some(proctrack) = value("ProctrackType")
        && !proctrack.contains("cgroup")
    {
        found.push(
            Finding::warn("proctrack", format!("jobs are tracked by {proctrack}"))
                .cause("processes that leave their session can outlive the job")
                .remedy("set ProctrackType=proctrack/cgroup"),
        );
    }
    if let Some(container) = value("JobContainerType")
        && container.contains("tmpfs")
    {
        found.push(Finding::ok(
            "job-container",
            "each job has its own /tmp and /dev/shm (job_container/tmpfs)",
        ));
    }
    found
}

/// The worst of all.
pub fn worst(findings: &[Finding]) -> Level {
    findings
        .iter()
        .map(|finding| finding.level)
        .max()
        .unwrap_or(Level::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_in_which_namespaces_are_blocked() {
        let plain = Settings::default();
        let none = Settings {
            max_user_namespaces: Some(0),
            ..plain.clone()
        };
        let debian = Settings {
            unprivileged_userns_clone: Some(0),
            ..plain.clone()
        };
        let ubuntu = Settings {
            apparmor_restricts: Some(1),
            program: "/opt/carrack".into(),
            ..plain.clone()
        };
        type Row<'a> = (
            fn(Answer, &Settings) -> Finding,
            Errno,
            &'a Settings,
            &'a str,
        );
        let rows: &[Row] = &[
            (
                user_namespace,
                Errno::NOSPC,
                &none,
                "user.max_user_namespaces is 0",
            ),
            (user_namespace, Errno::NOSPC, &plain, "used up"),
            (user_namespace, Errno::USERS, &plain, "32 deep"),
            (
                user_namespace,
                Errno::PERM,
                &debian,
                "unprivileged_userns_clone is 0",
            ),
            (user_namespace, Errno::PERM, &plain, "seccomp"),
            (user_namespace, Errno::INVAL, &plain, "CONFIG_USER_NS"),
            (
                id_map,
                Errno::ACCESS,
                &ubuntu,
                "with the path `/opt/carrack`",
            ),
            (id_map, Errno::PERM, &plain, "security module"),
            (mount, Errno::ACCESS, &ubuntu, "apparmor_parser -r"),
            (mount, Errno::NOSPC, &plain, "fs.mount-max"),
        ];
        for (explain, errno, settings, part) in rows {
            let finding = explain(Err(*errno), settings);
            assert_eq!(finding.level, Level::Fail);
            assert!(!finding.remedy.is_empty(), "{finding}");
            assert!(finding.to_string().contains(part), "{finding}");
            assert!(!finding.to_string().contains('\n'));
            assert_eq!(explain(Ok(()), settings).level, Level::Ok);
        }
    }

    #[test]
    fn fuse_and_overlay() {
        for (errno, part) in [
            (Errno::NOENT, "modprobe fuse"),
            (Errno::ACCESS, "0666"),
            (Errno::PERM, "device cgroup"),
        ] {
            assert!(fuse_device(Err(errno)).to_string().contains(part));
        }
        assert!(fuse_mount(Err(Errno::INVAL)).to_string().contains("4.18"));
        assert_eq!(overlay(Err(Errno::PERM)).level, Level::Warn);
        assert_eq!(network(Err(Errno::NOSPC)).level, Level::Warn);
    }

    #[test]
    fn the_node_and_the_store() {
        assert_eq!(mount_count(40).level, Level::Ok);
        assert!(mount_count(2000).to_string().contains("3.2 ms"));
        let big = Some(1 << 40);
        for (magic, free, exists, in_job, level, part) in [
            (0x0bd0_0bd0, big, true, true, Level::Ok, "Lustre"),
            (
                0x6969,
                Some(1 << 20),
                true,
                false,
                Level::Warn,
                "carrack gc",
            ),
            (0x0102_1994, big, true, false, Level::Warn, "other nodes"),
            (0xef53, big, false, true, Level::Warn, "compute node"),
            (0xef53, None, false, false, Level::Ok, "ext4"),
            (7, None, true, false, Level::Ok, "unknown"),
        ] {
            let finding = store("/s", magic, free, exists, in_job);
            assert_eq!(finding.level, level, "{finding}");
            assert!(finding.to_string().contains(part), "{finding}");
        }
        assert_eq!(striping(1).level, Level::Warn);
        assert_eq!(striping(-1).level, Level::Ok);
    }

    #[test]
    fn slurm_in_its_own_words() {
        let list = "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\nspecific pmix plugin versions available: pmix_v4\n";
        assert_eq!(mpi_list(list).level, Level::Ok);
        assert_eq!(
            mpi_list("MPI plugin types are...\n\tnone\n\tpmi2\n").level,
            Level::Warn
        );
        let config = "SLURM_VERSION           = 22.05.8\nTaskPlugin              = task/none\nGresTypes               = gpu\n\
            ProctrackType           = proctrack/linuxproc\nJobContainerType        = job_container/tmpfs\n";
        let subjects: Vec<(&str, Level)> = slurm_config(config)
            .iter()
            .map(|f| (f.subject, f.level))
            .collect();
        assert_eq!(
            subjects,
            [
                ("slurm", Level::Ok),
                ("devices", Level::Warn),
                ("proctrack", Level::Warn),
                ("job-container", Level::Ok),
            ]
        );
        let good = "TaskPlugin = task/affinity,task/cgroup\nGresTypes = gpu\nProctrackType = proctrack/cgroup\n";
        assert_eq!(worst(&slurm_config(good)), Level::Ok);
    }
}
