//! A registry on a bad day: passes requests on to a real one, and spoils the answers that a test names.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What happens to one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    No,
    /// The connection closes after this many bytes of the body.
    CutAfter(usize),
    /// 429 with `Retry-After: 1`.
    Busy,
    /// This status, without a body.
    Status(u16),
    /// 307 to the same path on another port.
    RedirectTo(u16),
    /// The answer has no content-length.
    NoLength,
}

/// Decides from the number of this path's requests so far, and the request's head.
type Rule = dyn Fn(usize, &str) -> Spoil + Send + Sync;

pub struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Stands before the registry on port `upstream` of the loopback. Its threads end with the test's process.
    pub fn start(
        upstream: u16,
        rule: impl Fn(usize, &str) -> Spoil + Send + Sync + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let rule: Arc<Rule> = Arc::new(rule);
        let seen = heads.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (rule, seen) = (rule.clone(), seen.clone());
                // A broken connection ends its thread; the client's view of it is what is tested.
                std::thread::spawn(move || serve(client, upstream, &*rule, &seen));
            }
        });
        Proxy { port, heads }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn serve(
    mut client: TcpStream,
    upstream: u16,
    rule: &Rule,
    seen: &Mutex<Vec<String>>,
) -> Option<()> {
    let head = read_head(&mut client)?;
    let first = head.lines().next()?.to_string();
    let number = {
        let mut seen = seen.lock().unwrap();
        let number = seen
            .iter()
            .filter(|other| other.lines().next() == Some(&first))
            .count();
        seen.push(head.clone());
        number
    };
    let spoil = rule(number, &head);
    let short = match spoil {
        Spoil::Busy => Some("429 Too Many Requests\r\nRetry-After: 1".to_string()),
        Spoil::Status(code) => Some(format!("{code} Spoilt")),
        Spoil::RedirectTo(port) => {
            let path = first.split(' ').nth(1)?;
            Some(format!(
                "307 Temporary Redirect\r\nLocation: http://localhost:{port}{path}"
            ))
        }
        _ => None,
    };
    if let Some(status) = short {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return client.write_all(answer.as_bytes()).ok();
    }
    let mut registry = TcpStream::connect(("127.0.0.1", upstream)).ok()?;
    let passed = without(&head, "connection");
    let passed = passed.trim_end().to_string() + "\r\nConnection: close\r\n\r\n";
    registry.write_all(passed.as_bytes()).ok()?;
    let answer_head = read_head(&mut registry)?;
    let mut body = Vec::new();
    registry.read_to_end(&mut body).ok()?;
    let mut answer_head = without(&answer_head, "connection");
    if spoil == Spoil::NoLength {
        answer_head = without(&answer_head, "content-length");
    }
    let answer_head = answer_head.trim_end().to_string() + "\r\nConnection: close\r\n\r\n";
    client.write_all(answer_head.as_bytes()).ok()?;
    if let Spoil::CutAfter(bytes) = spoil {
        body.truncate(bytes);
    }
    client.write_all(&body).ok()
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        // Somebody tries TLS: a plain server hangs up.
        if head.is_empty() && !byte[0].is_ascii_alphabetic() {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn without(head: &str, name: &str) -> String {
    head.split_inclusive("\r\n")
        .filter(|line| {
            let key = line.split(':').next().unwrap_or_default();
            !key.eq_ignore_ascii_case(name)
        })
        .collect()
}
