//! Jinja's tests: what may follow `is`.

use crate::access;
use crate::arithmetic::binary;
use crate::calls::Args;
use crate::error::{Outcome, raise};
use crate::objects::Bound;
use crate::value::{Kind, compare, contains, equal, kind, text};
use minijinja::Value;
use std::cmp::Ordering;

/// A test of a value, with the arguments in parentheses.
pub(crate) type Check = fn(&Value, &Args) -> Outcome<bool>;

/// Every test by its name.
pub(crate) const ALL: [(&str, Check); 39] = [
    ("boolean", |v, _| Ok(matches!(kind(v), Kind::Bool(_)))),
    ("callable", |v, _| Ok(is_callable(v))),
    ("defined", |v, _| Ok(!matches!(kind(v), Kind::Undefined))),
    ("divisibleby", |v, a| equal(&binary("%", v, a.need(0, "num")?)?, &Value::from(0))),
    ("eq", |v, a| equal(v, a.need(0, "other")?)),
    ("equalto", |v, a| equal(v, a.need(0, "other")?)),
    ("escaped", |v, _| Ok(v.is_safe())),
    ("even", |v, _| equal(&binary("%", v, &Value::from(2))?, &Value::from(0))),
    ("false", |v, _| Ok(matches!(kind(v), Kind::Bool(false)))),
    ("filter", |v, _| Ok(v.as_str().is_some_and(|name| crate::filters::find(name).is_some()))),
    ("float", |v, _| Ok(matches!(kind(v), Kind::Float(_)))),
    ("ge", |v, a| ordered(">=", v, a)),
    ("greaterthan", |v, a| ordered(">", v, a)),
    ("gt", |v, a| ordered(">", v, a)),
    ("in", |v, a| contains(a.need(0, "seq")?, v)),
    ("integer", |v, _| Ok(matches!(kind(v), Kind::Int(_)))),
    ("iterable", |v, _| {
        Ok(matches!(kind(v), Kind::Undefined | Kind::Str(_) | Kind::List | Kind::Tuple | Kind::Dict | Kind::Run(_)))
    }),
    ("le", |v, a| ordered("<=", v, a)),
    ("lessthan", |v, a| ordered("<", v, a)),
    ("lower", |v, _| cased(v, char::is_lowercase, char::is_uppercase)),
    ("lt", |v, a| ordered("<", v, a)),
    ("mapping", |v, _| Ok(matches!(kind(v), Kind::Dict))),
    ("ne", |v, a| Ok(!equal(v, a.need(0, "other")?)?)),
    ("none", |v, _| Ok(v.is_none())),
    ("number", |v, _| Ok(matches!(kind(v), Kind::Int(_) | Kind::Float(_) | Kind::Bool(_)))),
    ("odd", |v, _| equal(&binary("%", v, &Value::from(2))?, &Value::from(1))),
    ("sameas", same),
    ("sequence", |v, _| Ok(access::is_sequence(v))),
    ("string", |v, _| Ok(matches!(kind(v), Kind::Str(_)))),
    ("test", |v, _| Ok(v.as_str().is_some_and(|name| find(name).is_some()))),
    ("true", |v, _| Ok(matches!(kind(v), Kind::Bool(true)))),
    ("undefined", |v, _| Ok(matches!(kind(v), Kind::Undefined))),
    ("upper", |v, _| cased(v, char::is_uppercase, char::is_lowercase)),
    ("==", |v, a| equal(v, a.need(0, "other")?)),
    ("!=", |v, a| Ok(!equal(v, a.need(0, "other")?)?)),
    ("<", |v, a| ordered("<", v, a)),
    ("<=", |v, a| ordered("<=", v, a)),
    (">", |v, a| ordered(">", v, a)),
    (">=", |v, a| ordered(">=", v, a)),
];

/// The test of this name.
pub(crate) fn find(name: &str) -> Option<Check> {
    ALL.iter().find(|(own, _)| *own == name).map(|(_, check)| *check)
}

/// As [`find`], or Jinja's error.
pub(crate) fn need(name: &str) -> Outcome<Check> {
    find(name).map_or_else(|| raise("TemplateRuntimeError", format!("No test named '{name}'.")), Ok)
}

fn ordered(op: &str, value: &Value, args: &Args) -> Outcome<bool> {
    holds(op, value, args.need(0, "other")?)
}

/// Whether a comparison operator holds between two values.
pub(crate) fn holds(op: &str, a: &Value, b: &Value) -> Outcome<bool> {
    match op {
        "==" => equal(a, b),
        "!=" => Ok(!equal(a, b)?),
        "in" => contains(b, a),
        "not in" => Ok(!contains(b, a)?),
        _ => Ok(compare(op, a, b)?.is_some_and(|order| match op {
            "<" => order == Ordering::Less,
            "<=" => order != Ordering::Greater,
            ">" => order == Ordering::Greater,
            _ => order != Ordering::Less,
        })),
    }
}

fn cased(value: &Value, this: fn(char) -> bool, other: fn(char) -> bool) -> Outcome<bool> {
    let text = text(value)?;
    Ok(text.chars().any(this) && !text.chars().any(other))
}

fn is_callable(value: &Value) -> bool {
    match kind(value) {
        // An undefined value has a `__call__`, though it only raises.
        Kind::Undefined => true,
        Kind::Object => {
            value.downcast_object_ref::<Bound>().is_some() || !matches!(access::object_name(value), "Namespace")
        }
        _ => false,
    }
}

/// Python's `is`: as Python has it for small values, of which there is one object; else by equality.
fn same(value: &Value, args: &Args) -> Outcome<bool> {
    let other = args.need(0, "other")?;
    Ok(match (kind(value), kind(other)) {
        (Kind::None, Kind::None) => true,
        (Kind::Bool(a), Kind::Bool(b)) => a == b,
        (Kind::Int(a), Kind::Int(b)) => a == b,
        (Kind::Str(_), Kind::Str(_)) => return equal(value, other),
        (Kind::Bool(_) | Kind::Int(_) | Kind::None | Kind::Str(_), _) => false,
        _ => match (value.as_object(), other.as_object()) {
            (Some(_), Some(_)) => return equal(value, other),
            _ => false,
        },
    })
}
