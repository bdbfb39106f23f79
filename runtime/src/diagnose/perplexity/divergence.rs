//! How far a model's probabilities for a text are from those of another, token by token.
//!
//! ```text
//! KLD          sum over the vocabulary of p (ln p - ln q): p the base's, q the model's; of each scored token
//! ln ratio     ln of the model's perplexity over the base's
//! delta p      q - p of the token that follows in the text
//! same top     whether the likeliest token is the same
//! ```

use crate::generate::logprobs::log_sum_exp;

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// One standard error of it.
    pub error: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, x: f64) {
        self.sum += x;
        self.squares += x * x;
    }

    fn mean(&self, n: usize) -> Mean {
        let value = self.sum / n as f64;
        let variance = (self.squares / n as f64 - value * value).max(0.0);
        Mean { value, error: libm::sqrt(variance / n.saturating_sub(1) as f64) }
    }
}

/// The comparison so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Divergence {
    /// Of each scored token, in nats.
    divergences: Vec<f64>,
    kld: Sums,
    ratio: Sums,
    delta: Sums,
    same_top: Sums,
}

/// The likeliest token; of equal ones the first.
fn top(row: &[f32]) -> usize {
    let better = |best: usize, (at, &x): (usize, &f32)| if x > row[best] { at } else { best };
    row.iter().enumerate().fold(0, better)
}

impl Divergence {
    /// Adds a token: the base's log-probabilities and the model's logits, each `[vocab_size]`, and the token that follows.
    pub fn add(&mut self, base: &[f32], logits: &[f32], next: u32) {
        let log_sum = log_sum_exp(logits);
        let terms = base.iter().zip(logits).map(|(&p, &logit)| {
            let (p, q) = (f64::from(p), f64::from(logit) - log_sum);
            libm::exp(p) * (p - q)
        });
        let divergence: f64 = terms.sum();
        let (p, q) = (f64::from(base[next as usize]), f64::from(logits[next as usize]) - log_sum);
        self.divergences.push(divergence);
        self.kld.add(divergence);
        self.ratio.add(p - q);
        self.delta.add(libm::exp(q) - libm::exp(p));
        self.same_top.add(if top(base) == top(logits) { 1.0 } else { 0.0 });
    }

    /// Tokens compared.
    pub fn scored(&self) -> usize {
        self.divergences.len()
    }

    /// Mean of the KL divergences, in nats.
    pub fn mean(&self) -> Mean {
        self.kld.mean(self.scored())
    }

    /// Mean of ln(p / q): the logarithm of the perplexities' ratio.
    pub fn log_ratio(&self) -> Mean {
        self.ratio.mean(self.scored())
    }

    /// Mean of q - p of the tokens that follow.
    pub fn delta(&self) -> Mean {
        self.delta.mean(self.scored())
    }

    /// Root of the mean square of q - p.
    pub fn delta_rms(&self) -> f64 {
        libm::sqrt(self.delta.squares / self.scored() as f64)
    }

    /// Share of tokens whose likeliest token is the same.
    pub fn same_top(&self) -> Mean {
        self.same_top.mean(self.scored())
    }

    /// KL divergences at these shares of the sorted tokens: 0.5 is the median, 1 the largest. 0 where none was compared.
    pub fn percentiles<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let mut sorted = self.divergences.clone();
        sorted.sort_by(f64::total_cmp);
        shares.map(|share| {
            let place = share * sorted.len().saturating_sub(1) as f64;
            let at = |place: f64| sorted.get(place as usize).copied().unwrap_or_default();
            let (low, high) = (at(libm::floor(place)), at(libm::ceil(place)));
            low + (high - low) * (place - libm::floor(place))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_formula() {
        let (p, q) = ([0.5f64, 0.25, 0.25], [0.25f64, 0.5, 0.25]);
        let logs = |p: [f64; 3], shift: f64| p.map(|p| (p.ln() + shift) as f32);
        let mut all = Divergence::default();
        all.add(&logs(p, 0.0), &logs(q, 3.0), 1);
        all.add(&logs(p, 0.0), &logs(p, -2.0), 0);
        let expected = 0.5 * 2f64.ln() - 0.25 * 2f64.ln();
        assert_eq!(all.scored(), 2);
        assert!((all.mean().value - expected / 2.0).abs() < 1e-6);
        assert!((all.mean().error - expected / 2.0).abs() < 1e-6, "of x and 0 it is x / 2");
        assert!((all.log_ratio().value + 2f64.ln() / 2.0).abs() < 1e-6);
        assert!((all.delta().value - 0.125).abs() < 1e-6 && (all.delta_rms() - 0.25 / 2f64.sqrt()).abs() < 1e-6);
        assert_eq!(all.same_top().value, 0.5);
        let [least, median, most] = all.percentiles([0.0, 0.5, 1.0]);
        assert!(least.abs() < 1e-6 && (median - expected / 2.0).abs() < 1e-6 && (most - expected).abs() < 1e-6);
    }
}
