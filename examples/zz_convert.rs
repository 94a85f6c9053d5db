use carrack::image::convert::*;
use carrack::image::progress::Silent;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let packs = PackCache::open(&args[1]).unwrap();
    let mut options = Options::default();
    if let Ok(t) = std::env::var("T") {
        options.threads = t.parse().unwrap();
    }
    if std::env::var("PLAIN").is_ok() {
        options.mount_points.clear();
        options.mount_files.clear();
    }
    let layers: Vec<LayerInput> = args[3..]
        .iter()
        .map(|path| {
            let (path, diff) = path
                .split_once('=')
                .map(|(a, b)| (a.to_string(), Some(b.parse().unwrap())))
                .unwrap_or((path.clone(), None));
            LayerInput {
                digest: None,
                size: None,
                diff_id: diff,
                media_type: path.clone(),
                open: Box::new(move || Ok(Box::new(std::fs::File::open(&path).unwrap()))),
            }
        })
        .collect();
    let start = std::time::Instant::now();
    match convert(
        &layers,
        &packs,
        std::path::Path::new(&args[2]),
        &options,
        &Silent,
    ) {
        Ok(done) => println!("{done:#?}\n{:?}", start.elapsed()),
        Err(error) => {
            error.print();
            std::process::exit(125)
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!(
        "{}",
        status.lines().find(|l| l.starts_with("VmHWM")).unwrap()
    );
}
