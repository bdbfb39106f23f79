//! The time that an answer takes.

use super::outcome::Timings;
use std::time::Instant;

/// Seconds that an answer has taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// In total.
    pub seconds: f64,
    /// For the prompt; None before it has run.
    pub prompt_s: Option<f64>,
    /// Tokens of the prompt that had to run.
    pub prompt_tokens: usize,
    /// Until the first token; None before there is one.
    pub first_token_s: Option<f64>,
}

/// A clock that continues from the time spent before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    before: Spent,
    start: Instant,
    /// When the prompt's step began.
    prompt: Option<Instant>,
}

impl Clock {
    pub fn new(before: Spent) -> Self {
        Clock { before, start: Instant::now(), prompt: None }
    }

    /// Marks that the prompt is about to run. Only the first call counts.
    pub fn prompt_begins(&mut self) {
        self.prompt.get_or_insert_with(Instant::now);
    }

    /// Marks that the prompt's logits are here. Only the first call counts.
    pub fn prompt_ended(&mut self) {
        let seconds = self.prompt.map(|start| start.elapsed().as_secs_f64());
        self.before.prompt_s = self.before.prompt_s.or(seconds);
    }

    /// Marks that so many tokens of the prompt need not run.
    pub fn reused(&mut self, tokens: usize) {
        self.before.prompt_tokens = self.before.prompt_tokens.saturating_sub(tokens);
    }

    /// Marks that the first token was chosen. Only the first call counts.
    pub fn first_token(&mut self) {
        let now = self.seconds();
        self.before.first_token_s.get_or_insert(now);
    }

    pub fn spent(&self) -> Spent {
        Spent { seconds: self.seconds(), ..self.before }
    }

    fn seconds(&self) -> f64 {
        self.before.seconds + self.start.elapsed().as_secs_f64()
    }

    /// The timings of an answer of so many tokens that ends now.
    pub fn timings(&self, tokens: usize) -> Timings {
        let Spent { seconds, prompt_s, prompt_tokens, first_token_s } = self.spent();
        let first_token_s = first_token_s.or(prompt_s).unwrap_or(seconds);
        let more = tokens.saturating_sub(1) as f64;
        Timings {
            first_token_s,
            prompt_tok_s: prompt_s.map_or(0.0, |prompt_s| prompt_tokens as f64 / prompt_s),
            generate_tok_s: if more > 0.0 { more / (seconds - first_token_s) } else { 0.0 },
        }
    }
}
