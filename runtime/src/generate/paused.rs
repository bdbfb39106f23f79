//! An answer that stops in one place and goes on in another.
//!
//! What can be computed again is not stored: resuming runs the tokens through stop texts, text stream and grammar once
//! more, without their logits. The draw of a token depends only on the seed and the token's place. So little is stored.
//!
//! Inside one process this is not needed: an [`Answer`] holds no sequence, and [`Answer::next_step`] names all tokens,
//! so it can go on with any sequence.

use super::GenerateOptions;
use super::answer::Answer;
use super::clock::{Clock, Spent};
use super::logprobs::TokenLogprobs;
use super::next::Bounds;
use crate::error::Result;
use nanoserve_tokenizer::Tokenizer;

/// What an answer must store to go on elsewhere, besides its prompt and its options.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Paused {
    /// The chosen tokens.
    pub ids: Vec<u32>,
    /// Mirostat's bound on the surprise, in bits; without Mirostat it means nothing.
    pub mu: f64,
    /// One for each token, if they were asked for: without the rows they cannot be computed again.
    pub logprobs: Vec<TokenLogprobs>,
    /// Tokens of the prompt that did not have to run.
    pub reused: usize,
    /// Tokens that were guessed, and how many of them were right.
    pub guessed: [usize; 2],
    /// The time so far.
    pub spent: Spent,
}

impl Answer {
    /// What is needed to go on elsewhere. It may be called between a step and its logits; that step is then lost.
    pub fn pause(&self) -> Paused {
        Paused {
            ids: self.ids().to_vec(),
            mu: self.chooser.mu(),
            logprobs: self.chooser.logprobs().to_vec(),
            reused: self.reused,
            guessed: self.lookup.guessed(),
            spent: self.clock.spent(),
        }
    }

    /// Goes on with an answer to the same prompt, with the same options. Its tokens and its text are those of an answer
    /// that never paused. [`Answer::text`] is the text passed on before. A cancelled answer goes on; an answer that the
    /// options would end sooner ends there. There is no hash of the logits, because not all rows were seen here.
    ///
    /// # Errors
    /// As [`Answer::new`], and when the tokens do not follow the grammar.
    pub fn resume(
        prompt: &[u32],
        options: &GenerateOptions,
        tokenizer: Option<&Tokenizer>,
        bounds: Bounds,
        paused: &Paused,
    ) -> Result<Self> {
        let mut answer = Answer::new(prompt, options, tokenizer, bounds)?;
        answer.replay(&paused.ids)?;
        if !paused.ids.is_empty() {
            answer.chooser.resume(answer.ids().len(), paused.mu, &paused.logprobs);
        }
        answer.lookup.set_guessed(paused.guessed);
        answer.reused = paused.reused;
        answer.clock = Clock::new(paused.spent);
        Ok(answer)
    }
}
