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
    scene.run(["check", "cuda:12"]).is(
        1,
        "",
        &format!("problem: the image's CUDA 12.4.127 needs driver 525 or newer, the node has 470.82.1\n  hint:  {advice}\n"),
    );
    scene.write(
        "work/job.toml",
        "[job]\ngpus-per-node = 1\n[container]\nimage = \"cuda:12\"\n[[step]]\ncommand = [\"/bin/ap\"]\n",
    );
    let job = scene.run(["check", "job.toml"]);
    assert_eq!(job.code, 1, "{job}");
    for part in ["job.toml:6: the image's CUDA", "`/bin/ap`", advice] {
        assert!(job.err.contains(part), "{part}: {job}");
    }
    let json = scene.run(["check", "--json", "cuda:12"]);
    assert!(
        json.out.contains("\"weight\": \"problem\"") && json.err.is_empty(),
        "{json}"
    );
    // Nothing against it: nothing is said.
    scene.write("settings.toml", "");
    scene.run(["check", "cuda:12"]).is(0, "", "");
    scene
        .run(["check", "nowhere.toml"])
        .fails(125, &["nowhere.toml"]);
}
