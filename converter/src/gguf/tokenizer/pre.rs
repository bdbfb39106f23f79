//! Byte-level BPE: what the names in `tokenizer.ggml.pre` stand for.
//!
//! A name stands for the steps of the tokenizer.json whose ids its makers have seen, and these steps are written down here.
//! llama.cpp has expressions of its own for most names; where the two differ, the model was trained with those here.
//! docs/gguf.md says for each name how it was shown that the ids are equal.

use crate::gguf::tokenizer::json::{Model, Steps};
use crate::gguf::tokenizer::metadata::Metadata;
use crate::gguf::tokenizer::pieces::Pieces;
use crate::gguf::tokenizer::{Parts, TokenizerProblem};
use crate::vocab_form::form;
use nanoserve_tokenizer::vocab::Contents;
use serde_json::{Value, json};

/// The expression of Llama 3 and of cl100k: numbers in threes.
const THREES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: single digits.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5's: marks belong to letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// That of o200k: a word begins with capitals.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: o200k's without English endings, single digits.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek V3's, one after the other.
const DEEPSEEK3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];

/// What splits a text.
enum Split {
    /// Expressions, one after the other.
    At(&'static [&'static str]),
    /// GPT-2's expression.
    Gpt2,
    /// GPT-2's, and single digits before.
    Digits,
}

/// What a name stands for.
struct Pre {
    names: &'static [&'static str],
    split: Split,
    /// Text is composed (NFC) first.
    nfc: bool,
    /// A piece that is a token is not merged.
    ignore_merges: bool,
    /// A text begins with BOS, where the file does not say.
    add_bos: bool,
}

const TABLE: [Pre; 11] = [
    Pre { ignore_merges: true, add_bos: true, ..pre(&["llama-bpe", "llama3", "llama-v3"], Split::At(&[THREES])) },
    Pre { ignore_merges: true, ..pre(&["smaug-bpe"], Split::At(&[THREES])) },
    Pre { ignore_merges: true, add_bos: true, ..pre(&["tekken"], Split::At(&[TEKKEN])) },
    pre(&["dbrx"], Split::At(&[THREES])),
    Pre { nfc: true, ..pre(&["qwen2"], Split::At(&[QWEN2])) },
    Pre { nfc: true, ..pre(&["qwen35"], Split::At(&[QWEN35])) },
    pre(&["smollm", "refact", "starcoder"], Split::Digits),
    pre(&["gpt-2"], Split::Gpt2),
    Pre { nfc: true, ..pre(&["command-r"], Split::Digits) },
    pre(&["gpt-4o"], Split::At(&[O200K])),
    pre(&["deepseek-v3"], Split::At(&DEEPSEEK3)),
];

const fn pre(names: &'static [&'static str], split: Split) -> Pre {
    Pre { names, split, nfc: false, ignore_merges: false, add_bos: false }
}

/// The names that are known.
pub(crate) fn names() -> Vec<&'static str> {
    TABLE.iter().flat_map(|pre| pre.names).copied().collect()
}

/// The first name that stands for the steps of a compiled vocabulary.
pub(crate) fn name_of(contents: &Contents) -> Option<&'static str> {
    let same = |pre: &&Pre| {
        let Steps { normalizer, pre_tokenizer, decoder } = pre.steps();
        let form = form(&json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder}));
        let split = form.is_some_and(|form| form.patterns.join("\0") == contents.pattern && form.nfc == contents.nfc);
        split && pre.ignore_merges == contents.ignore_merges && !contents.space_in_front
    };
    TABLE.iter().find(same).map(|pre| pre.names[0])
}

/// The parts of a byte-level tokenizer.
pub(crate) fn parts<'m>(metadata: &Metadata<'m>, pieces: &Pieces<'m>) -> Result<Parts<'m>, TokenizerProblem> {
    const PRE: &str = "tokenizer.ggml.pre";
    let got = metadata.text(PRE)?.ok_or(TokenizerProblem::Missing { key: PRE })?;
    let found = TABLE.iter().find(|pre| pre.names.contains(&got));
    let pre = found.ok_or_else(|| TokenizerProblem::Pre { got: got.to_string() })?;
    let merges = metadata.texts("tokenizer.ggml.merges")?;
    let merges = merges.ok_or(TokenizerProblem::Missing { key: "tokenizer.ggml.merges" })?;
    let each = merges.iter().enumerate();
    let merges = each.map(|(index, merge)| pair(pieces, merge).ok_or_else(|| wrong(index, merge)));
    let mut model = Model::new(pieces.iter().collect(), merges.collect::<Result<_, _>>()?);
    model.ignore_merges = pre.ignore_merges;
    Ok(Parts { steps: pre.steps(), model, added: pieces.added(), add_bos: pre.add_bos })
}

/// The halves of a merge. A token may begin with the space that separates them, so the first byte is skipped.
fn pair<'m>(pieces: &Pieces, merge: &'m str) -> Option<[&'m str; 2]> {
    let first = merge.chars().next()?.len_utf8();
    let (left, right) = merge.split_at(first + merge[first..].find(' ')?);
    let right = &right[1..];
    let known = |text: &str| pieces.id(text).is_some();
    (known(left) && known(right) && known(&[left, right].concat())).then_some([left, right])
}

fn wrong(index: usize, merge: &str) -> TokenizerProblem {
    TokenizerProblem::Merge { index, merge: merge.chars().take(80).collect() }
}

impl Pre {
    fn steps(&self) -> Steps {
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let at = |expression: &&str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
        let mut steps: Vec<Value> = match self.split {
            Split::At(expressions) => expressions.iter().map(at).collect(),
            Split::Gpt2 => Vec::new(),
            Split::Digits => vec![json!({"type": "Digits", "individual_digits": true})],
        };
        steps.push(bytes(!matches!(self.split, Split::At(_))));
        Steps {
            normalizer: if self.nfc { json!({"type": "NFC"}) } else { Value::Null },
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
            decoder: bytes(true),
        }
    }
}
