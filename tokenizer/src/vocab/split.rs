//! Finds the matches of a splitting expression, within limits that keep a search from running without end.
//!
//! A section may come from anywhere, so there are three limits:
//!
//! ```text
//! form          is checked before the expression is compiled: see `check_expression`
//! attempts      start at each place by itself; few failures are allowed at first, then eight times more each time
//! time          is checked between attempts
//! ```
//!
//! The expressions of published tokenizers have an allowed form and never come near the other limits.

use super::VocabularyError;
use onig::{MatchParam, Regex, Region, SearchOptions};
use std::time::{Duration, Instant};

/// Failures that an attempt may have, at first and at most.
const FAILURES: u32 = 256;
const MAX_FAILURES: u32 = 10_000_000;

/// The engine's code for an attempt with more failures (ONIGERR_RETRY_LIMIT_IN_MATCH_OVER).
const TOO_MANY_FAILURES: i32 = -17;

/// Attempts between two checks of the time, while none has many failures.
const ATTEMPTS: u32 = 16;

/// The time limit to split a text: thousands of times what it takes.
fn time_limit(bytes: usize) -> Duration {
    Duration::from_secs(10) + Duration::from_micros(10 * bytes as u64)
}

/// The matches of an expression in a text.
pub(super) struct Matches<'r, 't> {
    regex: &'r Regex,
    text: &'t str,
    region: Region,
    end: Instant,
    attempts: u32,
}

impl<'r, 't> Matches<'r, 't> {
    pub fn new(regex: &'r Regex, text: &'t str) -> Self {
        Self::within(regex, text, time_limit(text.len()))
    }

    pub fn within(regex: &'r Regex, text: &'t str, time_limit: Duration) -> Self {
        Self { regex, text, region: Region::new(), end: Instant::now() + time_limit, attempts: 0 }
    }

    /// Where the first match at or after `from` begins and ends.
    pub fn next(&mut self, from: usize) -> Result<Option<(usize, usize)>, VocabularyError> {
        let (mut at, mut failures) = (from, FAILURES);
        loop {
            self.attempts += 1;
            if (failures > FAILURES || self.attempts.is_multiple_of(ATTEMPTS)) && Instant::now() > self.end {
                return Err(self.failed("it takes too long"));
            }
            self.region.clear();
            let mut limits = MatchParam::default();
            limits.set_retry_limit_in_match(failures);
            let (none, region) = (SearchOptions::SEARCH_OPTION_NONE, Some(&mut self.region));
            match self.regex.match_with_param(self.text, at, none, region, limits) {
                Ok(Some(_)) => return Ok(self.region.pos(0)),
                Ok(None) => match self.text.get(at..).and_then(|rest| rest.chars().next()) {
                    Some(c) => (at, failures) = (at + c.len_utf8(), FAILURES),
                    None => return Ok(None),
                },
                Err(e) if e.code() == TOO_MANY_FAILURES && failures < MAX_FAILURES => {
                    failures = failures.saturating_mul(8).min(MAX_FAILURES);
                }
                Err(e) => return Err(self.failed(e.description())),
            }
        }
    }

    fn failed(&self, cause: &str) -> VocabularyError {
        VocabularyError::Split { bytes: self.text.len(), cause: cause.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::expression::tests::PUBLISHED;
    use super::*;

    #[test]
    fn attempts_at_each_place_are_a_search() {
        let text = "It's 1234 °C,\n\n  in  東京 …  e\u{301} 've\r\n \u{3000}x   ";
        for pattern in PUBLISHED.iter().chain(&[r"\p{N}", r"x*", r"(?<=1)2|C", r"\bin\b", r"nothing"]) {
            let regex = Regex::new(pattern).unwrap();
            let mut matches = Matches::new(&regex, text);
            for from in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
                let mut region = Region::new();
                let none = SearchOptions::SEARCH_OPTION_NONE;
                let found = regex.search_with_options(text, from, text.len(), none, Some(&mut region));
                assert_eq!(matches.next(from).unwrap(), found.and_then(|_| region.pos(0)), "{pattern} from {from}");
            }
        }
    }

    #[test]
    fn many_failures_are_granted_and_time_is_not() {
        // Cubic: no digit or line end is found from any place.
        let regex = Regex::new(r"[a-z]*[a-y]*[0-9\n]").unwrap();
        let good = "a".repeat(200) + "7";
        assert_eq!(Matches::new(&regex, &good).next(0).unwrap(), Some((0, 201)));
        let bad = "a".repeat(200) + "-7";
        assert_eq!(Matches::new(&regex, &bad).next(0).unwrap(), Some((201, 202)));
        match Matches::within(&regex, &bad, Duration::ZERO).next(0) {
            Err(VocabularyError::Split { bytes: 202, cause }) => assert_eq!(cause, "it takes too long"),
            other => panic!("{other:?}"),
        }
    }
}
