//! SentencePiece BPE: merges from scores.
//!
//! Such a vocabulary has no list of merges: two neighbours are merged if together they are a token, the token with the best
//! score first. A tokenizer.json has a list, and transformers makes it so:
//!
//! ```text
//! for each token, for each place to cut it: a merge, if both parts are tokens
//! sorted by the token's score, then by the length of the left part, both descending; then as they came
//! ```
//!
//! The traps: the file of a Gemma model has other scores than its vocabulary for the tokens that the user defined, which are
//! runs of spaces and lines; and those of several spaces stand in the file with spaces, where the model has `▁`.

use crate::gguf::kinds::Scalar;
use crate::gguf::tokenizer::json::{Model, Steps};
use crate::gguf::tokenizer::metadata::Metadata;
use crate::gguf::tokenizer::pieces::{Kind, Pieces};
use crate::gguf::tokenizer::{Parts, TokenizerProblem};
use serde_json::{Value, json};
use std::cmp::Ordering;

/// The most work, in bytes of parts looked up. Gemma's 262144 tokens need 16 million.
const MOST_WORK: usize = 1 << 28;

/// The parts of a SentencePiece tokenizer.
pub(crate) fn parts<'m>(
    metadata: &Metadata<'m>,
    pieces: &Pieces<'m>,
    unknown: Option<u32>,
    architecture: &str,
) -> Result<Parts<'m>, TokenizerProblem> {
    let gemma = architecture.starts_with("gemma");
    let key = "tokenizer.ggml.scores";
    let fits = |scalar| scalar == Scalar::Float(4);
    let scores = metadata.numbers(key, "a list of numbers of 32 bits", pieces.len(), fits)?;
    let scores = scores.ok_or(TokenizerProblem::Missing { key })?.map(f32::from_bits).collect::<Vec<f32>>();
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(TokenizerProblem::Score { id });
    }
    for byte in 0..=255u8 {
        let expected = format!("<0x{byte:02X}>");
        if pieces.id(&expected).is_none() {
            return Err(TokenizerProblem::Byte { byte, expected });
        }
    }
    let scores = if gemma { by_id(pieces) } else { scores };
    let mut model = Model::new(pieces.iter().collect(), merges(pieces, &scores)?);
    // Every byte has a token, so this one is never needed.
    model.unk_token = unknown.map(|id| pieces.text(id));
    (model.fuse_unk, model.byte_fallback) = (true, true);
    let prefix = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(!gemma);
    let mut added = pieces.added();
    if architecture == "phi3" {
        // What the file does not say: they take the spaces after them along.
        for token in &mut added {
            token.rstrip = !["<unk>", "<s>", "<|endoftext|>"].contains(&token.content);
        }
    }
    Ok(Parts { steps: steps(prefix), model, added, add_bos: true })
}

/// The scores of a Gemma model's own vocabulary: tokens that the user defined come first, all alike, then the others by id.
/// The file has others for some, so that those would come last.
fn by_id(pieces: &Pieces) -> Vec<f32> {
    let ids = || 0..pieces.len() as u32;
    let first = ids().find(|&id| pieces.kind(id) == Kind::Normal).unwrap_or(0);
    let score = |id| if pieces.kind(id) == Kind::Normal { first as f32 - id as f32 } else { 0.0 };
    ids().map(score).collect()
}

/// The merges in the order in which they happen.
fn merges<'m>(pieces: &Pieces<'m>, scores: &[f32]) -> Result<Vec<[&'m str; 2]>, TokenizerProblem> {
    let work: usize =
        pieces.iter().map(|(text, _)| text.len().saturating_mul(text.len())).fold(0, usize::saturating_add);
    if work > MOST_WORK {
        return Err(TokenizerProblem::Parts { most: MOST_WORK });
    }
    /// A merge, and what orders it.
    struct Merge<'m> {
        score: f32,
        /// Characters of the left part, and of the right one.
        chars: [usize; 2],
        pair: [&'m str; 2],
    }
    let known = |text: &str| pieces.id(text).is_some();
    let mut all = Vec::new();
    for (text, id) in pieces.iter() {
        let chars = text.chars().count();
        let score = scores[id as usize];
        for (left_chars, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(at);
            if known(left) && known(right) {
                all.push(Merge { score, chars: [left_chars, chars - left_chars], pair: [left, right] });
            }
        }
    }
    // Stable: tokens with equal scores stay in the order of their ids. Of one token, the lengths differ.
    // No score is NaN.
    let better = |a: &Merge, b: &Merge| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
    all.sort_by(|a, b| better(a, b).then(b.chars.cmp(&a.chars)));
    Ok(all.into_iter().map(|merge| merge.pair).collect())
}

/// How text is prepared: spaces become `▁`, and with a `prefix` one more stands in front.
fn steps(prefix: bool) -> Steps {
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let mut normalizers = vec![replace(" ", "▁")];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Steps {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
    }
}
