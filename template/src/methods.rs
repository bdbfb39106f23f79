//! The methods of Python's strings (`texts`), lists and dicts that templates call.

mod texts;

pub(crate) use texts::{capitalize, lower, replace, title, upper};

use crate::access;
use crate::calls::Args;
use crate::error::{Outcome, type_error, value_error};
use crate::grow::pay_object;
use crate::limits::{ITEM, OBJECT, pay, shallow};
use crate::objects::Run;
use crate::value::{Kind, equal, int, kind, type_name};
use minijinja::Value;
use minijinja::value::Tuple;

const STR: [&str; 30] = [
    "capitalize",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isdigit",
    "islower",
    "isspace",
    "isupper",
    "join",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
];
const LIST: [&str; 3] = ["copy", "count", "index"];
const LIST_CHANGES: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const DICT_CHANGES: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Whether a value has a method of this name that changes nothing.
pub(crate) fn has(value: &Value, name: &str) -> bool {
    match kind(value) {
        Kind::Str(_) => STR.contains(&name),
        Kind::List => LIST.contains(&name),
        Kind::Tuple => name == "count" || name == "index",
        Kind::Dict => DICT.contains(&name),
        _ => false,
    }
}

/// Whether a method of this name would change the value, which no template may do.
pub(crate) fn changes(value: &Value, name: &str) -> bool {
    match kind(value) {
        Kind::List => LIST_CHANGES.contains(&name),
        Kind::Dict => DICT_CHANGES.contains(&name),
        _ => false,
    }
}

/// Calls a method for which [`has`] is true.
pub(crate) fn call(value: &Value, name: &str, args: &Args) -> Outcome<Value> {
    match kind(value) {
        Kind::Str(s) => {
            pay(s.len())?;
            texts::call(value, s, name, args)
        }
        Kind::List | Kind::Tuple => list_method(value, name, args),
        Kind::Dict => dict_method(value, name, args),
        _ => type_error(format!("'{}' object has no method '{name}'", type_name(value))),
    }
}

fn list_method(value: &Value, name: &str, args: &Args) -> Outcome<Value> {
    let items = access::items(value)?;
    match name {
        "copy" => {
            pay_object()?;
            Ok(Value::from(items))
        }
        "count" => {
            let wanted = args.need(0, "value")?;
            let mut count = 0;
            for item in &items {
                count += i128::from(equal(item, wanted)?);
            }
            Ok(int(count))
        }
        _ => {
            let wanted = args.need(0, "value")?;
            for (at, item) in items.iter().enumerate() {
                if equal(item, wanted)? {
                    return Ok(int(at as i128));
                }
            }
            value_error(format!("{} is not in list", crate::value::repr(wanted)?))
        }
    }
}

fn dict_method(value: &Value, name: &str, args: &Args) -> Outcome<Value> {
    let pairs = |each: usize, shape: fn((Value, Value)) -> Value| {
        let pairs = access::pairs(value)?;
        pay_object()?;
        pay(pairs.len().saturating_mul(each))?;
        Ok(pairs.into_iter().map(shape).collect::<Vec<_>>())
    };
    match name {
        "get" => {
            args.expect_only("get", &["key", "default"])?;
            let none = Value::from(());
            Ok(access::entry(value, args.need(0, "key")?)?
                .unwrap_or_else(|| args.get(1, "default").unwrap_or(&none).clone()))
        }
        "items" => Ok(Run::value("dict_items", pairs(OBJECT, |(k, v)| Value::from(Tuple::from([k, v])))?)),
        "keys" => Ok(Run::value("dict_keys", pairs(ITEM, |(k, _)| k)?)),
        "values" => Ok(Run::value("dict_values", pairs(ITEM, |(_, v)| v)?)),
        "fromkeys" => crate::globals::from_keys(args),
        _ => crate::value::dict(access::pairs(value)?),
    }
}

/// Items as a list that is not nested too deep.
pub(crate) fn list(items: Vec<Value>) -> Outcome<Value> {
    pay_object()?;
    shallow(Value::from(items))
}
