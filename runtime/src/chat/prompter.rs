//! The ids of a growing conversation's prompts, with those of its answers as they were chosen.

use nanoserve_tokenizer::{Tokenizer, TokenizerError};

/// How many ids before a text are looked at where it is to be seen whether the text follows them as it stands.
const CONTEXT: usize = 16;

/// A part of the last prompt, or an answer.
#[derive(Clone, Debug)]
struct Part {
    text: String,
    ids: Vec<u32>,
}

/// Encodes the prompts of a growing conversation, one after the other.
///
/// An answer keeps the ids that it was chosen in, which may be others than those that its text encodes to, and special
/// tokens that its text does not show. What the template writes otherwise than it was said is encoded anew, and all
/// behind it.
///
/// ```text
/// parts      prompt | answer | what the template wrote between | answer | ...      as texts and as ids
/// new text   the parts that it begins with keep their ids; the rest is encoded
/// ```
#[derive(Clone, Debug, Default)]
pub struct Prompter {
    parts: Vec<Part>,
}

impl Prompter {
    /// The token ids of a rendered text.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn ids(&self, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
        let mut ends = vec![0];
        for part in &self.parts {
            let end = ends[ends.len() - 1];
            if !text[end..].starts_with(&part.text) {
                break;
            }
            ends.push(end + part.text.len());
        }
        while let (kept @ 1.., Some(end)) = (ends.len() - 1, ends.pop()) {
            let ids: Vec<u32> = self.parts[..kept].iter().flat_map(|part| part.ids.iter().copied()).collect();
            if let Some(new) = following(&ids, text, end, tokenizer)? {
                return Ok([ids, new].concat());
            }
        }
        tokenizer.encode(text, false)
    }

    /// Remembers a prompt and its answer: the text that the conversation holds of it, and the ids that it was chosen in,
    /// without the token that ended it. None where no ids have just this text: it is then encoded with the next prompt.
    pub fn answered(&mut self, prompt: &str, prompt_ids: &[u32], answer: &str, ids: Option<&[u32]>) {
        let (mut text, mut rest) = (prompt, prompt_ids);
        let mut kept = 0;
        for part in &self.parts {
            let (Some(text_behind), Some(ids_behind)) =
                (text.strip_prefix(&part.text[..]), rest.strip_prefix(&part.ids[..]))
            else {
                break;
            };
            (text, rest) = (text_behind, ids_behind);
            kept += 1;
        }
        self.parts.truncate(kept);
        self.parts.push(Part { text: text.to_string(), ids: rest.to_vec() });
        self.parts.extend(ids.map(|ids| Part { text: answer.to_string(), ids: ids.to_vec() }));
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.parts.clear();
    }
}

/// The ids of `text[end..]` behind `ids`, which are those of the text before; None if no encoding of it follows them.
fn following(ids: &[u32], text: &str, end: usize, tokenizer: &Tokenizer) -> Result<Option<Vec<u32>>, TokenizerError> {
    let (before, new) = text.split_at(end);
    let alone = tokenizer.encode(new, false)?;
    if new.is_empty() || alone.first().is_some_and(|&id| tokenizer.is_special(id)) {
        return Ok(Some(alone));
    }
    // As the whole text has it, where that divides here as well.
    let whole = tokenizer.encode(text, false)?;
    if let Some(behind) = whole.strip_prefix(&tokenizer.encode(before, false)?[..]) {
        return Ok(Some(behind.to_vec()));
    }
    // By itself, unless the tokenizer puts a space in front of it, as some do with whatever begins a text.
    let context = &ids[ids.len().saturating_sub(CONTEXT)..];
    let decoded = tokenizer.decode(&[context, &alone].concat(), false)?;
    let follows = decoded.strip_prefix(&tokenizer.decode(context, false)?[..]) == Some(new);
    Ok(follows.then_some(alone))
}
