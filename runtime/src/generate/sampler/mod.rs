//! Logits to a token id: a chain of steps over candidates, then one draw.
//!
//! The steps are those of llama.cpp, in its order, so that the same settings mean the same thing. The order is
//! [`SamplingOptions::chain`]; a step whose settings change nothing is skipped.
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
//! xtc          by chance: removes the candidates that reach the threshold, except the least likely of them
//! temperature  logit / temperature; 0 is greedy: the largest logit, the lowest id among equals
//! draw         one uniform number against the running sum of exp(logit - largest)
//! ```
//!
//! With Mirostat 2 (Basu et al. 2021) the chain is bias, temperature, and then the candidates whose surprise,
//! -log2(probability), is at most mu, at least one. mu begins at 2 tau. The surprise s of each choice, among the
//! candidates that were left, moves it: mu -= eta (s - tau).
//!
//! The same seed, options, logits and histories give the same ids on every machine. So neither the platform's `exp` nor
//! a library's generator is used: arithmetic is f64 with [`libm`]'s pure-Rust functions, sums have a fixed order, the
//! order of the candidates is total, and the generator is [`SplitMix64`].
//!
//! A token's random numbers depend only on the seed and on the token's place. Every token takes the same count of them:
//! one for XTC if it is on, then one for the draw, even when a single candidate is left; a greedy choice takes none for
//! the draw. The token at place i, counted from 0, takes the numbers of the seed's sequence from i * count on.
//!
//! ```
//! use nanoserve_runtime::generate::sampler::{Sampler, SamplingOptions};
//!
//! let mut options = SamplingOptions::default();
//! options.temperature = 0.0;
//! let mut sampler = Sampler::new(options)?;
//! assert_eq!(sampler.sample(&[0.5, 2.0, 2.0, -1.0], &[])?, 1);
//! # Ok::<(), nanoserve_runtime::generate::sampler::SamplingError>(())
//! ```
//!
//! The trap: the filters see the probabilities *before* the temperature. Transformers divides first, so there a high
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

/// Chooses tokens. Holds the options, the place of the next token and the candidates' buffer.
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
    /// A sampler at the beginning of the random sequence of `options.seed`.
    ///
    /// # Errors
    /// When an option is out of its range.
    pub fn new(mut options: SamplingOptions) -> Result<Self, SamplingError> {
        options.check()?;
        // They are looked up by their first token.
        options.dry_breakers.sort();
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

    /// Mirostat's bound on the surprise, in bits: a sampler's only state besides the number of tokens.
    pub fn mu(&self) -> f64 {
        self.mu
    }

    /// Goes on as after so many tokens, with [`Sampler::mu`] as it was then.
    pub fn resume(&mut self, tokens: u64, mu: f64) {
        (self.place, self.mu) = (tokens, mu);
    }

    /// Chooses the id of the next token. `logits[id]` is the logit of token `id`; `history` is every token so far,
    /// prompt included, the latest last.
    ///
    /// # Errors
    /// When a logit is not a number or plus infinity, a token of the history or of the bias has no logit, or none may
    /// be chosen.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SamplingError> {
        self.filter(logits, history)?;
        self.choose(logits.len())
    }

    /// Chooses one of the candidates left of `got` logits.
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

    /// How many of the likeliest tokens are enough to choose the next one: the others can make no difference. None if
    /// all are needed, or more than `most`.
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

    /// As [`Sampler::sample`], from the likeliest tokens with their logits: as many as [`Sampler::reach`] says, the
    /// likeliest first, of equal ones the lower id first.
    ///
    /// # Errors
    /// When a logit is not a number or plus infinity, or none may be chosen.
    pub fn sample_top(&mut self, top: &[(u32, f32)]) -> Result<u32, SamplingError> {
        // Logits that cannot be ranked come first.
        if let Some(&(id, got)) = top.iter().find(|(_, logit)| logit.is_nan() || *logit == f32::INFINITY) {
            return Err(SamplingError::Logit { id, got });
        }
        self.candidates.set_top(top);
        if self.options.temperature > 0.0 || !takes_first(&self.chain) {
            self.take(0, &[], &BTreeMap::new());
        }
        self.choose(top.len())
    }

    /// What the next token would be drawn from: ids in the order of ranks, with their probabilities. Chooses no token.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Result<Vec<(u32, f64)>, SamplingError> {
        self.filter(logits, history)?;
        self.candidates.rank();
        let sum: f64 = self.candidates.weights().sum();
        Ok(self.candidates.list().iter().zip(self.candidates.weights()).map(|(c, w)| (c.id, w / sum)).collect())
    }

    /// Whether the likeliest candidate is chosen, without a draw.
    fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0 && self.chain.contains(&Step::Temperature)
    }

    /// The places of the next token's random numbers in the sequence, the first and the last: XTC's, then the draw's.
    fn numbers(&self) -> [u64; 2] {
        let xtc = self.chain.iter().filter(|step| **step == Step::Xtc).count() as u64;
        let count = xtc + u64::from(!self.is_greedy());
        let first = self.place.wrapping_mul(count);
        [first, first.wrapping_add(count).wrapping_sub(1)]
    }

    /// Reduces the logits to the candidates that may be chosen, ranked if there is a draw.
    fn filter(&mut self, logits: &[f32], history: &[u32]) -> Result<(), SamplingError> {
        candidates::check(logits)?;
        let SamplingOptions { temperature, top_k, repeat_last_n, .. } = self.options;
        // Steps at the beginning of the chain that change logits need only the logits that they change.
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
            let bias: f64 = bias.iter().filter(|(token, _)| *token == id).map(|(_, bias)| f64::from(*bias)).sum();
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

    /// Takes the steps of the chain from `from` on, with the present candidates.
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
            let within = candidates.weights().take_while(|w| -libm::log2(w / sum) <= self.mu).count();
            candidates.keep(0..within.max(1));
        }
    }
}

/// Takes a step that changes logits by the history.
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

/// Whether these steps, at temperature 0, always leave the likeliest candidate.
fn takes_first(steps: &[Step]) -> bool {
    let keeps_first = |step: &Step| !matches!(step, Step::Typical | Step::Xtc | Step::Penalties | Step::Dry);
    steps.contains(&Step::Temperature) && steps.iter().all(keeps_first)
}

/// The candidate at which the running sum of weights passes `unit` (0 to below 1) of the whole, and its probability.
/// There must be at least one candidate, and they must be ranked.
fn draw(candidates: &Candidates, unit: f64) -> (u32, f64) {
    let total: f64 = candidates.weights().sum();
    let target = unit * total;
    let mut sum = 0.0;
    let mut chosen = (0, 0.0);
    for (candidate, w) in candidates.list().iter().zip(candidates.weights()) {
        if w > 0.0 {
            chosen = (candidate.id, w / total); // also the answer if rounding puts the target at the very end
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
