//! The README says what is: its option table is generated, its commands and targets exist.

use crate::golden::root;
use crate::scene::Scene;

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

#[test]
fn the_option_table_is_the_one_in_the_code() {
    let text = readme();
    let (head, rest) = text.split_once("<!-- options").unwrap();
    let (comment, rest) = rest.split_once("-->\n").unwrap();
    let (_, tail) = rest.split_once("<!-- end of options -->").unwrap();
    let table = carrack::launch::options::markdown_table();
    let fresh = format!(
        "{head}<!-- options{comment}-->\n{}\n<!-- end of options -->{tail}",
        table.trim_end()
    );
    crate::golden::check_file(&root().join("README.md"), &fresh);
}

/// Text of the fenced blocks in shell.
fn shell_blocks(text: &str) -> Vec<&str> {
    text.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix("sh\n"))
        .collect()
}

#[test]
fn every_command_that_it_shows_exists() {
    let help = Scene::new().run(["--help"]);
    let known: Vec<&str> = help
        .out
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .collect();
    let text = readme();
    for block in shell_blocks(&text) {
        for (at, _) in block.match_indices("carrack ") {
            let verb = block[at + 8..].split_whitespace().next().unwrap();
            let verb = verb.trim_end_matches('`');
            assert!(known.contains(&verb), "README shows `carrack {verb}`");
        }
    }
}

#[test]
fn every_target_that_it_shows_exists() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let text = readme();
    for block in shell_blocks(&text) {
        for line in block.lines().filter_map(|line| line.strip_prefix("make ")) {
            let target = line.split_whitespace().next().unwrap();
            let rule = makefile
                .lines()
                .find(|line| line.starts_with(&format!("{target}:")));
            let rule = rule.unwrap_or_else(|| panic!("README shows `make {target}`"));
            if let Some(script) = rule.split("scripts/").nth(1) {
                let script = script.split_whitespace().next().unwrap();
                assert!(root().join("scripts").join(script).exists(), "{rule}");
            }
        }
    }
}

#[test]
fn the_settings_that_it_shows_are_valid() {
    let text = readme();
    for block in text.split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        if block.contains("[[step]]") {
            carrack_slurm::job::Job::parse(block).unwrap();
        } else {
            carrack::config::Config::parse(block).unwrap();
        }
    }
}
