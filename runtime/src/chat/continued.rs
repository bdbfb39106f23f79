//! `continue_final_message`: the prompt ends within the last message, and the answer continues it.
//!
//! As in transformers, a mark is appended to the last message's text before the template is rendered, and the prompt is
//! cut at the mark. So templates that trim messages work, and templates that drop the message are refused.

use super::conversation::{REASONING, is_object, pairs, wrong};
use nanoserve_template::{TemplateError, Value, ValueKind};

/// The text that is appended. Its trailing space shows whether the template has trimmed it.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

fn field(message: &Value, name: &str) -> Option<Value> {
    message.get_attr(name).ok().filter(|value| !value.is_undefined() && !value.is_none())
}

/// The message with another value for one of its fields.
pub(super) fn with(message: &Value, name: &str, value: Value) -> Value {
    Value::from_pairs(pairs(message).into_iter().map(|(key, old)| match key.as_str() == Some(name) {
        true => (key, value.clone()),
        false => (key, old),
    }))
}

/// Appends `more` to a field's text, or to the last text among its parts. Returns the new message and the old text.
pub(super) fn append(message: &Value, name: &str, more: &str) -> Result<(Value, String), TemplateError> {
    let Some(content) = field(message, name) else {
        return wrong(format!("the last message has no `{name}` to continue"));
    };
    if let Some(text) = content.as_str() {
        return Ok((with(message, name, Value::from(format!("{text}{more}"))), text.to_string()));
    }
    let no_text = || wrong(format!("the last message's `{name}` has no text to continue"));
    if content.kind() != ValueKind::Seq {
        return no_text();
    }
    let mut parts: Vec<Value> = content.try_iter().map(Iterator::collect).unwrap_or_default();
    let text = |part: &Value| field(part, "text").filter(|_| is_object(part));
    let Some(at) = parts.iter().rposition(|part| text(part).is_some()) else { return no_text() };
    let (part, said) = append(&parts[at], "text", more)?;
    parts[at] = part;
    Ok((with(message, name, Value::from(parts)), said))
}

/// The last message with the mark, for a template of this source; and the text that is continued.
pub(super) fn mark(message: &Value, name: &str, source: &str) -> Result<(Value, String), TemplateError> {
    let (mut marked, said) = append(message, name, MARK)?;
    let mut names = vec![name];
    if REASONING.contains(&name) {
        // It has several names: the template may read any of them.
        names = REASONING.iter().copied().filter(|other| field(message, other) == field(message, name)).collect();
        for other in &names {
            marked = with(&marked, other, field(&marked, name).unwrap_or_default());
        }
    }
    match names.iter().any(|name| source.contains(name)) {
        true => Ok((marked, said)),
        false => wrong(format!("the chat template does not read `{name}`, which is to be continued")),
    }
}

/// A rendered text up to the mark.
pub(super) fn cut(text: &str, said: &str) -> Result<String, TemplateError> {
    match text.rfind(MARK.trim_end()).filter(|_| text.contains(said.trim())) {
        Some(at) if text[at..].starts_with(MARK) => Ok(text[..at].to_string()),
        Some(at) => Ok(text[..at].trim_end().to_string()),
        None => wrong("the chat template does not write the last message as it is: it cannot be continued"),
    }
}
