//! Decodes ids to text, and converts between pieces and the way a vocabulary writes them.

use super::{CompiledVocabulary, Family, KEEP_SPACE, LITERAL};
use std::borrow::Cow;

const REPLACEMENT: &str = "\u{FFFD}";

impl CompiledVocabulary<'_> {
    /// The entry of an id as the vocabulary writes it ("▁there", "Ġthere", "<0xE6>").
    pub fn piece(&self, id: u32) -> Option<String> {
        let bytes = self.bytes_of(id)?;
        match self.family {
            Family::ByteLevel if self.flags_of(id) & LITERAL == 0 => Some(bytes.iter().map(|&b| char_of(b)).collect()),
            _ => Some(String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    /// The text of ids: U+FFFD replaces bytes that are not UTF-8, and an id without an entry has no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let shown =
            ids.iter().filter(|&&id| !(skip_special && self.is_special(id))).filter_map(|&id| self.bytes_of(id));
        match self.family {
            Family::ByteLevel => {
                let bytes: Vec<u8> = shown.flatten().copied().collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Family::Text => {
                let text = join_text_pieces(shown.map(String::from_utf8_lossy));
                match text.strip_prefix(' ') {
                    Some(rest) if self.options & KEEP_SPACE == 0 => rest.to_string(),
                    _ => text,
                }
            }
        }
    }
}

/// Joins pieces to text: `▁` is a space; bytes in a row are characters or else one U+FFFD each.
fn join_text_pieces<'a>(pieces: impl Iterator<Item = Cow<'a, str>>) -> String {
    let (mut text, mut run) = (String::new(), Vec::new());
    let flush = |run: &mut Vec<u8>, text: &mut String| {
        match std::str::from_utf8(run) {
            Ok(good) => *text += good,
            Err(_) => *text += &REPLACEMENT.repeat(run.len()),
        }
        run.clear();
    };
    for piece in pieces {
        let piece = piece.replace('▁', " ");
        match fallback_byte(&piece) {
            Some(byte) => run.push(byte),
            None => {
                flush(&mut run, &mut text);
                text += &piece;
            }
        }
    }
    flush(&mut run, &mut text);
    text
}

/// GPT-2's table: 188 printable bytes stand for themselves, the other 68, in order, are U+0100 to U+0143.
pub fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(), // 0x00 ..= 0x20
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(), // 0x7f ..= 0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The character that stands for a byte in GPT-2's table: the inverse of [`byte_of`].
pub fn char_of(byte: u8) -> char {
    let code = match byte {
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte) - 0x7f,
        0xad => 0x143,
        _ => u32::from(byte),
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte of a piece like `<0xE6>`, by the same test as the byte-fallback decoder's.
pub fn fallback_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}
