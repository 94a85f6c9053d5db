//! One command measured, many commands compared, one table printed.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Seconds.
    pub wall: f64,
    /// Seconds of user and system time, children included.
    pub cpu: f64,
    /// KiB of the largest process.
    pub rss: f64,
}

/// Runs a shell command under GNU time.
pub fn cost(run: &Path, shell: &str) -> Cost {
    let report = run.join("time");
    let output = Command::new("/usr/bin/time")
        .args(["-q", "-f", "%e %U %S %M", "-o"])
        .arg(&report)
        .args(["sh", "-ec", shell])
        .stdin(Stdio::null())
        .output()
        .expect("GNU time");
    assert!(
        output.status.success(),
        "{shell}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = std::fs::read_to_string(&report).expect("what time wrote");
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [wall, user, system, rss] = numbers[..] else {
        panic!("time wrote {text}");
    };
    Cost {
        wall,
        cpu: user + system,
        rss,
    }
}

/// The best of several runs, each prepared by `before`.
pub fn best(rounds: usize, mut once: impl FnMut() -> Cost) -> Cost {
    (0..rounds)
        .map(|_| once())
        .reduce(|a, b| Cost {
            wall: a.wall.min(b.wall),
            cpu: a.cpu.min(b.cpu),
            // Memory is a bound to keep in every run.
            rss: a.rss.max(b.rss),
        })
        .expect("at least one round")
}

/// A command to be measured.
pub type Make<'a> = &'a dyn Fn() -> Command;

/// Milliseconds from start to end of each command, the least of many. They take turns, so that what else happens on the
/// machine meets all of them.
pub fn milliseconds(rounds: usize, commands: &[Make<'_>]) -> Vec<f64> {
    minima(rounds, commands, |make| {
        let status = make().status().expect("a program");
        assert!(status.success(), "{:?}", make());
    })
}

/// Milliseconds until `count` processes, started at once, have all ended; the least of several rounds.
pub fn together(rounds: usize, count: usize, commands: &[Make<'_>]) -> Vec<f64> {
    minima(rounds, commands, |make| at_once(count, make))
}

pub fn at_once(count: usize, make: Make<'_>) {
    let children: Vec<_> = (0..count)
        .map(|_| make().spawn().expect("a program"))
        .collect();
    for mut child in children {
        assert!(child.wait().expect("its end").success(), "{:?}", make());
    }
}

fn minima(rounds: usize, commands: &[Make<'_>], once: impl Fn(Make<'_>)) -> Vec<f64> {
    let mut least = vec![f64::INFINITY; commands.len()];
    for _ in 0..rounds {
        for (least, make) in least.iter_mut().zip(commands) {
            let start = Instant::now();
            once(*make);
            *least = least.min(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    least
}

pub fn command<A: AsRef<OsStr>>(words: &[A]) -> Command {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 5]>,
    missed: usize,
}

impl Table {
    pub fn heading(&mut self, text: &str) {
        eprintln!("bench: {text}");
        self.rows.push([
            format!("# {text}"),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ]);
    }

    /// A value that is only told.
    pub fn told(&mut self, what: &str, value: String) {
        eprintln!("  {what}: {value}");
        self.rows.push([
            what.into(),
            value,
            String::new(),
            String::new(),
            String::new(),
        ]);
    }

    /// A value with a bound: `bound` of them at most.
    pub fn bound(&mut self, what: &str, shown: String, value: f64, bound: f64, unit: &str) {
        let verdict = if value <= bound { "PASS" } else { "MISS" };
        self.missed += usize::from(value > bound);
        eprintln!("  {what}: {value:.3}{unit} (≤ {bound}{unit}) {verdict}");
        self.rows.push([
            what.into(),
            shown,
            format!("{value:.3}{unit}"),
            format!("≤ {bound}{unit}"),
            verdict.into(),
        ]);
    }

    /// Ours against theirs.
    pub fn ratio(&mut self, what: &str, ours: f64, theirs: f64, unit: &str, bound: f64) {
        let shown = format!("{ours:.2} / {theirs:.2} {unit}");
        self.bound(what, shown, ours / theirs, bound, "×");
    }

    pub fn print(&self) {
        let width = |column: usize| {
            let widths = self
                .rows
                .iter()
                .filter(|row| !row[0].starts_with('#'))
                .map(|row| row[column].chars().count());
            widths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..5).map(width).collect();
        println!();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            println!("{}", cells.join("  ").trim_end());
        }
        println!("\n{} of the bounds missed", self.missed);
    }
}
