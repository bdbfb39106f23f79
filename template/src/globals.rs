//! The names that a template can use besides the conversation: `range`, `dict`, `namespace`, `cycler`, `joiner`,
//! `raise_exception`, `strftime_now`.

use crate::access;
use crate::calls::Args;
use crate::clock::Clock;
use crate::error::{Outcome, Raise, TemplateError, raise, type_error, value_error};
use crate::grow::pay_object;
use crate::limits::{kept, pay_items, shallow};
use crate::objects::Run;
use crate::value::{Kind, dict, kind, text};
use minijinja::value::{Object, ObjectRepr, Rest, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most items of a `range`, as in Jinja's sandbox.
const RANGE: i128 = 100_000;

/// Adds these functions to an environment.
pub(crate) fn add(env: &mut Environment) {
    let mut function = |name: &'static str, f: fn(&Args) -> Outcome<Value>| {
        env.add_function(name, move |args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            Ok(f(&Args::from_values(&args.into_values())?)?)
        });
    };
    function("range", range);
    function("raise_exception", raise_exception);
    function("cycler", |args| {
        if args.places.is_empty() {
            return raise("RuntimeError", "at least one item has to be provided");
        }
        Ok(Value::from_object(Cycler { items: args.places.clone(), at: AtomicUsize::new(0) }))
    });
    function("joiner", |args| {
        Ok(Value::from_object(Joiner { between: args.str(0, "sep", ", ")?, used: AtomicUsize::new(0) }))
    });
    env.add_function("namespace", |args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        let args = Args::from_values(&args.into_values())?;
        let all = merged(&args)?;
        for (name, _) in &all {
            let name = text(name)?;
            if name.starts_with('_') {
                return Ok(private(&name)?);
            }
        }
        pay_object()?;
        all.iter().try_for_each(|(_, value)| kept(value.clone()).map(drop))?;
        let start = ValueOrKwargs::from(shallow(Value::from_pairs(all))?);
        minijinja::functions::namespace(Some(start))
    });
    env.add_global("dict", Value::from_object(Dict));
}

/// Sets the time that `strftime_now` sees.
pub(crate) fn set_clock(env: &mut Environment, clock: Clock) {
    env.add_function("strftime_now", move |args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        let args = Args::from_values(&args.into_values())?;
        Ok(Value::from(clock.format(&text(args.need(0, "format")?)?)?))
    });
}

/// The error for a namespace's attribute that begins with an underscore.
pub(crate) fn private<T>(name: &str) -> Outcome<T> {
    raise(
        "SecurityError",
        format!(
            "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{name}'. Please rename \
             the attribute."
        ),
    )
}

fn raise_exception(args: &Args) -> Outcome<Value> {
    Err(Raise(TemplateError::Refused { message: text(args.need(0, "message")?)? }))
}

fn range(args: &Args) -> Outcome<Value> {
    let numbers = args.places.iter().map(crate::value::index).collect::<Outcome<Vec<_>>>()?;
    let (start, stop, step) = match numbers[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return type_error(format!("range expected at least 1 argument, got {}", numbers.len())),
    };
    if step == 0 {
        return value_error("range() arg 3 must not be zero");
    }
    let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let count = if span <= 0 { 0 } else { (span - 1) / step.saturating_abs() + 1 };
    if count > RANGE {
        return raise(
            "OverflowError",
            format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({RANGE})."),
        );
    }
    pay_object()?;
    let shown = if numbers.len() == 3 && step != 1 {
        format!("range({start}, {stop}, {step})")
    } else {
        format!("range({start}, {stop})")
    };
    Ok(Run::range(shown, start, step, count as usize))
}

/// The pairs of `dict(mapping or pairs, name=value, ...)`.
fn merged(args: &Args) -> Outcome<Vec<(Value, Value)>> {
    let mut all = Vec::new();
    if let Some(first) = args.places.first() {
        if matches!(kind(first), Kind::Dict) {
            all = access::pairs(first)?;
        } else {
            for pair in access::items(first)? {
                let two = access::items(&pair)?;
                let [key, value] = &two[..] else {
                    return value_error(format!(
                        "dictionary update sequence element #{} has length {}; 2 is required",
                        all.len(),
                        two.len()
                    ));
                };
                pay_items(2)?;
                all.push((key.clone(), value.clone()));
            }
        }
    }
    all.extend(args.names.iter().map(|(name, value)| (Value::from(name.as_str()), value.clone())));
    Ok(all)
}

/// `dict.fromkeys(keys, value)`.
pub(crate) fn from_keys(args: &Args) -> Outcome<Value> {
    let value = args.get(1, "value").cloned().unwrap_or(Value::from(()));
    let keys = access::items(args.need(0, "iterable")?)?;
    pay_items(2 * keys.len())?;
    dict(keys.into_iter().map(|key| (key, value.clone())).collect())
}

#[derive(Debug)]
struct Dict;

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State, args: &[Value]) -> Result<Value, Error> {
        Ok(dict(merged(&Args::from_values(args)?)?)?)
    }

    fn call_method(self: &Arc<Self>, _: &mut State, name: &str, args: &[Value]) -> Result<Value, Error> {
        match name {
            "fromkeys" => Ok(from_keys(&Args::from_values(args)?)?),
            _ => Ok(raise("UndefinedError", format!("'TemplateDict object' has no attribute '{name}'"))?),
        }
    }
}

/// Gives its items in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.at.load(Ordering::Relaxed);
        (key.as_str() == Some("current")).then(|| self.items[at % self.items.len()].clone())
    }

    fn call_method(self: &Arc<Self>, _: &mut State, name: &str, _: &[Value]) -> Result<Value, Error> {
        match name {
            "next" => Ok(self.items[self.at.fetch_add(1, Ordering::Relaxed) % self.items.len()].clone()),
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Ok(raise("UndefinedError", format!("'Cycler object' has no attribute '{name}'"))?),
        }
    }
}

/// Gives nothing the first time, then the separator.
#[derive(Debug)]
struct Joiner {
    between: String,
    used: AtomicUsize,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State, _: &[Value]) -> Result<Value, Error> {
        let first = self.used.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(Value::from(if first { "" } else { &self.between }))
    }
}
