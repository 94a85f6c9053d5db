//! `carrack doctor`: what this node can do, found by trying.

use super::{Common, output};
use crate::doctor::{Finding, Level, probes};
use crate::error::Result;
use std::process::ExitCode;

/// Check what this node can do, and say what to change
///
/// Run it where the job runs: `srun carrack doctor`. Exit code 0 if images can be started, 1 if not.
#[derive(clap::Args)]
pub struct Args {
    /// Look at GPUs, their driver and CDI documents in detail, and at nothing else
    #[arg(long)]
    gpu: bool,
    /// Look at MPI, fast networks and processors in detail, and at nothing else
    #[arg(long)]
    mpi: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let findings = match args.gpu || args.mpi {
        true => in_detail(&args)?,
        false => whole(&args),
    };
    if args.json {
        output::print_json(&findings)?;
    } else {
        let shown = findings
            .iter()
            .filter(|finding| !args.common.quiet || finding.level > Level::Ok);
        let lines: String = shown.map(|finding| format!("{finding}\n")).collect();
        output::print(&crate::error::printable(&lines))?;
    }
    Ok(ExitCode::from(probes::exit(&findings)))
}

fn in_detail(args: &Args) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if args.gpu {
        let settings = args.common.settings()?;
        findings.extend(probes::gpu_in_detail(
            &settings.config.launch.cdi_directories,
        ));
    }
    if args.mpi {
        findings.extend(probes::mpi_in_detail());
    }
    Ok(findings)
}

fn whole(args: &Args) -> Vec<Finding> {
    let store = args.common.open_store();
    let mut findings = probes::all(store.as_ref().ok().map(|store| store.root()));
    if let Err(error) = store {
        findings.push(
            Finding::fail("settings", error.what())
                .cause(error.causes().join("; "))
                .remedy(error.hints().join("; ")),
        );
    }
    findings
}
