//! Signed images from a real registry: signed by openssl's hand in cosign's form, verified at the pull and at the launch.

use super::Site;
use crate::image::layout::{Layout, architecture, descriptor, put, sha256, write_index};
use crate::need::need;
use crate::registry::{Manners, Registry};
use crate::scene::Scene;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = r#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#;
const IMAGE: &str = "layer\nd bin/ 755\nf bin/x 755 one\n";

fn openssl(scene: &Scene, words: &[&str]) -> Vec<u8> {
    let mut command = scene.program(crate::need::program("openssl").unwrap());
    let output = command
        .current_dir(scene.path(""))
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A key pair `NAME.key`, `NAME.pub`.
fn key(site: &Site, name: &str) -> String {
    let (private, public) = (format!("{name}.key"), format!("prefix/etc/{name}.pub"));
    openssl(
        &site.scene,
        &[
            "ecparam",
            "-genkey",
            "-name",
            "prime256v1",
            "-noout",
            "-out",
            &private,
        ],
    );
    openssl(
        &site.scene,
        &["ec", "-in", &private, "-pubout", "-out", &public],
    );
    let path = site.scene.path(&public);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    path.to_str().unwrap().to_string()
}

/// Pushes a signature over a digest under cosign's tag.
fn sign(site: &Site, registry: &Registry, key: &str, digest: &str, says: &str) {
    let manifest = signature(site, key, says);
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor(MANIFEST, manifest.as_bytes())] });
    let layout = site.scene.path("signature");
    write_index(&layout, &index);
    let tag = format!("{}.sig", digest.replace(':', "-"));
    registry.push(&layout, "test/image", &tag);
}

/// Writes a signature as an image of one layer into the layout `signature`; gives its manifest.
fn signature(site: &Site, key: &str, says: &str) -> String {
    let scene = &site.scene;
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":""}},"image":{{"docker-manifest-digest":"{says}"}},"type":"cosign container image signature"}},"optional":null}}"#
    );
    scene.write("payload", &payload);
    openssl(
        scene,
        &[
            "dgst",
            "-sha256",
            "-sign",
            &format!("{key}.key"),
            "-out",
            "raw",
            "payload",
        ],
    );
    let signature = String::from_utf8(openssl(scene, &["base64", "-A", "-in", "raw"])).unwrap();
    let layout = scene.path("signature");
    put(&layout, CONFIG.as_bytes());
    put(&layout, payload.as_bytes());
    let mut layer = descriptor(
        "application/vnd.dev.cosign.simplesigning.v1+json",
        payload.as_bytes(),
    );
    layer["annotations"] =
        serde_json::json!({ "dev.cosignproject.cosign/signature": signature.trim() });
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", CONFIG.as_bytes()),
        "layers": [layer],
    })
    .to_string();
    put(&layout, manifest.as_bytes());
    manifest
}

#[test]
fn n4_only_what_the_sites_key_signed_runs() {
    need!(Registry, Openssl);
    let site = Site::new();
    let registry = Registry::start(&site.scene.path(""), Manners::default());
    Layout::of_text(IMAGE).write(&site.scene.path("layout"));
    registry.push(&site.scene.path("layout"), "test/image", "v1");
    let digest = sha256(Layout::of_text(IMAGE).manifest().to_string().as_bytes());
    let (ours, _) = (key(&site, "ours"), key(&site, "theirs"));
    let reference = format!("{}/test/image:v1", registry.host());
    let trust = format!("[trust]\nrequire = \"cosign-key\"\nkeys = [\"{ours}\"]\n");
    let plan = || site.run(&["exec", "--dry-run", "--no-home", &reference, "/bin/x"]);
    let pull = || site.run(&["pull", "-q", &reference]);
    let rule = "not signed as the site requires (`trust.require`)";

    // In the store before the site asked for signatures.
    site.settings("");
    pull().ok();
    plan().ok();
    site.settings(&trust);
    plan().fails(2, &[rule, "no signature was found"]);
    pull().fails(2, &[rule, "no signature was found"]);
    // Somebody else's signature, or ours over something else.
    sign(&site, &registry, "theirs", &digest, &digest);
    pull().fails(2, &[rule, "none of the site's keys"]);
    sign(&site, &registry, "ours", &digest, &sha256(b"other"));
    pull().fails(2, &[rule, "over another image"]);
    plan().fails(2, &[rule]);
    sign(&site, &registry, "ours", &digest, &digest);
    pull().ok();
    plan().ok();
    // A launch asks nobody, and believes no file that was changed.
    drop(registry);
    plan().ok();
    let proof = site
        .scene
        .store()
        .join("signatures")
        .join(format!("{}.json", &digest["sha256:".len()..]));
    let text = std::fs::read_to_string(&proof).unwrap();
    for changed in [
        String::new(),
        text.replace("signatures", "signature"),
        text.replacen("\"payload\":\"e", "\"payload\":\"f", 1),
    ] {
        std::fs::write(&proof, changed).unwrap();
        plan().fails(2, &[rule]);
    }
    std::fs::write(&proof, text).unwrap();
    plan().ok();
    // Another key of the site: what ours signed counts no more. A digest that is named needs no signature.
    site.settings(&trust.replace("ours", "theirs"));
    plan().fails(2, &[rule]);
    site.settings(&format!(
        "{}digests = [\"{digest}\"]\n",
        trust.replace("ours", "theirs")
    ));
    plan().ok();
    // Files and directories carry none; a key that is missing or that others can write stops everything.
    site.settings(&trust);
    site.inside(&[], "true").fails(2, &["carries no signature"]);
    std::fs::set_permissions(&ours, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    plan().fails(125, &["cannot trust `"]);
    std::fs::remove_file(&ours).unwrap();
    plan().fails(2, &["cannot find the key `"]);
}

#[test]
fn n4_an_index_may_be_signed_and_a_list_of_referrers_names_the_signature() {
    need!(Registry, Openssl);
    let site = Site::new();
    let registry = Registry::start(&site.scene.path(""), Manners::default());
    let ours = key(&site, "ours");
    key(&site, "theirs");
    site.settings(&format!(
        "[trust]\nrequire = \"cosign-key\"\nkeys = [\"{ours}\"]\n"
    ));
    let reference = format!("{}/test/image:v1", registry.host());
    let rule = "not signed as the site requires (`trust.require`)";
    // An index over the image, and the image itself.
    let layout = site.scene.path("layout");
    Layout::of_text(IMAGE).write(&layout);
    let manifest = Layout::of_text(IMAGE).manifest().to_string();
    let mut entry = descriptor(MANIFEST, manifest.as_bytes());
    entry["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture() });
    let index = |entries: serde_json::Value| {
        serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries })
            .to_string()
    };
    let over = index(serde_json::json!([entry]));
    put(&layout, over.as_bytes());
    let top = |bytes: &str| index(serde_json::json!([descriptor(INDEX, bytes.as_bytes())]));
    let write_top = |layout: &std::path::Path, bytes: &str| {
        write_index(layout, &serde_json::from_str(&top(bytes)).unwrap());
    };
    write_top(&layout, &over);
    registry.push(&layout, "test/image", "v1");
    let digest = sha256(over.as_bytes());
    let pull = || site.run(&["pull", "-q", &reference]);
    let refer = |key: &str| {
        let manifest = signature(&site, key, &digest);
        let mut entry = descriptor(MANIFEST, manifest.as_bytes());
        entry["artifactType"] = "application/vnd.dev.cosign.artifact.sig.v1+json".into();
        let list = index(serde_json::json!([entry]));
        let layout = site.scene.path("signature");
        put(&layout, list.as_bytes());
        write_top(&layout, &list);
        registry.push(&layout, "test/image", &digest.replace(':', "-"));
    };
    pull().fails(2, &[rule, "no signature was found"]);
    refer("theirs");
    pull().fails(2, &[rule, "none of the site's keys"]);
    refer("ours");
    pull().ok();
    let plan = || site.run(&["exec", "--dry-run", "--no-home", &reference, "/bin/x"]);
    drop(registry);
    plan().ok();
}
