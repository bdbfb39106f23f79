//! Turns text into token ids and back, and adds what a prompt needs.

use crate::error::{Result, TokenizerError};
#[cfg(feature = "json")]
use crate::json;
use crate::pieces::{Pieces, common_prefix, push_piece_bytes};
use crate::section::VocabularySection;
use crate::vocab::{Budget, Family, fallback_byte};
use nanoserve_format::NsvFile;
use std::sync::Arc;

/// The most bytes of all tokens that [`Tokenizer::token_bytes`] gives.
const MAX_TOKEN_BYTES: usize = 32 << 20;

/// A tokenizer, and the ids that begin a prompt. Clones share the tables and are cheap.
///
/// ```no_run
/// use nanoserve_tokenizer::Tokenizer;
///
/// let json = std::fs::read("tokenizer.json")?;
/// let tokenizer = Tokenizer::from_json(&json, Some(1), None)?;
/// let ids = tokenizer.encode("Once upon a time", true)?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "Once upon a time");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    form: Form,
    pieces: Pieces,
    /// The ids that begin every prompt.
    lead: Arc<[u32]>,
    bos_id: Option<u32>,
}

/// What translates between text and ids.
#[derive(Clone)]
enum Form {
    /// The `tokenizers` crate.
    #[cfg(feature = "json")]
    Parsed(Arc<tokenizers::Tokenizer>),
    /// The file's own tables.
    Compiled(Arc<VocabularySection>),
}

impl Tokenizer {
    /// Opens the compiled tokenizer of a file; None if it has none: use [`Self::from_json`] then. `bos_id` and
    /// `add_bos` are as there.
    pub fn from_file(file: &Arc<NsvFile>, bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Option<Self>> {
        VocabularySection::from_file(file)?.map(|section| Self::new(section, bos_id, add_bos)).transpose()
    }

    /// Opens a compiled tokenizer from the bytes of its section. `bos_id` and `add_bos` are as in [`Self::from_json`].
    pub fn from_section(section: Vec<u8>, bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Self> {
        Self::new(VocabularySection::from_bytes(section)?, bos_id, add_bos)
    }

    fn new(section: VocabularySection, bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Self> {
        let vocabulary = section.vocabulary()?;
        let pieces = match vocabulary.family() {
            Family::ByteLevel => Pieces::ByteLevel,
            Family::Text => Pieces::Text { byte_fallback: true },
        };
        let lead = prompt_lead(vocabulary.lead().to_vec(), bos_id, add_bos)?;
        Ok(Self { form: Form::Compiled(Arc::new(section)), pieces, lead, bos_id })
    }

    /// Whether compiled tables are used.
    pub fn is_compiled(&self) -> bool {
        matches!(self.form, Form::Compiled(_))
    }

    /// Reads a tokenizer.json. `bos_id` and `add_bos` are the model's settings for the token that begins a text;
    /// [`Self::encode`] has the rules.
    ///
    /// # Errors
    /// When it cannot be read; always, as [`TokenizerError::NotCompiled`], without the feature `json`.
    #[cfg(not(feature = "json"))]
    pub fn from_json(_: &[u8], _: Option<u32>, _: Option<bool>) -> Result<Self> {
        Err(TokenizerError::NotCompiled)
    }

    /// Reads a tokenizer.json. `bos_id` and `add_bos` are the model's settings for the token that begins a text;
    /// [`Self::encode`] has the rules.
    ///
    /// # Errors
    /// When it cannot be read; always, as [`TokenizerError::NotCompiled`], without the feature `json`.
    #[cfg(feature = "json")]
    pub fn from_json(bytes: &[u8], bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Self> {
        let unreadable = |source| TokenizerError::Json { source };
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| unreadable(e.into()))?;
        let mut loaded = json::load_json(bytes)?;
        json::check_added_ids(bytes, &loaded)?;
        json::switch_dropout_off(&mut loaded);
        let pieces = json::pieces_of(loaded.get_decoder())?;
        let lead = prompt_lead(json::added_in_front(&loaded).map_err(unreadable)?, bos_id, add_bos)?;
        Ok(Self { form: Form::Parsed(Arc::new(loaded)), pieces, lead, bos_id })
    }

    /// The ids of a text; with `special`, those of a prompt.
    ///
    /// A prompt begins with what the tokenizer's post-processor puts in front of a text: BOS, for most. Beyond that:
    ///
    /// - If `add_bos` is true and the post-processor puts nothing in front, BOS is put there.
    /// - If `add_bos` is false, BOS is not put in front, whatever the post-processor says.
    /// - If the text itself begins with BOS, written out (as chat templates do), BOS is not added a second time.
    /// - What the post-processor puts *after* a text (EOS, for some) is omitted: a prompt is to be continued.
    ///
    /// So the prompt of an empty text is BOS alone. Without `special`, nothing is added to the text. Special tokens
    /// written out in the text become their ids either way.
    ///
    /// # Errors
    /// When the text takes more work than any honest tokenizer needs for it.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        self.encode_within(text, special, &mut Budget::new(text.len()))
    }

    /// As [`Self::encode`], within a budget for several texts together. The `tokenizers` crate has bounds of its own.
    pub(crate) fn encode_within(&self, text: &str, special: bool, budget: &mut Budget) -> Result<Vec<u32>> {
        let ids = match &self.form {
            Form::Compiled(compiled) => compiled.encode(text, budget)?,
            #[cfg(feature = "json")]
            Form::Parsed(parsed) => {
                let failed = |source| TokenizerError::Encode { bytes: text.len(), source };
                json::call_library(|| parsed.encode_fast(text, false)).map_err(failed)?.get_ids().to_vec()
            }
        };
        if !special || ids.starts_with(&self.lead) {
            return Ok(ids);
        }
        let twice = ids.first().is_some_and(|first| Some(*first) == self.bos_id && self.lead.contains(first));
        Ok([&self.lead, &ids[usize::from(twice)..]].concat())
    }

    /// The text of ids, as the tokenizer's own decoder makes it: U+FFFD replaces bytes that are not UTF-8. With
    /// `skip_special`, special tokens have no text. An id without an entry has none either: models often have more rows
    /// than their tokenizer has entries.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        match &self.form {
            Form::Compiled(compiled) => Ok(compiled.vocabulary()?.decode(ids, skip_special)),
            // Some decoders fail on an empty list.
            #[cfg(feature = "json")]
            Form::Parsed(_) if !ids.iter().any(|&id| self.shown(id, skip_special).is_some()) => Ok(String::new()),
            #[cfg(feature = "json")]
            Form::Parsed(parsed) => {
                let failed = |source| TokenizerError::Decode { count: ids.len(), source };
                json::call_library(|| parsed.decode(ids, skip_special)).map_err(failed)
            }
        }
    }

    /// Number of entries, added tokens included.
    pub fn token_count(&self) -> usize {
        match &self.form {
            Form::Compiled(compiled) => compiled.vocabulary().map_or(0, |v| v.token_count()),
            #[cfg(feature = "json")]
            Form::Parsed(parsed) => parsed.get_vocab_size(true),
        }
    }

    /// The largest id of an entry; it may exceed the count if ids have gaps. May scan every entry: call it once.
    pub fn max_id(&self) -> Option<u32> {
        match &self.form {
            Form::Compiled(compiled) => compiled.vocabulary().ok()?.max_id(),
            #[cfg(feature = "json")]
            Form::Parsed(parsed) => parsed.get_vocab(true).into_values().max(),
        }
    }

    /// The entry of an id as the vocabulary writes it ("▁there", "Ġthere", "<0xE6>").
    pub fn id_to_piece(&self, id: u32) -> Option<String> {
        match &self.form {
            Form::Compiled(compiled) => compiled.vocabulary().ok()?.piece(id),
            #[cfg(feature = "json")]
            Form::Parsed(parsed) => parsed.id_to_token(id),
        }
    }

    /// For each id below `count`, the bytes that it adds in the middle of a text; empty for ids without text, such as
    /// special tokens. A byte-fallback token is its byte, whatever its neighbours.
    ///
    /// # Errors
    /// When they cannot be decoded, or have more than 32 MiB together: entries may share their text in a file, and the bytes
    /// of published vocabularies are a tenth of that.
    pub fn token_bytes(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        // Each id is decoded after a token that is surely text: some decoders drop a space that begins a text.
        let is_word = |text: String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        let (mut lead, mut before) = (Vec::new(), String::new());
        if self.pieces != Pieces::ByteLevel {
            for id in 0..count as u32 {
                if self.shown(id, true).is_some_and(is_word) {
                    (lead, before) = (vec![id], self.decode(&[id], true)?);
                    break;
                }
            }
        }
        let bytes_of = |id: u32| -> Result<Vec<u8>> {
            let Some(piece) = self.shown(id, true) else { return Ok(Vec::new()) };
            let mut bytes = Vec::new();
            match self.pieces {
                Pieces::ByteLevel => push_piece_bytes(&piece, &mut bytes),
                Pieces::Text { byte_fallback } => match fallback_byte(&piece).filter(|_| byte_fallback) {
                    Some(byte) => bytes.push(byte),
                    None => {
                        let both = self.decode(&[&lead[..], &[id]].concat(), true)?;
                        bytes.extend_from_slice(&both.as_bytes()[common_prefix(&before, &both)..]);
                    }
                },
            }
            Ok(bytes)
        };
        let (mut all, mut total) = (Vec::with_capacity(count), 0);
        for id in 0..count as u32 {
            let bytes = bytes_of(id)?;
            total += bytes.len();
            if total > MAX_TOKEN_BYTES {
                let (got, expected) = ("more than 32 MiB of text", "at most that");
                return Err(TokenizerError::Unsupported { part: "vocab", got, expected });
            }
            all.push(bytes);
        }
        Ok(all)
    }

    /// Whether an id is a special token, which belongs to the format and not to the text.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.form {
            Form::Compiled(compiled) => compiled.vocabulary().is_ok_and(|v| v.is_special(id)),
            #[cfg(feature = "json")]
            Form::Parsed(parsed) => {
                self.id_to_piece(id).is_some_and(|piece| parsed.get_added_vocabulary().is_special_token(&piece))
            }
        }
    }

    /// How the decoder turns pieces into bytes.
    pub(crate) fn pieces(&self) -> Pieces {
        self.pieces
    }

    /// The entry of an id; None if it has none, or is a special token to be skipped.
    pub(crate) fn shown(&self, id: u32, skip_special: bool) -> Option<String> {
        if skip_special && self.is_special(id) { None } else { self.id_to_piece(id) }
    }
}

impl std::fmt::Debug for Tokenizer {
    /// Omits the vocabulary.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("token_count", &self.token_count())
            .field("pieces", &self.pieces)
            .field("lead", &self.lead)
            .field("bos_id", &self.bos_id)
            .finish_non_exhaustive()
    }
}

/// The ids that begin every prompt: those that the tokenizer puts there, and the model's settings for BOS.
fn prompt_lead(mut lead: Vec<u32>, bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Arc<[u32]>> {
    match (add_bos, bos_id) {
        (Some(true), Some(bos)) if lead.is_empty() => lead.push(bos),
        (Some(true), None) if lead.is_empty() => return Err(TokenizerError::BosUnknown),
        (Some(false), Some(bos)) => lead.retain(|&id| id != bos),
        (Some(false), None) => lead.clear(),
        _ => {}
    }
    Ok(lead.into())
}

#[cfg(all(test, feature = "json"))]
mod tests;
