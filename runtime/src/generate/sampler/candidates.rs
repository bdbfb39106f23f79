//! The tokens that may still be chosen.

use super::SamplingError;
use std::cmp::Ordering;

/// A token that may still be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    pub logit: f64,
}

impl Candidate {
    /// A zero is stored as +0, so that both zeros rank the same.
    pub fn new(id: u32, logit: f64) -> Self {
        Self { id, logit: logit + 0.0 }
    }

    /// Likelier first, then the lower id. The order is total, so sorting has one outcome.
    pub fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// A list of candidates. Taken from a whole vocabulary, it has no logit of minus infinity.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    /// Whether `list` is in the order of ranks; else it is in the order of ids.
    ranked: bool,
}

impl Candidates {
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// Replaces the list by candidates in the order of ids.
    pub fn set(&mut self, candidates: impl Iterator<Item = Candidate>) {
        self.list.clear();
        self.list.extend(candidates);
        self.ranked = false;
    }

    /// Replaces the list by candidates in the order of ranks.
    pub fn set_top(&mut self, top: &[(u32, f32)]) {
        self.list.clear();
        self.list.extend(top.iter().map(|&(id, logit)| Candidate::new(id, logit.into())));
        self.ranked = true;
        self.drop_minus_infinity();
    }

    /// Adds all other tokens of `logits`. Candidates already here keep their own logits.
    pub fn add_all(&mut self, logits: &[f32]) {
        let changed = std::mem::take(&mut self.list);
        let mut changed = changed.into_iter().peekable();
        self.list.reserve(logits.len());
        for (id, &logit) in (0u32..).zip(logits) {
            let own = changed.next_if(|c| c.id == id).unwrap_or_else(|| Candidate::new(id, logit.into()));
            self.list.push(own);
        }
        self.drop_minus_infinity();
    }

    /// Adds tokens of `logits`, so that at least the `k` likeliest of all are here. Candidates already here keep their
    /// own logits. Few tokens are added beyond those:
    ///
    /// ```text
    /// maxima     the largest logit of each block; there are more blocks than m
    /// threshold  the m-th largest maximum, m = k + the candidates already here: at least m logits reach it
    /// taken      all logits that reach it
    /// ```
    pub fn add_top(&mut self, logits: &[f32], k: usize) {
        let m = k.saturating_add(self.list.len());
        let block = (logits.len() / m.saturating_mul(4).max(1)).min(1024);
        if block < 16 {
            return self.add_all(logits);
        }
        let mut maxima: Vec<f32> = logits.chunks(block).map(largest).collect();
        let (_, &mut threshold, _) = maxima.select_nth_unstable_by(m - 1, |a, b| b.total_cmp(a));
        let changed = std::mem::take(&mut self.list);
        let untouched = |id: u32| changed.binary_search_by_key(&id, |c| c.id).is_err();
        for (index, part) in logits.chunks(block).enumerate() {
            // Most blocks have none: skipping them is as fast as reading them.
            if largest(part) < threshold {
                continue;
            }
            for (id, &logit) in ((index * block) as u32..).zip(part) {
                if logit >= threshold && untouched(id) {
                    self.list.push(Candidate::new(id, logit.into()));
                }
            }
        }
        self.list.extend(changed);
        self.drop_minus_infinity();
        self.rank();
    }

    fn drop_minus_infinity(&mut self) {
        self.list.retain(|c| c.logit > f64::NEG_INFINITY);
    }

    /// Replaces the logits of `ids`, which ascend.
    pub fn change(&mut self, ids: &[u32], new: impl Fn(u32, f64) -> f64) {
        let mut next = 0;
        for candidate in &mut self.list {
            let at = if self.ranked {
                ids.binary_search(&candidate.id).ok()
            } else {
                next += ids[next..].iter().take_while(|id| **id < candidate.id).count();
                (ids.get(next) == Some(&candidate.id)).then_some(next)
            };
            if at.is_some() {
                *candidate = Candidate::new(candidate.id, new(candidate.id, candidate.logit));
            }
        }
        if self.ranked {
            self.list.sort_unstable_by(Candidate::order);
        }
    }

    /// Applies a function to every logit. It must keep their order.
    pub fn scale(&mut self, new: impl Fn(f64) -> f64) {
        self.list.iter_mut().for_each(|c| c.logit = new(c.logit));
    }

    /// Keeps the candidates that `keep` accepts, in their order.
    pub fn retain(&mut self, keep: impl Fn(&Candidate) -> bool) {
        self.list.retain(keep);
    }

    /// Sorts the list into the order of ranks.
    pub fn rank(&mut self) {
        if !self.ranked {
            self.list.sort_unstable_by(Candidate::order);
            self.ranked = true;
        }
    }

    /// Sorts into the order of ranks, and keeps the ranks in `range`. Candidates behind it are never sorted.
    pub fn keep(&mut self, range: std::ops::Range<usize>) {
        if !self.ranked && range.end < self.list.len() {
            self.list.select_nth_unstable_by(range.end, Candidate::order);
        }
        self.list.truncate(range.end);
        self.rank();
        self.list.drain(..range.start);
    }

    /// The likeliest candidate.
    pub fn first(&self) -> Option<Candidate> {
        if self.ranked { self.list.first().copied() } else { self.list.iter().copied().min_by(Candidate::order) }
    }

    /// exp(logit - largest) of each candidate: the probabilities up to a common factor, 0 to 1.
    pub fn weights(&self) -> impl Iterator<Item = f64> {
        let largest = self.first().map_or(0.0, |c| c.logit);
        self.list.iter().map(move |c| libm::exp(c.logit - largest))
    }
}

/// Refuses logits that cannot be ranked. The error names the first.
pub(super) fn check(logits: &[f32]) -> Result<(), SamplingError> {
    // The negation also finds NaN. Without an early exit, the loop takes many at a time.
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "not a number is no less than infinity")]
    let bad = |logit: f32| !(logit < f32::INFINITY);
    if !logits.iter().fold(false, |found, &logit| found | bad(logit)) {
        return Ok(());
    }
    match (0u32..).zip(logits).find(|(_, logit)| bad(**logit)) {
        Some((id, &got)) => Err(SamplingError::Logit { id, got }),
        None => Ok(()),
    }
}

/// The largest of some logits, sixteen lanes at a time; minus infinity if there are none.
fn largest(part: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = part.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    chunks.remainder().iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::SplitMix64;

    #[test]
    fn the_top_alone_equals_the_top_of_all() {
        let mut random = SplitMix64::new(3);
        for n in [1usize, 500, 5000, 40_000] {
            // Few distinct values, so that ties cross every edge; some are minus infinity.
            let logits: Vec<f32> = (0..n)
                .map(|_| match random.next_u64() % 23 {
                    0 => f32::NEG_INFINITY,
                    x => x as f32 - 11.0 + (random.next_u64() % 50) as f32 / 16.0,
                })
                .collect();
            for changed in [0, 1, 30usize] {
                let mut ids: Vec<u32> = (0..changed).map(|_| (random.next_u64() % n as u64) as u32).collect();
                ids.sort_unstable();
                ids.dedup();
                let own = || ids.iter().map(|&id| Candidate::new(id, f64::from(id % 7) - 2.0));
                for k in [1, 2, 3, 10, 40, 250, 499, 500, 501, usize::MAX / 8] {
                    let (mut all, mut top) = (Candidates::default(), Candidates::default());
                    all.set(own());
                    all.add_all(&logits);
                    let mut plain = all.list().to_vec();
                    plain.sort_by(|a, b| b.logit.partial_cmp(&a.logit).expect("finite").then(a.id.cmp(&b.id)));
                    plain.truncate(k);
                    all.keep(0..k);
                    top.set(own());
                    top.add_top(&logits, k);
                    top.keep(0..k);
                    assert_eq!(all.list(), plain, "n {n} k {k} changed {changed}");
                    assert_eq!(top.list(), plain, "n {n} k {k} changed {changed}");
                }
            }
        }
    }

    #[test]
    fn the_first_bad_logit_is_named() {
        assert_eq!(check(&[0.0, f32::NEG_INFINITY, f32::MAX]), Ok(()));
        let error = check(&[0.0, f32::INFINITY, f32::NAN]).expect_err("infinite");
        assert_eq!(error, SamplingError::Logit { id: 1, got: f32::INFINITY });
        assert!(matches!(check(&[0.0, f32::NAN]), Err(SamplingError::Logit { id: 1, .. })));
    }

    #[test]
    fn changes_find_their_ids_in_both_orders() {
        for ranked in [false, true] {
            let mut candidates = Candidates::default();
            candidates.add_all(&[1.0, 4.0, 2.0, 3.0, f32::NEG_INFINITY]);
            if ranked {
                candidates.rank();
            }
            candidates.change(&[1, 3, 4], |id, logit| if id == 3 { 1.75 } else { logit - 2.5 });
            candidates.rank();
            let ids: Vec<u32> = candidates.list().iter().map(|c| c.id).collect();
            assert_eq!(ids, [2, 3, 1, 0], "ranked {ranked}");
        }
    }
}
