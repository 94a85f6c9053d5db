//! One file from an address, with the same rules as layers: TLS is checked, redirects do not leave it, silence ends it.

use super::client::{Call, Client};
use super::failure::{Failure, by_status};
use super::runtime;
use crate::error::{Context, Error, Result};
use crate::image::source::SourceSettings;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use reqwest::{Method, Url};
use std::io::Write;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// As the server or the address names it; no path.
    pub name: String,
    pub size: u64,
}

/// What an address turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    File(Downloaded),
    /// The page of a record: where its description for programs is.
    Record(String),
}

/// Fetches an address into a file, at most `limit` bytes.
pub fn download(
    address: &str,
    into: &mut impl Write,
    limit: u64,
    settings: &SourceSettings,
) -> Result<Arrived> {
    let url = Url::parse(address)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
        .ok_or_else(|| Error::usage(format!("`{address}` is not an address")))?;
    let host = super::route::shown(&url);
    let client = Client::new(settings, &[]);
    if url.scheme() == "http" && !client.may_be_plain(&url) {
        return Err(Error::usage(format!("`{address}` is plain http"))
            .cause("what arrives could be anybody's")
            .hint("use https, or name the host in `registries.insecure`"));
    }
    let what = || format!("cannot fetch `{address}`");
    let fetched = runtime()?.block_on(fetch(&client, url, into, limit));
    match fetched {
        Ok(done) => done.or_say(what),
        Err(failure) => Err(failure.explain(what(), &host)),
    }
}

async fn fetch(
    client: &Client,
    url: Url,
    into: &mut impl Write,
    limit: u64,
) -> Result<std::io::Result<Arrived>, Failure> {
    let reply = client.call(Call::new(Method::GET, url)).await?;
    let mut response = reply.response;
    let status = response.status();
    if !status.is_success() {
        return Err(by_status(
            status,
            format!("the server said {status}"),
            reply.wait,
        ));
    }
    let header = |name| {
        let value: &reqwest::header::HeaderValue = response.headers().get(name)?;
        Some(value.to_str().ok()?.to_string())
    };
    if header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")) {
        return match described(response.url()) {
            Some(address) => Ok(Ok(Arrived::Record(address))),
            None => Err(Failure::refused(
                "it leads to a page for people, not to a file",
            )),
        };
    }
    let name = header(CONTENT_DISPOSITION)
        .and_then(|value| disposition(&value))
        .or_else(|| Some(response.url().path_segments()?.next_back()?.to_string()))
        .unwrap_or_default();
    let mut size = 0u64;
    let stall = client.settings().stall_timeout;
    loop {
        let chunk = match tokio::time::timeout(stall, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                return Err(Failure::temporary(super::failure::chain(
                    &error.without_url(),
                )));
            }
            Err(_) => return Err(Failure::temporary("the file stopped arriving")),
        };
        size += chunk.len() as u64;
        if size > limit {
            return Err(Failure::refused(format!("it has more than {limit} bytes")));
        }
        if let Err(error) = into.write_all(&chunk) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(Arrived::File(Downloaded {
        name: plain(&name),
        size,
    })))
}

/// `/records/ID` of B2SHARE, and of what has the same interface, is described for programs under `/api`.
fn described(page: &Url) -> Option<String> {
    let parts: Vec<&str> = page
        .path_segments()?
        .filter(|part| !part.is_empty())
        .collect();
    let ["records", id] = parts.as_slice() else {
        return None;
    };
    page.join(&format!("/api/records/{id}"))
        .ok()
        .map(String::from)
}

/// The `filename` of a `content-disposition`.
fn disposition(value: &str) -> Option<String> {
    value.split(';').find_map(|part| {
        let name = part.trim().strip_prefix("filename=")?;
        Some(name.trim_matches('"').to_string())
    })
}

/// A name without directories; a server does not choose a place.
pub fn plain(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
    match kept.trim_start_matches('.') {
        "" => "input".to_string(),
        kept => kept.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// Answers each request with the next text.
    fn server(answers: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let own = address.clone();
        std::thread::spawn(move || {
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(&stream).lines();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                (&stream)
                    .write_all(answer.replace("$OWN", &own).as_bytes())
                    .unwrap();
            }
        });
        address
    }

    fn get(path: &str, answers: &[&str], limit: u64) -> String {
        let answer = |text: &&str| format!("HTTP/1.1 {text}");
        let address = server(answers.iter().map(answer).collect());
        let mut bytes = Vec::new();
        let settings = SourceSettings::default();
        match download(&format!("{address}{path}"), &mut bytes, limit, &settings) {
            Ok(Arrived::Record(address)) => {
                format!("a record: /{}", address.rsplit_once("/api/").unwrap().1)
            }
            Ok(Arrived::File(done)) => format!(
                "{} {} {}",
                done.name,
                done.size,
                String::from_utf8_lossy(&bytes)
            ),
            Err(error) => error.causes().join("; "),
        }
    }

    #[test]
    fn files_from_addresses() {
        const OK: &str = "200 OK\r\nconnection: close\r\ncontent-length: 4\r\n";
        let plain = format!("{OK}\r\ndata");
        let named =
            format!("{OK}content-disposition: attachment; filename=\"../x.nc\"\r\n\r\ndata");
        let page = format!("{OK}content-type: text/html; charset=utf-8\r\n\r\ndata");
        let moved = "302 Found\r\nlocation: $OWN/other/file.nc\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let gone = "404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        for (path, answers, limit, expected) in [
            ("/a/set.nc?v=1", &[plain.as_str()][..], 10, "set.nc 4 data"),
            ("/", &[&plain], 10, "input 4 data"),
            ("/a", &[&named], 10, "x.nc 4 data"),
            ("/a", &[moved, &plain], 10, "file.nc 4 data"),
            ("/a", &[&plain], 3, "it has more than 3 bytes"),
            (
                "/a",
                &[&page],
                10,
                "it leads to a page for people, not to a file",
            ),
        ] {
            assert_eq!(get(path, answers, limit), expected, "{path}");
        }
        assert!(get("/a", &[gone], 10).contains("404"));
        let to_record = moved.replace("other/file.nc", "records/1a2b");
        let told = get("/a", &[&to_record, &page], 10);
        assert_eq!(told, "a record: /records/1a2b");
    }

    #[test]
    fn addresses_that_are_refused() {
        let settings = SourceSettings::default();
        for address in [
            "http://data.site/x",
            "ftp://data.site/x",
            "file:///etc/passwd",
            "x",
        ] {
            let told = download(address, &mut Vec::new(), 1, &settings).unwrap_err();
            assert!(told.what().contains(address), "{address}: {told}");
        }
    }
}
