//! Encodes text to ids.
//!
//! ```text
//! added tokens        the longest at each place, from left to right
//! between them        normalized, then added tokens that are searched for in normalized text
//! between those       split by the expression: each match, and what lies between matches
//! each split          its bytes or characters, merged
//! ```

use super::expression::check_expression;
use super::merge::Scratch;
use super::split::Matches;
use super::{CompiledVocabulary, Family, IGNORE_MERGES, LEFT, MAX_ADDED, NFC, NONE, RIGHT, VocabularyError};
use onig::Regex;
use unicode_normalization_alignments::UnicodeNormalization;

type Result<T> = std::result::Result<T, VocabularyError>;

/// Built from a section once, for the first text: the compiled splitting expression, and the bytes that added tokens
/// begin with.
#[derive(Debug)]
pub struct Splitter {
    regex: Option<Regex>,
    starts: [[bool; 256]; 2],
}

impl Splitter {
    /// Builds it.
    ///
    /// # Errors
    /// When the expression is invalid, or of a form that is refused: see [`check_expression`].
    pub fn new(vocabulary: &CompiledVocabulary) -> Result<Self> {
        let compile = |pattern: &str| {
            check_expression(pattern)?;
            Regex::new(pattern).map_err(|e| VocabularyError::Pattern { cause: e.to_string() })
        };
        let pattern = vocabulary.pattern;
        let regex = if pattern.is_empty() { None } else { Some(compile(pattern)?) };
        let mut starts = [[false; 256]; 2];
        for (tokens, starts) in vocabulary.added.iter().zip(&mut starts) {
            for token in tokens.iter() {
                if let Some(&first) = vocabulary.added_text(token).first() {
                    starts[usize::from(first)] = true;
                }
            }
        }
        Ok(Self { regex, starts })
    }
}

/// The encoding of one text.
struct Run<'r, 'a> {
    vocabulary: &'r CompiledVocabulary<'a>,
    splitter: &'r Splitter,
    scratch: Scratch,
    symbols: Vec<u32>,
    out: Vec<u32>,
}

impl CompiledVocabulary<'_> {
    /// The ids of a text, with nothing added in front.
    ///
    /// # Errors
    /// When the expression needs too many steps, or too much time, to split the text.
    pub fn encode(&self, splitter: &Splitter, text: &str) -> Result<Vec<u32>> {
        let (scratch, symbols) = (Scratch::default(), Vec::new());
        let mut run = Run { vocabulary: self, splitter, scratch, symbols, out: Vec::with_capacity(text.len() / 3 + 1) };
        run.plain(text)?;
        Ok(run.out)
    }

    /// The first added token of a set at or after `from`: where it begins and ends, and its entry.
    fn next_added(
        &self,
        set: usize,
        starts: &[bool; 256],
        text: &str,
        from: usize,
    ) -> Option<(usize, usize, [u32; 4])> {
        let bytes = text.as_bytes();
        for at in from..bytes.len() {
            if starts[usize::from(bytes[at])]
                && let Some((len, token)) = self.longest_added(set, &bytes[at..bytes.len().min(at + MAX_ADDED)])
                && text.is_char_boundary(at)
                && text.is_char_boundary(at + len)
            {
                return Some((at, at + len, token));
            }
        }
        None
    }

    /// Length and entry of the longest added token that `text` begins with.
    ///
    /// In sorted order, everything between a prefix of `text` and `text` itself starts with that prefix. So the last
    /// token up to `text` is either the longest prefix of it, or shares with it the longest part that any token can
    /// share, and the search goes on with that part.
    fn longest_added(&self, set: usize, mut text: &[u8]) -> Option<(usize, [u32; 4])> {
        let tokens = self.added[set];
        loop {
            let after = tokens.partition_point(|token| self.added_text(token) <= text);
            let token = tokens.get(after.checked_sub(1)?)?;
            let content = self.added_text(token);
            let common = content.iter().zip(text).take_while(|(a, b)| a == b).count();
            if common == content.len() {
                return (common > 0).then_some((common, *token));
            }
            if common == 0 || common == text.len() {
                return None;
            }
            text = &text[..common];
        }
    }
}

impl Run<'_, '_> {
    /// Encodes the added tokens of a set and, with `between`, the texts between them, in order.
    fn around_added(&mut self, set: usize, text: &str, between: fn(&mut Self, &str) -> Result<()>) -> Result<()> {
        // Where to search next, and the end of the encoded text: they differ where a token includes spaces around it.
        let (mut from, mut encoded) = (0, 0);
        // The end of the spaces that were scanned last, so that none is scanned twice.
        let mut spaces_end = 0;
        let starts = &self.splitter.starts[set];
        while let Some((start, end, [_, _, id, sides])) = self.vocabulary.next_added(set, starts, text, from) {
            let begin = match text.get(encoded..start) {
                Some(open) if sides & LEFT != 0 => encoded + open.trim_end().len(),
                _ => start,
            };
            if encoded < begin {
                between(self, &text[encoded..begin])?;
            }
            self.out.push(id);
            from = end;
            if sides & RIGHT != 0 && spaces_end < end {
                spaces_end = text.len() - text[end..].trim_start().len();
            }
            encoded = if sides & RIGHT != 0 { spaces_end } else { end };
        }
        between(self, &text[encoded..])
    }

    fn plain(&mut self, text: &str) -> Result<()> {
        self.around_added(0, text, Self::normalize)
    }

    fn normalize(&mut self, text: &str) -> Result<()> {
        if self.vocabulary.options & NFC == 0 || text.is_ascii() {
            return self.normalized(text);
        }
        let composed: String = text.nfc().map(|(c, _)| c).collect();
        self.normalized(&composed)
    }

    fn normalized(&mut self, text: &str) -> Result<()> {
        self.around_added(1, text, Self::between)
    }

    fn between(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        match (self.vocabulary.family, &self.splitter.regex) {
            (Family::Text, _) => self.characters(text),
            (Family::ByteLevel, None) => self.bytes(text.as_bytes()),
            (Family::ByteLevel, Some(regex)) => return self.split(regex, text),
        }
        Ok(())
    }

    /// Encodes each match of the expression, and the text between matches.
    fn split(&mut self, regex: &Regex, text: &str) -> Result<()> {
        let mut matches = Matches::new(regex, text);
        // Where to search next, the end of the last match, and the end of the encoded text.
        let (mut from, mut last, mut encoded) = (0, None, 0);
        while from <= text.len() {
            let Some((start, end)) = matches.next(from)? else { break };
            // An empty match right after a match does not count.
            if last == Some(end) {
                from += text.get(from..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
                continue;
            }
            (from, last) = (end, Some(end));
            for range in [encoded..start, start..end] {
                if let Some(split) = text.as_bytes().get(range).filter(|split| !split.is_empty()) {
                    self.bytes(split);
                }
            }
            encoded = end;
        }
        self.bytes(text.as_bytes().get(encoded..).unwrap_or_default());
        Ok(())
    }

    /// Encodes a split, starting from its bytes.
    fn bytes(&mut self, split: &[u8]) {
        let v = self.vocabulary;
        if let &[byte] = split {
            // A split of one byte is that byte's piece.
            self.out.extend(v.byte_ids.get(usize::from(byte)).filter(|&&id| id != NONE));
            return;
        }
        if v.options & IGNORE_MERGES != 0
            && let Some(id) = v.id_of(split)
        {
            self.out.push(id);
            return;
        }
        self.symbols.clear();
        self.symbols.extend(split.iter().map(|&byte| v.byte_ids[usize::from(byte)]).filter(|&id| id != NONE));
        v.merge(&mut self.symbols, &mut self.scratch, &mut self.out);
    }

    /// Encodes a text, starting from its characters, with `▁` for spaces and one more in front.
    fn characters(&mut self, text: &str) {
        let v = self.vocabulary;
        if v.options & IGNORE_MERGES != 0
            && let Some(id) = v.id_of(["▁", &text.replace(' ', "▁")].concat().as_bytes())
        {
            self.out.push(id);
            return;
        }
        self.symbols.clear();
        for c in std::iter::once('▁').chain(text.chars().map(|c| if c == ' ' { '▁' } else { c })) {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            match v.id_of(bytes) {
                Some(id) => self.symbols.push(id),
                None => self.symbols.extend(bytes.iter().map(|&byte| v.byte_ids[usize::from(byte)])),
            }
        }
        v.merge(&mut self.symbols, &mut self.scratch, &mut self.out);
    }
}
