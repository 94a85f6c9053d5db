//! `carrack check`: what is known against a job or an image before it waits in the queue.

use super::output;
use super::script::LongCommon;
use super::submit::{Desk, report};
use crate::error::{Error, Result, printable};
use crate::jobs::check::{Finding, Weight, not_asked};
use crate::jobs::words::Words;
use serde::Serialize;
use std::process::ExitCode;

/// Check a job file or an image against this cluster, without submitting anything
///
/// Looks at mounts and programs, at the image's MPI and what srun offers, at CUDA and the nodes' driver, at processors; with
/// `--profile ces` (or eucaim, gef) also at what that system asks of an image. Exit code 1 if something would fail.
#[derive(clap::Args)]
#[command(
    after_help = "Options: those of `carrack submit`, with --json for programs.\n\n\
    Examples:\n  carrack check wrf.toml\n  carrack check registry.site/app:v1\n  \
    carrack check -N 2 --mpi=pmix registry.site/app:v1 -- ./app"
)]
pub struct Args {
    /// A job file, an image, or options, an image and a command
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "JOB.toml | IMAGE | OPTIONS IMAGE -- COMMAND"
    )]
    words: Vec<String>,
    #[command(flatten)]
    pub common: LongCommon,
}

/// A finding as programs read it.
#[derive(Serialize)]
struct Line<'a> {
    weight: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    what: &'a str,
    hint: &'a str,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let words = Words::parse(&args.words)?;
    let desk = Desk::open(&words, args.common.common)?;
    if words.files.len() > 1 {
        return Err(Error::usage("one job file is checked at a time"));
    }
    let image = words.image.as_deref();
    let named = words.container.iter().rfind(|(name, _)| name == "profile");
    let profile = named.map(|(_, name)| name.as_str());
    let unasked = not_asked().filter(|_| !words.local);
    let (label, findings) = match image.filter(|_| words.command.is_empty()) {
        Some(image) if words.files.is_empty() => {
            let mut findings = desk.check_image(image, profile)?;
            findings.extend(unasked);
            if !words.json {
                for finding in &findings {
                    eprintln!("{}: {}", finding.weight.word(), printable(&finding.what));
                    eprintln!("  hint:  {}", printable(&finding.hint));
                }
            }
            (String::new(), findings)
        }
        _ => {
            let file = words.files.first().map(|file| file.as_path());
            let assembled = desk.assemble(file, &words, Vec::new())?;
            let mut findings = desk.check(&assembled);
            findings.extend(unasked);
            if !words.json {
                report(&assembled, &findings, false);
            }
            (assembled.label, findings)
        }
    };
    if words.json {
        let line = |finding: &Finding| (finding.line > 0).then_some(finding.line);
        let lines: Vec<Line> = findings
            .iter()
            .map(|finding| Line {
                weight: finding.weight.word(),
                file: line(finding).map(|_| label.clone()).unwrap_or_default(),
                line: line(finding),
                what: &finding.what,
                hint: &finding.hint,
            })
            .collect();
        output::print_json(&lines)?;
    }
    let fails = |finding: &Finding| finding.weight == Weight::Problem;
    Ok(ExitCode::from(u8::from(findings.iter().any(fails))))
}
