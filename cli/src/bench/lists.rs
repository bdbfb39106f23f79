//! Lists of numbers as llama-bench takes them: `1,2,4`, `128-512+128`, `128-1024*2`.

/// Numbers that one option may name. More are a slip of the keyboard.
const MOST: usize = 1000;

/// The numbers that one part of a list names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(Vec<usize>);

impl Counts {
    /// The numbers of several parts.
    pub fn all(parts: &[Counts]) -> Vec<usize> {
        parts.iter().flat_map(|Counts(numbers)| numbers.iter().copied()).collect()
    }
}

/// A part of a list: a number, or FIRST-LAST, whose step is +N or *N, or +1.
pub fn counts(text: &str) -> Result<Counts, String> {
    let wrong = || format!("'{text}' is no number and no range such as 1-4, 128-512+128 or 128-1024*2");
    let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
    let Some((first, rest)) = text.split_once('-') else { return Ok(Counts(vec![number(text)?])) };
    let (last, step, times) = match rest.find(['+', '*']) {
        Some(at) => (number(&rest[..at])?, number(&rest[at + 1..])?, rest[at..].starts_with('*')),
        None => (number(rest)?, 1, false),
    };
    let first = number(first)?;
    if first > last || step < if times { 2 } else { 1 } || (times && first == 0) {
        return Err(format!("'{text}' is a range that does not end"));
    }
    let next = |n: &usize| if times { n.checked_mul(step) } else { n.checked_add(step) };
    let numbers: Vec<usize> =
        std::iter::successors(Some(first), next).take_while(|n| *n <= last).take(MOST + 1).collect();
    if numbers.len() > MOST {
        return Err(format!("'{text}' names more than {MOST} numbers"));
    }
    Ok(Counts(numbers))
}

/// As [`counts`], of numbers that 0 makes no sense for.
pub fn positive(text: &str) -> Result<Counts, String> {
    let Counts(numbers) = counts(text)?;
    if numbers.contains(&0) { Err("0 is no such number, expected at least 1".into()) } else { Ok(Counts(numbers)) }
}

/// As [`counts`], of threads.
pub fn threads(text: &str) -> Result<Counts, String> {
    let Counts(numbers) = counts(text)?;
    numbers.iter().try_for_each(|n| crate::values::threads(&n.to_string()).map(|_| ()))?;
    Ok(Counts(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges() {
        for (text, expected) in [
            ("7", &[7][..]),
            ("1-4", &[1, 2, 3, 4]),
            ("128-512+128", &[128, 256, 384, 512]),
            ("128-600+128", &[128, 256, 384, 512]),
            ("128-1024*2", &[128, 256, 512, 1024]),
            ("5-5", &[5]),
            ("0-2", &[0, 1, 2]),
        ] {
            assert_eq!(counts(text), Ok(Counts(expected.to_vec())), "{text}");
        }
        for text in ["", "x", "-1", "4-1", "1-4*1", "0-4*2", "1-4+0", "1-", "1-2-3", "1-99999999"] {
            assert!(counts(text).is_err(), "{text}");
        }
        assert!(positive("0").is_err() && threads("0").is_err() && threads("1-2000").is_err());
        assert_eq!(Counts::all(&[counts("1-2").unwrap(), counts("9").unwrap()]), [1, 2, 9]);
    }
}
