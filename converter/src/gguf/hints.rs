//! What the owner of a GGUF file can do about its problems.

use crate::error::What;

/// What to do about a problem of a file; None if there is no advice.
pub(crate) fn hint(what: &What) -> Option<String> {
    let hint = match what {
        What::Header { .. } | What::ShardMissing => "the download may have broken off: fetch the file again",
        What::TensorMissing | What::TensorUnknown => "the file has parts that are not supported, or is damaged",
        What::Unsupported { .. } => "convert the original checkpoint, if its family is supported",
        What::NotAFile { .. } => "give the .gguf file itself",
        What::NotHeld { .. } => "convert the original again, to q8, f16 or f32, and export that",
        What::TokenId { .. } => "the file's tokenizer is of another model",
        _ => return None,
    };
    Some(hint.to_string())
}
