//! Compiles a `tokenizer.json` to the form that the runtime reads in place, [`nanoserve_tokenizer::vocab`].
//!
//! Only what is known to give equal ids is compiled: two families and, of the many settings of a tokenizer.json, those
//! that these families use. Everything else has no compiled form, and the runtime reads its tokenizer.json. A model
//! needs exactly the ids it was trained on, so a compiled form is compared with the tokenizers library on texts of
//! every kind before it is stored ([`difference`]).

use crate::vocab_form::{flag, form};
use nanoserve_format::{MAX_VECTOR_BYTES, TokenizerVector, TokenizerVectors};
use nanoserve_tokenizer::vocab::{Added, CompiledVocabulary, Contents, Family, Piece, Prefix, Splitter};
use nanoserve_tokenizer::vocab::{MAX_ADDED, MAX_PIECE, byte_of, char_of};
use nanoserve_tokenizer::{TokenizerError, added_in_front, catch_panic, load_json};
use serde_json::Value;
use std::collections::HashMap;
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;

/// A vocabulary with an id from here on is not compiled. This is far more than any has, and few enough to store gaps.
const MAX_IDS: u32 = 1 << 22;

/// The result of compiling a tokenizer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Compilation {
    /// The section's bytes, checked.
    Section(Vec<u8>),
    /// It has no compiled form.
    Other,
    /// Its compiled form differs from it: the first text that shows the difference.
    Different(String),
}

/// Compiles a tokenizer.json, from which `loaded` was made, and checks the result.
///
/// Truncation and padding are for training, and a padding may be of any length: `loaded` has neither.
pub(crate) fn compile(json: &[u8], loaded: &Tokenizer) -> Compilation {
    let compiled = || {
        let Some(contents) = serde_json::from_slice(json).ok().and_then(|json| contents(&json, loaded)) else {
            return Compilation::Other;
        };
        let section = contents.to_bytes();
        match difference(&section, loaded) {
            None => Compilation::Section(section),
            Some(text) => Compilation::Different(text),
        }
    };
    // The library panics if its engine gives up on an expression.
    catch_panic("tokenizers", compiled).unwrap_or(Compilation::Other)
}

/// The kind of a tokenizer's model, as tokenizer.json names it.
pub(crate) fn model_name(loaded: &Tokenizer) -> &'static str {
    match loaded.get_model() {
        ModelWrapper::BPE(_) => "BPE with steps of another kind",
        ModelWrapper::WordPiece(_) => "WordPiece",
        ModelWrapper::WordLevel(_) => "WordLevel",
        ModelWrapper::Unigram(_) => "Unigram",
    }
}

/// Loads a tokenizer.json, without truncation and padding. The error is in the library's words.
pub(crate) fn load(json: &[u8]) -> Result<Tokenizer, String> {
    load_json(json).map_err(|error| match error {
        TokenizerError::Json { source } => source.to_string(),
        other => other.to_string(),
    })
}

/// The compiled form of a tokenizer.json, checked; None if it has none.
///
/// [`convert`](crate::convert) does this by itself.
///
/// # Errors
/// Why the tokenizers library cannot read it, or the first text for which the compiled form differs from it.
pub fn compile_tokenizer(json: &[u8]) -> Result<Option<Vec<u8>>, String> {
    match compile(json, &load(json)?) {
        Compilation::Section(section) => Ok(Some(section)),
        Compilation::Other => Ok(None),
        Compilation::Different(text) => Err(text),
    }
}

/// The contents of the compiled form; None if the tokenizer is of another kind.
fn contents(json: &Value, loaded: &Tokenizer) -> Option<Contents> {
    let model = json.get("model")?;
    let absent = |key: &str| model.get(key).is_none_or(Value::is_null);
    let affix = |key: &str| !absent(key) && model[key].as_str() != Some("");
    let plain = absent("dropout") && !affix("continuing_subword_prefix") && !affix("end_of_word_suffix");
    if !matches!(loaded.get_model(), ModelWrapper::BPE(_)) || !plain {
        return None;
    }
    let form = form(json)?;
    let family = form.family;
    let mut contents = Contents {
        nfc: form.nfc,
        prefix: form.prefix,
        keep_space: form.keep_space,
        split_spaces: form.split_spaces,
        space_in_front: form.space_in_front,
        pattern: form.patterns.join("\0"),
        ignore_merges: flag(model, "ignore_merges"),
        ..Contents::new(family)
    };

    let vocab: HashMap<String, u32> = loaded.get_vocab(false).into_iter().collect();
    let max = loaded.get_vocab(true).into_values().max()?;
    if max >= MAX_IDS {
        return None;
    }
    contents.token_count = u32::try_from(loaded.get_vocab_size(true)).ok()?;
    contents.pieces = vec![None; max as usize + 1];
    for (text, &id) in &vocab {
        let entry = &mut contents.pieces[id as usize];
        if entry.is_some() {
            return None; // two pieces of one id: which one is decoded would be arbitrary
        }
        *entry = Some(piece(family, text));
    }
    add_added(json, loaded, &vocab, &mut contents)?;
    if contents.pieces.iter().flatten().any(|piece| piece.bytes.len() > MAX_PIECE) {
        return None;
    }
    contents.byte_ids = byte_ids(family, model, &vocab)?;
    let one = |text: &str| family == Family::Text && text.chars().count() == 1;
    contents.keys = vocab.iter().filter(|(text, _)| contents.ignore_merges || one(text)).map(|(_, &id)| id).collect();
    contents.keys.sort_unstable();
    contents.merges = merges(model, &vocab)?;
    contents.lead = added_in_front(loaded).ok()?;
    Some(contents)
}

/// A piece as it is stored.
fn piece(family: Family, text: &str) -> Piece {
    let bytes: Option<Vec<u8>> = if family == Family::ByteLevel { text.chars().map(byte_of).collect() } else { None };
    let literal = family == Family::ByteLevel && bytes.is_none();
    Piece { bytes: bytes.unwrap_or_else(|| text.as_bytes().to_vec()), special: false, literal }
}

/// Adds the added tokens; None if one has a text that is not handled, or another id than the file gives it.
fn add_added(json: &Value, loaded: &Tokenizer, vocab: &HashMap<String, u32>, contents: &mut Contents) -> Option<()> {
    let listed = json.get("added_tokens").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for token in listed {
        let (content, id) = (token["content"].as_str()?, token["id"].as_u64()?);
        if loaded.token_to_id(content).is_some_and(|got| u64::from(got) != id) {
            return None;
        }
    }
    for (id, token) in loaded.get_added_tokens_decoder() {
        // As it is decoded, and as it is searched for in normalized text.
        let text = loaded.id_to_token(id)?;
        // Here spaces become marks only after the search, whatever the form says of it.
        let late = !json["pre_tokenizer"].is_null() && json["normalizer"].is_null() && contents.prefix == Prefix::Never;
        let spaces = token.normalized && (text.contains([' ', '▁']) || token.lstrip || token.rstrip);
        if text.len().max(token.content.len()) > MAX_ADDED || (late && spaces) {
            return None;
        }
        let entry = contents.pieces.get_mut(id as usize)?;
        if entry.is_some() && vocab.get(&token.content) != Some(&id) {
            return None;
        }
        *entry = Some(piece(contents.family, &text));
        let list = if token.normalized { &mut contents.added_normalized } else { &mut contents.added };
        let text = if token.normalized { text } else { token.content };
        list.push(Added { text, id, left: token.lstrip, right: token.rstrip, word: token.single_word });
    }
    for (id, entry) in contents.pieces.iter_mut().enumerate() {
        let Some(entry) = entry else { continue };
        let text = loaded.id_to_token(id as u32)?;
        entry.special = loaded.get_added_vocabulary().is_special_token(&text);
    }
    Some(())
}

/// The id of each byte's piece; None if bytes without a piece are not simply dropped.
fn byte_ids(family: Family, model: &Value, vocab: &HashMap<String, u32>) -> Option<Vec<u32>> {
    let name = |byte: u8| match family {
        Family::ByteLevel => char_of(byte).to_string(),
        Family::Text => format!("<0x{byte:02X}>"),
    };
    let ids: Vec<Option<u32>> = (0..=255).map(|byte| vocab.get(&name(byte)).copied()).collect();
    // Without a piece and without a token for unknown text, a byte is dropped.
    let dropped = family == Family::ByteLevel && model["unk_token"].is_null() && !flag(model, "byte_fallback");
    if !dropped && ids.contains(&None) {
        return None;
    }
    Some(ids.into_iter().map(|id| id.unwrap_or(u32::MAX)).collect())
}

/// Every pair that can be merged, ranked as in the library: of a pair that is listed twice, the last counts.
fn merges(model: &Value, vocab: &HashMap<String, u32>) -> Option<Vec<[u32; 4]>> {
    let pair = |merge: &Value| match merge {
        Value::String(line) => line.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())),
        _ => Some((merge.get(0)?.as_str()?.to_string(), merge.get(1)?.as_str()?.to_string())),
    };
    let comment = |merge: &&Value| merge.as_str().is_some_and(|line| line.starts_with("#version"));
    let mut merges: HashMap<(u32, u32), [u32; 2]> = HashMap::new();
    for (rank, merge) in model.get("merges")?.as_array()?.iter().filter(|merge| !comment(merge)).enumerate() {
        let (a, b) = pair(merge)?;
        let (left, right) = (*vocab.get(&a)?, *vocab.get(&b)?);
        merges.insert((left, right), [u32::try_from(rank).ok()?, *vocab.get(&(a + &b))?]);
    }
    let mut merges: Vec<[u32; 4]> = merges.into_iter().map(|((a, b), [rank, id])| [a, b, rank, id]).collect();
    merges.sort_unstable_by_key(|merge| merge[2]);
    Some(merges)
}

/// The first text that a section and the library encode or decode differently.
fn difference(section: &[u8], loaded: &Tokenizer) -> Option<String> {
    let opened = CompiledVocabulary::open(section).and_then(|v| Ok((v, Splitter::new(&v)?)));
    let Ok((vocabulary, splitter)) = opened else { return Some(String::new()) };
    let same = |text: &str| {
        let (Ok(ids), Ok(expected)) = (vocabulary.encode(&splitter, text), loaded.encode_fast(text, false)) else {
            return false;
        };
        // Some decoders fail on an empty list.
        let back = |skip| ids.is_empty() || loaded.decode(&ids, skip).is_ok_and(|t| t == vocabulary.decode(&ids, skip));
        ids == expected.get_ids() && back(true) && back(false)
    };
    let pieces = |id: u32| loaded.id_to_token(id) == vocabulary.piece(id);
    if !(0..=vocabulary.max_id().unwrap_or(0)).all(pieces) {
        return Some("an entry".to_string());
    }
    texts(loaded).into_iter().find(|text| !same(text))
}

/// The most added tokens for which a file records texts and ids.
const SHOWN_ADDED: usize = 24;

/// The ids that the tokenizers library gives for some texts, to check the runtime against.
pub(crate) fn vectors(loaded: &Tokenizer) -> Option<TokenizerVectors> {
    let mut added: Vec<(u32, String)> =
        loaded.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content)).collect();
    added.sort();
    added.truncate(SHOWN_ADDED);
    let added = added.into_iter().flat_map(|(_, token)| [format!("a {token}b"), token]);
    let texts = WHOLE.iter().chain(&PARTS).map(|text| text.to_string()).chain([PARTS.concat()]).chain(added);
    let vector = |text: String| {
        let ids = loaded.encode_fast(text.as_str(), false).ok()?.get_ids().to_vec();
        // Some decoders fail on an empty list.
        let back = if ids.is_empty() { String::new() } else { loaded.decode(&ids, false).ok()? };
        Some(TokenizerVector { text, ids, back })
    };
    let all = || {
        let (made_by, front) = ("tokenizers".to_string(), added_in_front(loaded).ok()?);
        let vectors = TokenizerVectors { made_by, front, texts: texts.map(vector).collect::<Option<_>>()? };
        // What the runtime would refuse is left out.
        let bytes = serde_json::to_vec(&vectors).ok()?.len();
        (bytes <= MAX_VECTOR_BYTES && vectors.check().is_ok()).then_some(vectors)
    };
    catch_panic("tokenizers", all).ok().flatten()
}

/// The parts of texts: pieces of words, spaces, digits, marks, characters of several code points.
const PARTS: [&str; 64] = [
    "a",
    "the",
    "The",
    " there",
    "ing",
    "HELLO",
    "'s",
    "'S",
    "'re",
    "'ll",
    "I'm",
    "don't",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "\n\n",
    " \n ",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "\u{200b}",
    "1",
    "12",
    "123",
    "1234567",
    "½",
    "²",
    "٣",
    "Ⅷ",
    ".",
    ",",
    "!?",
    "...",
    "(){}",
    "->",
    "::",
    "<",
    ">",
    "<|",
    "|>",
    "<0x0A>",
    "▁",
    "Ġ",
    "é",
    "e\u{301}",
    "ß",
    "ſ",
    "İ",
    "я",
    "日本",
    "語",
    "가",
    "\u{1100}\u{1161}",
    "नमस्ते",
    "ไทย",
    "\u{1F469}\u{200D}\u{1F680}",
    "\u{1F1E9}\u{1F1EA}",
    "\u{FFFD}",
    "\0",
    "\u{7f}",
    "\u{10FFFF}",
];

/// Whole texts.
const WHOLE: [&str; 3] = ["", "Once upon a time, there were 1234 of them.", "fn main() {\n    println!(\"{x}\");\n}\n"];

/// Texts of every kind: words and numbers of several scripts, spaces, code, characters of several code points, added
/// tokens whole and broken, and mixtures of all that.
fn texts(loaded: &Tokenizer) -> Vec<String> {
    let mut added: Vec<String> = loaded.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    added.sort();
    let mut texts: Vec<String> = PARTS.iter().map(|part| part.to_string()).collect();
    texts.extend(WHOLE.map(Into::into));
    texts.extend(["a".repeat(3000), " ".repeat(300), "ab ".repeat(200), "日本語".repeat(100)]);
    texts.extend(added.iter().flat_map(|token| [token.clone(), format!("a {token} b"), format!("{token}{token}")]));
    let mut numbers = nanoserve_format::SplitMix64::new(1);
    let mut random = |below: usize| (numbers.next_u64() % below as u64) as usize;
    for _ in 0..600 {
        let mut text = String::new();
        for _ in 0..1 + random(24) {
            match random(16) {
                0 => text.extend(char::from_u32(random(0x11_0000) as u32)),
                1 => text.extend(char::from_u32(random(0x3000) as u32)),
                2 if !added.is_empty() => {
                    let token = &added[random(added.len())];
                    text.extend(token.chars().take(1 + random(token.chars().count())));
                }
                3 if !added.is_empty() => text += &added[random(added.len())],
                _ => text += PARTS[random(PARTS.len())],
            }
        }
        texts.push(text);
    }
    texts
}
