//! The steps that change the logits of tokens seen before.

use super::candidates::Candidates;
use super::options::SamplingOptions;

/// The last `n` tokens of a history.
pub(super) fn last(history: &[u32], n: usize) -> &[u32] {
    &history[history.len().saturating_sub(n)..]
}

/// The tokens of `window`, each once, ascending.
pub(super) fn distinct(window: &[u32]) -> Vec<u32> {
    let mut ids = window.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The repeat penalty divides a positive logit and multiplies another one, once however often the token occurs. Then
/// the frequency penalty is subtracted for each time, and the presence penalty once.
pub(super) fn penalties(candidates: &mut Candidates, window: &[u32], options: &SamplingOptions) {
    let [repeat, frequency, presence] =
        [options.repeat_penalty, options.frequency_penalty, options.presence_penalty].map(f64::from);
    let mut sorted = window.to_vec();
    sorted.sort_unstable();
    let ids = distinct(window);
    candidates.change(&ids, |id, logit| {
        let count = sorted.partition_point(|x| *x <= id) - sorted.partition_point(|x| *x < id);
        let logit = if logit > 0.0 { logit / repeat } else { logit * repeat };
        logit - (count as f64 * frequency + presence)
    });
}
