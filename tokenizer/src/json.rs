//! Reads a tokenizer.json with the `tokenizers` crate, and checks it: the crate expects good files.

use crate::error::{Result, TokenizerError};
use crate::panic::catch_panic;
use crate::pieces::Pieces;
use crate::vocab::check_steps;
use serde::Deserialize;
use tokenizers::models::ModelWrapper;
use tokenizers::{DecoderWrapper, Encoding, Token, Tokenizer};

/// Calls the `tokenizers` crate; a panic becomes an error.
pub(crate) fn call_library<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_panic("tokenizers", work)?
}

/// Loads a tokenizer.json once its steps are checked ([`check_steps`]). Truncation and padding are for training, and a
/// padding may be of any length: both are switched off.
///
/// # Errors
/// When a step is refused, or the `tokenizers` crate does not understand the bytes or panics.
pub fn load_json(bytes: &[u8]) -> Result<Tokenizer> {
    let unreadable = |source| TokenizerError::Json { source };
    check_steps(bytes)?;
    let mut loaded = call_library(|| Tokenizer::from_bytes(bytes)).map_err(unreadable)?;
    loaded.with_truncation(None).map_err(unreadable)?;
    loaded.with_padding(None);
    Ok(loaded)
}

/// Switches merge dropout off, so that every text has one encoding.
pub(crate) fn switch_dropout_off(loaded: &mut Tokenizer) {
    if let ModelWrapper::BPE(bpe) = loaded.get_model()
        && bpe.dropout.is_some()
    {
        let mut steady = bpe.clone();
        steady.dropout = None;
        loaded.with_model(ModelWrapper::BPE(steady));
    }
}

/// Checks the ids of added tokens. The `tokenizers` crate numbers those that the model lacks consecutively, whatever
/// ids the file gives them; with other ids, the model would be fed the wrong rows.
pub(crate) fn check_added_ids(bytes: &[u8], loaded: &Tokenizer) -> Result<()> {
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
        match loaded.token_to_id(&content) {
            Some(got) if got != expected => return Err(TokenizerError::AddedId { content, got, expected }),
            _ => {}
        }
    }
    Ok(())
}

/// The ids that the post-processor puts in front of a text: it is given a text of one token, and marks what it adds.
///
/// # Errors
/// When the post-processor fails, or panics.
pub fn added_in_front(loaded: &Tokenizer) -> tokenizers::Result<Vec<u32>> {
    let probe = Encoding::from_tokens(vec![Token::new(0, "a".to_owned(), (0, 1))], 0);
    let processed = call_library(|| loaded.post_process(probe, None, true))?;
    let added = processed.get_special_tokens_mask().iter().take_while(|&&mark| mark == 1).count();
    Ok(processed.get_ids()[..added].to_vec())
}

/// What kind of pieces a decoder expects.
pub(crate) fn pieces_of(decoder: Option<&DecoderWrapper>) -> Result<Pieces> {
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
