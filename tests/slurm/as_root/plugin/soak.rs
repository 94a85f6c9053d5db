//! A few rounds of `slurm/soak`, which kills what a step is made of and looks for what is left.

use crate::need::need;
use crate::scene::carrack;
use std::process::Command;

/// CARRACK_TESTS_ROUNDS gives another number; 200 take a quarter of an hour.
#[test]
fn nothing_is_left_of_steps_that_were_killed() {
    need!(Root, Slurm);
    let rounds = std::env::var("CARRACK_TESTS_ROUNDS").unwrap_or_else(|_| "2".to_string());
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/slurm/soak"))
        .arg(&rounds)
        .env("CARRACK", carrack())
        .env("PLUGIN", carrack().with_file_name("libcarrack_spank.so"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!("soak: {rounds} rounds, nothing left behind\n");
    assert!(said.ends_with(&expected), "{output:?}");
}
