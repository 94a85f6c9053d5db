//! What holds for every command: codes and forms of errors, help.

use crate::scene::Scene;

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
