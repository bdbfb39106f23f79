//! Known answers of a model: proof that the file, and the kernels that run it, are right on this machine.

use crate::header::Hash;
use serde::{Deserialize, Serialize};

/// Number of largest logits kept for each position.
pub const KEPT_LOGITS: usize = 64;

/// A model's answers to a sequence of tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// What computed it: the program and its kernels, or the reference's file and hash.
    pub made_by: String,
    /// The tokens.
    pub ids: Vec<u32>,
    /// One run for each precision of the KV cache; a reference has one.
    pub runs: Vec<GoldenRun>,
}

/// The answers of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenRun {
    /// Precision of the KV cache: `f32` or `f16`.
    pub kv: String,
    /// The recorded positions, ascending.
    pub rows: Vec<GoldenRow>,
}

/// The logits after one token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenRow {
    /// Position of the token.
    pub position: usize,
    /// BLAKE3, hex, of the f32 bits of all logits; None if they were computed with other arithmetic.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hash: Option<String>,
    /// The [`KEPT_LOGITS`] largest logits, `(id, logit)`, the largest first, equal ones by id.
    pub top: Vec<(u32, f32)>,
}

impl GoldenRow {
    /// The row for the logits (`[vocab_size]`) after the token at `position`; they are hashed as little-endian bytes.
    pub fn of(position: usize, logits: &[f32]) -> GoldenRow {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let larger = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let kept = KEPT_LOGITS.min(order.len());
        if kept < order.len() {
            order.select_nth_unstable_by(kept, larger);
        }
        order.truncate(kept);
        order.sort_unstable_by(larger);
        let hash: Hash = blake3::hash(bytemuck::cast_slice(logits)).into();
        let top = order.into_iter().map(|id| (id, logits[id as usize])).collect();
        GoldenRow { position, hash: Some(crate::hex(&hash)), top }
    }
}

/// Texts as the source's tokenizer encodes and decodes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerVectors {
    /// What made them.
    pub made_by: String,
    /// Tokens put in front of a text by default.
    pub front: Vec<u32>,
    /// Texts, their ids with nothing added around them, and the text that the ids decode to.
    pub texts: Vec<TokenizerVector>,
}

/// A text and its ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerVector {
    /// The text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
    /// The text that the ids decode to, special tokens included.
    pub back: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_equal_ones_by_id() {
        let logits: Vec<f32> = (0..200).map(|i| (i * 7 % 50) as f32).collect();
        let row = GoldenRow::of(3, &logits);
        assert_eq!(row.top.len(), KEPT_LOGITS);
        assert_eq!(row.top[0], (7, 49.0));
        assert_eq!(row.top[1], (57, 49.0));
        assert!(row.top.windows(2).all(|w| w[0].1 > w[1].1 || w[0].1 == w[1].1 && w[0].0 < w[1].0));
        assert_eq!(GoldenRow::of(0, &[1.0, f32::NAN]).top.len(), 2);
    }

    #[test]
    fn json_keeps_every_bit() {
        let logits: Vec<f32> = (1..=64u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) & 0xbfff_ffff)).collect();
        let row = GoldenRow::of(0, &logits);
        let back: GoldenRow = serde_json::from_slice(&serde_json::to_vec(&row).unwrap()).unwrap();
        assert_eq!(back, row);
    }
}
