//! The messages, tools and other variables that a template gets.

use super::{continued, parts};
use nanoserve_template::{TemplateError, Value, ValueKind};
use std::collections::BTreeMap;

/// The field names that models use for the reasoning before an answer. Templates read the first.
pub(super) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The variable that makes an answer continue the last message.
const CONTINUE: &str = "continue_final_message";

/// Messages, and the variables that a template gets with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    messages: Vec<Value>,
    /// Tools, documents, and a template's own variables, in the order given.
    variables: Vec<(String, Value)>,
}

pub(super) fn wrong<T>(cause: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError::Conversation { cause: cause.into() })
}

pub(super) fn is_object(value: &Value) -> bool {
    value.kind() == ValueKind::Map
}

pub(super) fn pairs(value: &Value) -> Vec<(Value, Value)> {
    value.as_object().and_then(|o| o.try_iter_pairs()).map_or_else(Vec::new, Iterator::collect)
}

impl Conversation {
    /// Reads a JSON array of messages, or an object of `messages` and further variables: `tools`, `documents`,
    /// `add_generation_prompt`, `continue_final_message`, and the template's own, such as `enable_thinking`.
    ///
    /// # Errors
    /// When it is neither, or `tools` or `documents` is not an array of objects.
    pub fn from_json(text: &str) -> Result<Conversation, TemplateError> {
        let json: Value = match serde_json::from_str(text) {
            Ok(json) => json,
            Err(e) => return wrong(format!("it is no JSON: {e}")),
        };
        let (messages, variables) = match json.kind() {
            ValueKind::Seq => (json, Vec::new()),
            ValueKind::Map => {
                let (mut messages, mut variables) = (None, Vec::new());
                for (name, value) in pairs(&json) {
                    match name.as_str() {
                        Some("messages") => messages = Some(value),
                        Some(name) => variables.push((name.to_string(), value)),
                        None => {}
                    }
                }
                let Some(messages) = messages.filter(|m| m.kind() == ValueKind::Seq) else {
                    return wrong("the object has no array `messages`");
                };
                (messages, variables)
            }
            _ => return wrong("it is neither an array of messages nor an object with `messages`"),
        };
        let messages: Vec<Value> = messages.try_iter().map(Iterator::collect).unwrap_or_default();
        if let Some(at) = messages.iter().position(|message| !is_object(message)) {
            return wrong(format!("message {} is no object, expected {{\"role\": ..., \"content\": ...}}", at + 1));
        }
        let conversation = Conversation { messages, variables };
        let check_list = |name: &str| match conversation.variable(name) {
            Some(value) if value.is_none() => Ok(()),
            Some(value) if value.kind() != ValueKind::Seq => wrong(format!("`{name}` is no array")),
            Some(value) if value.try_iter().is_ok_and(|mut all| !all.all(|one| is_object(&one))) => {
                wrong(format!("`{name}` has an item that is no object"))
            }
            _ => Ok(()),
        };
        check_list("tools")?;
        check_list("documents")?;
        Ok(conversation)
    }

    /// The conversation as JSON that [`Self::from_json`] reads.
    pub fn to_json(&self) -> String {
        let mut all = vec![("messages".to_string(), Value::from(self.messages.clone()))];
        all.extend(self.variables.iter().cloned());
        serde_json::to_string_pretty(&Value::from_pairs(all)).unwrap_or_default()
    }

    /// Adds a message. The one before it is then no longer continued.
    pub fn push(&mut self, role: &str, content: &str) {
        self.variables.retain(|(name, _)| name != CONTINUE);
        self.messages.push(Value::from_pairs([("role", role), ("content", content)]));
    }

    /// Adds the model's answer: to the last message if that is to be continued, else as a message of its own.
    pub fn answered(&mut self, text: &str) {
        let continued = self.continues().zip(self.messages.last());
        match continued.and_then(|(name, last)| continued::append(last, &name, text).ok()) {
            Some((message, _)) => {
                self.pop();
                self.messages.push(message);
                self.variables.retain(|(name, _)| name != CONTINUE);
            }
            None => self.push("assistant", text),
        }
    }

    /// The field of the last message that an answer continues, if it does: `content`, unless `continue_final_message`
    /// names another.
    pub fn continues(&self) -> Option<String> {
        let wanted = self.variable(CONTINUE).filter(|value| value.is_true())?;
        Some(wanted.as_str().unwrap_or("content").to_string())
    }

    /// The text that an answer continues, if it does.
    pub fn continued_text(&self) -> Option<String> {
        let (name, last) = self.continues().zip(self.messages.last())?;
        continued::append(last, &name, "").ok().map(|(_, said)| said)
    }

    /// Sets the template's own variables from a JSON object; each replaces one of the same name.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn set_variables(&mut self, json: &str) -> Result<(), TemplateError> {
        let object: Value = match serde_json::from_str(json) {
            Ok(object) if is_object(&object) => object,
            Ok(_) => return wrong("it is no object, expected {\"name\": value}"),
            Err(e) => return wrong(format!("it is no JSON: {e}")),
        };
        for (name, value) in pairs(&object) {
            let name = name.to_string();
            self.variables.retain(|(key, _)| *key != name);
            self.variables.push((name, value));
        }
        Ok(())
    }

    fn variable(&self, name: &str) -> Option<&Value> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Removes the last message.
    pub fn pop(&mut self) {
        self.messages.pop();
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are no messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The last message's role.
    pub fn last_role(&self) -> Option<String> {
        self.messages.last().and_then(role)
    }

    /// The system message, if the conversation begins with one.
    pub fn system(&self) -> Option<String> {
        let first = self.messages.first().filter(|m| role(m).as_deref() == Some("system"))?;
        first.get_attr("content").ok().map(|content| content.to_string())
    }

    /// Sets the system message, which comes first; None removes it.
    pub fn set_system(&mut self, content: Option<&str>) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if let Some(content) = content {
            self.messages.insert(0, Value::from_pairs([("role", "system"), ("content", content)]));
        }
    }

    /// Removes every message except the system message.
    pub fn clear(&mut self) {
        self.messages.truncate(usize::from(self.system().is_some()));
    }

    /// Removes the oldest turn: a user message and all up to the next one. Returns false if only one turn is left.
    pub fn drop_oldest(&mut self) -> bool {
        let start = usize::from(self.system().is_some());
        let is_user = |message: &Value| role(message).as_deref() == Some("user");
        match self.messages.iter().skip(start + 1).position(is_user) {
            Some(next) => {
                self.messages.drain(start..start + 1 + next);
                true
            }
            None => false,
        }
    }

    /// Whether a message is a list of parts.
    ///
    /// # Errors
    /// When a part is no text.
    pub(super) fn has_parts(&self) -> Result<bool, TemplateError> {
        self.messages.iter().enumerate().try_for_each(|(at, message)| parts::check(at + 1, message))?;
        Ok(self.messages.iter().any(parts::has_parts))
    }

    /// Puts one text in place of each list of parts.
    pub(super) fn join_parts(&mut self) {
        self.messages = self.messages.iter().map(parts::joined).collect();
    }

    /// The tools alone.
    pub(super) fn without_messages(&self) -> Conversation {
        let mut empty = Conversation::default();
        empty.variables.extend(self.variables.iter().filter(|(name, _)| name == "tools").cloned());
        empty
    }

    /// Adds a message that is a list of one part, a text.
    pub(super) fn push_parts(&mut self, role: &str, text: &str) {
        let part = Value::from_pairs([("type", "text"), ("text", text)]);
        let content = Value::from(vec![part]);
        self.messages.push(Value::from_pairs([("role", Value::from(role)), ("content", content)]));
    }

    /// The same conversation where one message says something else, and the role of that message. None if the message is
    /// the model's own, or has no text, or its text is in `rendered` as it stands.
    pub(super) fn with_other_text(&self, index: usize, rendered: &str) -> Option<(String, Conversation)> {
        let message = self.messages.get(index)?;
        let (role, text) = (role(message).unwrap_or_default(), has_text(message)?);
        if role == "assistant" || rendered.contains(&text) {
            return None;
        }
        let mut other = self.clone();
        other.messages[index] = continued::with(message, "content", Value::from("qzxjotherqzxj"));
        Some((role, other))
    }

    /// Whether there are tools.
    pub(super) fn has_tools(&self) -> bool {
        self.variable("tools").is_some_and(|tools| !tools.is_none())
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.variables.retain(|(key, _)| key != name);
        self.variables.push((name.to_string(), value));
    }

    /// The variables that a template sees and, if the last message is to be continued, that message's text. Null fields
    /// of a message are omitted, and its reasoning is given as `thinking` and as `reasoning_content`. `source` is the
    /// text of the template.
    pub(super) fn variables(
        &self,
        special_tokens: &BTreeMap<String, String>,
        source: &str,
    ) -> Result<(Value, Option<String>), TemplateError> {
        let mut messages: Vec<Value> = self.messages.iter().map(message).collect();
        let Some(last) = messages.last_mut() else {
            return wrong("it is empty: at least one message is needed");
        };
        let mut said = None;
        if let Some(name) = self.continues() {
            if self.variable("add_generation_prompt").is_some_and(Value::is_true) {
                return wrong(
                    "`add_generation_prompt` begins a new message, `continue_final_message` does not: give one of them",
                );
            }
            let (marked, text) = continued::mark(last, &name, source)?;
            (*last, said) = (marked, Some(text));
        }
        let mut all: Vec<(String, Value)> = vec![
            ("messages".into(), Value::from(messages)),
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), Value::from(said.is_none())),
        ];
        all.extend(special_tokens.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))));
        all.extend(self.variables.iter().filter(|(name, _)| name != CONTINUE).cloned());
        Ok((Value::from_pairs(all), said))
    }
}

fn has_text(message: &Value) -> Option<String> {
    let content = parts::joined(message).get_attr("content").ok()?;
    content.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_string)
}

fn role(message: &Value) -> Option<String> {
    message.get_attr("role").ok().and_then(|role| role.as_str().map(str::to_string))
}

fn message(message: &Value) -> Value {
    let mut fields: Vec<(Value, Value)> = pairs(message).into_iter().filter(|(_, value)| !value.is_none()).collect();
    let field = |fields: &[(Value, Value)], name: &str| fields.iter().find(|(n, _)| n.as_str() == Some(name)).cloned();
    let Some((_, thought)) = REASONING.iter().find_map(|name| field(&fields, name)) else {
        return Value::from_pairs(fields);
    };
    if field(&fields, "thinking").is_none() {
        fields.insert(0, (Value::from("thinking"), thought.clone()));
    } else if let Some(at) = fields.iter().position(|(n, _)| n.as_str() == Some("thinking")) {
        let thinking = fields.remove(at);
        fields.insert(0, thinking);
    }
    fields.push((Value::from("reasoning_content"), thought));
    Value::from_pairs(fields)
}
