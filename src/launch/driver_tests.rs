use super::*;
use crate::launch::facts::DriverLibrary;
use crate::record::Library;

fn driver(kernel: &str, libraries: &[(&str, &str)]) -> Driver {
    Driver {
        kernel: kernel.into(),
        libraries: libraries
            .iter()
            .map(|(soname, file)| DriverLibrary {
                soname: soname.to_string(),
                path: format!("/usr/lib/{file}").into(),
            })
            .collect(),
        programs: PROGRAMS
            .iter()
            .map(|(class, name)| (*class, format!("/usr/bin/{name}").into()))
            .collect(),
        sockets: vec!["/run/nvidia-persistenced/socket".into()],
        files: vec!["/etc/vulkan/icd.d/nvidia_icd.json".into()],
    }
}

/// One library and one program, for plans as texts.
pub fn small() -> Driver {
    let mut small = driver("550.54.15", &[("libcuda.so.1", "libcuda.so.550.54.15")]);
    small.programs.truncate(1);
    small.sockets.clear();
    small
}

const WHOLE: &[(&str, &str)] = &[
    ("libGLX_nvidia.so.0", "libGLX_nvidia.so.550.54.15"),
    ("libcuda.so.1", "libcuda.so.550.54.15"),
    ("libnvcuvid.so.1", "libnvcuvid.so.550.54.15"),
    (
        "libnvidia-gpucomp.so.550.54.15",
        "libnvidia-gpucomp.so.550.54.15",
    ),
    ("libnvidia-ml.so.1", "libnvidia-ml.so.550.54.15"),
    ("libnvidia-nvvm.so.4", "libnvidia-nvvm.so.550.54.15"),
];

/// Names that a program finds, in order.
fn shown(driver: &Driver, words: Option<&str>) -> (Vec<String>, Devices) {
    let mut result = Devices::default();
    show(driver, &classes(words), &mut result);
    let mut names: Vec<String> = result
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Bind { to, .. } => Some(to.to_string()),
            Step::Link { at, to } => Some(format!("{at} -> {}", to.display())),
            _ => None,
        })
        .map(|name| name.replace(GPU_DIRECTORY, "@"))
        .collect();
    names.sort();
    (names, result)
}

#[test]
fn libraries_by_class_under_all_their_names() {
    let whole = driver("550.54.15", WHOLE);
    let (names, result) = shown(&whole, Some("compute"));
    assert_eq!(
        names,
        [
            "/run/nvidia-persistenced/socket",
            "@/bin/nvidia-cuda-mps-control",
            "@/bin/nvidia-cuda-mps-server",
            "@/lib/libcuda.so -> libcuda.so.1",
            "@/lib/libcuda.so.1 -> libcuda.so.550.54.15",
            "@/lib/libcuda.so.550.54.15",
            "@/lib/libnvidia-gpucomp.so.550.54.15",
            "@/lib/libnvidia-nvvm.so.4 -> libnvidia-nvvm.so.550.54.15",
            "@/lib/libnvidia-nvvm.so.550.54.15",
        ]
    );
    assert_eq!(result.libraries.len(), 6);
    assert_eq!(
        result.additions,
        [
            Addition::Prepend("LD_LIBRARY_PATH".into(), "/run/carrack/gpu/lib".into()),
            Addition::Prepend("PATH".into(), "/run/carrack/gpu/bin".into()),
        ]
    );
    let has = |words, name: &str| shown(&whole, words).0.iter().any(|one| one.contains(name));
    for (words, name, expected) in [
        (None, "libcuda.so.1", true),
        (None, "nvidia-smi", true),
        (None, "libnvcuvid", true),
        (None, "libGLX", false),
        (Some(""), "libcuda.so.1", true),
        (Some("utility"), "libcuda", false),
        (Some("utility"), "nvidia-smi", true),
        (Some("utility"), "nvidia_icd.json", false),
        (Some("compute, video"), "libnvcuvid", true),
        (Some("graphics"), "libGLX_nvidia", true),
        (Some("graphics"), "nvidia_icd.json", true),
        (Some("display"), "libGLX_nvidia", true),
        (Some("all"), "libGLX_nvidia", true),
        (Some("compat32,nonsense"), "libcuda", false),
    ] {
        assert_eq!(has(words, name), expected, "{words:?} {name}");
    }
}

#[test]
fn only_the_release_of_the_kernels_part() {
    let old = ("libcuda.so.1", "old/libcuda.so.535.104.05");
    for (kernel, libraries, file, warned) in [
        ("550.54.15", [WHOLE[1], old], "libcuda.so.550.54.15", false),
        (
            "535.104.05",
            [WHOLE[1], old],
            "libcuda.so.535.104.05",
            false,
        ),
        // The kernel does not tell: the newest.
        ("", [old, WHOLE[1]], "libcuda.so.550.54.15", false),
        ("560.1", [WHOLE[1], old], "", true),
    ] {
        let (names, result) = shown(&driver(kernel, &libraries), Some("compute"));
        let link = names
            .iter()
            .find(|name| name.starts_with("@/lib/libcuda.so.1 -> "));
        let target = link
            .and_then(|link| link.rsplit(' ').next())
            .unwrap_or_default();
        assert_eq!(target, file, "{kernel}");
        assert_eq!(!result.warnings.is_empty(), warned, "{:?}", result.warnings);
    }
}

#[test]
fn compatibility_libraries_win_only_when_newer() {
    let contents = |path: &str, version: &str| Contents {
        gpu: vec![Library {
            name: "cuda-compat".into(),
            version: version.into(),
            path: path.into(),
            ..Library::default()
        }],
        ..Contents::default()
    };
    let compat = "/usr/local/cuda-12.4/compat/libcuda.so.550.54.15";
    for (path, version, host, wins) in [
        (compat, "550.54.15", "535.104", true),
        (compat, "550.54.15", "550.54.14", false),
        (compat, "550.54.15", "560.1", false),
        (
            "/usr/lib/libcuda.so.550.54.15",
            "550.54.15",
            "535.104",
            false,
        ),
        ("/usr/local/cuda/compat/libcuda.so.1", "1", "535.104", false),
    ] {
        let mut result = Devices::default();
        let host = Version::parse(host).unwrap();
        compatibility(&contents(path, version), Some(&host), &mut result);
        let expected: &[Addition] = match wins {
            true => &[Addition::Prepend(
                "LD_LIBRARY_PATH".into(),
                "/usr/local/cuda-12.4/compat".into(),
            )],
            false => &[],
        };
        assert_eq!(result.additions, expected, "{path} {host}");
    }
}
