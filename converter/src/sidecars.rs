//! What stands beside the weights: tokenizer, chat templates, generation defaults. All of it is optional.

use crate::vocab::{self, Compilation};
use nanoserve_format::{GenerationDefaults, Plan, SectionKind, TokenizerVectors};
use std::collections::BTreeMap;
use tokenizers::Tokenizer;

/// All of it, checked against the model.
#[derive(Debug)]
pub(crate) struct Sidecars {
    /// The tokenizer in the form of a tokenizer.json, whoever wrote it, and what the tokenizers library makes of that.
    pub tokenizer: Option<(Vec<u8>, Tokenizer)>,
    /// The chat templates.
    pub templates: Templates,
    /// How to generate.
    pub generation: GenerationDefaults,
}

/// The chat templates of a model.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Templates {
    /// The one for every conversation.
    pub default: Option<String>,
    /// Those beside it, such as `tool_use` and `rag`.
    pub named: BTreeMap<String, String>,
}

impl Sidecars {
    /// Adds all that need not be worked out to a file's plan, and the room for what does.
    pub fn add_to(&self, plan: &mut Plan) {
        if let Some((json, _)) = &self.tokenizer {
            plan.section(SectionKind::Tokenizer, json.clone());
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

    /// The tokenizer, compiled where it can be, and what it makes of some texts.
    pub fn compile(&self) -> (Compilation, Option<TokenizerVectors>) {
        match &self.tokenizer {
            Some((json, loaded)) => (vocab::compile(json, loaded), vocab::vectors(loaded)),
            None => (Compilation::Other, None),
        }
    }
}
