use super::*;

#[test]
fn policies() {
    let facts = HostFacts {
        real_paths: [("/scratch/link".into(), "/etc".into())].into(),
        account_home: Some("/home/alice".into()),
        ..facts(&[])
    };
    let refused = |site: &str, pairs: &[(&str, &str)]| {
        let config = Config::parse(site).unwrap();
        plan(&found(), &request(pairs), &config, &facts)
            .err()
            .map(|error| error.to_string())
    };
    let paths = "[profile.hpc]\nuser_bind_paths = [\"/scratch\"]\n";
    for (site, pairs, part) in [
        (paths, &[("bind", "/scratch/a")][..], ""),
        (
            paths,
            &[("bind", "/scratch2/a")],
            "mounting `/scratch2/a` is not allowed here",
        ),
        (
            paths,
            &[("bind", "/scratch/link")],
            "mounting `/scratch/link` is not allowed here",
        ),
        (paths, &[("mount", "type=tmpfs,dst=/t")], ""),
        (
            "[launch]\nimages = [\"docker://docker.io/library/ubuntu\"]\n",
            &[],
            "",
        ),
        (
            "[launch]\nimages = [\"docker://docker.io/library/\"]\n",
            &[],
            "",
        ),
        (
            "[launch]\nimages = [\"docker://docker.io/library/ubun\"]\n",
            &[],
            "is not allowed here",
        ),
        (
            "[profile.hpc]\nuser_binds = false\n",
            &[("bind", "/etc:/x")],
            "`user_binds`",
        ),
    ] {
        let error = refused(site, pairs);
        match part {
            "" => assert_eq!(error, None, "{site} {pairs:?}"),
            part => assert!(
                error.as_ref().is_some_and(|e| e.contains(part)),
                "{error:?}"
            ),
        }
    }
}
