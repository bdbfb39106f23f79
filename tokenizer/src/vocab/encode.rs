//! Encodes text to ids.
//!
//! ```text
//! added tokens        the longest at each place, from left to right
//! between them        normalized, then added tokens that are searched for in normalized text
//! between those       split by each expression in turn: each match, and what lies between matches
//! each split          its bytes or characters, merged
//! ```

use super::merge::Scratch;
use super::split::{Expression, Matches};
use super::{Budget, CompiledVocabulary, Family, LEFT, MAX_ADDED, NONE, Prefix, RIGHT, VocabularyError, WORD};
use super::{IGNORE_MERGES, NFC, SPACE_IN_FRONT, SPLIT_SPACES};
use std::borrow::Cow;
use unicode_normalization_alignments::UnicodeNormalization;

type Result<T> = std::result::Result<T, VocabularyError>;

/// Built from a section once, for the first text: the compiled splitting expressions, and the bytes that added tokens
/// begin with.
#[derive(Debug)]
pub struct Splitter {
    expressions: Vec<Expression>,
    /// Finds a character that is part of a word; only where an added token counts as a whole word alone.
    word: Option<Expression>,
    starts: [[bool; 256]; 2],
}

impl Splitter {
    /// Builds it.
    ///
    /// # Errors
    /// When an expression is invalid, or of a form that is refused: see [`check_expression`](super::check_expression).
    pub fn new(vocabulary: &CompiledVocabulary) -> Result<Self> {
        Self::with(vocabulary, &vocabulary.patterns()?)
    }

    /// Builds it with the section's expressions, which were read before.
    pub(crate) fn with(vocabulary: &CompiledVocabulary, patterns: &[String]) -> Result<Self> {
        let expressions = patterns.iter().map(|pattern| Expression::new(pattern)).collect::<Result<_>>()?;
        let (mut starts, mut words) = ([[false; 256]; 2], false);
        for (tokens, starts) in vocabulary.added.iter().zip(&mut starts) {
            for token in tokens.iter() {
                if let Some(&first) = vocabulary.added_text(token).first() {
                    starts[usize::from(first)] = true;
                }
                words |= token[3] & WORD != 0;
            }
        }
        Ok(Self { expressions, word: words.then(Expression::word).transpose()?, starts })
    }

    /// Whether no part of a word is beside this place of a text.
    fn stands_alone(&self, text: &str, start: usize, end: usize) -> bool {
        let Some(word) = &self.word else { return true };
        let before = text.get(..start).and_then(|before| before.chars().next_back());
        let after = text.get(end..).and_then(|after| after.chars().next());
        !before.into_iter().chain(after).any(|c| word.begins(c.encode_utf8(&mut [0; 4])))
    }
}

/// The steps, as the budget counts them, to merge one symbol.
const MERGE: usize = 64;

/// The encoding of one text.
struct Run<'r, 'a> {
    budget: &'r mut Budget,
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
        self.encode_within(splitter, text, &mut Budget::new(text.len()))
    }

    /// As [`Self::encode`], within a budget for several texts together.
    ///
    /// # Errors
    /// When the texts up to this one need more.
    pub fn encode_within(&self, splitter: &Splitter, text: &str, budget: &mut Budget) -> Result<Vec<u32>> {
        let (scratch, symbols, out) = (Scratch::default(), Vec::new(), Vec::with_capacity(text.len() / 3 + 1));
        let mut run = Run { budget, vocabulary: self, splitter, scratch, symbols, out };
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
        budget: &mut Budget,
    ) -> Result<Option<(usize, usize, [u32; 4])>> {
        let bytes = text.as_bytes();
        for at in from..bytes.len() {
            if starts[usize::from(bytes[at])]
                && let Some((len, token)) =
                    self.longest_added(set, &bytes[at..bytes.len().min(at + MAX_ADDED)], budget)?
                && text.is_char_boundary(at)
                && text.is_char_boundary(at + len)
            {
                return Ok(Some((at, at + len, token)));
            }
        }
        Ok(None)
    }

    /// Length and entry of the longest added token that `text` begins with.
    ///
    /// In sorted order, everything between a prefix of `text` and `text` itself starts with that prefix. So the last
    /// token up to `text` is either the longest prefix of it, or shares with it the longest part that any token can
    /// share, and the search goes on with that part.
    fn longest_added(&self, set: usize, mut text: &[u8], budget: &mut Budget) -> Result<Option<(usize, [u32; 4])>> {
        let tokens = self.added[set];
        let mut steps = 16;
        loop {
            // What the round before this one took, and the search of this one.
            budget.take(steps + tokens.len().checked_ilog2().unwrap_or(0) as usize)?;
            let after = tokens.partition_point(|token| self.added_text(token) <= text);
            let Some(token) = after.checked_sub(1).and_then(|last| tokens.get(last)) else { return Ok(None) };
            let content = self.added_text(token);
            let common = content.iter().zip(text).take_while(|(a, b)| a == b).count();
            if common == content.len() {
                return Ok((common > 0).then_some((common, *token)));
            }
            if common == 0 || common == text.len() {
                return Ok(None);
            }
            text = &text[..common];
            steps = 16 + common;
        }
    }
}

impl Run<'_, '_> {
    /// Encodes the added tokens of a set and, with `between`, the texts between them, in order. `first`: the text begins
    /// the whole one.
    fn around_added(
        &mut self,
        set: usize,
        text: &str,
        first: bool,
        between: fn(&mut Self, &str, bool) -> Result<()>,
    ) -> Result<()> {
        // Where to search next, and the end of the encoded text: they differ where a token includes spaces around it.
        let (mut from, mut encoded) = (0, 0);
        // The end of the spaces that were scanned last, so that none is scanned twice.
        let mut spaces_end = 0;
        let starts = &self.splitter.starts[set];
        while let Some((start, end, [_, _, id, sides])) =
            self.vocabulary.next_added(set, starts, text, from, self.budget)?
        {
            from = end;
            if sides & WORD != 0 && !self.splitter.stands_alone(text, start, end) {
                continue;
            }
            let begin = match text.get(encoded..start) {
                Some(open) if sides & LEFT != 0 => encoded + open.trim_end().len(),
                _ => start,
            };
            if encoded < begin {
                between(self, &text[encoded..begin], first && encoded == 0)?;
            }
            self.out.push(id);
            if sides & RIGHT != 0 && spaces_end < end {
                spaces_end = text.len() - text[end..].trim_start().len();
            }
            encoded = if sides & RIGHT != 0 { spaces_end } else { end };
        }
        between(self, &text[encoded..], first && encoded == 0)
    }

    fn plain(&mut self, text: &str) -> Result<()> {
        self.around_added(0, text, true, Self::normalize)
    }

    fn normalize(&mut self, text: &str, first: bool) -> Result<()> {
        let v = self.vocabulary;
        if text.is_empty() {
            return Ok(());
        }
        let normal: Cow<str> = match (v.family, v.prefix()) {
            (Family::Text, Prefix::Always) => ["▁", &text.replace(' ', "▁")].concat().into(),
            (Family::Text, Prefix::Never) => text.replace(' ', "▁").into(),
            (Family::ByteLevel, _) if v.options & NFC != 0 && !text.is_ascii() => {
                text.nfc().map(|(c, _)| c).collect::<String>().into()
            }
            _ => text.into(),
        };
        self.around_added(1, &normal, first, Self::between)
    }

    fn between(&mut self, text: &str, first: bool) -> Result<()> {
        let v = self.vocabulary;
        if text.is_empty() {
            return Ok(());
        }
        match v.family {
            Family::ByteLevel if v.options & SPACE_IN_FRONT != 0 && !text.starts_with(' ') => {
                self.split(0, &[" ", text].concat())
            }
            Family::ByteLevel => self.split(0, text),
            Family::Text => {
                let marked = match v.prefix() {
                    Prefix::Always | Prefix::Never => Cow::from(text),
                    prefix => {
                        let text = text.replace(' ', "▁");
                        let missing = !text.starts_with('▁') && (first || prefix == Prefix::Missing);
                        if missing { ["▁", &text].concat().into() } else { text.into() }
                    }
                };
                let mut rest = &*marked;
                while v.options & SPLIT_SPACES != 0
                    && let Some((at, _)) = rest.char_indices().skip(1).find(|(_, c)| *c == '▁')
                {
                    self.characters(&rest[..at])?;
                    rest = &rest[at..];
                }
                self.characters(rest)
            }
        }
    }

    /// Splits a text by the expressions from one on: each match, and the text between matches, is split by the next.
    fn split(&mut self, at: usize, text: &str) -> Result<()> {
        let splitter = self.splitter;
        let Some(expression) = splitter.expressions.get(at) else {
            return self.bytes(text.as_bytes());
        };
        let mut matches = Matches::new(expression, text);
        // Where to search next, the end of the last match, and the end of the encoded text.
        let (mut from, mut last, mut encoded) = (0, None, 0);
        while from <= text.len() {
            let Some((start, end)) = matches.next(from, self.budget)? else { break };
            // An empty match right after a match does not count.
            if last == Some(end) {
                from += text.get(from..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
                continue;
            }
            (from, last) = (end, Some(end));
            for range in [encoded..start, start..end] {
                if let Some(split) = text.get(range).filter(|split| !split.is_empty()) {
                    self.split(at + 1, split)?;
                }
            }
            encoded = end;
        }
        match text.get(encoded..) {
            Some(rest) if !rest.is_empty() => self.split(at + 1, rest),
            _ => Ok(()),
        }
    }

    /// Encodes a split, starting from its bytes.
    fn bytes(&mut self, split: &[u8]) -> Result<()> {
        let v = self.vocabulary;
        self.budget.take(MERGE.saturating_mul(split.len()))?;
        if let &[byte] = split {
            // A split of one byte is that byte's piece.
            self.out.extend(v.byte_ids.get(usize::from(byte)).filter(|&&id| id != NONE));
            return Ok(());
        }
        if v.options & IGNORE_MERGES != 0
            && let Some(id) = v.id_of(split)
        {
            self.out.push(id);
            return Ok(());
        }
        self.symbols.clear();
        self.symbols.extend(split.iter().map(|&byte| v.byte_ids[usize::from(byte)]).filter(|&id| id != NONE));
        v.merge(&mut self.symbols, &mut self.scratch, &mut self.out);
        Ok(())
    }

    /// Encodes a text whose spaces are `▁`, starting from its characters.
    fn characters(&mut self, text: &str) -> Result<()> {
        let v = self.vocabulary;
        self.budget.take(MERGE.saturating_mul(text.len()))?;
        if v.options & IGNORE_MERGES != 0
            && let Some(id) = v.id_of(text.as_bytes())
        {
            self.out.push(id);
            return Ok(());
        }
        self.symbols.clear();
        for c in text.chars() {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            match v.id_of(bytes) {
                Some(id) => self.symbols.push(id),
                None => self.symbols.extend(bytes.iter().map(|&byte| v.byte_ids[usize::from(byte)])),
            }
        }
        v.merge(&mut self.symbols, &mut self.scratch, &mut self.out);
        Ok(())
    }
}
