//! Host names to addresses through `getent`.
//!
//! A static binary must not load the site's name service modules into itself; `getent` loads them in a process of its
//! own, so that `/etc/nsswitch.conf` counts as for every other program.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::process::{Command, Stdio};

pub struct Getent;

impl Resolve for Getent {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_string();
        Box::pin(async move {
            let found = tokio::task::spawn_blocking(move || look_up(&host)).await??;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn look_up(host: &str) -> Result<Vec<SocketAddr>, Error> {
    if host.eq_ignore_ascii_case("localhost") {
        let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(both.map(|address| SocketAddr::new(address, 0)).to_vec());
    }
    let unknown = || {
        Error::new(
            ErrorKind::NotFound,
            format!("the host `{host}` is not known"),
        )
    };
    let output = Command::new("getent")
        .args(["ahosts", "--", host])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return (host, 0).to_socket_addrs().map(Iterator::collect);
        }
        Err(error) => return Err(error),
    };
    let found = addresses(&String::from_utf8_lossy(&output.stdout));
    match found.is_empty() {
        true => Err(unknown()),
        false => Ok(found),
    }
}

/// `192.0.2.1 STREAM name` and further kinds of socket for each address.
fn addresses(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            (words.next() == Some("STREAM")).then_some(SocketAddr::new(address, 0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_getent() {
        let text = "192.0.2.1      STREAM registry.site.eu\n192.0.2.1      DGRAM\n192.0.2.1      RAW\n2001:db8::1 STREAM\nrubbish\n";
        let found: Vec<String> = addresses(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:0", "[2001:db8::1]:0"]);
    }

    #[test]
    fn localhost_needs_nobody() {
        assert_eq!(look_up("localhost").unwrap().len(), 2);
    }
}
