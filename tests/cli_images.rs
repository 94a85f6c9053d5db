//! The commands around the store, as a person uses them.

use crate::image::layout::Layout;
use crate::scene::Scene;

const IMAGE: &str = "layer\nd etc/ 755\nf etc/name 644 one\nlayer\nf big 644 size:2000000\n";

fn scene_with(text: &str) -> Scene {
    let scene = Scene::new();
    Layout::of_text(text).write(&scene.path("work/image"));
    scene
}

fn digest_of(scene: &Scene, name: &str) -> String {
    let outcome = scene.run(["inspect", "-q", name]);
    outcome.ok().out.split('\t').next().unwrap().to_string()
}

#[test]
fn names_come_and_go() {
    let scene = scene_with(IMAGE);
    scene
        .run(["images"])
        .is(0, "REFERENCE  DIGEST  PLATFORM  SIZE  ADDED  STORE\n", "");
    scene.run(["import", "-q", "oci:image", "app:v1"]).ok();
    let digest = digest_of(&scene, "app:v1");
    scene.run(["tag", "app:v1", "site.eu:5000/x/app:v2"]).is(
        0,
        &format!("docker://site.eu:5000/x/app:v2 -> {digest}\n"),
        "",
    );
    assert_eq!(digest_of(&scene, "site.eu:5000/x/app:v2"), digest);
    assert_eq!(digest_of(&scene, &digest[7..15]), digest);
    let list: serde_json::Value =
        serde_json::from_str(&scene.run(["images", "--json"]).ok().out).unwrap();
    assert_eq!(
        list[0]["references"],
        serde_json::json!([
            "docker://docker.io/library/app:v1",
            "docker://site.eu:5000/x/app:v2"
        ])
    );
    scene
        .run(["rm", "-n", "app:v1"])
        .is(0, "would remove docker://docker.io/library/app:v1\n", "");
    scene
        .run(["rm", "app:v1"])
        .is(0, "removed docker://docker.io/library/app:v1\n", "");
    scene
        .run(["inspect", "app:v1"])
        .fails(125, &["no image", "carrack pull app:v1"]);
    // With the last name the image goes.
    assert!(
        scene
            .run(["rm", "site.eu:5000/x/app:v2"])
            .ok()
            .out
            .contains("freed")
    );
    assert_eq!(scene.visible_in_store(), [""; 0]);
    let gone = scene.run(["rm", "app:v1"]);
    gone.fails(125, &["no image", "carrack images"]);
    assert!(!gone.err.contains("carrack pull"), "{gone}");
}

#[test]
fn an_image_travels_with_its_record_and_keeps_its_digest() {
    let here = scene_with(IMAGE);
    here.run(["import", "-q", "oci:image", "app:v1"]).ok();
    let digest = digest_of(&here, "app:v1");
    here.run(["export", "-q", "app:v1", "x.sqsh"]).is(0, "", "");
    here.run(["export", "-q", "app:v1", "x.sqsh"])
        .fails(2, &["exists already", "--force"]);
    let there = Scene::new();
    for name in ["x.sqsh", "x.sqsh.json"] {
        std::fs::copy(here.path("work").join(name), there.path("work").join(name)).unwrap();
    }
    there.run(["import", "-q", "x.sqsh"]).ok();
    assert_eq!(digest_of(&there, "app:v1"), digest);
    there
        .run(["verify", "--all"])
        .is(0, &format!("ok {digest}\n"), "");
    // A damaged copy does not get in.
    let other = Scene::new();
    let mut bytes = std::fs::read(here.path("work/x.sqsh")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    other.write("work/x.sqsh", bytes);
    std::fs::copy(
        here.path("work/x.sqsh.json"),
        other.path("work/x.sqsh.json"),
    )
    .unwrap();
    other.run(["import", "x.sqsh"]).fails(125, &["x.sqsh"]);
    assert_eq!(other.visible_in_store(), [""; 0]);
}

#[test]
fn what_docker_saved_keeps_its_name() {
    let here = scene_with(IMAGE);
    here.run(["import", "-q", "oci:image", "my/app:v3"]).ok();
    here.run(["export", "-q", "my/app:v3", "docker-archive:saved.tar"])
        .ok();
    let there = Scene::new();
    std::fs::copy(here.path("work/saved.tar"), there.path("work/saved.tar")).unwrap();
    there.run(["load", "-q", "-i", "saved.tar"]).ok();
    assert!(digest_of(&there, "my/app:v3").starts_with("sha256:"));
    there.run(["load", "-q", "-i", "saved.tar", "other:1"]).ok();
    assert_eq!(digest_of(&there, "other:1"), digest_of(&there, "my/app:v3"));
    there
        .run(["import", "nothing.here"])
        .fails(2, &["no such file", "carrack pull"]);
}

#[test]
fn one_flipped_byte_is_found_and_named() {
    let scene = scene_with(IMAGE);
    scene.run(["import", "-q", "oci:image", "app:v1"]).ok();
    let line = scene.run(["inspect", "-q", "app:v1"]).out;
    let path = line
        .trim_end()
        .split('\t')
        .nth(1)
        .unwrap()
        .replace("$SCENE/", scene.path("").to_str().unwrap());
    let whole = std::fs::read(&path).unwrap();
    scene.run(["verify", "app:v1"]).is(0, "ok app:v1\n", "");
    let flip = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };
    let metadata = whole.len() - 200;
    for at in [0, 40, 97, 500, 4000, metadata] {
        flip(at);
        let outcome = scene.run(["verify", "app:v1"]);
        outcome.code(125);
        assert!(
            outcome.err.contains("app:v1") || outcome.err.contains(".sqsh"),
            "byte {at}: {outcome}"
        );
    }
    // A block of a file names the file.
    flip(whole.len() / 2);
    assert!(
        scene
            .run(["verify", "app:v1"])
            .err
            .contains("needed by `/big` in the image")
    );
    scene.run(["rm", "-q", "app:v1"]).ok();
}

#[test]
fn gc_frees_what_the_rules_name_and_says_so_first() {
    let scene = scene_with(IMAGE);
    scene.run(["import", "-q", "oci:image", "app:v1"]).ok();
    let packs = || {
        std::fs::read_dir(scene.store().join("packs"))
            .unwrap()
            .count()
    };
    assert!(packs() > 0);
    let before = packs();
    let told = scene.run(["gc", "-n", "--cache-size", "0", "--older-than", "0s"]);
    assert!(
        told.ok().out.contains("would remove sha256:") && told.out.contains("converted layer"),
        "{told}"
    );
    assert_eq!(packs(), before);
    scene.run(["gc", "-q", "--cache-size", "0"]).is(0, "", "");
    assert_eq!(packs(), 0);
    scene.run(["inspect", "-q", "app:v1"]).ok();
    // As a killed pull of another host leaves it.
    let left = scene.write("store/packs/.partial-1-2-elsewhere-x.dat", [0; 3 << 10]);
    let file = std::fs::File::options().write(true).open(&left).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    file.set_modified(long_ago).unwrap();
    let told = "would remove what interrupted commands left: 3K\n3K would be freed\n";
    scene.run(["gc", "-n"]).is(0, told, "");
    let told = "removed what interrupted commands left: 3K\n3K freed\n";
    scene.run(["gc"]).is(0, told, "");
    assert!(!left.exists());
    scene
        .run(["gc", "--older-than", "1d"])
        .is(0, "0B freed\n", "");
    scene.run(["gc", "-q", "--older-than", "0s"]).ok();
    assert_eq!(scene.visible_in_store(), [""; 0]);
    scene
        .run(["gc", "--older-than", "soon"])
        .fails(2, &["soon", "30d"]);
}

#[test]
fn settings_are_shown_with_their_origin_and_mistakes_with_their_line() {
    let scene = Scene::new();
    scene.write("settings.toml", "[conversion]\nlevel = 7\n");
    let shown = scene.run(["config", "show", "--origin", "conversion.level"]);
    assert!(
        shown.ok().out.starts_with("conversion.level = 7 "),
        "{shown}"
    );
    assert!(
        shown.out.contains("user file $SCENE/settings.toml:2"),
        "{shown}"
    );
    scene.run(["config", "check", "../settings.toml"]).ok();
    scene.write("settings.toml", "[conversion]\nlevle = 7\n");
    for words in [["images", "-q"], ["config", "show"]] {
        scene
            .run(words)
            .fails(2, &["settings.toml:2`", "did you mean `level`?"]);
    }
}
