//! The host's MPI in the place of the image's, where both speak the same binary interface.
//!
//! The library that knows the fabric is the host's; the program was linked in the image. They fit when their interface is
//! the same: MPICH and its descendants (Intel MPI, Cray MPICH, MVAPICH) share one since 2014, Open MPI has one per major
//! release. The host's library is shown at the image's own path, so that it is found however the program looks for it; what
//! it needs goes to a directory of the capsule's own. Everything must run with the image's C library, which is checked here.

use super::devices::Devices;
use super::driver::Libraries;
use super::environment::Addition;
use super::facts::HostFacts;
use super::inside::InsidePath;
use super::request::Dev;
use super::step::{Access, Missing, Step, Target};
use crate::elf::Version;
use crate::error::{Error, Result};
use crate::record::Contents;
use carrack_slurm::step::{Launcher, Pmi, Step as SlurmStep};
use std::path::{Path, PathBuf};

/// Where the host's MPI and fabric libraries appear.
const DIRECTORY: &str = "/run/carrack/mpi";

/// Which programs a library can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abi {
    pub family: Family,
    /// The number in its name.
    number: u32,
    /// Open MPI's major release, where known: 4 and 5 have the same number.
    release: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Mpich,
    OpenMpi,
}

/// What the host has, as `probe` found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostMpi {
    /// MPI libraries by the name that was searched and the file; those that fit come with what they need.
    pub found: Vec<(String, PathBuf)>,
    pub libraries: Vec<HostLibrary>,
    /// Directories of plugins that are searched beside the library that uses them: (`ucx`, path).
    pub beside: Vec<(String, PathBuf)>,
    /// Directories that are searched at their own path.
    pub fixed: Vec<PathBuf>,
    /// Device nodes of the fabric and of direct copies.
    pub nodes: Vec<PathBuf>,
    /// Libraries that nobody found, each with who needs it.
    pub missing: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLibrary {
    pub name: String,
    pub path: PathBuf,
    /// The glibc that it needs.
    pub glibc: Option<Version>,
}

/// What a library's name and file say of its interface.
pub fn abi(soname: &str, file: &Path, version: &str) -> Option<Abi> {
    let (stem, number) = soname.split_once(".so.")?;
    let number: u32 = number.split('.').next()?.parse().ok()?;
    let family = match (stem, number) {
        ("libmpich" | "libmpi_cray", _) | ("libmpi", 12..=19) => Family::Mpich,
        ("libmpi", 0 | 1 | 20 | 40) => Family::OpenMpi,
        _ => return None,
    };
    let release = match family {
        Family::Mpich => None,
        Family::OpenMpi => Version::parse(version)
            .map(|version| version.major())
            .or_else(|| open_mpi_release(file)),
    };
    Some(Abi {
        family,
        number,
        release,
    })
}

/// `libmpi.so.40.30.4` is of Open MPI 4.1: the interface counts tens for each minor release.
fn open_mpi_release(file: &Path) -> Option<u32> {
    let name = file.file_name()?.to_str()?;
    let numbers = Version::parse(name.split_once(".so.")?.1)?;
    match (numbers.0.first()?, numbers.0.get(1)?) {
        (40, 0..20) => Some(3),
        (40, 20..40) => Some(4),
        (40, 40..60) => Some(5),
        _ => None,
    }
}

impl Abi {
    pub fn fits(&self, host: &Abi) -> bool {
        let releases = match (self.release, host.release) {
            (Some(image), Some(host)) => image == host,
            _ => true,
        };
        self.family == host.family && self.number == host.number && releases
    }

    fn shown(&self) -> String {
        match (self.family, self.release) {
            (Family::Mpich, _) => format!("the MPICH interface {}", self.number),
            (Family::OpenMpi, Some(release)) => format!("Open MPI {release}"),
            (Family::OpenMpi, None) => format!("Open MPI's interface {}", self.number),
        }
    }
}

/// Names under which a library of one family is asked for, and its companions for C++ and Fortran.
pub const ALIASES: &[&[&str]] = &[
    &["libmpi.so.12", "libmpich.so.12", "libmpi_cray.so.12"],
    &["libmpifort.so.12", "libmpichfort.so.12", "libfmpich.so.12"],
    &["libmpicxx.so.12", "libmpichcxx.so.12"],
];

/// Puts the host's MPI in, or says why not.
pub fn inject(contents: &Contents, host: &HostMpi, dev: Dev, result: &mut Devices) -> Result<()> {
    let cannot = || Error::new("cannot put the host's MPI into the image");
    let images: Vec<(&str, &str, Abi)> = contents
        .mpi
        .iter()
        .filter_map(|mpi| {
            let abi = abi(&mpi.soname, Path::new(&mpi.path), &mpi.version)?;
            Some((mpi.path.as_str(), mpi.soname.as_str(), abi))
        })
        .collect();
    let Some((_, _, wanted)) = images.first() else {
        return Err(cannot()
            .cause("the image has no MPI library that is known")
            .hint("leave `mpi_inject` out; an image that is a bare directory is known after `carrack import`"));
    };
    let hosts: Vec<(&str, &Path, Abi)> = host
        .found
        .iter()
        .filter_map(|(name, path)| Some((name.as_str(), path.as_path(), abi(name, path, "")?)))
        .collect();
    let same_family = |(_, _, abi): &&(&str, &Path, Abi)| abi.family == wanted.family;
    let Some((_, path, _)) = hosts.iter().find(|(_, _, abi)| wanted.fits(abi)) else {
        return match hosts.iter().find(same_family) {
            Some((_, path, abi)) => Err(cannot()
                .cause(format!(
                    "the image has {}, the host's `{}` is {}",
                    wanted.shown(),
                    path.display(),
                    abi.shown()
                ))
                .hint("load another MPI module, or build the image with the host's major release")),
            // Nothing that it could be mistaken for: the image's own does its work.
            None => {
                let text = format!(
                    "the image's MPI stays its own: it has {}, and the host has no such library",
                    wanted.shown()
                );
                result.warnings.push(text);
                Ok(())
            }
        };
    };
    check_c_library(contents, host)
        .map_err(|error| error.while_doing("cannot put the host's MPI into the image"))?;
    if let Some((library, user)) = host.missing.first() {
        return Err(cannot()
            .cause(format!(
                "`{user}` needs `{library}`, which was not found on the host"
            ))
            .hint(
                "load the module that brings it, or name its directory in the bundle's `libraries`",
            ));
    }
    let mut libraries = Libraries::at(DIRECTORY);
    for library in &host.libraries {
        let file = library
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or(&library.name);
        libraries.add(&library.path, file);
        libraries.link(&library.name, file);
    }
    for names in ALIASES {
        if let Some(known) = names.iter().find(|name| libraries.has(name)) {
            names.iter().for_each(|name| libraries.link(name, known));
        }
    }
    libraries.place(result);
    for (at, _, _) in images.iter().filter(|(_, _, abi)| abi.fits(wanted)) {
        result
            .steps
            .push(bind(path, InsidePath::new(at)?, Missing::Fail));
    }
    for (name, path) in &host.beside {
        let to = InsidePath::new(format!("{DIRECTORY}/lib/{name}"))?;
        result.steps.push(bind(path, to, Missing::Skip));
        if name == "libfabric" {
            let value = format!("{DIRECTORY}/lib/libfabric");
            result
                .additions
                .push(Addition::Set("FI_PROVIDER_PATH".into(), value.into()));
        }
    }
    for path in &host.fixed {
        result
            .steps
            .push(bind(path, InsidePath::new(path)?, Missing::Skip));
    }
    if dev == Dev::Minimal {
        for path in &host.nodes {
            result.steps.push(Step::Bind {
                from: path.clone(),
                to: InsidePath::new(path)?,
                access: Access::ReadWrite,
                missing: Missing::Skip,
                target: Target::Make,
            });
        }
    }
    Ok(())
}

/// A step of several tasks without an interface between them: what each rank will believe, and what to write.
pub fn alone(contents: &Contents, slurm: Option<&SlurmStep>, facts: &HostFacts) -> Option<String> {
    let step = slurm?;
    // Slurm's first interface has no variables of its own; Intel MPI is told of the library, others are linked with it.
    let first = facts.variable("I_MPI_PMI_LIBRARY").is_some()
        || contents.pmi.iter().any(|pmi| pmi.name == "pmi1");
    if step.launcher != Launcher::Srun || step.tasks < 2 || step.pmi != Pmi::None || first {
        return None;
    }
    let mpi = contents.mpi.iter().find(|mpi| !mpi.speaks.is_empty())?;
    let word = ["pmix", "pmi2"]
        .into_iter()
        .find(|word| mpi.speaks.iter().any(|known| known == word))?;
    let name = format!("{} {}", mpi.name, mpi.version);
    Some(format!(
        "srun offers its {} tasks no interface for MPI, each rank of {} in the image would run alone: \
         `mpi = \"{word}\"` (`--mpi={word}`) starts them together; without MPI, `--quiet` keeps this line away",
        step.tasks,
        name.trim()
    ))
}

/// Every library of the host runs with the image's C library.
fn check_c_library(contents: &Contents, host: &HostMpi) -> Result<()> {
    let libc = contents.libc.as_ref();
    let version = libc.filter(|libc| libc.kind == "glibc");
    let Some(has) = version.and_then(|libc| Version::parse(&libc.version)) else {
        let kind = libc.map_or("none that is known", |libc| libc.kind.as_str());
        return Err(Error::new(format!(
            "the host's libraries need glibc, the image has {kind}"
        ))
        .hint("leave `mpi_inject` out, or use an image of a distribution with glibc"));
    };
    let newest = host
        .libraries
        .iter()
        .max_by_key(|library| library.glibc.clone());
    match newest.and_then(|library| Some((library, library.glibc.as_ref()?))) {
        Some((library, needs)) if *needs > has => Err(Error::new(format!(
            "the host's `{}` needs glibc {needs}, the image has {has}",
            library.path.display()
        ))
        .hint(format!(
            "use an image with glibc {needs} or newer, or leave `mpi_inject` out: the image's own MPI works without the host's"
        ))),
        _ => Ok(()),
    }
}

fn bind(from: &Path, to: InsidePath, missing: Missing) -> Step {
    Step::Bind {
        from: from.to_path_buf(),
        to,
        access: Access::ReadOnly,
        missing,
        target: Target::Ready,
    }
}

#[cfg(test)]
#[path = "mpi_tests.rs"]
mod tests;
