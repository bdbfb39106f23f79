//! Text to token ids and back, with what a prompt and a stream need beside it.
//!
//! **Two forms.** A file that has its tokenizer compiled is read in place, in a millisecond or two
//! ([`Tokenizer::from_file`]); else its tokenizer.json is parsed by the `tokenizers` crate ([`Tokenizer::from_json`]).
//! The ids are the same.
//!
//! **Prompts.** The beginning-of-text token (BOS) is there once, whoever wants to add it, and nothing follows the text:
//! see [`Tokenizer::encode`]. A tokenizer.json may carry truncation, padding and merge dropout from training; all three
//! are switched off, so that every text has one encoding and keeps its whole length.
//!
//! **Streams.** The text of a token depends on its neighbours: a character can be spread over tokens, and decoders of
//! the SentencePiece kind drop the space at the very beginning of a text, so that " there" decoded alone is "there".
//! The obvious ways fail: decoding each id alone loses that space and breaks characters, decoding everything again for
//! each token costs more with each token. [`TextStream`] decodes a token behind the one before it, which is context
//! enough, and gathers the bytes of unfinished characters itself.
//!
//! ```no_run
//! use nanoserve_runtime::tokenizer::{TextStream, Tokenizer};
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
//! The trap: a stream that continues a prompt must be told the prompt's ids ([`TextStream::after`]), or it takes the
//! first new token for the beginning of a text and drops its space.

mod compiled;
mod guard;

use compiled::Compiled;
use guard::caught;
use nanoserve_format::NsvFile;
use nanoserve_format::vocab::{Family, VocabularyError, byte_of, check_steps, fallback_byte};
use serde::Deserialize;
use std::sync::Arc;
use tokenizers::models::ModelWrapper;
use tokenizers::{DecoderWrapper, Encoding, Token};

/// Why text or ids could not be translated.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The bytes are no tokenizer.json that this program understands.
    #[error("the tokenizer cannot be read: {source}")]
    Json {
        /// What the parser says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The compiled tokenizer cannot be read, or not used for a text.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// Part of the tokenizer is of a kind that this program does not handle.
    #[error("the tokenizer's {part} is {got}, expected {expected}")]
    Unsupported {
        /// The part, by its key in tokenizer.json.
        part: &'static str,
        /// What it is.
        got: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// An added token has not the id that the file gives it: its ids have a gap, or say two things of one token.
    #[error("the added token {content:?} has the id {got}, but the tokenizer's own entry says {expected}")]
    AddedId {
        /// The token.
        content: String,
        /// The id that reading the tokenizer has led to.
        got: u32,
        /// The id that tokenizer.json gives.
        expected: u32,
    },
    /// A beginning-of-text token is asked for that nobody knows.
    #[error("every prompt is to begin with a BOS token, but neither the file nor the tokenizer says which")]
    BosUnknown,
    /// A text could not be encoded.
    #[error("a text of {bytes} bytes cannot be encoded: {source}")]
    Encode {
        /// The length of the text.
        bytes: usize,
        /// What the tokenizer says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Ids could not be decoded.
    #[error("{count} token ids cannot be decoded: {source}")]
    Decode {
        /// How many ids.
        count: usize,
        /// What the tokenizer says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

type Result<T> = std::result::Result<T, TokenizerError>;

/// A tokenizer, and the ids that begin a prompt.
pub struct Tokenizer {
    form: Form,
    pieces: Pieces,
    /// What every prompt begins with.
    lead: Vec<u32>,
    bos_id: Option<u32>,
}

/// Who translates.
enum Form {
    /// The `tokenizers` crate.
    Parsed(Box<tokenizers::Tokenizer>),
    /// The file's own tables.
    Compiled(Box<Compiled>),
}

/// How the decoder makes bytes of vocabulary pieces.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pieces {
    /// GPT-2's way: each character of a piece stands for one byte, and the text is all bytes in a row.
    ByteLevel,
    /// A piece is text, marks for spaces aside. With `byte_fallback`, pieces like `<0xE6>` are single bytes.
    Text { byte_fallback: bool },
}

impl Tokenizer {
    /// Opens the compiled tokenizer of a file; None where it has none, and [`Self::from_json`] is the way. `bos_id` and
    /// `add_bos` are as there.
    pub fn from_file(file: &Arc<NsvFile>, bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Option<Self>> {
        Compiled::of_file(file)?.map(|compiled| Self::from_compiled(compiled, bos_id, add_bos)).transpose()
    }

    /// Opens a compiled tokenizer from the bytes of its section. `bos_id` and `add_bos` are as in [`Self::from_json`].
    pub fn from_section(section: Vec<u8>, bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Self> {
        Self::from_compiled(Compiled::of_bytes(section)?, bos_id, add_bos)
    }

    fn from_compiled(compiled: Compiled, bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Self> {
        let vocabulary = compiled.vocabulary()?;
        let pieces = match vocabulary.family() {
            Family::ByteLevel => Pieces::ByteLevel,
            Family::Text => Pieces::Text { byte_fallback: true },
        };
        let lead = lead(vocabulary.lead().to_vec(), bos_id, add_bos)?;
        Ok(Self { form: Form::Compiled(Box::new(compiled)), pieces, lead, bos_id })
    }

    /// Whether the file's own tables are used.
    pub fn is_compiled(&self) -> bool {
        matches!(self.form, Form::Compiled(_))
    }

    /// Reads a tokenizer.json. `bos_id` and `add_bos` are what the model's makers say about the token that begins a
    /// text; [`Self::encode`] has the rules.
    pub fn from_json(bytes: &[u8], bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Self> {
        let unreadable = |source| TokenizerError::Json { source };
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| unreadable(e.into()))?;
        check_steps(bytes)?;
        let mut inner = caught(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(unreadable)?;
        check_added_ids(bytes, &inner)?;
        inner.with_truncation(None).map_err(unreadable)?;
        inner.with_padding(None);
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some()
        {
            let mut steady = bpe.clone();
            steady.dropout = None;
            inner.with_model(ModelWrapper::BPE(steady));
        }
        let pieces = pieces_of(inner.get_decoder())?;
        let lead = lead(caught(|| added_in_front(&inner)).map_err(unreadable)?, bos_id, add_bos)?;
        Ok(Self { form: Form::Parsed(Box::new(inner)), pieces, lead, bos_id })
    }

    /// The ids of a text; with `special`, those of a prompt.
    ///
    /// A prompt begins with what the tokenizer's post-processor puts in front of a text: BOS, for most. Beyond that:
    ///
    /// - `add_bos` true, and the post-processor puts nothing in front: BOS is.
    /// - `add_bos` false: BOS is not put in front, whatever the post-processor says.
    /// - The text itself begins with BOS, written out (as chat templates do): it is not put there a second time.
    /// - What the post-processor puts *behind* a text (EOS, with some) is left away: a prompt is there to be continued.
    ///
    /// So the prompt of an empty text is BOS alone. Without `special` there is the text and nothing else. Special
    /// tokens written out in the text become their ids either way.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let ids = match &self.form {
            Form::Compiled(compiled) => compiled.encode(text)?,
            Form::Parsed(parsed) => {
                let failed = |source| TokenizerError::Encode { bytes: text.len(), source };
                caught(|| parsed.encode_fast(text, false)).map_err(failed)?.get_ids().to_vec()
            }
        };
        if !special || ids.starts_with(&self.lead) {
            return Ok(ids);
        }
        let twice = ids.first().is_some_and(|first| Some(*first) == self.bos_id && self.lead.contains(first));
        Ok([&self.lead, &ids[usize::from(twice)..]].concat())
    }

    /// The text of ids, as the tokenizer's own decoder makes it: U+FFFD stands for bytes that are no UTF-8. With
    /// `skip_special` special tokens have no text. An id without an entry has none either: models often have more rows
    /// than their tokenizer has entries.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        match &self.form {
            Form::Compiled(compiled) => Ok(compiled.vocabulary()?.decode(ids, skip_special)),
            // Some decoders cannot bear an empty list.
            Form::Parsed(_) if !ids.iter().any(|&id| self.shown(id, skip_special).is_some()) => Ok(String::new()),
            Form::Parsed(parsed) => {
                let failed = |source| TokenizerError::Decode { count: ids.len(), source };
                caught(|| parsed.decode(ids, skip_special)).map_err(failed)
            }
        }
    }

    /// How many entries there are, added tokens included.
    pub fn token_count(&self) -> usize {
        match &self.form {
            Form::Compiled(compiled) => compiled.vocabulary().map_or(0, |v| v.token_count()),
            Form::Parsed(parsed) => parsed.get_vocab_size(true),
        }
    }

    /// The largest id of an entry; it may exceed the count where ids have gaps. May look at every entry: ask once.
    pub fn max_id(&self) -> Option<u32> {
        match &self.form {
            Form::Compiled(compiled) => compiled.vocabulary().ok()?.max_id(),
            Form::Parsed(parsed) => parsed.get_vocab(true).into_values().max(),
        }
    }

    /// The entry of an id as the vocabulary writes it ("▁there", "Ġthere", "<0xE6>").
    pub fn id_to_piece(&self, id: u32) -> Option<String> {
        match &self.form {
            Form::Compiled(compiled) => compiled.vocabulary().ok()?.piece(id),
            Form::Parsed(parsed) => parsed.id_to_token(id),
        }
    }

    /// The bytes that each of the ids below `count` adds to a text that goes on; none for those without text, special
    /// tokens among them. A byte-fallback token is its byte, whatever stands around it.
    pub fn token_bytes(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        // Decoded behind a token that certainly is text: some decoders drop what begins a text.
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
        (0..count as u32).map(bytes_of).collect()
    }

    /// Whether an id is a special token, one that belongs to the format and not to the text.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.form {
            Form::Compiled(compiled) => compiled.vocabulary().is_ok_and(|v| v.is_special(id)),
            Form::Parsed(parsed) => {
                self.id_to_piece(id).is_some_and(|piece| parsed.get_added_vocabulary().is_special_token(&piece))
            }
        }
    }

    /// The entry of an id, if it has one and its text is wanted.
    fn shown(&self, id: u32, skip_special: bool) -> Option<String> {
        if skip_special && self.is_special(id) { None } else { self.id_to_piece(id) }
    }
}

impl std::fmt::Debug for Tokenizer {
    /// Leaves the vocabulary away.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("token_count", &self.token_count())
            .field("pieces", &self.pieces)
            .field("lead", &self.lead)
            .field("bos_id", &self.bos_id)
            .finish_non_exhaustive()
    }
}

/// What every prompt begins with: what the tokenizer puts there, and what the model's makers say of BOS.
fn lead(mut lead: Vec<u32>, bos_id: Option<u32>, add_bos: Option<bool>) -> Result<Vec<u32>> {
    match (add_bos, bos_id) {
        (Some(true), Some(bos)) if lead.is_empty() => lead.push(bos),
        (Some(true), None) if lead.is_empty() => return Err(TokenizerError::BosUnknown),
        (Some(false), Some(bos)) => lead.retain(|&id| id != bos),
        (Some(false), None) => lead.clear(),
        _ => {}
    }
    Ok(lead)
}

/// The `tokenizers` crate numbers added tokens that the model lacks in a row, whatever ids the file gives them. Where
/// that leads to other ids, the model would be fed the wrong rows.
fn check_added_ids(bytes: &[u8], inner: &tokenizers::Tokenizer) -> Result<()> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let file: File = serde_json::from_slice(bytes).map_err(|e| TokenizerError::Json { source: e.into() })?;
    for Added { id: expected, content } in file.added_tokens {
        match inner.token_to_id(&content) {
            Some(got) if got != expected => return Err(TokenizerError::AddedId { content, got, expected }),
            _ => {}
        }
    }
    Ok(())
}

/// What the post-processor puts in front of a text: it is shown a text of one token, and marks what it adds.
fn added_in_front(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Vec<u32>> {
    let probe = Encoding::from_tokens(vec![Token::new(0, "a".to_owned(), (0, 1))], 0);
    let processed = inner.post_process(probe, None, true)?;
    let added = processed.get_special_tokens_mask().iter().take_while(|&&mark| mark == 1).count();
    Ok(processed.get_ids()[..added].to_vec())
}

/// What kind of pieces a decoder expects.
fn pieces_of(decoder: Option<&DecoderWrapper>) -> Result<Pieces> {
    let steps = match decoder {
        Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    match steps {
        [DecoderWrapper::ByteLevel(_)] => Ok(Pieces::ByteLevel),
        _ if steps.iter().any(|s| matches!(s, DecoderWrapper::ByteLevel(_) | DecoderWrapper::Sequence(_))) => {
            Err(TokenizerError::Unsupported {
                part: "decoder",
                got: "a sequence of ByteLevel or Sequence and others",
                expected: "ByteLevel alone, or a flat sequence without it",
            })
        }
        _ => {
            let byte_fallback = steps.iter().any(|s| matches!(s, DecoderWrapper::ByteFallback(_)));
            Ok(Pieces::Text { byte_fallback })
        }
    }
}

/// How many shown tokens of a prompt a stream looks at: more than a character has bytes.
const LOOK_BACK: usize = 16;

/// How many tokens without any text a stream keeps as context.
const MAX_CONTEXT: usize = 8;

/// Ids in, whole characters out, at a cost per token that does not grow.
///
/// All that is given out, [`Self::finish`] included, is [`Tokenizer::decode`] of all ids, with one exception. Where
/// byte-fallback tokens (`<0xE6>`) in a row are not UTF-8 as a whole, the decoder turns *every* byte of the row into
/// U+FFFD, whole characters as well, however far back. A stream has printed those by then: it gives U+FFFD for the bad
/// bytes only.
///
/// ```text
/// a byte of a character   gather it; give out what is whole
/// any other token t       give out decode(context t) minus decode(context), where context is the token before t
/// ```
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// The tokens of the latest text given out; empty only at the beginning of a text.
    context: Vec<u32>,
    /// The beginning of a character that is not whole yet: at most three bytes.
    bytes: Vec<u8>,
    /// The byte-fallback tokens that `bytes`, or what was last given out of them, came from.
    run: Vec<u32>,
}

impl<'t> TextStream<'t> {
    /// A stream at the beginning of a text.
    pub fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, context: Vec::new(), bytes: Vec::new(), run: Vec::new() }
    }

    /// A stream that goes on where `prompt` ends: what it gives out follows the text of the prompt. A character that
    /// the prompt begins and does not finish is given out when it is whole.
    pub fn after(tokenizer: &'t Tokenizer, prompt: &[u32], skip_special: bool) -> Result<Self> {
        let shown = |&i: &usize| tokenizer.shown(prompt[i], skip_special).is_some();
        let start = (0..prompt.len()).rev().filter(shown).take(LOOK_BACK).last().unwrap_or(prompt.len());
        let mut stream = Self::new(tokenizer, skip_special);
        for &id in &prompt[start..] {
            stream.push(id)?;
        }
        Ok(stream)
    }

    /// Takes the next id; gives the text that is certain now: whole characters, often none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(piece) = self.tokenizer.shown(id, self.skip_special) else {
            return Ok(String::new());
        };
        match self.tokenizer.pieces {
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

    /// Ends the text: U+FFFD for what is left of an unfinished character, as many as `decode` gives.
    pub fn finish(&mut self) -> String {
        self.run.clear();
        let left = std::mem::take(&mut self.bytes);
        match self.tokenizer.pieces {
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
            self.context = std::mem::take(&mut self.run);
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

/// Takes all from `bytes` but a character at the end that more bytes could make whole.
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
        text += &String::from_utf8_lossy(good); // valid, says the line above: nothing is replaced
        rest = after;
        let Some(length) = bad.error_len() else { break };
        text += &REPLACEMENT.repeat(if replace == Replace::Byte { length } else { 1 });
        rest = &rest[length..];
    }
    let taken = bytes.len() - rest.len();
    bytes.drain(..taken);
    text
}

/// The bytes that a byte-level piece stands for; a piece with a character outside GPT-2's table, as added tokens may
/// have, is plain text.
fn push_piece_bytes(piece: &str, bytes: &mut Vec<u8>) {
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

/// How many bytes two texts share at the beginning, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum()
}

#[cfg(test)]
mod tests;
