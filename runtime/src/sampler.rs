//! Logits to a token id: a chain of filters over candidates, then one draw.
//!
//! The steps are those of llama.cpp, in its order, so that the same settings mean the same thing:
//!
//! ```text
//! candidates = every id with its logit
//! penalties    a logit seen in the last repeat_last_n ids of the history: / penalty if positive, * penalty if not
//! greedy       temperature 0: the largest logit, the lowest id among equals; nothing below happens
//! top_k        the k largest, in order (logit descending, id ascending)
//! top_p        the shortest beginning of that order whose share of the probability is at least p
//! min_p        those whose probability is at least p times the largest one
//! temperature  logit / temperature
//! draw         one uniform number against the running sum of exp(logit - largest)
//! ```
//!
//! The same seed, options, logits and histories give the same ids on every machine. That is why the platform's own
//! `exp` and a generator of a library are not used: arithmetic is f64 with [`libm`]'s pure-Rust `exp`, sums go in one
//! order, the order of the candidates is total, and the generator is SplitMix64, spelled out below. Every draw takes
//! exactly one number of it, also when a single candidate is left, so that the n-th token always sees the n-th number;
//! a greedy choice takes none.
//!
//! ```
//! use nanoserve_runtime::sampler::{Sampler, SamplingOptions};
//!
//! let mut sampler = Sampler::new(SamplingOptions { temperature: 0.0, ..Default::default() })?;
//! assert_eq!(sampler.sample(&[0.5, 2.0, 2.0, -1.0], &[])?, 1);
//! # Ok::<(), nanoserve_runtime::sampler::SamplingError>(())
//! ```
//!
//! The trap: the filters look at probabilities *before* the temperature. Transformers divides first, so there a high
//! temperature lets more tokens through top_p than here.

use std::cmp::Ordering;

/// Why no token was chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// An option outside its range.
    #[error("sampling option {field} is {got}, expected {expected}")]
    Option {
        /// The option's name, a field of [`SamplingOptions`].
        field: &'static str,
        /// What it was set to.
        got: f32,
        /// What it may be.
        expected: &'static str,
    },
    /// A logit that cannot be ranked: not a number, or plus infinity.
    #[error("the logit of token {id} is {got}, expected a finite number (or -inf for never)")]
    Logit {
        /// The first such token.
        id: u32,
        /// Its logit.
        got: f32,
    },
    /// A token seen before that has no logit.
    #[error("token {got} was seen before, but there are logits for {expected} tokens only")]
    History {
        /// The id in the history.
        got: u32,
        /// How many logits there are.
        expected: usize,
    },
    /// Every logit is minus infinity, or there is none at all.
    #[error("none of {got} tokens may be chosen, expected at least one finite logit")]
    NoCandidate {
        /// How many logits there are.
        got: usize,
    },
}

/// How a token is chosen. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 is greedy. Default 0.8.
    pub temperature: f32,
    /// Tokens kept by rank; 0 keeps all. Default 40.
    pub top_k: usize,
    /// Probability mass kept; 1 keeps all. The likeliest token always stays. Default 0.95.
    pub top_p: f32,
    /// Tokens kept whose probability is at least this share of the largest; 0 keeps all. Default 0.05.
    pub min_p: f32,
    /// Divides positive and multiplies other logits of tokens seen before; 1 changes nothing. Default 1.
    pub repeat_penalty: f32,
    /// How many of the last tokens count as seen before; 0 is none. Default 64.
    pub repeat_last_n: usize,
    /// Where the generator starts. Default 0.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, repeat_last_n: 64, seed: 0 }
    }
}

impl SamplingOptions {
    /// Whether every option is in its range; the error names the first that is not.
    pub fn check(&self) -> Result<(), SamplingError> {
        let share = |x: f32| (0.0..=1.0).contains(&x);
        let rules = [
            ("temperature", self.temperature, self.temperature.is_finite() && self.temperature >= 0.0, "0 or more"),
            ("top_p", self.top_p, share(self.top_p), "0 to 1"),
            ("min_p", self.min_p, share(self.min_p), "0 to 1"),
            (
                "repeat_penalty",
                self.repeat_penalty,
                self.repeat_penalty.is_finite() && self.repeat_penalty > 0.0,
                "more than 0",
            ),
        ];
        match rules.into_iter().find(|(_, _, good, _)| !good) {
            Some((field, got, _, expected)) => Err(SamplingError::Option { field, got, expected }),
            None => Ok(()),
        }
    }
}

/// A token that may still be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    logit: f64,
}

impl Candidate {
    /// Likelier first, then the lower id: total, so that sorting has one outcome.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens. Holds the options, the state of the generator and the space the candidates live in.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    random: SplitMix64,
    candidates: Vec<Candidate>,
    seen: Vec<u32>,
}

impl Sampler {
    /// A sampler at the beginning of the sequence that `options.seed` names.
    pub fn new(options: SamplingOptions) -> Result<Self, SamplingError> {
        options.check()?;
        let random = SplitMix64::new(options.seed);
        Ok(Self { options, random, candidates: Vec::new(), seen: Vec::new() })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// The next token.
    ///
    /// `logits` has one number for each id; -inf means never. `history` are the ids so far, prompt included, the latest
    /// last; only the last `repeat_last_n` are looked at.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SamplingError> {
        let Self { options, random, candidates, seen } = self;
        let nothing = SamplingError::NoCandidate { got: logits.len() };

        load(candidates, logits)?;
        if options.repeat_penalty != 1.0 {
            let recent = &history[history.len().saturating_sub(options.repeat_last_n)..];
            penalties(candidates, seen, recent, f64::from(options.repeat_penalty))?;
        }
        candidates.retain(|c| c.logit > f64::NEG_INFINITY);
        if options.temperature == 0.0 {
            return greedy(candidates).ok_or(nothing);
        }
        top_k(candidates, options.top_k);
        top_p(candidates, f64::from(options.top_p));
        min_p(candidates, f64::from(options.min_p));
        temperature(candidates, f64::from(options.temperature));
        draw(candidates, random.next_unit()).ok_or(nothing)
    }
}

/// Every id with its logit, in order of ids. A zero is stored as +0, so that both zeros rank the same.
fn load(candidates: &mut Vec<Candidate>, logits: &[f32]) -> Result<(), SamplingError> {
    candidates.clear();
    candidates.reserve(logits.len());
    for (id, &logit) in (0u32..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(SamplingError::Logit { id, got: logit });
        }
        candidates.push(Candidate { id, logit: f64::from(logit) + 0.0 });
    }
    Ok(())
}

/// Makes each token of `recent` less likely, once however often it occurs. `candidates[id]` is that of `id`.
fn penalties(
    candidates: &mut [Candidate],
    seen: &mut Vec<u32>,
    recent: &[u32],
    penalty: f64,
) -> Result<(), SamplingError> {
    seen.clear();
    seen.extend_from_slice(recent);
    seen.sort_unstable();
    seen.dedup();
    let expected = candidates.len();
    for &id in seen.iter() {
        let candidate = candidates.get_mut(id as usize).ok_or(SamplingError::History { got: id, expected })?;
        candidate.logit = if candidate.logit > 0.0 { candidate.logit / penalty } else { candidate.logit * penalty };
        candidate.logit += 0.0; // a penalised zero stays +0
    }
    Ok(())
}

/// The likeliest candidate.
fn greedy(candidates: &[Candidate]) -> Option<u32> {
    candidates.iter().min_by(|a, b| a.order(b)).map(|c| c.id)
}

/// Sorts, and keeps the first `k`; 0 keeps all. What is dropped is never sorted.
fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k != 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k, Candidate::order);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(Candidate::order);
}

/// Keeps the shortest beginning whose share of the probability is at least `p`, one candidate at least. Sorted input.
fn top_p(candidates: &mut Vec<Candidate>, p: f64) {
    let Some(&first) = candidates.first() else { return };
    if p >= 1.0 {
        return;
    }
    let enough = p * candidates.iter().map(|c| weight(c, &first)).sum::<f64>();
    let mut sum = 0.0;
    let last = candidates.iter().position(|c| {
        sum += weight(c, &first);
        sum >= enough
    });
    if let Some(last) = last {
        candidates.truncate(last + 1);
    }
}

/// Keeps those whose probability is at least `p` times the largest. Sorted input.
fn min_p(candidates: &mut Vec<Candidate>, p: f64) {
    let Some(&first) = candidates.first() else { return };
    candidates.truncate(candidates.partition_point(|c| weight(c, &first) >= p));
}

/// Divides the logits, which leaves their order.
fn temperature(candidates: &mut [Candidate], temperature: f64) {
    for candidate in candidates {
        candidate.logit /= temperature;
    }
}

/// The candidate at which the running sum of weights passes `unit` (0 to below 1) of the whole. Sorted input.
fn draw(candidates: &[Candidate], unit: f64) -> Option<u32> {
    let first = candidates.first()?;
    let target = unit * candidates.iter().map(|c| weight(c, first)).sum::<f64>();
    let mut sum = 0.0;
    let mut chosen = first.id;
    for candidate in candidates {
        let w = weight(candidate, first);
        if w > 0.0 {
            chosen = candidate.id; // also the answer when rounding has put the target at the very end
        }
        sum += w;
        if sum > target {
            break;
        }
    }
    Some(chosen)
}

/// exp(logit - largest): the probability up to a common factor, 0 to 1.
fn weight(candidate: &Candidate, first: &Candidate) -> f64 {
    libm::exp(candidate.logit - first.logit)
}

/// SplitMix64, the generator of Steele, Lea and Flood (2014), as in Vigna's reference `splitmix64.c`.
///
/// The state is one 64-bit number that grows by a constant; the output is that number, mixed. Every seed is a good one.
#[derive(Clone, Debug)]
struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A multiple of 2^-53 from 0 to below 1: the upper 53 bits of the next number.
    fn next_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: SamplingOptions = SamplingOptions {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        seed: 7,
    };

    fn sampler(options: SamplingOptions) -> Sampler {
        Sampler::new(options).expect("options in range")
    }

    fn greedy_with(penalty: f32, last_n: usize) -> Sampler {
        sampler(SamplingOptions { temperature: 0.0, repeat_penalty: penalty, repeat_last_n: last_n, ..PLAIN })
    }

    /// Logits whose softmax is `shares`.
    fn logits(shares: &[f64]) -> Vec<f32> {
        shares.iter().map(|p| p.ln() as f32).collect()
    }

    fn sorted(shares: &[f64]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        load(&mut candidates, &logits(shares)).expect("finite");
        top_k(&mut candidates, 0);
        candidates
    }

    fn ids(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|c| c.id).collect()
    }

    #[test]
    fn generator_gives_the_published_numbers() {
        let mut random = SplitMix64::new(1_477_776_061_723_855_037);
        let published = [
            1_985_237_415_132_408_290,
            2_979_275_885_539_914_483,
            13_511_426_838_097_143_398,
            8_488_337_342_461_049_707,
            15_141_737_807_933_549_159,
        ];
        assert_eq!(published.map(|_| random.next()), published);
        let mut random = SplitMix64::new(0);
        assert_eq!(random.next(), 0xe220_a839_7b1d_cdaf);
        let mut random = SplitMix64::new(0);
        assert_eq!(random.next_unit(), (0xe220_a839_7b1d_cdaf_u64 >> 11) as f64 / 9_007_199_254_740_992.0);
    }

    #[test]
    fn defaults_are_in_range_and_others_are_named() {
        assert_eq!(SamplingOptions::default().check(), Ok(()));
        let bad = |field, options: SamplingOptions| match Sampler::new(options).map(|_| ()) {
            Err(SamplingError::Option { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        };
        for value in [-0.1, f32::NAN, f32::INFINITY] {
            bad("temperature", SamplingOptions { temperature: value, ..PLAIN });
        }
        for value in [-0.1, 1.1, f32::NAN] {
            bad("top_p", SamplingOptions { top_p: value, ..PLAIN });
            bad("min_p", SamplingOptions { min_p: value, ..PLAIN });
        }
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            bad("repeat_penalty", SamplingOptions { repeat_penalty: value, ..PLAIN });
        }
        let error = Sampler::new(SamplingOptions { top_p: 1.5, ..PLAIN }).expect_err("out of range");
        assert_eq!(error.to_string(), "sampling option top_p is 1.5, expected 0 to 1");
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        let mut sampler = greedy_with(1.0, 64);
        assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, 2.0], &[]), Ok(1));
        assert_eq!(sampler.sample(&[-0.0, 0.0], &[]), Ok(0));
        assert_eq!(sampler.sample(&[0.0, -0.0], &[]), Ok(0));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -1e30], &[]), Ok(1));
        assert_eq!(sampler.sample(&[f32::MIN, f32::MAX], &[]), Ok(1));
    }

    #[test]
    fn penalty_comes_before_the_greedy_choice() {
        assert_eq!(greedy_with(2.0, 64).sample(&[3.0, 2.0, 1.0], &[0]), Ok(1));
        // Once for each token, however often it was seen: 3 / 2 = 1.5 > 1.4.
        assert_eq!(greedy_with(2.0, 64).sample(&[3.0, 1.4], &[0, 0, 0]), Ok(0));
        // Negative logits are multiplied: -1 * 2 = -2 < -1.5.
        assert_eq!(greedy_with(2.0, 64).sample(&[-1.0, -1.5], &[0]), Ok(1));
        // A penalised zero stays equal to another zero; -inf stays never.
        assert_eq!(greedy_with(2.0, 64).sample(&[-0.0, 0.0], &[0, 1]), Ok(0));
        assert_eq!(greedy_with(2.0, 64).sample(&[f32::NEG_INFINITY, -9.0], &[0]), Ok(1));
    }

    #[test]
    fn penalty_looks_back_only_so_far() {
        assert_eq!(greedy_with(2.0, 2).sample(&[3.0, 2.0, 1.0], &[0, 2, 2]), Ok(0));
        assert_eq!(greedy_with(2.0, 3).sample(&[3.0, 2.0, 1.0], &[0, 2, 2]), Ok(1));
        assert_eq!(greedy_with(2.0, 0).sample(&[3.0, 2.0, 1.0], &[0]), Ok(0));
        assert_eq!(greedy_with(2.0, usize::MAX).sample(&[3.0, 2.0, 1.0], &[0, 2, 2]), Ok(1));
    }

    #[test]
    fn unusable_logits_and_ids_are_named() {
        let mut greedy = greedy_with(2.0, 64);
        let mut drawn = sampler(PLAIN);
        for sampler in [&mut greedy, &mut drawn] {
            match sampler.sample(&[0.0, 1.0, f32::NAN, f32::NAN], &[]) {
                Err(SamplingError::Logit { id: 2, got }) => assert!(got.is_nan()),
                other => panic!("{other:?}"),
            }
            let error = SamplingError::Logit { id: 1, got: f32::INFINITY };
            assert_eq!(sampler.sample(&[0.0, f32::INFINITY], &[]), Err(error));
            assert_eq!(sampler.sample(&[], &[]), Err(SamplingError::NoCandidate { got: 0 }));
            assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3], &[]), Err(SamplingError::NoCandidate { got: 3 }));
        }
        assert_eq!(greedy.sample(&[0.0, 1.0], &[2]), Err(SamplingError::History { got: 2, expected: 2 }));
    }

    #[test]
    fn top_k_equals_sorting_everything() {
        let mut random = SplitMix64::new(3);
        // Few values, so that ties cross every edge.
        let logits: Vec<f32> = (0..500).map(|_| (random.next() % 23) as f32 - 11.0).collect();
        let mut all = Vec::new();
        load(&mut all, &logits).expect("finite");
        all.sort_by(|a, b| b.logit.partial_cmp(&a.logit).expect("finite").then(a.id.cmp(&b.id)));
        for k in [0, 1, 2, 3, 10, 40, 250, 499, 500, 501, usize::MAX] {
            let mut candidates = Vec::new();
            load(&mut candidates, &logits).expect("finite");
            top_k(&mut candidates, k);
            let kept = if k == 0 { 500 } else { k.min(500) };
            assert_eq!(candidates, all[..kept], "k {k}");
        }
    }

    #[test]
    fn top_p_keeps_the_shortest_sufficient_beginning() {
        let shares = [0.1, 0.5, 0.15, 0.25]; // in order: 1 (0.5), 3 (0.75), 2 (0.9), 0 (1)
        for (p, kept) in [
            (0.0, &[1][..]),
            (0.49, &[1]),
            (0.51, &[1, 3]),
            (0.74, &[1, 3]),
            (0.76, &[1, 3, 2]),
            (0.91, &[1, 3, 2, 0]),
            (1.0, &[1, 3, 2, 0]),
        ] {
            let mut candidates = sorted(&shares);
            top_p(&mut candidates, p);
            assert_eq!(ids(&candidates), kept, "p {p}");
        }
    }

    #[test]
    fn min_p_compares_with_the_largest() {
        let shares = [0.1, 0.5, 0.15, 0.25]; // of the largest: 0.2, 1, 0.3, 0.5
        for (p, kept) in [
            (0.0, &[1, 3, 2, 0][..]),
            (0.19, &[1, 3, 2, 0]),
            (0.21, &[1, 3, 2]),
            (0.31, &[1, 3]),
            (0.51, &[1]),
            (1.0, &[1]),
        ] {
            let mut candidates = sorted(&shares);
            min_p(&mut candidates, p);
            assert_eq!(ids(&candidates), kept, "p {p}");
        }
    }

    #[test]
    fn draw_walks_the_running_sum() {
        let candidates = sorted(&[0.25, 0.5, 0.25]); // in order: 1, 0, 2
        for (unit, id) in [(0.0, 1), (0.49, 1), (0.51, 0), (0.74, 0), (0.76, 2), (1.0, 2)] {
            assert_eq!(draw(&candidates, unit), Some(id), "unit {unit}");
        }
        // A candidate too unlikely for f64 is not what rounding falls back to.
        let candidates = [Candidate { id: 4, logit: 0.0 }, Candidate { id: 5, logit: -1e6 }];
        assert_eq!(draw(&candidates, 1.0), Some(4));
        assert_eq!(draw(&[], 0.5), None);
    }

    #[test]
    fn filters_come_before_the_temperature() {
        // At temperature 100 all four are about as likely; top_p 0.7 still keeps the first two alone.
        let options = SamplingOptions { temperature: 100.0, top_p: 0.7, ..PLAIN };
        let mut sampler = sampler(options);
        let logits = logits(&[0.1, 0.5, 0.15, 0.25]);
        let mut counts = [0; 4];
        for _ in 0..1000 {
            counts[sampler.sample(&logits, &[]).expect("a token") as usize] += 1;
        }
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!(counts[1] > 400 && counts[3] > 400, "{counts:?}");
    }

    #[test]
    fn counts_follow_the_probabilities() {
        let n = 100_000;
        let shares = [0.4, 0.3, 0.2, 0.08, 0.02, 0.0];
        for (temperature, expected) in [(1.0f32, shares), (0.5, shares.map(|p| p * p / 0.2968))] {
            let mut sampler = sampler(SamplingOptions { temperature, ..PLAIN });
            let mut counts = [0u32; 6];
            for _ in 0..n {
                counts[sampler.sample(&logits(&shares), &[]).expect("a token") as usize] += 1;
            }
            for (count, p) in counts.into_iter().zip(expected) {
                let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
                assert!((f64::from(count) - f64::from(n) * p).abs() <= 4.0 * sigma, "{temperature}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_seed_names_one_sequence() {
        let logits: Vec<f32> = (0..64u32).map(|i| (i * 37 % 64) as f32 / 16.0 - 2.0).collect();
        let run = |seed| {
            let options = SamplingOptions { seed, repeat_penalty: 1.1, ..SamplingOptions::default() };
            let mut sampler = sampler(options);
            let mut history = vec![5];
            for _ in 0..16 {
                history.push(sampler.sample(&logits, &history).expect("a token"));
            }
            history.split_off(1)
        };
        assert_eq!(run(42), run(42));
        assert_ne!(run(42), run(43));
        assert_eq!(run(42), [29, 57, 31, 31, 19, 34, 57, 22, 31, 36, 12, 5, 5, 5, 36, 57]);
    }
}
