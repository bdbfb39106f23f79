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

pub use conversation::Conversation;

use nanoserve_format::{NsvFile, Result as FormatResult};
use nanoserve_template::{Clock, Template, TemplateError, Value};
use nanoserve_tokenizer::{Tokenizer, TokenizerError};
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
        Ok(ChatTemplate { named, usual: usual.map(Source::new), special_tokens })
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

    /// The special token that the template puts right behind an answer, if any. It ends an answer, whether or not the
    /// model's files list it as an end token.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        // Letters that no template contains or changes.
        const ANSWER: &str = "qzxjanswerqzxj";
        let mut conversation = Conversation::default();
        conversation.push("user", "a");
        conversation.push("assistant", ANSWER);
        conversation.set("add_generation_prompt", Value::from(false));
        let text = self.render(&conversation, Clock::now()).ok()?;
        let (_, behind) = text.rsplit_once(ANSWER)?;
        let first = *tokenizer.encode(behind, false).ok()?.first()?;
        tokenizer.is_special(first).then_some(first)
    }
}

/// Encodes the prompts of a growing conversation, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Prompter {
    /// The last prompt and its answer.
    text: String,
    /// The token ids of `text`.
    ids: Vec<u32>,
}

impl Prompter {
    /// The token ids of a rendered text. If it begins with the last prompt and answer and goes on with a special token,
    /// their ids are kept; else the whole text is encoded again.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn ids(&self, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
        if let Some(new) = text.strip_prefix(&self.text)
            && !self.text.is_empty()
        {
            let new = tokenizer.encode(new, false)?;
            if new.first().is_some_and(|&id| tokenizer.is_special(id)) {
                return Ok([&self.ids[..], &new].concat());
            }
        }
        tokenizer.encode(text, false)
    }

    /// Remembers a prompt and its answer. `ids` are those of the answer, without the token that ended it.
    pub fn answered(&mut self, prompt: &str, prompt_ids: &[u32], answer: &str, ids: &[u32]) {
        self.text = [prompt, answer].concat();
        self.ids = [prompt_ids, ids].concat();
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Prompter::default();
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
