//! The environment of the process, in one documented order. Values are bytes and never evaluated.
//!
//! 1. the caller's variables, without those in [`KEPT_BACK`] and [`DROPPED`] (with `--clean-env`: only those in [`PASSED`]);
//! 2. the image's ENV, which wins over the caller's, except over [`PASSED`];
//! 3. what the GPU driver and the site add;
//! 4. the request's rules in the order given: job file, `CARRACK_*` variables, srun options, flags;
//! 5. what the site adds, where its profile locks `env` (shifter's order);
//! 6. what carrack itself decides (`HOME` where it places the home).

use super::facts::HostFacts;
use super::request::{EnvRule, Inherit};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Variables of the host that would break programs of the image, each with the reason. The rules may set them again.
pub const DROPPED: &[(&str, &str)] = &[
    (
        "LOADEDMODULES",
        "says which host modules are loaded; the image's module command would believe it",
    ),
    ("_LMFILES_*", "paths of the host's module files"),
    ("LMOD_*", "state and configuration of the host's Lmod"),
    ("__LMOD*", "state of the host's Lmod"),
    ("_ModuleTable*", "state of the host's Lmod"),
    (
        "MODULEPATH*",
        "the host's module trees; the image has its own or none",
    ),
    (
        "MODULESHOME",
        "where the host's module command is installed",
    ),
    (
        "MODULES_*",
        "configuration of the host's Environment Modules",
    ),
    ("__MODULES_*", "state of the host's Environment Modules"),
    (
        "BASH_ENV",
        "a host file that every shell script would read first",
    ),
    ("ENV", "a host file that every POSIX shell would read first"),
    (
        "BASH_FUNC_*",
        "shell functions of the host, such as `module`",
    ),
    ("PROMPT_COMMAND", "calls host functions at every prompt"),
    ("PYTHONPATH", "host packages built for another Python"),
    ("PYTHONHOME", "the host's Python installation"),
    (
        "PYTHONSTARTUP",
        "a host file that every interactive Python would read",
    ),
    ("PYTHONUSERBASE", "host packages built for another Python"),
    ("CONDA_*", "says that a host environment is active"),
    ("_CE_*", "state of the host's conda"),
    ("PYENV_*", "paths of the host's pyenv"),
    (
        "SSL_CERT_*",
        "certificates that the image has elsewhere or not at all",
    ),
    (
        "*_CA_BUNDLE",
        "certificates that the image has elsewhere or not at all",
    ),
    ("VIRTUAL_ENV*", "says that a host environment is active"),
    ("PERL5LIB", "host modules built for another Perl"),
    ("PERL5OPT", "loads host modules into every Perl"),
    ("R_LIBS*", "host packages built for another R"),
    ("JAVA_HOME", "the host's Java"),
    ("GEM_*", "host packages built for another Ruby"),
    ("NODE_PATH", "host packages"),
    (
        "LD_*",
        "host libraries need the host's loader and C library",
    ),
    ("GCONV_PATH", "plugins of the host's C library"),
    ("LOCPATH", "locales of the host's C library"),
    ("NLSPATH", "message files of the host"),
    (
        "LANG",
        "a locale that the image may lack; programs then warn or fail",
    ),
    ("LANGUAGE", "belongs to LANG"),
    (
        "LC_*",
        "a locale that the image may lack; programs then warn or fail",
    ),
    ("CPATH", "host headers"),
    ("C_INCLUDE_PATH", "host headers"),
    ("CPLUS_INCLUDE_PATH", "host headers"),
    ("LIBRARY_PATH", "host libraries"),
    ("PKG_CONFIG_PATH", "host libraries"),
    ("CMAKE_PREFIX_PATH", "host libraries"),
    ("ACLOCAL_PATH", "host build files"),
    ("MANPATH", "host manuals"),
    ("INFOPATH", "host manuals"),
    ("XDG_DATA_DIRS", "host data"),
    ("XDG_CONFIG_DIRS", "host configuration"),
    (
        "XDG_RUNTIME_DIR",
        "a host directory that is not shown inside",
    ),
    (
        "DBUS_SESSION_BUS_ADDRESS",
        "a host socket that is not shown inside",
    ),
    (
        "EBROOT*",
        "paths of software that EasyBuild installed on the host",
    ),
    ("EBVERSION*", "describes software of the host"),
    (
        "EBDEVEL*",
        "paths of software that EasyBuild installed on the host",
    ),
    ("SPACK_*", "configuration of the host's Spack"),
    ("SHELL", "the host's login shell, which the image may lack"),
    ("PWD", "shells find it out; a stale one misleads"),
    ("OLDPWD", "a directory that may not exist inside"),
    (
        "SINGULARITYENV_*",
        "carries variables for the inside, where they have their own names",
    ),
    (
        "APPTAINERENV_*",
        "carries variables for the inside, where they have their own names",
    ),
    ("CARRACK_HANDOVER", "meant for the launcher only"),
    ("_", "the launcher's own path"),
];

/// Who the launcher is for a registry. The image's programs never get the caller's, by whatever way names are passed on, and
/// so no plan that is printed shows them; a rule may set them to a value that it says itself.
pub const KEPT_BACK: &[&str] = &["CARRACK_USERNAME", "CARRACK_PASSWORD"];

/// What Slurm, process managers and GPU selection decide: always passed, and stronger than the image's ENV.
pub const PASSED: &[&str] = &[
    "SLURM*",
    "SRUN_*",
    "SBATCH_*",
    "SPANK_*",
    "PMI*",
    "PMIX*",
    "OMPI_*",
    "PRTE_*",
    "PALS_*",
    "MPI_LOCAL*",
    "HYDRA_*",
    "HYDI_*",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
    "CUDA_MPS_*",
    "SLINGSHOT_*",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "JOB_COMPLETION_INDEX",
];

/// Passed with `--clean-env` too: without these a terminal is unusable.
const PASSED_IF_CLEAN: &[&str] = &["TERM", "COLORTERM", "TZ"];

/// Docker's default for images that set none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file of `NAME=value` items may hold this much; an environment beyond it could not be passed to a process anyway.
const MAX_FILE_BYTES: usize = 4 << 20;

pub struct Sources<'a> {
    pub facts: &'a HostFacts,
    pub inherit: Inherit,
    /// `NAME=value` as the image's config has them.
    pub image: &'a [String],
    /// What drivers and the site add, applied to what the image left.
    pub additions: &'a [Addition],
    pub rules: &'a [EnvRule],
    /// What the site adds after the rules, where its profile locks `env`.
    pub last: &'a [Addition],
    /// carrack's own decisions.
    pub fixed: &'a [(OsString, OsString)],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addition {
    Set(OsString, OsString),
    Unset(String),
    /// Adds to a list of paths, at its end or start.
    Append(OsString, OsString),
    Prepend(OsString, OsString),
}

/// Merges the sources. The result is sorted by name, so that equal inputs give equal plans.
pub fn merge(sources: &Sources) -> Result<Vec<(OsString, OsString)>> {
    let mut result: BTreeMap<OsString, OsString> = BTreeMap::new();
    for (name, value) in &sources.facts.environment {
        if inherited(name, value, sources.inherit) {
            // Of a name that stands there twice, the first counts, as for the C library.
            result.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    // The caller's search path names the host's directories.
    result.remove(OsStr::new("PATH"));
    for entry in sources.image {
        // A config is hostile: entries without a name or with NUL could not be passed on.
        let Some((name, value)) = entry.split_once('=') else {
            continue;
        };
        if name.is_empty() || entry.contains('\0') {
            continue;
        }
        if !(is_passed(OsStr::new(name)) && result.contains_key(OsStr::new(name))) {
            result.insert(name.into(), value.into());
        }
    }
    result
        .entry("PATH".into())
        .or_insert_with(|| DEFAULT_PATH.into());
    for addition in sources.additions {
        add(&mut result, addition);
    }
    // Singularity's way to name variables for the inside alone.
    for (name, value) in &sources.facts.environment {
        for prefix in ["SINGULARITYENV_", "APPTAINERENV_"] {
            let inner = name.as_bytes().strip_prefix(prefix.as_bytes());
            if let Some(inner) = inner.filter(|inner| !inner.is_empty()) {
                result.insert(OsStr::from_bytes(inner).to_owned(), value.clone());
            }
        }
    }
    for rule in sources.rules {
        apply(&mut result, rule, sources.facts)?;
    }
    for addition in sources.last {
        add(&mut result, addition);
    }
    for (name, value) in sources.fixed {
        result.insert(name.clone(), value.clone());
    }
    Ok(result.into_iter().collect())
}

fn inherited(name: &OsStr, value: &OsStr, inherit: Inherit) -> bool {
    if is_kept_back(name) {
        return false;
    }
    if is_passed(name) {
        return true;
    }
    let matches = |glob: &str| glob_matches(glob.as_bytes(), name.as_bytes());
    match inherit {
        Inherit::Clean => PASSED_IF_CLEAN.iter().any(|glob| matches(glob)),
        Inherit::Pass => {
            // Every C library has these two locales.
            let locale =
                name.as_bytes().starts_with(b"LANG") || name.as_bytes().starts_with(b"LC_");
            let everywhere = matches!(value.as_bytes(), b"C" | b"POSIX" | b"C.UTF-8" | b"C.utf8");
            (locale && everywhere) || !DROPPED.iter().any(|(glob, _)| matches(glob))
        }
    }
}

fn is_kept_back(name: &OsStr) -> bool {
    KEPT_BACK.iter().any(|known| name == *known)
}

fn is_passed(name: &OsStr) -> bool {
    PASSED
        .iter()
        .any(|glob| glob_matches(glob.as_bytes(), name.as_bytes()))
}

fn add(result: &mut BTreeMap<OsString, OsString>, addition: &Addition) {
    let join = |first: &OsStr, second: &OsStr| {
        let mut joined = first.to_owned();
        if !first.is_empty() && !second.is_empty() {
            joined.push(":");
        }
        joined.push(second);
        joined
    };
    match addition {
        Addition::Set(name, value) => {
            result.insert(name.clone(), value.clone());
        }
        Addition::Unset(glob) => unset(result, glob),
        Addition::Append(name, value) => {
            let old = result.remove(name).unwrap_or_default();
            result.insert(name.clone(), join(&old, value));
        }
        Addition::Prepend(name, value) => {
            let old = result.remove(name).unwrap_or_default();
            result.insert(name.clone(), join(value, &old));
        }
    }
}

fn unset(result: &mut BTreeMap<OsString, OsString>, glob: &str) {
    result.retain(|name, _| !glob_matches(glob.as_bytes(), name.as_bytes()));
}

fn apply(
    result: &mut BTreeMap<OsString, OsString>,
    rule: &EnvRule,
    facts: &HostFacts,
) -> Result<()> {
    let callers = |name: &OsStr| {
        let mut known = facts.environment.iter();
        let found = known.find(|(known, _)| known == name && !is_kept_back(name));
        found.map(|(_, value)| value.clone())
    };
    match rule {
        EnvRule::Set(name, value) => {
            result.insert(name.clone(), value.clone());
        }
        EnvRule::Pass(name) => match callers(name) {
            Some(value) => {
                result.insert(name.clone(), value);
            }
            None => {
                result.remove(name);
            }
        },
        EnvRule::Unset(glob) => unset(result, glob),
        EnvRule::File(path) | EnvRule::File0(path) => {
            let zero = matches!(rule, EnvRule::File0(_));
            let wrong = |why: String| {
                Error::usage(format!("cannot read the variables in `{}`", path.display()))
                    .cause(why)
            };
            let Some(bytes) = facts.files.get(path) else {
                return Err(wrong("the file was not read".into()));
            };
            if bytes.len() > MAX_FILE_BYTES {
                return Err(wrong(format!("it has more than {MAX_FILE_BYTES} bytes")));
            }
            for (number, item) in items(bytes, zero) {
                let equals = item.iter().position(|b| *b == b'=');
                let name = item.get(..equals.unwrap_or(item.len())).unwrap_or_default();
                if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) || item.contains(&0)
                {
                    return Err(wrong(format!("line {number} has no valid name before `=`"))
                        .hint("write `NAME=VALUE`; quotes and spaces around the name are not understood"));
                }
                let name = OsString::from_vec(name.to_vec());
                match equals {
                    Some(at) => {
                        let value = item.get(at + 1..).unwrap_or_default();
                        result.insert(name, OsString::from_vec(value.to_vec()));
                    }
                    // docker: a name alone takes the caller's value, if there is one.
                    None => {
                        if let Some(value) = callers(&name) {
                            result.insert(name, value);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Items of a file with their numbers: lines without comments (docker), or all between NUL bytes.
fn items(bytes: &[u8], zero: bool) -> impl Iterator<Item = (usize, &[u8])> {
    let separator = if zero { 0 } else { b'\n' };
    let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) if !zero => rest,
        _ => bytes,
    };
    bytes
        .split(move |b| *b == separator)
        .enumerate()
        .map(move |(index, item)| {
            let item = match zero {
                true => item,
                false => item.strip_suffix(b"\r").unwrap_or(item).trim_ascii_start(),
            };
            (index + 1, item)
        })
        .filter(move |(_, item)| !item.is_empty() && (zero || !item.starts_with(b"#")))
}

/// `*`, `?` and `[…]`, as in the shell; everything else is itself.
#[inline]
pub fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    // Hundreds of variables meet a hundred globs in every launch, and few begin alike.
    match (glob.first(), name.first()) {
        (Some(b'*' | b'?' | b'['), _) => matches_from_the_start(glob, name),
        (one, other) => one == other && matches_from_the_start(glob, name),
    }
}

fn matches_from_the_start(glob: &[u8], name: &[u8]) -> bool {
    // Remembers the last star: linear in practice, never exponential.
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() || g < glob.len() {
        let step = match (glob.get(g), name.get(n)) {
            (Some(b'*'), _) => {
                star = Some((g + 1, n));
                g += 1;
                continue;
            }
            (Some(b'?'), Some(_)) => Some(1),
            (Some(b'['), Some(byte)) => match set(glob.get(g + 1..).unwrap_or_default(), *byte) {
                Some((true, used)) => Some(used + 1),
                Some((false, _)) => None,
                // No closing bracket: an ordinary character.
                None => (*byte == b'[').then_some(1),
            },
            (Some(one), Some(other)) if one == other => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(used), _) => {
                g += used;
                n += 1;
            }
            (None, Some((after, from))) if from < name.len() => {
                star = Some((after, from + 1));
                g = after;
                n = from + 1;
            }
            _ => return false,
        }
    }
    true
}

/// Whether a byte is in the set that starts after `[`, and how many bytes the set takes with its `]`.
fn set(rest: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    // A `]` in first place is a member.
    let close = rest.iter().skip(start + 1).position(|b| *b == b']')? + start + 1;
    let members = rest.get(start..close)?;
    let mut found = false;
    let mut at = 0;
    while let Some(first) = members.get(at) {
        match (members.get(at + 1), members.get(at + 2)) {
            (Some(b'-'), Some(last)) => {
                found |= (*first..=*last).contains(&byte);
                at += 3;
            }
            _ => {
                found |= *first == byte;
                at += 1;
            }
        }
    }
    Some((found != negated, close + 1))
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
