//! Known answers of a model: proof that the file, and the kernels that run it, are right on this machine.

use crate::header::Hash;
use serde::{Deserialize, Serialize};

/// Number of largest logits kept for each position.
pub const KEPT_LOGITS: usize = 64;

/// The most bytes of a section of golden vectors, more than ten times what they take.
pub const MAX_GOLDEN_BYTES: usize = 256 << 10;

/// The most golden runs: one for each precision of the KV cache.
pub const MAX_GOLDEN_RUNS: usize = 2;

/// The most tokens of golden vectors: all are run, on every kernel path.
pub const MAX_GOLDEN_IDS: usize = 16;

/// The most bytes of a reference's section: about three times what [`MAX_REFERENCE_IDS`] tokens take.
pub const MAX_REFERENCE_BYTES: usize = 16 << 20;

/// The most tokens of a reference, which are run when a self-test is asked for.
pub const MAX_REFERENCE_IDS: usize = 4096;

/// The most bytes of a section of tokenizer vectors, about ten times what they take. They are read at each start.
pub const MAX_VECTOR_BYTES: usize = 256 << 10;

/// The most texts of tokenizer vectors.
pub const MAX_VECTOR_TEXTS: usize = 512;

/// The most ids of all texts together, and of those in front.
pub const MAX_VECTOR_IDS: usize = 16 << 10;

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

impl Golden {
    /// Checks that a file's own answers ask for no more than two runs of 16 tokens. A reference may have more, see
    /// [`Self::check_reference`].
    ///
    /// # Errors
    /// What there is too much of.
    pub fn check(&self) -> Result<(), String> {
        within("runs", self.runs.len(), MAX_GOLDEN_RUNS)?;
        within("ids", self.ids.len(), MAX_GOLDEN_IDS)?;
        self.runs.iter().try_for_each(|run| within("rows", run.rows.len(), MAX_GOLDEN_IDS))
    }

    /// Checks that a reference asks for no more than one run of 4096 tokens. It is run only when it is asked for.
    ///
    /// # Errors
    /// What there is too much of.
    pub fn check_reference(&self) -> Result<(), String> {
        within("runs", self.runs.len(), 1)?;
        within("ids", self.ids.len(), MAX_REFERENCE_IDS)?;
        let mut rows = self.runs.iter().flat_map(|run| &run.rows);
        within("rows", rows.clone().count(), MAX_REFERENCE_IDS)?;
        rows.try_for_each(|row| within("logits of a row", row.top.len(), KEPT_LOGITS))
    }
}

/// Refuses more than `most` of something.
fn within(what: &str, got: usize, most: usize) -> Result<(), String> {
    if got > most { Err(format!("it has {got} {what}, at most {most} are run")) } else { Ok(()) }
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

impl TokenizerVectors {
    /// Checks that they ask for no more work than a start may take.
    ///
    /// # Errors
    /// What there is too much of.
    pub fn check(&self) -> Result<(), String> {
        within("texts", self.texts.len(), MAX_VECTOR_TEXTS)?;
        within("leading ids", self.front.len(), MAX_VECTOR_IDS)?;
        within("ids", self.texts.iter().map(|text| text.ids.len()).sum(), MAX_VECTOR_IDS)
    }
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
    use crate::{NsvFile, SectionKind, tiny};

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
    fn more_than_is_run_is_refused() {
        let row = GoldenRow { position: 0, hash: None, top: Vec::new() };
        let golden = |runs: usize, ids: usize, rows: usize| Golden {
            made_by: String::new(),
            ids: vec![0; ids],
            runs: vec![GoldenRun { kv: "f32".into(), rows: vec![row.clone(); rows] }; runs],
        };
        assert_eq!(golden(2, 16, 16).check(), Ok(()));
        for (too_much, what) in
            [(golden(3, 16, 1), "3 runs"), (golden(1, 17, 1), "17 ids"), (golden(1, 1, 17), "17 rows")]
        {
            assert!(too_much.check().unwrap_err().contains(what));
        }
        assert_eq!(golden(1, 4096, 4096).check_reference(), Ok(()));
        for (too_much, what) in
            [(golden(2, 1, 1), "2 runs"), (golden(1, 4097, 1), "4097 ids"), (golden(1, 1, 4097), "4097 rows")]
        {
            assert!(too_much.check_reference().unwrap_err().contains(what));
        }
        let mut wide = golden(1, 1, 1);
        wide.runs[0].rows[0].top = vec![(0, 0.0); 65];
        assert!(wide.check_reference().unwrap_err().contains("65 logits of a row"));
        let text = |ids: usize| TokenizerVector { text: "a".into(), ids: vec![0; ids], back: "a".into() };
        let vectors = |texts: Vec<TokenizerVector>| TokenizerVectors { texts, ..TokenizerVectors::default() };
        assert_eq!(vectors(vec![text(32); 512]).check(), Ok(()));
        assert!(vectors(vec![text(1); 513]).check().unwrap_err().contains("513 texts"));
        assert!(vectors(vec![text(8193); 2]).check().unwrap_err().contains("16386 ids"));
        assert!(TokenizerVectors { front: vec![0; 16385], ..vectors(Vec::new()) }.check().is_err());
    }

    /// The sections of a file, right hashes and all, that ask for too much.
    #[test]
    fn sections_that_ask_for_too_much_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let opened = |golden: String, vectors: String| {
            let path = folder.path().join("model.nsv");
            let mut plan = tiny::plan();
            plan.section(SectionKind::Golden, golden.into_bytes());
            plan.section(SectionKind::TokenizerVectors, vectors.into_bytes());
            tiny::write(&path, plan, |_| 0);
            let file = NsvFile::open(&path).unwrap();
            (file.golden().map_err(|e| e.to_string()), file.tokenizer_vectors().map_err(|e| e.to_string()))
        };
        let ids = |count: usize| vec!["1"; count].join(",");
        let golden = |ids: String| format!(r#"{{"made_by":"","ids":[{ids}],"runs":[]}}"#);
        let vectors =
            |ids: String| format!(r#"{{"made_by":"","front":[],"texts":[{{"text":"","ids":[{ids}],"back":""}}]}}"#);
        let (good, fine) = opened(golden(ids(16)), vectors(ids(100)));
        assert_eq!((good.unwrap().unwrap().ids.len(), fine.unwrap().unwrap().texts.len()), (16, 1));
        let (many, too) = opened(golden(ids(17)), vectors(ids(16_385)));
        assert!(many.unwrap_err().contains("17 ids") && too.unwrap_err().contains("16385 ids"));
        let reference = |text: String| {
            let (path, mut plan) = (folder.path().join("model.nsv"), tiny::plan());
            plan.section(SectionKind::Reference, text.into_bytes());
            tiny::write(&path, plan, |_| 0);
            NsvFile::open(&path).unwrap().reference().map_err(|e| e.to_string())
        };
        assert_eq!(reference(golden(ids(4096))).unwrap().unwrap().ids.len(), 4096);
        assert!(reference(golden(ids(4097))).unwrap_err().contains("4097 ids"));
        assert!(reference(" ".repeat(17 << 20)).unwrap_err().contains("17825792 bytes"));
        // Not parsed, so that their length is all that is said.
        let (long, also) = opened(" ".repeat(300_000), vectors(ids(200_000)));
        assert!(long.unwrap_err().contains("300000 bytes") && also.unwrap_err().contains("bytes, at most 262144"));
    }

    #[test]
    fn json_keeps_every_bit() {
        let logits: Vec<f32> = (1..=64u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) & 0xbfff_ffff)).collect();
        let row = GoldenRow::of(0, &logits);
        let back: GoldenRow = serde_json::from_slice(&serde_json::to_vec(&row).unwrap()).unwrap();
        assert_eq!(back, row);
    }
}
