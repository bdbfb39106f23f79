//! The runtime's engine for splitting expressions gives every character to the same classes as Oniguruma does, for which
//! tokenizers write their expressions.

use nanoserve_tokenizer::vocab::{PROPERTIES, check_exact};
use std::sync::atomic::{AtomicUsize, Ordering};

fn differences(pattern: &str) -> Vec<u32> {
    check_exact(pattern).unwrap();
    let theirs = onig::Regex::new(pattern).unwrap();
    let ours = fancy_regex::Regex::new(pattern).unwrap();
    let differs = |c: &char| {
        let mut buffer = [0; 4];
        let text: &str = c.encode_utf8(&mut buffer);
        let found = ours.find(text).unwrap().map(|found| (found.start(), found.end()));
        theirs.find(text) != found
    };
    (0..=0x10_ffff).filter_map(char::from_u32).filter(differs).map(u32::from).collect()
}

#[test]
fn every_class_has_the_same_characters() {
    let mut patterns: Vec<String> = PROPERTIES.iter().map(|name| format!("\\p{{{name}}}")).collect();
    patterns.extend([r"\P{L}", r"\s", r"\S", r"\d", r"\D", r"\h", r".", r"[^\s\p{L}\p{N}]"].map(String::from));
    // Every ASCII letter where case is ignored, alone and in a class.
    patterns.extend(('a'..='z').map(|c| format!("(?i:{c})")));
    patterns
        .extend([r"(?i:[a-z])", r"(?i:[^a-z])", r"[\u4e00-\u9fff]", r"\x{3000}|\x41", r"[!-/:-~]"].map(String::from));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(pattern) = patterns.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let differ = differences(pattern);
                    assert!(differ.is_empty(), "{pattern}: {differ:x?}");
                }
            });
        }
    });
}

/// Digits are split by Rust's own table in the tokenizers library, and by the property N here. Rust's may be of a newer
/// Unicode, with characters that the engine does not know yet.
#[test]
fn digits_are_the_property_n() {
    let regex = fancy_regex::Regex::new(r"\p{N}").unwrap();
    let unknown = fancy_regex::Regex::new(r"\p{Cn}").unwrap();
    let differs = |c: &char| {
        let mut buffer = [0; 4];
        let text: &str = c.encode_utf8(&mut buffer);
        regex.is_match(text).unwrap() != c.is_numeric() && !unknown.is_match(text).unwrap()
    };
    let all: Vec<char> = (0..=0x10_ffff).filter_map(char::from_u32).filter(differs).collect();
    assert!(all.is_empty(), "{all:?}");
}
