//! Finds the matches of a splitting expression, within limits that keep a search from running without end.
//!
//! A section may come from anywhere, so there are three limits:
//!
//! ```text
//! form          is checked before the expression is compiled: see `check_exact`
//! attempts      start at each place by itself, and each may go back so and so often
//! time          is checked between attempts: see `Budget`
//! ```
//!
//! The expressions of published tokenizers have an allowed form and never come near the other limits, but for one text: a
//! million spaces in a row, which the engine would have to remember one by one.

use super::{Budget, VocabularyError, check_exact};
use fancy_regex::{Regex, RegexBuilder};

/// How often an attempt may go back.
const MAX_STEPS: usize = 1_000_000;

/// Attempts between two checks of the time, in a text that is not long.
const ATTEMPTS: u32 = 16;

/// The bytes of a long text: there, one attempt may take as long as a check of the time.
const LONG: usize = 1 << 14;

/// The steps of an attempt, as the budget counts them, before it goes back.
const ATTEMPT: usize = 32;

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
    attempts: u32,
}

impl<'r, 't> Matches<'r, 't> {
    pub fn new(expression: &'r Expression, text: &'t str) -> Self {
        Self { expression, text, attempts: 0 }
    }

    /// Where the first match at or after `from` begins and ends.
    pub fn next(&mut self, from: usize, budget: &mut Budget) -> Result<Option<(usize, usize)>, VocabularyError> {
        let mut at = from;
        loop {
            self.attempts += 1;
            budget.take(ATTEMPT)?;
            if self.text.len() > LONG || self.attempts.is_multiple_of(ATTEMPTS) {
                budget.look()?;
            }
            match self.expression.0.find_from_pos(self.text, at) {
                Ok(Some(found)) => return Ok(Some((found.start(), found.end()))),
                Ok(None) => match self.text.get(at..).and_then(|rest| rest.chars().next()) {
                    Some(c) => at += c.len_utf8(),
                    None => return Ok(None),
                },
                Err(_) => return Err(budget.failed("it takes too many steps")),
            }
        }
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
                let budget = &mut Budget::new(text.len());
                assert_eq!(
                    matches.next(from, budget).unwrap(),
                    found.and_then(|_| region.pos(0)),
                    "{pattern} from {from}"
                );
            }
        }
    }

    #[test]
    fn steps_and_time_have_an_end() {
        // Cubic: no digit or line end is found from any place.
        let expression = Expression::new(r"[a-z]*[a-y]*[0-9\n](?!x)").unwrap();
        let good = "a".repeat(200) + "7";
        let first = |text: &str, budget: &mut Budget| Matches::new(&expression, text).next(0, budget);
        assert_eq!(first(&good, &mut Budget::new(good.len())).unwrap(), Some((0, 201)));
        let bad = "a".repeat(200) + "-7";
        assert_eq!(first(&bad, &mut Budget::new(bad.len())).unwrap(), Some((201, 202)));
        match first(&bad, &mut Budget::late(bad.len())) {
            Err(VocabularyError::Split { bytes: 202, cause }) => assert_eq!(cause, "it takes too long"),
            other => panic!("{other:?}"),
        }
        let long = "a".repeat(20_000) + "-7";
        // In a long text the time is looked at before each attempt.
        match first(&long, &mut Budget::late(long.len())) {
            Err(VocabularyError::Split { cause, .. }) => assert_eq!(cause, "it takes too long"),
            other => panic!("{other:?}"),
        }
        match first(&long, &mut Budget::new(long.len())) {
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
