//! What accompanies the weights: tokenizer, chat templates, generation defaults. All of it is optional.

use crate::error::What;
use crate::report::Warning;
use crate::vocab::{self, Compilation};
use nanoserve_format::{GenerationDefaults, Plan, SectionKind, TokenizerVectors};
use std::collections::BTreeMap;
use tokenizers::Tokenizer;

/// The sidecars of a model, checked against it.
#[derive(Debug)]
pub(crate) struct Sidecars {
    /// The tokenizer.
    pub tokenizer: Option<LoadedTokenizer>,
    /// The chat templates.
    pub templates: Templates,
    /// How to generate.
    pub generation: GenerationDefaults,
}

/// A tokenizer as a tokenizer.json, and as the tokenizers library loads it.
#[derive(Debug)]
pub(crate) struct LoadedTokenizer {
    /// The tokenizer.json.
    pub json: Vec<u8>,
    /// The same, loaded.
    pub loaded: Tokenizer,
    /// It was made of other data. Then the file holds its compiled form alone, if it has one.
    pub made: bool,
}

/// The chat templates of a model.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Templates {
    /// The one for all conversations.
    pub default: Option<String>,
    /// The others, by name, such as `tool_use` and `rag`.
    pub named: BTreeMap<String, String>,
}

/// Checks that the model has a row for every entry of a tokenizer's vocabulary. It may have fewer entries than the model
/// has rows: many vocabularies are padded. Added tokens without a row are warned about: nothing makes them but their own
/// spelling.
pub(crate) fn rows(loaded: &Tokenizer, vocab_size: usize) -> Result<Option<Warning>, What> {
    let added = loaded.get_added_tokens_decoder();
    let beyond = |(token, id): (String, u32)| (id as usize >= vocab_size).then_some((id, token));
    let beyond: BTreeMap<u32, String> = loaded.get_vocab(true).into_iter().filter_map(beyond).collect();
    if let Some((&got, token)) = beyond.iter().rfind(|(id, _)| !added.contains_key(id)) {
        return Err(What::TokenId { field: format!("the id of token '{token}'"), got, vocab_size });
    }
    let first = beyond.first_key_value();
    Ok(first.map(|(&id, first)| Warning::TokensWithoutRow {
        count: beyond.len(),
        first: first.clone(),
        id,
        vocab_size,
    }))
}

impl Sidecars {
    /// Adds the sections that need no computation to a file's plan, and reserves space for those that do.
    pub fn add_to(&self, plan: &mut Plan) {
        if let Some(LoadedTokenizer { json, made, .. }) = &self.tokenizer {
            if !made {
                plan.section(SectionKind::Tokenizer, json.clone());
            }
            // Its compiled form has about half of its bytes.
            plan.expect_bytes(json.len() as u64);
        }
        if let Some(template) = &self.templates.default {
            plan.section(SectionKind::ChatTemplate, template.clone().into_bytes());
        }
        if !self.templates.named.is_empty() {
            plan.json(SectionKind::NamedTemplates, &self.templates.named);
        }
        plan.json(SectionKind::Generation, &self.generation);
    }

    /// The tokenizer.json that a file must hold after all, because it was made and has no compiled form.
    pub fn uncompiled(&self, compilation: &Compilation) -> Option<&[u8]> {
        let made = self.tokenizer.as_ref().filter(|tokenizer| tokenizer.made)?;
        (!matches!(compilation, Compilation::Section(_))).then_some(&made.json)
    }

    /// The tokenizer, compiled if possible, and the ids that it gives for some texts.
    pub fn compile(&self) -> (Compilation, Option<TokenizerVectors>) {
        match &self.tokenizer {
            Some(LoadedTokenizer { json, loaded, .. }) => (vocab::compile(json, loaded), vocab::vectors(loaded)),
            None => (Compilation::Other, None),
        }
    }
}
