//! The profiles that are always there, written in the same keys as a site would write them.

use crate::config::Rules;

/// Nothing of the host but what the profile gives.
fn shut() -> Rules {
    Rules {
        home: Some(false),
        cwd: Some(false),
        tmp: Some("private".into()),
        writable: Some("true".into()),
        dev: Some("minimal".into()),
        environment: Some(false),
        user_binds: Some(false),
        deny: Some(vec!["device".into(), "name".into()]),
        ..Rules::default()
    }
}

fn words(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(ToString::to_string).collect())
}

/// The rules of a built-in profile.
pub fn built_in(name: &str) -> Option<Rules> {
    Some(match name {
        // Everything as on the node: what MPI and GPU programs expect.
        "hpc" => Rules::default(),
        // A safe haven: data in and out through three directories only, no network, nobody looks in, GPUs when asked for.
        "ces" => Rules {
            id: Some("image".into()),
            network: Some("none".into()),
            gpu: Some("none".into()),
            interactive: Some(false),
            project_data: Some("/safe_data/{project}:/safe_data:ro".into()),
            outputs: Some("{home}/outputs_{job}:/safe_outputs".into()),
            scratch: Some("{home}/scratch_{job}:/scratch".into()),
            job: Some([("mem".to_string(), "4G".to_string())].into()),
            locked: words(&[
                "home",
                "cwd",
                "tmp",
                "dev",
                "environment",
                "network",
                "user_binds",
                "interactive",
            ]),
            ..shut()
        },
        // The same for a haven that lets its users mount and enter.
        "ces-open" => Rules {
            base: Some("ces".into()),
            user_binds: Some(true),
            interactive: Some(true),
            locked: words(&["network", "environment"]),
            ..Rules::default()
        },
        // Always the user 1000 that the images are made for, whatever they say.
        "eucaim" => Rules {
            id: Some("1000:1000".into()),
            network: Some("none".into()),
            datasets: Some("/datasets/{dataset}:/home/ds/datasets/{dataset}:ro".into()),
            binds: words(&[
                "/mnt/datalake:/mnt/datalake:ro",
                "{home}/persistent-home:/home/ds/persistent-home:x-create=dir",
                "/persistent-shared-folder:/home/ds/persistent-shared-folder",
            ]),
            locked: words(&[
                "id",
                "home",
                "cwd",
                "tmp",
                "dev",
                "environment",
                "network",
                "user_binds",
            ]),
            ..shut()
        },
        // As docker would run it: what the image does by itself, with its ports.
        "gef" => Rules {
            id: Some("image".into()),
            command: Some("image".into()),
            locked: words(&["home", "cwd", "user_binds", "environment", "command"]),
            ..shut()
        },
        _ => return None,
    })
}
