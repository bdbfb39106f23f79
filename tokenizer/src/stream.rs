//! Decodes ids to text, one at a time.
//!
//! The text of a token depends on its neighbours: a character can be spread over tokens, and decoders of the
//! SentencePiece kind drop the space at the very beginning of a text, so that " there" decoded alone is "there". The
//! obvious ways fail: decoding each id alone loses that space and breaks characters; decoding everything again for each
//! token gets slower with each token. [`TextStream`] decodes a token together with the one before it, which is context
//! enough, and collects the bytes of unfinished characters itself.
//!
//! ```no_run
//! use nanoserve_tokenizer::{TextStream, Tokenizer};
//!
//! let json = std::fs::read("tokenizer.json")?;
//! let tokenizer = Tokenizer::from_json(&json, Some(1), None)?;
//! let prompt = tokenizer.encode("Once upon", true)?;
//! let mut stream = TextStream::after(&tokenizer, &prompt, true)?;
//! for id in [263, 931] {
//!     print!("{}", stream.push(id)?); // " a", " time"
//! }
//! print!("{}", stream.finish());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The trap: a stream that continues a prompt must be given the prompt's ids ([`TextStream::after`]), or it takes the
//! first new token for the beginning of a text and drops its space.

use crate::error::Result;
use crate::pieces::{Pieces, common_prefix, push_piece_bytes};
use crate::tokenizer::Tokenizer;
use crate::vocab::fallback_byte;

/// Number of shown tokens at the end of a prompt that a stream looks at: more than a character has bytes.
const LOOK_BACK: usize = 16;

/// Number of tokens without any text that a stream keeps as context.
const MAX_CONTEXT: usize = 8;

/// Ids in, whole characters out, at a cost per token that does not grow.
///
/// All text returned, that of [`Self::finish`] included, is [`Tokenizer::decode`] of all ids, with one exception. If
/// byte-fallback tokens (`<0xE6>`) in a row are not UTF-8 as a whole, the decoder turns *every* byte of the row into
/// U+FFFD, even whole characters, however far back. A stream has returned those already: it returns U+FFFD for the bad
/// bytes only.
///
/// ```text
/// a byte of a character   collect it; return the characters that are whole
/// any other token t       return decode(context t) minus decode(context), where context is the token before t
/// ```
///
/// ```
/// use nanoserve_tokenizer::{TextStream, Tokenizer};
///
/// fn print(tokenizer: &Tokenizer, prompt: &[u32], answer: &[u32]) -> Result<(), nanoserve_tokenizer::TokenizerError> {
///     let mut stream = TextStream::after(tokenizer, prompt, true)?;
///     for &id in answer {
///         print!("{}", stream.push(id)?);
///     }
///     println!("{}", stream.finish());
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// The tokens of the latest text returned; empty only at the beginning of a text.
    context: Vec<u32>,
    /// The beginning of an unfinished character: at most three bytes.
    bytes: Vec<u8>,
    /// The byte-fallback tokens since text was last returned.
    run: Vec<u32>,
}

impl TextStream {
    /// A stream at the beginning of a text.
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer: tokenizer.clone(), skip_special, context: Vec::new(), bytes: Vec::new(), run: Vec::new() }
    }

    /// A stream that continues `prompt`: the text it returns follows the prompt's text. A character that the prompt
    /// begins and does not finish is returned once it is whole.
    pub fn after(tokenizer: &Tokenizer, prompt: &[u32], skip_special: bool) -> Result<Self> {
        let shown = |&i: &usize| tokenizer.shown(prompt[i], skip_special).is_some();
        let start = (0..prompt.len()).rev().filter(shown).take(LOOK_BACK).last().unwrap_or(prompt.len());
        let mut stream = Self::new(tokenizer, skip_special);
        for &id in &prompt[start..] {
            stream.push(id)?;
        }
        Ok(stream)
    }

    /// Takes the next id and returns the text that is certain now: whole characters, often none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(piece) = self.tokenizer.shown(id, self.skip_special) else {
            return Ok(String::new());
        };
        match self.tokenizer.pieces() {
            Pieces::ByteLevel => {
                push_piece_bytes(&piece, &mut self.bytes);
                Ok(take_whole(&mut self.bytes, Replace::Sequence))
            }
            Pieces::Text { byte_fallback } => match fallback_byte(&piece).filter(|_| byte_fallback) {
                Some(byte) => self.push_byte(id, byte),
                None => self.push_text(id),
            },
        }
    }

    /// Ends the text: returns U+FFFD for the rest of an unfinished character, as many as `decode` does.
    pub fn finish(&mut self) -> String {
        self.run.clear();
        let left = std::mem::take(&mut self.bytes);
        match self.tokenizer.pieces() {
            Pieces::ByteLevel => String::from_utf8_lossy(&left).into_owned(),
            Pieces::Text { .. } => REPLACEMENT.repeat(left.len()),
        }
    }

    fn push_byte(&mut self, id: u32, byte: u8) -> Result<String> {
        self.run.push(id);
        self.bytes.push(byte);
        let mut text = take_whole(&mut self.bytes, Replace::Byte);
        if text.is_empty() {
            return Ok(text);
        }
        let run = std::mem::take(&mut self.run);
        if self.context.is_empty() && self.bytes.is_empty() {
            text = self.tokenizer.decode(&run, self.skip_special)?; // a space that begins a text may be dropped
        }
        self.context = run;
        Ok(text)
    }

    fn push_text(&mut self, id: u32) -> Result<String> {
        let mut text = String::new();
        if !self.bytes.is_empty() {
            // Where text was returned for bytes before the unfinished ones, all of them are the context already.
            if !self.run.is_empty() {
                self.context = std::mem::take(&mut self.run);
            }
            text = self.finish();
        }
        let before = self.tokenizer.decode(&self.context, self.skip_special)?;
        self.context.push(id);
        let both = self.tokenizer.decode(&self.context, self.skip_special)?;
        let new = &both[common_prefix(&before, &both)..];
        if !new.is_empty() {
            text += new;
            self.context = vec![id];
        } else if self.context.len() > MAX_CONTEXT {
            self.context.remove(0);
        }
        Ok(text)
    }
}

const REPLACEMENT: &str = "\u{FFFD}";

/// How many U+FFFD a broken sequence of bytes becomes.
#[derive(Clone, Copy, PartialEq)]
enum Replace {
    /// One for each byte, as the byte-fallback decoder does.
    Byte,
    /// One for each longest beginning of a character, as `String::from_utf8_lossy` does.
    Sequence,
}

/// Takes everything from `bytes` except an unfinished character at the end, which more bytes could complete.
fn take_whole(bytes: &mut Vec<u8>, replace: Replace) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    loop {
        let bad = match std::str::from_utf8(rest) {
            Ok(good) => {
                text += good;
                rest = &[];
                break;
            }
            Err(bad) => bad,
        };
        let (good, after) = rest.split_at(bad.valid_up_to());
        text += &String::from_utf8_lossy(good); // valid up to here: nothing is replaced
        rest = after;
        let Some(length) = bad.error_len() else { break };
        text += &REPLACEMENT.repeat(if replace == Replace::Byte { length } else { 1 });
        rest = &rest[length..];
    }
    let taken = bytes.len() - rest.len();
    bytes.drain(..taken);
    text
}

#[cfg(all(test, feature = "json"))]
mod tests;
