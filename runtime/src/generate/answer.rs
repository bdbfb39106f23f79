//! An answer in progress, as a state machine: it says which tokens must run, takes their logits and chooses the next.
//!
//! It holds the sampler, the grammar, the stop texts, the streamed text and the statistics, but no model. The caller
//! runs the model, so many answers can go on side by side, in any order, on sequences of one engine.
//!
//! ```text
//! sequence   prompt, answer so far, guesses     all certain but the guesses (see lookup), which most steps lack
//! next_step  Feed: run the last certain token and the guesses behind it, and all before them that has not run
//! take       a row of logits for each of those: choose a token from each row, as long as it equals the next guess
//! ```
//!
//! A guess costs only time: the token chosen from a row depends only on the tokens before it.
//!
//! The trap: the last chosen token has not run yet, but wrong guesses have. The caller must truncate the sequence to
//! [`Feed::keep`] tokens before it feeds it.

use super::chooser::Chooser;
use super::clock::{Clock, Spent};
use super::lookup::Lookup;
use super::next::{Bounds, Feed, Next};
use super::options::GenerateOptions;
use super::outcome::{Generation, StopReason};
use super::prefilled::Prefilled;
use super::text::AnswerText;
use crate::engine::{Logits, Wants};
use crate::error::{Result, RuntimeError};
use nanoserve_tokenizer::Tokenizer;

/// An answer in progress.
///
/// ```no_run
/// use nanoserve_runtime::generate::{Bounds, Next};
/// use nanoserve_runtime::{Answer, Engine, EngineOptions, GenerateOptions, KvType, Span};
///
/// let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
/// let mut sequence = engine.sequence(64, KvType::F16)?;
/// let bounds = Bounds { vocab_size: engine.file().spec().vocab_size, capacity: sequence.capacity() };
/// let mut answer = Answer::new(&[1, 15, 9], &GenerateOptions::default(), None, bounds)?;
/// while let Next::Feed(feed) = answer.next_step() {
///     let held = sequence.truncate(feed.keep);
///     let logits = engine.step(&mut [Span::new(&mut sequence, &feed.tokens[held..], feed.wants)])?.remove(0);
///     answer.take(logits, &mut |_| true)?;
/// }
/// println!("{:?}", answer.finish(&mut |_| true).ids);
/// # Ok::<(), nanoserve_runtime::RuntimeError>(())
/// ```
pub struct Answer {
    pub(super) chooser: Chooser,
    text: AnswerText,
    pub(super) lookup: Lookup,
    bounds: Bounds,
    max_tokens: usize,
    eos_ids: Vec<u32>,
    /// Prompt, answer so far, and guesses of what follows.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// How many of `tokens` are not guesses.
    certain: usize,
    /// Whether a step that [`Answer::next_step`] asked for is under way.
    stepping: bool,
    /// Steps so far. The first runs the prompt and says nothing about a token's time.
    steps: usize,
    pub(super) reused: usize,
    pub(super) clock: Clock,
    done: Option<StopReason>,
}

impl Answer {
    /// Begins the answer to a prompt that has not run. Without a tokenizer the answer has no text.
    ///
    /// # Errors
    /// When the prompt is empty or an option is out of range.
    pub fn new(
        prompt: &[u32],
        options: &GenerateOptions,
        tokenizer: Option<&Tokenizer>,
        bounds: Bounds,
    ) -> Result<Self> {
        if prompt.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        let clock = Clock::new(Spent { prompt_tokens: prompt.len(), ..Spent::default() });
        Ok(Answer {
            chooser: Chooser::new(options, bounds.vocab_size)?,
            text: AnswerText::after(prompt, options, tokenizer)?,
            lookup: Lookup::new(options.lookup),
            bounds,
            max_tokens: options.max_tokens.unwrap_or(usize::MAX),
            eos_ids: options.eos_ids.clone(),
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            certain: prompt.len(),
            stepping: false,
            steps: 0,
            reused: 0,
            clock,
            done: None,
        })
    }

    /// Begins the answer to a prompt that has run; its time counts in the statistics. [`Answer::take`] must still get
    /// the prompt's logits.
    pub(super) fn after(
        prompt: &Prefilled,
        options: &GenerateOptions,
        tokenizer: Option<&Tokenizer>,
        bounds: Bounds,
    ) -> Result<Self> {
        let seconds = prompt.seconds;
        let prompt_tokens = prompt.ids.len() - prompt.reused;
        let clock = Clock::new(Spent { seconds, prompt_s: Some(seconds), prompt_tokens, first_token_s: None });
        let answer = Answer::new(&prompt.ids, options, tokenizer, bounds)?;
        Ok(Answer { clock, reused: prompt.reused, ..answer })
    }

    /// What the answer needs next: the same at each call until [`Answer::take`].
    pub fn next_step(&mut self) -> Next<'_> {
        if let Some(reason) = self.done {
            return Next::Done { reason, keep: (self.certain - 1).max(self.prompt_len) };
        }
        if !self.stepping {
            self.begin_step();
        }
        let wants = if self.tokens.len() > self.certain { Wants::All } else { self.chooser.wants() };
        // With lookup on, the next step may have guesses instead.
        let ahead = wants == Wants::Top(1) && !self.lookup.is_on() && self.ids().len() + 1 < self.max_tokens;
        Next::Feed(Feed { tokens: &self.tokens, keep: self.certain - 1, wants, ahead })
    }

    /// Appends guesses. Before the first token there are none, because the prompt may not have run.
    fn begin_step(&mut self) {
        self.stepping = true;
        self.clock.prompt_begins();
        let made = self.ids().len();
        if made > 0 {
            let room = (self.bounds.capacity - self.certain).min(self.max_tokens - made - 1);
            let guesses = self.lookup.propose(&self.tokens, room);
            self.tokens.extend(guesses);
        }
    }

    /// Takes the logits that [`Answer::next_step`] asked for, or whole rows instead; of too many rows the last ones
    /// count. `on_text` gets the text of each chosen token, whole characters only and often none, and returns whether
    /// to go on.
    ///
    /// # Errors
    /// When the logits are not numbers, or the grammar cannot be followed. The answer cannot go on then.
    ///
    /// # Panics
    /// When there are fewer rows than were asked for.
    pub fn take(&mut self, logits: Logits, on_text: &mut dyn FnMut(&str) -> bool) -> Result<()> {
        self.clock.prompt_ended();
        let guesses = self.tokens.len() - self.certain;
        let mut right = 0;
        if self.done.is_none() && self.ids().len() >= self.max_tokens {
            self.done = Some(StopReason::Length);
        }
        match logits {
            _ if self.done.is_some() => {}
            Logits::Top(top) => {
                assert!(guesses == 0 && matches!(self.chooser.wants(), Wants::Top(_)), "whole rows were asked for");
                let id = self.chooser.choose_top(&top)?;
                self.done = self.accept(id, on_text)?;
            }
            Logits::Rows(rows) => right = self.take_rows(&rows, on_text)?,
        }
        self.tokens.truncate(self.certain);
        if self.done.is_none() && self.steps > 0 {
            self.lookup.learn(guesses, right);
        }
        self.steps += 1;
        self.stepping = false;
        Ok(())
    }

    /// Chooses a token from each row, `[1 + guesses, vocab_size]`, as long as the guesses are right. Returns how many
    /// were.
    fn take_rows(&mut self, rows: &[f32], on_text: &mut dyn FnMut(&str) -> bool) -> Result<usize> {
        let row_len = self.bounds.vocab_size;
        let wanted = (1 + self.tokens.len() - self.certain) * row_len;
        assert!(rows.len() >= wanted, "{} logits, {wanted} were asked for", rows.len());
        let first = rows.len() - wanted;
        let mut right = 0;
        for row in rows[first..].chunks_exact(row_len) {
            let Some(id) = self.chooser.choose(row, &self.tokens[..self.certain])? else {
                self.done = Some(StopReason::Grammar);
                break;
            };
            let guessed = self.tokens.get(self.certain) == Some(&id);
            self.done = self.accept(id, on_text)?;
            if self.done.is_some() || !guessed {
                break;
            }
            right += 1;
        }
        Ok(right)
    }

    /// Adds a chosen token. Returns why the answer ends with it, if it does.
    pub(super) fn accept(&mut self, id: u32, on_text: &mut dyn FnMut(&str) -> bool) -> Result<Option<StopReason>> {
        if self.tokens.get(self.certain) != Some(&id) {
            self.tokens.truncate(self.certain);
            self.tokens.push(id);
        }
        self.certain += 1;
        self.clock.first_token();
        let is_end = self.eos_ids.contains(&id);
        let (text, stopped) = self.text.push(id, is_end)?;
        let go_on = (is_end && text.is_empty()) || on_text(&text);
        if stopped {
            return Ok(Some(StopReason::Stop));
        }
        if is_end {
            return Ok(Some(StopReason::Eos));
        }
        if !go_on {
            return Ok(Some(StopReason::Cancelled));
        }
        if self.chooser.advance_grammar(id)? {
            return Ok(Some(StopReason::Grammar));
        }
        Ok(if self.ids().len() >= self.max_tokens {
            Some(StopReason::Length)
        } else if self.certain > self.bounds.capacity {
            Some(StopReason::Context)
        } else {
            None
        })
    }

    /// Replays tokens that were chosen elsewhere, up to one that ends the answer.
    pub(super) fn replay(&mut self, ids: &[u32]) -> Result<()> {
        for &id in ids {
            self.done = self.accept(id, &mut |_| true)?;
            if self.done.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Ends the answer as cancelled. An answer that has ended already stays as it is.
    pub fn cancel(&mut self) {
        self.done.get_or_insert(StopReason::Cancelled);
    }

    /// Sets how many tokens of the prompt the sequence held already: they do not count as run.
    pub fn reused(&mut self, tokens: usize) {
        self.reused = tokens;
        self.clock.reused(tokens);
    }

    /// Tokens chosen so far, including the one that ended the answer.
    pub fn ids(&self) -> &[u32] {
        &self.tokens[self.prompt_len..self.certain]
    }

    /// The text so far, as far as it is certain: everything that `on_text` got.
    pub fn text(&self) -> &str {
        self.text.so_far()
    }

    /// Returns the answer and its statistics. `on_text` gets the text that was still held back. An answer that has not
    /// ended counts as [cancelled](Answer::cancel).
    pub fn finish(mut self, on_text: &mut dyn FnMut(&str) -> bool) -> Generation {
        let stop_reason = self.done.unwrap_or(StopReason::Cancelled);
        if stop_reason != StopReason::Stop {
            on_text(&self.text.end());
        }
        let said = self.text.said(stop_reason, self.ids().len());
        let ids = self.ids().to_vec();
        let timings = self.clock.timings(ids.len());
        let (logits_hash, logprobs) = self.chooser.finish();
        let (reused, guessed) = (self.reused, self.lookup.guessed());
        let (text, content) = self.text.into_texts();
        Generation { reused, ids, text, content, said, stop_reason, logits_hash, logprobs, guessed, timings }
    }
}

#[cfg(test)]
mod tests;
