//! Chat templates: from a conversation to the text of a prompt, as Jinja in Python renders it.
//!
//! A template comes with its model. It was written for Jinja as transformers sets it up: blocks are trimmed; values,
//! methods and errors are Python's; nothing changes a value or reaches into Python. The engine is `minijinja`, which
//! parses templates and runs them. This crate replaces what `minijinja` computes differently from Python, and limits
//! the time and memory of hostile templates: `tests/hostile.rs` has the worst ones known to us, and how much memory each
//! may take.
//!
//! ```text
//! source --compile, once--> instructions, kept on the template's own thread
//! context --render, any number of times--> text
//! ```
//!
//! ```
//! use nanoserve_template::{Clock, Template};
//!
//! let template = Template::compile("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}")?;
//! let context = r#"{"messages": [{"role": "user", "content": " Hello! "}]}"#;
//! assert_eq!(template.render_json(context, Clock::now())?, "<user>Hello!");
//! # Ok::<(), nanoserve_template::TemplateError>(())
//! ```
//!
//! The trap: templates raise errors on purpose ([`TemplateError::Refused`]), to say which conversations they cannot
//! render. That is an answer to the caller, not a fault.

mod access;
mod arithmetic;
mod calls;
mod checks;
mod clock;
mod engine;
mod error;
mod filters;
mod format;
mod globals;
mod grow;
mod json;
mod limits;
mod methods;
mod objects;
mod rewrite;
mod spelling;
#[cfg(test)]
mod tests;
mod value;
mod worker;

pub use clock::Clock;
pub use error::{Resource, TemplateError};
pub use minijinja::Value;
pub use minijinja::value::ValueKind;

/// A compiled template. Clones share it.
///
/// It lives on a thread of its own, which ends with the last clone. Renderings of one template run one after the other
/// on that thread, so together they never need more stack or memory than one.
#[derive(Clone, Debug)]
pub struct Template {
    worker: worker::Worker,
}

impl Template {
    /// Parses, checks and compiles a template.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] when it is not well formed, [`TemplateError::Limit`] when it is too large or nested
    /// too deep, [`TemplateError::Thread`] when the system starts no thread.
    pub fn compile(source: &str) -> Result<Template, TemplateError> {
        // Before anything copies it.
        if source.len() > limits::SOURCE {
            return Err(limits::exceeded(Resource::Source, limits::SOURCE as u64).0);
        }
        Ok(Template { worker: worker::Worker::start(spelling::respell_template(source))? })
    }

    /// Renders it with the variables of a map. `now` is the time that `strftime_now` sees.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails on it, or is stopped at a limit.
    pub fn render(&self, context: Value, now: Clock) -> Result<String, TemplateError> {
        self.worker.render(context, now)
    }

    /// Renders it with the variables of a JSON object.
    ///
    /// # Errors
    /// As [`Self::render`], and [`TemplateError::Conversation`] when the text is no JSON object.
    pub fn render_json(&self, context: &str, now: Clock) -> Result<String, TemplateError> {
        let context: Value = serde_json::from_str(context)
            .map_err(|e| TemplateError::Conversation { cause: format!("the variables are no JSON: {e}") })?;
        if !matches!(value::kind(&context), value::Kind::Dict) {
            return Err(TemplateError::Conversation { cause: "the variables are no JSON object".into() });
        }
        self.render(context, now)
    }
}
