//! The host's user-space GPU driver inside an image: which of its files, in which place, and how they are found.
//!
//! A driver's libraries must be of the version of the kernel's part, so the host's always come before the image's own. They
//! are shown in a directory of the capsule's own under the names that programs look for; nothing is written to the image
//! and no link of the image is followed on the host. AMD's and Intel's user-space parts belong into the image.

use super::devices::Devices;
use super::environment::Addition;
use super::facts::Driver;
use super::inside::InsidePath;
use super::step::{Access, Missing, Step, Target};
use crate::elf::Version;
use crate::record::Contents;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where files of the host's GPU driver appear; in the capsule's own `/run`.
pub const GPU_DIRECTORY: &str = "/run/carrack/gpu";

/// What a part of the driver is for; images say what they need in `NVIDIA_DRIVER_CAPABILITIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Utility,
    Compute,
    Video,
    Graphics,
    Ngx,
}

/// For images that do not say: all but graphics, which drags window systems in.
const USUAL: [Class; 3] = [Class::Utility, Class::Compute, Class::Video];

/// Libraries of NVIDIA's driver, without `.so…`.
const LIBRARIES: &[(Class, &[&str])] = &[
    (
        Class::Utility,
        &["libnvidia-ml", "libnvidia-cfg", "libnvidia-nscq"],
    ),
    (
        Class::Compute,
        &[
            "libcuda",
            "libcudadebugger",
            "libnvidia-opencl",
            "libnvidia-gpucomp",
            "libnvidia-ptxjitcompiler",
            "libnvidia-fatbinaryloader",
            "libnvidia-allocator",
            "libnvidia-compiler",
            "libnvidia-nvvm",
            "libnvidia-nvvm70",
            "libnvidia-pkcs11",
            "libnvidia-pkcs11-openssl3",
            "libnvidia-sandboxutils",
            "libnvidia-tileiras",
        ],
    ),
    (
        Class::Video,
        &[
            "libnvcuvid",
            "libnvidia-encode",
            "libnvidia-opticalflow",
            "libvdpau_nvidia",
        ],
    ),
    (
        Class::Graphics,
        &[
            "libEGL_nvidia",
            "libGLESv1_CM_nvidia",
            "libGLESv2_nvidia",
            "libGLX_nvidia",
            "libnvidia-cbl",
            "libnvidia-egl-gbm",
            "libnvidia-egl-wayland",
            "libnvidia-eglcore",
            "libnvidia-fbc",
            "libnvidia-glcore",
            "libnvidia-glsi",
            "libnvidia-glvkspirv",
            "libnvidia-gtk3",
            "libnvidia-ifr",
            "libnvidia-rtcore",
            "libnvidia-tls",
            "libnvidia-vulkan-producer",
            "libnvidia-wayland-client",
            "libnvoptix",
        ],
    ),
    (Class::Ngx, &["libnvidia-ngx"]),
];

/// Programs that come with it.
pub const PROGRAMS: &[(Class, &str)] = &[
    (Class::Utility, "nvidia-smi"),
    (Class::Utility, "nvidia-debugdump"),
    (Class::Utility, "nvidia-persistenced"),
    (Class::Compute, "nvidia-cuda-mps-control"),
    (Class::Compute, "nvidia-cuda-mps-server"),
];

/// Descriptions that graphics loaders look for, at their own places.
pub const FILES: &[&str] = &[
    "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "/usr/share/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
    "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
    "/usr/share/nvidia/nvoptix.bin",
];

/// What a library of this name is for; `None` when it is not the driver's.
pub fn class(name: &str) -> Option<Class> {
    let (stem, _) = name.split_once(".so")?;
    let has = |(_, names): &&(Class, &[&str])| names.contains(&stem);
    LIBRARIES.iter().find(has).map(|(class, _)| *class)
}

/// The classes that `NVIDIA_DRIVER_CAPABILITIES` asks for.
pub fn classes(words: Option<&str>) -> BTreeSet<Class> {
    let words = words.map(str::trim).filter(|words| !words.is_empty());
    let Some(words) = words else {
        return USUAL.into_iter().collect();
    };
    let mut wanted = BTreeSet::new();
    for word in words.split(',').map(str::trim) {
        match word {
            "utility" => wanted.extend([Class::Utility]),
            "compute" => wanted.extend([Class::Compute]),
            "video" => wanted.extend([Class::Video]),
            "graphics" | "display" => wanted.extend([Class::Graphics]),
            "ngx" => wanted.extend([Class::Ngx]),
            "all" => wanted.extend(LIBRARIES.iter().map(|(class, _)| *class)),
            // 32-bit libraries, and what later toolkits add.
            _ => {}
        }
    }
    wanted
}

/// The version in a library's file name, `libcuda.so.550.54.15`.
pub fn version_of(path: &Path) -> Option<Version> {
    let name = path.file_name()?.to_str()?;
    let version = Version::parse(name.split_once(".so.")?.1)?;
    // `.so.1` is the version of an interface.
    (version.major() >= 100).then_some(version)
}

/// The driver's version: the kernel's part decides; without it, the newest library.
pub fn version(driver: &Driver) -> Option<Version> {
    let libraries = || driver.libraries.iter();
    let of = |stem: &'static str| {
        let named = libraries().filter(move |library| library.soname.starts_with(stem));
        named.filter_map(|library| version_of(&library.path)).max()
    };
    Version::parse(&driver.kernel)
        .or_else(|| of("libcuda.so"))
        .or_else(|| of("libnvidia-ml.so"))
}

/// Shows the driver's files of these classes.
pub fn show(driver: &Driver, wanted: &BTreeSet<Class>, result: &mut Devices) {
    let version = version(driver);
    let mut libraries = Libraries::at(GPU_DIRECTORY);
    let mut other = None;
    for library in &driver.libraries {
        if !class(&library.soname).is_some_and(|class| wanted.contains(&class)) {
            continue;
        }
        match (version_of(&library.path), &version) {
            // Left behind by another release: it would not talk to the kernel's part.
            (Some(own), Some(version)) if own != *version => {
                if library.soname == "libcuda.so.1" {
                    other = Some(own);
                }
                continue;
            }
            _ => {}
        }
        let Some(name) = library.path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        libraries.add(&library.path, name);
        libraries.link(&library.soname, name);
        // Programs that load `libcuda.so` without a number.
        if let Some(stem) = library.soname.strip_suffix(".so.1") {
            libraries.link(&format!("{stem}.so"), &library.soname);
        }
    }
    if let (Some(other), Some(version)) = (other, &version)
        && !libraries.has("libcuda.so.1")
    {
        result.warnings.push(format!(
            "the node's driver is inconsistent: its kernel module is {version}, its libcuda {other}; CUDA programs will fail until the site reboots or updates the node"
        ));
    }
    libraries.place(result);
    for (class, path) in &driver.programs {
        let name = path.file_name().unwrap_or_default();
        if let (true, Ok(to)) = (
            wanted.contains(class),
            InsidePath::new(Path::new(GPU_DIRECTORY).join("bin").join(name)),
        ) {
            result.steps.push(bind(path, to, Access::ReadOnly));
        }
    }
    if result.steps.iter().any(|step| match step {
        Step::Bind { to, .. } => to
            .as_path()
            .starts_with(Path::new(GPU_DIRECTORY).join("bin")),
        _ => false,
    }) {
        let directory = format!("{GPU_DIRECTORY}/bin");
        // Before the image's: a copy that somebody installed there belongs to another driver.
        let addition = Addition::Prepend("PATH".into(), directory.into());
        result.additions.push(addition);
    }
    let files = driver.files.iter();
    let files = files.filter(|_| wanted.contains(&Class::Graphics));
    for (path, access) in files
        .map(|path| (path, Access::ReadOnly))
        .chain(driver.sockets.iter().map(|path| (path, Access::ReadWrite)))
    {
        if let Ok(to) = InsidePath::new(path) {
            result.steps.push(bind(path, to, access));
        }
    }
}

fn bind(from: &Path, to: InsidePath, access: Access) -> Step {
    Step::Bind {
        from: from.to_path_buf(),
        to,
        access,
        missing: Missing::Skip,
        target: Target::Make,
    }
}

/// Lets the image's own compatibility libraries win where they are newer than the host's driver, which is what they are
/// for. (NVIDIA's toolkit has the same rule.)
pub fn compatibility(contents: &Contents, driver: Option<&Version>, result: &mut Devices) {
    let Some(driver) = driver else { return };
    let newest = contents
        .gpu
        .iter()
        .filter(|library| library.name == "cuda-compat" && library.path.contains("/compat/"))
        .filter_map(|library| Some((Version::parse(&library.version)?, &library.path)))
        .filter(|(version, _)| version.major() >= 100)
        .max();
    if let Some((version, path)) = newest
        && version.major() > driver.major()
        && let Some(directory) = Path::new(path).parent()
    {
        let addition = Addition::Prepend("LD_LIBRARY_PATH".into(), directory.into());
        result.additions.push(addition);
    }
}

/// Libraries of the host for a directory of the capsule's own.
#[derive(Clone, Debug)]
pub struct Libraries {
    directory: &'static str,
    files: Vec<(PathBuf, String)>,
    links: Vec<(String, String)>,
}

impl Default for Libraries {
    fn default() -> Self {
        Libraries::at(GPU_DIRECTORY)
    }
}

impl Libraries {
    pub fn at(directory: &'static str) -> Libraries {
        Libraries {
            directory,
            files: Vec::new(),
            links: Vec::new(),
        }
    }

    /// A file under a name; the first one of a name stays.
    pub fn add(&mut self, host: &Path, name: &str) {
        if !name.is_empty() && !self.has(name) {
            self.files.push((host.to_path_buf(), name.to_string()));
        }
    }

    pub fn link(&mut self, name: &str, target: &str) {
        if !name.is_empty() && name != target && !name.contains('/') && !self.has(name) {
            self.links.push((name.to_string(), target.to_string()));
        }
    }

    pub fn has(&self, name: &str) -> bool {
        let file = self.files.iter().any(|(_, known)| known == name);
        file || self.links.iter().any(|(known, _)| known == name)
    }

    /// Shows them, and tells loaders where.
    pub fn place(self, result: &mut Devices) {
        let folder = format!("{}/lib", self.directory);
        let inside = |name: &str| InsidePath::new(Path::new(&folder).join(name)).ok();
        for (host, name) in &self.files {
            if let Some(to) = inside(name) {
                result.steps.push(bind(host, to.clone(), Access::ReadOnly));
                result.libraries.push(to);
            }
        }
        for (name, target) in &self.links {
            if let Some(at) = inside(name) {
                result.libraries.push(at.clone());
                let to = target.into();
                result.steps.push(Step::Link { at, to });
            }
        }
        if !self.files.is_empty() {
            let addition = Addition::Prepend("LD_LIBRARY_PATH".into(), folder.into());
            result.additions.push(addition);
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
pub(super) mod tests;
