//! Conversations: messages in, the token ids of a prompt out, with the tokens of earlier turns kept.
//!
//! A prompt is the whole conversation, rendered again by the model's template each turn: some templates drop the
//! reasoning of earlier turns. That costs no time, because the session runs only what differs from its cache.
//! [`Prompter`] keeps the difference small: text that the model generated keeps its own tokens, which encoding the same
//! text again might not give.
//!
//! ```
//! use nanoserve_runtime::chat::{ChatTemplate, Conversation};
//! use nanoserve_template::Clock;
//!
//! let template = ChatTemplate::new("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")?;
//! let mut conversation = Conversation::default();
//! conversation.push("user", "Hello!");
//! assert_eq!(template.render(&conversation, Clock::now())?, "<user>Hello!<assistant>");
//! # Ok::<(), nanoserve_template::TemplateError>(())
//! ```
//!
//! The trap: if the template wants a BOS token, the rendered text contains it, so encoding must not add another.

mod continued;
mod conversation;
mod parts;
mod prompter;
mod reasoning;

pub use conversation::Conversation;
pub use prompter::Prompter;
pub use reasoning::{Piece, Reasoning};

use nanoserve_format::{NsvFile, Result as FormatResult};
use nanoserve_template::{Clock, Template, TemplateError, Value};
use nanoserve_tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The name of the template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// A template's text, compiled on first use: a model may have a valid template for chats and a broken one for tools.
#[derive(Debug)]
struct Source {
    text: String,
    compiled: OnceLock<Template>,
}

impl Source {
    fn new(text: &str) -> Arc<Source> {
        Arc::new(Source { text: text.to_string(), compiled: OnceLock::new() })
    }

    /// The compiled template. All clones that share this text share it.
    fn compiled(&self) -> Result<&Template, TemplateError> {
        if let Some(template) = self.compiled.get() {
            return Ok(template);
        }
        let template = Template::compile(&self.text)?;
        Ok(self.compiled.get_or_init(|| template))
    }
}

/// A model's templates, and the special tokens that they use by name. Clones share compiled templates.
#[derive(Clone, Debug, Default)]
pub struct ChatTemplate {
    /// All templates but the default one, by name.
    named: BTreeMap<String, Arc<Source>>,
    usual: Option<Arc<Source>>,
    special_tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// A template from its text, without special tokens.
    ///
    /// # Errors
    /// When it is not well formed, or exceeds a limit.
    pub fn new(source: &str) -> Result<ChatTemplate, TemplateError> {
        let source = Source::new(source);
        source.compiled()?;
        Ok(ChatTemplate { usual: Some(source), ..ChatTemplate::default() })
    }

    /// The templates and the special tokens of a file. A file without templates renders nothing, see
    /// [`Self::is_empty_for`].
    ///
    /// # Errors
    /// When a section of the file is damaged.
    pub fn of_file(file: &NsvFile) -> FormatResult<ChatTemplate> {
        let (usual, named) = file.chat_templates()?;
        let special_tokens = file.generation()?.special_tokens;
        let named = named.into_iter().map(|(name, text)| (name, Source::new(&text))).collect();
        Ok(ChatTemplate { named, usual: usual.map(|text| Source::new(&text)), special_tokens })
    }

    /// Replaces all templates by one, and keeps the special tokens.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_source(self, source: &str) -> Result<ChatTemplate, TemplateError> {
        Ok(ChatTemplate { special_tokens: self.special_tokens, ..Self::new(source)? })
    }

    /// Uses the template of this name for every conversation; None if there is none of that name.
    pub fn with_name(&self, name: &str) -> Option<ChatTemplate> {
        let usual = Some(self.named.get(name)?.clone());
        Some(ChatTemplate { usual, named: BTreeMap::new(), special_tokens: self.special_tokens.clone() })
    }

    /// Replaces the special tokens, a map from the names that the template uses to texts.
    pub fn with_special_tokens(self, special_tokens: BTreeMap<String, String>) -> ChatTemplate {
        ChatTemplate { special_tokens, ..self }
    }

    /// Whether there is no template for this conversation.
    pub fn is_empty_for(&self, conversation: &Conversation) -> bool {
        self.source(conversation).is_none()
    }

    /// The names of all templates but the default one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// Renders a conversation to the text of a prompt.
    ///
    /// # Errors
    /// When there is no template, or it refuses the conversation, fails on it, or is stopped at a limit.
    pub fn render(&self, conversation: &Conversation, clock: Clock) -> Result<String, TemplateError> {
        let Some(source) = self.source(conversation) else {
            return Err(TemplateError::Conversation { cause: "there is no chat template".into() });
        };
        let (variables, continued) = conversation.variables(&self.special_tokens, &source.text)?;
        let text = source.compiled()?.render(variables, clock)?;
        match continued {
            Some(said) => continued::cut(&text, &said),
            None => Ok(text),
        }
    }

    /// The template for tools if the conversation has tools and the model such a template, else the default one.
    fn source(&self, conversation: &Conversation) -> Option<&Source> {
        let source = self.named.get(TOOL_USE).filter(|_| conversation.has_tools()).or(self.usual.as_ref());
        source.map(Arc::as_ref)
    }

    /// The tokens that end an answer by what the templates say: the tokenizer's `eos_token`, and the token that the
    /// template puts right behind an answer, whether or not the model's files list them as end tokens.
    pub fn ends(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let named = self.special_tokens.get("eos_token").and_then(|text| single(text, tokenizer));
        let mut ends: Vec<u32> = named.into_iter().chain(self.end_of_turn(tokenizer)).collect();
        ends.dedup();
        ends
    }

    fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        let mut conversation = Conversation::default();
        conversation.push("user", "a");
        conversation.push("assistant", PROBE);
        conversation.set("add_generation_prompt", Value::from(false));
        let text = self.render(&conversation, Clock::now()).ok()?;
        let behind = text.rsplit_once(PROBE)?.1.trim_start();
        let first = *tokenizer.encode(behind, false).ok()?.first()?;
        if tokenizer.is_special(first) {
            return Some(first);
        }
        // A token of the kind <end> that its makers did not call special; no ordinary text, such as a line's end.
        let piece = tokenizer.id_to_piece(first)?;
        let is_mark = [('<', '>'), ('[', ']')].iter().any(|&(a, b)| piece.starts_with(a) && piece.ends_with(b));
        (is_mark && piece.len() > 3 && behind.starts_with(&piece)).then_some(first)
    }

    /// The first message from `from` on, other than the model's own, that the template does not write: whatever it said,
    /// the prompt would be the same. Its number, from 0, and its role. None if there is none.
    pub fn lost(&self, conversation: &Conversation, clock: Clock, from: usize) -> Option<(usize, String)> {
        let rendered = self.render(conversation, clock).ok()?;
        (from..conversation.len()).find_map(|index| {
            let (role, other) = conversation.with_other_text(index, &rendered)?;
            let same = self.render(&other, clock).is_ok_and(|text| text == rendered);
            same.then_some((index, role))
        })
    }

    /// Reads a conversation for this template, as [`Conversation::from_json`] does. Where a message is a list of texts, as
    /// OpenAI's interface has it, and the template does not read lists, it becomes one text.
    ///
    /// # Errors
    /// As there, and when a part of a message is no text.
    pub fn read(&self, json: &str) -> Result<Conversation, TemplateError> {
        let mut conversation = Conversation::from_json(json)?;
        if conversation.has_parts()? && !self.takes_parts(&conversation) {
            conversation.join_parts();
        }
        Ok(conversation)
    }

    /// Whether the template for this conversation writes the texts of a message that is a list of parts.
    fn takes_parts(&self, conversation: &Conversation) -> bool {
        let mut probe = conversation.without_messages();
        probe.push_parts("user", PROBE);
        // A template that takes content for a text prints the list as Python does, quotes and all.
        self.render(&probe, Clock::now())
            .is_ok_and(|text| text.contains(PROBE) && !text.contains("'text'") && !text.contains("\"text\""))
    }
}

/// Letters that no template contains or changes.
const PROBE: &str = "qzxjanswerqzxj";

/// The id of a text that is one token as it stands.
fn single(text: &str, tokenizer: &Tokenizer) -> Option<u32> {
    match tokenizer.encode(text, false).ok()?[..] {
        [id] if tokenizer.id_to_piece(id).as_deref() == Some(text) => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Conversation {
        let mut conversation = Conversation::default();
        conversation.push("user", text);
        conversation
    }

    #[test]
    fn a_template_is_compiled_once_for_all_that_share_it() {
        let template = ChatTemplate::new("{{ bos }}{{ messages[0].content }}").unwrap();
        let compiled = |template: &ChatTemplate| -> *const Template {
            template.usual.as_ref().and_then(|source| source.compiled.get()).unwrap()
        };
        let other = template.clone().with_special_tokens([("bos".to_string(), "<s>".to_string())].into());
        for text in ["a", "b"] {
            assert_eq!(template.render(&said(text), Clock::now()).unwrap(), text);
            assert_eq!(other.render(&said(text), Clock::now()).unwrap(), format!("<s>{text}"));
        }
        assert_eq!(compiled(&template), compiled(&other));
    }

    #[test]
    fn a_bad_template_for_tools_hurts_conversations_with_tools_only() {
        let good = ChatTemplate::new("{{ messages[0].content }}").unwrap();
        let named = BTreeMap::from([(TOOL_USE.to_string(), Source::new("{% if %}"))]);
        let template = ChatTemplate { named, ..good };
        let mut conversation = said("a");
        assert_eq!(template.render(&conversation, Clock::now()).unwrap(), "a");
        assert!(template.named[TOOL_USE].compiled.get().is_none(), "nothing has asked for it");
        conversation.set("tools", Value::from(vec![Value::from_pairs([("name", "f")])]));
        let failed = template.render(&conversation, Clock::now());
        assert!(matches!(failed, Err(TemplateError::Syntax { .. })), "{failed:?}");
    }
}
