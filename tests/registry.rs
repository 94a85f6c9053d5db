//! A real registry for one test: Debian's docker-registry on a free port of the loopback, gone with the value.
//!
//! Images are pushed by plain HTTP requests written here, so that a push does not depend on what is tested. A registry
//! that speaks https or asks for a password shares its storage with a plain one, which takes the pushes.

use crate::need::program;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Registry {
    child: Child,
    port: u16,
    directory: PathBuf,
    log: PathBuf,
    storage: PathBuf,
}

/// How a registry wants to be spoken to.
#[derive(Clone, Copy, Default)]
pub struct Manners<'a> {
    /// https, with a certificate of an authority that only this test knows.
    pub tls: bool,
    /// Asks for this user and password.
    pub login: Option<(&'a str, &'a str)>,
}

#[allow(dead_code)] // vocabulary for tests
impl Registry {
    /// Starts one in a directory of its own under `scene`.
    pub fn start(scene: &Path, manners: Manners) -> Registry {
        Registry::start_on(scene, manners, None)
    }

    /// Another door to the same images.
    pub fn beside(&self, scene: &Path, manners: Manners) -> Registry {
        Registry::start_on(scene, manners, Some(&self.storage))
    }

    fn start_on(scene: &Path, manners: Manners, storage: Option<&Path>) -> Registry {
        let directory = tempfile::Builder::new()
            .prefix("registry.")
            .tempdir_in(scene)
            .unwrap()
            .keep();
        let storage = storage.map_or(directory.join("storage"), Path::to_path_buf);
        if manners.tls {
            make_certificates(&directory);
        }
        if let Some((user, password)) = manners.login {
            let made = Command::new(program("htpasswd").expect("htpasswd"))
                .args(["-B", "-b", "-c"])
                .arg(directory.join("htpasswd"))
                .args([user, password])
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(made.success());
        }
        // Another process may take the free port between the look and the start: look again.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            if let Some(registry) = Registry::try_start(&directory, &storage, manners, port) {
                return registry;
            }
        }
        panic!(
            "docker-registry does not start; see {}",
            directory.display()
        );
    }

    fn try_start(
        directory: &Path,
        storage: &Path,
        manners: Manners,
        port: u16,
    ) -> Option<Registry> {
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            storage.display()
        );
        let at = directory.display();
        if manners.tls {
            config +=
                &format!("  tls:\n    certificate: {at}/server.crt\n    key: {at}/server.key\n");
        }
        if manners.login.is_some() {
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {at}/htpasswd\n");
        }
        std::fs::write(directory.join("config.yml"), config).unwrap();
        let log = directory.join("log");
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new(program("docker-registry").expect("docker-registry"))
            .arg("serve")
            .arg(directory.join("config.yml"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut registry = Registry {
            child,
            port,
            directory: directory.into(),
            log,
            storage: storage.into(),
        };
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if registry.child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of the authority that signed the registry's.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Where it keeps what was pushed.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Lines of the registry's log for requests whose text contains all of the words.
    pub fn requests(&self, words: &[&str]) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines()
            .filter(|line| line.contains(" - - ["))
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    /// Pushes the image that `tag` names in an OCI layout: all blobs, then the documents.
    pub fn push(&self, layout: &Path, repository: &str, tag: &str) {
        let read = |path: &Path| std::fs::read(path).unwrap();
        let blob = |digest: &str| read(&layout.join("blobs").join(digest.replace(':', "/")));
        let index: serde_json::Value =
            serde_json::from_slice(&read(&layout.join("index.json"))).unwrap();
        let top = &index["manifests"][0];
        let mut documents = vec![(
            top["digest"].as_str().unwrap().to_string(),
            top["mediaType"].as_str().unwrap_or_default().to_string(),
            tag.to_string(),
        )];
        let mut done = 0;
        while done < documents.len() {
            let (digest, _, _) = documents[done].clone();
            done += 1;
            let document: serde_json::Value = serde_json::from_slice(&blob(&digest)).unwrap();
            for child in document["manifests"].as_array().into_iter().flatten() {
                let digest = child["digest"].as_str().unwrap().to_string();
                let kind = child["mediaType"].as_str().unwrap_or_default().to_string();
                documents.push((digest.clone(), kind, digest));
            }
            let layers = document["layers"].as_array().into_iter().flatten();
            for part in layers.chain(document.get("config")) {
                let digest = part["digest"].as_str().unwrap();
                self.push_blob(repository, digest, &blob(digest));
            }
        }
        for (digest, kind, name) in documents.iter().rev() {
            let path = format!("/v2/{repository}/manifests/{name}");
            let (status, answer) =
                self.request("PUT", &path, &[("Content-Type", kind)], &blob(digest));
            assert_eq!(status, 201, "pushing {name}: {answer}");
        }
    }

    fn push_blob(&self, repository: &str, digest: &str, content: &[u8]) {
        let (status, _) = self.request(
            "HEAD",
            &format!("/v2/{repository}/blobs/{digest}"),
            &[],
            b"",
        );
        if status == 200 {
            return;
        }
        let (status, head) = self.request(
            "POST",
            &format!("/v2/{repository}/blobs/uploads/"),
            &[],
            b"",
        );
        assert_eq!(status, 202, "{head}");
        let location = head
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .unwrap()
            .trim();
        let path = location
            .strip_prefix(&format!("http://{}", self.host()))
            .unwrap_or(location);
        let joint = if path.contains('?') { '&' } else { '?' };
        let (status, head) = self.request(
            "PUT",
            &format!("{path}{joint}digest={digest}"),
            &[("Content-Type", "application/octet-stream")],
            content,
        );
        assert_eq!(status, 201, "{head}");
    }

    /// One plain HTTP request: status and head (with the body for errors).
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.host(),
            body.len()
        );
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"\r\n").unwrap();
        // The registry may answer an error before it has read everything.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        (status, answer)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority and a certificate for 127.0.0.1 and localhost, signed by it.
fn make_certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let done = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "openssl {arguments}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    std::fs::write(
        directory.join("extensions"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=test-authority -addext basicConstraints=critical,CA:TRUE"
    ));
    openssl(&format!(
        "req {key} -keyout server.key -out server.csr -subj /CN=127.0.0.1"
    ));
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.crt",
    );
}

#[test]
fn a_registry_starts_and_answers() {
    crate::need::need!(Registry, Openssl, Htpasswd);
    let scene = crate::scene::Scene::new();
    let plain = Registry::start(&scene.path(""), Manners::default());
    assert_eq!(plain.request("GET", "/v2/", &[], b"").0, 200);
    let closed = Registry::start(
        &scene.path(""),
        Manners {
            login: Some(("alice", "secret")),
            ..Manners::default()
        },
    );
    assert_eq!(closed.request("GET", "/v2/", &[], b"").0, 401);
    let tls = plain.beside(
        &scene.path(""),
        Manners {
            tls: true,
            ..Manners::default()
        },
    );
    assert!(tls.authority().exists());
    assert_eq!(tls.request("GET", "/v2/", &[], b"").0, 400, "http to https");
}
