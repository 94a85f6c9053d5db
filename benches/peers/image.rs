//! From a registry to one squashfs file.

use crate::Scene;
use crate::floor;
use crate::measure::{Cost, Table, best, cost};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MIB: f64 = 1024.0 * 1024.0;

pub fn run(scene: &Scene, table: &mut Table) {
    let registry = Registry::start(scene);
    let run = &scene.run;
    let carrack = scene.carrack.display();
    let at = run.display();
    let reference = |tag: &str| format!("{}/bench/image:{tag}", registry.host);
    let pull = |tag: &str| {
        format!(
            "{carrack} pull -q --store {at}/store {} > {at}/line",
            reference(tag)
        )
    };
    let clear = || {
        let _ = std::fs::remove_dir_all(run.join("store"));
        // The disk is done with it before the next one is measured.
        rustix::fs::sync();
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);

    table.heading("An image from a registry on the loopback to one squashfs file");
    let layers = layers(&scene.images.join("layout"), "v1");
    let mut floor = floor::measure(&layers, cores);
    table.told(
        "the image",
        format!(
            "{} layers, {:.0} MiB stored, {:.0} MiB inflated, {cores} cores",
            layers.len(),
            floor.stored as f64 / MIB,
            floor.raw as f64 / MIB
        ),
    );
    // In turns, and the least of several for both: a machine that slows down in between makes neither look better.
    let cold = best(4, || {
        clear();
        let cold = cost(run, &pull("v1"));
        floor = std::mem::take(&mut floor).or_less(floor::measure(&layers, cores));
        cold
    });
    table.told(
        "the floor, CPU s",
        format!(
            "inflate {:.2} + hash {:.2} + compress {:.2} = {:.2}, over the cores {:.2}",
            floor.inflate,
            floor.hash,
            floor.compress,
            floor.cpu(),
            floor.cpu() / cores as f64
        ),
    );
    let ours = squashfs_size(run);
    let peer_script = format!(
        "rm -rf {at}/peer; mkdir {at}/peer; cd {at}/peer\n\
         skopeo copy -q --src-tls-verify=false docker://{} oci:layout:v1\n\
         umoci unpack --rootless --image layout:v1 bundle\n\
         mksquashfs bundle/rootfs out.squashfs -comp zstd -Xcompression-level 3 -no-progress -quiet",
        reference("v1")
    );
    let peer = best(2, || cost(run, &peer_script));
    let theirs = size(&run.join("peer/out.squashfs"));
    let _ = Command::new("chmod")
        .args(["-R", "u+rwX"])
        .arg(run.join("peer"))
        .status();
    let _ = std::fs::remove_dir_all(run.join("peer"));

    let against = "skopeo + umoci + mksquashfs -comp zstd -Xcompression-level 3";
    table.ratio(
        &format!("cold, wall, against {against}"),
        cold.wall,
        peer.wall,
        "s",
        0.30,
    );
    table.ratio("cold, CPU, against the same", cold.cpu, peer.cpu, "s", 0.38);
    table.bound(
        "cold, peak memory",
        format!("{:.0} / {:.0} MiB", cold.rss / 1024.0, peer.rss / 1024.0),
        cold.rss / 1024.0,
        128.0,
        " MiB",
    );
    table.ratio("size of the output", ours / MIB, theirs / MIB, "MiB", 1.02);
    let floor_wall = floor.cpu() / cores as f64;
    // The registry runs on the same cores, and what it needs is in this number.
    table.ratio(
        "cold, wall, against the floor",
        cold.wall,
        floor_wall,
        "s",
        1.2,
    );
    let local = best(3, || {
        clear();
        let layout = scene.images.join("layout");
        cost(
            run,
            &format!(
                "{carrack} pull -q --store {at}/store oci:{}:v1",
                layout.display()
            ),
        )
    });
    table.told(
        "the same without a registry (OCI layout), wall",
        format!(
            "{:.2} / {floor_wall:.2} s = {:.2}×",
            local.wall,
            local.wall / floor_wall
        ),
    );
    podman(scene, &reference("v1"), cold, table);

    let warm = best(3, || {
        let _ = std::fs::remove_dir_all(run.join("store/images"));
        let _ = std::fs::remove_dir_all(run.join("store/refs"));
        cost(run, &pull("v1"))
    });
    table.ratio("from packs, against cold", warm.wall, cold.wall, "s", 0.1);
    let changed = best(2, || {
        clear();
        cost(run, &pull("v1"));
        cost(run, &pull("v2"))
    });
    table.ratio(
        "one changed layer, against cold",
        changed.wall,
        cold.wall,
        "s",
        0.3,
    );
    let tiny = best(5, || {
        clear();
        cost(run, &pull("tiny"))
    });
    table.bound(
        "an image of 4 MB",
        format!("{:.2} s", tiny.wall),
        tiny.wall,
        0.2,
        " s",
    );
    clear();
}

fn podman(scene: &Scene, reference: &str, cold: Cost, table: &mut Table) {
    if !Path::new("/usr/bin/podman").exists() {
        table.told("podman pull", "not installed".into());
        return;
    }
    // It refuses a run directory with a path longer than 50 characters.
    let short = format!("/tmp/bench-podman-{}", std::process::id());
    let at = scene.run.display();
    let podman = format!("podman --root {at}/podman --runroot {short}");
    let clear = || {
        let _ = Command::new("podman")
            .args(["unshare", "rm", "-rf", &short])
            .arg(scene.run.join("podman"))
            .status();
    };
    let works = Command::new("sh")
        .args(["-c", &format!("{podman} info >/dev/null 2>&1")])
        .status();
    if !works.is_ok_and(|status| status.success()) {
        clear();
        table.told("podman pull", "does not run here: see `podman info`".into());
        return;
    }
    let theirs = cost(
        &scene.run,
        &format!("{podman} pull -q --tls-verify=false {reference} >/dev/null"),
    );
    clear();
    table.told(
        "podman pull (unpacks, makes no squashfs)",
        format!(
            "{:.2} / {:.2} s = {:.2}×",
            cold.wall,
            theirs.wall,
            cold.wall / theirs.wall
        ),
    );
}

fn size(path: &Path) -> f64 {
    std::fs::metadata(path).map_or(0.0, |meta| meta.len() as f64)
}

/// Of the file that the last pull printed.
fn squashfs_size(run: &Path) -> f64 {
    let line = std::fs::read_to_string(run.join("line")).unwrap_or_default();
    let path = line.trim_end().split('\t').nth(1).unwrap_or_default();
    size(Path::new(path))
}

/// Blobs of the layers that a tag of an OCI layout names.
fn layers(layout: &Path, tag: &str) -> Vec<PathBuf> {
    let json = |path: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("a document")).expect("JSON")
    };
    let blob = |digest: &Value| {
        let name = digest.as_str().expect("a digest").replace(':', "/");
        layout.join("blobs").join(name)
    };
    let index = json(&layout.join("index.json"));
    let manifests = index["manifests"].as_array().expect("manifests");
    let manifest = manifests
        .iter()
        .find(|m| m["annotations"]["org.opencontainers.image.ref.name"] == tag)
        .expect("the tag");
    json(&blob(&manifest["digest"]))["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|layer| blob(&layer["digest"]))
        .collect()
}

/// docker-registry with the images, gone with the value.
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    fn start(scene: &Scene) -> Registry {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number");
        drop(listener);
        let config = scene.run.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            scene.run.join("registry").display()
        );
        std::fs::write(&config, text).expect("its configuration");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry");
        let registry = Registry {
            child,
            host: address.to_string(),
        };
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for tag in ["v1", "v2", "tiny"] {
            let from = format!("oci:{}:{tag}", scene.images.join("layout").display());
            let to = format!("docker://{address}/bench/image:{tag}");
            let pushed = Command::new("skopeo")
                .args(["copy", "-q", "--dest-tls-verify=false", &from, &to])
                .status()
                .expect("skopeo");
            assert!(pushed.success(), "{to}");
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
