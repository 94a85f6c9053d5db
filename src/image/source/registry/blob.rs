//! One layer as a stream that survives dropped connections.
//!
//! A task fetches, a channel carries the chunks, a plain `Read` gives them out. The reader takes all that are there at
//! once, so that the task goes on in a long stroke then instead of being woken for each of them. After a break the rest is asked
//! for with a closed range, because some servers refuse open ones; only a 206 that starts where it should is taken as
//! the rest. A 200 is the whole blob again: what was given out already is skipped. Nothing is hashed here.

use super::client::{Client, Host, Request};
use super::failure::{Failure, chain};
use super::route::Endpoint;
use crate::error::Error;
use crate::image::source::Descriptor;
use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE};
use reqwest::{Response, StatusCode};
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Bytes on their way to a layer's reader. A chunk is a TLS record at least and some hundred kilobytes at most.
const ON_THEIR_WAY: usize = 2 << 20;
/// Chunks that are taken at once, at most.
const AT_ONCE: usize = 256;
/// Progress that makes earlier failures count no more.
const FORGIVEN: u64 = 4 << 20;

pub struct BlobReader {
    chunks: mpsc::UnboundedReceiver<Result<Bytes, Failure>>,
    /// Taken out of there together, last one first.
    taken: Vec<Result<Bytes, Failure>>,
    /// As many bytes as may be sent.
    room: Arc<Semaphore>,
    current: Bytes,
    what: String,
    registry: String,
    failed: bool,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.failed {
                return Err(io::Error::other(format!("{} before", self.what)));
            }
            match self.next() {
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(failure)) => {
                    self.failed = true;
                    let error = failure.explain(self.what.clone(), &self.registry);
                    return Err(io::Error::other(Told(error)));
                }
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        let part = self.current.split_to(count);
        let (buffer, _) = buffer.split_at_mut(count);
        buffer.copy_from_slice(&part);
        Ok(count)
    }
}

impl BlobReader {
    fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        if self.taken.is_empty() {
            self.chunks.blocking_recv_many(&mut self.taken, AT_ONCE);
            self.taken.reverse();
            let chunks = self.taken.iter().flatten();
            self.room
                .add_permits(chunks.map(|chunk| wanted(chunk) as usize).sum());
        }
        self.taken.pop()
    }
}

impl Drop for BlobReader {
    fn drop(&mut self) {
        self.room.close();
    }
}

/// What a chunk takes of the room.
fn wanted(chunk: &Bytes) -> u32 {
    chunk.len().min(ON_THEIR_WAY) as u32
}

/// An [`Error`] on its way through [`io::Error`]: one line of text.
#[derive(Debug)]
struct Told(Error);

impl std::fmt::Display for Told {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0.what())?;
        for cause in self.0.causes() {
            write!(out, ": {cause}")?;
        }
        for hint in self.0.hints() {
            write!(out, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Told {}

/// Starts to fetch; the endpoints hold the same content and are asked in turn.
pub fn open(
    runtime: &tokio::runtime::Handle,
    client: Arc<Client>,
    endpoints: Vec<Endpoint>,
    layer: &Descriptor,
) -> BlobReader {
    let (sender, chunks) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(ON_THEIR_WAY));
    let what = format!("cannot download the layer `{}`", layer.digest);
    let registry = endpoints
        .last()
        .map(|endpoint| endpoint.registry.clone())
        .unwrap_or_default();
    let layer = layer.clone();
    let room_to_send = Arc::clone(&room);
    runtime.spawn(async move {
        let mut transfer = Transfer {
            layer,
            sender,
            room: room_to_send,
            given: 0,
            failures: 0,
        };
        if let Err(failure) = transfer.run(&client, &endpoints).await {
            // Nobody listens any more when the reader is gone.
            let _ = transfer.sender.send(Err(failure));
        }
    });
    BlobReader {
        chunks,
        taken: Vec::new(),
        room,
        current: Bytes::new(),
        what,
        registry,
        failed: false,
    }
}

struct Transfer {
    layer: Descriptor,
    sender: mpsc::UnboundedSender<Result<Bytes, Failure>>,
    room: Arc<Semaphore>,
    /// Bytes handed over.
    given: u64,
    /// Since the last real progress.
    failures: u32,
}

enum End {
    Complete,
    /// The reader went away.
    Unwanted,
}

impl Transfer {
    async fn run(&mut self, client: &Client, endpoints: &[Endpoint]) -> Result<(), Failure> {
        let mut last = Failure::refused("there is nobody to ask");
        for endpoint in endpoints {
            let host = client.host(&endpoint.registry)?;
            let permit = host.connections.clone().acquire_owned().await;
            let permit = permit.map_err(|_| Failure::refused("the client is gone"))?;
            self.failures = 0;
            match self.from(client, &host, endpoint).await {
                Ok(_) => return Ok(()),
                Err(failure) => last = failure,
            }
            drop(permit);
        }
        Err(last)
    }

    /// Fetches from one place until the blob is complete or the place is given up.
    async fn from(
        &mut self,
        client: &Client,
        host: &Host,
        endpoint: &Endpoint,
    ) -> Result<End, Failure> {
        let mut ranges = true;
        loop {
            let from = match ranges {
                true => self.given,
                false => 0,
            };
            let failure = match self.request(client, host, endpoint, from).await {
                Ok(response) => {
                    let before = self.given;
                    let outcome = self.take(client, response, from).await;
                    if self.given.saturating_sub(before) >= FORGIVEN {
                        self.failures = 0;
                    }
                    match outcome {
                        Ok(end) => return Ok(end),
                        Err(failure) => failure,
                    }
                }
                // 416 and the like: this server has no ranges.
                Err(Failure::Refused { .. }) if from > 0 => {
                    ranges = false;
                    continue;
                }
                Err(failure) => failure,
            };
            self.failures += 1;
            if failure == wrong_range() {
                ranges = false;
            }
            client.pause(host, failure, self.failures).await?;
        }
    }

    async fn request(
        &self,
        client: &Client,
        host: &Host,
        endpoint: &Endpoint,
        from: u64,
    ) -> Result<Response, Failure> {
        let path = format!("/v2/{}/blobs/{}", endpoint.repository, self.layer.digest);
        let mut request = Request::get(path, super::pull_scope(&endpoint.repository));
        request.range = self
            .layer
            .size
            .checked_sub(1)
            .filter(|_| from > 0)
            .map(|last| (from, last));
        client.send_once(host, &request).await
    }

    /// Hands over what one answer brings.
    async fn take(
        &mut self,
        client: &Client,
        mut response: Response,
        from: u64,
    ) -> Result<End, Failure> {
        let size = self.layer.size;
        let mut position = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                if range_start(&response) != Some(from) {
                    return Err(wrong_range());
                }
                from
            }
            _ => 0,
        };
        if response.headers().contains_key(CONTENT_ENCODING) {
            return Err(Failure::refused(
                "it was served with a content encoding that was not asked for",
            ));
        }
        if let Some(length) = response.content_length()
            && position.saturating_add(length) != size
        {
            return Err(Failure::refused(format!(
                "it has {} bytes there, the manifest says {size}",
                position.saturating_add(length)
            )));
        }
        let stall = client.settings().stall_timeout;
        loop {
            let mut chunk = match tokio::time::timeout(stall, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    return Err(Failure::temporary(format!(
                        "the connection broke after {position} of {size} bytes: {}",
                        chain(&error.without_url())
                    )));
                }
                Err(_) => {
                    return Err(Failure::temporary(format!(
                        "nothing came for {} seconds after {position} of {size} bytes",
                        stall.as_secs()
                    )));
                }
            };
            let end = position.saturating_add(chunk.len() as u64);
            if end > size {
                return Err(Failure::refused(format!(
                    "it is longer than the {size} bytes that the manifest says"
                )));
            }
            // What the reader has already is passed over.
            let known = usize::try_from(self.given.saturating_sub(position)).unwrap_or(usize::MAX);
            position = end;
            if known >= chunk.len() {
                continue;
            }
            let new = chunk.split_off(known);
            self.given = end;
            match self.room.acquire_many(wanted(&new)).await {
                Ok(room) => room.forget(),
                Err(_) => return Ok(End::Unwanted),
            }
            if self.sender.send(Ok(new)).is_err() {
                return Ok(End::Unwanted);
            }
        }
        if position == size {
            return Ok(End::Complete);
        }
        Err(Failure::temporary(format!(
            "it ended after {position} of {size} bytes"
        )))
    }
}

fn wrong_range() -> Failure {
    Failure::temporary("it sent another part than was asked for")
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response) -> Option<u64> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let range = value.trim().strip_prefix("bytes")?.trim_start();
    range.split('-').next()?.trim().parse().ok()
}
