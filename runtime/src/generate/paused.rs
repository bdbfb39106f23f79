//! An answer that stops in one place and goes on in another.
//!
//! What can be computed again is: the tokens go through stop texts, text stream and grammar once more, without their
//! rows. The draw of a token depends on the seed and on its place alone. What is left to remember is little.
//!
//! Inside one process there is no need for it: an [`Answer`] holds no sequence, and [`Answer::next_step`] names all
//! tokens, so it goes on with any sequence that it is given.

use super::GenerateOptions;
use super::answer::Answer;
use super::clock::{Clock, Spent};
use super::logprobs::TokenLogprobs;
use super::next::Bounds;
use crate::error::Result;
use nanoserve_tokenizer::Tokenizer;

/// What an answer must remember to go on elsewhere, beside its prompt and its options.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Paused {
    /// The tokens that were chosen.
    pub ids: Vec<u32>,
    /// Mirostat's bound on the surprise, in bits; without Mirostat it means nothing.
    pub mu: f64,
    /// Of each token, where they were asked for: the rows are gone.
    pub logprobs: Vec<TokenLogprobs>,
    /// Tokens of the prompt that did not have to run.
    pub reused: usize,
    /// Tokens that were guessed, and how many of them were right.
    pub guessed: [usize; 2],
    /// The time so far.
    pub spent: Spent,
}

impl Answer {
    /// What is needed to go on elsewhere. Between a step and its logits as well: the step is then lost.
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

    /// Goes on with an answer to the same prompt, with the same options; its tokens and its text are those of one that never
    /// stopped. [`Answer::text`] is what was given out before. An answer that its caller had cancelled goes on; one that the
    /// options end sooner ends there. It has no hash of its logits, for not all rows were seen here.
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
