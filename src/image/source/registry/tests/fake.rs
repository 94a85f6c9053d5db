//! A server of this test's own, and the one small image that it serves.

use crate::image::digest::Digest;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub line: String,
    pub head: String,
    pub body: String,
}

impl Asked {
    pub fn is(&self, part: &str) -> bool {
        self.line.contains(part)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

type Answer = Box<dyn Fn(&Asked, usize) -> Vec<u8> + Send + Sync>;

/// A server on a free port; the closure gets each request and how many there were before.
pub struct Server {
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Asked, usize) -> Vec<u8> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (list, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(Box::new(answer)));
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (list, answer) = (list.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &list, &answer));
            }
        });
        Server { host, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// One request per connection; what is no HTTP (a TLS greeting) is hung up on.
fn serve(mut stream: TcpStream, list: &Mutex<Vec<Asked>>, answer: &Answer) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) || head.first() == Some(&0x16) {
            return;
        }
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let mut asked = Asked {
        line: head.lines().next().unwrap().to_string(),
        head,
        body: String::new(),
    };
    let length = asked
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    asked.body = String::from_utf8(body).unwrap();
    let before = {
        let mut list = list.lock().unwrap();
        list.push(asked.clone());
        list.len() - 1
    };
    let answer = answer(&asked, before);
    // The client may have gone; that is its business.
    match answer.strip_suffix(SILENCE) {
        Some(part) => {
            let _ = stream.write_all(part);
            // Until the client hangs up.
            let _ = stream.read(&mut byte);
        }
        None => {
            let _ = stream.write_all(&answer);
        }
    }
}

/// Behind an answer: nothing more comes, and the connection stays open.
pub const SILENCE: &[u8] = b"\0silence";

pub fn reply(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    let given = |name: &str| {
        headers
            .iter()
            .any(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    if !given("content-length") {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        text += &format!("{name}: {value}\r\n");
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

/// The image that all servers here have.
#[derive(Clone)]
pub struct Image {
    pub manifest: String,
    pub config: String,
    pub layer: Vec<u8>,
}

impl Image {
    pub fn new() -> Image {
        let layer: Vec<u8> = (0..200_000u32)
            .map(|i| (i.wrapping_mul(i) >> 7) as u8)
            .collect();
        let digest = Digest::of(&layer);
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"diff_ids":["{digest}"]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
            Digest::of(config.as_bytes()),
            config.len(),
            layer.len()
        );
        Image {
            manifest,
            config,
            layer,
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    pub fn is_layer(&self, asked: &Asked) -> bool {
        asked.is(&Digest::of(&self.layer).hex())
    }

    /// What a registry without moods says.
    pub fn answer(&self, asked: &Asked) -> Vec<u8> {
        if asked.is("/manifests/") {
            let digest = self.digest().to_string();
            let kind = "application/vnd.oci.image.manifest.v1+json";
            return reply(
                "200 OK",
                &[("Docker-Content-Digest", &digest), ("Content-Type", kind)],
                self.manifest.as_bytes(),
            );
        }
        if self.is_layer(asked) {
            return self.part(asked);
        }
        if asked.is("/blobs/") {
            return reply("200 OK", &[], self.config.as_bytes());
        }
        reply("200 OK", &[], b"{}")
    }

    /// The layer, or the range of it that is asked for.
    pub fn part(&self, asked: &Asked) -> Vec<u8> {
        let Some(range) = asked.header("range") else {
            return reply("200 OK", &[], &self.layer);
        };
        let (first, last) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let size = self.layer.len();
        assert_eq!(last, size - 1, "the range is closed and reaches the end");
        let range = format!("bytes {first}-{last}/{size}");
        reply(
            "206 Partial Content",
            &[("Content-Range", &range)],
            &self.layer[first..],
        )
    }

    pub fn served_with(
        &self,
        mood: impl Fn(&Image, &Asked, usize) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Server {
        let image = self.clone();
        Server::start(move |asked, before| {
            mood(&image, asked, before).unwrap_or_else(|| image.answer(asked))
        })
    }
}
