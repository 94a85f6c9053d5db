use super::*;
use crate::record::{Libc, Library};

fn image(soname: &str, version: &str, glibc: &str) -> Contents {
    Contents {
        libc: Some(Libc {
            kind: if glibc == "musl" { "musl" } else { "glibc" }.into(),
            version: glibc.into(),
            path: "/lib/libc.so.6".into(),
        }),
        mpi: vec![Library {
            soname: soname.into(),
            version: version.into(),
            path: format!("/usr/lib/{soname}.1.0"),
            ..Library::default()
        }],
        ..Contents::default()
    }
}

fn host(found: &[(&str, &str)]) -> HostMpi {
    let path = |file: &str| PathBuf::from(format!("/opt/lib/{file}"));
    let library = |name: &str, file: &str, glibc: &str| HostLibrary {
        name: name.into(),
        path: path(file),
        glibc: Version::parse(glibc),
    };
    HostMpi {
        found: found
            .iter()
            .map(|(name, file)| (name.to_string(), path(file)))
            .collect(),
        libraries: vec![
            library(found[0].0, found[0].1, "2.17"),
            library("libfabric.so.1", "libfabric.so.1.18", "2.31"),
        ],
        beside: vec![("libfabric".into(), "/opt/lib/libfabric".into())],
        fixed: vec!["/etc/libibverbs.d".into()],
        nodes: vec!["/dev/cxi0".into()],
        missing: vec![],
    }
}

const MPICH: &[(&str, &str)] = &[("libmpi.so.12", "libmpi.so.12.3.1")];

#[test]
fn which_interfaces_fit() {
    let of = |soname: &str, file: &str, version: &str| abi(soname, Path::new(file), version);
    for (image, host, fits) in [
        (
            ("libmpich.so.12", "", ""),
            ("libmpi.so.12", "libmpi.so.12.3.1"),
            true,
        ),
        (
            ("libmpi.so.12", "", "2021.9"),
            ("libmpi_cray.so.12", "libmpi_cray.so.12.0.0"),
            true,
        ),
        (
            ("libmpich.so.10", "", ""),
            ("libmpi.so.12", "libmpi.so.12.3.1"),
            false,
        ),
        (
            ("libmpi.so.40", "", "4.1.4"),
            ("libmpi.so.40", "libmpi.so.40.30.4"),
            true,
        ),
        (
            ("libmpi.so.40", "", "4.0.3"),
            ("libmpi.so.40", "libmpi.so.40.30.4"),
            true,
        ),
        (
            ("libmpi.so.40", "", "4.1.4"),
            ("libmpi.so.40", "libmpi.so.40.40.1"),
            false,
        ),
        (
            ("libmpi.so.40", "libmpi.so.40.40.1", ""),
            ("libmpi.so.40", "libmpi.so.40.30.4"),
            false,
        ),
        (
            ("libmpi.so.40", "", "4.1.4"),
            ("libmpi.so.40", "libmpi.so.40.what"),
            true,
        ),
        (
            ("libmpi.so.20", "", "2.1"),
            ("libmpi.so.40", "libmpi.so.40.10.0"),
            false,
        ),
        (
            ("libmpi.so.40", "", "4.1.4"),
            ("libmpi.so.12", "libmpi.so.12.3.1"),
            false,
        ),
    ] {
        let ours = of(image.0, image.1, image.2).unwrap();
        assert_eq!(
            ours.fits(&of(host.0, host.1, "").unwrap()),
            fits,
            "{image:?} {host:?}"
        );
    }
    for soname in ["libmpi.so.4", "libmpi.so", "libfoo.so.12", "libmpi.so.x"] {
        assert_eq!(of(soname, "", ""), None, "{soname}");
    }
}

#[test]
fn the_hosts_library_takes_the_place_of_the_images() {
    let mut result = Devices::default();
    let contents = image("libmpich.so.12", "4.0.2", "2.36");
    inject(&contents, &host(MPICH), Dev::Minimal, &mut result).unwrap();
    let lines: Vec<String> = result.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "bind /opt/lib/libmpi.so.12.3.1 -> /run/carrack/mpi/lib/libmpi.so.12.3.1 (ro, if there)",
            "bind /opt/lib/libfabric.so.1.18 -> /run/carrack/mpi/lib/libfabric.so.1.18 (ro, if there)",
            "link /run/carrack/mpi/lib/libmpi.so.12 -> libmpi.so.12.3.1",
            "link /run/carrack/mpi/lib/libfabric.so.1 -> libfabric.so.1.18",
            "link /run/carrack/mpi/lib/libmpich.so.12 -> libmpi.so.12",
            "link /run/carrack/mpi/lib/libmpi_cray.so.12 -> libmpi.so.12",
            "bind /opt/lib/libmpi.so.12.3.1 -> /usr/lib/libmpich.so.12.1.0 (ro)",
            "bind /opt/lib/libfabric -> /run/carrack/mpi/lib/libfabric (ro, if there)",
            "bind /etc/libibverbs.d (ro, if there)",
            "bind /dev/cxi0 (rw, if there)",
        ]
    );
    assert_eq!(
        result.additions,
        [
            Addition::Prepend("LD_LIBRARY_PATH".into(), "/run/carrack/mpi/lib".into()),
            Addition::Set(
                "FI_PROVIDER_PATH".into(),
                "/run/carrack/mpi/lib/libfabric".into()
            ),
        ]
    );
    // A /dev of the host has the fabric's nodes.
    let mut full = Devices::default();
    inject(&contents, &host(MPICH), Dev::Full, &mut full).unwrap();
    assert_eq!(full.steps.len(), result.steps.len() - 1);
}

#[test]
fn what_does_not_fit_is_refused_or_left_alone() {
    const OPEN: &[(&str, &str)] = &[("libmpi.so.40", "libmpi.so.40.40.1")];
    for (contents, host, parts) in [
        (
            image("libmpich.so.12", "4.0.2", "2.28"),
            host(MPICH),
            &["libfabric.so.1.18` needs glibc 2.31, the image has 2.28"][..],
        ),
        (
            image("libmpich.so.12", "4.0.2", "musl"),
            host(MPICH),
            &["need glibc, the image has musl"],
        ),
        (
            image("libmpi.so.40", "4.1.4", "2.36"),
            host(OPEN),
            &["the image has Open MPI 4", "is Open MPI 5"],
        ),
        (
            image("libmpich.so.10", "3.0", "2.36"),
            host(MPICH),
            &["the MPICH interface 10", "interface 12"],
        ),
        (
            Contents::default(),
            host(MPICH),
            &["no MPI library that is known", "carrack import"],
        ),
    ] {
        let mut result = Devices::default();
        let error = inject(&contents, &host, Dev::Full, &mut result)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(result, Devices::default());
    }
    let mut torn = host(MPICH);
    torn.missing = vec![("libcxi.so.1".into(), "libfabric.so.1.18".into())];
    let contents = image("libmpich.so.12", "4.0.2", "2.36");
    let error = inject(&contents, &torn, Dev::Full, &mut Devices::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`libfabric.so.1.18` needs `libcxi.so.1`"),
        "{error}"
    );
    // Another family is no misfit: the image's own stays.
    let mut result = Devices::default();
    let contents = image("libmpi.so.40", "4.1.4", "2.36");
    inject(&contents, &host(MPICH), Dev::Full, &mut result).unwrap();
    assert!(result.steps.is_empty() && result.warnings[0].contains("stays its own"));
}

#[test]
fn a_step_without_an_interface_is_told_once_what_its_ranks_will_believe() {
    let step = [
        ("SLURM_JOB_ID", "1"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_NUM_TASKS", "4"),
    ];
    let contents = |speaks: &[&str]| Contents {
        mpi: vec![crate::record::Library {
            name: "openmpi".into(),
            version: "4.1.4".into(),
            speaks: speaks.iter().map(ToString::to_string).collect(),
            ..crate::record::Library::default()
        }],
        ..Contents::default()
    };
    let told = |contents: &Contents, more: &[(&str, &str)]| {
        let all = [&step[..], more].concat();
        let find = |name: &str| {
            let found = all.iter().rev().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        let facts = HostFacts {
            environment: all.iter().map(|(n, v)| (n.into(), v.into())).collect(),
            ..HostFacts::default()
        };
        alone(contents, SlurmStep::read(find).as_ref(), &facts).unwrap_or_default()
    };
    let open = contents(&["pmix"]);
    let text = told(&open, &[]);
    assert!(
        text.contains("4 tasks") && text.contains("openmpi 4.1.4"),
        "{text}"
    );
    assert!(text.contains("`mpi = \"pmix\"`"), "{text}");
    assert!(told(&contents(&["pmi2"]), &[]).contains("--mpi=pmi2"));
    for (contents, more) in [
        (&open, &[("PMIX_NAMESPACE", "x")][..]),
        (&open, &[("PMI_FD", "3")]),
        (&open, &[("SLURM_STEP_NUM_TASKS", "1")]),
        (&open, &[("I_MPI_PMI_LIBRARY", "/lib/libpmi.so")]),
        (
            &open,
            &[
                ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
                ("OMPI_COMM_WORLD_SIZE", "4"),
                ("OMPI_COMM_WORLD_RANK", "0"),
                ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
            ],
        ),
        (&contents(&[]), &[]),
        (&Contents::default(), &[]),
    ] {
        assert_eq!(told(contents, more), "", "{more:?}");
    }
}
