//! Ctrl-C and `kill` during a pull: the half-written image goes before the process does.
//!
//! What is not caught (kill -9, a node that dies) the next command cleans up.

use crate::image::store::abandon;
use nix::sys::signal::{SigSet, Signal};

/// From here on SIGINT, SIGTERM and SIGHUP remove unpublished work and end the process. Called before other threads
/// start: they must inherit the blocked signals.
pub fn clean_up_on_signals() {
    before_ending(abandon);
}

/// The same with something else to be done before the end. Without threads to spare, signals do what they always do.
pub fn before_ending(last: impl FnOnce() + Send + 'static) {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return;
    }
    let waiting = std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Ok(signal) = signals.wait() {
                last();
                std::process::exit(128 + signal as i32);
            }
        });
    if waiting.is_err() {
        // Without the thread the signals must do what they always do.
        let _ = signals.thread_unblock();
    }
}
