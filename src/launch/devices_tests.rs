use super::*;
use crate::launch::cdi::Specification;
use crate::launch::cdi::document;

fn run(
    gpu: Gpu,
    dev: Dev,
    names: &[String],
    facts: &HostFacts,
    slurm: Option<&SlurmStep>,
) -> Result<Devices> {
    let contents = Contents::default();
    let asked = Asked {
        gpu,
        dev,
        devices: names,
        variable: &|_| None,
        contents: &contents,
    };
    devices(&asked, facts, slurm)
}

fn nvidia(index: u32, allowed: bool) -> GpuNode {
    GpuNode {
        vendor: Vendor::Nvidia,
        path: format!("/dev/nvidia{index}").into(),
        also: Vec::new(),
        index,
        allowed,
    }
}

fn node(gpus: Vec<GpuNode>, variables: &[(&str, &str)]) -> (HostFacts, Option<SlurmStep>) {
    let environment: Vec<(OsString, OsString)> = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    let facts = HostFacts {
        environment,
        gpus,
        ..HostFacts::plain()
    };
    let slurm = SlurmStep::read(|name| Some(facts.variable(name)?.to_str()?.to_string()));
    (facts, slurm)
}

/// What goes with the GPUs when none of them stays.
const NEIGHBOURS: &str = "/dev/nvidia0 /dev/nvidia1 /dev/nvidiactl /dev/nvidia-uvm \
    /dev/nvidia-uvm-tools /dev/nvidia-modeset /dev/nvidia-caps /dev/nvidia-caps-imex-channels \
    /dev/gdrdrv";

fn show_all(result: &Devices) -> String {
    let without = |steps: &[Step], word: &str| -> String {
        steps
            .iter()
            .filter(|step| matches!(step, Step::LeaveOut(_)))
            .map(|step| format!("{word} {step} ").replace(NEIGHBOURS, "all NVIDIA"))
            .collect()
    };
    let fixed: String = result
        .fixed
        .iter()
        .map(|(name, value)| format!("{}={} ", name.display(), value.display()))
        .collect();
    format!(
        "{}{}{fixed}",
        without(&result.steps, "all"),
        without(&result.task_steps, "task")
    )
    .trim_end()
    .to_string()
}

/// The rows that were measured on a real Slurm: a node with two GPUs, with and without ConstrainDevices.
#[test]
fn rows_of_a_real_slurm() {
    const STEP: &[(&str, &str)] = &[
        ("SLURM_JOB_ID", "7"),
        ("SLURM_STEP_ID", "0"),
        ("SLURMD_NODENAME", "n1"),
    ];
    const BATCH: &[(&str, &str)] = &[("SLURM_JOB_ID", "7"), ("SLURMD_NODENAME", "n1")];
    const SHELL: &[(&str, &str)] = &[("SLURM_JOB_ID", "7")];
    type Row<'a> = (
        &'a str,
        &'a [(&'a str, &'a str)],
        [bool; 2],
        &'a [(&'a str, &'a str)],
        &'a str,
    );
    let rows: &[Row] = &[
        (
            "GPU 1 given, devices limited",
            STEP,
            [false, true],
            &[("CUDA_VISIBLE_DEVICES", "0"), ("SLURM_STEP_GPUS", "1")],
            "all leave out /dev/nvidia0",
        ),
        (
            "GPU 1 given, not limited",
            STEP,
            [true, true],
            &[
                ("CUDA_VISIBLE_DEVICES", "1"),
                ("GPU_DEVICE_ORDINAL", "1"),
                ("SLURM_STEP_GPUS", "1"),
            ],
            "all leave out /dev/nvidia0 CUDA_VISIBLE_DEVICES=0 GPU_DEVICE_ORDINAL=0",
        ),
        (
            "--gpus-per-task=1, task 1, limited",
            STEP,
            [false, true],
            &[
                ("CUDA_VISIBLE_DEVICES", "0"),
                ("SLURM_STEP_GPUS", "0"),
                ("SLURMD_TRES_BIND", "gpu:per_task:1"),
            ],
            "task leave out /dev/nvidia0",
        ),
        (
            "--gpus-per-task=1, task 1, not limited",
            STEP,
            [true, true],
            &[
                ("CUDA_VISIBLE_DEVICES", "1"),
                ("SLURM_STEP_GPUS", "1"),
                ("SLURMD_TRES_BIND", "gpu:per_task:1"),
            ],
            "task leave out /dev/nvidia0 CUDA_VISIBLE_DEVICES=0",
        ),
        (
            "--gpu-bind=none",
            STEP,
            [true, true],
            &[("SLURM_GPUS_ON_NODE", "2"), ("SLURM_GPU_BIND", "none")],
            "",
        ),
        (
            "both given, not limited",
            STEP,
            [true, true],
            &[("CUDA_VISIBLE_DEVICES", "0,1"), ("SLURM_STEP_GPUS", "0,1")],
            "",
        ),
        (
            "no GPUs, limited",
            STEP,
            [false, false],
            &[],
            "all leave out all NVIDIA",
        ),
        (
            "batch script, limited",
            BATCH,
            [true, false],
            &[("SLURM_JOB_GPUS", "0"), ("CUDA_VISIBLE_DEVICES", "0")],
            "all leave out /dev/nvidia1",
        ),
        (
            "--gres=none in a job with GPUs, not limited",
            STEP,
            [true, true],
            &[("SLURM_JOB_GPUS", "0,1")],
            "all leave out all NVIDIA",
        ),
        (
            "a step elsewhere: the batch host's list is not this node's",
            STEP,
            [true, true],
            &[
                ("SLURM_JOB_GPUS", "1"),
                ("SLURM_STEP_GPUS", "0"),
                ("CUDA_VISIBLE_DEVICES", "0"),
            ],
            "all leave out /dev/nvidia1 CUDA_VISIBLE_DEVICES=0",
        ),
        (
            "batch script, not limited",
            BATCH,
            [true, true],
            &[("SLURM_JOB_GPUS", "1"), ("CUDA_VISIBLE_DEVICES", "1")],
            "all leave out /dev/nvidia0 CUDA_VISIBLE_DEVICES=0",
        ),
        ("shell of salloc", SHELL, [true, true], &[], ""),
        (
            "no Slurm",
            &[],
            [true, true],
            &[("CUDA_VISIBLE_DEVICES", "1")],
            "",
        ),
        (
            "names instead of numbers stay",
            STEP,
            [true, true],
            &[
                ("CUDA_VISIBLE_DEVICES", "GPU-8932f937"),
                ("SLURM_STEP_GPUS", "1"),
            ],
            "all leave out /dev/nvidia0",
        ),
        (
            "parts of a GPU are counted otherwise",
            STEP,
            [true, true],
            &[("CUDA_VISIBLE_DEVICES", "MIG-1"), ("SLURM_STEP_GPUS", "6")],
            "",
        ),
    ];
    for (what, place, allowed, variables, expected) in rows {
        let gpus = vec![nvidia(0, allowed[0]), nvidia(1, allowed[1])];
        let (facts, slurm) = node(gpus, &[*place, *variables].concat());
        let result = run(Gpu::Auto, Dev::Full, &[], &facts, slurm.as_ref()).unwrap();
        assert_eq!(show_all(&result), *expected, "{what}");
        // Asking for all or none does not depend on Slurm.
        let all = run(Gpu::All, Dev::Full, &[], &facts, slurm.as_ref()).unwrap();
        assert_eq!(
            show_all(&all).is_empty(),
            allowed.iter().all(|allowed| *allowed),
            "{what}"
        );
        let none = run(Gpu::None, Dev::Full, &[], &facts, slurm.as_ref()).unwrap();
        assert_eq!(
            show_all(&none).split(" CUDA").next(),
            Some("all leave out all NVIDIA"),
            "{what}"
        );
    }
}

#[test]
fn only_the_vendor_that_slurm_counts_is_cut_down() {
    let mut gpus = vec![nvidia(0, true), nvidia(1, true)];
    gpus.push(GpuNode {
        vendor: Vendor::Intel,
        path: "/dev/dri/renderD128".into(),
        also: vec!["/dev/dri/card0".into()],
        index: 0,
        allowed: true,
    });
    let (facts, slurm) = node(
        gpus,
        &[
            ("SLURM_JOB_ID", "7"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_GPUS", "0"),
        ],
    );
    let result = run(Gpu::Auto, Dev::Full, &[], &facts, slurm.as_ref()).unwrap();
    assert_eq!(show_all(&result), "all leave out /dev/nvidia1");
    let none = run(Gpu::None, Dev::Full, &[], &facts, slurm.as_ref()).unwrap();
    assert_eq!(
        show_all(&none),
        "all leave out /dev/nvidia0 /dev/nvidia1 /dev/dri/renderD128 /dev/dri/card0 \
         /dev/nvidiactl /dev/nvidia-uvm /dev/nvidia-uvm-tools /dev/nvidia-modeset \
         /dev/nvidia-caps /dev/nvidia-caps-imex-channels /dev/gdrdrv"
    );
    // A device that the user names is shown.
    let wanted = ["/dev/nvidia1".to_string()];
    let named = run(Gpu::Auto, Dev::Full, &wanted, &facts, slurm.as_ref()).unwrap();
    assert_eq!(show_all(&named), "");
}

#[test]
fn a_minimal_dev_shows_gpus_only_when_given() {
    let step = [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0")];
    let given = [step.as_slice(), &[("SLURM_STEP_GPUS", "1")]].concat();
    for (variables, expected) in [
        (step.to_vec(), 0),
        // One node, nvidiactl and its six neighbours.
        (given, 8),
        (vec![], 9),
    ] {
        let (facts, slurm) = node(vec![nvidia(0, true), nvidia(1, true)], &variables);
        let result = run(Gpu::Auto, Dev::Minimal, &[], &facts, slurm.as_ref()).unwrap();
        assert_eq!(result.steps.len(), expected, "{variables:?}");
    }
    assert_eq!(dev(Dev::Full).len(), 1);
    let minimal = dev(Dev::Minimal);
    assert_eq!(
        minimal.first().unwrap().to_string(),
        "tmpfs /dev (mode 0755)"
    );
}

#[test]
fn named_devices() {
    let (mut facts, _) = node(vec![], &[]);
    let edits = document::Edits {
        environment: vec!["NET=a".into()],
        nodes: vec![document::Node {
            path: "/dev/net0".into(),
            host: "/dev/net0".into(),
        }],
        mounts: vec![document::Mount {
            host: "/host/lib.so".into(),
            container: "/usr/lib/lib.so".into(),
            there: true,
            ..Default::default()
        }],
        ..Default::default()
    };
    facts.cdi.specifications.push(Specification {
        kind: "vendor.com/net".into(),
        devices: [("a".to_string(), edits)].into(),
        ..Default::default()
    });
    let run = |name: &str, kind| run(Gpu::Auto, kind, &[name.to_string()], &facts, None);
    assert!(run("/dev/x", Dev::Full).unwrap().steps.is_empty());
    assert_eq!(run("/dev/x", Dev::Minimal).unwrap().steps.len(), 1);
    assert_eq!(run("vendor.com/net=a", Dev::Full).unwrap().steps.len(), 1);
    assert_eq!(
        run("vendor.com/net=a", Dev::Minimal).unwrap().steps.len(),
        2
    );
    assert!(run("vendor.com/net=b", Dev::Full).is_err());
}

/// Parts of a GPU (MIG) and channels between nodes: the cgroup tells which are the step's.
#[test]
fn parts_of_others_are_not_seen() {
    const MIG: &[(&str, &str)] = &[
        ("SLURM_JOB_ID", "7"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_GPUS", "3"),
        ("CUDA_VISIBLE_DEVICES", "MIG-8f2c"),
    ];
    let (mut facts, slurm) = node(vec![nvidia(0, true)], MIG);
    facts.refused_parts = vec![
        "/dev/nvidia-caps/nvidia-cap12".into(),
        "/dev/nvidia-caps-imex-channels/channel3".into(),
    ];
    let expected =
        "all leave out /dev/nvidia-caps/nvidia-cap12 /dev/nvidia-caps-imex-channels/channel3";
    for dev in [Dev::Full, Dev::Minimal] {
        let result = run(Gpu::Auto, dev, &[], &facts, slurm.as_ref()).unwrap();
        assert_eq!(show_all(&result), expected);
    }
    // Without the GPU its directories go as a whole.
    let none = run(Gpu::None, Dev::Full, &[], &facts, slurm.as_ref()).unwrap();
    let all = show_all(&none);
    assert!(
        all.contains("/dev/nvidia-caps ") && !all.contains("cap12"),
        "{all}"
    );
}

#[test]
fn amd_and_intel_by_their_render_nodes() {
    let render = |vendor, index: u32, allowed| GpuNode {
        vendor,
        path: format!("/dev/dri/renderD{}", 128 + index).into(),
        also: vec![format!("/dev/dri/card{index}").into()],
        index,
        allowed,
    };
    const STEP: &[(&str, &str)] = &[
        ("SLURM_JOB_ID", "7"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_GPUS", "1"),
        ("ROCR_VISIBLE_DEVICES", "1"),
        ("ZE_AFFINITY_MASK", "1"),
    ];
    let renumbered = "ROCR_VISIBLE_DEVICES=0 ZE_AFFINITY_MASK=0";
    let other = "all leave out /dev/dri/renderD128 /dev/dri/card0";
    for (vendor, allowed, expected) in [
        (Vendor::Amd, [false, true], other.to_string()),
        (Vendor::Amd, [true, true], format!("{other} {renumbered}")),
        (Vendor::Intel, [false, true], other.to_string()),
        (Vendor::Intel, [true, true], format!("{other} {renumbered}")),
    ] {
        let gpus = vec![render(vendor, 0, allowed[0]), render(vendor, 1, allowed[1])];
        let (facts, slurm) = node(gpus, STEP);
        let result = run(Gpu::Auto, Dev::Full, &[], &facts, slurm.as_ref()).unwrap();
        assert_eq!(show_all(&result), expected, "{vendor:?} {allowed:?}");
        // Their user-space parts are the image's.
        assert!(result.additions.is_empty() && result.libraries.is_empty());
        let minimal = run(Gpu::Auto, Dev::Minimal, &[], &facts, slurm.as_ref()).unwrap();
        let shown: Vec<String> = minimal.steps.iter().map(Step::to_string).collect();
        let kfd = shown.iter().any(|line| line.contains("/dev/kfd"));
        assert_eq!(kfd, vendor == Vendor::Amd);
        assert!(shown.iter().any(|line| line.contains("renderD129")));
        assert!(
            !shown.iter().any(|line| line.contains("renderD128")),
            "{shown:?}"
        );
    }
}
