//! `--escape`: characters that are hard to type, written with a backslash.

use anyhow::{Context, Result};

/// A text with its escapes read: `\n`, `\r`, `\t`, `\\`, `\'`, `\"`, and `\xHH` for a byte. A backslash before anything else
/// stays.
///
/// # Errors
/// When the bytes do not make UTF-8.
pub fn read(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (read, used) = match (byte, after) {
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [c @ (b'\\' | b'\'' | b'"'), ..]) => (*c, 2),
            (b'\\', [b'x', a, b, ..]) => match [a, b].map(|c| char::from(*c).to_digit(16)) {
                [Some(a), Some(b)] => ((16 * a + b) as u8, 4),
                _ => (b'\\', 1),
            },
            _ => (byte, 1),
        };
        out.push(read);
        rest = &rest[used..];
    }
    String::from_utf8(out).context("--escape: the bytes that \\x names are no UTF-8 text")
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn escapes_are_read_once() {
        for (text, expected) in [
            (r"a\nb\tc\r", "a\nb\tc\r"),
            (r#"\\n \' \""#, r#"\n ' ""#),
            (r"\x41\xe2\x82\xac", "A€"),
            (r"\q \x4 \xzz \", r"\q \x4 \xzz \"),
            ("é\\n", "é\n"),
        ] {
            assert_eq!(read(text).unwrap(), expected);
        }
        assert!(read(r"\xff").unwrap_err().to_string().contains("--escape"));
    }
}
