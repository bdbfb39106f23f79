//! The compiled tokenizer, read in place from the bytes of a [`SectionKind::Vocabulary`] section.
//!
//! A `tokenizer.json` of 17 MB takes half a second to parse. Nearly all of that goes into building hash tables, which
//! are the same on every start: here they are stored ready for use. [`CompiledVocabulary::open`] reads sixteen
//! numbers and splits the section into tables; nothing is copied, and an entry's bounds are checked when it is used. So
//! a damaged or hostile section gives wrong ids, but never a panic, an endless loop or a byte from outside the section.
//!
//! Two families of tokenizers can be compiled, see [`Family`]. [`Contents`] is what a section holds. The ids are those
//! of the `tokenizers` library because the steps are the same: the text is split by the same expressions, and merges happen
//! in the same order.
//!
//! ```
//! use nanoserve_tokenizer::vocab::{CompiledVocabulary, Contents, Family, Piece, Splitter, char_of};
//!
//! let mut contents = Contents::new(Family::ByteLevel);
//! contents.byte_ids = (0..256).collect();
//! contents.pieces = (0..=255u8).map(|b| Some(Piece { bytes: vec![b], ..Piece::default() })).collect();
//! contents.pieces.push(Some(Piece { bytes: b"he".to_vec(), ..Piece::default() }));
//! contents.merges = vec![[u32::from(b'h'), u32::from(b'e'), 0, 256]];
//!
//! let section = contents.to_bytes();
//! let vocabulary = CompiledVocabulary::open(&section)?;
//! let splitter = Splitter::new(&vocabulary)?;
//! assert_eq!(vocabulary.encode(&splitter, "hey")?, [256, u32::from(b'y')]);
//! assert_eq!(vocabulary.decode(&[256, u32::from(b'y')], false), "hey");
//! # Ok::<(), nanoserve_tokenizer::vocab::VocabularyError>(())
//! ```
//!
//! The trap: a [`Splitter`] belongs to one section; used with another, it gives wrong ids.
//!
//! [`SectionKind::Vocabulary`]: nanoserve_format::SectionKind::Vocabulary

mod budget;
mod contents;
mod decode;
mod encode;
mod error;
mod expression;
mod hash;
mod merge;
mod split;
#[cfg(feature = "json")]
mod steps;
#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use contents::{Added, Contents, Piece, Prefix};
pub use decode::{byte_of, char_of, fallback_byte};
pub use encode::Splitter;
pub use error::VocabularyError;
pub use expression::{PROPERTIES, check_exact, check_expression};
#[cfg(feature = "json")]
pub use steps::check_steps;

use bytemuck::Pod;
use hash::{hash_bytes, hash_pair, home};

/// The newest layout of the section that this crate reads. What the first layout can say is written in it, so that
/// older programs read it too; they take tokenizer.json where they find the second.
pub const VOCABULARY_VERSION: u32 = 2;

/// Numbers in the header, of four bytes each.
const HEAD: usize = 16;

/// No id: an empty slot of a table, or a byte without a piece.
const NONE: u32 = u32::MAX;

/// Number of slots, from its home slot on, in which an entry of a hash table may be.
const PROBES: usize = 128;

/// The most bytes of the splitting expression.
pub const MAX_PATTERN: usize = 4096;

/// The most bytes of a piece; a longer one counts as absent. So a few bytes of ids cannot ask for gigabytes of text.
pub const MAX_PIECE: usize = 4096;

/// The most bytes of an added token's text; a longer one is never found.
pub const MAX_ADDED: usize = 256;

/// Bits of the header's options.
const IGNORE_MERGES: u32 = 1;
const NFC: u32 = 2;
/// Two bits, the code of a [`Prefix`]; from here on of layout 2.
const PREFIX: u32 = 3 << PREFIX_AT;
const PREFIX_AT: u32 = 2;
const KEEP_SPACE: u32 = 16;
const SPLIT_SPACES: u32 = 32;
const SPACE_IN_FRONT: u32 = 64;

/// The options that a layout may have.
const fn options_of(version: u32) -> u32 {
    if version == 1 { IGNORE_MERGES | NFC } else { 2 * SPACE_IN_FRONT - 1 }
}

/// What separates the splitting expressions.
const BETWEEN: char = '\0';

/// The most splitting expressions.
const MAX_PATTERNS: usize = 16;

/// Bits of a piece's flags.
const PRESENT: u8 = 1;
const SPECIAL: u8 = 2;
const LITERAL: u8 = 4;

/// Bits of an added token: it includes the spaces on its left, or on its right, or counts only as a whole word.
const LEFT: u32 = 1;
const RIGHT: u32 = 2;
const WORD: u32 = 4;

/// How text becomes pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// GPT-2's: expressions split the text, each split is bytes, and bytes are merged.
    ByteLevel,
    /// Llama 2's and Gemma's: spaces become `▁`, one more may be put in front, and characters are merged, the whole text
    /// at once. A character without a piece becomes its bytes, which have pieces like `<0xE6>`.
    Text,
}

impl Family {
    /// Its number in the header.
    pub fn code(self) -> u32 {
        match self {
            Family::ByteLevel => 1,
            Family::Text => 2,
        }
    }
}

/// A section's tables, in place: what [`Contents::to_bytes`] wrote.
#[derive(Clone, Copy)]
pub struct CompiledVocabulary<'a> {
    family: Family,
    options: u32,
    token_count: u32,
    byte_ids: &'a [u32],
    /// Hash table of left id, right id, rank, new id.
    merges: &'a [[u32; 4]],
    /// Where each piece begins in `text`, and where the last ends.
    offsets: &'a [u32],
    /// Hash table of ids, by the bytes of their pieces.
    table: &'a [u32],
    /// For each added token: start and length in `added_text`, id, bits of its switches; sorted by text.
    /// First the tokens that are searched for before normalization, then those searched for after it.
    added: [&'a [[u32; 4]]; 2],
    lead: &'a [u32],
    flags: &'a [u8],
    /// Not yet a text: what was found to be one may change as long as it is in a mapped file.
    pattern: &'a [u8],
    added_text: &'a [u8],
    text: &'a [u8],
}

/// The part of a section that is not yet split into tables.
struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    fn take<T: Pod>(&mut self, part: &'static str, count: u32) -> Result<&'a [T], VocabularyError> {
        let expected = usize::try_from(count).ok().and_then(|n| n.checked_mul(size_of::<T>())).unwrap_or(usize::MAX);
        let short = VocabularyError::Length { part, got: self.0.len(), expected };
        let (bytes, rest) = self.0.split_at_checked(expected).ok_or(short)?;
        self.0 = rest;
        bytemuck::try_cast_slice(bytes).map_err(|_| VocabularyError::Alignment)
    }
}

impl<'a> CompiledVocabulary<'a> {
    /// Splits a section into its tables, in a time that does not depend on their size.
    ///
    /// # Errors
    /// When the section's numbers are out of range or do not match its length.
    pub fn open(bytes: &'a [u8]) -> Result<Self, VocabularyError> {
        let wrong = |field, got: u32, expected| Err(VocabularyError::Header { field, got: got.into(), expected });
        let mut cut = Cut(bytes);
        let head: &[u32] = cut.take("header", HEAD as u32)?;
        let &[version, family, options, ids, token_count, merges, table, plain, normal, lead, pattern, added, text, ..] =
            head
        else {
            return wrong("header", 0, "sixteen numbers");
        };
        if !(1..=VOCABULARY_VERSION).contains(&version) {
            return Err(VocabularyError::Version { got: version, known: VOCABULARY_VERSION });
        }
        let family = match family {
            1 => Family::ByteLevel,
            2 => Family::Text,
            _ => return wrong("family", family, "1 or 2"),
        };
        if options & !options_of(version) != 0 {
            return wrong("options", options, "those of its layout");
        }
        if ids == NONE {
            return wrong("number of ids", ids, "below 2^32 - 1");
        }
        if pattern as usize > MAX_PATTERN {
            return wrong("length of the splitting expression", pattern, "at most 4096");
        }
        if let Some(&got) = head[13..].iter().find(|&&n| n != 0) {
            return wrong("reserved number", got, "0");
        }
        let vocabulary = Self {
            family,
            options,
            token_count,
            byte_ids: cut.take("ids of bytes", 256)?,
            merges: cut.take("merges", merges)?,
            offsets: cut.take("offsets", ids + 1)?,
            table: cut.take("table of pieces", table)?,
            added: [cut.take("added tokens", plain)?, cut.take("normalized added tokens", normal)?],
            lead: cut.take("leading ids", lead)?,
            flags: cut.take("flags", ids)?,
            pattern: cut.take("splitting expression", pattern)?,
            added_text: cut.take("text of added tokens", added)?,
            text: cut.take("text of pieces", text)?,
        };
        match cut.0.len() {
            0 => Ok(vocabulary),
            got => Err(VocabularyError::Length { part: "end", got, expected: 0 }),
        }
    }

    /// How text becomes pieces.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Number of entries, added tokens included.
    pub fn token_count(&self) -> usize {
        self.token_count as usize
    }

    /// The largest id.
    pub fn max_id(&self) -> Option<u32> {
        (self.flags.len() as u32).checked_sub(1)
    }

    /// How `▁` is put in front of a text.
    fn prefix(&self) -> Prefix {
        Prefix::of((self.options & PREFIX) >> PREFIX_AT)
    }

    /// The splitting expressions, in the order in which they are applied: copies, so that what is checked is what is used,
    /// whatever becomes of the section's bytes.
    ///
    /// # Errors
    /// When they are no text, or more than 16.
    pub fn patterns(&self) -> Result<Vec<String>, VocabularyError> {
        let wrong = |cause: String| VocabularyError::Pattern { cause };
        let all = String::from_utf8(self.pattern.to_vec()).map_err(|e| wrong(e.utf8_error().to_string()))?;
        let patterns: Vec<String> = all.split(BETWEEN).filter(|one| !one.is_empty()).map(str::to_string).collect();
        if patterns.len() > MAX_PATTERNS {
            return Err(wrong("there are more than 16".into()));
        }
        Ok(patterns)
    }

    /// The ids that the tokenizer itself puts in front of a text.
    pub fn lead(&self) -> &'a [u32] {
        self.lead
    }

    /// Whether an id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.flags_of(id) & SPECIAL != 0
    }

    /// Whether an id has an entry.
    pub fn has(&self, id: u32) -> bool {
        self.bytes_of(id).is_some()
    }

    fn flags_of(&self, id: u32) -> u8 {
        self.flags.get(id as usize).copied().unwrap_or(0)
    }

    /// The bytes of an entry.
    fn bytes_of(&self, id: u32) -> Option<&'a [u8]> {
        let at = id as usize;
        if self.flags_of(id) & PRESENT == 0 {
            return None;
        }
        let (&start, &end) = (self.offsets.get(at)?, self.offsets.get(at.checked_add(1)?)?);
        self.text.get(start as usize..end as usize).filter(|bytes| bytes.len() <= MAX_PIECE)
    }

    /// The id of the piece with these bytes, if it is in the table.
    fn id_of(&self, bytes: &[u8]) -> Option<u32> {
        let mut at = home(hash_bytes(bytes), self.table.len());
        for _ in 0..PROBES {
            let id = *self.table.get(at)?;
            if id == NONE {
                return None;
            }
            if self.bytes_of(id) == Some(bytes) && self.flags_of(id) & LITERAL == 0 {
                return Some(id);
            }
            at = if at + 1 == self.table.len() { 0 } else { at + 1 };
        }
        None
    }

    /// Rank and new id of two neighbouring ids, if they can be merged.
    fn merge_of(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let mut at = home(hash_pair(left, right), self.merges.len());
        for _ in 0..PROBES {
            let &[l, r, rank, id] = self.merges.get(at)?;
            if (l, r) == (left, right) {
                return Some((rank, id));
            }
            if l == NONE {
                return None;
            }
            at = if at + 1 == self.merges.len() { 0 } else { at + 1 };
        }
        None
    }

    /// The text of an added token.
    fn added_text(&self, &[start, len, ..]: &[u32; 4]) -> &'a [u8] {
        let (start, len) = (start as usize, len as usize);
        let text = self.added_text.get(start..start.saturating_add(len));
        text.filter(|text| text.len() <= MAX_ADDED).unwrap_or_default()
    }
}

impl std::fmt::Debug for CompiledVocabulary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledVocabulary")
            .field("family", &self.family)
            .field("token_count", &self.token_count)
            .field("pattern", &String::from_utf8_lossy(self.pattern))
            .finish_non_exhaustive()
    }
}
