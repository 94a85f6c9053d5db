//! A broker's image: opened and checked at once, served by a thread that waits for the device, made ready by one beside.

use super::{DEVICE, Setup};
use crate::error::{Context, Error, Result};
use crate::launch::serve_image::{Image, Preparation, Serving};
use crate::launch::step::Image as ImageStep;
use crate::sys::{process, socket};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::thread::Builder;

/// What the broker hears of its server.
pub struct Server {
    /// Becomes readable when the server has ended.
    pub ended: OwnedFd,
    /// What is to be said of a broken image.
    pub log: OwnedFd,
}

/// Opens the image, makes a thread that serves it with at most `threads` others as soon as a device comes through the
/// door, and one that makes ready what will be asked for.
pub fn start(setup: &Setup<'_>, file: File, door: OwnedFd, threads: usize) -> Result<Server> {
    let what = || "cannot start the threads that serve the image";
    let (image, preparation) = open(setup.image, file)?;
    let (ended, ends) = pipe_with(PipeFlags::CLOEXEC).or_say(what)?;
    let (log, logs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).or_say(what)?;
    let owner = (setup.identity.inside_uid, setup.identity.inside_gid);
    let processor = setup.processor;
    let serve = move || {
        // Now, while nobody waits for it.
        let serving = Serving {
            owner,
            threads,
            bound: process::use_processor(processor),
            log: File::from(logs),
        };
        if let Some(device) = receive_device(&door) {
            image.serve(device, serving);
        }
        drop(ends);
    };
    let name = "carrack-fuse".into();
    Builder::new().name(name).spawn(serve).or_say(what)?;
    let name = "carrack-ready".into();
    let prepare = move || preparation.go_on();
    Builder::new().name(name).spawn(prepare).or_say(what)?;
    Ok(Server { ended, log })
}

/// The device of the image that was just mounted; `None` when the maker has given up.
fn receive_device(door: &OwnedFd) -> Option<OwnedFd> {
    let (bytes, fds) = socket::receive(door, 1).ok()?;
    (bytes.first() == Some(&DEVICE)).then(|| fds.into_iter().next())?
}

fn open(step: &ImageStep, file: File) -> Result<(Image, Preparation)> {
    let ImageStep::Squashfs {
        offset,
        check,
        name,
        ..
    } = step
    else {
        return Err(Error::new("not a squashfs"));
    };
    let check = check.as_ref().map(|check| &check.0);
    Image::open(file, *offset, name, check)
}
