//! What holds for every command: codes and forms of errors, help.

use crate::scene::Scene;

#[test]
fn help_is_a_word_too() {
    let scene = Scene::new();
    for (words, options) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "pull"], &["pull", "--help"]),
        (&["help", "config", "show"], &["config", "show", "--help"]),
        (&["help", "submit"], &["submit", "--help"]),
        (&["help", "exec"], &["exec", "--help"]),
        (&["help", "--help"], &["--help"]),
        (&["help", "help"], &["--help"]),
    ] {
        let expected = scene.run(options);
        assert!(expected.out.contains("Usage: carrack"), "{expected}");
        scene.run(words).is(0, &expected.out, "");
    }
    scene.run(["help", "pul"]).fails(2, &["`pull`"]);
}

#[test]
fn a_named_file_that_is_missing_is_code_2() {
    let scene = Scene::new();
    for arguments in [
        &["config", "check", "nosuch"][..],
        &["exec", "--environment", "./nosuch", "box", "true"],
        &["import", "nosuch"],
        &["import", "./nosuch"],
        &["pull", "oci:nosuch"],
    ] {
        let outcome = scene.run(arguments);
        outcome.fails(2, &["nosuch"]);
    }
}

#[test]
fn a_mistake_on_the_command_line_is_code_2() {
    let scene = Scene::new();
    for arguments in [&["no-such-command"][..], &["pull"], &["--no-such-option"]] {
        let outcome = scene.run(arguments);
        outcome.fails(2, &[]);
    }
    assert!(
        !scene.store().exists(),
        "a usage error must not make a store"
    );
}
