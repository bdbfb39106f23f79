//! Messages whose content is a list of parts, as OpenAI's interface has it.
//!
//! A template made for pictures and sounds reads such lists. One that was made for text takes the list for a text and
//! prints it as Python prints lists, so for it the texts are joined. A part that is no text is refused: nothing here could
//! see it.

use super::continued::with;
use super::conversation::{is_object, wrong};
use nanoserve_template::{TemplateError, Value, ValueKind};

/// The types of parts that are texts.
const TEXTS: [&str; 3] = ["text", "input_text", "output_text"];

/// The parts of a message, if its content is a list of objects.
fn parts(message: &Value) -> Option<Vec<Value>> {
    let content = message.get_attr("content").ok().filter(|content| content.kind() == ValueKind::Seq)?;
    let parts: Vec<Value> = content.try_iter().ok()?.collect();
    (!parts.is_empty() && parts.iter().all(is_object)).then_some(parts)
}

fn text(part: &Value, name: &str) -> Option<String> {
    part.get_attr(name).ok()?.as_str().map(str::to_string)
}

/// Whether a message's content is a list of parts.
pub(super) fn has_parts(message: &Value) -> bool {
    parts(message).is_some()
}

/// Refuses a part that is no text. `number` is the message's, from 1.
pub(super) fn check(number: usize, message: &Value) -> Result<(), TemplateError> {
    for part in parts(message).into_iter().flatten() {
        let kind = text(&part, "type").unwrap_or_else(|| "text".to_string());
        if !TEXTS.contains(&&kind[..]) {
            return wrong(format!("message {number} has a part of type '{kind}', and only texts are understood"));
        }
        if text(&part, "text").is_none() {
            return wrong(format!("message {number} has a part of type '{kind}' without a `text`"));
        }
    }
    Ok(())
}

/// A message with one text in place of parts that are texts, a line's end between them. Others are returned as they are.
pub(super) fn joined(message: &Value) -> Value {
    let Some(parts) = parts(message) else { return message.clone() };
    let texts: Option<Vec<String>> = parts.iter().map(|part| text(part, "text")).collect();
    match texts {
        Some(texts) => with(message, "content", Value::from(texts.join("\n"))),
        None => message.clone(),
    }
}
