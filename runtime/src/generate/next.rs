//! What an answer needs from the caller that runs the model.

use super::outcome::StopReason;
use crate::engine::Wants;

/// What an answer must know of where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Logits of a row.
    pub vocab_size: usize,
    /// Positions that its sequence has room for.
    pub capacity: usize,
}

/// What an answer needs next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next<'a> {
    /// That tokens run.
    Feed(Feed<'a>),
    /// Nothing more: it has ended.
    Done {
        /// Why.
        reason: StopReason,
        /// How many tokens its sequence may keep, as if nothing had been guessed: prompt and answer but for its last token.
        keep: usize,
    },
}

/// Tokens to run, and what is wanted of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feed<'a> {
    /// All that the sequence is to hold: prompt, answer, guesses.
    pub tokens: &'a [u32],
    /// How many of them, from the first on, the sequence may hold already. It must drop what it holds behind them, and be
    /// fed what it lacks. Of each token from here on the answer needs logits.
    pub keep: usize,
    /// Which logits: [`Wants::All`] where there are guesses.
    pub wants: Wants,
    /// One more token will be wanted behind the one that these logits give, and the likeliest is the one that is chosen: its
    /// step may begin before [`Answer::take`](super::Answer::take).
    pub ahead: bool,
}
