//! The binary under the names of other systems' commands, with images in a store of the test's own and without Slurm.
//!
//! How their words are translated is tested in tables beside `src/fronts`; here the translations run.

mod gef;
mod images;

mod as_root {
    mod cluster;
    mod site_files;
}

use crate::need::need;
use crate::scene::{Outcome, Scene};
use crate::starting::{add, busybox};
use serde_json::json;
use std::process::Command;

/// The binary by another name.
pub fn called(scene: &Scene, name: &str, words: &[&str]) -> Outcome {
    let link = scene.path("bin").join(name);
    if !link.exists() {
        std::fs::create_dir_all(scene.path("bin")).unwrap();
        std::os::unix::fs::symlink(crate::scene::carrack(), &link).unwrap();
    }
    let mut command = scene.program(link);
    command.args(words);
    scene.finish(command, b"")
}

/// A haven whose data lies in the scene.
fn haven() -> Scene {
    let scene = Scene::new();
    let group = Command::new("id").arg("-gn").output().unwrap().stdout;
    let group = String::from_utf8(group).unwrap().trim().to_string();
    scene.write(format!("safe/{group}/data"), "from the project\n");
    let place = scene.path("").display().to_string();
    scene.write(
        "settings.toml",
        format!(
            "[launch]\nprofile = \"haven\"\n[profile.haven]\nbase = \"ces\"\n\
             project_data = \"{place}/safe/{{project}}:/safe_data:ro\"\n\
             outputs = \"{place}/home/outputs_{{job}}:/safe_outputs\"\n\
             scratch = \"{place}/home/scratch_{{job}}:/scratch\"\n"
        ),
    );
    let line = "cat /safe_data/data > /safe_outputs/copy; touch /scratch/x /safe_data/x; echo \"$A $B $# $1\"";
    add(
        &scene,
        "tool",
        busybox(),
        json!({ "Env": ["PATH=/bin"], "Entrypoint": ["sh", "-c", line, "tool"], "Cmd": ["by itself"] }),
    );
    scene
}

fn directories(scene: &Scene, prefix: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(scene.path("home")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn c1_c2_c3_c5_c6_c15_ces_run_with_its_files() {
    need!(Userns, Fuse);
    let scene = haven();
    scene.write("work/vars", "A=from a file\n");
    scene.write("work/options", "# of docker\n-e B=set --name ours\n");
    scene.write("work/arguments", "'one word' two\n");
    let files = [
        "--env-file",
        "vars",
        "--opt-file",
        "options",
        "--arg-file",
        "arguments",
    ];
    let ran = called(
        &scene,
        "ces-run",
        &[&["podman", "--no-slurm"], &files[..], &["tool"]].concat(),
    );
    // The script goes on after what cannot be written.
    assert!(ran.out.contains("from a file set 2 one word\n"), "{ran}");
    assert!(
        ran.err
            .contains("Running: carrack submit --profile=haven --job-name=ours"),
        "{ran}"
    );
    assert!(
        ran.err.contains("Read-only file system") && !ran.err.contains("B=set"),
        "{ran}"
    );
    let kept = directories(&scene, "outputs_");
    assert_eq!(kept.len(), 1, "{ran}");
    let copy = std::fs::read_to_string(kept[0].join("copy")).unwrap();
    assert_eq!(copy, "from the project\n");
    assert!(directories(&scene, "scratch_").is_empty(), "{ran}");
    let record = std::fs::read_dir(scene.path("work")).unwrap().flatten();
    let mut records = record.filter(|entry| entry.path().extension().is_some_and(|e| e == "json"));
    let record = records.next().unwrap().path().display().to_string();
    let listed = scene.run(["outputs", &record, "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.ok().out).unwrap();
    assert_eq!(listed["volumeContent"][0]["name"], "copy");
    assert_eq!(listed["volumeContent"][0]["isFolder"], false);
    scene
        .run(["outputs", &record, "copy"])
        .is(0, "from the project\n", "");
    scene
        .run(["outputs", &record, "../../settings.toml"])
        .fails(2, &["no output"]);
}

#[test]
fn c5_c7_c8_c10_c11_what_ces_run_writes_and_refuses() {
    let scene = haven();
    let dry = called(
        &scene,
        "ces-gpu-run",
        &["-c", "4", "-m", "8", "-n", "job", "--dry-run", "tool"],
    );
    for line in [
        "--cpus-per-task=4",
        "--mem=8G",
        "--job-name=job",
        "--gres=gpu:1",
    ] {
        assert!(
            dry.ok().out.contains(&format!("#SBATCH {line}")),
            "{line}: {dry}"
        );
    }
    let plain = called(&scene, "ces-run", &["--dry-run", "tool"]);
    assert!(plain.ok().out.contains("#SBATCH --mem=4G"), "{plain}");
    assert!(!plain.out.contains("--gres"), "{plain}");
    for (options, words) in [
        ("-v /etc:/x", &["not allowed here", "user_binds"][..]),
        (
            "--mount type=bind,src=/etc,dst=/x",
            &["not allowed here", "user_binds"],
        ),
        (
            "--mount type=tmpfs,dst=/x",
            &["not allowed here", "user_binds"],
        ),
        ("-it", &["--interactive", "interactive"]),
        ("-p 80:80", &["--publish", "network"]),
        ("--network host", &["--network", "locks `network`"]),
        ("--privileged", &["--privileged"]),
        ("--profile hpc", &["--profile"]),
    ] {
        scene.write("work/options", options);
        let refused = called(&scene, "ces-run", &["--opt-file", "options", "tool"]);
        refused.fails(2, words);
    }
    assert!(directories(&scene, "outputs_").is_empty());
}

#[test]
fn c7_a_process_substitution_is_read_once() {
    need!(Userns, Fuse);
    let scene = haven();
    called(&scene, "ces-run", &["--version"]).ok();
    let line = "\"$0\" --no-slurm --opt-file <(echo '-e B=piped') --env-file <(echo A=too) tool";
    let mut command = scene.program("bash");
    command.args(["-c", line]).arg(scene.path("bin/ces-run"));
    let ran = scene.finish(command, b"");
    assert!(ran.out.contains("too piped 1 by itself\n"), "{ran}");
    // What it asks for is held to the same rules as any file.
    let line = "\"$0\" --no-slurm --opt-file <(echo '-v /etc:/x') tool";
    let mut command = scene.program("bash");
    command.args(["-c", line]).arg(scene.path("bin/ces-run"));
    scene
        .finish(command, b"")
        .fails(2, &["not allowed here", "user_binds"]);
}

/// A service with a port, where the site leaves the host's network: reachable as it is.
#[test]
fn c23_a_service_with_a_port() {
    need!(Userns, Fuse);
    let scene = haven();
    let place = scene.path("").display().to_string();
    let open = format!(
        "[profile.lab]\nbase = \"haven\"\nnetwork = \"host\"\nlocked = []\nproject_data = \"\"\n\
         outputs = \"{place}home/outputs_{{job}}:/safe_outputs\"\n"
    );
    let settings = std::fs::read_to_string(scene.path("settings.toml")).unwrap();
    let settings = settings.replace("profile = \"haven\"", "profile = \"lab\"");
    scene.write("settings.toml", settings + &open);
    // Free again as soon as its number is known.
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = address.unwrap().port();
    let serve = format!("echo served | busybox nc -l -p {port}");
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh", "-c", serve] });
    add(&scene, "service", busybox(), config);
    scene.write("work/options", format!("-p {port}:{port}\n"));
    called(&scene, "ces-run", &["--version"]).ok();
    let mut command = scene.program(scene.path("bin/ces-run"));
    command.args(["--no-slurm", "--opt-file", "options", "service"]);
    let answered = std::thread::spawn(move || {
        use std::io::Read;
        let mut said = String::new();
        for _ in 0..300 {
            if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
                stream.read_to_string(&mut said).unwrap();
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        said
    });
    let ran = scene.finish(command, b"");
    assert!(ran.ok().err.contains("is reachable as it is"), "{ran}");
    assert_eq!(answered.join().unwrap(), "served\n", "{ran}");
}

#[test]
fn c13_the_token_of_ces_pull_is_not_kept() {
    let scene = Scene::new();
    // Nobody listens there: what matters is what is said and left behind.
    let pulled = called(&scene, "ces-pull", &["me", "t0ken", "127.0.0.1:1/n/a:1"]);
    assert_eq!(pulled.code, 125, "{pulled}");
    assert!(
        pulled.err.contains("warning: a token on the command line"),
        "{pulled}"
    );
    assert!(!pulled.err.contains("t0ken"), "{pulled}");
    let found = Command::new("grep")
        .arg("-r")
        .arg("t0ken")
        .arg(scene.path(""))
        .output();
    assert!(found.unwrap().stdout.is_empty());
}

#[test]
fn f1_f3_f4_shifters_commands() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    add(
        &scene,
        "box",
        busybox(),
        json!({ "Env": ["PATH=/bin", "FROM_IMAGE=yes"] }),
    );
    let listed = called(&scene, "shifterimg", &["images"]);
    let fields: Vec<&str> = listed.ok().out.split_whitespace().collect();
    assert_eq!(fields[1..3], ["docker", "READY"], "{listed}");
    assert!(fields[5].ends_with("library/box:latest"), "{listed}");
    let digest = called(&scene, "shifterimg", &["lookup", "docker:box"]);
    assert_eq!(digest.ok().out.trim().len(), 64, "{digest}");
    called(&scene, "shifterimg", &["lookup", "docker:nothing"]).code(1);
    called(&scene, "shifterimg", &["rename", "docker:box", "crate:2"]).ok();
    called(&scene, "shifterimg", &["lookup", "docker:box"]).code(1);
    scene.write("work/volume/file", "shown\n");
    let volume = format!("{}:/mnt:ro", scene.path("work/volume").display());
    let ran = called(
        &scene,
        "shifter",
        &[
            "--image=docker:crate:2",
            "--volume",
            &volume,
            "-E",
            "-e",
            "X=1",
            "sh",
            "-c",
            "cat /mnt/file; echo $X $FROM_IMAGE; exit 7",
        ],
    );
    ran.is(7, "shown\n1 yes\n", "");
    called(
        &scene,
        "shifter",
        &["--image=docker:crate:2", "-V", "/tmp:/etc", "true"],
    )
    .fails(2, &["/etc"]);
    called(&scene, "shifter", &["true"]).fails(2, &["no image was named"]);
    called(&scene, "shifterimg", &["rm", "docker:crate:2"]).ok();
    called(&scene, "shifterimg", &["images"]).is(0, "", "");
}

#[test]
fn c18_e10_what_a_contract_asks_of_an_image() {
    let scene = haven();
    let told = scene.run(["check", "--profile", "ces", "tool"]);
    assert!(
        told.ok().err.contains("note: the image runs as root"),
        "{told}"
    );
    let told = scene.run(["check", "--profile", "eucaim", "tool"]);
    for word in [
        "the label `version` is missing",
        "the image runs as root",
        "/home/ds/datasets",
    ] {
        assert!(told.code(1).err.contains(word), "{word}: {told}");
    }
    let told = scene.run(["check", "--profile", "hpc", "tool"]);
    assert!(!told.err.contains("root"), "{told}");
}

#[test]
fn e7_e8_e13_e14_e15_e17_jobman() {
    let scene = haven();
    scene.write("data/d1/index.json", "[]");
    let place = scene.path("").display().to_string();
    scene.write(
        "settings.toml",
        format!(
            "[profile.eucaim]\ndatasets = \"{place}/data/{{dataset}}:/home/ds/datasets/{{dataset}}:ro\"\n\
             [flavor.small-gpu]\ndescription = \"a slice\"\noptions = {{ cpus-per-task = \"4\", mem = \"32G\", gres = \"gpu:1\", time = \"16:00:00\" }}\n\
             [flavor.no-gpu]\ndefault = true\noptions = {{ cpus-per-task = \"8\", mem = \"64G\" }}\n"
        ),
    );
    let flavors = called(&scene, "jobman", &["resources-flavors"]);
    assert!(
        flavors
            .ok()
            .out
            .contains("small-gpu         4    32G     1    16:00:00  a slice"),
        "{flavors}"
    );
    let submit = |words: &[&str]| {
        let all = [&["submit", "-i", "tool", "--dry-run"], words].concat();
        called(&scene, "jobman", &all)
    };
    let plain = submit(&["--", "-i", "in", "-o", "out", "--", "INPUT_DIR=d 1"]);
    for line in [
        "#SBATCH --job-name=job-",
        "#SBATCH --cpus-per-task=8",
        "--profile eucaim",
        "--entrypoint",
        "--env 'INPUT_DIR=d 1'",
        "-- -i in -o out",
    ] {
        assert!(plain.ok().out.contains(line), "{line}: {plain}");
    }
    let other = submit(&[
        "-r",
        "small-gpu",
        "-j",
        "named",
        "-c",
        "-a",
        "{\"chaimeleon.eu/datasetsIDs\":\"d1\"}",
        "--",
        "ls",
        "-l",
    ]);
    for line in [
        "#SBATCH --gres=gpu:1",
        "#SBATCH --job-name=named",
        "--no-entrypoint",
        "--dataset d1",
        "-- ls -l",
    ] {
        assert!(other.ok().out.contains(line), "{line}: {other}");
    }
    submit(&["-r", "small-cpu"]).fails(2, &["no flavor `small-cpu`", "small-gpu"]);
    submit(&["-a", "{\"chaimeleon.eu/datasetsIDs\":\"d2\"}"])
        .fails(2, &["cannot use the dataset `d2`"]);
    // The user's own settings add a flavor, but do not change the site's.
    let own = |name: &str| {
        format!(
            "{{\"job\": {{\"resources\": {{\"predefined\": [{{\"name\": \"{name}\", \"resources\": {{\"requests\": {{\"cpu\": \"2\"}}}}}}]}}}}}}"
        )
    };
    scene.write("home/.jobman/settings.json", own("mine"));
    let mine = submit(&["-r", "mine"]);
    assert!(mine.ok().out.contains("--cpus-per-task=2"), "{mine}");
    scene.write("work/other.json", own("no-gpu"));
    called(&scene, "jobman", &["-s", "other.json", "resources-flavors"])
        .fails(2, &["cannot be made another one", "flavor.no-gpu"]);
    called(&scene, "jobman", &["log", "-j", "x"]).fails(2, &["use `jobman logs`"]);
    let listed = called(&scene, "jobman", &["images"]);
    assert!(listed.ok().out.contains("library/tool"), "{listed}");
}
