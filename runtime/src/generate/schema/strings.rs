//! Sets of JSON strings, as regular expressions over what stands between the quotes.
//!
//! Every character has one spelling there: itself, or its short escape (`\n`), or `\u00XX` for the other control
//! characters. So intersections and complements of spellings are those of the strings, and two spellings are two strings.
//! llguidance's own quoting has faults: a class without the quote, `[^"]`, lets `\"` through.

pub use llguidance::derivre::RegexAst as Language;

/// How a character is escaped, if it must be.
pub fn spelling(c: char) -> Option<String> {
    Some(match c {
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        '\u{8}' => "\\b".into(),
        '\u{c}' => "\\f".into(),
        c if c < ' ' => format!("\\u{:04x}", c as u32),
        _ => return None,
    })
}

/// One character out of ranges of code points, ends included.
pub fn class(ranges: &[(u32, u32)]) -> Language {
    let mut plain = String::new();
    let mut escaped = Vec::new();
    for (first, last) in ranges {
        let mut start = *first;
        // What must be escaped is below the last of these.
        for code in *first..=(*last).min('\\' as u32) {
            if let Some(text) = char::from_u32(code).and_then(spelling) {
                escaped.push(Language::Literal(text));
                push_range(&mut plain, start, code.checked_sub(1));
                start = code + 1;
            }
        }
        push_range(&mut plain, start, Some(*last));
    }
    if !plain.is_empty() {
        escaped.push(Language::Regex(format!("[{plain}]")));
    }
    Language::Or(escaped)
}

fn push_range(class: &mut String, first: u32, last: Option<u32>) {
    // Surrogates are no characters.
    for (low, high) in [(0, 0xd7ff), (0xe000, 0x10_ffff)] {
        let (first, last) = (first.max(low), last.map(|last| last.min(high)));
        if let Some(last) = last.filter(|last| *last >= first) {
            class.push_str(&format!("\\x{{{first:x}}}-\\x{{{last:x}}}"));
        }
    }
}

/// One character.
pub fn any_character() -> Language {
    class(&[(0, 0x10_ffff)])
}

/// Every string.
pub fn any() -> Language {
    length(0, None)
}

/// The strings of some number of characters (code points).
pub fn length(min: u32, max: Option<u32>) -> Language {
    Language::Repeat(Box::new(any_character()), min, max.unwrap_or(u32::MAX))
}

/// One string.
pub fn literal(text: &str) -> Language {
    Language::Literal(super::json::quoted(text))
}

/// The strings that are in all of some sets; every string if there is no set.
pub fn all_of(mut sets: Vec<Language>) -> Language {
    match sets.len() {
        0 => any(),
        1 => sets.remove(0),
        _ => Language::And(sets),
    }
}

/// The strings that are not in a set.
pub fn not(set: Language) -> Language {
    Language::And(vec![any(), Language::Not(Box::new(set))])
}

/// Whether a set is empty; None if that takes too long to find out.
pub fn is_empty(set: &Language) -> Option<bool> {
    Some(compiled(set)?.always_empty())
}

/// Whether a string is in a set; None if that takes too long to find out.
pub fn contains(set: &Language, text: &str) -> Option<bool> {
    Some(compiled(set)?.is_match(&super::json::quoted(text)))
}

fn compiled(set: &Language) -> Option<llguidance::derivre::Regex> {
    /// Steps of llguidance's own measure, some milliseconds.
    const EFFORT: u64 = 1_000_000;
    let mut builder = llguidance::derivre::RegexBuilder::new();
    let made = builder.mk(set).ok()?;
    builder.into_regex_limited(made, EFFORT).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_exact_at_their_edges() {
        let no_quote = class(&[(0, 0x21), (0x23, 0x10_ffff)]);
        for (text, inside) in
            [("a", true), ("\\", true), ("\n", true), ("\u{1f}", true), ("\"", false), ("😀", true), ("ab", false)]
        {
            assert_eq!(contains(&no_quote, text), Some(inside), "{text:?}");
        }
        assert_eq!(contains(&class(&[(0x5c, 0x5d)]), "\\"), Some(true));
        assert_eq!(contains(&class(&[(0x5b, 0x5b), (0x5d, 0x5d)]), "\\"), Some(false));
        assert_eq!(is_empty(&class(&[(0xd800, 0xdfff)])), Some(true));
        assert_eq!(contains(&length(2, Some(3)), "😀\"\n"), Some(true));
        assert_eq!(contains(&length(2, Some(3)), "😀\"\n\u{7f}"), Some(false));
        assert_eq!(contains(&not(literal("a\"b")), "a\"b"), Some(false));
        assert_eq!(contains(&not(literal("a\"b")), "a"), Some(true));
        assert_eq!(is_empty(&all_of(vec![not(literal("a")), literal("a")])), Some(true));
    }
}
