//! Images with GEF's labels, run by their ports.

use super::directories;
use crate::need::need;
use crate::scene::Scene;
use crate::starting::{add, busybox};
use serde_json::{Value, json};

/// Copies both inputs, the second of which is a text.
fn scene() -> Scene {
    let scene = Scene::new();
    let label = |key: &str| format!("eudat.gef.service.{key}");
    let line = "cp -r /root/in/. /root/out/; cp /root/word/text.txt /root/out/; touch /root/in/x; cat /root/word/text.txt";
    add(
        &scene,
        "clone",
        busybox(),
        json!({
            "Env": ["PATH=/bin"],
            "Cmd": ["sh", "-c", line],
            "Labels": {
                label("name"): "Test Clone",
                label("version"): "0.1",
                label("input.1.name"): "data",
                label("input.1.path"): "/root/in",
                label("input.4.path"): "/root/word",
                label("input.4.type"): "string",
                label("input.4.filename"): "text.txt",
                label("input.5.name"): "no path",
                label("output.1.name"): "copy",
                label("output.1.path"): "/root/out",
                label("surprise"): "x",
            },
        }),
    );
    scene.write("work/set/a", "a file\n");
    scene
}

#[test]
fn g1_labels_are_shown_as_a_service() {
    let scene = scene();
    let shown = scene.run(["inspect", "--gef", "--json", "clone"]);
    assert!(shown.err.contains("eudat.gef.service.surprise"), "{shown}");
    let shown: Value = serde_json::from_str(&shown.ok().out).unwrap();
    let service = &shown["Service"];
    assert_eq!(service["Name"], "Test Clone");
    assert_eq!(service["Input"].as_array().unwrap().len(), 2);
    assert_eq!(service["Input"][1]["ID"], "input1");
    assert_eq!(service["Input"][1]["FileName"], "text.txt");
    assert_eq!(service["Output"][0]["Path"], "/root/out");
    add(&scene, "plain", busybox(), json!({}));
    scene
        .run(["inspect", "--gef", "plain"])
        .fails(125, &["no service of GEF"]);
}

#[test]
fn g2_g3_g4_g7_an_image_runs_by_its_ports() {
    need!(Userns, Fuse);
    let scene = scene();
    let mut command = scene.command([
        "run",
        "--profile",
        "gef",
        "--input",
        "data=set",
        "--input",
        "1=some words $HOME",
        "--output",
        "copy=out",
        "clone",
    ]);
    command.env("CARRACK_JOB", "17");
    let ran = scene.finish(command, b"");
    assert_eq!(ran.out, "some words $HOME", "{ran}");
    assert!(ran.err.contains("Read-only file system"), "{ran}");
    let out = |name: &str| std::fs::read_to_string(scene.path("work/out").join(name)).unwrap();
    assert_eq!(out("a"), "a file\n");
    assert_eq!(out("text.txt"), "some words $HOME");
    assert!(directories(&scene, "outputs_").is_empty());
}

#[test]
fn g2_what_does_not_fit_is_told_at_the_desk() {
    let scene = scene();
    let gef = ["submit", "--local", "--profile", "gef"];
    for (words, told) in [
        (
            &["clone"][..],
            &["Input source number mismatch", "input0 (data), input1"][..],
        ),
        (
            &["--input", "0=set", "clone"],
            &["Input source number mismatch"],
        ),
        (
            &["--input", "0=set", "--input", "9=x", "clone"],
            &["no input `9`"],
        ),
        (
            &["--input", "0=nowhere", "--input", "1=x", "clone"],
            &["nowhere"],
        ),
    ] {
        let words = [&gef[..], words].concat();
        let refused = scene.run(&words);
        assert_ne!(refused.code, 0, "{refused}");
        for word in told {
            assert!(refused.err.contains(word), "{word}: {refused}");
        }
    }
    let dry = scene.run(
        [
            &gef[..],
            &["--dry-run", "--input=0=set", "--input=1=a$b", "clone"],
        ]
        .concat(),
    );
    assert!(
        dry.ok()
            .out
            .contains("--input input0=file:$SCENE/work/set/"),
        "{dry}"
    );
}

#[test]
fn g5_g6_addresses_and_identifiers_are_fetched_at_the_desk() {
    use std::io::{BufRead, BufReader, Write};
    let mut scene = scene();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let moved = |to: &str| {
                format!(
                    "302 Found\r\nlocation: {to}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
            };
            let good = |kind: &str, text: &str| {
                let size = text.len();
                format!(
                    "200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n{text}"
                )
            };
            // Handles lead to a file, and to the page of a record with two of them.
            let answer = match first.split(' ').nth(1).unwrap() {
                "/11304/x-1" => moved("/deep/set.nc"),
                "/11304/record" => moved("/records/1a2b"),
                "/records/1a2b" => good("text/html", "<html>"),
                "/api/records/1a2b" => good(
                    "application/json",
                    r#"{"links": {"files": "/api/files/b"}, "files": [{"key": "two.nc"}, {"key": "a one.nc"}]}"#,
                ),
                "/api/files/b/two.nc" => good("application/octet-stream", "two"),
                "/api/files/b/a%20one.nc" => good("application/octet-stream", "one"),
                _ => good("application/octet-stream", "data"),
            };
            let _ = write!(&stream, "HTTP/1.1 {answer}");
        }
    });
    scene.env("CARRACK_HANDLE_PROXY", &address);
    // printf data | sha256sum
    let digest = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";
    for value in [&*format!("{address}/a/set.nc"), "11304/x-1"] {
        let input = format!("--input=data={value}");
        let dry = scene.run([
            "submit",
            "--local",
            "--profile",
            "gef",
            "--dry-run",
            &input,
            "--input=1=t",
            "clone",
        ]);
        let file = format!("home/.local/state/carrack/inputs/{digest}");
        assert!(
            dry.ok()
                .out
                .contains(&format!("input0=file:$SCENE/{file}/")),
            "{dry}"
        );
        assert_eq!(
            std::fs::read_to_string(scene.path(file).join("set.nc")).unwrap(),
            "data"
        );
    }
    let words = [
        "submit",
        "--local",
        "--profile=gef",
        "--dry-run",
        "--input=0=11304/record",
        "--input=1=t",
        "clone",
    ];
    let dry = scene.run(words);
    let script = dry.ok().out.clone();
    let place = script.split("input0=file:$SCENE/").nth(1).unwrap();
    let place = scene.path(place.split('/').take(6).collect::<Vec<_>>().join("/"));
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
    assert_eq!(
        (read("a one.nc"), read("two.nc")),
        ("one".into(), "two".into())
    );
    // Without Slurm the same, by another process than the one that enters the image.
    let mut command = scene.command([
        "run",
        "--profile=gef",
        "--input=data=11304/x-1",
        "--input=1=said",
        "--output=copy=out",
        "clone",
    ]);
    command.env("CARRACK_JOB", "19");
    let ran = scene.finish(command, b"");
    assert_eq!(ran.out, "said", "{ran}");
    let copied = std::fs::read_to_string(scene.path("work/out/set.nc"));
    assert_eq!(copied.unwrap(), "data", "{ran}");
    scene
        .run([
            "submit",
            "--local",
            "--profile",
            "gef",
            "--input=0=http://data.site/x",
            "--input=1=t",
            "clone",
        ])
        .fails(2, &["plain http", "registries.insecure"]);
}

/// The steps of a program that was written for GEF's interface: look for a service, start a job, ask for its state; and
/// what is known of it afterwards.
#[test]
fn g8_g15_g17_a_program_runs_a_job() {
    need!(Userns, Fuse);
    let mut scene = scene();
    let state = scene.path("state");
    scene.env("XDG_STATE_HOME", state);
    let json = |words: &[&str]| -> Value {
        let outcome = scene.run(words);
        serde_json::from_str(&outcome.ok().out).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    };
    let service = json(&["inspect", "--gef", "--json", "clone"]);
    let id = service["Service"]["ID"].as_str().unwrap();
    let short: String = id.chars().take(12).collect();
    let submit = |name: &str, input: &str| {
        let out = scene.path("work").join(name).display().to_string();
        let words = [
            "submit",
            "--local",
            "--profile=gef",
            "--job-name",
            name,
            "--input=0=set",
            input,
            &format!("--output=copy={out}"),
            &short,
        ];
        scene.run(words)
    };
    // The image's last word, `cat` of its text, is the job's code.
    submit("made", "--input=1=words of a test").ok();
    let job = json(&["ps", "--gef", "made"]);
    let job = &job["Job"];
    assert_eq!(job["ServiceID"], id, "{job}");
    assert_eq!(
        job["State"],
        json!({ "Status": "Ended successfully", "Error": "", "Code": 0 })
    );
    assert_eq!(job["Tasks"][0]["ExitCode"], 0);
    assert_eq!(
        job["InputVolume"][0],
        json!({ "VolumeID": "$SCENE/work/set/", "Name": "input0" })
    );
    assert_eq!(job["OutputVolume"][0]["Name"], "copy");
    assert_eq!(
        json(&["ps", "--all", "--gef"])["Jobs"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    // What the record says of where everything came from.
    let record = json(&["record", "made", "--json"]);
    let labels = &record["image"]["labels"];
    assert_eq!(labels["eudat.gef.service.name"], "Test Clone");
    assert_eq!(labels["eudat.gef.service.version"], "0.1");
    assert_eq!(record["image"]["manifest_digest"], format!("sha256:{id}"));
    let inputs = &record["inputs"];
    assert_eq!(inputs[0]["source"], "set", "{record}");
    assert_eq!(
        (&inputs[0]["files"], &inputs[0]["bytes"]),
        (&json!(1), &json!(7))
    );
    // printf 'words of a test' | sha256sum
    assert_eq!(
        inputs[1]["sha256"],
        "71e2be4f85e4a604b6b0e4a26b9197e95af5fc1b8b316f79ca8c599a766f05bf"
    );
    assert_eq!(inputs[1]["bytes"], 15);
    assert!(!record.to_string().contains("words of a test"), "{record}");
}
