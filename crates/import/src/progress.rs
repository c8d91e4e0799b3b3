//! How far an import is, for who watches it: a bar on a terminal, else a line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::source::Total;

/// Where there is no terminal, a line is written so often.
const LINE_EVERY: Duration = Duration::from_secs(30);

pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    total: Option<u64>,
    /// Where this run began, in the total's unit.
    began_at: u64,
    started: Instant,
    line_written: Instant,
    /// Rows of this run.
    rows: u64,
}

impl Progress {
    pub(crate) fn new(total: Total, began_at: u64) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let total = match total {
            Total::Bytes(total) | Total::Rows(total) => Some(total),
            Total::Unknown => None,
        };
        let template = match total {
            Some(_) => "{bar:32} {percent:>3} %  {msg}",
            None => "{spinner} {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total, target).with_style(style);
        bar.set_position(began_at);
        let now = Instant::now();
        Progress { bar, is_terminal, total, began_at, started: now, line_written: now, rows: 0 }
    }

    /// So many rows more are in, and the file is read and done up to here.
    pub(crate) fn done(&mut self, rows: u64, position: u64) {
        self.rows += rows;
        self.bar.set_position(position);
        let message = self.message(position);
        if !self.is_terminal && self.line_written.elapsed() >= LINE_EVERY {
            eprintln!("{message}");
            self.line_written = Instant::now();
        }
        self.bar.set_message(message);
    }

    /// The bar, to tell lines above it.
    pub(crate) fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    /// A line that stays, above the bar.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Rows in each second of this run.
    pub(crate) fn rate(&self) -> f64 {
        self.rows as f64 / self.started.elapsed().as_secs_f64().max(1e-3)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn message(&self, position: u64) -> String {
        let mut message = format!("{} rows, {:.0} rows/s", HumanCount(self.rows), self.rate());
        let moved = position.saturating_sub(self.began_at);
        if let (Some(total), true) = (self.total, moved > 0) {
            let left = total.saturating_sub(position) as f64 / moved as f64 * self.started.elapsed().as_secs_f64();
            message += &format!(", {} left", HumanDuration(Duration::from_secs_f64(left.min(1e9))));
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_this_run_alone() {
        let mut progress = Progress::new(Total::Rows(1000), 800);
        progress.started = Instant::now() - Duration::from_secs(10);
        progress.done(100, 900);
        assert!(progress.message(900).ends_with("100 rows, 10 rows/s, 10 seconds left"), "{}", progress.message(900));
        let mut unknown = Progress::new(Total::Unknown, 0);
        unknown.done(10, 12);
        assert!(!unknown.message(12).contains("left"));
    }
}
