//! Prompt lookup (Saxena 2023): what followed the text's last tokens earlier may follow them again.
//!
//! The guess runs together with the last token in one step, which takes little more than one token's time where reading
//! the weights takes the time. The model decides whether the guess was right, so the text is the same; a wrong guess
//! only costs time. So time decides whether to guess: a step's time minus the time that its tokens would take one by
//! one is a debt, and while the debt is more than a small share of all time so far, nothing is guessed.

use std::time::Instant;

/// The lengths of the text's end that are looked for, shortest to longest.
const NGRAM: std::ops::RangeInclusive<usize> = 2..=8;

/// The share of all time that guessing may lose.
const MAX_LOSS: f64 = 0.02;

/// Gains count up to so many tokens' time, so that a large gain cannot all be lost again.
const MAX_GAIN: f64 = 4.0;

/// Guesses tokens, and learns what guessing gains.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The most tokens of a guess; 0 turns guessing off.
    most: usize,
    /// Tokens of the next guess.
    size: usize,
    /// When the current step began.
    step: Instant,
    /// Time of all steps, in seconds.
    total_s: f64,
    /// Running average of the time of a step without a guess, in seconds; None before the first.
    plain_s: Option<f64>,
    /// What guessing has cost so far, in seconds; negative if it has gained.
    debt_s: f64,
    guessed: [usize; 2],
}

impl Lookup {
    pub fn new(most: usize) -> Self {
        let guessed = [0; 2];
        Lookup { most, size: most.min(4), step: Instant::now(), total_s: 0.0, plain_s: None, debt_s: 0.0, guessed }
    }

    /// Whether anything is ever guessed.
    pub fn is_on(&self) -> bool {
        self.most > 0
    }

    /// Tokens that were guessed, and how many of them were right.
    pub fn guessed(&self) -> [usize; 2] {
        self.guessed
    }

    /// Continues the counts from these.
    pub fn set_guessed(&mut self, guessed: [usize; 2]) {
        self.guessed = guessed;
    }

    /// Ends the step that [`Lookup::propose`] began, and learns how many of the proposed tokens were right.
    pub fn learn(&mut self, proposed: usize, right: usize) {
        let step_s = self.step.elapsed().as_secs_f64();
        self.took(proposed, right, step_s);
    }

    fn took(&mut self, proposed: usize, right: usize, step_s: f64) {
        if self.most == 0 {
            return;
        }
        self.total_s += step_s;
        self.guessed[0] += proposed;
        self.guessed[1] += right;
        if proposed == 0 {
            // The latest step counts a quarter, so that one delayed step does not decide.
            self.plain_s = Some(self.plain_s.map_or(step_s, |before| 0.75 * before + 0.25 * step_s));
            return;
        }
        let plain_s = self.plain_s.unwrap_or(step_s);
        self.debt_s = (self.debt_s + step_s - (right + 1) as f64 * plain_s).max(-MAX_GAIN * plain_s);
        self.size = if right == proposed { (2 * proposed).min(self.most) } else { right.max(1) };
    }

    /// Begins a step. Returns tokens that may follow `history`, at most `room`.
    pub fn propose(&mut self, history: &[u32], room: usize) -> Vec<u32> {
        self.step = Instant::now();
        // A step's time is unknown before the first step without a guess has ended.
        let affordable = self.plain_s.is_some() && self.debt_s <= MAX_LOSS * self.total_s;
        if self.most == 0 || !affordable {
            return Vec::new();
        }
        continuation(history, self.size.min(room)).to_vec()
    }
}

/// What followed the longest end of `history`, of [`NGRAM`] tokens, that occurs earlier too; of equal ones the latest.
fn continuation(history: &[u32], size: usize) -> &[u32] {
    let n = history.len();
    let (mut best, mut at) = (0, n);
    for end in (1..n).rev() {
        // How many tokens before `end` equal the last ones of `history`.
        if history[end - 1] != history[n - 1] {
            continue;
        }
        let same = (0..end.min(*NGRAM.end())).take_while(|i| history[end - 1 - i] == history[n - 1 - i]).count();
        if same > best {
            (best, at) = (same, end);
            if best == *NGRAM.end() {
                break;
            }
        }
    }
    if best < *NGRAM.start() { &[] } else { &history[at..n.min(at + size)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_is_continued() {
        assert_eq!(continuation(&[1, 2, 3, 4, 1, 2], 8), [3, 4, 1, 2]);
        assert_eq!(continuation(&[1, 2, 3, 4, 1, 2], 1), [3]);
        // One token is not enough.
        assert!(continuation(&[2, 3, 4, 1, 2], 8).is_empty());
        // Three beat two, although the two occur later.
        assert_eq!(continuation(&[7, 1, 2, 5, 9, 1, 2, 6, 7, 1, 2], 1), [5]);
        // Of equal ones the latest.
        assert_eq!(continuation(&[1, 2, 5, 1, 2, 6, 1, 2], 1), [6]);
        assert_eq!(continuation(&[1, 1, 1, 1], 4), [1]);
        assert!(continuation(&[], 4).is_empty());
        assert!(continuation(&[1], 4).is_empty());
    }

    #[test]
    fn wrong_guesses_stop_and_right_ones_grow() {
        let history = [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2];
        let mut lookup = Lookup::new(16);
        // The first step shows a token's time.
        assert!(lookup.propose(&history, 99).is_empty());
        lookup.took(0, 0, 1.0);
        assert_eq!(lookup.propose(&history, 99).len(), 3);
        for (proposed, next) in [(4, 8), (8, 16), (16, 16)] {
            lookup.took(proposed, proposed, 1.5);
            assert_eq!(lookup.size, next);
        }
        assert_eq!(lookup.propose(&history, 2).len(), 2);
        // Twice the time for one token: the gain is soon used up.
        let mut bad = 0;
        while !lookup.propose(&history, 99).is_empty() {
            lookup.took(lookup.size, 0, 2.0);
            bad += 1;
        }
        assert!((3..=6).contains(&bad), "{bad}");
        // It guesses now and then, within the share that may be lost.
        let (mut steps, mut tries) = (0.0f64, 0.0f64);
        for _ in 0..10_000 {
            if lookup.propose(&history, 99).is_empty() {
                lookup.took(0, 0, 1.0);
                steps += 1.0;
            } else {
                lookup.took(lookup.size, 0, 2.0);
                tries += 1.0;
            }
        }
        assert!(tries > 50.0 && tries / (steps + 2.0 * tries) <= MAX_LOSS, "{tries} of {steps}");
        assert!(Lookup::new(0).propose(&history, 99).is_empty());
    }

    /// A text of few tokens in which every end has occurred before, and continues differently each time. Whatever a
    /// guess costs, all guesses together cost at most the share that may be lost, and one guess more.
    #[test]
    fn a_text_that_always_goes_on_otherwise_costs_little_at_any_length() {
        for per_token in [0.05, 0.25, 1.0] {
            let mut lookup = Lookup::new(16);
            let mut history: Vec<u32> = (0..64).map(|i| i * i % 5).collect();
            let (mut total, mut found) = (0.0, 0);
            for step in 1..=3000 {
                found += usize::from(!continuation(&history, 1).is_empty());
                let guess = lookup.propose(&history, 99);
                let took = 1.0 + per_token * guess.len() as f64;
                lookup.took(guess.len(), 0, took);
                total += took;
                let [guessed, right] = lookup.guessed();
                assert_eq!(right, 0);
                let lost = per_token * guessed as f64;
                assert!((total - f64::from(step) - lost).abs() < 1e-6, "every guess is counted");
                assert!(lost <= MAX_LOSS * total + 4.0 * per_token, "{lost} of {total} at step {step}");
                let latest = continuation(&history, 1).first().map_or(step, |token| token + 1);
                history.push(latest % 5);
            }
            assert!(found > 2900, "{found} of the steps had something to guess");
            assert!(lookup.guessed()[0] > 10, "it tries now and then");
        }
    }
}
