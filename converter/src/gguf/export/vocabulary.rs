//! A compiled vocabulary as the metadata of a GGUF file: what tokenizer.rs reads, written.

use crate::gguf::export::head::{Keys, Meta};
use crate::gguf::tokenizer::{is_end, pre_name};
use nanoserve_format::GenerationDefaults;
use nanoserve_tokenizer::vocab::{CompiledVocabulary, Contents, Family, Prefix, fallback_byte};
use std::collections::{BTreeSet, HashMap};

/// Numbers of the kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The keys of a vocabulary for a model of `rows` rows.
///
/// # Errors
/// Why there are none.
pub(super) fn keys(
    vocabulary: &CompiledVocabulary,
    contents: &Contents,
    generation: &GenerationDefaults,
    rows: usize,
) -> Result<Keys, String> {
    let named = |name: &str| generation.special_tokens.get(name);
    let added: HashMap<u32, bool> =
        contents.added.iter().chain(&contents.added_normalized).map(|a| (a.id, a.right)).collect();
    let unknown_text = named("unk_token");
    let (mut texts, mut kinds) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut unknown = None;
    for id in 0..rows as u32 {
        // Rows that were added to a round number have no text.
        let Some(text) = vocabulary.piece(id) else {
            texts.push(format!("[PAD{id}]"));
            kinds.push(UNUSED);
            continue;
        };
        let family = contents.family;
        let kind = if family == Family::Text && Some(&text) == unknown_text {
            unknown = Some(id);
            UNKNOWN
        } else if added.contains_key(&id) {
            if vocabulary.is_special(id) { CONTROL } else { USER }
        } else if family == Family::Text && fallback_byte(&text).is_some() {
            BYTE
        } else {
            NORMAL
        };
        // Readers search for it in the text as it was written.
        let spaces = kind == USER && family == Family::Text && text.chars().all(|c| c == '▁');
        texts.push(if spaces { text.replace('▁', " ") } else { text });
        kinds.push(kind);
    }
    let id_of = |text: Option<&String>| {
        let text = text?;
        let added = contents.added.iter().chain(&contents.added_normalized).find(|token| token.text == *text);
        added.map(|token| token.id).or_else(|| texts.iter().position(|one| one == text).map(|id| id as u32))
    };
    let ids = [
        ("bos_token_id", generation.bos_id),
        ("unknown_token_id", unknown.or_else(|| id_of(unknown_text))),
        ("padding_token_id", id_of(named("pad_token"))),
    ];
    let ids: Vec<(&str, Option<u32>)> = ids.into_iter().chain(ends(contents, generation)).collect();

    let mut keys = Keys::new();
    let mut put = |name: &str, value: Meta| keys.push((format!("tokenizer.ggml.{name}"), value));
    match contents.family {
        Family::ByteLevel => {
            let pre = pre_name(contents).ok_or("no name in GGUF files stands for how it splits text")?;
            put("model", Meta::Text("gpt2".to_string()));
            put("pre", Meta::Text(pre.to_string()));
            let pair = |merge: &[u32; 4]| format!("{} {}", texts[merge[0] as usize], texts[merge[1] as usize]);
            if contents.merges.iter().any(|merge| merge[0].max(merge[1]) as usize >= rows) {
                return Err("its merges name tokens without a row".to_string());
            }
            put("merges", Meta::Texts(contents.merges.iter().map(pair).collect()));
        }
        Family::Text => {
            put("model", Meta::Text("llama".to_string()));
            put("pre", Meta::Text("default".to_string()));
            put("scores", Meta::F32s(scores(contents, rows)));
            put("add_space_prefix", Meta::Bool(contents.prefix != Prefix::Never));
        }
    }
    put("tokens", Meta::Texts(texts));
    put("token_type", Meta::I32s(kinds));
    for (name, id) in ids {
        if let Some(id) = id.filter(|&id| (id as usize) < rows) {
            put(name, Meta::U32(id));
        }
    }
    put("add_bos_token", Meta::Bool(!contents.lead.is_empty() || generation.add_bos == Some(true)));
    Ok(keys)
}

/// The tokens that end a text or an answer. Those that readers know by their texts need no key.
fn ends(contents: &Contents, generation: &GenerationDefaults) -> [(&'static str, Option<u32>); 3] {
    let added = contents.added.iter().chain(&contents.added_normalized);
    let known: BTreeSet<u32> = added.filter(|token| is_end(&token.text)).map(|token| token.id).collect();
    let eos = generation.eos_ids.first().copied();
    let others = generation.eos_ids.iter().skip(1).chain(&generation.turn_end_ids).copied();
    let mut others: Vec<u32> = others.filter(|&id| Some(id) != eos).collect();
    others.sort_by_key(|id| known.contains(id));
    let mut others = others.into_iter();
    [("eos_token_id", eos), ("eot_token_id", others.next()), ("eom_token_id", others.next())]
}

/// A score for each token: the earlier it is merged, the better. What no merge makes comes after all.
fn scores(contents: &Contents, rows: usize) -> Vec<f32> {
    let mut scores: Vec<Option<usize>> = vec![None; rows];
    for (place, merge) in contents.merges.iter().enumerate() {
        if let Some(score) = scores.get_mut(merge[3] as usize) {
            score.get_or_insert(place);
        }
    }
    let last = contents.merges.len();
    scores.iter().enumerate().map(|(id, place)| -(place.unwrap_or(last + id) as f32)).collect()
}

/// Compares what a reader makes of the keys with the vocabulary that they were made of. Returns what was lost of it
/// though most texts keep their ids.
///
/// # Errors
/// What differs that no text is safe from.
pub(super) fn compare(own: &Contents, read: &Contents, rows: usize) -> Result<Vec<&'static str>, String> {
    let merges =
        |contents: &Contents| -> Vec<[u32; 3]> { contents.merges.iter().map(|m| [m[0], m[1], m[3]]).collect() };
    let bytes = |contents: &Contents| -> Vec<Option<Vec<u8>>> {
        let pieces = contents.pieces.iter().take(rows);
        let mut all: Vec<_> = pieces.map(|piece| piece.as_ref().map(|piece| piece.bytes.clone())).collect();
        all.resize(rows, None);
        all
    };
    let fatal = [
        (own.family == read.family && own.nfc == read.nfc && own.pattern == read.pattern, "how text is split"),
        (own.ignore_merges == read.ignore_merges, "whether a piece that is a token is merged"),
        (bytes(own) == bytes(read), "the texts of its tokens"),
        (own.byte_ids == read.byte_ids, "the tokens of its bytes"),
        (merges(own) == merges(read), "the order of its merges"),
    ];
    if let Some((_, what)) = fatal.iter().find(|(same, _)| !same) {
        return Err(format!("a reader would not find {what} again"));
    }
    let signs = |contents: &Contents| -> BTreeSet<(u32, String)> {
        let all = contents.added.iter().chain(&contents.added_normalized);
        all.filter(|token| (token.id as usize) < rows).map(|token| (token.id, token.text.clone())).collect()
    };
    let special = |contents: &Contents| -> Vec<bool> {
        contents.pieces.iter().take(rows).map(|piece| piece.as_ref().is_some_and(|piece| piece.special)).collect()
    };
    let spaces = |c: &Contents| (c.prefix, c.keep_space, c.split_spaces, c.space_in_front);
    let lost = [
        (signs(own) == signs(read), "tokens that stand for themselves in a text"),
        (
            (&own.added, &own.added_normalized) == (&read.added, &read.added_normalized),
            "which spaces such tokens take along",
        ),
        (special(own) == special(read), "which tokens are left out of printed text"),
        (spaces(own) == spaces(read), "where a space is put in front"),
        (own.lead == read.lead, "the tokens in front of a text"),
    ];
    Ok(lost.into_iter().filter(|(same, _)| !same).map(|(_, what)| what).collect())
}
