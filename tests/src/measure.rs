//! Measures of how far two results are apart.

/// The largest absolute difference; infinite if a value is NaN.
///
/// # Panics
/// When the lengths differ.
pub fn max_abs_diff(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "results of different length");
    let difference = |(&a, &b): (&f32, &f32)| {
        let d = (f64::from(a) - f64::from(b)).abs();
        if d.is_nan() { f64::INFINITY } else { d }
    };
    a.iter().zip(b).map(difference).fold(0.0, f64::max)
}

/// Index of the largest value; the first of equals.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, x)| if *x > row[best] { i } else { best })
}

/// The Kullback-Leibler divergence, in nats, of the distribution given by logits `q` from that given by `p`:
/// `sum softmax(p) * (log softmax(p) - log softmax(q))`.
///
/// # Panics
/// When the lengths differ.
pub fn kl(p: &[f32], q: &[f32]) -> f64 {
    assert_eq!(p.len(), q.len(), "rows of different length");
    let log_sum = |row: &[f32]| {
        let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x.into()));
        max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
    };
    let (lp, lq) = (log_sum(p), log_sum(q));
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let (p, q) = (f64::from(p) - lp, f64::from(q) - lq);
        p.exp() * (p - q)
    });
    terms.sum()
}

/// How far rows of logits are from a reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Mean of [`kl`] over the rows.
    pub mean: f64,
    /// Its maximum over the rows.
    pub max: f64,
    /// Number of rows whose largest logit is another token's.
    pub other_top: usize,
}

/// Compares logits `[rows, vocab]` with a reference's.
///
/// # Panics
/// When the lengths differ.
pub fn divergence(reference: &[f32], ours: &[f32], vocab: usize) -> Divergence {
    assert_eq!(reference.len(), ours.len(), "logits of different length");
    let mut all = Divergence { mean: 0.0, max: 0.0, other_top: 0 };
    for (p, q) in reference.chunks_exact(vocab).zip(ours.chunks_exact(vocab)) {
        let kl = kl(p, q);
        all.mean += kl * vocab as f64 / reference.len() as f64;
        all.max = all.max.max(kl);
        all.other_top += usize::from(argmax(p) != argmax(q));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences() {
        assert_eq!(max_abs_diff(&[1.0, -2.0], &[1.5, -4.0]), 2.0);
        assert_eq!(max_abs_diff(&[], &[]), 0.0);
        assert_eq!(max_abs_diff(&[0.0, f32::NAN], &[0.0, 1.0]), f64::INFINITY);
        assert_eq!(max_abs_diff(&[f32::INFINITY], &[f32::INFINITY]), f64::INFINITY);
    }

    #[test]
    fn kl_of_two_coins() {
        // (1/2, 1/2) against (1/4, 3/4): 0.5 ln 2 + 0.5 ln (2/3). A constant added to all logits changes nothing.
        let (p, q) = ([3.0, 3.0], [0.25f32.ln() - 9.0, 0.75f32.ln() - 9.0]);
        let expected = 0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln();
        assert!((kl(&p, &q) - expected).abs() < 1e-6);
        assert!(kl(&q, &q).abs() < 1e-12);
        assert!(kl(&[f32::NAN, 0.0], &q).is_nan());
    }

    #[test]
    fn rows_are_averaged() {
        let reference = [0.0, 1.0, 1.0, 0.0];
        let d = divergence(&reference, &[0.0, 1.0, 0.0, 1.0], 2);
        let one = kl(&[1.0, 0.0], &[0.0, 1.0]);
        assert!((d.mean - one / 2.0).abs() < 1e-12 && d.max == one && d.other_top == 1);
        assert_eq!(argmax(&[1.0, 2.0, 2.0]), 1);
    }
}
