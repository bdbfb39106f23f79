//! The engine, set up like Python: a template's instructions, and the operators, filters, tests and functions that they
//! call.

use crate::calls::Args;
use crate::clock::Clock;
use crate::error::{Raise, Resource, TemplateError, raise};
use crate::{access, arithmetic, checks, filters, globals, limits, objects, rewrite, value};
use minijinja::machinery::{CodeGenerator, Instructions, eval, make_string_output};
use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use std::collections::BTreeMap;
use std::error::Error as _;

/// The name of a template in the engine's own errors.
const NAME: &str = "chat template";

/// A compiled template, and the environment it runs in.
pub(crate) struct Program<'s> {
    instructions: Instructions<'s>,
    blocks: BTreeMap<&'s str, Instructions<'s>>,
    environment: Environment<'s>,
}

impl<'s> Program<'s> {
    /// Parses, checks and compiles a template's text.
    pub fn compile(source: &'s str) -> Result<Program<'s>, TemplateError> {
        let tree = rewrite::read(source)?;
        let mut code = CodeGenerator::new(NAME, source);
        code.compile_stmt(&tree);
        let (instructions, blocks) = code.finish();
        #[cfg(test)]
        crate::tests::count_compilation(source);
        Ok(Program { instructions, blocks, environment: environment() })
    }

    /// Renders it with the variables of a map. The cost is counted on the calling thread.
    pub fn render(&mut self, context: Value, now: Clock) -> Result<String, TemplateError> {
        limits::begin(text_bytes(&context));
        globals::set_clock(&mut self.environment, now);
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        eval(&self.environment, &self.instructions, context, &self.blocks, &mut out, AutoEscape::None)
            .map_err(from_engine)?;
        Ok(text)
    }
}

/// Bytes of text in a value; anything else counts as one.
fn text_bytes(value: &Value) -> usize {
    match value.as_object() {
        None => value.as_str().map_or(1, str::len),
        Some(object) => {
            object.try_iter_pairs().into_iter().flatten().map(|(key, item)| text_bytes(&key) + text_bytes(&item)).sum()
        }
    }
}

/// The environment of templates: our operators, filters, tests and functions, none of the engine's.
fn environment() -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(limits::FUEL));
    for (name, filter) in filters::ALL {
        env.add_filter(name, move |value: Value, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            Ok(filter(&value, &Args::from_values(&args.into_values())?)?)
        });
    }
    for (name, check) in checks::ALL {
        env.add_test(name, move |value: Value, args: Rest<ValueOrKwargs>| -> Result<bool, Error> {
            Ok(check(&value, &Args::from_values(&args.into_values())?)?)
        });
    }
    add_operators(&mut env);
    add_accesses(&mut env);
    env.set_unknown_method_callback(access::call_unknown);
    env.set_formatter(|out, state, value| {
        let escape = !matches!(state.auto_escape(), AutoEscape::None);
        let text = if escape { value::escaped(value)? } else { value::text(value)? };
        // The engine's buffer doubles as it grows; the text was paid for as it was made.
        limits::emit(text.len())?;
        out.write_str(&text).map_err(Error::from)
    });
    globals::add(&mut env);
    env
}

/// Adds operators, as filters that no template can name.
fn add_operators(env: &mut Environment) {
    for op in ["+", "-", "*", "/", "//", "%", "**", "~"] {
        env.add_filter(op, move |a: Value, b: Value| -> Result<Value, Error> { Ok(arithmetic::binary(op, &a, &b)?) });
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
}

/// Adds names, attributes, items, slices and calls of methods in the same way.
fn add_accesses(env: &mut Environment) {
    env.add_filter("$name", |value: Value, name: String| {
        // Names have a bound: see `limits::NAME`.
        if value.is_undefined() { objects::Missing::variable(&name) } else { value }
    });
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
        objects::Missing::nothing(&what)
    });
    env.add_filter("$private", |name: String| -> Result<Value, Error> { Ok(globals::private(&name)?) });
    env.add_filter("$other_template", |_: Value| -> Result<Value, Error> {
        Ok(raise("TypeError", "no loader for this environment specified")?)
    });
}

/// Turns the engine's error into one of this crate's, in Jinja's words.
fn from_engine(error: Error) -> TemplateError {
    let mut source = error.source();
    while let Some(at) = source {
        if let Some(Raise(ours)) = at.downcast_ref() {
            return ours.clone();
        }
        source = at.source();
    }
    let detail = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => limits::exceeded(Resource::Instructions, limits::FUEL).0,
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
        _ if detail.contains("recursion limit") => limits::exceeded(Resource::Calls, 500).0,
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
