//! The steps that remove candidates, and the temperature. Each keeps at least one candidate.

use super::candidates::Candidates;

/// Keeps the shortest beginning of the ranks whose share of the probability is at least `p`.
pub(super) fn top_p(candidates: &mut Candidates, p: f64) {
    candidates.rank();
    let enough = p * candidates.weights().sum::<f64>();
    let mut sum = 0.0;
    let last = candidates.weights().position(|w| {
        sum += w;
        sum >= enough
    });
    if let Some(last) = last {
        candidates.keep(0..last + 1);
    }
}

/// Keeps the candidates whose probability is at least `p` times the largest.
pub(super) fn min_p(candidates: &mut Candidates, p: f64) {
    let Some(first) = candidates.first() else { return };
    candidates.retain(|c| libm::exp(c.logit - first.logit) >= p);
}

/// Keeps the candidates whose logit is at most `n` standard deviations (of all candidates' logits) below the largest.
/// Tang et al. 2024, "Top-nσ: Not All Logits Are You Need".
pub(super) fn top_n_sigma(candidates: &mut Candidates, n: f64) {
    let Some(first) = candidates.first() else { return };
    let count = candidates.list().len() as f64;
    let mean = candidates.list().iter().map(|c| c.logit).sum::<f64>() / count;
    let variance = candidates.list().iter().map(|c| (c.logit - mean) * (c.logit - mean)).sum::<f64>() / count;
    let least = first.logit - n * libm::sqrt(variance);
    candidates.retain(|c| c.logit >= least);
}

/// Keeps the candidates whose surprise, -ln(probability), is nearest to the expected one, until their share of the
/// probability exceeds `p`. Meister et al. 2022, "Locally Typical Sampling".
pub(super) fn typical(candidates: &mut Candidates, p: f64) {
    candidates.rank();
    let sum: f64 = candidates.weights().sum();
    let shares: Vec<f64> = candidates.weights().map(|w| w / sum).collect();
    // For a candidate too unlikely for f64, p ln p is 0, its limit.
    let entropy: f64 = shares.iter().filter(|p| **p > 0.0).map(|p| -p * libm::log(*p)).sum();
    let distance = |rank: usize| (-libm::log(shares[rank]) - entropy).abs();
    let mut nearest: Vec<(f64, usize)> = (0..shares.len()).map(|rank| (distance(rank), rank)).collect();
    nearest.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut sum = 0.0;
    let last = nearest.iter().position(|(_, rank)| {
        sum += shares[*rank];
        sum > p
    });
    let Some(last) = last else { return };
    let mut ids: Vec<u32> = nearest[..=last].iter().map(|(_, rank)| candidates.list()[*rank].id).collect();
    ids.sort_unstable();
    candidates.retain(|c| ids.binary_search(&c.id).is_ok());
}

/// Removes the candidates whose probability is at least `threshold`, except the least likely of them. "Exclude Top
/// Choices", p-e-w 2024.
pub(super) fn xtc(candidates: &mut Candidates, threshold: f64) {
    candidates.rank();
    let sum: f64 = candidates.weights().sum();
    let top = candidates.weights().take_while(|w| w / sum >= threshold).count();
    if top > 1 {
        candidates.keep(top - 1..candidates.list().len());
    }
}

/// Divides the logits, which keeps their order; at 0 only the likeliest candidate stays.
pub(super) fn temperature(candidates: &mut Candidates, temperature: f64) {
    if temperature == 0.0 {
        candidates.keep(0..1);
    } else {
        candidates.scale(|logit| logit / temperature);
    }
}
