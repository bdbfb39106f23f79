//! The keys of a tokenizer, each by its type.

use crate::gguf::container::{Header, Value};
use crate::gguf::keys::name_of;
use crate::gguf::kinds::Scalar;
use crate::gguf::tokenizer::TokenizerProblem;
use crate::sidecars::Templates;

/// The most tokens or merges that are read: more than any vocabulary has.
pub(crate) const MOST: usize = 1 << 22;
const TEMPLATE: &str = "tokenizer.chat_template";

/// The metadata of a file.
#[derive(Clone, Copy)]
pub(crate) struct Metadata<'m> {
    header: &'m Header,
    bytes: &'m [u8],
}

impl<'m> Metadata<'m> {
    /// The metadata of `header`, which was parsed from `bytes`, the whole file.
    pub fn new(header: &'m Header, bytes: &'m [u8]) -> Metadata<'m> {
        Metadata { header, bytes }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'m Value) -> Option<T>,
    ) -> Result<Option<T>, TokenizerProblem> {
        let Some(value) = self.header.get(key) else { return Ok(None) };
        let wrong = || TokenizerProblem::Type { key: key.to_string(), got: name_of(value), expected };
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'m str>, TokenizerProblem> {
        self.typed(key, "a text", |value| match value {
            Value::Text(range) => str::from_utf8(&self.bytes[range.clone()]).ok(),
            _ => None,
        })
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, TokenizerProblem> {
        self.typed(key, "a truth value", |value| if let Value::Bool(on) = value { Some(*on) } else { None })
    }

    /// The id of one of `tokens` tokens.
    pub fn id(&self, key: &'static str, tokens: usize) -> Result<Option<u32>, TokenizerProblem> {
        let number = self.typed(key, "a whole number", |value| match *value {
            Value::Unsigned(n) => Some(i128::from(n)),
            Value::Signed(n) => Some(i128::from(n)),
            _ => None,
        })?;
        let known = |got| match u32::try_from(got) {
            Ok(id) if (id as usize) < tokens => Ok(id),
            _ => Err(TokenizerProblem::Id { key, got, tokens }),
        };
        number.map(known).transpose()
    }

    /// Texts, in the file's order.
    pub fn texts(&self, key: &'static str) -> Result<Option<Vec<&'m str>>, TokenizerProblem> {
        let found = self.typed(key, "a list of texts", |value| match value {
            Value::Texts(count, range) => Some((*count, &self.bytes[range.clone()])),
            // A list without entries may have any type.
            Value::Array(_, range) if range.is_empty() => Some((0, &self.bytes[..0])),
            _ => None,
        })?;
        let Some((got, mut rest)) = found else { return Ok(None) };
        if got > MOST {
            return Err(TokenizerProblem::Count { key, got, most: MOST });
        }
        let mut texts = Vec::with_capacity(got);
        while let Some((len, after)) = rest.split_first_chunk() {
            // The container has checked the lengths and that each text is UTF-8.
            let (text, after) = after.split_at(u64::from_le_bytes(*len) as usize);
            texts.push(str::from_utf8(text).unwrap_or_default());
            rest = after;
        }
        Ok(Some(texts))
    }

    /// Texts that must be there, at least one.
    pub fn required_texts(&self, key: &'static str) -> Result<Vec<&'m str>, TokenizerProblem> {
        self.texts(key)?.filter(|texts| !texts.is_empty()).ok_or(TokenizerProblem::Missing { key })
    }

    /// A number of 32 bits for each of `tokens` tokens, as bits; of a type that `fits`.
    pub fn numbers(
        &self,
        key: &'static str,
        expected: &'static str,
        tokens: usize,
        fits: fn(Scalar) -> bool,
    ) -> Result<Option<impl ExactSizeIterator<Item = u32> + use<'m>>, TokenizerProblem> {
        let found = self.typed(key, expected, |value| match value {
            Value::Array(scalar, range) if fits(*scalar) => Some(&self.bytes[range.clone()]),
            _ => None,
        })?;
        let Some(bytes) = found else { return Ok(None) };
        let (numbers, _) = bytes.as_chunks::<4>();
        match numbers.len() {
            got if got == tokens => Ok(Some(numbers.iter().map(|n| u32::from_le_bytes(*n)))),
            got => Err(TokenizerProblem::Length { key, got, tokens }),
        }
    }

    /// The chat templates: one for all conversations, and others by name.
    pub fn templates(&self) -> Result<Templates, TokenizerProblem> {
        let mut templates = Templates { default: self.text(TEMPLATE)?.map(Into::into), ..Templates::default() };
        for (key, _) in &self.header.keys {
            if let Some(name) = key.strip_prefix(TEMPLATE).and_then(|rest| rest.strip_prefix('.')) {
                templates.named.insert(name.to_string(), self.text(key)?.unwrap_or_default().to_string());
            }
        }
        Ok(templates)
    }
}
