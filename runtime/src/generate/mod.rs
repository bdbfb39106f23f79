//! From a prompt to text: the loop, its stops and its statistics.
//!
//! ```text
//! history    prompt and answer; the session's cache holds all of it but the last token
//! proposed   tokens that may come next, a guess (see lookup); none as a rule
//! rows       logits after the history, and after each proposed token
//! loop       choose a token of each row, as long as it is the one proposed for the next
//!            forget what the cache holds beyond the history, run its last token and a new guess
//! ```
//!
//! A guess costs time alone: what is chosen at a row depends on nothing but the history before it.

pub mod grammar;
pub mod logprobs;
mod lookup;
pub mod sampler;
pub mod stops;

use crate::backend::DEFAULT_CHUNK;
use crate::backend::{Backend, MOST_CANDIDATES};
use crate::engine::session::Session;
use crate::engine::step::Logits;
use crate::error::Result;
use crate::generate::grammar::Grammar;
use crate::generate::logprobs::TokenLogprobs;
use crate::generate::lookup::Lookup;
use crate::generate::sampler::{Sampler, SamplingOptions};
use crate::generate::stops::StopMatcher;
use crate::tokenizer::{TextStream, Tokenizer};
use nanoserve_format::GenerationDefaults;
use std::fmt;
use std::time::Instant;

/// How to continue a prompt.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Tokens to make at most; None is until the context's end.
    pub max_tokens: Option<usize>,
    /// How a token is chosen.
    pub sampling: SamplingOptions,
    /// Texts that end generation; not part of the result.
    pub stops: Vec<String>,
    /// Tokens that end generation.
    pub eos_ids: Vec<u32>,
    /// Never choose an end token.
    pub ignore_eos: bool,
    /// Tokens of the prompt in one step.
    pub chunk: usize,
    /// What the answer must be; None is any text.
    pub grammar: Option<Grammar>,
    /// For each token, so many of the likeliest with their log-probabilities; None is not even its own.
    pub logprobs: Option<usize>,
    /// Tokens to guess at once, at most, from what is in the text already; 0 is none.
    pub lookup: usize,
    /// Hash the logits. Without it, a backend that can find the likeliest tokens by itself gives those alone.
    pub hash: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: Some(128),
            sampling: SamplingOptions::default(),
            stops: Vec::new(),
            eos_ids: Vec::new(),
            ignore_eos: false,
            chunk: DEFAULT_CHUNK,
            grammar: None,
            logprobs: None,
            lookup: 0,
            hash: true,
        }
    }
}

impl GenerateOptions {
    /// What a file's makers meant, over our own defaults.
    pub fn from_defaults(file: &GenerationDefaults) -> Self {
        let ours = SamplingOptions::default();
        let sampling = SamplingOptions {
            temperature: file.temperature.map_or(ours.temperature, |x| x as f32),
            top_k: file.top_k.map_or(ours.top_k, |x| x as usize),
            top_p: file.top_p.map_or(ours.top_p, |x| x as f32),
            min_p: file.min_p.map_or(ours.min_p, |x| x as f32),
            repeat_penalty: file.repeat_penalty.map_or(ours.repeat_penalty, |x| x as f32),
            ..ours
        };
        GenerateOptions { sampling, eos_ids: file.eos_ids.clone(), ..Self::default() }
    }
}

/// Why generation ended.
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

/// How long things took, in seconds and tokens a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// From the call to the first token.
    pub first_token_s: f64,
    /// Tokens of the prompt that had to run over the time they took.
    pub prompt_tok_s: f64,
    /// Tokens after the first over the time they took; 0 when there is none.
    pub generate_tok_s: f64,
}

/// A prompt that has run.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its tokens.
    ids: Vec<u32>,
    /// `[vocab_size]`: what comes after it; None where the caller wanted no more before its end.
    logits: Option<Vec<f32>>,
    reused: usize,
    seconds: f64,
}

impl Prompt {
    /// Its tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether all of it has run.
    pub fn is_complete(&self) -> bool {
        self.logits.is_some()
    }

    /// Tokens of it that the cache already held.
    pub fn reused(&self) -> usize {
        self.reused
    }
}

/// What came of a prompt.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens of the prompt that the cache already held.
    pub reused: usize,
    /// Every token that was chosen, the one that ended it included.
    pub ids: Vec<u32>,
    /// Their text, up to a stop text; empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// BLAKE3, hex, of the f32 bits of every row of logits that a token was chosen from, in order; empty where it was not asked
    /// for.
    pub logits_hash: String,
    /// For each token, where they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Tokens that were guessed, and how many of them were right.
    pub guessed: [usize; 2],
    /// How long it took.
    pub timings: Timings,
}

impl<B: Backend> Session<'_, B> {
    /// Runs a prompt, all of it given; what the cache holds of its beginning does not run again, and what else it holds is
    /// forgotten. The bits are those of an empty session. `go_on` is asked between steps of `chunk` tokens.
    ///
    /// # Errors
    /// When the prompt does not fit.
    pub fn prompt(&mut self, ids: &[u32], chunk: usize, go_on: &mut dyn FnMut() -> bool) -> Result<Prompt> {
        let start = Instant::now();
        let reused = self.reuse(ids);
        let logits = match self.feed_while(&ids[reused..], chunk, None, go_on)? {
            Some(Logits::Row(row)) => Some(row),
            _ => None,
        };
        Ok(Prompt { ids: ids.to_vec(), logits, reused, seconds: start.elapsed().as_secs_f64() })
    }

    /// Continues a prompt, as [`Session::prompt`] and [`Session::generate_after`] do. `on_text` is also asked, with nothing,
    /// between the prompt's steps.
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
        // Before the prompt has taken its time.
        Sampler::new(options.sampling.clone())?;
        StopMatcher::new(options.stops.clone())?;
        let prompt = self.prompt(prompt, options.chunk, &mut || on_text(""))?;
        self.generate_after(&prompt, options, tokenizer, on_text)
    }

    /// Continues a prompt that has run in this session; any number of times. `on_text` gets text as it is made, whole
    /// characters only, and answers whether to go on. Without a tokenizer it gets no text.
    ///
    /// # Errors
    /// When an option is out of range, or the model's logits are not numbers.
    pub fn generate_after(
        &mut self,
        prompt: &Prompt,
        options: &GenerateOptions,
        tokenizer: Option<&Tokenizer>,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        let start = Instant::now();
        self.forget_other(&prompt.ids);
        let mut chooser = Chooser::new(options, self.engine().file().spec().vocab_size)?;
        let mut matcher = StopMatcher::new(options.stops.clone())?;
        let mut stream = tokenizer.map(|t| TextStream::after(t, &prompt.ids, true)).transpose()?;
        let mut lookup = Lookup::new(options.lookup);
        if options.lookup > 0 {
            self.admit_all(options.lookup.min(self.state().capacity()) + 1)?;
        }
        let (mut ids, mut text) = (Vec::new(), String::new());
        let mut history = prompt.ids.clone();
        let max_tokens = options.max_tokens.unwrap_or(usize::MAX);
        let mut first_token_s = prompt.seconds;
        let mut rows = Logits::Row(prompt.logits.clone().unwrap_or_default());
        let mut proposed: Vec<u32> = Vec::new();
        let stop_reason = 'steps: loop {
            if !prompt.is_complete() {
                break StopReason::Cancelled;
            }
            let mut right = 0;
            for row in 0..=proposed.len() {
                if ids.len() >= max_tokens {
                    break 'steps StopReason::Length;
                }
                let chosen = match &mut rows {
                    Logits::Row(rows) => {
                        let row_len = rows.len() / (proposed.len() + 1);
                        chooser.choose(&mut rows[row * row_len..][..row_len], &history)?
                    }
                    Logits::Top(top) => Some(chooser.sampler.sample_top(top)?),
                };
                let Some(id) = chosen else { break 'steps StopReason::Grammar };
                ids.push(id);
                history.push(id);
                if ids.len() == 1 {
                    first_token_s = prompt.seconds + start.elapsed().as_secs_f64();
                }
                if options.eos_ids.contains(&id) {
                    break 'steps StopReason::Eos;
                }
                let new = stream.as_mut().map_or(Ok(String::new()), |s| s.push(id))?;
                let (emit, stopped) = matcher.push(&new);
                text.push_str(&emit);
                let go_on = on_text(&emit);
                if stopped.is_some() {
                    break 'steps StopReason::Stop;
                }
                if !go_on {
                    break 'steps StopReason::Cancelled;
                }
                if chooser.accept(id)? {
                    break 'steps StopReason::Grammar;
                }
                if ids.len() >= max_tokens {
                    break 'steps StopReason::Length;
                }
                if history.len() > self.state().capacity() {
                    break 'steps StopReason::Context;
                }
                if proposed.get(right) != Some(&id) {
                    break;
                }
                right += 1;
            }
            if !proposed.is_empty() {
                // Those that were guessed wrong are in the cache, and must go.
                self.truncate(history.len() - 1);
            }
            lookup.learn(proposed.len(), right);
            let room = (self.state().capacity() - history.len()).min(max_tokens - ids.len() - 1);
            proposed = lookup.propose(&history, room);
            rows = if proposed.is_empty() {
                match (&history[self.ids().len()..], chooser.reach()) {
                    // The likeliest is what will be chosen; a guess might run instead of its step.
                    (&[id], Some(1)) if options.lookup == 0 => self.feed_ahead(id, ids.len() + 1 < max_tokens)?,
                    (rest, reach) => self.feed_top(rest, options.chunk, reach)?,
                }
            } else {
                let held = self.ids().len();
                let all = self.feed_admitted(&[&history[held..], &proposed].concat())?;
                let row_len = all.len() / (history.len() - held + proposed.len());
                Logits::Row(all[all.len() - (proposed.len() + 1) * row_len..].to_vec())
            };
        };
        // As if nothing had been guessed: all but the last token.
        self.truncate((history.len() - 1).max(prompt.ids.len()));
        if stop_reason != StopReason::Stop {
            let (mut rest, stopped) = matcher.push(&stream.map_or(String::new(), |mut s| s.finish()));
            if stopped.is_none() {
                rest.push_str(&matcher.flush());
            }
            text.push_str(&rest);
            on_text(&rest);
        }
        let more = ids.len().saturating_sub(1) as f64;
        let seconds = prompt.seconds + start.elapsed().as_secs_f64() - first_token_s;
        Ok(Generation {
            reused: prompt.reused,
            ids,
            text,
            stop_reason,
            logits_hash: chooser.hash.map_or(String::new(), |hash| hash.finalize().to_hex().to_string()),
            logprobs: chooser.logprobs,
            guessed: lookup.guessed(),
            timings: Timings {
                first_token_s,
                prompt_tok_s: (prompt.ids.len() - prompt.reused) as f64 / prompt.seconds,
                generate_tok_s: if more > 0.0 { more / seconds } else { 0.0 },
            },
        })
    }
}

/// A row of logits to a token, and what is kept of it.
struct Chooser {
    sampler: Sampler,
    grammar: Option<Grammar>,
    hash: Option<blake3::Hasher>,
    top: Option<usize>,
    logprobs: Vec<TokenLogprobs>,
}

impl Chooser {
    fn new(options: &GenerateOptions, vocab_size: usize) -> Result<Self> {
        let mut sampling = options.sampling.clone();
        if options.ignore_eos {
            let known = options.eos_ids.iter().filter(|id| (**id as usize) < vocab_size);
            sampling.logit_bias.extend(known.map(|id| (*id, f32::NEG_INFINITY)));
        }
        Ok(Chooser {
            sampler: Sampler::new(sampling)?,
            grammar: options.grammar.as_ref().map(Grammar::restarted),
            hash: options.hash.then(blake3::Hasher::new),
            top: options.logprobs,
            logprobs: Vec::new(),
        })
    }

    /// How many of the likeliest tokens are enough to choose from; None where a whole row is needed.
    fn reach(&self) -> Option<usize> {
        let whole = self.hash.is_some() || self.grammar.is_some() || self.top.is_some();
        if whole { None } else { self.sampler.reach(MOST_CANDIDATES) }
    }

    /// The token after `history`, of its row of logits; None where the grammar lets none follow.
    fn choose(&mut self, row: &mut [f32], history: &[u32]) -> Result<Option<u32>> {
        if let Some(hash) = &mut self.hash {
            hash.update(bytemuck::cast_slice(row));
        }
        let logprobs = self.top.map(|top| TokenLogprobs::of(row, top));
        if let Some(grammar) = &mut self.grammar {
            grammar.mask(row)?;
            let never = &self.sampler.options().logit_bias;
            let possible =
                |(id, logit): (u32, &f32)| *logit > f32::NEG_INFINITY && !never.contains(&(id, f32::NEG_INFINITY));
            if !(0u32..).zip(row.iter()).any(possible) {
                return Ok(None);
            }
        }
        let id = self.sampler.sample(row, history)?;
        self.logprobs.extend(logprobs.map(|all| all.chosen(id)));
        Ok(Some(id))
    }

    /// Takes the token that was chosen; whether nothing may follow it.
    fn accept(&mut self, id: u32) -> Result<bool> {
        Ok(match &mut self.grammar {
            Some(grammar) => grammar.push(id)?,
            None => false,
        })
    }
}
