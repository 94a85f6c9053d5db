//! `/etc/carrack/carrack.toml` itself, in a mount namespace that has an `/etc` of its own.

mod as_root {
    use crate::need::need;
    use crate::scene::{Scene, carrack};
    use std::process::Command;

    /// An `/etc` with a site file, a copy of the binary in a user's own prefix, and the prolog of slurm/site.
    const BEGIN: &str = r#"
        mkdir etc mine mine/bin mine/etc; mount -t tmpfs -o mode=755 etc etc; cp -a /etc/. etc/ 2>/dev/null
        mkdir etc/carrack; mount --bind etc /etc; site=/etc/carrack/carrack.toml; umask 022
        printf 'final = ["launch"]\n[launch]\nprofile = "hpc"\nchoose_profile = false\n' >$site
        cp "$BINARY" mine/bin/carrack; chown -R 12345:12345 mine; chmod 755 . mine
        user() { setpriv --reuid 12345 --regid 12345 --clear-groups env -i PATH=/usr/bin:/bin HOME="$PWD/mine" "$@" 2>&1; }
        plan() { user mine/bin/carrack exec --dry-run "$@"; echo "code $?"; }
        prolog() { CARRACK=$BINARY bash "$PROLOG" 2>&1; echo "code $?"; }
    "#;

    fn within(line: &str) -> String {
        let scene = Scene::new();
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c"])
            .arg(format!("{BEGIN}\n{line}"))
            .current_dir(scene.path(""))
            .env("BINARY", carrack())
            .env("PROLOG", crate::golden::root().join("slurm/site/prolog"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn a_copy_of_the_binary_does_not_escape_the_sites_file() {
        need!(Root);
        for (line, words) in [
            ("plan dir:/ true", &["code 0"][..]),
            (
                "plan --profile ces-open dir:/ true",
                &["launch.choose_profile", "code 2"],
            ),
            (
                "echo '[launch]\nprofile = \"ces-open\"' >mine/etc/carrack.toml; chown 12345 mine/etc/carrack.toml; plan dir:/ true",
                &[
                    "`launch` is final in `/etc/carrack/carrack.toml:1`",
                    "code 2",
                ],
            ),
            (
                "chmod 666 $site; plan dir:/ true",
                &["cannot trust `/etc/carrack/carrack.toml`", "code 125"],
            ),
            (
                "chown 12345 $site; plan dir:/ true",
                &["cannot trust `/etc/carrack/carrack.toml`", "code 125"],
            ),
            (
                "mv $site /etc/x; ln -s ../x $site; plan dir:/ true",
                &["cannot trust `/etc/carrack/carrack.toml`", "code 125"],
            ),
            ("prolog", &["code 0"]),
            ("chmod 666 $site; prolog", &["cannot trust", "code 125"]),
            ("echo x = 1 >>$site; prolog", &["unknown key `x`", "code 2"]),
            (
                "cd /etc/carrack; sha256sum carrack.toml >$site.sha256; echo '#' >>$site; prolog",
                &["code 1"],
            ),
            ("rm $site; prolog", &["is missing", "code 1"]),
        ] {
            let said = within(line);
            let missing = words.iter().find(|word| !said.contains(**word));
            assert!(missing.is_none(), "{line}: no {missing:?} in\n{said}");
        }
    }
}
