//! Images with very many files: what the merge holds for each entry decides how large an image fits into the bound.

use crate::Scene;
use crate::measure::{Table, cost};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const ENTRIES: usize = 1_200_000;

pub fn run(scene: &Scene, table: &mut Table) {
    let run = &scene.run;
    let tar = run.join("many.tar.gz");
    write(&tar).expect("an archive of many entries");
    let at = run.display();
    let pull = cost(
        run,
        &format!(
            "{} pull -q --store {at}/store {}",
            scene.carrack.display(),
            tar.display()
        ),
    );
    table.bound(
        "1.2 million entries, peak memory",
        format!("{:.2} s, {:.0} MiB", pull.wall, pull.rss / 1024.0),
        pull.rss / 1024.0,
        128.0,
        " MiB",
    );
    let _ = std::fs::remove_file(tar);
    let _ = std::fs::remove_dir_all(run.join("store"));
}

/// Small files with long names, as package managers of languages leave them.
fn write(path: &Path) -> std::io::Result<()> {
    let file = BufWriter::new(File::create(path)?);
    let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let mut block = [0u8; 1024];
    for index in 0..ENTRIES {
        block.fill(0);
        let name = format!(
            "opt/site-packages/package_{:05}/module_{:03}_{index:07}.py",
            index / 200,
            index % 200
        );
        let body = format!("value = {index}\n");
        let mut put = |at: usize, text: &str| {
            block[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, &name);
        put(100, "0000644");
        put(108, &format!("{:07o}", index % 5));
        put(116, "0000000");
        put(124, &format!("{:011o}", body.len()));
        put(136, &format!("{:011o}", 1_600_000_000 + index % 100_000));
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        put(512, &body);
        let sum: u32 = block[..512].iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.write_all(&block)?;
    }
    out.write_all(&[0; 1024])?;
    out.finish()?.flush()
}
