//! `carrack check`: findings before the queue, on a machine without Slurm.

use crate::scene::Scene;

#[test]
fn an_image_and_a_job_before_the_queue() {
    let scene = Scene::new();
    scene.write("settings.toml", "[launch]\ngpu_driver = \"470.82.01\"\n");
    scene.write("root/usr/local/cuda/lib64/libcudart.so.12.4.127", "x");
    scene.write("root/bin/app", "#!");
    let tree = scene.path("root");
    scene
        .run(["import", "-q", tree.to_str().unwrap(), "cuda:12"])
        .ok();
    let advice = "choose nodes with driver 525 or newer, or an image built for CUDA 11.4 or older";
    let image = scene.run(["check", "cuda:12"]);
    assert_eq!((image.code, image.out.as_str()), (1, ""), "{image}");
    for part in [
        &format!(
            "problem: the image's CUDA 12.4.127 needs driver 525 or newer, the node has 470.82.1\n  hint:  {advice}\n"
        ),
        "\nnote: the cluster was not asked: ",
    ] {
        assert!(image.err.contains(part), "{part}: {image}");
    }
    scene.write(
        "work/job.toml",
        "[job]\ngpus-per-node = 1\n[container]\nimage = \"cuda:12\"\n[[step]]\ncommand = [\"/bin/ap\"]\n[[stage]]\nin = \"/nosuch\"\nto = \"$TMPDIR/in\"\n",
    );
    let job = scene.run(["check", "job.toml"]);
    assert_eq!(job.code, 1, "{job}");
    for part in [
        "job.toml:6: the image's CUDA",
        "`/bin/ap`",
        advice,
        "problem: job.toml:8: `/nosuch`, which is to be copied, does not exist here\n",
    ] {
        assert!(job.err.contains(part), "{part}: {job}");
    }
    let json = scene.run(["check", "--json", "cuda:12"]);
    assert!(
        json.out.contains("\"weight\": \"problem\"") && json.err.is_empty(),
        "{json}"
    );
    // Nothing against it: nothing is said but that nobody asked Slurm, and of a job for this machine not even that.
    scene.write("settings.toml", "");
    let fine = scene.run(["check", "cuda:12"]);
    let lines: Vec<&str> = fine.err.lines().collect();
    assert_eq!((fine.code, lines.len()), (0, 2), "{fine}");
    assert!(
        lines[0].starts_with("note: the cluster was not asked: "),
        "{fine}"
    );
    let local = scene.run(["check", "--local", "cuda:12", "/bin/app"]);
    assert!(!local.err.contains("was not asked"), "{local}");
    scene
        .run(["check", "nowhere.toml"])
        .fails(2, &["nowhere.toml"]);
}
