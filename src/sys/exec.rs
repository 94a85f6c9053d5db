//! Becoming another program.

use super::Errno;
use super::fd::last_errno;
use std::convert::Infallible;
use std::ffi::{CStr, CString};

/// Replaces this program; returns only when the kernel refuses.
pub fn exec(
    path: &CStr,
    arguments: &[CString],
    environment: &[CString],
) -> std::result::Result<Infallible, Errno> {
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: both arrays end with a null pointer and point at NUL-terminated strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Err(last_errno())
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}
