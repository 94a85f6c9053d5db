//! Unix sockets that carry descriptors between processes of one user.
//!
//! Listeners have names that the kernel chooses in the abstract namespace: they vanish with their last process, so that
//! nothing is left behind even when everything is killed at once. Such a name protects nothing: both sides must look at
//! [`peer`] before they believe a word.

use super::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most descriptors that one message carries.
pub const MAX_FDS: usize = 4;

/// Two connected ends; each message keeps its borders.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn new(flags: SocketFlags) -> Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags | SocketFlags::CLOEXEC,
        None,
    )
}

/// A listener and the name that the kernel gave it. `accept` on it does not wait.
pub fn listen() -> Result<(OwnedFd, Vec<u8>)> {
    let socket = new(SocketFlags::NONBLOCK)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?;
    let address = rustix::net::getsockname(&socket)?;
    let address = SocketAddrUnix::try_from(address)?;
    let name = address.abstract_name().ok_or(Errno::INVAL)?.to_vec();
    rustix::net::listen(&socket, 4096)?;
    Ok((socket, name))
}

/// Connects to a listener by its name. Waits only while its queue is full.
pub fn connect(name: &[u8]) -> Result<OwnedFd> {
    let socket = new(SocketFlags::empty())?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(socket)
}

/// A connection that waits at a listener; its reads do not wait.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Process and user at the other end: of the connect, or of the listen.
pub fn peer(socket: impl AsFd) -> Result<(u32, u32)> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    let pid = u32::try_from(credentials.pid.as_raw_nonzero().get()).map_err(|_| Errno::SRCH)?;
    Ok((pid, credentials.uid.as_raw()))
}

/// Sends one message; the receiver gets copies of the descriptors.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .map(|_| ())
}

/// How many bytes wait to be read, which stay there; none when the other end is closed.
pub fn peek(socket: impl AsFd) -> Result<usize> {
    let mut byte = [0];
    rustix::net::recv(socket, &mut byte, RecvFlags::PEEK).map(|(_, count)| count)
}

/// Receives one message. No bytes mean that the other end is closed.
pub fn receive(socket: impl AsFd, limit: usize) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut reset = false;
    let received = loop {
        let answer = rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        match answer {
            Err(Errno::INTR) => {}
            // The other end closed without reading what we sent. What it sent before is still to be had.
            Err(Errno::CONNRESET) if !reset => reset = true,
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    bytes.truncate(received.bytes);
    Ok((bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_bytes_and_descriptors() {
        let (one, other) = pair().unwrap();
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        send(&one, b"here", &[null.as_fd()]).unwrap();
        let (bytes, fds) = receive(&other, 16).unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (&b"here"[..], 1));
        let (sent, got) = (
            rustix::fs::fstat(&null).unwrap(),
            rustix::fs::fstat(&fds[0]).unwrap(),
        );
        assert_eq!(
            (sent.st_dev, sent.st_ino, sent.st_rdev),
            (got.st_dev, got.st_ino, got.st_rdev)
        );
        drop(one);
        assert!(receive(&other, 16).unwrap().0.is_empty());
    }

    #[test]
    fn last_words_are_heard_though_ours_were_not() {
        let (one, other) = pair().unwrap();
        send(&one, b"unread", &[]).unwrap();
        send(&other, b"last words", &[]).unwrap();
        drop(other);
        assert_eq!(receive(&one, 16).unwrap().0, b"last words");
        assert!(receive(&one, 16).unwrap().0.is_empty());
    }

    #[test]
    fn a_listener_is_found_by_name_and_gone_when_closed() {
        let (listener, name) = listen().unwrap();
        let there = connect(&name).unwrap();
        let here = accept(&listener).unwrap();
        let me = (std::process::id(), rustix::process::geteuid().as_raw());
        assert_eq!(peer(&there).unwrap(), me);
        assert_eq!(peer(&here).unwrap(), me);
        drop(listener);
        assert_eq!(connect(&name).unwrap_err(), Errno::CONNREFUSED);
    }
}
