//! Several people on one machine, which only root can play.

mod as_root {
    use crate::need::need;
    use crate::scene::{Scene, carrack};
    use crate::starting::{busybox, layout};
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    /// Numbers in `/etc/passwd` and `/etc/group` of the test's own.
    const PEOPLE: &str = "ann:x:54001:54001::$HOMES/ann:/bin/sh\nbob:x:54002:54002::$HOMES/bob:/bin/sh\n\
        cid:x:54003:54003::$HOMES/cid:/bin/sh\ndot:x:54004:54004::$HOMES/dot:/bin/sh\n";
    const GROUPS: &str =
        "ann:x:54001:\nbob:x:54002:\ncid:x:54003:\ndot:x:54004:\nlab:x:54010:cid\n";

    const BEGIN: &str = r#"
        set -e; umask 022; chmod 755 .; mkdir etc homes
        mount -t tmpfs -o mode=755 etc etc; cp -a /etc/. etc/ 2>/dev/null || true
        printf '%s' "$PEOPLE" >>etc/passwd; printf '%s' "$GROUPS_OF_THE_TEST" >>etc/group; mount --bind etc /etc
        # Some machines keep /dev/fuse for root; the machine's own stays as it is.
        mkdir devices; mount -t tmpfs devices devices; mknod -m 666 devices/fuse c 10 229; mount --bind devices/fuse /dev/fuse
        for name in ann bob cid dot; do mkdir homes/$name; chown $name:$name homes/$name; done
        as() { # NAME COMMAND…
            local name=$1; shift
            setpriv --reuid $name --regid $name --init-groups env -i PATH=/usr/bin:/bin HOME="$PWD/homes/$name" \
                CARRACK_CONFIG="$PWD/settings.toml" "$@" 2>&1 || echo "code $?"
        }
        set +e
    "#;

    fn within(scene: &Scene, line: &str) -> String {
        let homes = scene.path("homes").display().to_string();
        // Nobody else may start what lies below a home of root's.
        let output = Command::new("cp")
            .arg(carrack())
            .arg(scene.path("carrack"))
            .status();
        assert!(output.unwrap().success());
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c"])
            .arg(format!("{BEGIN}\n{line}"))
            .current_dir(scene.path(""))
            .env("PEOPLE", PEOPLE.replace("$HOMES", &homes))
            .env("GROUPS_OF_THE_TEST", GROUPS)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One who is in the group reads the dataset as user 1000, one who is not does not.
    #[test]
    fn e4_rights_by_groups_are_kept() {
        need!(Root);
        let scene = Scene::new();
        let place = scene.path("").display().to_string();
        scene.write(
            "settings.toml",
            format!(
                "[launch]\nprofile = \"eucaim\"\n[profile.eucaim]\nbinds = []\ndatasets = \"{place}data/{{dataset}}:/home/ds/datasets/{{dataset}}:ro\"\n"
            ),
        );
        scene.write("data/d1/index.json", "[]\n");
        std::fs::create_dir_all(scene.path("root/bin")).unwrap();
        std::fs::copy("/bin/busybox", scene.path("root/bin/busybox")).unwrap();
        let said = within(
            &scene,
            "chgrp 54010 data/d1; chmod 770 data/d1; chmod 755 data root root/bin
             for name in cid dot; do
                 as $name ./carrack exec --dataset d1 dir:$PWD/root /bin/busybox sh -c '/bin/busybox id -u; /bin/busybox cat /home/ds/datasets/d1/index.json'
             done",
        );
        let (cid, dot) = said.split_once("[]\n").unwrap_or((&said, ""));
        assert!(cid.ends_with("1000\n"), "{said}");
        assert!(
            dot.contains("Permission denied") && dot.contains("code "),
            "{said}"
        );
    }

    /// Images of one store: for all, for one user, for a group; by the kernel's own rules.
    #[test]
    fn f1_f2_an_image_for_named_users_and_groups() {
        need!(Root);
        let scene = Scene::new();
        for name in ["open", "bobs", "labs"] {
            let config = json!({ "Env": ["PATH=/bin"], "Labels": { "name": name } });
            layout(busybox(), config).write(&scene.path(name));
        }
        scene.write(
            "settings.toml",
            format!(
                "[store]\nsharing = \"public\"\nread_only = [\"{}\"]\n[profile.hpc]\nhome = false\n",
                scene.path("shared").display()
            ),
        );
        std::fs::set_permissions(
            scene.path("settings.toml"),
            PermissionsExt::from_mode(0o644),
        )
        .unwrap();
        let said = within(
            &scene,
            r#"
            mkdir shared; chown ann:ann shared; ln -s "$PWD/carrack" shifterimg; chmod -R a+rX open bobs labs
            pull() { as ann env CARRACK_STORE=$PWD/shared ./carrack import -q "$@" >/dev/null; }
            pull oci:open open; pull --allow-user=bob oci:bobs bobs; pull --allow-group lab --allow-user bob oci:labs labs
            as ann env CARRACK_STORE=$PWD/shared ./carrack import -q --allow-user nobody-there oci:open x
            for name in ann bob cid dot; do
                for image in open bobs labs; do
                    echo "$name $image: $(as $name ./carrack exec $image echo runs | tr '\n' ' ')"
                done
                echo "$name lists: $(as $name ./carrack images --json | grep -c '"digest"')"
            done
            # The files themselves, past every program of ours; the layers of private images are kept nowhere.
            for name in bob cid dot; do for file in shared/images/*/*; do as $name cat $file >/dev/null && :; done | grep -c code; done
            as dot sh -c 'cat shared/packs/*' 2>/dev/null | grep -c '"name"'; ls shared/packs | wc -l
            # Shifter's words, and a store that nobody else can enter.
            as ann env CARRACK_STORE=$PWD/shared ./shifterimg -u dot pull oci:$PWD/bobs 2>&1 | tail -1
            echo "dot now: $(as dot ./carrack exec bobs echo runs)"; echo "bob now: $(as bob ./carrack exec bobs echo runs | head -1)"
            as ann env CARRACK_CONFIG=/dev/null ./carrack import -q --allow-user bob oci:open mine
            "#,
        );
        for line in [
            "there is no user `nobody-there`",
            "ann open: runs",
            "ann bobs: runs",
            "bob bobs: runs",
            "bob labs: runs",
            "cid open: runs",
            "cid labs: runs",
            "dot open: runs",
            "dot now: runs",
            "bob now: error:",
            "nobody else can enter this store",
        ] {
            assert!(said.contains(line), "no {line:?} in\n{said}");
        }
        for (who, image) in [("cid", "bobs"), ("dot", "bobs"), ("dot", "labs")] {
            let line = said
                .lines()
                .find(|line| line.starts_with(&format!("{who} {image}: ")))
                .unwrap();
            assert!(
                line.contains("is private") && line.contains("code 125") && !line.contains("runs"),
                "{line}"
            );
        }
        for line in [
            "ann lists: 3",
            "bob lists: 3",
            "cid lists: 2",
            "dot lists: 1",
        ] {
            assert!(said.contains(line), "no {line:?} in\n{said}");
        }
    }
}
