//! The SPANK plugin: not written yet. It will collect `--container-*` options and hand over to the launcher.
