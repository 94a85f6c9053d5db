//! A broker's image: opened at once, checked and made ready by a thread beside.

use super::{CHECKED, FAILED, tell};
use crate::error::{Context, Error, Result};
use crate::launch::serve_image::{Image, Preparation};
use crate::launch::step::Image as ImageStep;
use std::fs::File;
use std::os::fd::OwnedFd;

/// The image, and a pipe that says how its check ended: nothing is said of one that is not the right one.
pub fn open(step: &ImageStep, file: File, maker: &OwnedFd) -> Result<(Image, OwnedFd)> {
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
    let (image, preparation) = Image::open(file, *offset, name, check)?;
    Ok((image, prepare(preparation, maker)?))
}

/// Checks while the capsule is made. The maker hears the result before it lets anything run.
fn prepare(mut preparation: Preparation, maker: &OwnedFd) -> Result<OwnedFd> {
    let what = || "cannot check the image";
    let (checked, check) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_say(what)?;
    let maker = maker.try_clone().or_say(what)?;
    std::thread::Builder::new()
        .name("carrack-ready".into())
        .spawn(move || match preparation.check() {
            Ok(()) => {
                tell(&maker, CHECKED, "");
                drop(maker);
                let _ = rustix::io::write(&check, &[CHECKED]);
                drop(check);
                preparation.go_on();
            }
            Err(error) => tell(&maker, FAILED, &error.to_string()),
        })
        .or_say(what)?;
    Ok(checked)
}
