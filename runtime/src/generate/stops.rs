//! Stop strings in text that arrives in pieces.
//!
//! A stop string can begin in one token and end in another, so text that may yet turn out to be its beginning must not
//! be printed. [`StopMatcher`] holds back exactly that much: the longest end of the text so far that begins a stop
//! string. Everything before it goes out at once.
//!
//! Where the pieces are cut makes no difference to what is printed: text is searched as if it came one character at a
//! time. So the stop string that is *complete* first wins; of several complete at the same character, the longest, for
//! it begins first; of equal ones, the first given.
//!
//! ```
//! use nanoserve_runtime::generate::stops::StopMatcher;
//!
//! let mut stops = StopMatcher::new(vec!["\nUser:".to_owned()])?;
//! assert_eq!(stops.push("Good day.\nUs"), ("Good day.".to_owned(), None));
//! assert_eq!(stops.push("ually"), ("\nUsually".to_owned(), None));
//! assert_eq!(stops.push(" so.\nUser: hello"), (" so.".to_owned(), Some(0)));
//! # Ok::<(), nanoserve_runtime::generate::stops::StopError>(())
//! ```
//!
//! Some text takes part in the search and is not printed: that of special tokens ([`StopMatcher::push_hidden`]).
//!
//! The trap: when generation ends for another reason, the text still held back is ordinary text: call
//! [`StopMatcher::flush`].

pub use crate::error::StopError;
use std::ops::Range;

/// Passes text on until a stop string appears in it.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    /// The bytes of `held` that are not printed.
    hidden: Vec<Range<usize>>,
    /// Bytes before `held`, hidden ones included.
    passed: usize,
    stopped: Option<usize>,
}

impl StopMatcher {
    /// A matcher at the beginning of a text. Without stop strings, everything passes.
    pub fn new(stops: Vec<String>) -> Result<Self, StopError> {
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(StopError::Empty { index: index + 1, count: stops.len() }),
            None => Ok(Self { stops, held: String::new(), hidden: Vec::new(), passed: 0, stopped: None }),
        }
    }

    /// Takes the next piece. Returns what may be printed now and, once a stop string is complete, its index among those
    /// given to [`Self::new`]. Neither the stop string nor anything after it is ever returned, in this call or a later
    /// one.
    pub fn push(&mut self, text: &str) -> (String, Option<usize>) {
        self.take(text, false)
    }

    /// As [`Self::push`], with a piece that is searched and never returned: the text of a special token.
    pub fn push_hidden(&mut self, text: &str) -> (String, Option<usize>) {
        self.take(text, true)
    }

    fn take(&mut self, text: &str, hide: bool) -> (String, Option<usize>) {
        if self.stopped.is_some() {
            return (String::new(), self.stopped);
        }
        let searched = self.held.len();
        self.held.push_str(text);
        if hide && !text.is_empty() {
            self.hidden.push(searched..self.held.len());
        }
        let found = self.first_match(searched);
        let printed = self.release(found.map_or_else(|| self.hold_from(), |(start, _)| start));
        self.stopped = found.map(|(_, index)| index);
        if self.stopped.is_some() {
            self.held.clear();
            self.hidden.clear();
        }
        (printed, self.stopped)
    }

    /// Takes the first bytes of the held text away, and returns what is printed of them.
    fn release(&mut self, until: usize) -> String {
        let (mut printed, mut from) = (String::new(), 0);
        for hidden in &self.hidden {
            printed.push_str(&self.held[from.min(until)..hidden.start.min(until)]);
            from = hidden.end;
        }
        printed.push_str(&self.held[from.min(until)..until]);
        self.held.drain(..until);
        self.hidden.retain_mut(|hidden| {
            *hidden = hidden.start.saturating_sub(until)..hidden.end.saturating_sub(until);
            hidden.end > 0
        });
        self.passed += until;
        printed
    }

    /// Bytes of the text, hidden ones included, that are not held back any more. After a stop, this is where the stop
    /// string begins.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Whether there are stop strings.
    pub fn has_stops(&self) -> bool {
        !self.stops.is_empty()
    }

    /// Which stop string has appeared.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// Ends the text. Returns what is still held back, because nothing can complete a stop string any more.
    pub fn flush(&mut self) -> String {
        self.release(self.held.len())
    }

    /// Where the first stop string that ends after `searched` bytes begins, and its index.
    fn first_match(&self, searched: usize) -> Option<(usize, usize)> {
        let text = self.held.as_bytes();
        for end in searched + 1..=text.len() {
            let ending = |(_, stop): &(usize, &String)| text[..end].ends_with(stop.as_bytes());
            // The first of the longest: max_by_key would take the last.
            let longest = self.stops.iter().enumerate().filter(ending).rev().max_by_key(|(_, stop)| stop.len());
            if let Some((index, stop)) = longest {
                return Some((end - stop.len(), index));
            }
        }
        None
    }

    /// Where the longest end of the held text that begins a stop string starts; its length if there is none.
    fn hold_from(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest.saturating_sub(1));
        (earliest..self.held.len())
            .find(|&start| {
                let end = &self.held.as_bytes()[start..];
                // A stop string begins with a whole character, so what matches begins with one too.
                self.stops.iter().any(|stop| stop.as_bytes().starts_with(end))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect()).expect("no empty stop string")
    }

    fn feed(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = matcher(stops);
        let mut text = String::new();
        for piece in pieces {
            text += &matcher.push(piece).0;
        }
        text += &matcher.flush();
        (text, matcher.stopped())
    }

    /// Checks the outcome for the whole text, for each of its characters alone, and for each pair of cuts.
    fn check(stops: &[&str], text: &str, printed: &str, stopped: Option<usize>) {
        let expected = (printed.to_owned(), stopped);
        let characters: Vec<&str> = text.split("").collect();
        assert_eq!(feed(stops, &characters), expected, "{stops:?} in {text:?} by characters");
        let cuts: Vec<usize> = (0..=text.len()).filter(|&i| text.is_char_boundary(i)).collect();
        for &a in &cuts {
            for &b in cuts.iter().filter(|&&b| b >= a) {
                let pieces = [&text[..a], &text[a..b], &text[b..]];
                assert_eq!(feed(stops, &pieces), expected, "{stops:?} in {pieces:?}");
            }
        }
    }

    #[test]
    fn every_cut_gives_the_same_text() {
        check(&["stop"], "go on and stop here", "go on and ", Some(0));
        check(&["stop"], "stop", "", Some(0));
        check(&["stop"], "a stopgap", "a ", Some(0));
        check(&["stop"], "sto sto st s", "sto sto st s", None);
        check(&["stop"], "ststop", "st", Some(0));
        check(&[], "anything", "anything", None);
        check(&["x"], "", "", None);
        check(&["\n\n", "User:"], "one\ntwo\n\nUser: three", "one\ntwo", Some(0));
    }

    #[test]
    fn overlapping_beginnings() {
        check(&["aab"], "aaab", "a", Some(0));
        check(&["aab"], "aaaaab.", "aaa", Some(0));
        check(&["abab"], "ababab", "", Some(0));
        check(&["abac"], "ababac", "ab", Some(0));
        check(&["aa"], "baaa", "b", Some(0));
    }

    #[test]
    fn one_stop_inside_another() {
        check(&["ab", "abc"], "xabc", "x", Some(0)); // complete first, in every cut
        check(&["abc", "ab"], "xabc", "x", Some(1));
        check(&["bc", "abcd"], "abcd", "a", Some(0));
        check(&["b", "aab"], "aab", "", Some(1)); // complete at once: the longer one begins first
        check(&["aab", "b"], "ab", "a", Some(1));
        check(&["b", "b"], "ab", "a", Some(0));
    }

    #[test]
    fn characters_of_several_bytes() {
        check(&["日本"], "日日本語", "日", Some(0));
        check(&["é"], "e\u{301} è é", "e\u{301} è ", Some(0)); // è shares its first byte with é
        check(&["👍👎"], "👍👍👎", "👍", Some(0));
        check(&["👎"], "👍👍", "👍👍", None);
    }

    #[test]
    fn nothing_is_held_longer_than_needed() {
        let mut matcher = matcher(&["<end>", "e!"]);
        assert_eq!(matcher.push("abc"), ("abc".to_owned(), None));
        assert_eq!(matcher.push("d<"), ("d".to_owned(), None));
        assert_eq!(matcher.push("e"), (String::new(), None)); // "<e" and, inside it, "e"
        assert_eq!(matcher.push("x"), ("<ex".to_owned(), None));
        assert_eq!(matcher.push("<e"), (String::new(), None));
        assert_eq!(matcher.push("e"), ("<e".to_owned(), None)); // the first "e" is free, the second is not
        assert_eq!(matcher.push("!"), (String::new(), Some(1)));
    }

    #[test]
    fn hidden_text_is_searched_and_not_printed() {
        let run = |stops: &[&str], pieces: &[(&str, bool)]| {
            let mut matcher = matcher(stops);
            let mut text = String::new();
            for &(piece, hide) in pieces {
                text += &if hide { matcher.push_hidden(piece) } else { matcher.push(piece) }.0;
            }
            let (passed, stopped) = (matcher.passed(), matcher.stopped());
            text += &matcher.flush();
            (text, stopped, passed)
        };
        let pieces = [("O", false), ("K", false), ("<end>", true), ("!", false)];
        for (stop, printed, passed) in [("<end>", "OK", 2), ("K<end>", "O", 1), ("OK<end>", "", 0), ("<end>!", "OK", 2)]
        {
            assert_eq!(run(&[stop], &pieces), (printed.to_owned(), Some(0), passed), "{stop}");
        }
        assert_eq!(run(&["nd>!"], &pieces), ("OK".to_owned(), Some(0), 4), "a stop may begin within hidden text");
        assert_eq!(run(&["K<e?"], &pieces), ("OK!".to_owned(), None, 8));
        assert_eq!(run(&["d>!?"], &pieces), ("OK!".to_owned(), None, 5), "what was held is printed in part");
        assert_eq!(run(&[], &pieces), ("OK!".to_owned(), None, 8));
        assert_eq!(run(&["ab"], &[("a", true), ("b", true), ("c", false)]), (String::new(), Some(0), 0));
        assert_eq!(run(&["abx"], &[("a", false), ("b", true), ("c", false)]), ("ac".to_owned(), None, 3));
    }

    #[test]
    fn nothing_comes_after_a_stop() {
        let mut matcher = matcher(&["."]);
        assert_eq!(matcher.push("a.b"), ("a".to_owned(), Some(0)));
        assert_eq!(matcher.push("c"), (String::new(), Some(0)));
        assert_eq!(matcher.flush(), "");
        assert_eq!(matcher.stopped(), Some(0));
    }

    #[test]
    fn flush_gives_what_was_held() {
        let mut matcher = matcher(&["stop"]);
        assert_eq!(matcher.push("sto"), (String::new(), None));
        assert_eq!(matcher.flush(), "sto");
        assert_eq!(matcher.flush(), "");
    }

    #[test]
    fn empty_stop_strings_are_refused() {
        let error = StopMatcher::new(vec!["a".into(), String::new()]).expect_err("empty");
        assert_eq!(error, StopError::Empty { index: 2, count: 2 });
        assert_eq!(error.to_string(), "stop string 2 of 2 is empty, expected at least one character");
    }

    #[test]
    fn small_alphabets_agree_with_the_definition() {
        // Every text of up to 7 letters a and b, every cut in two, against a plain search by ends.
        let sets: [&[&str]; 5] = [&["aab"], &["ab", "ba"], &["abab", "bb"], &["a", "bab"], &["bba", "ba", "abba"]];
        for stops in sets {
            for bits in 0..1u32 << 8 {
                let length = 31 - (bits | 1).leading_zeros();
                let text: String = (0..length).map(|i| if bits >> i & 1 == 0 { 'a' } else { 'b' }).collect();
                let found = (1..=text.len()).find_map(|end| {
                    let ends = |stop: &&&str| text[..end].ends_with(**stop);
                    let longest = stops.iter().filter(ends).max_by_key(|stop| stop.len())?;
                    Some((end - longest.len(), stops.iter().position(|stop| stop == longest)))
                });
                let expected = match found {
                    Some((start, index)) => (text[..start].to_owned(), index),
                    None => (text.clone(), None),
                };
                for cut in 0..=text.len() {
                    assert_eq!(feed(stops, &[&text[..cut], &text[cut..]]), expected, "{stops:?} in {text} at {cut}");
                }
            }
        }
    }
}
