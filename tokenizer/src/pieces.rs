//! How the pieces of a vocabulary become the bytes of a text.

use crate::vocab::byte_of;

/// How the decoder turns vocabulary pieces into bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pieces {
    /// As GPT-2: each character of a piece stands for one byte, and the text is all bytes in a row.
    ByteLevel,
    /// A piece is text, except for marks for spaces. With `byte_fallback`, pieces like `<0xE6>` are single bytes.
    Text { byte_fallback: bool },
}

/// Appends the bytes that a byte-level piece stands for; a piece with a character outside GPT-2's table, as added
/// tokens may have, is plain text.
pub(crate) fn push_piece_bytes(piece: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in piece.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(piece.as_bytes());
                return;
            }
        }
    }
}

/// Length in bytes of the common prefix of two texts, in whole characters.
pub(crate) fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum()
}
