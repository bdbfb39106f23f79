//! Foreign texts: names, licences and messages that the maker of a file chose.
//!
//! They must not steer the terminal that shows them, look like lines of the program that prints them, or bury what it says.
//!
//! ```
//! use nanoserve_format::{Foreign, json_text, on_screen};
//!
//! let name = "model\u{1b}[2J\nerror: all is lost\u{202e}";
//! assert_eq!(Foreign(name).to_string(), r"model\u{1b}[2J\nerror: all is lost\u{202e}");
//! assert_eq!(on_screen("a\r\n\tb\u{1b}[2J"), "a\n\tb\\u{1b}[2J");
//! assert_eq!(json_text("\"\u{202e}\"".into()), r#""\u202e""#);
//! ```

use std::borrow::Cow;
use std::fmt::{self, Write};

/// The most characters of a foreign text in a message.
const MOST: usize = 1600;
/// How many of its first and of its last characters a longer text keeps.
const KEPT: (usize, usize) = (1000, 500);

/// A text of somebody else's as a message shows it: on one line, every character visible, and not longer than a message
/// should be. A longer text loses its middle, so that what a sentence ends with is still read.
#[derive(Clone, Copy, Debug)]
pub struct Foreign<'t>(pub &'t str);

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Foreign(text) = *self;
        let place = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
        if place(MOST) == text.len() {
            return visible(f, text);
        }
        let first = place(KEPT.0);
        let last = text.char_indices().rev().nth(KEPT.1 - 1).map_or(first, |(at, _)| at);
        visible(f, &text[..first])?;
        write!(f, " [{} bytes left out] ", last - first)?;
        visible(f, &text[last..])
    }
}

fn visible(f: &mut fmt::Formatter, text: &str) -> fmt::Result {
    text.chars().try_for_each(|c| match c {
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        c if steers(c) || is_hidden(c) => write!(f, "{}", c.escape_unicode()),
        c => f.write_char(c),
    })
}

/// Whether a character steers a terminal or the order of what it shows: control characters, line separators and the marks
/// that turn text around.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
}

/// Whether a character shows nothing, though texts of some languages need it.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2065}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// A text of several lines as a terminal may get it: line ends and tabs stay, carriage returns go, and every other character
/// that steers is shown by its number. What texts of other languages need, such as joiners, stays.
pub fn on_screen(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| steers(c) && c != '\n' && c != '\t') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\r' => {}
            c if steers(c) && c != '\n' && c != '\t' => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.into()
}

/// The text of a JSON value with the same value and none of the characters that steer: JSON itself escapes only those below
/// U+0020, and the others can stand nowhere but inside its strings.
pub fn json_text(json: String) -> String {
    let escaped = |c: char| steers(c) && !matches!(c, '\n' | '\r' | '\t');
    if !json.chars().any(escaped) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match c {
            c if escaped(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(out, "\\u{unit:04x}"));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_is_one_visible_line() {
        for c in (0..=0x10ffff).filter_map(char::from_u32).filter(|&c| steers(c)) {
            let shown = Foreign(&format!("a{c}b")).to_string();
            assert!(!shown.chars().any(steers) && shown.starts_with("a\\") && shown.ends_with('b'), "{shown:?}");
            let lines = on_screen(&format!("a{c}b")).into_owned();
            assert!(!lines.chars().any(|c| steers(c) && c != '\n' && c != '\t'), "{lines:?}");
            let json = serde_json::to_string(&format!("a{c}b")).unwrap();
            let safe = json_text(json.clone());
            assert!(!safe.chars().any(steers), "{safe:?}");
            assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), format!("a{c}b"));
        }
        let plain = "org/name-1.5: it's \"a\" \\ b, Ünïcode, 日本語, é, ع";
        assert_eq!(Foreign(plain).to_string(), plain);
        assert_eq!(on_screen("👩\u{200d}🚀\n\t x"), "👩\u{200d}🚀\n\t x");
        assert_eq!(Foreign("a\u{200b}b\u{feff}").to_string(), r"a\u{200b}b\u{feff}");
    }

    #[test]
    fn a_long_text_keeps_its_ends() {
        let long = format!("first {} last", "ä\u{1b}".repeat(400_000));
        let shown = Foreign(&long).to_string();
        assert!(shown.starts_with("first ä") && shown.ends_with(" last"), "{shown}");
        // Every character takes up to ten when it is shown by its number.
        assert!(shown.len() < 10 * MOST, "{}", shown.len());
        assert!(shown.contains(&format!(" [{} bytes left out] ", long.len() - 1497 - 747)), "{shown}");
        for length in [MOST - 1, MOST] {
            let text = "x".repeat(length);
            assert_eq!(Foreign(&text).to_string(), text);
        }
        assert!(Foreign(&"x".repeat(MOST + 1)).to_string().contains(" [101 bytes left out] "));
    }
}
