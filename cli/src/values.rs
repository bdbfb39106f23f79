//! Values of options that have bounds. One that is out of them is refused by the option's name before anything is opened.

use nanoserve_converter::Dtype;
use nanoserve_format::RecipeError;
use std::str::FromStr;

/// Threads that a program starts at most. More are a slip of the keyboard, not a machine.
const MOST_THREADS: usize = 1024;

fn number<T: FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected {expected}"))
}

/// How matrices are stored.
pub fn dtype(text: &str) -> Result<Dtype, String> {
    text.parse().map_err(|e: RecipeError| match e {
        // The recipe knows only encodings, and one word is not one.
        RecipeError::Encoding { .. } if !text.contains(',') => format!("{e}, or source"),
        other => other.to_string(),
    })
}

/// A number that 0 makes no sense for.
pub fn positive(text: &str) -> Result<usize, String> {
    let expected = "a whole number, at least 1";
    number(text, expected).and_then(|n| if n == 0 { Err(format!("expected {expected}")) } else { Ok(n) })
}

/// A number of threads.
pub fn threads(text: &str) -> Result<usize, String> {
    let expected = format!("1 to {MOST_THREADS} threads");
    number(text, &expected)
        .and_then(|n| if (1..=MOST_THREADS).contains(&n) { Ok(n) } else { Err(format!("expected {expected}")) })
}

/// A number, or -1 for no bound.
pub fn or_unbounded(text: &str) -> Result<i64, String> {
    let expected = "0 or more, or -1 for no bound";
    number(text, expected).and_then(|n| if n >= -1 { Ok(n) } else { Err(format!("expected {expected}")) })
}

/// Where chance begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// Another in each run.
    New,
    /// This one.
    Given(u64),
}

/// A seed, or -1 for a new one each run.
pub fn seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed::New),
        text => number(text, "a whole number, or -1 for a new seed each run").map(Seed::Given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold() {
        assert_eq!((positive("1"), threads("1024"), or_unbounded("-1")), (Ok(1), Ok(1024), Ok(-1)));
        for text in ["0", "-1", "", "1.5", "99999999999999999999"] {
            assert!(positive(text).is_err() && threads(text).is_err(), "{text}");
        }
        for text in ["1025", "100000", "4294967296"] {
            assert_eq!(threads(text), Err("expected 1 to 1024 threads".to_string()));
        }
        assert!(or_unbounded("-2").unwrap_err().contains("-1 for no bound"));
        assert_eq!((seed("-1"), seed("7")), (Ok(Seed::New), Ok(Seed::Given(7))));
        assert!(seed("-2").is_err() && seed("x").is_err());
    }

    #[test]
    fn a_word_that_is_no_encoding_is_told_all_that_it_could_be() {
        assert!(dtype("q7").unwrap_err().ends_with("q5, q4, or source"));
        assert!(dtype("q4,v=q7").unwrap_err().ends_with("q5, q4"));
        assert_eq!(dtype("source"), Ok(Dtype::Source));
    }
}
