//! JSON as Python writes and reads it, which is more than JSON.
//!
//! `json.dump` writes `NaN`, `Infinity` and `-Infinity`, and halves of surrogate pairs; `json.load` reads them, and any
//! number beyond the largest f64 as infinity. transformers loads files that hold them in fields which no text model
//! reads. Here such a number becomes a text: a field that is read then has the wrong type, and is refused by name.

use serde::de::DeserializeOwned;
use std::borrow::Cow;

/// Parses JSON, or what Python takes for it.
///
/// # Errors
/// What is wrong, with its place.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let strict = match serde_json::from_slice(bytes) {
        Ok(parsed) => return Ok(parsed),
        Err(e) => e,
    };
    match plain(bytes) {
        Cow::Borrowed(_) => Err(strict),
        Cow::Owned(plain) => serde_json::from_slice(&plain),
    }
}

/// The same as plain JSON; borrowed where nothing had to be changed. Lines stay lines.
fn plain(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let (mut at, mut kept) = (0, 0);
    while at < bytes.len() {
        let (len, new) = match bytes[at] {
            b'"' => text(&bytes[at..]),
            b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => word(&bytes[at..]),
            _ => (1, None),
        };
        // A name of a field must be a text, here and there.
        let is_name = || bytes[at + len..].trim_ascii_start().starts_with(b":");
        if let Some(new) = new.filter(|_| bytes[at] == b'"' || !is_name()) {
            out.extend_from_slice(&bytes[kept..at]);
            out.extend(new);
            kept = at + len;
        }
        at += len;
    }
    if kept == 0 {
        return Cow::Borrowed(bytes);
    }
    out.extend_from_slice(&bytes[kept..]);
    Cow::Owned(out)
}

/// The length of the number or word that `bytes` begin with, and the text that it becomes if it is no finite number.
fn word(bytes: &[u8]) -> (usize, Option<Vec<u8>>) {
    let part = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
    let len = bytes.iter().take_while(|b| part(b)).count();
    let word = &bytes[..len];
    let number = word.strip_prefix(b"-").unwrap_or(word);
    let huge = || {
        let digits = number.first().is_some_and(u8::is_ascii_digit).then(|| std::str::from_utf8(word).ok()).flatten();
        digits.and_then(|digits| digits.parse::<f64>().ok()).is_some_and(f64::is_infinite)
    };
    let shown = match word {
        b"NaN" | b"Infinity" | b"-Infinity" => word,
        [b'-', ..] if huge() => b"-Infinity",
        _ if huge() => b"Infinity",
        _ => return (len, None),
    };
    (len, Some([b"\"", shown, b"\""].concat()))
}

/// The length of the text that `bytes` begin with, and the text with U+FFFD for each half of a surrogate pair alone, if
/// there is one.
fn text(bytes: &[u8]) -> (usize, Option<Vec<u8>>) {
    let unit = |at: usize| -> Option<u16> {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut out: Option<Vec<u8>> = None;
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        let len = match (byte, unit(at), unit(at + 6)) {
            (b'"', ..) => return (at + 1, out.map(|out| [&out[..], b"\""].concat())),
            (_, Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (_, Some(0xd800..=0xdfff), _) => {
                out.get_or_insert_with(|| bytes[..at].to_vec()).extend_from_slice(b"\\ufffd");
                at += 6;
                continue;
            }
            (b'\\', ..) => 2,
            _ => 1,
        };
        let end = bytes.len().min(at + len);
        if let Some(out) = &mut out {
            out.extend_from_slice(&bytes[at..end]);
        }
        at = end;
    }
    (bytes.len(), out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_python_reads_is_read() {
        for (text, expected) in [
            (r#"{"a": NaN}"#, json!({"a": "NaN"})),
            (r#"[0.0, Infinity,-Infinity]"#, json!([0.0, "Infinity", "-Infinity"])),
            (r#"{"NaN": [1e999, -1e400, 1e300]}"#, json!({"NaN": ["Infinity", "-Infinity", 1e300]})),
            (r#"{"a": "say \"NaN\", Infinity", "b": NaN}"#, json!({"a": "say \"NaN\", Infinity", "b": "NaN"})),
            (r#"{"a": "\\", "b": NaN}"#, json!({"a": "\\", "b": "NaN"})),
            (r#"["\ud83d\ude00 \ud800x\udc00", "é", NaN]"#, json!(["😀 \u{fffd}x\u{fffd}", "é", "NaN"])),
            (r#"["\\ud800\ud800\ud83d\ude00"]"#, json!(["\\ud800\u{fffd}😀"])),
            (r#"{"a": [true, false, null, -1, 2.5e3]}"#, json!({"a": [true, false, null, -1, 2.5e3]})),
        ] {
            assert_eq!(from_slice::<Value>(text.as_bytes()).unwrap(), expected, "{text}");
        }
        let digits = "9".repeat(400);
        assert_eq!(from_slice::<Value>(digits.as_bytes()).unwrap(), json!("Infinity"));
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in [
            "",
            "{",
            "nan",
            "inf",
            "+Infinity",
            "--Infinity",
            "infinity",
            "NaN1",
            "{NaN: 1}",
            "[1,]",
            "01",
            "\"\\ud8\"",
            "\"NaN",
            "\"\\ud800",
            "\"\\",
            "[NaN",
            "{Infinity : 1, \"a\": NaN}",
            "{\"a\": undefined, \"b\": NaN}",
            "\u{feff}{}",
            "1e999e",
            "0x10",
        ] {
            assert!(from_slice::<Value>(text.as_bytes()).is_err(), "{text}");
        }
        // The place is that of the file, where nothing was changed, and the right line always.
        let place = |text: &str| {
            let error = from_slice::<Value>(text.as_bytes()).unwrap_err();
            (error.line(), error.column())
        };
        assert_eq!(place("{\"a\":\n  nan}"), (2, 4));
        assert_eq!(place("{\"a\": NaN,\n \"b\": nan}").0, 2);
    }
}
