//! carrack beside what the distribution packages. `scripts/bench` prepares the images and starts this as a plain user.
//!
//! Every line is a ratio or a bound with its target. Each measurement is repeated and the best run counts: noise only
//! ever adds.

#[path = "peers/floor.rs"]
mod floor;
#[path = "peers/image.rs"]
mod image;
#[path = "peers/launch.rs"]
mod launch;
#[path = "peers/many.rs"]
mod many;
#[path = "peers/measure.rs"]
mod measure;

use measure::Table;
use std::path::PathBuf;

/// What `scripts/bench` prepared.
pub struct Scene {
    /// `layout` (tags v1, v2, tiny), `directory`, `peer.squashfs`.
    pub images: PathBuf,
    /// Scratch room, empty.
    pub run: PathBuf,
    pub carrack: PathBuf,
}

fn main() {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(images), Some(run), Some(carrack)) =
        (path("BENCH_IMAGES"), path("BENCH_RUN"), path("CARRACK"))
    else {
        // `cargo test --benches` and `cargo bench` come without preparation.
        eprintln!("run `make bench`");
        return;
    };
    let scene = Scene {
        images,
        run,
        carrack,
    };
    let mut table = Table::default();
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let asked = |part: &str| parts.iter().any(|word| word == part);
    if asked("image") {
        image::run(&scene, &mut table);
        many::run(&scene, &mut table);
    }
    let launch: Vec<&str> = ["start", "read"].into_iter().filter(|p| asked(p)).collect();
    if !launch.is_empty() {
        launch::run(&scene, &mut table, &launch);
    }
    table.print();
}
