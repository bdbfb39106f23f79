//! Why a conversation could not be rendered.

use std::fmt;

/// What is wrong with a template, or with a conversation for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template is not valid Jinja.
    #[error("the chat template cannot be read: line {line}: {cause}")]
    Syntax {
        /// Where, counted from 1.
        line: usize,
        /// What the parser says.
        cause: String,
    },
    /// The template itself refuses the conversation, in its own words.
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// The template does something impossible: it uses a value that is undefined, or adds values that cannot be added.
    #[error("the chat template fails on this conversation: {kind}: {message}")]
    Failed {
        /// The kind of error, by its name in Python or Jinja.
        kind: &'static str,
        /// What happened.
        message: String,
    },
    /// The template wants more time, memory or depth than any honest one needs.
    #[error("the chat template was stopped: it needs more than {limit} {what}")]
    Limit {
        /// Which resource it needs too much of.
        what: Resource,
        /// How much it may have.
        limit: u64,
    },
    /// The input does not have the form of a conversation, or cannot be rendered as it asks to be.
    #[error("the conversation cannot be rendered: {cause}")]
    Conversation {
        /// What is wrong with it.
        cause: String,
    },
    /// The engine panicked over the template: a fault of the engine, or of this crate.
    #[error("the chat template fails on this conversation: panic: the engine cannot bear this template")]
    Panicked,
    /// The system has no thread to run the template on.
    #[error("cannot start the thread that renders the chat template: {cause}")]
    Thread {
        /// The system's answer.
        cause: String,
    },
}

/// A resource that a template may use only so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// Bytes of the template's text.
    Source,
    /// Bytes of a name.
    Name,
    /// Words between two braces, which the parser nests.
    Words,
    /// `elif` branches, which the parser nests.
    Branches,
    /// Instructions of the engine.
    Instructions,
    /// Bytes made or read.
    Work,
    /// Bytes of memory at once, which the system does not give.
    Memory,
    /// Namespaces, macros and loops that namespaces keep.
    Links,
    /// Lists within lists.
    Nesting,
    /// Calls within calls.
    Calls,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Source => "bytes of template",
            Resource::Name => "bytes of a name",
            Resource::Words => "words between two braces",
            Resource::Branches => "branches",
            Resource::Instructions => "instructions",
            Resource::Work => "bytes of work",
            Resource::Memory => "bytes of memory at once",
            Resource::Links => "namespaces, macros and loops kept in namespaces",
            Resource::Nesting => "lists within lists",
            Resource::Calls => "calls within calls",
        })
    }
}

/// An error on its way out of a template. It travels as the source of the engine's own error.
#[derive(Clone, Debug)]
pub(crate) struct Raise(pub TemplateError);

impl fmt::Display for Raise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Raise {}

impl From<Raise> for minijinja::Error {
    fn from(raise: Raise) -> Self {
        minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, raise.to_string()).with_source(raise)
    }
}

/// The result of an operation in a template.
pub(crate) type Outcome<T> = Result<T, Raise>;

/// An error of the kind that Python or Jinja calls `kind`.
pub(crate) fn raise<T>(kind: &'static str, message: impl Into<String>) -> Outcome<T> {
    Err(Raise(TemplateError::Failed { kind, message: message.into() }))
}

/// A value of the wrong type.
pub(crate) fn type_error<T>(message: impl Into<String>) -> Outcome<T> {
    raise("TypeError", message)
}

/// A bad value of the right type.
pub(crate) fn value_error<T>(message: impl Into<String>) -> Outcome<T> {
    raise("ValueError", message)
}
