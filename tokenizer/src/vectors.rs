//! Checks a tokenizer against the recorded results of the one it was made from.

use crate::error::{Result, TokenizerError};
use crate::tokenizer::Tokenizer;
use crate::vocab::Budget;
use nanoserve_format::{TokenizerVector, TokenizerVectors};

impl Tokenizer {
    /// Encodes and decodes the texts that a file records for this check. `add_bos` is the model's setting for BOS, as
    /// in [`Self::from_json`]. All texts have one budget together, and the vectors are within the format's bounds.
    ///
    /// # Errors
    /// The first difference, as [`TokenizerError::Vectors`]; texts that take more work than they may.
    pub fn check_against(&self, vectors: &TokenizerVectors, add_bos: Option<bool>) -> Result<()> {
        let budget = &mut Budget::new(vectors.texts.iter().map(|vector| vector.text.len()).sum());
        for TokenizerVector { text, ids, back } in &vectors.texts {
            let differs = |got: String, expected: String| {
                if got == expected {
                    Ok(())
                } else {
                    let [text, got, expected] = [text, &got, &expected].map(|shown| beginning(shown));
                    Err(TokenizerError::Vectors { text, got, expected })
                }
            };
            let got = self.encode_within(text, false, budget)?;
            if got != *ids {
                differs(format!("{got:?}"), format!("{ids:?}"))?;
            }
            differs(self.decode(ids, false)?, back.clone())?;
            // The model's setting for BOS may differ from the tokenizer's.
            if add_bos.is_none() && !ids.is_empty() && !vectors.front.contains(&ids[0]) {
                let (got, expected) = (self.encode_within(text, true, budget)?, [&vectors.front[..], ids].concat());
                differs(format!("{got:?}"), format!("{expected:?}"))?;
            }
        }
        Ok(())
    }
}

/// The most bytes of a text, or of its ids, in an error.
const SHOWN: usize = 200;

/// A text as an error shows it.
fn beginning(text: &str) -> String {
    let end = (0..=SHOWN.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    if end < text.len() { format!("{}...", &text[..end]) } else { text.to_string() }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::*;
    use crate::testing::{BOS, byte_level};

    #[test]
    fn a_long_text_is_not_shown_whole() {
        let tokenizer = byte_level();
        let vector = TokenizerVector { text: "é".repeat(10_000), ids: vec![256; 10_000], back: "he".repeat(10_000) };
        let vectors = TokenizerVectors { texts: vec![vector], ..TokenizerVectors::default() };
        let error = tokenizer.check_against(&vectors, None).unwrap_err().to_string();
        assert!(error.len() < 1000 && error.contains("ééé"), "{error}");
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let tokenizer = byte_level();
        let hello = TokenizerVector { text: "hello".into(), ids: vec![256, 257, 111], back: "hello".into() };
        let vectors = |front: u32, hello: &TokenizerVector| TokenizerVectors {
            made_by: "somebody".into(),
            front: vec![front],
            texts: vec![hello.clone()],
        };
        tokenizer.check_against(&vectors(BOS, &hello), None).unwrap();
        let found = |vectors: TokenizerVectors, add_bos| match tokenizer.check_against(&vectors, add_bos) {
            Err(TokenizerError::Vectors { text, got, expected }) if text == "hello" => (got, expected),
            other => panic!("{other:?}"),
        };
        let other_ids = TokenizerVector { ids: vec![256, 111], ..hello.clone() };
        assert_eq!(found(vectors(BOS, &other_ids), None), ("[256, 257, 111]".into(), "[256, 111]".into()));
        let other_back = TokenizerVector { back: "hallo".into(), ..hello.clone() };
        assert_eq!(found(vectors(BOS, &other_back), None), ("hello".into(), "hallo".into()));
        let front = found(vectors(7, &hello), None);
        assert_eq!(front, ("[262, 256, 257, 111]".into(), "[7, 256, 257, 111]".into()));
        // If the model has a setting for BOS, the ids in front are not compared.
        tokenizer.check_against(&vectors(7, &hello), Some(true)).unwrap();
    }
}
