//! Values as Python has them: types and their names, numbers, dicts. `text` prints them, `order` compares them.
//!
//! Chat templates are written for Jinja in Python, where `{{ None }}` is "None" and `1 == true`.

mod order;
mod text;

pub(crate) use order::{compare, contains, equal};
pub(crate) use text::{escape, escaped, float_text, markup, plain, repr, same_markup, text};

use crate::access;
use crate::error::{Outcome, type_error, value_error};
use crate::grow::{pay_object, room};
use crate::limits::{ITEM, OBJECT, pay, pay_all, shallow};
use crate::objects::{Missing, Run};
use minijinja::Value;
use minijinja::value::ValueKind;

/// What a value is.
pub(crate) enum Kind<'v> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'v str),
    List,
    Tuple,
    Dict,
    /// A sequence made lazily: a generator, a view, a range.
    Run(&'v Run),
    /// Anything else: a function, a namespace, `loop`.
    Object,
}

pub(crate) fn kind(value: &Value) -> Kind<'_> {
    match value.kind() {
        ValueKind::Undefined => Kind::Undefined,
        ValueKind::None => Kind::None,
        ValueKind::Bool => Kind::Bool(value.is_true()),
        ValueKind::Number => match i128::try_from(value.clone()) {
            Ok(int) if value.is_integer() => Kind::Int(int),
            _ => Kind::Float(f64::try_from(value.clone()).unwrap_or(f64::NAN)),
        },
        ValueKind::String => Kind::Str(value.as_str().unwrap_or_default()),
        _ if value.downcast_object_ref::<Missing>().is_some() => Kind::Undefined,
        _ if value.is_tuple() => Kind::Tuple,
        ValueKind::Map if access::is_dict(value) => Kind::Dict,
        ValueKind::Seq => Kind::List,
        _ => value.downcast_object_ref::<Run>().map_or(Kind::Object, Kind::Run),
    }
}

/// A type's name in Python.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match kind(value) {
        Kind::Undefined => "Undefined",
        Kind::None => "NoneType",
        Kind::Bool(_) => "bool",
        Kind::Int(_) => "int",
        Kind::Float(_) => "float",
        Kind::Str(_) if value.is_safe() => "Markup",
        Kind::Str(_) => "str",
        Kind::List => "list",
        Kind::Tuple => "tuple",
        Kind::Dict => "dict",
        Kind::Run(run) => run.name,
        Kind::Object => access::object_name(value),
    }
}

/// A dict of these pairs. Of equal keys, such as `1` and `true`, the first one stays, with the last one's value.
pub(crate) fn dict(pairs: Vec<(Value, Value)>) -> Outcome<Value> {
    pay_object()?;
    for (key, _) in &pairs {
        // The engine's map hashes each key, and compares it.
        pay(ITEM)?;
        pay_all(key)?;
    }
    // The list of pairs, and the map that the engine makes of it.
    room(pairs.len().saturating_mul(2 * OBJECT))?;
    let mut merged: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
    // The engine's own maps treat equal keys as one, except booleans.
    let booleans = pairs.iter().any(|(key, _)| matches!(kind(key), Kind::Bool(_)));
    for (key, value) in pairs {
        let mut same = None;
        if booleans && number(&key).is_some() {
            for (at, (other, _)) in merged.iter().enumerate() {
                same = same.or(equal(other, &key)?.then_some(at));
            }
        }
        match same {
            Some(at) => merged[at].1 = value,
            None => merged.push((key, value)),
        }
    }
    shallow(Value::from_pairs(merged))
}

pub(crate) fn int(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
}

/// Two numbers as Python would compute with them.
pub(crate) enum Numbers {
    Ints(i128, i128),
    Floats(f64, f64),
}

/// A number: Ok if it is whole, Err if it is a float. A bool is 0 or 1.
pub(crate) fn number(value: &Value) -> Option<Result<i128, f64>> {
    match kind(value) {
        Kind::Bool(yes) => Some(Ok(yes.into())),
        Kind::Int(i) => Some(Ok(i)),
        Kind::Float(x) => Some(Err(x)),
        _ => None,
    }
}

/// Two numbers, made the same type.
pub(crate) fn numbers(a: &Value, b: &Value) -> Option<Numbers> {
    Some(match (number(a)?, number(b)?) {
        (Ok(a), Ok(b)) => Numbers::Ints(a, b),
        (a, b) => Numbers::Floats(a.map_or_else(|x| x, |i| i as f64), b.map_or_else(|x| x, |i| i as f64)),
    })
}

/// A whole number, if Python would accept the value as one.
pub(crate) fn index(value: &Value) -> Outcome<i128> {
    match number(value) {
        Some(Ok(i)) => Ok(i),
        _ => type_error(format!("'{}' object cannot be interpreted as an integer", type_name(value))),
    }
}

/// `int(text)`, in a base.
pub(crate) fn parse_int(text: &str, base: u32) -> Outcome<i128> {
    let bad = || value_error(format!("invalid literal for int() with base {base}: {}", repr(&Value::from(text))?));
    pay(text.len().saturating_mul(4))?;
    let trimmed = text.trim().replace('_', "");
    let (sign, digits) = match trimmed.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, trimmed.strip_prefix('+').unwrap_or(&trimmed)),
    };
    let lower = digits.to_ascii_lowercase();
    let digits = match (base, lower.get(..2)) {
        (16, Some("0x")) | (8, Some("0o")) | (2, Some("0b")) => &lower[2..],
        _ => &lower,
    };
    if digits.starts_with(['+', '-']) {
        return bad();
    }
    i128::from_str_radix(digits, base).map_or_else(|_| bad(), |i| Ok(sign * i))
}

/// `float(text)`.
pub(crate) fn parse_float(text: &str) -> Outcome<f64> {
    let bad = || value_error(format!("could not convert string to float: {}", repr(&Value::from(text))?));
    pay(text.len().saturating_mul(4))?;
    text.trim().replace('_', "").parse().map_or_else(|_| bad(), Ok)
}
