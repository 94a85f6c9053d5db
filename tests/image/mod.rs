//! Images for tests: written as text, built as OCI layouts, merged by a naive model, and read back by whoever can.

pub mod layout;
pub mod model;
pub mod tar;
pub mod text;
pub mod tree;
