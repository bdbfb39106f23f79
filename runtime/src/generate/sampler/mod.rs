//! Logits to a token id: a chain of steps over candidates, then one draw.
//!
//! The steps are those of llama.cpp, in its order, so that the same settings mean the same thing. The order is
//! [`SamplingOptions::chain`]; a step whose numbers change nothing is not taken.
//!
//! ```text
//! candidates   every id with its logit, the bias added
//! penalties    a logit seen in the last repeat_last_n ids of the history: / repeat if positive, * repeat if not, then
//!              - count * frequency - presence
//! dry          - multiplier * base^(length - allowed_length) where a token continues a repeated sequence of that length
//! top_n_sigma  those at most n standard deviations below the largest logit
//! top_k        the k largest, in order (logit descending, id ascending)
//! typ_p        those whose surprise is nearest to the expected one, until their share exceeds p
//! top_p        the shortest beginning of that order whose share of the probability is at least p
//! min_p        those whose probability is at least p times the largest one
//! xtc          by chance: not the likeliest ones, but the last of them that reaches the threshold and all behind it
//! temperature  logit / temperature; 0 is greedy: the largest logit, the lowest id among equals
//! draw         one uniform number against the running sum of exp(logit - largest)
//! ```
//!
//! With Mirostat 2 (Basu et al. 2021) the chain is bias, temperature, and then those whose surprise, -log2(probability),
//! is at most mu, one at least. mu begins at 2 tau, and the surprise s of each choice among those that were left moves
//! it: mu -= eta (s - tau).
//!
//! The same seed, options, logits and histories give the same ids on every machine. That is why the platform's own
//! `exp` and a generator of a library are not used: arithmetic is f64 with [`libm`]'s pure-Rust functions, sums go in one
//! order, the order of the candidates is total, and the generator is SplitMix64, spelled out below.
//!
//! The numbers of a token depend on the seed and on the token's place alone. Each token takes as many: XTC one where it is
//! on, then the draw one, also when a single candidate is left; a greedy choice takes none for the draw. Of a seed's
//! sequence the token at place i, counted from 0, sees those from i * (numbers of a token) on.
//!
//! ```
//! use nanoserve_runtime::generate::sampler::{Sampler, SamplingOptions};
//!
//! let mut sampler = Sampler::new(SamplingOptions { temperature: 0.0, ..Default::default() })?;
//! assert_eq!(sampler.sample(&[0.5, 2.0, 2.0, -1.0], &[])?, 1);
//! # Ok::<(), nanoserve_runtime::generate::sampler::SamplingError>(())
//! ```
//!
//! The trap: the filters look at probabilities *before* the temperature. Transformers divides first, so there a high
//! temperature lets more tokens through top_p than here.

mod candidates;
mod dry;
mod filters;
mod options;
mod penalties;

use candidates::{Candidate, Candidates};
use nanoserve_format::SplitMix64;
use std::collections::BTreeMap;

pub use crate::error::SamplingError;
pub use dry::breakers;
pub use options::{Mirostat, SamplingOptions, Step};

/// Chooses tokens. Holds the options, the place of the next token and the space the candidates live in.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    /// The steps that do anything, in order.
    chain: Vec<Step>,
    random: SplitMix64,
    /// Tokens chosen so far.
    place: u64,
    candidates: Candidates,
    /// Mirostat's bound on the surprise, in bits.
    mu: f64,
}

impl Sampler {
    /// A sampler at the beginning of the sequence that `options.seed` names.
    ///
    /// # Errors
    /// When an option is out of its range.
    pub fn new(options: SamplingOptions) -> Result<Self, SamplingError> {
        options.check()?;
        let chain = match options.mirostat {
            Some(_) => vec![Step::Temperature],
            None => options.chain.iter().copied().filter(|step| options.is_on(*step)).collect(),
        };
        let random = SplitMix64::new(options.seed);
        let mu = 2.0 * options.mirostat.map_or(0.0, |m| f64::from(m.tau));
        Ok(Self { chain, random, place: 0, candidates: Candidates::default(), mu, options })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Mirostat's bound on the surprise, in bits: what a sampler remembers beside the number of tokens.
    pub fn mu(&self) -> f64 {
        self.mu
    }

    /// Goes on as after so many tokens, with [`Sampler::mu`] as it was then.
    pub fn resume(&mut self, tokens: u64, mu: f64) {
        (self.place, self.mu) = (tokens, mu);
    }

    /// The id of the next token. `logits[id]` is that of token `id`; `history` is every token so far, prompt included,
    /// the latest last.
    ///
    /// # Errors
    /// When a logit is not a number or plus infinity, a token of the history or of the bias has no logit, or none may be
    /// chosen.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SamplingError> {
        self.filter(logits, history)?;
        self.choose(logits.len())
    }

    /// One of the candidates that are left of so many.
    fn choose(&mut self, got: usize) -> Result<u32, SamplingError> {
        let first = self.candidates.first().ok_or(SamplingError::NoCandidate { got })?;
        let [_, number] = self.numbers();
        self.place = self.place.wrapping_add(1);
        if self.is_greedy() {
            return Ok(first.id);
        }
        let unit = self.random.unit(number);
        let (id, share) = draw(&self.candidates, unit);
        if let Some(m) = self.options.mirostat {
            self.mu -= f64::from(m.eta) * (-libm::log2(share) - f64::from(m.tau));
        }
        Ok(id)
    }

    /// How many of the likeliest tokens it needs to see: all else can make no difference. None where that is all of them, or
    /// more than `most`.
    pub fn reach(&self, most: usize) -> Option<usize> {
        let SamplingOptions { temperature, top_k, ref logit_bias, mirostat, .. } = self.options;
        let changes = self.chain.iter().any(|step| matches!(step, Step::Penalties | Step::Dry));
        if changes || !logit_bias.is_empty() || mirostat.is_some() {
            return None;
        }
        let reach = match &self.chain[..] {
            rest if temperature == 0.0 && takes_first(rest) => 1,
            [Step::TopK, ..] => top_k,
            _ => return None,
        };
        Some(reach).filter(|reach| *reach <= most)
    }

    /// As [`Sampler::sample`], of the likeliest tokens with their logits, as many as [`Sampler::reach`] says, the likeliest
    /// first, of equals the lower id.
    ///
    /// # Errors
    /// When a logit is not a number or plus infinity, or none may be chosen.
    pub fn sample_top(&mut self, top: &[(u32, f32)]) -> Result<u32, SamplingError> {
        // What cannot be ranked comes first.
        if let Some(&(id, got)) = top.iter().find(|(_, logit)| logit.is_nan() || *logit == f32::INFINITY) {
            return Err(SamplingError::Logit { id, got });
        }
        self.candidates.set_top(top);
        if self.options.temperature > 0.0 || !takes_first(&self.chain) {
            self.take(0, &[], &BTreeMap::new());
        }
        self.choose(top.len())
    }

    /// What the next token would be drawn from: ids in order with their probabilities. The token after it is still the next.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Result<Vec<(u32, f64)>, SamplingError> {
        self.filter(logits, history)?;
        self.candidates.rank();
        let sum: f64 = self.candidates.weights().sum();
        Ok(self.candidates.list().iter().zip(self.candidates.weights()).map(|(c, w)| (c.id, w / sum)).collect())
    }

    /// Whether the likeliest candidate is the one that is chosen.
    fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0 && self.chain.contains(&Step::Temperature)
    }

    /// The places of the next token's random numbers, the first and the last: XTC's, then the draw's.
    fn numbers(&self) -> [u64; 2] {
        let xtc = self.chain.iter().filter(|step| **step == Step::Xtc).count() as u64;
        let count = xtc + u64::from(!self.is_greedy());
        let first = self.place.wrapping_mul(count);
        [first, first.wrapping_add(count).wrapping_sub(1)]
    }

    /// Leaves the candidates that may be chosen, ranked where anything is drawn.
    fn filter(&mut self, logits: &[f32], history: &[u32]) -> Result<(), SamplingError> {
        candidates::check(logits)?;
        let SamplingOptions { temperature, top_k, repeat_last_n, .. } = self.options;
        // Steps that change logits, first in the chain, need the changed ones alone.
        let changes = self.chain.iter().take_while(|step| matches!(step, Step::Penalties | Step::Dry)).count();
        let rest = &self.chain[changes..];
        let window = penalties::last(history, repeat_last_n);
        let dry = match self.chain.contains(&Step::Dry) {
            true => dry::penalties(history, &self.options),
            false => BTreeMap::new(),
        };
        let seen = if self.chain.contains(&Step::Penalties) { window } else { &[] };
        if let Some(&got) = seen.iter().chain(dry.keys()).find(|id| **id as usize >= logits.len()) {
            return Err(SamplingError::History { got, expected: logits.len() });
        }
        let bias = &self.options.logit_bias;
        if let Some(&(got, _)) = bias.iter().find(|(id, _)| *id as usize >= logits.len()) {
            return Err(SamplingError::Bias { got, expected: logits.len() });
        }

        let mut touched: Vec<u32> = bias.iter().map(|(id, _)| *id).collect();
        if changes > 0 {
            touched.extend(seen.iter().chain(dry.keys()));
        }
        let biased = |id: u32| -> f64 {
            let bias: f64 = bias.iter().filter(|(of, _)| *of == id).map(|(_, bias)| f64::from(*bias)).sum();
            f64::from(logits[id as usize]) + bias
        };
        let candidates = &mut self.candidates;
        candidates.set(penalties::distinct(&touched).into_iter().map(|id| Candidate::new(id, biased(id))));
        for step in &self.chain[..changes] {
            change(candidates, *step, window, &dry, &self.options);
        }
        match rest {
            _ if temperature == 0.0 && takes_first(rest) => {
                candidates.add_top(logits, 1);
                candidates.keep(0..1);
                return Ok(());
            }
            [Step::TopK, ..] => candidates.add_top(logits, top_k),
            _ => candidates.add_all(logits),
        }
        self.take(changes, window, &dry);
        Ok(())
    }

    /// The steps of the chain from one on, on the candidates that there are.
    fn take(&mut self, from: usize, window: &[u32], dry: &BTreeMap<u32, f64>) {
        let [mut number, _] = self.numbers();
        let candidates = &mut self.candidates;
        for step in &self.chain[from..] {
            match step {
                Step::Penalties | Step::Dry => change(candidates, *step, window, dry, &self.options),
                Step::TopNSigma => filters::top_n_sigma(candidates, self.options.top_n_sigma.into()),
                Step::TopK => candidates.keep(0..self.options.top_k),
                Step::Typical => filters::typical(candidates, self.options.typical_p.into()),
                Step::TopP => filters::top_p(candidates, self.options.top_p.into()),
                Step::MinP => filters::min_p(candidates, self.options.min_p.into()),
                Step::Xtc => {
                    let unit = self.random.unit(number);
                    number = number.wrapping_add(1);
                    if unit <= f64::from(self.options.xtc_probability) {
                        filters::xtc(candidates, self.options.xtc_threshold.into());
                    }
                }
                Step::Temperature => filters::temperature(candidates, self.options.temperature.into()),
            }
        }
        candidates.rank();
        if self.options.mirostat.is_some() {
            let sum: f64 = candidates.weights().sum();
            let kept = candidates.weights().take_while(|w| -libm::log2(w / sum) <= self.mu).count();
            candidates.keep(0..kept.max(1));
        }
    }
}

/// A step that changes logits by what was said before.
fn change(
    candidates: &mut Candidates,
    step: Step,
    window: &[u32],
    dry: &BTreeMap<u32, f64>,
    options: &SamplingOptions,
) {
    match step {
        Step::Dry => dry::apply(candidates, dry),
        _ => penalties::penalties(candidates, window, options),
    }
}

/// Whether the likeliest candidate is the one that these steps leave in the end.
fn takes_first(steps: &[Step]) -> bool {
    let keeps_first = |step: &Step| !matches!(step, Step::Typical | Step::Xtc | Step::Penalties | Step::Dry);
    steps.contains(&Step::Temperature) && steps.iter().all(keeps_first)
}

/// The candidate at which the running sum of weights passes `unit` (0 to below 1) of the whole, and its probability. At
/// least one candidate, ranked.
fn draw(candidates: &Candidates, unit: f64) -> (u32, f64) {
    let total: f64 = candidates.weights().sum();
    let target = unit * total;
    let mut sum = 0.0;
    let mut chosen = (0, 0.0);
    for (candidate, w) in candidates.list().iter().zip(candidates.weights()) {
        if w > 0.0 {
            chosen = (candidate.id, w / total); // also the answer when rounding has put the target at the very end
        }
        sum += w;
        if sum > target {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests;
