//! Threads that the kernel may refuse: limits on processes count them, and the scope's own `spawn` panics then.

use std::io::Result;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Starts a thread with a name of at most 15 bytes.
pub fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, work)
}
