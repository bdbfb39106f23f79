//! What an answer needs from the caller that runs the model.

use super::outcome::StopReason;
use crate::engine::Wants;

/// What an answer must know about the model and the sequence it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Logits in a row.
    pub vocab_size: usize,
    /// Positions that the sequence has room for.
    pub capacity: usize,
}

/// What an answer needs next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next<'a> {
    /// Tokens must run.
    Feed(Feed<'a>),
    /// Nothing: the answer has ended.
    Done {
        /// Why it ended.
        reason: StopReason,
        /// How many tokens the sequence may keep, the same with guesses and without: prompt and answer, except the last
        /// token.
        keep: usize,
    },
}

/// Tokens to run, and which logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feed<'a> {
    /// All tokens that the sequence must hold: prompt, answer, guesses.
    pub tokens: &'a [u32],
    /// How many of them, from the first on, the sequence may hold already. What it holds behind them must be dropped,
    /// and what it lacks must be fed. The answer needs the logits of each token from here on.
    pub keep: usize,
    /// Which logits: [`Wants::All`] if there are guesses.
    pub wants: Wants,
    /// Whether the likeliest token will be chosen, and another token wanted after it. The likeliest token's step may
    /// then begin before [`Answer::take`](super::Answer::take).
    pub ahead: bool,
}
