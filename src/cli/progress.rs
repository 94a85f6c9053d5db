//! Long work as people see it: bars on a terminal, one line a minute elsewhere, nothing with `-q`.

use super::Common;
use crate::config::Size;
use crate::image::progress::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Draws on standard error and counts for the summary.
pub struct Watch {
    kind: Kind,
    started: Instant,
    state: Mutex<State>,
}

enum Kind {
    Quiet,
    Lines,
    Bars(MultiProgress),
}

#[derive(Default)]
struct State {
    layers: BTreeMap<usize, Layer>,
    phase: String,
    last_line: Option<Instant>,
}

struct Layer {
    total: Option<u64>,
    done: u64,
    how: Option<String>,
    bar: Option<ProgressBar>,
}

impl Watch {
    pub fn new(common: &Common) -> Watch {
        let kind = if common.quiet {
            Kind::Quiet
        } else if std::io::stderr().is_terminal() {
            Kind::Bars(MultiProgress::new())
        } else {
            Kind::Lines
        };
        Watch {
            kind,
            started: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// How many layers ended in each way, for example `8 packed, 2 cached`.
    pub fn layers(&self) -> String {
        let mut ways: BTreeMap<String, usize> = BTreeMap::new();
        for layer in self.state().layers.values() {
            *ways
                .entry(layer.how.clone().unwrap_or_default())
                .or_default() += 1;
        }
        let ways = ways.into_iter().filter(|(how, _)| !how.is_empty());
        ways.map(|(how, count)| format!("{count} {how}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Removes the bars; what comes next is the result.
    pub fn finish(&self) {
        if let Kind::Bars(bars) = &self.kind {
            for layer in self.state().layers.values() {
                layer.bar.iter().for_each(ProgressBar::finish_and_clear);
            }
            // Bars are decoration.
            let _ = bars.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        match &self.kind {
            Kind::Quiet => {}
            Kind::Lines => {
                let _ = writeln!(
                    std::io::stderr().lock(),
                    "{}",
                    crate::error::printable(text)
                );
            }
            Kind::Bars(bars) => {
                let _ = bars.println(crate::error::printable(text));
            }
        }
    }

    /// One line when a minute has passed since the last one, or since the start.
    fn line_if_due(&self, state: &mut State) {
        if !matches!(self.kind, Kind::Lines)
            || state.last_line.unwrap_or(self.started).elapsed() < LINE_EVERY
        {
            return;
        }
        state.last_line = Some(Instant::now());
        let done = state
            .layers
            .values()
            .fold(0u64, |sum, layer| sum.saturating_add(layer.done));
        let total: Option<u64> = state.layers.values().map(|layer| layer.total).sum();
        let of = total
            .map(|total| format!(" of {}", Size(total)))
            .unwrap_or_default();
        let ready = state
            .layers
            .values()
            .filter(|layer| layer.how.is_some())
            .count();
        let phase = if state.phase.is_empty() { "" } else { ", " };
        self.line(&format!(
            "{}{of} in {} s, {ready} of {} layers ready{phase}{}",
            Size(done),
            self.started.elapsed().as_secs(),
            state.layers.len(),
            state.phase
        ));
    }
}

impl Progress for Watch {
    fn layer(&self, index: usize, total: Option<u64>, name: &str) {
        let bar = match &self.kind {
            Kind::Bars(bars) => {
                let bar = bars.add(match total {
                    Some(total) => ProgressBar::new(total),
                    None => ProgressBar::no_length(),
                });
                bar.set_style(style(total.is_some()));
                bar.set_prefix(short(name));
                Some(bar)
            }
            _ => None,
        };
        let layer = Layer {
            total,
            done: 0,
            how: None,
            bar,
        };
        self.state().layers.insert(index, layer);
    }

    fn advance(&self, index: usize, bytes: u64) {
        let mut state = self.state();
        if let Some(layer) = state.layers.get_mut(&index) {
            layer.done = layer.done.saturating_add(bytes);
            if let Some(bar) = &layer.bar {
                bar.inc(bytes);
            }
        }
        self.line_if_due(&mut state);
    }

    fn layer_done(&self, index: usize, how: &str) {
        let mut state = self.state();
        if let Some(layer) = state.layers.get_mut(&index) {
            layer.how = Some(how.to_string());
            if let Some(bar) = &layer.bar {
                bar.finish_with_message(how.to_string());
            }
        }
        self.line_if_due(&mut state);
    }

    fn phase(&self, text: &str) {
        let mut state = self.state();
        state.phase = text.to_string();
        tracing::info!("{text}");
        self.line_if_due(&mut state);
    }

    fn note(&self, warning: &str) {
        self.line(warning);
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{prefix:12} {bar:30} {binary_bytes:>11}/{binary_total_bytes:<11} {binary_bytes_per_sec:>13} {eta:>4} {msg}"
    } else {
        "{prefix:12} {spinner} {binary_bytes:>11} {binary_bytes_per_sec:>13} {msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Twelve characters that tell layers apart: of a digest its first digits, of a path its end.
fn short(name: &str) -> String {
    let name = crate::error::printable(name);
    let tail = name.rsplit('/').next().unwrap_or_default();
    let tail = tail.strip_prefix("sha256:").unwrap_or(tail);
    tail.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_by_what_became_of_them() {
        let quiet = Common {
            quiet: true,
            ..Default::default()
        };
        let watch = Watch::new(&quiet);
        for (index, how) in ["packed", "cached", "packed"].iter().enumerate() {
            watch.layer(index, None, "sha256:abc");
            watch.layer_done(index, how);
        }
        watch.layer(3, None, "x");
        assert_eq!(watch.layers(), "1 cached, 2 packed");
    }

    #[test]
    fn names_are_short() {
        for (name, want) in [
            ("sha256:0123456789abcdef", "0123456789ab"),
            ("/a/b/image.sqsh", "image.sqsh"),
            ("", ""),
        ] {
            assert_eq!(short(name), want);
        }
    }
}
