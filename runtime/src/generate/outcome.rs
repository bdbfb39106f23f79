//! The result of a prompt: the answer, why it ended, how long it took.

use super::logprobs::TokenLogprobs;
use std::fmt;

/// Why generation ended.
///
/// ```
/// use nanoserve_runtime::StopReason;
///
/// // Where an API says "length" whenever the model had more to say:
/// let finish = |reason| match reason {
///     StopReason::Length | StopReason::Context => "length",
///     _ => "stop",
/// };
/// assert_eq!((finish(StopReason::Context), finish(StopReason::Eos)), ("length", "stop"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// An end token was chosen.
    Eos,
    /// A stop text appeared.
    Stop,
    /// The grammar lets nothing follow: the answer is complete.
    Grammar,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// The caller wanted no more.
    Cancelled,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            StopReason::Eos => "eos",
            StopReason::Stop => "stop",
            StopReason::Grammar => "grammar",
            StopReason::Length => "length",
            StopReason::Context => "context",
            StopReason::Cancelled => "cancelled",
        })
    }
}

/// How long things took, in seconds and tokens per second.
///
/// ```
/// let timings = nanoserve_runtime::Timings::default();
/// println!("{:.3} s to the first token, then {:.1} tokens a second", timings.first_token_s, timings.generate_tok_s);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Timings {
    /// From the call to the first token.
    pub first_token_s: f64,
    /// Tokens of the prompt that had to run, divided by the time they took.
    pub prompt_tok_s: f64,
    /// Tokens after the first, divided by the time they took; 0 if there are none.
    pub generate_tok_s: f64,
}

/// The answer to a prompt.
///
/// ```no_run
/// use nanoserve_runtime::{Engine, EngineOptions, GenerateOptions, KvType};
///
/// let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
/// let tokenizer = engine.tokenizer()?;
/// let prompt = tokenizer.encode("Once upon a time", true)?;
/// let mut session = engine.session(512, KvType::F16)?;
/// let done = session.generate(&prompt, &GenerateOptions::default(), Some(&tokenizer), &mut |_| true)?;
/// println!("{}\n{}, {} tokens, logits {}", done.text, done.stop_reason, done.ids.len(), done.logits_hash);
/// # Ok::<(), nanoserve_runtime::RuntimeError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Generation {
    /// Tokens of the prompt that the cache already held.
    pub reused: usize,
    /// Every chosen token, including the one that ended the answer.
    pub ids: Vec<u32>,
    /// Their text, up to a stop text; empty without a tokenizer. Special tokens have a text if the options say so.
    pub text: String,
    /// Their text without that of any special token: what a conversation remembers.
    pub content: String,
    /// How many of `ids`, from the first on, are in the text: all but an end token and the tokens of a stop text. None
    /// where a stop text begins within a token.
    pub said: Option<usize>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// BLAKE3, in hex, of the f32 bits of every row of logits that a token was chosen from, in order. Empty if it was
    /// not asked for, and for an answer that was [resumed](super::Answer::resume).
    pub logits_hash: String,
    /// One for each token, if they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Tokens that were guessed, and how many of them were right.
    pub guessed: [usize; 2],
    /// How long it took.
    pub timings: Timings,
}
