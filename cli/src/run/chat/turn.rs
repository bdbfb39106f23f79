//! What a turn took, for a person.

use nanoserve_runtime::{StopReason, Timings};

/// What a turn took.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Tokens of the prompt, and those of them that were run.
    pub prompt: usize,
    pub run: usize,
    /// Tokens of the answer.
    pub generated: usize,
    pub timings: Timings,
    pub seconds: f64,
    pub stop_reason: StopReason,
}

impl Turn {
    /// What follows each answer after `/stats on`.
    pub fn speed(&self) -> String {
        let Turn { prompt, run, generated, timings, stop_reason, .. } = self;
        format!(
            "[prompt {run} of {prompt} tokens, {:.1} tok/s | {generated} tokens, {:.1} tok/s | {stop_reason}]",
            timings.prompt_tok_s, timings.generate_tok_s
        )
    }

    /// What `/stats` tells of it.
    pub fn told(&self) -> String {
        let Turn { prompt, run, generated, timings, seconds, stop_reason } = self;
        format!(
            "last turn: prompt {prompt} tokens, {run} of them run, {} kept | generated {generated}, {:.1} tok/s | first token \
             {:.3} s, all {seconds:.3} s | stopped: {stop_reason}",
            prompt - run,
            timings.generate_tok_s,
            timings.first_token_s,
        )
    }
}
