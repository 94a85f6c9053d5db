//! Every unsafe line of this crate: system calls as verbs on owned file descriptors. No policy, no messages to users.
