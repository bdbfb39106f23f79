//! The contents of a section, before they become bytes.

use super::hash::{hash_bytes, hash_pair, home};
use super::{
    BETWEEN, CompiledVocabulary, Family, HEAD, LEFT, LITERAL, NONE, PRESENT, PROBES, RIGHT, SPECIAL,
    VOCABULARY_VERSION, VocabularyError, WORD,
};
use super::{IGNORE_MERGES, KEEP_SPACE, NFC, PREFIX_AT, SPACE_IN_FRONT, SPLIT_SPACES, options_of};

/// A vocabulary in parts; [`Contents::to_bytes`] puts them together.
#[derive(Clone, Debug)]
pub struct Contents {
    /// How text becomes pieces.
    pub family: Family,
    /// A split that equals a whole piece becomes that piece, whatever the merges are.
    pub ignore_merges: bool,
    /// Text is brought into Unicode's composed form (NFC) first.
    pub nfc: bool,
    /// In the text family: how `▁` is put in front of a text.
    pub prefix: Prefix,
    /// In the text family: decoding keeps a space at the very beginning.
    pub keep_space: bool,
    /// In the text family: a text is split in front of each `▁`, and nothing is merged across.
    pub split_spaces: bool,
    /// In the byte-level family: a space is put in front of a text that does not begin with one.
    pub space_in_front: bool,
    /// Number of entries.
    pub token_count: u32,
    /// For each byte the id of its piece; `u32::MAX` if it has none and is dropped.
    pub byte_ids: Vec<u32>,
    /// The entry of each id.
    pub pieces: Vec<Option<Piece>>,
    /// Ids that are looked up by the bytes of their pieces: with `ignore_merges` all of the model, otherwise in the
    /// text family those of one character.
    pub keys: Vec<u32>,
    /// Left id, right id, rank, new id; each pair once.
    pub merges: Vec<[u32; 4]>,
    /// Added tokens that are searched for in the unchanged text.
    pub added: Vec<Added>,
    /// Added tokens that are searched for in the normalized text.
    pub added_normalized: Vec<Added>,
    /// Ids that the tokenizer itself puts in front of a text.
    pub lead: Vec<u32>,
    /// The splitting expression; empty if text is not split. Several, of which each splits what the one before it left,
    /// stand with `\0` between them.
    pub pattern: String,
}

/// How `▁` is put in front of a text between added tokens, in the text family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefix {
    /// Always, and before added tokens are searched for in normalized text.
    #[default]
    Always,
    /// Never.
    Never,
    /// In front of what begins the whole text, unless it begins with a space; after added tokens were searched for.
    First,
    /// In front of every such text, unless it begins with a space; after added tokens were searched for.
    Missing,
}

impl Prefix {
    const ALL: [Prefix; 4] = [Prefix::Always, Prefix::Never, Prefix::First, Prefix::Missing];

    /// The one with this number in the header.
    pub(super) fn of(code: u32) -> Prefix {
        Prefix::ALL[code as usize % Prefix::ALL.len()]
    }
}

/// An entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The bytes it stands for; in the text family, its text with `▁` for spaces.
    pub bytes: Vec<u8>,
    /// It is a special token: it belongs to the format, not to the text.
    pub special: bool,
    /// In the byte-level family: it is written as plain text, not in the characters that stand for bytes.
    pub literal: bool,
}

/// A token that is searched for before a text is split.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Added {
    /// Its text; that of a token for normalized text is normalized.
    pub text: String,
    /// Its id.
    pub id: u32,
    /// It includes the spaces on its left.
    pub left: bool,
    /// It includes the spaces on its right.
    pub right: bool,
    /// It counts only where no part of a word is beside it.
    pub word: bool,
}

impl Contents {
    /// Empty contents.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            ignore_merges: false,
            nfc: false,
            prefix: Prefix::Always,
            keep_space: false,
            split_spaces: false,
            space_in_front: false,
            token_count: 0,
            byte_ids: vec![NONE; 256],
            pieces: Vec::new(),
            keys: Vec::new(),
            merges: Vec::new(),
            added: Vec::new(),
            added_normalized: Vec::new(),
            lead: Vec::new(),
            pattern: String::new(),
        }
    }

    /// The section's bytes: the same for the same contents.
    ///
    /// # Panics
    /// When `byte_ids` has not 256 ids, a key has no entry, or a part has 4 GiB.
    pub fn to_bytes(&self) -> Vec<u8> {
        assert_eq!(self.byte_ids.len(), 256, "a byte has one id");
        let merges = table(&self.merges, |m| hash_pair(m[0], m[1]), [NONE; 4]);
        let mut keys = self.keys.clone();
        keys.sort_unstable();
        let key = |id: u32| self.pieces[id as usize].as_ref().expect("a key has an entry").bytes.as_slice();
        let keys = table(&keys, |&id| hash_bytes(key(id)), NONE);

        let (mut offsets, mut text) = (vec![0], Vec::new());
        for piece in &self.pieces {
            text.extend_from_slice(piece.as_ref().map_or(&[], |p| p.bytes.as_slice()));
            offsets.push(as_u32(text.len()));
        }
        let mut added_text = Vec::new();
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        let mut added = |tokens: &[Added]| -> Vec<[u32; 4]> {
            let mut tokens: Vec<&Added> = tokens.iter().collect();
            tokens.sort();
            let mut place = |token: &Added| {
                let start = as_u32(added_text.len());
                added_text.extend_from_slice(token.text.as_bytes());
                let sides = bit(token.left, LEFT) | bit(token.right, RIGHT);
                [start, as_u32(token.text.len()), token.id, sides | bit(token.word, WORD)]
            };
            tokens.into_iter().map(&mut place).collect()
        };
        let (plain, normalized) = (added(&self.added), added(&self.added_normalized));
        let flags = |piece: &Option<Piece>| {
            let Some(piece) = piece else { return 0 };
            PRESENT | if piece.special { SPECIAL } else { 0 } | if piece.literal { LITERAL } else { 0 }
        };
        let flags: Vec<u8> = self.pieces.iter().map(flags).collect();

        let options = bit(self.ignore_merges, IGNORE_MERGES)
            | bit(self.nfc, NFC)
            | (self.prefix as u32) << PREFIX_AT
            | bit(self.keep_space, KEEP_SPACE)
            | bit(self.split_spaces, SPLIT_SPACES)
            | bit(self.space_in_front, SPACE_IN_FRONT);
        let words = self.added.iter().chain(&self.added_normalized).any(|token| token.word);
        let first = options & !options_of(1) == 0 && !words && !self.pattern.contains(BETWEEN);
        // The first layout has no normalized tokens in the text family: its readers do not normalize for them.
        let first = first && (self.family == Family::ByteLevel || self.added_normalized.is_empty());

        let mut head = [0; HEAD];
        head[..13].copy_from_slice(&[
            if first { 1 } else { VOCABULARY_VERSION },
            self.family.code(),
            options,
            as_u32(flags.len()),
            self.token_count,
            as_u32(merges.len()),
            as_u32(keys.len()),
            as_u32(plain.len()),
            as_u32(normalized.len()),
            as_u32(self.lead.len()),
            as_u32(self.pattern.len()),
            as_u32(added_text.len()),
            as_u32(text.len()),
        ]);
        let parts: [&[u8]; 12] = [
            bytemuck::cast_slice(&head),
            bytemuck::cast_slice(&self.byte_ids),
            bytemuck::cast_slice(&merges),
            bytemuck::cast_slice(&offsets),
            bytemuck::cast_slice(&keys),
            bytemuck::cast_slice(&plain),
            bytemuck::cast_slice(&normalized),
            bytemuck::cast_slice(&self.lead),
            &flags,
            self.pattern.as_bytes(),
            &added_text,
            &text,
        ];
        parts.concat()
    }
}

impl CompiledVocabulary<'_> {
    /// What the section holds: [`Contents::to_bytes`] of it gives the same bytes for a section that it wrote.
    ///
    /// # Errors
    /// When the splitting expressions are no text, or more than 16.
    pub fn contents(&self) -> Result<Contents, VocabularyError> {
        let mut merges: Vec<[u32; 4]> = self.merges.iter().filter(|merge| merge[0] != NONE).copied().collect();
        merges.sort_unstable_by_key(|merge| merge[2]);
        let mut keys: Vec<u32> = self.table.iter().filter(|&&id| id != NONE).copied().collect();
        keys.sort_unstable();
        let flag = |id: u32, bit: u8| self.flags_of(id) & bit != 0;
        let piece = |id: u32| {
            let bytes = self.bytes_of(id)?.to_vec();
            Some(Piece { bytes, special: flag(id, SPECIAL), literal: flag(id, LITERAL) })
        };
        let added = |tokens: &[[u32; 4]]| -> Vec<Added> {
            let one = |token: &[u32; 4]| {
                let text = String::from_utf8_lossy(self.added_text(token)).into_owned();
                let [.., id, bits] = *token;
                Added { text, id, left: bits & LEFT != 0, right: bits & RIGHT != 0, word: bits & WORD != 0 }
            };
            tokens.iter().map(one).collect()
        };
        Ok(Contents {
            family: self.family,
            ignore_merges: self.options & IGNORE_MERGES != 0,
            nfc: self.options & NFC != 0,
            prefix: self.prefix(),
            keep_space: self.options & KEEP_SPACE != 0,
            split_spaces: self.options & SPLIT_SPACES != 0,
            space_in_front: self.options & SPACE_IN_FRONT != 0,
            token_count: self.token_count,
            byte_ids: self.byte_ids.to_vec(),
            pieces: (0..self.flags.len() as u32).map(piece).collect(),
            keys,
            merges,
            added: added(self.added[0]),
            added_normalized: added(self.added[1]),
            lead: self.lead.to_vec(),
            pattern: self.patterns()?.join(&BETWEEN.to_string()),
        })
    }
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).expect("a vocabulary's parts are far below 4 GiB")
}

/// Builds a hash table with every entry within [`PROBES`] slots of its home slot, and about 1.4 slots for each entry.
fn table<T: Copy>(entries: &[T], hash: impl Fn(&T) -> u64, empty: T) -> Vec<T> {
    let mut slots = entries.len() * 10 / 7 + entries.len().min(1);
    loop {
        let mut table: Vec<Option<T>> = vec![None; slots];
        let fits = entries.iter().all(|entry| {
            let first = home(hash(entry), slots);
            let free = (0..PROBES.min(slots)).map(|i| (first + i) % slots).find(|&at| table[at].is_none());
            free.map(|at| table[at] = Some(*entry)).is_some()
        });
        if fits {
            return table.into_iter().map(|entry| entry.unwrap_or(empty)).collect();
        }
        slots += slots / 8 + 1;
    }
}
