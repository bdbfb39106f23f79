//! From logits to text: the parts of an answer, and the loop that makes one.
//!
//! ```text
//! answer     a state machine: which tokens must run, and what follows from their logits   paused   to go on elsewhere
//! chooser    a row of logits to a token: sampler, grammar, and what is recorded of the row
//! text       the text of the tokens                      stops    texts that end an answer
//! lookup     guesses of what comes next
//! options    what a caller may ask for                   outcome  the result              clock  how long it takes
//! ```
//!
//! The loop is [`Session::generate_after`], for one answer on one sequence. A server has a loop of its own, over many.

mod answer;
mod chooser;
mod clock;
pub mod grammar;
pub mod logprobs;
mod lookup;
mod next;
mod options;
mod outcome;
mod paused;
mod prefilled;
pub mod sampler;
mod schema;
pub mod stops;
mod text;

pub use answer::Answer;
pub use clock::Spent;
pub use next::{Bounds, Feed, Next};
pub use options::{GenerateOptions, Specials};
pub use outcome::{Generation, StopReason, Timings};
pub use paused::Paused;
pub use prefilled::Prefilled;

use crate::backend::Backend;
use crate::engine::{Logits, Session, Wants};
use crate::error::Result;
use nanoserve_tokenizer::Tokenizer;
use std::time::Instant;

impl<B: Backend> Session<'_, B> {
    /// Runs a prompt, which is given whole. What the cache holds of its beginning does not run again, and what else the
    /// cache holds is dropped. The logits have the bits of an empty session. `go_on` is asked between steps of `chunk`
    /// tokens.
    ///
    /// # Errors
    /// When the prompt does not fit.
    pub fn prompt(&mut self, ids: &[u32], chunk: usize, go_on: &mut dyn FnMut() -> bool) -> Result<Prefilled> {
        let start = Instant::now();
        let reused = self.reuse(ids);
        let logits = match self.feed_while(&ids[reused..], chunk, Wants::Last, go_on)? {
            Some(Logits::Rows(row)) => Some(row.into_owned()),
            _ => None,
        };
        Ok(Prefilled { ids: ids.to_vec(), logits, reused, seconds: start.elapsed().as_secs_f64() })
    }

    /// Continues a prompt, as [`Session::prompt`] and then [`Session::generate_after`] do. `on_text` is also asked,
    /// with an empty text, between the prompt's steps.
    ///
    /// # Errors
    /// When the prompt does not fit, an option is out of range, or the model's logits are not numbers.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        tokenizer: Option<&Tokenizer>,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        // Checked before the prompt runs, which takes time.
        options.check()?;
        let prompt = self.prompt(prompt, options.chunk, &mut || on_text(""))?;
        self.generate_after(&prompt, options, tokenizer, on_text)
    }

    /// Continues a prompt that has run in this session, any number of times. `on_text` gets text as it is made, whole
    /// characters only, and returns whether to go on. Without a tokenizer the text is empty.
    ///
    /// # Errors
    /// When an option is out of range, or the model's logits are not numbers.
    pub fn generate_after(
        &mut self,
        prompt: &Prefilled,
        options: &GenerateOptions,
        tokenizer: Option<&Tokenizer>,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        let bounds = Bounds { vocab_size: self.engine().file().spec().vocab_size, capacity: self.capacity() };
        let mut answer = Answer::after(prompt, options, tokenizer, bounds)?;
        self.keep_common(&prompt.ids);
        if options.lookup > 0 {
            let tokens = options.lookup.min(bounds.capacity) + 1;
            self.admit(tokens, tokens)?;
        }
        match &prompt.logits {
            Some(row) => answer.take(Logits::Rows(row.into()), on_text)?,
            None => answer.cancel(),
        }
        let keep = loop {
            match answer.next_step() {
                Next::Feed(feed) => {
                    let logits = self.run(&feed, options.chunk)?;
                    answer.take(logits, on_text)?;
                }
                Next::Done { keep, .. } => break keep,
            }
        };
        _ = self.truncate(keep);
        Ok(answer.finish(on_text))
    }

    /// Runs the tokens of `feed` that the cache does not hold.
    fn run(&mut self, feed: &Feed, chunk: usize) -> Result<Logits<'_>> {
        // Wrong guesses are in the cache and must go. Without any, a step that has begun ahead must stay.
        if self.ids().len() > feed.keep {
            _ = self.truncate(feed.keep);
        }
        let rest = &feed.tokens[self.ids().len()..];
        match (rest, feed.wants) {
            // Guesses run in one step with the token before them.
            (_, Wants::All) => self.feed_for(rest, rest.len(), Wants::All),
            (&[id], Wants::Top(1)) => self.feed_ahead(id, feed.ahead),
            (_, wants) => self.feed_for(rest, chunk, wants),
        }
    }
}
