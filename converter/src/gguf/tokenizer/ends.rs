//! Which tokens end a turn. A GGUF file names one or two of them; transformers reads the others from
//! generation_config.json, which the file does not have, so they are known by their texts.

use crate::gguf::tokenizer::pieces::{Kind, Pieces};

/// Texts that end a turn in every vocabulary that has them as a sign.
const ENDS: [&str; 11] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<|return|>",
    "<|call|>",
];

/// Whether a token with this text ends a turn.
pub(crate) fn is_end(text: &str) -> bool {
    ENDS.contains(&text)
}

/// The tokens that end a turn besides `eos`: those with keys of their own first.
pub(crate) fn turn_ends(pieces: &Pieces, eos: Option<u32>, named: [Option<u32>; 2]) -> Vec<u32> {
    let sign = |text: &str| pieces.id(text).filter(|&id| matches!(pieces.kind(id), Kind::Control | Kind::User));
    // Where an answer has several parts, <|end|> ends a part.
    let parts = sign("<|return|>").is_some() && sign("<|call|>").is_some();
    let known = ENDS.iter().filter(|text| !(parts && **text == "<|end|>")).filter_map(|text| sign(text));
    let mut ends = Vec::new();
    for id in named.into_iter().flatten().chain(known) {
        if Some(id) != eos && !ends.contains(&id) {
            ends.push(id);
        }
    }
    ends
}
