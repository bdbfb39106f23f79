//! The model's own log-probabilities of tokens: the log-softmax of its logits, before any sampling step.

/// A chosen token with its log-probability, and the likeliest tokens with theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    pub id: u32,
    /// Its log-probability (natural logarithm).
    pub logprob: f64,
    /// The likeliest tokens with theirs, the likeliest first; of equal ones the lower id first.
    pub top: Vec<(u32, f64)>,
}

/// A row's log-probabilities, before a token is chosen from it.
pub(crate) struct Row {
    logits: Vec<f32>,
    log_sum: f64,
    top: Vec<(u32, f64)>,
}

/// ln of the sum of exp(logit), in f64, in the order of ids: a logit minus this is its log-probability.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)));
    largest + libm::log(logits.iter().map(|&x| libm::exp(f64::from(x) - largest)).sum())
}

impl TokenLogprobs {
    /// The `top` likeliest tokens of a row, and the sum that the chosen token will need.
    pub(crate) fn of(logits: &[f32], top: usize) -> Row {
        let log_sum = log_sum_exp(logits);
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let order = |a: &u32, b: &u32| {
            let [x, y] = [a, b].map(|id| logits[*id as usize] + 0.0);
            y.total_cmp(&x).then(a.cmp(b))
        };
        if top < ids.len() {
            ids.select_nth_unstable_by(top, order);
            ids.truncate(top);
        }
        ids.sort_unstable_by(order);
        let top = ids.into_iter().map(|id| (id, f64::from(logits[id as usize]) - log_sum)).collect();
        Row { logits: logits.to_vec(), log_sum, top }
    }
}

impl Row {
    pub fn chosen(self, id: u32) -> TokenLogprobs {
        TokenLogprobs { id, logprob: f64::from(self.logits[id as usize]) - self.log_sum, top: self.top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_log_softmax() {
        let shares = [0.1f64, 0.5, 0.15, 0.25];
        let logits: Vec<f32> = shares.iter().map(|p| p.ln() as f32 + 3.0).collect();
        let got = TokenLogprobs::of(&logits, 2).chosen(2);
        assert_eq!((got.id, got.top.len(), got.top[0].0, got.top[1].0), (2, 2, 1, 3));
        for (got, p) in [(got.logprob, 0.15f64), (got.top[0].1, 0.5), (got.top[1].1, 0.25)] {
            assert!((got - p.ln()).abs() < 1e-6, "{got} {p}");
        }
        // Large logits do not overflow, equal ones are ordered by id, and minus infinity stays that.
        let got = TokenLogprobs::of(&[900.0, 900.0, f32::NEG_INFINITY, 0.0], 9).chosen(2);
        assert_eq!(got.logprob, f64::NEG_INFINITY);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 1, 3, 2]);
        assert!((got.top[0].1 - 0.5f64.ln()).abs() < 1e-12);
    }
}
