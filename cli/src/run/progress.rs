//! Shows on standard error how much of a prompt has run, once it has taken a second.

use crate::{console, machine};
use nanoserve_runtime::Session;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Nothing is shown before this.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the line is written anew.
const TICK: Duration = Duration::from_millis(250);

/// What is known of a prompt that runs.
#[derive(Debug)]
struct State {
    /// Tokens that must run.
    total: usize,
    /// Tokens in a step.
    chunk: usize,
    /// Tokens that have run, and how long that took. None before the first step begins.
    done: Option<(usize, Duration)>,
    ended: bool,
}

impl State {
    /// The line after so much time.
    fn line(&self, time: Duration) -> String {
        let State { total, chunk, done, .. } = *self;
        let (done, took) = done.unwrap_or_default();
        if done == 0 {
            return format!("prompt: {total} tokens");
        }
        let each = took.as_secs_f64() / done as f64;
        // The step that runs now, as far as one can guess.
        let within = ((time - took).as_secs_f64() / each) as usize;
        let done = (done + within.min(chunk)).min(total);
        let left = ((total - done) as f64 * each).ceil() as u64;
        let left = if left < 100 { format!("{left} s") } else { format!("{} min", left.div_ceil(60)) };
        format!("prompt: {done} of {total} tokens, {left} left")
    }
}

/// Shows how far a prompt is, as long as it lives.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// For a prompt of which `total` tokens must run, in steps of `chunk`. Nothing is shown where `quiet`, or where
    /// standard error is no terminal that can take a line back.
    pub fn begin(total: usize, chunk: usize, quiet: bool) -> Progress {
        let start = Instant::now();
        let state = State { total, chunk: chunk.max(1), done: None, ended: false };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let shown = !quiet && !console::is_dumb() && std::io::stderr().is_terminal();
        let theirs = shared.clone();
        let thread = shown.then(|| thread::Builder::new().name("progress".into()).spawn(move || show(start, &theirs)));
        // Without a thread nothing is shown.
        Progress { start, shared, thread: thread.and_then(Result::ok) }
    }

    /// Says that the next step begins.
    pub fn step(&self) {
        let mut state = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = state.done.map_or(0, |(done, _)| (done + state.chunk).min(state.total));
        state.done = Some((done, self.start.elapsed()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It prints only; whatever stopped it, the prompt has run.
            let _ = thread.join();
        }
    }
}

/// Shows how far a prompt is that a session is about to run.
pub fn of(session: &Session<machine::Backend>, prompt: &[u32], chunk: usize, quiet: bool) -> Progress {
    let held = session.ids().iter().zip(prompt).take_while(|(a, b)| a == b).count();
    Progress::begin(prompt.len() - held.min(prompt.len().saturating_sub(1)), chunk, quiet)
}

/// Writes the line until the prompt has run, then takes it away.
fn show(start: Instant, (state, changed): &(Mutex<State>, Condvar)) {
    let mut wait = PATIENCE;
    loop {
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) =
            changed.wait_timeout_while(state, wait, |state| !state.ended).unwrap_or_else(PoisonError::into_inner);
        let (ended, mut line) = (state.ended, state.line(start.elapsed()));
        drop(state);
        // A line that went on in a second row could not be taken back.
        line.truncate(console::error_columns().map_or(usize::MAX, |columns| columns - 1));
        let mut out = std::io::stderr().lock();
        // A closed standard error is ignored.
        let _ = match (ended, wait == PATIENCE) {
            (true, true) => return,
            (true, false) => write!(out, "\r\x1b[K").and_then(|()| out.flush()),
            (false, _) => write!(out, "\r\x1b[K{line}").and_then(|()| out.flush()),
        };
        if ended {
            return;
        }
        wait = TICK;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_left() {
        let line = |done, took, time| {
            let done = Some((done, Duration::from_secs(took)));
            State { total: 1000, chunk: 100, done, ended: false }.line(Duration::from_secs(time))
        };
        assert_eq!(line(0, 0, 5), "prompt: 1000 tokens");
        assert_eq!(line(200, 10, 10), "prompt: 200 of 1000 tokens, 40 s left");
        assert_eq!(line(200, 10, 12), "prompt: 240 of 1000 tokens, 38 s left");
        assert_eq!(line(200, 10, 99), "prompt: 300 of 1000 tokens, 35 s left", "no further than the step");
        assert_eq!(line(900, 90, 300), "prompt: 1000 of 1000 tokens, 0 s left");
        assert_eq!(line(100, 60, 60), "prompt: 100 of 1000 tokens, 9 min left");
    }

    #[test]
    fn steps_are_counted() {
        let progress = Progress::begin(250, 100, true);
        for expected in [0, 100, 200, 250] {
            progress.step();
            assert_eq!(progress.shared.0.lock().unwrap().done.unwrap().0, expected);
        }
    }
}
