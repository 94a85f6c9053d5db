//! The image half: a reference becomes one squashfs file and its record in the store.
