use super::*;

fn pairs(text: &[&str]) -> Vec<(OsString, OsString)> {
    text.iter()
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.into(), value.into())
        })
        .collect()
}

fn merged(host: &[&str], image: &[&str], rules: &[EnvRule], inherit: Inherit) -> Vec<String> {
    let facts = HostFacts {
        environment: pairs(host),
        files: BTreeMap::from([
            (
                "vars".into(),
                b"# comment\n\n  A=from file\nB\nQ=\"quoted\" $HOME\r\nE=\n".to_vec(),
            ),
            ("vars0".into(), b"A=line\nbreak\0#B=1\0".to_vec()),
            ("broken".into(), b"A=1\nB C=2\n".to_vec()),
        ]),
        ..HostFacts::plain()
    };
    let image: Vec<String> = image.iter().map(|text| text.to_string()).collect();
    let result = merge(&Sources {
        facts: &facts,
        inherit,
        image: &image,
        additions: &[],
        last: &[],
        rules,
        fixed: &[],
    });
    match result {
        Ok(pairs) => pairs
            .iter()
            .filter(|(name, value)| !(name == "PATH" && value == DEFAULT_PATH))
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .collect(),
        Err(error) => vec![format!("error: {}", error.causes().join("; "))],
    }
}

fn pass(host: &[&str], image: &[&str], rules: &[EnvRule]) -> Vec<String> {
    merged(host, image, rules, Inherit::Pass)
}

fn set(name: &str, value: &str) -> EnvRule {
    EnvRule::Set(name.into(), value.into())
}

#[test]
fn order_of_sources() {
    let rules = [
        set("A", "rule"),
        EnvRule::Unset("U*".into()),
        set("UX", "after"),
    ];
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [EnvRule], &'a [&'a str]);
    let rows: &[Row] = &[
        (&["A=host"], &[], &[], &["A=host"]),
        (&["A=host"], &["A=image"], &[], &["A=image"]),
        (&["A=host"], &["A=image"], &rules, &["A=rule", "UX=after"]),
        (&["U1=host"], &["U2=image"], &rules, &["A=rule", "UX=after"]),
        (
            &["A=host"],
            &["A=image"],
            &[EnvRule::Pass("A".into())],
            &["A=host"],
        ),
        (&[], &["A=image"], &[EnvRule::Pass("A".into())], &[]),
        (&["A=1", "A=2"], &[], &[], &["A=1"]),
        (&["PATH=/host"], &[], &[], &[]),
        (&["PATH=/host"], &["PATH=/image"], &[], &["PATH=/image"]),
        (
            &["LD_LIBRARY_PATH=/host"],
            &["LD_LIBRARY_PATH=/image"],
            &[],
            &["LD_LIBRARY_PATH=/image"],
        ),
        (&[], &["LD_PRELOAD=/x.so"], &[], &["LD_PRELOAD=/x.so"]),
        (&[], &["=x", "noequals", "N=a\0b"], &[], &[]),
        (
            &["SINGULARITYENV_A=1", "SINGULARITYENV_=2"],
            &["A=image"],
            &[],
            &["A=1"],
        ),
    ];
    for (host, image, rules, expected) in rows {
        assert_eq!(pass(host, image, rules), *expected, "{host:?} {image:?}");
    }
}

#[test]
fn values_are_never_evaluated() {
    let odd = ["A=$(touch /tmp/x) `id` ${HOME} \\ \" ' \n end", "B==", "C="];
    assert_eq!(pass(&odd, &[], &[]), odd);
    assert_eq!(pass(&[], &odd, &[]), odd);
}

#[test]
fn host_state_stays_outside() {
    for name in [
        "LOADEDMODULES",
        "_LMFILES_",
        "_LMFILES_001",
        "LMOD_CMD",
        "__LMOD_REF_COUNT_PATH",
        "_ModuleTable001_",
        "MODULEPATH",
        "MODULEPATH_ROOT",
        "MODULESHOME",
        "BASH_ENV",
        "ENV",
        "BASH_FUNC_module%%",
        "PYTHONPATH",
        "PYTHONHOME",
        "CONDA_PREFIX",
        "VIRTUAL_ENV",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "EBROOTGCC",
        "SHELL",
        "CARRACK_HANDOVER",
        "LANG",
    ] {
        let host = format!("{name}=x");
        assert_eq!(pass(&[&host], &[], &[]), [""; 0], "{name}");
        // What the image or the user sets is theirs.
        assert_eq!(
            pass(&[&host], &[&format!("{name}=i")], &[]),
            [format!("{name}=i")]
        );
        assert_eq!(pass(&[&host], &[], &[EnvRule::Pass(name.into())]), [host]);
    }
    assert_eq!(
        pass(&["LANG=C.UTF-8", "LC_ALL=de_DE.UTF-8"], &[], &[]),
        ["LANG=C.UTF-8"]
    );
    assert_eq!(
        pass(&["ENVIRONMENT=x", "HOMEDIR=y"], &[], &[]),
        ["ENVIRONMENT=x", "HOMEDIR=y"]
    );
}

#[test]
fn the_callers_name_and_password_stay_outside() {
    for name in ["CARRACK_USERNAME", "CARRACK_PASSWORD"] {
        let host = format!("{name}=hidden");
        let host: &[&str] = &[&host, &format!("B={name}")];
        for inherit in [Inherit::Pass, Inherit::Clean] {
            let shown = merged(host, &[], &[EnvRule::Pass(name.into())], inherit);
            assert!(!shown.concat().contains("hidden"), "{shown:?}");
        }
        // A name alone in a file takes the caller's value.
        let mut facts = HostFacts {
            environment: pairs(host),
            ..HostFacts::plain()
        };
        facts
            .files
            .insert("names".into(), format!("B\n{name}\n").into());
        let mut result = BTreeMap::new();
        apply(&mut result, &EnvRule::File("names".into()), &facts).unwrap();
        assert!(result.contains_key(OsStr::new("B")) && !result.contains_key(OsStr::new(name)));
        // What somebody says here is meant.
        assert_eq!(
            pass(host, &[], &[set(name, "said")]),
            [format!("B={name}"), format!("{name}=said")]
        );
    }
}

#[test]
fn the_allocation_always_passes() {
    for name in [
        "SLURM_JOB_ID",
        "SLURMD_NODENAME",
        "PMI_FD",
        "PMI_RANK",
        "PMIX_RANK",
        "PMIX_SERVER_URI2",
        "OMPI_COMM_WORLD_RANK",
        "CUDA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
        "GPU_DEVICE_ORDINAL",
    ] {
        let host = format!("{name}=host");
        let image = format!("{name}=image");
        for inherit in [Inherit::Pass, Inherit::Clean] {
            assert_eq!(
                merged(&[&host], &[&image], &[], inherit),
                [host.as_str()],
                "{name}"
            );
        }
        assert_eq!(pass(&[], &[&image], &[]), [image]);
        assert_eq!(
            pass(&[&host], &[], &[set(name, "rule")]),
            [format!("{name}=rule")]
        );
    }
}

#[test]
fn clean_takes_only_what_is_needed() {
    let host = ["A=1", "HOME=/h", "SLURM_JOB_ID=7", "TERM=xterm"];
    assert_eq!(
        merged(&host, &["B=2"], &[], Inherit::Clean),
        ["B=2", "SLURM_JOB_ID=7", "TERM=xterm"]
    );
}

#[test]
fn files() {
    let file = |path: &str| EnvRule::File(path.into());
    assert_eq!(
        pass(&["B=host"], &[], &[file("vars")]),
        ["A=from file", "B=host", "E=", "Q=\"quoted\" $HOME"]
    );
    assert_eq!(
        pass(&[], &[], &[EnvRule::File0("vars0".into())]),
        ["#B=1", "A=line\nbreak"]
    );
    assert_eq!(
        pass(&[], &[], &[file("broken")]),
        ["error: line 2 has no valid name before `=`"]
    );
    assert_eq!(
        pass(&[], &[], &[file("absent")]),
        ["error: the file was not read"]
    );
}

#[test]
fn additions_extend_lists() {
    let mut result = BTreeMap::from([("L".into(), "/a".into())]);
    for addition in [
        Addition::Append("L".into(), "/b".into()),
        Addition::Prepend("L".into(), "/0".into()),
        Addition::Append("M".into(), "/m".into()),
        Addition::Set("N".into(), "n".into()),
        Addition::Unset("M?".into()),
    ] {
        add(&mut result, &addition);
    }
    let get = |name: &str| result.get(OsStr::new(name)).unwrap().to_str().unwrap();
    assert_eq!((get("L"), get("M"), get("N")), ("/0:/a:/b", "/m", "n"));
}

#[test]
fn globs() {
    for (glob, name, expected) in [
        ("", "", true),
        ("*", "", true),
        ("*", "A", true),
        ("A*", "AB", true),
        ("A*", "BA", false),
        ("*B*C", "ABxxBC", true),
        ("A?C", "ABC", true),
        ("A?C", "AC", false),
        ("[A-C]x", "Bx", true),
        ("[!A-C]x", "Bx", false),
        ("[^A]x", "Bx", true),
        ("[]]", "]", true),
        ("[A", "[A", true),
        (
            "a*a*a*a*a*a*a*a*b",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            false,
        ),
        ("LD_*", "LD_PRELOAD", true),
        ("A", "AB", false),
    ] {
        assert_eq!(
            glob_matches(glob.as_bytes(), name.as_bytes()),
            expected,
            "{glob} {name}"
        );
    }
}
