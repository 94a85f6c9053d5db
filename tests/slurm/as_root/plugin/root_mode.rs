//! The site's opt-in: the kernel mounts images of a store that is root's alone.

use super::{Cluster, plugstack, with_plugin};
use crate::need::need;
use carrack::record::ImageRecord;
use std::path::Path;

/// A store of root's with three images, and the plugin told to let the kernel mount from it.
fn with_site_store() -> Cluster {
    let cluster = with_plugin(2, 0);
    plugstack(&cluster, "kernel-mount=/scratch/site");
    let settings = cluster.path("etc/carrack");
    std::fs::create_dir_all(&settings).unwrap();
    std::fs::write(
        settings.join("carrack.toml"),
        "[store]\nread_only = ['/scratch/site']\n",
    )
    .unwrap();
    as_root(
        &cluster,
        "login",
        "cd /scratch; umask 022; store='/scratch/bin/carrack --store /scratch/site'; \
         for name in good broken short; do echo $name >root/etc/name; $store pull -q dir:root; $store tag dir:root $name; done; \
         mksquashfs root foreign.sqsh -quiet -no-progress -p 'device c 666 0 0 1 3' >/dev/null; \
         $store import -q foreign.sqsh foreign; chmod -R a+rX site; \
         file() { $store inspect $1 | sed -n 's/^path *//p'; }; \
         printf X | dd of=$(file broken) bs=1 seek=40 conv=notrunc status=none; truncate -s -512 $(file short)",
    );
    // Also for the epilog, which slurmd looks for when it starts.
    assert!(cluster.run(&["restart"]).status.success());
    cluster
}

/// Where the kernel mounted images on a node, for a shell: the directory above cannot be listed.
const MOUNTED: &str = "$(grep -o \"/run/carrack/[^ ]*/images/[^ ]*\" /proc/mounts)";

/// Gives the record of one image the layers of another, as if it had been made from them.
fn pretend_made(cluster: &Cluster, name: &str, other: &str) {
    let record = |name: &str| {
        let line = format!(
            "/scratch/bin/carrack --store /scratch/site inspect {name} | sed -n 's/^path *//p'"
        );
        let image = as_root(cluster, "login", &line);
        cluster.path(&image.trim()[1..]).with_extension("json")
    };
    let read = |path: &Path| ImageRecord::parse(&std::fs::read(path).unwrap()).unwrap();
    let path = record(name);
    let layers = read(&record(other)).layers;
    let changed = ImageRecord {
        layers,
        ..read(&path)
    };
    std::fs::write(&path, changed.to_json()).unwrap();
}

fn as_root(cluster: &Cluster, node: &str, line: &str) -> String {
    let output = cluster.run(&["sh", node, "bash", "-ec", line]);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_kernel_mounts_the_site_s_images_and_no_others() {
    need!(Root, Slurm, KernelMount, SquashfsTools);
    let cluster = with_site_store();
    let look = "sh -c 'echo $(cat /etc/name) $(head -1 /proc/self/mountinfo | cut -d\" \" -f6-) $(grep NoNewPrivs /proc/self/status)'";
    let job = "job=$(sbatch --parsable -o /dev/null -N2 -n8 --wrap 'sleep 600'); \
               until [ \"$(squeue -h -j $job -o %T)\" = RUNNING ]; do sleep 0.05; done; \
               step() { srun --jobid=$job --overlap \"$@\" 2>&1; echo \"code $?\"; }; ";
    let tell = |line: &str| {
        let said = cluster.good(&format!("{job}{line}; scancel $job"));
        // Numbers of devices are whatever was free.
        said.replace(|c: char| c.is_ascii_digit(), "#")
    };
    // Four tasks on two nodes, twice: one mount on each node, seen by a bare step beside them.
    let said = tell(&format!(
        "step -N2 -n4 --container-image=good {look} | sort; step -N2 -n4 --container-image=good true; \
         step -N2 grep -c /run/carrack/$job/images/ /proc/mounts"
    ));
    let seen =
        "good ro,nosuid,nodev,relatime - squashfs /dev/loop# ro,errors=continue NoNewPrivs: #\n";
    assert_eq!(
        said,
        format!("code #\n{}code #\n#\n#\ncode #\n", seen.repeat(4)).replace("##", "#")
    );

    // What a user tries in a namespace of his own, inside and on the host beside it.
    let remount = "unshare -U -r -m busybox mount -o remount,bind,rw,dev,suid";
    let said = tell(&format!(
        "step -n1 --container-image=good busybox {remount} /; \
         step -n1 --container-image=good busybox unshare -U -r -m busybox umount /; \
         step -n1 sh -c 'busybox {remount} {MOUNTED}'; \
         step -n1 sh -c 'busybox unshare -U -r -m busybox umount {MOUNTED}'; \
         step -n1 sh -c 'rm -rf /run/carrack/*/images /run/carrack/*/x; mv /run/carrack/*/images /run/carrack/x'; \
         step -n1 --container-image=good {look}"
    ));
    let refused: Vec<&str> = said
        .lines()
        .filter(|line| *line == "code #" || !line.starts_with("srun"))
        .collect();
    assert!(said.ends_with(&format!("{seen}code #\n")), "{said}");
    let codes = cluster.good(&format!(
        "{job}for what in 'busybox {remount} /' 'busybox unshare -U -r -m busybox umount /'; do \
         srun --jobid=$job --overlap -n1 --quiet --container-image=good $what 2>>refusals && echo done; done; \
         srun --jobid=$job --overlap -n1 sh -c 'for at in {MOUNTED}; do echo $at | cut -d/ -f2,3,5; \
         busybox {remount} $at && echo done; busybox unshare -U -r -m busybox umount $at && echo done; umount $at && echo done; done' 2>>refusals; \
         scancel $job"
    ));
    assert_eq!(
        codes,
        "run/carrack/images\n",
        "{refused:?}\n{}",
        cluster.good("cat refusals")
    );

    // A foreign image is served as always, and its device is dead; broken ones run nowhere.
    let said = tell(&format!(
        "step -n1 --container-image=foreign {look}; step -n1 --container-image=foreign cat /device"
    ));
    assert!(
        said.contains("the kernel does not mount the image")
            && said.contains("was not made by carrack"),
        "{said}"
    );
    assert!(!said.contains("- squashfs"), "{said}");
    assert!(
        said.contains("cat: can't open '/device': Permission denied"),
        "{said}"
    );
    let said = tell(&format!(
        "step -n1 --container-image=broken {look}; step -n1 sh -c 'grep squashfs /proc/mounts | grep /run/carrack'"
    ));
    assert!(
        said.contains("the kernel does not mount the image") && said.contains("code ###\n"),
        "{said}"
    );
    assert!(
        !said.contains("NoNewPrivs") && !said.contains("/run/carrack/"),
        "{said}"
    );
    // One that is too short is no image of the store at all.
    let said = tell(&format!("step -n1 --container-image=short {look}"));
    assert!(
        !said.contains("NoNewPrivs") && said.contains("error"),
        "{said}"
    );
    // Were such an image ever among those that carrack made, its device would be as dead for the kernel's mount.
    pretend_made(&cluster, "foreign", "good");
    let said = tell(&format!(
        "step -n1 --container-image=foreign grep -c squashfs /proc/mounts; step -n1 --container-image=foreign cat /device; \
         step -n1 sh -c 'ls -l {MOUNTED}/device; cat {MOUNTED}/device'"
    ));
    assert!(said.contains("crw-rw-rw-"), "{said}");
    assert!(
        said.contains("cat: can't open '/device': Permission denied"),
        "{said}"
    );
    assert!(
        said.contains("images/") && said.contains("/device: Permission denied\n"),
        "{said}"
    );
    // A file that is not root's alone any more.
    let file = "$(/scratch/bin/carrack --store /scratch/site inspect good | sed -n 's/^path *//p')";
    for (change, back) in [("chown alice", "chown root"), ("chmod g+w", "chmod g-w")] {
        as_root(&cluster, "login", &format!("{change} {file}"));
        let said = tell(&format!("step -n1 --container-image=good {look}"));
        as_root(&cluster, "login", &format!("{back} {file}"));
        assert!(
            said.contains("is not root's alone") && !said.contains("- squashfs"),
            "{change}: {said}"
        );
    }

    // The jobs have ended: no mount, no loop device, no directory.
    cluster.good("while [ -n \"$(squeue -h -t all -o %T | grep -v -e COMPLETED -e FAILED -e CANCELLED)\" ]; do sleep 0.1; done");
    for node in ["n1", "n2"] {
        let left = as_root(
            &cluster,
            node,
            "grep squashfs /proc/mounts | grep /run/carrack || true; ls -A /run/carrack",
        );
        assert_eq!(left, "", "{node}");
    }
}
