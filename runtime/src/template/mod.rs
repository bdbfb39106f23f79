//! Chat templates: from a conversation to the text of a prompt, as Jinja in Python renders it.
//!
//! A template comes with its model and was written for Jinja as transformers sets it up: blocks trimmed, Python's values,
//! its methods and its errors, nothing that changes a value, nothing of Python's inside. The engine is `minijinja`: it
//! reads and runs templates. What it would compute otherwise than Python is computed here, see [`rewrite`](self), and
//! what a hostile template could use up is counted ([`limits`](self)): the worst templates known to us
//! end within about three seconds of one core and take up to 620 MiB.
//!
//! ```
//! use nanoserve_runtime::template::{Clock, Template};
//!
//! let template = Template::new("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}")?;
//! let variables = r#"{"messages": [{"role": "user", "content": " Hello! "}]}"#;
//! assert_eq!(template.render_json(variables, Clock::now())?, "<user>Hello!");
//! # Ok::<(), nanoserve_runtime::template::TemplateError>(())
//! ```
//!
//! The trap: templates raise errors on purpose ([`TemplateError::Refused`]), to say which conversations they cannot
//! render. That is an answer to the caller, not a fault.

mod access;
mod calls;
mod checks;
mod clock;
mod error;
mod filters;
mod format;
mod globals;
mod json;
mod limits;
mod methods;
mod rewrite;
mod spelling;
mod value;

pub use clock::Clock;
pub use error::TemplateError;

use calls::Args;
use error::{Raise, raise};
use minijinja::machinery::{CodeGenerator, eval, make_string_output};
use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use std::error::Error as _;
use std::io;

/// A template that was read and found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    source: String,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// When it is not well formed, or beyond all bounds.
    pub fn new(source: &str) -> Result<Template, TemplateError> {
        let source = spelling::spell(source);
        on_thread(|| rewrite::read(&source).map(drop))?;
        Ok(Template { source })
    }

    /// Renders it with the variables of a JSON object.
    ///
    /// # Errors
    /// When the template refuses, fails, or is stopped; when the text is no JSON object.
    pub fn render_json(&self, variables: &str, clock: Clock) -> Result<String, TemplateError> {
        let variables: Value = serde_json::from_str(variables)
            .map_err(|e| TemplateError::Conversation { cause: format!("the variables are no JSON: {e}") })?;
        if !matches!(value::kind(&variables), value::Kind::Dict) {
            return Err(TemplateError::Conversation { cause: "the variables are no JSON object".into() });
        }
        self.render(variables, clock)
    }

    /// Renders it with the variables of a map.
    pub(crate) fn render(&self, variables: Value, clock: Clock) -> Result<String, TemplateError> {
        on_thread(|| {
            limits::begin(size(&variables));
            let tree = rewrite::read(&self.source)?;
            let mut code = CodeGenerator::new("chat template", &self.source);
            code.compile_stmt(&tree);
            let (instructions, blocks) = code.finish();
            let env = environment(clock);
            let mut text = String::new();
            let mut out = make_string_output(&mut text);
            eval(&env, &instructions, variables, &blocks, &mut out, AutoEscape::None).map_err(told)?;
            Ok(text)
        })
    }
}

/// Does something on a thread with a stack for the deepest template there may be.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, TemplateError> + Send) -> Result<T, TemplateError> {
    let failed = |e: io::Error| TemplateError::Thread { cause: e.to_string() };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".into()).stack_size(limits::STACK);
        let panicked =
            |_| TemplateError::Failed { kind: "panic", message: "the engine cannot bear this template".into() };
        thread.spawn_scoped(scope, work).map_err(failed)?.join().map_err(panicked)?
    })
}

/// Bytes of text in a value.
fn size(value: &Value) -> usize {
    match value.as_object() {
        None => value.as_str().map_or(1, str::len),
        Some(object) => object.try_iter_pairs().into_iter().flatten().map(|(key, item)| size(&key) + size(&item)).sum(),
    }
}

/// What templates run in: our operators, filters, tests and functions, and none of the engine's.
fn environment(clock: Clock) -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(limits::FUEL));
    for (name, filter) in filters::ALL {
        env.add_filter(name, move |value: Value, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            Ok(filter(&value, &Args::of(&args.into_values())?)?)
        });
    }
    for (name, check) in checks::ALL {
        env.add_test(name, move |value: Value, args: Rest<ValueOrKwargs>| -> Result<bool, Error> {
            Ok(check(&value, &Args::of(&args.into_values())?)?)
        });
    }
    for op in ["+", "-", "*", "/", "//", "%", "**", "~"] {
        env.add_filter(op, move |a: Value, b: Value| -> Result<Value, Error> { Ok(value::binary(op, &a, &b)?) });
    }
    for op in ["==", "!=", "<", "<=", ">", ">=", "in"] {
        env.add_filter(op, move |a: Value, b: Value| -> Result<bool, Error> { Ok(checks::holds(op, &a, &b)?) });
    }
    env.add_filter("$chain", |first: Value, rest: Rest<Value>| -> Result<bool, Error> {
        let mut left = &first;
        for pair in rest.chunks(2) {
            if let [op, right] = pair {
                if !checks::holds(op.as_str().unwrap_or_default(), left, right)? {
                    return Ok(false);
                }
                left = right;
            }
        }
        Ok(true)
    });
    env.add_filter(
        "$name",
        |value: Value, name: String| {
            if value.is_undefined() { access::Missing::variable(&name) } else { value }
        },
    );
    env.add_filter("$attr", |value: Value, name: String| -> Result<Value, Error> {
        Ok(access::attribute(&value, &name)?)
    });
    env.add_filter("$item", |value: Value, key: Value| -> Result<Value, Error> { Ok(access::item(&value, &key)?) });
    env.add_filter("$slice", |value: Value, start: Value, stop: Value, step: Value| -> Result<Value, Error> {
        Ok(access::slice(&value, &start, &stop, &step)?)
    });
    env.add_filter(
        "$call",
        |state: &mut State, value: Value, name: String, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            access::call_method(state, &value, &name, &args.into_values())
        },
    );
    env.add_filter("$else", |line: u32| {
        let what =
            format!("the inline if-expression on line {line} evaluated to false and no else section was defined.");
        access::Missing::nothing(&what)
    });
    env.add_filter("$private", |name: String| -> Result<Value, Error> { Ok(globals::private(&name)?) });
    env.add_filter("$lonely", |_: Value| -> Result<Value, Error> {
        Ok(raise("TypeError", "no loader for this environment specified")?)
    });
    env.set_unknown_method_callback(access::call_unknown);
    env.set_formatter(|out, state, value| {
        let escape = !matches!(state.auto_escape(), AutoEscape::None);
        let text = if escape { value::escaped(value)? } else { value::text(value)? };
        out.write_str(&text).map_err(Error::from)
    });
    globals::add(&mut env, clock);
    env
}

/// An error of the engine as one of ours.
fn told(error: Error) -> TemplateError {
    let mut source = error.source();
    while let Some(at) = source {
        if let Some(Raise(ours)) = at.downcast_ref() {
            return ours.clone();
        }
        source = at.source();
    }
    let detail = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => limits::exceeded("instructions", limits::FUEL).0,
        ErrorKind::SyntaxError => TemplateError::Syntax { line: error.line().unwrap_or(1), cause: detail.into() },
        ErrorKind::UnknownFunction => {
            let name = detail.trim_end_matches(" is unknown");
            TemplateError::Failed { kind: "UndefinedError", message: format!("'{name}' is undefined") }
        }
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest => {
            let what = if error.kind() == ErrorKind::UnknownFilter { "filter" } else { "test" };
            let name = detail.split(' ').nth(1).unwrap_or_default();
            TemplateError::Failed { kind: "TemplateAssertionError", message: format!("No {what} named '{name}'.") }
        }
        _ if detail.contains("recursion limit") => limits::exceeded("calls within calls", 500).0,
        _ if detail.starts_with("can only assign to namespaces") => TemplateError::Failed {
            kind: "TemplateRuntimeError",
            message: "cannot assign attribute on non-namespace object".into(),
        },
        ErrorKind::TooManyArguments | ErrorKind::MissingArgument | ErrorKind::CannotUnpack => {
            TemplateError::Failed { kind: "TypeError", message: format!("{}: {detail}", error.kind()) }
        }
        kind => {
            let message = if detail.is_empty() { kind.to_string() } else { detail.to_string() };
            TemplateError::Failed { kind: "TemplateRuntimeError", message }
        }
    }
}
