//! Finds the matches of a splitting expression, within limits that keep a search from running without end.
//!
//! A section may come from anywhere, so there are three limits:
//!
//! ```text
//! form          is checked before the expression is compiled: see `check_exact`
//! attempts      start at each place by itself, and each may go back so and so often
//! time          is checked between attempts
//! ```
//!
//! The expressions of published tokenizers have an allowed form and never come near the other limits, but for one text: a
//! million spaces in a row, which the engine would have to remember one by one.

use super::{VocabularyError, check_exact};
use fancy_regex::{Regex, RegexBuilder};
use std::time::{Duration, Instant};

/// How often an attempt may go back.
const MAX_STEPS: usize = 1_000_000;

/// Attempts between two checks of the time.
const ATTEMPTS: u32 = 16;

/// The time limit to split a text: thousands of times what it takes.
fn time_limit(bytes: usize) -> Duration {
    Duration::from_secs(10) + Duration::from_micros(10 * bytes as u64)
}

/// A splitting expression, compiled: it matches where an attempt starts or not at all.
#[derive(Debug)]
pub(super) struct Expression(Regex);

impl Expression {
    /// Compiles an expression.
    pub fn new(pattern: &str) -> Result<Self, VocabularyError> {
        check_exact(pattern)?;
        Self::compile(pattern)
    }

    /// A character that is part of a word, as added tokens have it.
    pub fn word() -> Result<Self, VocabularyError> {
        Self::compile(r"\w")
    }

    fn compile(pattern: &str) -> Result<Self, VocabularyError> {
        let regex = RegexBuilder::new(&format!(r"\G(?:{pattern})")).backtrack_limit(MAX_STEPS).build();
        regex.map(Self).map_err(|e| VocabularyError::Pattern { cause: e.to_string() })
    }

    /// Whether it matches at the beginning of a short text.
    pub fn begins(&self, text: &str) -> bool {
        self.0.is_match(text).unwrap_or(false)
    }
}

/// The matches of an expression in a text.
pub(super) struct Matches<'r, 't> {
    expression: &'r Expression,
    text: &'t str,
    end: Instant,
    attempts: u32,
}

impl<'r, 't> Matches<'r, 't> {
    pub fn new(expression: &'r Expression, text: &'t str) -> Self {
        Self::within(expression, text, time_limit(text.len()))
    }

    pub fn within(expression: &'r Expression, text: &'t str, time_limit: Duration) -> Self {
        Self { expression, text, end: Instant::now() + time_limit, attempts: 0 }
    }

    /// Where the first match at or after `from` begins and ends.
    pub fn next(&mut self, from: usize) -> Result<Option<(usize, usize)>, VocabularyError> {
        let mut at = from;
        loop {
            self.attempts += 1;
            if self.attempts.is_multiple_of(ATTEMPTS) && Instant::now() > self.end {
                return Err(self.failed("it takes too long"));
            }
            match self.expression.0.find_from_pos(self.text, at) {
                Ok(Some(found)) => return Ok(Some((found.start(), found.end()))),
                Ok(None) => match self.text.get(at..).and_then(|rest| rest.chars().next()) {
                    Some(c) => at += c.len_utf8(),
                    None => return Ok(None),
                },
                Err(_) => return Err(self.failed("it takes too many steps")),
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

    /// A search without limits, by the engine that the expressions were written for.
    #[test]
    fn attempts_at_each_place_are_a_search() {
        let text = "It's 1234 °C,\n\n  in  東京 …  e\u{301} 've\r\n \u{3000}x   ";
        for pattern in PUBLISHED.iter().chain(&[r"\p{N}", r"x*", r"(?<=1)2|C", r"nothing", r"[\s\p{P}]+?"]) {
            let expression = Expression::new(pattern).unwrap();
            let theirs = onig::Regex::new(pattern).unwrap();
            let mut matches = Matches::new(&expression, text);
            for from in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
                let mut region = onig::Region::new();
                let none = onig::SearchOptions::SEARCH_OPTION_NONE;
                let found = theirs.search_with_options(text, from, text.len(), none, Some(&mut region));
                assert_eq!(matches.next(from).unwrap(), found.and_then(|_| region.pos(0)), "{pattern} from {from}");
            }
        }
    }

    #[test]
    fn steps_and_time_have_an_end() {
        // Cubic: no digit or line end is found from any place.
        let expression = Expression::new(r"[a-z]*[a-y]*[0-9\n](?!x)").unwrap();
        let good = "a".repeat(200) + "7";
        assert_eq!(Matches::new(&expression, &good).next(0).unwrap(), Some((0, 201)));
        let bad = "a".repeat(200) + "-7";
        assert_eq!(Matches::new(&expression, &bad).next(0).unwrap(), Some((201, 202)));
        match Matches::within(&expression, &bad, Duration::ZERO).next(0) {
            Err(VocabularyError::Split { bytes: 202, cause }) => assert_eq!(cause, "it takes too long"),
            other => panic!("{other:?}"),
        }
        let long = "a".repeat(20_000) + "-7";
        match Matches::new(&expression, &long).next(0) {
            Err(VocabularyError::Split { bytes: 20_002, cause }) => assert_eq!(cause, "it takes too many steps"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_are_those_of_added_tokens() {
        let word = Expression::word().unwrap();
        let text: String = "aé日_9\u{301}\u{200d} -.\u{b2}".chars().filter(|c| word.begins(&c.to_string())).collect();
        assert_eq!(text, "aé日_9\u{301}\u{200d}");
    }
}
