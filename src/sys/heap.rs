//! What the C library's allocator keeps of freed memory. The threads that read layers free tens of megabytes right before
//! the merge needs as much, and by default each thread's share stays with the process.

/// Freed allocations from half a megabyte on go back to the kernel at once. By default that limit grows with every large
/// one that is freed, up to 32 MiB.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets one number inside the allocator, which takes its own lock for it.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 512 << 10) };
    }
}

/// Gives free memory of all threads back to the kernel.
pub fn give_back() {
    super::memory::give_back();
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: returns pages that nobody owns, under the allocator's own locks.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
