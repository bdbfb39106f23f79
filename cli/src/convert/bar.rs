//! The progress bar of a conversion, on standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nanoserve_converter::{Progress, Step};
use std::time::Duration;

/// A progress bar on standard error; hidden if that is no terminal.
pub struct Bar {
    bar: ProgressBar,
    /// Nothing will be written.
    dry: bool,
}

impl Bar {
    /// A bar, hidden if `quiet`. `dry` says that the run writes nothing.
    pub fn new(quiet: bool, dry: bool) -> Bar {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Bar { bar: ProgressBar::with_draw_target(None, target), dry }
    }

    /// Removes the bar from the terminal.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, step: Step, bytes: u64) {
        const BAR: &str =
            "{msg:10} {wide_bar} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";
        let (message, template) = match step {
            Step::Encode if self.dry => ("checking", BAR),
            Step::Encode => ("converting", BAR),
            Step::Finish => ("finishing", "{msg:10} {spinner} {elapsed}"),
        };
        self.bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        self.bar.reset();
        self.bar.set_length(bytes);
        self.bar.set_message(message);
        if step == Step::Finish {
            self.bar.enable_steady_tick(Duration::from_millis(100));
        }
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}
