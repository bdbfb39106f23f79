//! The tokens of a file: texts and kinds.

use crate::gguf::kinds::Scalar;
use crate::gguf::tokenizer::TokenizerProblem;
use crate::gguf::tokenizer::ends::is_end;
use crate::gguf::tokenizer::json::Added;
use crate::gguf::tokenizer::metadata::{MOST, Metadata};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A part of text.
    Normal,
    /// What text without tokens becomes.
    Unknown,
    /// A sign between texts, which stands for itself wherever it is written.
    Control,
    /// A text that is one token wherever it is written.
    User,
    /// Nothing: the model has a row for it.
    Unused,
    /// One byte.
    Byte,
}

/// The tokens, by id.
pub(crate) struct Pieces<'m> {
    texts: Vec<&'m str>,
    kinds: Vec<Kind>,
    ids: HashMap<&'m str, u32>,
}

impl<'m> Pieces<'m> {
    /// The tokens with these texts. `named` are the ids under keys of their own: signs, if the file has no kinds.
    /// `respell` says that the model writes a space as `▁`, and that the file may do otherwise.
    pub fn read(
        metadata: &Metadata<'m>,
        mut texts: Vec<&'m str>,
        named: &[Option<u32>],
        respell: bool,
    ) -> Result<Pieces<'m>, TokenizerProblem> {
        let key = "tokenizer.ggml.token_type";
        let fits = |scalar| matches!(scalar, Scalar::Signed(4) | Scalar::Unsigned(4));
        let numbers = metadata.numbers(key, "a list of whole numbers of 32 bits", texts.len(), fits)?;
        let mut kinds = vec![Kind::Normal; texts.len()];
        match numbers {
            Some(numbers) => {
                for (id, (kind, n)) in kinds.iter_mut().zip(numbers).enumerate() {
                    *kind = match n {
                        0 | 1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::User,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        _ => return Err(TokenizerProblem::Kind { id, got: i64::from(n as i32) }),
                    };
                }
            }
            None => named.iter().flatten().for_each(|&id| kinds[id as usize] = Kind::Control),
        }
        let mut ids = HashMap::with_capacity(texts.len());
        for (id, (text, kind)) in texts.iter_mut().zip(&mut kinds).enumerate() {
            if respell && *kind == Kind::User {
                *text = marks(text).unwrap_or(text);
            }
            let text = *text;
            // Rows that were padded to a round number have texts that nobody writes.
            if text.is_empty() || (*kind == Kind::Unused && text == format!("[PAD{id}]")) {
                continue;
            }
            // Old files take these for words.
            if *kind == Kind::Normal && is_end(text) {
                *kind = Kind::Control;
            }
            if let Some(first) = ids.insert(text, id as u32) {
                let text = text.chars().take(40).collect();
                return Err(TokenizerProblem::Twice { first: first as usize, second: id, text });
            }
        }
        Ok(Pieces { texts, kinds, ids })
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// The text of an id.
    pub fn text(&self, id: u32) -> &'m str {
        self.texts[id as usize]
    }

    /// The kind of an id.
    pub fn kind(&self, id: u32) -> Kind {
        self.kinds[id as usize]
    }

    /// The id of a text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The tokens that have a text, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&'m str, u32)> {
        let each = self.texts.iter().enumerate().map(|(id, &text)| (text, id as u32));
        each.filter(|(text, id)| self.id(text) == Some(*id))
    }

    /// The tokens that stand for themselves wherever they are written.
    pub fn added(&self) -> Vec<Added<'m>> {
        let kinds = [Kind::Unknown, Kind::Control, Kind::User];
        let added = self.iter().filter(|&(_, id)| kinds.contains(&self.kind(id)));
        added.map(|(content, id)| Added::new(id, content, self.kind(id) != Kind::User)).collect()
    }
}

/// Spaces as `▁`; None if there is anything else, or more of them than any token has.
fn marks(text: &str) -> Option<&'static str> {
    const LONGEST: usize = 256;
    static MARKS: LazyLock<String> = LazyLock::new(|| "▁".repeat(LONGEST));
    let fits = text.len() <= LONGEST && text.bytes().all(|b| b == b' ');
    fits.then(|| &MARKS[..text.len() * "▁".len()])
}

/// The most entries that are read is also the most ids.
const _: () = assert!(MOST < u32::MAX as usize);
