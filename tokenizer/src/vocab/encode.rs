//! Text to ids.
//!
//! ```text
//! added tokens        the longest at each place, from left to right
//! between them        normalized, then added tokens that are looked for in normalized text
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

/// What is made of a section once, for the first text: the splitting expression, compiled, and the bytes that added
/// tokens begin with.
#[derive(Debug)]
pub struct Splitter {
    regex: Option<Regex>,
    starts: [[bool; 256]; 2],
}

impl Splitter {
    /// Makes it.
    ///
    /// # Errors
    /// When the expression is none, or of a form that is not used: see [`check_expression`].
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

/// One run through a text.
struct Run<'r, 'a> {
    vocabulary: &'r CompiledVocabulary<'a>,
    splitter: &'r Splitter,
    scratch: Scratch,
    symbols: Vec<u32>,
    out: Vec<u32>,
}

impl CompiledVocabulary<'_> {
    /// The ids of a text, and nothing in front of it.
    ///
    /// # Errors
    /// When the expression needs too many steps, or too long, to split the text.
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
    /// In the order of texts, everything between a beginning of `text` and `text` itself begins with that beginning. So
    /// what stands last before `text` either is a beginning of it, and the longest, or shares with it all that there
    /// can be.
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
    /// The added tokens of a set, and the texts between them, in order.
    fn around_added(&mut self, set: usize, text: &str, between: fn(&mut Self, &str) -> Result<()>) -> Result<()> {
        // Where to look next, and up to where all is encoded: a token may take the spaces around it.
        let (mut from, mut done) = (0, 0);
        // Up to where the spaces go that were looked at last: none is looked at twice.
        let mut blank = 0;
        let starts = &self.splitter.starts[set];
        while let Some((start, end, [_, _, id, sides])) = self.vocabulary.next_added(set, starts, text, from) {
            let begin = match text.get(done..start) {
                Some(open) if sides & LEFT != 0 => done + open.trim_end().len(),
                _ => start,
            };
            if done < begin {
                between(self, &text[done..begin])?;
            }
            self.out.push(id);
            from = end;
            if sides & RIGHT != 0 && blank < end {
                blank = text.len() - text[end..].trim_start().len();
            }
            done = if sides & RIGHT != 0 { blank } else { end };
        }
        between(self, &text[done..])
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

    /// Each match of the expression, and what lies between matches.
    fn split(&mut self, regex: &Regex, text: &str) -> Result<()> {
        let mut matches = Matches::new(regex, text);
        // Where to look next, where the match before ended, and up to where all is encoded.
        let (mut from, mut last, mut done) = (0, None, 0);
        while from <= text.len() {
            let Some((start, end)) = matches.next(from)? else { break };
            // A match of nothing right behind a match is none.
            if last == Some(end) {
                from += text.get(from..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
                continue;
            }
            (from, last) = (end, Some(end));
            for range in [done..start, start..end] {
                if let Some(split) = text.as_bytes().get(range).filter(|split| !split.is_empty()) {
                    self.bytes(split);
                }
            }
            done = end;
        }
        self.bytes(text.as_bytes().get(done..).unwrap_or_default());
        Ok(())
    }

    /// A split, byte by byte.
    fn bytes(&mut self, split: &[u8]) {
        let v = self.vocabulary;
        if let &[byte] = split {
            // The piece of one byte is the piece of that byte.
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

    /// A text, character by character, `▁` for spaces and one in front.
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
