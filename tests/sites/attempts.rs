//! The attempts of the battery, as tables: by options, variables, files, paths, names and jobs.

mod jobs;
mod names;

pub use jobs::{by_jobs, by_projects_and_images};
pub use names::by_names;

/// A safe haven, locked.
pub const HAVEN: &str = r#"
final = ["profile", "launch", "registries", "pull"]
[launch]
profile = "ces"
choose_profile = false
[registries]
allow = ["registry.site"]
[pull]
import_users = ["nobody-at-all"]
[projects]
override = "safe_data"
[profile.ces]
project_data = "$SCENE/safe/{project}:/safe_data:ro"
outputs = "$SCENE/outputs_{job}:/safe_outputs"
scratch = "$SCENE/scratch_{job}:/scratch"
max_time = "01:00:00"
"#;
/// Mounts from one directory only.
pub const PATHS: &str = r#"
final = ["profile.hpc.user_bind_paths"]
[profile.hpc]
user_bind_paths = ["$SCENE/work/allowed"]
home = false
"#;
const DATASETS: &str = r#"
final = ["profile"]
[launch]
profile = "eucaim"
choose_profile = false
[profile.eucaim]
datasets = "$SCENE/data/{dataset}:/home/ds/datasets/{dataset}:ro"
"#;
pub const IMAGES: &str = r#"
final = ["launch.images"]
[launch]
images = ["docker://registry.site/approved/"]
"#;
const STRANGERS: &str = "[access]\nrun_users = [\"nobody-at-all\"]\npull_groups = [\"none\"]\n";
const ELSEWHERE: &str = "[access]\nhosts = [\"login-*\"]\n";
const OFFERED: &str = "final = [\"launch.profiles\"]\n[launch]\nprofiles = [\"eucaim\"]\n";
const GEF: &str = "final = [\"profile\"]\n[launch]\nprofile = \"gef\"\nchoose_profile = false\n";

#[derive(Default)]
pub struct Attempt {
    pub name: &'static str,
    pub site: &'static str,
    /// The user's own settings.
    pub user: &'static str,
    pub variables: &'static [(&'static str, &'static str)],
    pub files: &'static [(&'static str, &'static str)],
    /// The name that the binary is started by, where it is not its own.
    pub called: &'static str,
    pub words: Vec<&'static str>,
    pub says: &'static str,
}

/// `carrack exec` with these options.
fn exec(options: &[&'static str]) -> Vec<&'static str> {
    [&["exec"], options, &["dir:$SCENE/root", "echo", "RAN"]].concat()
}

pub fn by_options() -> Vec<Attempt> {
    let rows: &[(&str, &[&str], &str)] = &[
        ("a mount", &["-v", "/etc:/x"], "profile.ces.user_binds"),
        (
            "a mount, long",
            &["--volume", "/etc:/x"],
            "profile.ces.user_binds",
        ),
        (
            "a mount, singularity's",
            &["-B", "/etc:/x"],
            "profile.ces.user_binds",
        ),
        (
            "a mount, ch-run's",
            &["-b", "/etc:/x"],
            "profile.ces.user_binds",
        ),
        (
            "a mount, shifter's",
            &["-V", "/etc:/x;/usr:/y"],
            "profile.ces.user_binds",
        ),
        (
            "a mount, attached",
            &["-v/etc:/x"],
            "profile.ces.user_binds",
        ),
        (
            "a mount, equals",
            &["--bind=/etc:/x"],
            "profile.ces.user_binds",
        ),
        (
            "a mount, keyed",
            &["--mount", "type=bind,src=/etc,dst=/x"],
            "profile.ces.user_binds",
        ),
        (
            "a tmpfs over the data",
            &["--mount", "type=tmpfs,dst=/safe_data"],
            "profile.ces.user_binds",
        ),
        (
            "a tmpfs, docker's",
            &["--tmpfs", "/safe_data"],
            "profile.ces.user_binds",
        ),
        (
            "the data left out",
            &["--bind", "umount:/safe_data"],
            "profile.ces.user_binds",
        ),
        ("the home", &["--home"], "profile.ces.home"),
        ("another home", &["--home=/etc"], "profile.ces.home"),
        ("the network", &["--network", "host"], "profile.ces.network"),
        (
            "the network, podman's",
            &["--net", "host"],
            "profile.ces.network",
        ),
        (
            "the network, equals",
            &["--network=host"],
            "profile.ces.network",
        ),
        (
            "the network, second word counts",
            &["--network", "none", "--network", "host"],
            "profile.ces.network",
        ),
        (
            "another profile",
            &["--profile", "hpc"],
            "launch.choose_profile",
        ),
        (
            "the open profile",
            &["--profile", "ces-open"],
            "launch.choose_profile",
        ),
        (
            "no such profile",
            &["--profile", "../ces"],
            "launch.choose_profile",
        ),
        ("the host's devices", &["--dev", "full"], "profile.ces.dev"),
        ("a device", &["--device", "/dev/fuse"], "profile.ces.deny"),
        (
            "a CDI device",
            &["--device", "nvidia.com/gpu=all"],
            "profile.ces.deny",
        ),
        ("the host's /tmp", &["--tmp", "host"], "profile.ces.tmp"),
        (
            "the environment",
            &["--no-clean-env"],
            "profile.ces.environment",
        ),
        (
            "a capsule in common",
            &["--name", "both"],
            "profile.ces.deny",
        ),
        ("docker's terminal", &["-it"], "`interactive`"),
        ("a terminal", &["--tty"], "`interactive`"),
        (
            "another's project",
            &["--project", "other"],
            "the project `other` is not yours",
        ),
        (
            "a project that climbs",
            &["--project", "../other"],
            "is no plain name",
        ),
        (
            "a project with a slash",
            &["--project", "a/b"],
            "is no plain name",
        ),
        (
            "a dataset where there are none",
            &["--dataset", "d1"],
            "`datasets`",
        ),
        (
            "an environment file",
            &["--environment", "$SCENE/e.toml"],
            "profile.ces.user_binds",
        ),
        (
            "one below another",
            &["--environment", "$SCENE/f.toml"],
            "profile.ces.user_binds",
        ),
    ];
    rows.iter()
        .map(|(name, options, says)| Attempt {
            name,
            site: HAVEN,
            files: &[
                ("e.toml", "mounts = [\"/etc:/x\"]\n"),
                (
                    "f.toml",
                    "base_environment = \"$SCENE/e.toml\"\nworkdir = \"/\"\n",
                ),
            ],
            words: exec(options),
            says,
            ..Attempt::default()
        })
        .collect()
}

pub fn by_variables() -> Vec<Attempt> {
    let rows: &[(&'static [(&str, &str)], &str)] = &[
        (&[("CARRACK_BIND", "/etc:/x")], "profile.ces.user_binds"),
        (
            &[("CARRACK_MOUNT", "type=bind,src=/etc,dst=/x")],
            "profile.ces.user_binds",
        ),
        (&[("CARRACK_NETWORK", "host")], "profile.ces.network"),
        (&[("CARRACK_PROFILE", "hpc")], "launch.choose_profile"),
        (&[("CARRACK_HOME", "true")], "profile.ces.home"),
        (&[("CARRACK_HOME", "/etc")], "profile.ces.home"),
        (&[("CARRACK_TMP", "host")], "profile.ces.tmp"),
        (&[("CARRACK_DEV", "full")], "profile.ces.dev"),
        (&[("CARRACK_CLEAN_ENV", "false")], "profile.ces.environment"),
        (&[("CARRACK_DEVICE", "/dev/fuse")], "profile.ces.deny"),
        (&[("CARRACK_NAME", "both")], "profile.ces.deny"),
        (&[("CARRACK_INTERACTIVE", "1")], "`interactive`"),
        (
            &[("CARRACK_PROJECT", "other")],
            "the project `other` is not yours",
        ),
        (
            &[("CARRACK_ENVIRONMENT", "$SCENE/e.toml")],
            "profile.ces.user_binds",
        ),
        (
            &[("CARRACK_HANDOVER", "exec\n--bind=/etc:/x")],
            "profile.ces.user_binds",
        ),
        (&[("SLURM_JOB_ID", "../../etc")], "is no plain name"),
        (&[("SLURM_JOB_ID", "1:/safe_data")], "is no plain name"),
        (&[("CARRACK_JOB", "x/../../y")], "is no plain name"),
        (&[("CARRACK_JOB", "{home}")], "is no plain name"),
    ];
    rows.iter()
        .map(|(variables, says)| {
            let handed = variables
                .iter()
                .any(|(name, _)| *name == "CARRACK_HANDOVER");
            let words = exec(&[]);
            Attempt {
                name: variables[0].0,
                site: HAVEN,
                variables,
                files: &[("e.toml", "mounts = [\"/etc:/x\"]\n")],
                // What is handed over stands before the rest.
                words: if handed { words[1..].to_vec() } else { words },
                says,
                ..Attempt::default()
            }
        })
        .collect()
}

pub fn by_files() -> Vec<Attempt> {
    let user: &[(&str, &str, &str)] = &[
        (
            HAVEN,
            "[launch]\nchoose_profile = true\n",
            "`launch` is final",
        ),
        (HAVEN, "[launch]\nprofile = \"hpc\"\n", "`launch` is final"),
        (
            HAVEN,
            "[profile.ces]\nnetwork = \"host\"\n",
            "`profile` is final",
        ),
        (
            HAVEN,
            "[profile.ces]\nlocked = []\ndeny = []\n",
            "`profile` is final",
        ),
        (
            HAVEN,
            "[profile.mine]\nbase = \"ces\"\nnetwork = \"host\"\n",
            "`profile` is final",
        ),
        (HAVEN, "[registries]\nallow = []\n", "`registries` is final"),
        (
            HAVEN,
            "[registries]\nrewrites = { \"registry.site\" = \"evil.site\" }\n",
            "`registries` is final",
        ),
        (HAVEN, "[pull]\nimport_users = []\n", "`pull` is final"),
        (
            HAVEN,
            "[projects]\noverride = \"x\"\n",
            "the site decides on `projects`",
        ),
        (
            PATHS,
            "[profile.hpc]\nuser_bind_paths = []\n",
            "`profile.hpc.user_bind_paths` is final",
        ),
        (
            PATHS,
            "[profile.mine]\nbase = \"hpc\"\nuser_bind_paths = []\n",
            "`profile.hpc.user_bind_paths` is final",
        ),
        (
            IMAGES,
            "[launch]\nimages = []\n",
            "`launch.images` is final",
        ),
        (
            STRANGERS,
            "[access]\nrun_users = []\n",
            "the site decides on `access`",
        ),
    ];
    let mut all: Vec<Attempt> = user
        .iter()
        .map(|(site, user, says)| Attempt {
            name: "the user's own settings",
            site,
            user,
            words: exec(&[]),
            says,
            ..Attempt::default()
        })
        .collect();
    let broken: &[(&str, &str)] = &[
        (
            "final = [\"profile.ces.netwrok\"]\n",
            "prefix/etc/carrack.toml:1",
        ),
        (
            "\n[profile.ces]\nnetwork = \"nnone\"\n",
            "prefix/etc/carrack.toml:3",
        ),
        (
            "\n[profile.ces]\nlocked = [\"netwrok\"]\n",
            "prefix/etc/carrack.toml:3",
        ),
        (
            "[profile.ces]\nscratch = \"{home}:/scratch\"\n",
            "its source needs `{job}`",
        ),
        (
            "[profile.ces]\nbinds = [\"/x/{nobody}\"]\n",
            "is none of: {user}",
        ),
        ("[profil.ces]\n", "prefix/etc/carrack.toml:1"),
        (
            "[trust]\nrequire = \"cosign\"\n",
            "prefix/etc/carrack.toml:2",
        ),
        ("[launch\n", "prefix/etc/carrack.toml:1"),
    ];
    all.extend(broken.iter().map(|(site, says)| Attempt {
        name: "a site file with a mistake",
        site,
        words: exec(&[]),
        says,
        ..Attempt::default()
    }));
    all
}

pub fn by_paths() -> Vec<Attempt> {
    let rows: &[(&str, &[&str], &str)] = &[
        (
            "a mount from elsewhere",
            &["-v", "/etc:/x"],
            "`user_bind_paths`",
        ),
        (
            "a name that begins alike",
            &["-v", "$SCENE/work/allowed2:/x"],
            "`user_bind_paths`",
        ),
        (
            "up and away",
            &["-v", "$SCENE/work/allowed/../..:/x"],
            "`user_bind_paths`",
        ),
        (
            "a link in the allowed directory",
            &["-v", "$SCENE/work/allowed/link:/x"],
            "`user_bind_paths`",
        ),
        (
            "a file behind a link",
            &["-v", "$SCENE/work/allowed/link/passwd:/x"],
            "`user_bind_paths`",
        ),
        (
            "relative, behind a link",
            &["-v", "./allowed/link:/x"],
            "`user_bind_paths`",
        ),
        (
            "made behind a link",
            &["-v", "$SCENE/work/allowed/up/new:/x:x-create=dir"],
            "`user_bind_paths`",
        ),
        ("as the home", &["--home=/etc"], "`user_bind_paths`"),
        ("by the home's variable", &["--home"], "`user_bind_paths`"),
        ("everything", &["-v", "/:/host"], "`user_bind_paths`"),
    ];
    rows.iter()
        .map(|(name, options, says)| Attempt {
            name,
            site: PATHS,
            variables: &[("HOME", "/var")],
            files: &[
                ("work/allowed/link->", "/etc"),
                ("work/allowed/up->", "$SCENE/work"),
                ("work/allowed2/x", ""),
            ],
            words: exec(options),
            says,
            ..Attempt::default()
        })
        .collect()
}
