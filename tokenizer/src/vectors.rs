//! Checks a tokenizer against the recorded results of the one it was made from.

use crate::error::{Result, TokenizerError};
use crate::tokenizer::Tokenizer;
use nanoserve_format::{TokenizerVector, TokenizerVectors};

impl Tokenizer {
    /// Encodes and decodes the texts that a file records for this check. `add_bos` is the model's setting for BOS, as
    /// in [`Self::from_json`].
    ///
    /// # Errors
    /// The first difference, as [`TokenizerError::Vectors`].
    pub fn check_against(&self, vectors: &TokenizerVectors, add_bos: Option<bool>) -> Result<()> {
        for TokenizerVector { text, ids, back } in &vectors.texts {
            let differs = |got: String, expected: String| {
                if got == expected {
                    Ok(())
                } else {
                    Err(TokenizerError::Vectors { text: text.clone(), got, expected })
                }
            };
            let got = self.encode(text, false)?;
            if got != *ids {
                differs(format!("{got:?}"), format!("{ids:?}"))?;
            }
            differs(self.decode(ids, false)?, back.clone())?;
            // The model's setting for BOS may differ from the tokenizer's.
            if add_bos.is_none() && !ids.is_empty() && !vectors.front.contains(&ids[0]) {
                let (got, expected) = (self.encode(text, true)?, [&vectors.front[..], ids].concat());
                differs(format!("{got:?}"), format!("{expected:?}"))?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::*;
    use crate::testing::{BOS, byte_level};

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
