use super::*;

fn words(line: &str) -> Vec<String> {
    super::super::lines_of_words(line).unwrap()
}

fn told<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.what().to_string(),
    }
}

fn submitted(line: &str, settings: &Settings) -> String {
    let Ok((Verb::Submit(asked), _)) = parse(&words(line)) else {
        return told(parse(&words(line)));
    };
    let known = flavors(&BTreeMap::new(), settings).unwrap();
    let variable = |name: &str| (name == "USER").then(|| "alice".to_string());
    let options = match flavor(asked.flavor.as_deref(), &known) {
        Ok(options) => options,
        Err(error) => return error.what().to_string(),
    };
    match submit(&asked, "eucaim", settings, &options, &variable, "0a1b") {
        Ok(words) => words.join(" "),
        Err(error) => error.what().to_string(),
    }
}

const SETTINGS: &str = r#"{
  "job": {
    "defaultImage": "tool:latest",
    "imagePrefix": "harbor.site/processing-tools/",
    "annotations": [{"key": "user", "value": "USER", "valueType": "env"}],
    "resources": {"default": "no-gpu", "predefined": [
      {"name": "no-gpu", "description": "plain", "resources": {"requests": {"cpu": 8, "memory": "64G"}}},
      {"name": "small-gpu", "resources": {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": 1}}}
    ]},
    "securityContext": {}
  }
}"#;

#[test]
fn lines_of_jobman() {
    let empty = Settings::read(None, false).unwrap();
    for (line, expected) in [
        (
            "submit -i r.site/a:1 -j n -- -i IN -o OUT",
            "--profile=eucaim --job-name=n --entrypoint r.site/a:1 -- -i IN -o OUT",
        ),
        (
            "submit -i r.site/a:1 -c -- python x.py",
            "--profile=eucaim --job-name=job-0a1b --no-entrypoint r.site/a:1 -- python x.py",
        ),
        (
            "submit -i r.site/a:1 -- -- INPUT_DIR=in OUTPUT_DIR='a b'",
            "--profile=eucaim --job-name=job-0a1b --env=INPUT_DIR=in --env=OUTPUT_DIR=a b r.site/a:1",
        ),
        (
            "submit -i r.site/a:1 --dry-run -r '{\"requests\":{\"cpu\":\"500m\",\"memory\":\"1G\"}}'",
            "--profile=eucaim --cpus-per-task=1 --mem=954M --job-name=job-0a1b --dry-run r.site/a:1",
        ),
        (
            "submit -i r.site/a:1 -a '{\"chaimeleon.eu/datasetsIDs\": \"d1, d2\"}'",
            "--profile=eucaim --job-name=job-0a1b --dataset=d1 --dataset=d2 --comment={\"chaimeleon.eu/datasetsIDs\":\"d1, d2\"} r.site/a:1",
        ),
        ("submit", "no image was named"),
        ("submit -i a -- x -- y", "`y` is no variable"),
        ("submit -i a -c", "`-c` needs a command behind `--`"),
        ("submit -i a -j 'x;y'", "cannot use the job name `x;y`"),
        ("submit -i a -a '[1]'", "the annotations are no JSON object"),
        (
            "submit -i a -a '{\"a\":1}'",
            "the annotation `a` is no text",
        ),
        ("submit -i a -r nope", "there is no flavor `nope`"),
        ("submit -i a b", "`b` is one word too many"),
        ("submit -i a --profile hpc", "unknown option `--profile`"),
        ("log -j x", "`log` is no command"),
        ("logs", "`jobman logs` needs `--job-name`"),
        (
            "delete",
            "`jobman delete` needs either `--job-name` or `--all`",
        ),
        (
            "delete -j x --all",
            "`jobman delete` needs either `--job-name` or `--all`",
        ),
        ("list --all", "`jobman list` has no option `--all`"),
        ("lst", "`jobman` has no command `lst`"),
        ("", "(Help, None)"),
        ("-s f list", "(List, Some(\"f\"))"),
        ("delete --all", "(Delete { job: None }, None)"),
        ("details -j x", "(Details { job: \"x\" }, None)"),
    ] {
        assert_eq!(submitted(line, &empty), expected, "{line}");
    }
}

#[test]
fn settings_over_settings() {
    let own = Settings::read(Some(SETTINGS), false).unwrap();
    assert_eq!(own.ignored(), ["securityContext"]);
    assert_eq!(
        submitted("submit", &own),
        "--profile=eucaim --cpus-per-task=8 --mem=61036M --job-name=job-0a1b --comment={\"user\":\"alice\"} harbor.site/processing-tools/tool:latest"
    );
    assert_eq!(
        submitted("submit -r small-gpu -i other.site/a:1", &own),
        "--profile=eucaim --cpus-per-task=4 --gres=gpu:1 --mem=32G --job-name=job-0a1b --comment={\"user\":\"alice\"} other.site/a:1"
    );
    // A deep merge keeps what the file does not name.
    let part = Settings::read(Some(r#"{"harbor": {"url": "https://h"}}"#), false).unwrap();
    assert_eq!(part.harbor().unwrap(), ("https://h".into(), String::new()));
}

#[test]
fn a_site_says_what_its_flavors_are() {
    let own = Settings::read(Some(SETTINGS), false).unwrap();
    let site = |options: &[(&str, &str)]| -> BTreeMap<String, Flavor> {
        let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let flavor = Flavor {
            is_default: true,
            options: options.collect(),
            ..Flavor::default()
        };
        [("small-gpu".to_string(), flavor)].into()
    };
    let other = flavors(&site(&[("cpus-per-task", "1")]), &own);
    assert_eq!(
        told(other),
        "the flavor `small-gpu` cannot be made another one"
    );
    let same = site(&[("cpus-per-task", "4"), ("mem", "32G"), ("gres", "gpu:1")]);
    let all = flavors(&same, &own).unwrap();
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["small-gpu", "no-gpu"]);
    assert_eq!(flavor(None, &all).unwrap()["gres"], "gpu:1");
    assert_eq!(
        shown("small-gpu", &all[0].1)[..4],
        ["small-gpu (default)", "4", "32G", "1"]
    );
}

#[test]
fn resources_of_kubernetes() {
    for (text, expected) in [
        (r#"{"requests": {"cpu": "1000m"}}"#, "cpus-per-task=1"),
        (r#"{"requests": {"cpu": 1.5}}"#, "cpus-per-task=2"),
        (r#"{"requests": {"memory": "28Gi"}}"#, "mem=28G"),
        (r#"{"requests": {"memory": "1G"}}"#, "mem=954M"),
        (r#"{"limits": {"nvidia.com/gpu": 1}}"#, "gres=gpu:1"),
        (r#"{"limits": {"amd.com/gpu": "2"}}"#, "gres=gpu:2"),
        (r#"{"limits": {"nvidia.com/gpu": 0}}"#, ""),
        (
            r#"{"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}"#,
            "cpus-per-task=2",
        ),
        (r#"{"requests": {"ephemeral-storage": "1G"}}"#, ""),
        (
            r#"{"requests": {"cpu": "-1"}}"#,
            "cannot understand `-1` as `cpu`",
        ),
        (
            r#"{"requests": {"cpu": "nan"}}"#,
            "cannot understand `nan` as `cpu`",
        ),
        (
            r#"{"requests": {"memory": "lots"}}"#,
            "cannot understand `lots` as `memory`",
        ),
        (
            r#"{"requests": {"memory": "1e99"}}"#,
            "cannot understand `1e99` as `memory`",
        ),
        (r#"{"requests": {"mem": "1G"}}"#, "unknown resource `mem`"),
        (
            r#"{"request": {}}"#,
            "unknown key `request` of the resources",
        ),
        (r#"{"requests": []}"#, "`requests` is no JSON object"),
        ("[]", "the resources are no JSON object"),
    ] {
        let shown = match options_of(&serde_json::from_str(text).unwrap()) {
            Ok(options) => {
                let pairs = options
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"));
                pairs.collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.what().to_string(),
        };
        assert_eq!(shown, expected, "{text}");
    }
}

#[test]
fn broken_settings_are_told() {
    for (text, expected) in [
        ("", "the settings are no JSON"),
        ("[]", "the settings are no JSON object"),
        (
            r#"{"job": {"defaultImage": 1}}"#,
            "cannot use `job.defaultImage` of the settings",
        ),
        (
            r#"{"job": {"resources": {"predefined": {}}}}"#,
            "cannot use `job.resources.predefined` of the settings",
        ),
        (
            r#"{"job": {"resources": {"predefined": [{}]}}}"#,
            "cannot use `job.resources.predefined` of the settings",
        ),
        (
            r#"{"job": {"resources": {"predefined": [{"name": "a", "resources": {"x": 1}}]}}}"#,
            "cannot use the flavor `a`",
        ),
        (
            r#"{"job": {"annotations": [1]}}"#,
            "cannot use `job.annotations` of the settings",
        ),
        (
            r#"{"job": {"annotations": [{"key": "a", "value": "b", "valueType": "file"}]}}"#,
            "cannot use `job.annotations` of the settings",
        ),
    ] {
        assert_eq!(told(Settings::read(Some(text), false)), expected, "{text}");
    }
}
