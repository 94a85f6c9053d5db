use super::*;
use crate::config::Config;

fn labels(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    let row = |(key, value): &(&str, &str)| (format!("{PREFIX}{key}"), value.to_string());
    rows.iter().map(row).collect()
}

const CLONE: &[(&str, &str)] = &[
    ("name", "Test Clone"),
    ("version", "0.1"),
    ("input.1.name", "source"),
    ("input.1.path", "/root/input"),
    ("input.1.type", "url"),
    ("output.1.name", "copy"),
    ("output.1.path", "/root/output"),
];

fn shown(rows: &[(&str, &str)]) -> String {
    let Some(service) = Service::read(&labels(rows)) else {
        return "none".into();
    };
    let port = |port: &Port| {
        let file = match port.file_name.as_str() {
            "" => String::new(),
            name => format!("/{name}"),
        };
        format!("{}={}{file}:{}", port.id, port.path, port.kind)
    };
    let ports = service.inputs.iter().chain(&service.outputs).map(port);
    let mut words: Vec<String> = ports.collect();
    words.push(format!("ignored {}", service.ignored.len()));
    words.join(" ")
}

#[test]
fn labels_by_gefs_rules() {
    for (rows, expected) in [
        (
            CLONE,
            "input0=/root/input:url output0=/root/output: ignored 0",
        ),
        (&[], "none"),
        // Gaps are closed in ascending order of numbers, not of texts.
        (
            &[
                ("input.10.path", "/j"),
                ("input.2.path", "/b"),
                ("input.255.path", "/z"),
            ],
            "input0=/b: input1=/j: input2=/z: ignored 0",
        ),
        // No unsigned number of eight bits.
        (
            &[
                ("input.256.path", "/a"),
                ("input.-1.path", "/a"),
                ("input.x.path", "/a"),
                ("input.+1.path", "/a"),
            ],
            "ignored 4",
        ),
        // Dropped without a path.
        (
            &[("input.1.name", "a"), ("output.1.name", "b")],
            "ignored 0",
        ),
        (
            &[
                ("input.1.path", "/a"),
                ("input.1.type", "String"),
                ("input.1.filename", "f"),
            ],
            "input0=/a/f:String ignored 0",
        ),
        (
            &[
                ("license", "x"),
                ("input.1.size", "x"),
                ("output.1.type", "url"),
                ("input.path", "x"),
                ("throughput.1.path", "x"),
            ],
            "ignored 5",
        ),
    ] {
        assert_eq!(shown(rows), expected, "{rows:?}");
    }
    let foreign = [("maintainer".to_string(), "x".to_string())];
    assert_eq!(Service::read(&foreign.into_iter().collect()), None);
}

fn placed(profile: &str, inputs: &[&str], outputs: &[&str], rows: &[(&str, &str)]) -> String {
    let parse = |words: &[&str]| words.iter().map(|word| parse(word).unwrap()).collect();
    let request = Request {
        inputs: parse(inputs),
        outputs: parse(outputs),
        ..Request::default()
    };
    let profile = Profile::named(&Config::default(), profile).unwrap();
    match mounts(&request, &profile, &HostFacts::in_a_job(), &labels(rows)) {
        Ok(mounts) => {
            let one = |mount: &Placed| match &mount.what {
                What::Bind { from, access, .. } => {
                    format!("{}:{}:{access:?}", from.display(), mount.at)
                }
                _ => String::new(),
            };
            mounts.iter().map(one).collect::<Vec<_>>().join(" ")
        }
        Err(error) => error.what().to_string(),
    }
}

#[test]
fn ports_become_mounts() {
    let outputs = "/home/alice/outputs_17/copy:/root/output:ReadWrite";
    for (inputs, own, expected) in [
        (
            &["0=file:/data/set/"][..],
            &[][..],
            format!("/data/set/:/root/input:ReadOnly {outputs}"),
        ),
        (
            &["input0=file:/data/f.nc"],
            &[],
            format!("/data/f.nc:/root/input/f.nc:ReadOnly {outputs}"),
        ),
        (
            &["source=file:/d/"],
            &["copy=/out"],
            "/d/:/root/input:ReadOnly /out:/root/output:ReadWrite".into(),
        ),
        (&[], &[], "Input source number mismatch".into()),
        (
            &["0=file:/a/", "0=file:/b/"],
            &[],
            "`input0` was given twice".into(),
        ),
        (&["7=file:/a/"], &[], "the image has no input `7`".into()),
        (
            &["0=file:/a/"],
            &["x=/b"],
            "the image has no output `x`".into(),
        ),
        (
            &["0=http://h/x"],
            &[],
            "the value `http://h/x` of `input0` is not on this machine".into(),
        ),
    ] {
        assert_eq!(placed("gef", inputs, own, CLONE), expected, "{inputs:?}");
    }
    // Without GEF's profile an image's labels mean nothing until somebody names a port.
    assert_eq!(placed("hpc", &[], &[], CLONE), "");
    assert_eq!(
        placed("hpc", &["0=file:/a/"], &[], &[]),
        "the image has no ports"
    );
    assert_eq!(placed("gef", &[], &[], &[]), "");
}

#[test]
fn labels_do_not_reach_out() {
    for path in ["relative", "/a/../../etc", "/proc/1", "/dev", "/sys/x", "/"] {
        let told = placed("gef", &["0=file:/a/"], &[], &[("input.1.path", path)]);
        assert!(told.starts_with("cannot use the path"), "{path}: {told}");
    }
    for name in ["../x", "/etc/passwd", "."] {
        let rows = [
            ("input.1.path", "/in"),
            ("input.1.type", "string"),
            ("input.1.filename", name),
        ];
        let told = placed("gef", &["0=file:/a"], &[], &rows);
        assert!(
            !told.contains(":/etc") && !told.contains(":/x"),
            "{name}: {told}"
        );
    }
}
