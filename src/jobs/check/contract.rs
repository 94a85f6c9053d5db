//! What a site's contract asks of an image: `carrack check --profile ces IMAGE`.
//!
//! The rules look at values only; [`Files::look`] reads them from the image.

use super::{Finding, note, problem};
use crate::image::store::{Stored, verify};
use crate::launch::ports::Service;
use crate::record::ImageRecord;
use crate::squashfs::read::{Content, Image};
use std::collections::BTreeMap;

/// What is looked for in an image.
const PATHS: &[&str] = &[
    "/safe_data",
    "/safe_outputs",
    "/scratch",
    "/home/ds/datasets",
    "/home/ds/persistent-home",
    "/home/ds/persistent-shared-folder",
    "/etc/sudoers",
    "/etc/sudoers.d",
];
/// More users than any image has.
const LONGEST: u64 = 1 << 20;

/// What of an image the rules look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Those of [`PATHS`] and of the command that exist, and whether they hold anything.
    pub there: BTreeMap<String, bool>,
    pub passwd: String,
}

impl Files {
    pub fn look(stored: &Stored) -> Files {
        let Ok(image) = verify::open(stored) else {
            return Files::default();
        };
        let config = &stored.record.config;
        let words = config.entrypoint.iter().chain(&config.cmd);
        let own = words
            .map(String::as_str)
            .filter(|word| word.starts_with('/'));
        let mut files = Files::default();
        for path in PATHS.iter().copied().chain(own) {
            if let Ok(Some(inode)) = image.find(path.as_bytes()) {
                let full = match inode.content {
                    // An empty listing has three bytes.
                    Content::Directory { size, .. } => size > 3,
                    _ => inode.size() > 0,
                };
                files.there.insert(path.to_string(), full);
            }
        }
        files.passwd = text(&image, "/etc/passwd").unwrap_or_default();
        files
    }
}

fn text(image: &Image, path: &str) -> Option<String> {
    let inode = image.find(path.as_bytes()).ok()??;
    if !matches!(inode.content, Content::File(_)) || inode.size() > LONGEST {
        return None;
    }
    let mut bytes = Vec::new();
    let mut take = |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    image.read_all(&inode, &mut take).ok()?;
    String::from_utf8(bytes).ok()
}

/// What an image lacks under the rules of a system: `ces`, `eucaim` or `gef`; nothing for others.
pub fn findings(contract: &str, record: &ImageRecord, files: &Files) -> Vec<Finding> {
    let mut found = Vec::new();
    match contract {
        "ces" => ces(record, files, &mut found),
        "eucaim" => eucaim(record, files, &mut found),
        "gef" => gef(record, &mut found),
        _ => return found,
    }
    command(contract, record, files, &mut found);
    found
}

/// The image starts by itself, and what it starts is there.
fn command(contract: &str, record: &ImageRecord, files: &Files, found: &mut Vec<Finding>) {
    let config = &record.config;
    let words: Vec<&String> = config.entrypoint.iter().chain(&config.cmd).collect();
    let Some(first) = words.first() else {
        found.push(problem(
            0,
            "the image has no startup command",
            "give it an ENTRYPOINT or a CMD",
        ));
        return;
    };
    if contract == "eucaim" && config.entrypoint.is_empty() {
        found.push(problem(
            0,
            "the image has no ENTRYPOINT",
            "arguments would replace its CMD; write `ENTRYPOINT [\"python\", \"/home/ds/main.py\"]`",
        ));
    }
    // Shell form is three words, the last of which is a line.
    let shell = words.len() >= 3
        && words
            .get(1)
            .is_some_and(|word| word.starts_with('-') && word.contains('c'));
    let joined = words.iter().find(|word| {
        let path = word.starts_with('/') || word.starts_with("./") || word.ends_with(".py");
        path && word.contains(" -")
    });
    if let Some(word) = joined.filter(|_| !shell) {
        found.push(problem(
            0,
            format!("`{word}` is one word, with a program and its options in it"),
            "in the exec form each word has quotes of its own: [\"python3\", \"/src/x.py\", \"--config\", \"y\"]",
        ));
    } else if first.starts_with('/') && !files.there.contains_key(first.as_str()) {
        found.push(problem(
            0,
            format!("the startup command `{first}` is not in the image"),
            "links are not followed here; `carrack inspect --files` lists what is there",
        ));
    }
}

fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    name.is_empty() || name == "root" || name.parse() == Ok(0u32)
}

fn ces(record: &ImageRecord, files: &Files, found: &mut Vec<Finding>) {
    if is_root(&record.config.user) {
        found.push(note(
            0,
            "the image runs as root",
            "create a user and name it with USER; the haven's reviewers ask for that",
        ));
    }
    for (path, what) in [
        ("/safe_data", "the project's data"),
        ("/safe_outputs", "the results"),
        ("/scratch", "temporary files"),
    ] {
        match files.there.get(path) {
            None => found.push(note(
                0,
                format!("`{path}` is not declared in the image"),
                format!("`RUN mkdir {path}`: {what} will be there; it is made when it is missing"),
            )),
            Some(true) => found.push(problem(
                0,
                format!("the image has files in `{path}`"),
                format!("{what} will hide them; keep them elsewhere in the image"),
            )),
            Some(false) => {}
        }
    }
    let architecture = &record.platform.architecture;
    if !architecture.is_empty() && architecture != "amd64" {
        found.push(problem(
            0,
            format!("the image is for {architecture}"),
            "build it with `--platform linux/amd64`",
        ));
    }
}

fn eucaim(record: &ImageRecord, files: &Files, found: &mut Vec<Finding>) {
    let config = &record.config;
    for label in ["name", "version"] {
        if !config.labels.contains_key(label) {
            found.push(problem(
                0,
                format!("the label `{label}` is missing"),
                format!("`LABEL {label}=\"…\"` in the Dockerfile"),
            ));
        }
    }
    if !config.labels.contains_key("authorization") {
        found.push(note(
            0,
            "the label `authorization` is missing",
            "it is needed where the source is private or the licence forbids redistribution",
        ));
    }
    let tag = record.reference.rsplit('/').next().unwrap_or_default();
    let tag = tag.split('@').next().unwrap_or_default();
    if let (Some((_, tag)), Some(version)) = (tag.split_once(':'), config.labels.get("version"))
        && tag != version
        && !tag.starts_with("latest")
    {
        found.push(note(
            0,
            format!("the tag is `{tag}`, the label `version` says `{version}`"),
            "give both the same version",
        ));
    }
    if is_root(&config.user) {
        found.push(problem(
            0,
            "the image runs as root",
            "create the user `ds` with the ids 1000:1000 and write `USER ds:ds`",
        ));
    } else {
        let own = |line: &&str| line.split(':').nth(2) == Some("1000");
        let user = files.passwd.lines().find(own);
        let name = config.user.split(':').next().unwrap_or_default();
        let named = user.is_some_and(|line| line.split(':').next() == Some(name)) || name == "1000";
        if !named {
            found.push(problem(
                0,
                format!("`{}` is not the user 1000", config.user),
                "everything runs as 1000:1000; give the image's user these ids",
            ));
        }
    }
    let sudo = files.there.get("/etc/sudoers.d") == Some(&true)
        || files.there.contains_key("/etc/sudoers");
    if sudo {
        found.push(note(
            0,
            "the image has sudoers",
            "nobody becomes root at run time; leave sudo out",
        ));
    }
    for path in ["datasets", "persistent-home", "persistent-shared-folder"] {
        let path = format!("/home/ds/{path}");
        if !files.there.contains_key(&path) {
            found.push(note(
                0,
                format!("`{path}` is not declared in the image"),
                format!("`RUN mkdir -p {path}`; it is made when it is missing"),
            ));
        }
    }
}

fn gef(record: &ImageRecord, found: &mut Vec<Finding>) {
    let Some(service) = Service::read(&record.config.labels) else {
        found.push(problem(
            0,
            "the image has no labels of GEF",
            "`LABEL \"eudat.gef.service.name\"=\"…\"` and those of its ports",
        ));
        return;
    };
    for label in &service.ignored {
        found.push(note(
            0,
            format!("the label `{label}` means nothing to GEF"),
            "leave it out",
        ));
    }
    for port in service
        .inputs
        .iter()
        .filter(|port| port.is_text() && port.file_name.is_empty())
    {
        found.push(problem(
            0,
            format!("the port `{}` is a text without a file name", port.id),
            "add the label `filename`, or leave `type` out",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ImageConfig, Platform};

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn there(list: &[(&str, bool)]) -> Files {
        Files {
            there: list
                .iter()
                .map(|(path, full)| (path.to_string(), *full))
                .collect(),
            passwd: "root:x:0:0::/root:/bin/sh\nds:x:1000:1000::/home/ds:/bin/sh\n".into(),
        }
    }

    fn shown(contract: &str, record: &ImageRecord, files: &Files) -> Vec<String> {
        let line = |finding: Finding| format!("{}: {}", finding.weight.word(), finding.what);
        findings(contract, record, files)
            .into_iter()
            .map(line)
            .collect()
    }

    fn image(user: &str, entrypoint: &[&str], labels: &[(&str, &str)]) -> ImageRecord {
        ImageRecord {
            reference: "docker://r.site/p/tool:0.1".into(),
            platform: Platform {
                os: "linux".into(),
                architecture: "amd64".into(),
                ..Platform::default()
            },
            config: ImageConfig {
                user: user.into(),
                entrypoint: words(entrypoint),
                labels: labels
                    .iter()
                    .map(|(k, v)| (k.to_string(), v.to_string()))
                    .collect(),
                ..ImageConfig::default()
            },
            ..ImageRecord::default()
        }
    }

    #[test]
    fn images_for_a_haven() {
        let good = there(&[
            ("/safe_data", false),
            ("/safe_outputs", false),
            ("/scratch", false),
        ]);
        let none: &[&str] = &[];
        assert_eq!(
            shown(
                "ces",
                &image("app", &["python3", "/src/train.py"], &[]),
                &good
            ),
            none
        );
        assert_eq!(
            shown("ces", &image("", &[], &[]), &there(&[("/safe_data", true)])),
            [
                "note: the image runs as root",
                "problem: the image has files in `/safe_data`",
                "note: `/safe_outputs` is not declared in the image",
                "note: `/scratch` is not declared in the image",
                "problem: the image has no startup command",
            ]
        );
        for (entrypoint, expected) in [
            (
                &["python3", "/usr/app/src/train.py --config x"][..],
                "problem: `/usr/app/src/train.py --config x` is one word, with a program and its options in it",
            ),
            (
                &["/no/such"],
                "problem: the startup command `/no/such` is not in the image",
            ),
        ] {
            assert_eq!(
                shown("ces", &image("app", entrypoint, &[]), &good),
                [expected]
            );
        }
        let shell = image("app", &["/bin/sh", "-c", "/app --x"], &[]);
        let with_shell = there(&[
            ("/safe_data", false),
            ("/safe_outputs", false),
            ("/scratch", false),
            ("/bin/sh", true),
        ]);
        assert_eq!(shown("ces", &shell, &with_shell), none);
        let mut arm = image("app", &["x"], &[]);
        arm.platform.architecture = "arm64".into();
        assert_eq!(
            shown("ces", &arm, &good),
            ["problem: the image is for arm64"]
        );
    }

    #[test]
    fn images_for_eucaim() {
        let labels = [
            ("name", "tool"),
            ("version", "0.1"),
            ("authorization", "free"),
        ];
        let directories = there(&[
            ("/home/ds/datasets", false),
            ("/home/ds/persistent-home", false),
            ("/home/ds/persistent-shared-folder", false),
        ]);
        let none: &[&str] = &[];
        assert_eq!(
            shown(
                "eucaim",
                &image("ds:ds", &["python", "x"], &labels),
                &directories
            ),
            none
        );
        for (record, expected) in [
            (
                image("root", &["x"], &labels),
                &["problem: the image runs as root"][..],
            ),
            (
                image("bob", &["x"], &labels),
                &["problem: `bob` is not the user 1000"],
            ),
            (image("1000", &["x"], &labels), &[]),
            (
                image("ds", &["x"], &[("name", "tool"), ("version", "0.2")]),
                &[
                    "note: the label `authorization` is missing",
                    "note: the tag is `0.1`, the label `version` says `0.2`",
                ],
            ),
            (
                image("ds", &["x"], &[("authorization", "")]),
                &[
                    "problem: the label `name` is missing",
                    "problem: the label `version` is missing",
                ],
            ),
        ] {
            assert_eq!(shown("eucaim", &record, &directories), expected);
        }
        let mut by_cmd = image("ds", &[], &labels);
        by_cmd.config.cmd = words(&["x"]);
        assert_eq!(
            shown("eucaim", &by_cmd, &directories),
            ["problem: the image has no ENTRYPOINT"]
        );
        let with_sudo = there(&[("/etc/sudoers.d", true)]);
        let told = shown("eucaim", &image("ds", &["x"], &labels), &with_sudo);
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(told[0], "note: the image has sudoers");
    }

    #[test]
    fn services() {
        let prefix = "eudat.gef.service.";
        let path = format!("{prefix}input.1.path");
        let kind = format!("{prefix}input.1.type");
        let record = image("", &["x"], &[(&path, "/in"), (&kind, "string")]);
        assert_eq!(
            shown("gef", &record, &Files::default()),
            ["problem: the port `input0` is a text without a file name"]
        );
        assert_eq!(
            shown("gef", &image("", &["x"], &[]), &Files::default()),
            ["problem: the image has no labels of GEF"]
        );
        assert!(shown("hpc", &image("", &[], &[]), &Files::default()).is_empty());
    }
}
