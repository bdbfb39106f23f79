//! Chooses a token from a row of logits, and records the row's hash and log-probabilities.

use super::GenerateOptions;
use super::grammar::Grammar;
use super::logprobs::TokenLogprobs;
use super::sampler::Sampler;
use crate::backend::MOST_CANDIDATES;
use crate::engine::Wants;
use crate::error::Result;
use std::borrow::Cow;

/// The sampler and the grammar of an answer.
pub(super) struct Chooser {
    sampler: Sampler,
    grammar: Option<Grammar>,
    /// The hash of all rows so far; None if it was not asked for.
    hash: Option<blake3::Hasher>,
    /// How many of the likeliest tokens to record for each token; None records nothing.
    noted: Option<usize>,
    logprobs: Vec<TokenLogprobs>,
}

impl Chooser {
    /// The chooser at the beginning of an answer.
    pub fn new(options: &GenerateOptions, vocab_size: usize) -> Result<Self> {
        let mut sampling = options.sampling.clone();
        if options.ignore_eos {
            let in_vocabulary = options.eos_ids.iter().filter(|id| (**id as usize) < vocab_size);
            sampling.logit_bias.extend(in_vocabulary.map(|id| (*id, f32::NEG_INFINITY)));
        }
        Ok(Chooser {
            sampler: Sampler::new(sampling)?,
            grammar: options.grammar.as_ref().map(Grammar::restarted),
            hash: options.hash.then(blake3::Hasher::new),
            noted: options.logprobs,
            logprobs: Vec::new(),
        })
    }

    /// Which of a row's logits the choice needs.
    pub fn wants(&self) -> Wants {
        let whole = self.hash.is_some() || self.grammar.is_some() || self.noted.is_some();
        match self.sampler.reach(MOST_CANDIDATES) {
            Some(k) if !whole => Wants::Top(k),
            _ => Wants::Last,
        }
    }

    /// Chooses the token after `history` from its row of logits, `[vocab_size]`; None if the grammar allows no token.
    pub fn choose(&mut self, row: &[f32], history: &[u32]) -> Result<Option<u32>> {
        if let Some(hash) = &mut self.hash {
            hash.update(bytemuck::cast_slice(row));
        }
        let logprobs = self.noted.map(|top| TokenLogprobs::of(row, top));
        let mut row = Cow::Borrowed(row);
        if let Some(grammar) = &mut self.grammar {
            grammar.mask(row.to_mut())?;
            let bias = &self.sampler.options().logit_bias;
            let possible =
                |(id, logit): (u32, &f32)| *logit > f32::NEG_INFINITY && !bias.contains(&(id, f32::NEG_INFINITY));
            if !(0u32..).zip(row.iter()).any(possible) {
                return Ok(None);
            }
        }
        let id = self.sampler.sample(&row, history)?;
        self.logprobs.extend(logprobs.map(|all| all.chosen(id)));
        Ok(Some(id))
    }

    /// Chooses the next token from the likeliest alone, if [`Chooser::wants`] asked for those.
    pub fn choose_top(&mut self, top: &[(u32, f32)]) -> Result<u32> {
        Ok(self.sampler.sample_top(top)?)
    }

    /// Moves the grammar past a chosen token. Returns whether nothing may follow it.
    pub fn advance_grammar(&mut self, id: u32) -> Result<bool> {
        Ok(match &mut self.grammar {
            Some(grammar) => grammar.push(id)?,
            None => false,
        })
    }

    /// Mirostat's bound on the surprise.
    pub fn mu(&self) -> f64 {
        self.sampler.mu()
    }

    /// The log-probabilities recorded so far.
    pub fn logprobs(&self) -> &[TokenLogprobs] {
        &self.logprobs
    }

    /// Goes on as after so many tokens. Their rows were not seen here, so with one token or more there is no hash.
    pub fn resume(&mut self, tokens: usize, mu: f64, logprobs: &[TokenLogprobs]) {
        self.sampler.resume(tokens as u64, mu);
        self.logprobs = logprobs.to_vec();
        if tokens > 0 {
            self.hash = None;
        }
    }

    /// The rows' hash in hex, empty if there is none, and the recorded log-probabilities.
    pub fn finish(self) -> (String, Vec<TokenLogprobs>) {
        (self.hash.map_or(String::new(), |hash| hash.finalize().to_hex().to_string()), self.logprobs)
    }
}
