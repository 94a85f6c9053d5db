//! HPC-Europa3's D12.2: its `submit.sh` and `run_wrf.sh` with the tool's name changed, against an image that has what
//! theirs had: Lmod, a module tree, and an MPI program that leaves `rsl.out.NNNN` in the directory of the submission.

use super::cluster::Cluster;
use super::mpi::{fixture, image_of};
use crate::need::need;
use crate::registry::{Manners, Registry};
use std::process::Command;

const SUBMIT: &str = "#!/bin/bash\n#SBATCH -N 1\n#SBATCH -t 1:00:00\n#SBATCH -A sys_test\n#SBATCH -p ProdQ\n\n\
    module load carrack\n\ntime carrack exec IMAGE ./run_wrf.sh\n";

const RUN_WRF: &str = "#!/bin/bash\n\nsource /etc/profile.d/profile.sh\nmodule load netCDF-Fortran/4.4.4-foss-2018b\n\
    /opt/apps/WRF/main/ideal.exe\nmpirun /opt/apps/WRF/main/wrf.exe\n";

#[test]
fn the_weather_model_of_the_deliverable_runs_as_it_did() {
    need!(Root, Slurm, OpenMpi, Lmod, Registry);
    let cluster = Cluster::up(2, 0);
    let tree = cluster.path("scratch/wrf");
    fixture("mpi-tree", &tree);
    fixture("lmod-tree", &tree);
    let registry = Registry::start(&cluster.path(""), Manners::default());
    let image = image_of(&tree, &registry, &cluster.path("layout"), "niwilson/eb-wrf");
    // What `make install` leaves on the shared file system; the nodes have carrack from nowhere else.
    let installed = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install"))
        .arg(cluster.path("scratch/apps"))
        .env("CARRACK", crate::scene::carrack())
        .output()
        .unwrap();
    assert!(installed.status.success(), "{installed:?}");
    std::fs::remove_dir_all(cluster.path("scratch/bin")).unwrap();
    cluster.run(&[
        "sh",
        "login",
        "scontrol",
        "create",
        "PartitionName=ProdQ",
        "Nodes=ALL",
    ]);

    cluster.write("run/submit.sh", &SUBMIT.replace("IMAGE", &image));
    cluster.write("run/run_wrf.sh", RUN_WRF);
    let login = |line: &str| {
        let line = line.replace('\'', "'\\''");
        cluster.good(&format!(
            "bash -lc 'module use /scratch/apps/share/modulefiles; cd run; {line}'"
        ))
    };
    login(
        "chmod +x run_wrf.sh; module load carrack; carrack pull -q IMAGE"
            .replace("IMAGE", &image)
            .as_str(),
    );
    let said = login("sbatch --quiet --wait -n 4 -o wrf.log submit.sh; cat wrf.log");
    assert!(
        said.contains("modules: netCDF-Fortran/4.4.4-foss-2018b\n"),
        "{said}"
    );
    assert!(
        said.contains("rank 3 of 4 on n1: right, memory read\n") && said.contains("\nreal\t"),
        "{said}"
    );
    for rank in 0..4 {
        let result = cluster.read(&format!("run/rsl.out.000{rank}"));
        assert_eq!(result, format!("SUCCESS COMPLETE rank {rank}\n"), "{said}");
    }
    assert_eq!(
        cluster.good("stat -c %U run/rsl.out.0003 run/wrfinput_d01"),
        "alice\nalice\n"
    );
    // Manual pages and completions come with the module too.
    assert!(
        login("module load carrack; man -w carrack-pull").contains("/scratch/apps/share/man/man1/")
    );
    // Environment Modules' form of the file, which Lmod reads as well.
    cluster.good("rm /scratch/apps/share/modulefiles/carrack/*.lua 2>/dev/null; true");
    std::fs::remove_file(cluster.path("scratch/apps/share/modulefiles/carrack/0.1.0.lua")).unwrap();
    assert!(login("module load carrack; type -p carrack").ends_with("/scratch/apps/bin/carrack\n"));
}
