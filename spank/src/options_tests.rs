use super::*;

pub(crate) fn given(options: &[(&str, &str)]) -> Given {
    let known = slurm_options();
    let position = |name: &str| {
        known
            .iter()
            .position(|option| option.name == name)
            .expect(name)
    };
    options
        .iter()
        .map(|(name, value)| (position(name), value.to_string()))
        .collect()
}

/// Without any variables.
pub(crate) fn asking(options: &[(&str, &str)]) -> Asked {
    container(&given(options), |_| None)
}

fn read(options: &[(&str, &str)], variables: &[(&str, &str)]) -> Asked {
    let variable = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.to_string())
    };
    container(&given(options), variable)
}

#[test]
fn options_and_variables_become_arguments() {
    let image = ("container-image", "x");
    let (by_variable, file) = (("CARRACK_CONTAINER_IMAGE", "v"), ("environment", "ml"));
    for (options, variables, expected) in [
        (
            vec![
                image,
                ("container-mounts", "/a,/b:/c:ro"),
                ("container-writable", ""),
            ],
            vec![],
            "--bind=/a --bind=/b:/c:ro --writable --image=x",
        ),
        (vec![file], vec![], "--environment=ml"),
        (vec![file, image], vec![], "--environment=ml --image=x"),
        (vec![], vec![by_variable], "--image=v"),
        (vec![image], vec![by_variable], "--image=x"),
        (
            vec![],
            vec![("CARRACK_CONTAINER_ENVIRONMENT", "ml")],
            "--environment=ml",
        ),
        (
            vec![image],
            vec![
                ("CARRACK_CONTAINER_MOUNTS", "/a,/b"),
                ("CARRACK_CONTAINER_MOUNT_HOME", "0"),
            ],
            "--bind=/a --bind=/b --no-home --image=x",
        ),
        // The option replaces the variable, whichever of the two forms it has.
        (
            vec![
                image,
                ("container-mounts", "/c"),
                ("no-container-mount-home", ""),
            ],
            vec![
                ("CARRACK_CONTAINER_MOUNTS", "/a,/b"),
                ("CARRACK_CONTAINER_MOUNT_HOME", "yes"),
            ],
            "--bind=/c --no-home --image=x",
        ),
        (
            vec![("container-name", "box:auto")],
            vec![],
            "--name=box:auto",
        ),
        (
            vec![image, ("container-save", "/a.sqsh")],
            vec![],
            "--image=x",
        ),
        // The launcher's own variable is no request for a container.
        (vec![], vec![("CARRACK_IMAGE", "x")], "none"),
        // Neither is a habit in somebody's profile.
        (vec![], vec![("CARRACK_CONTAINER_MOUNTS", "/a")], "none"),
    ] {
        let shown = match read(&options, &variables).unwrap() {
            Some(container) => container.words(None).join(" "),
            None => "none".into(),
        };
        assert_eq!(shown, expected, "{options:?} {variables:?}");
    }
}

#[test]
fn the_fixed_digest_takes_the_image_s_place() {
    let pin = || Some("sha256:1".to_string());
    let by_name = read(&[("container-image", "x")], &[]).unwrap().unwrap();
    assert_eq!(
        (by_name.key.as_str(), by_name.words(pin())),
        ("x", vec!["--image=sha256:1".to_string()])
    );
    let by_file = read(&[("environment", "ml")], &[]).unwrap().unwrap();
    assert_eq!(by_file.key, "environment ml");
    assert_eq!(
        by_file.words(pin()).join(" "),
        "--environment=ml --image=sha256:1"
    );
}

#[test]
fn mistakes_are_refused() {
    let image = ("container-image", "x");
    for (options, variables, part) in [
        (
            vec![("container-mounts", "/a")],
            vec![],
            "needs `--container-image`",
        ),
        (
            vec![image, ("container-unshare", "pid")],
            vec![],
            "only `net`",
        ),
        (
            vec![
                image,
                ("container-writable", ""),
                ("container-readonly", ""),
            ],
            vec![],
            "contradict",
        ),
        (vec![image, ("container-name", ":auto")], vec![], "name"),
        (
            vec![image],
            vec![("CARRACK_CONTAINER_WRITABLE", "maybe")],
            "CARRACK_CONTAINER_WRITABLE",
        ),
    ] {
        let error = read(&options, &variables).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
