use super::*;
use crate::image::fixture;
use crate::image::progress::Silent;
use crate::squashfs::read::{self, Image};

/// Layers as given, lowest first, each opened from memory.
fn inputs(tars: &[Vec<u8>]) -> Vec<LayerInput> {
    tars.iter()
        .map(|tar| LayerInput {
            digest: Some(Digest::of(tar)),
            size: Some(tar.len() as u64),
            diff_id: None,
            media_type: "layer".into(),
            open: {
                let tar = tar.clone();
                Box::new(move || Ok(Box::new(std::io::Cursor::new(tar.clone()))))
            },
        })
        .collect()
}

/// No mount points: trees are what the layers say.
fn plain() -> Options {
    Options {
        threads: 2,
        mount_points: Vec::new(),
        mount_files: Vec::new(),
        ..Options::default()
    }
}

struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn packs(&self) -> PackCache {
        PackCache::open(self.directory.path().join("packs")).unwrap()
    }

    fn convert(&self, layers: &[LayerInput], options: &Options) -> Result<(Converted, Image)> {
        let output = self.directory.path().join("image.sqsh");
        let converted = convert(layers, &self.packs(), &output, options, &Silent)?;
        let file = std::fs::File::open(&output).unwrap();
        let image = Image::open(file, read::Options::named("test")).unwrap();
        image.check(&converted.squashfs).unwrap();
        assert!(read::verify_all(&image, 1).unwrap().is_none());
        Ok((converted, image))
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("image.sqsh")).unwrap()
    }
}

fn dump(layers: &[&str]) -> String {
    let tars: Vec<_> = layers.iter().map(|text| fixture::layer(text)).collect();
    let (_, image) = Scene::new().convert(&inputs(&tars), &plain()).unwrap();
    image.dump(false).unwrap()
}

#[test]
fn one_layer_is_what_it_says() {
    let text = "d / 755\nd /etc 750\nowner 7 4000000\ntime 1234\nf /etc/hosts 644 hello\nl /a -> etc/hosts\n\
        h /b = /etc/hosts\np /fifo 600\nxattr user.x yes\nf /big 4755 @random 400000\nf /hole 600 @zero 300000\n\
        f /new\\nline\\xff 600";
    assert_eq!(
        dump(&[text]),
        "d 0755 0:0 0 0 3 /\n\
         l 0777 7:4000000 9 1234 1 /a -> etc/hosts\n\
         f 0644 7:4000000 5 1234 2 /b\n\
         f 4755 7:4000000 400000 1234 1 /big user.x=yes\n\
         d 0750 0:0 0 0 2 /etc\n\
         f 0644 7:4000000 5 1234 2 /etc/hosts\n\
         p 0600 7:4000000 0 1234 1 /fifo\n\
         f 0600 7:4000000 300000 1234 1 /hole\n\
         f 0600 7:4000000 0 1234 1 /new\\x0aline\\xff\n"
    );
}

/// Several kinds of files, in three layers, with duplicates and hidden content.
const STACK: [&str; 3] = [
    "d /usr 755\nf /usr/a 644 @random 700000\nf /usr/b 644 @text 500000\nf /usr/small 644 x\nf /dup 600 @text 300000\n\
     h /usr/c = /usr/a\nf /old 644 @random 90000",
    "w /old\nf /usr/a 644 @random 10000\nf /usr/copy 644 @text 200000\nf /bin/sh 755 @text 150000",
    "f /usr/z 644 @zero 1000000\nl /usr/l -> a\nf /small 600 tail",
];

#[test]
fn equal_layers_give_equal_bytes() {
    let tars: Vec<_> = STACK.iter().map(|text| fixture::layer(text)).collect();
    let gzip: Vec<_> = tars.iter().map(|tar| fixture::gzip(tar)).collect();
    let zstd: Vec<_> = tars.iter().map(|tar| fixture::zstd(tar)).collect();
    let mut images = Vec::new();
    for threads in [1, 2, 8] {
        for layers in [&tars, &gzip, &zstd] {
            let scene = Scene::new();
            let options = Options {
                threads,
                ..Options::default()
            };
            let (converted, _) = scene.convert(&inputs(layers), &options).unwrap();
            let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
            assert_eq!(converted.diff_ids, diff_ids);
            images.push(scene.bytes());
            // Once more from packs: nothing is opened.
            let from_packs: Vec<_> = diff_ids
                .into_iter()
                .map(|diff_id| LayerInput {
                    digest: None,
                    size: None,
                    diff_id: Some(diff_id),
                    media_type: String::new(),
                    open: Box::new(|| Err(Error::new("a layer with a pack was opened"))),
                })
                .collect();
            scene.convert(&from_packs, &options).unwrap();
            images.push(scene.bytes());
        }
    }
    assert!(images.iter().all(|image| *image == images[0]));
}
