//! Values as Python has them: types and their names, `str` and `repr`, equality, order.
//!
//! Chat templates are written for Jinja in Python, where `{{ None }}` is "None" and `1 == true`.

use crate::access;
use crate::error::{Outcome, Resource, type_error, value_error};
use crate::limits::{DEPTH, ITEM, exceeded, pay, shallow};
use crate::objects::{Bound, Missing, Run};
use minijinja::Value;
use minijinja::value::ValueKind;
use std::cmp::Ordering;
use std::fmt::Write;

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

/// A value's `str()`.
pub(crate) fn text(value: &Value) -> Outcome<String> {
    let mut out = String::new();
    match kind(value) {
        Kind::Str(s) => out.push_str(s),
        _ => write_repr(&mut out, value, DEPTH)?,
    }
    pay(out.len())?;
    Ok(out)
}

/// A value's `repr()`.
pub(crate) fn repr(value: &Value) -> Outcome<String> {
    let mut out = String::new();
    write_repr(&mut out, value, DEPTH)?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, left: usize) -> Outcome<()> {
    if left == 0 {
        return Err(exceeded(Resource::Nesting, DEPTH as u64));
    }
    let before = out.len();
    let items = |out: &mut String, open: &str, items: Vec<Value>, close: &str| {
        out.push_str(open);
        for (i, item) in items.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { ", " });
            write_repr(out, item, left - 1)?;
        }
        out.push_str(close);
        Ok(())
    };
    match kind(value) {
        Kind::Undefined if before > 0 => out.push_str("Undefined"),
        Kind::Undefined => {}
        Kind::None => out.push_str("None"),
        Kind::Bool(yes) => out.push_str(if yes { "True" } else { "False" }),
        Kind::Int(int) => out.push_str(&int.to_string()),
        Kind::Float(float) => out.push_str(&float_text(float)),
        Kind::Str(s) if value.is_safe() => {
            out.push_str("Markup(");
            write_str_repr(out, s);
            out.push(')');
        }
        Kind::Str(s) => write_str_repr(out, s),
        Kind::List => items(out, "[", access::items(value)?, "]")?,
        Kind::Tuple => {
            let all = access::items(value)?;
            let close = if all.len() == 1 { ",)" } else { ")" };
            items(out, "(", all, close)?;
        }
        Kind::Dict => {
            out.push('{');
            for (i, (key, item)) in access::pairs(value)?.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_repr(out, key, left - 1)?;
                out.push_str(": ");
                write_repr(out, item, left - 1)?;
            }
            out.push('}');
        }
        Kind::Run(run) => match run.name {
            "range" => out.push_str(&run.shown),
            "generator" => out.push_str("<generator object>"),
            name if name.ends_with("iterator") => {
                let _ = write!(out, "<{name} object>");
            }
            name => {
                let _ = write!(out, "{name}(");
                items(out, "[", run.all(), "])")?;
            }
        },
        Kind::Object => match value.downcast_object_ref::<Bound>() {
            Some(bound) => {
                let _ = write!(out, "<built-in method {} of {} object>", bound.name, type_name(&bound.value));
            }
            None => {
                let _ = write!(out, "<{}>", access::object_name(value));
            }
        },
    }
    pay(1 + out.len() - before)
}

fn write_str_repr(out: &mut String, s: &str) {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in s.chars() {
        let code = c as u32;
        let _ = match c {
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            _ if c == quote => write!(out, "\\{c}"),
            _ if is_printable(c) => out.write_char(c),
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            _ if code < 0x10000 => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
    }
    out.push(quote);
}

/// Python's `str.isprintable`, except for unassigned characters.
fn is_printable(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
        | '\u{fffe}'..='\u{ffff}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..='\u{10ffff}');
    c == ' ' || !(c.is_control() || c.is_whitespace() || hidden)
}

/// A float as Python prints it: the shortest digits that read back the same, an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float_text(x: f64) -> String {
    // Rust's own debugging form has the same bounds; only its exponent is shorter, and its NaN has capitals.
    let text = format!("{x:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => format!("{digits}e{:+03}", exponent.parse::<i32>().unwrap_or(0)),
        None => text.to_ascii_lowercase(),
    }
}

/// `&`, `<`, `>` and both quotes as HTML writes them.
pub(crate) fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// A text that is markup if `like` is: an operation on markup gives markup.
pub(crate) fn same_markup(like: &Value, text: String) -> Value {
    if like.is_safe() { Value::from_safe_string(text) } else { Value::from(text) }
}

/// A value's text, escaped unless it is markup already.
pub(crate) fn escaped(value: &Value) -> Outcome<String> {
    let plain = text(value)?;
    Ok(if value.is_safe() { plain } else { escape(&plain) })
}

/// A dict of these pairs. Of equal keys, such as `1` and `true`, the first one stays, with the last one's value.
pub(crate) fn dict(pairs: Vec<(Value, Value)>) -> Outcome<Value> {
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

/// `a == b`.
pub(crate) fn equal(a: &Value, b: &Value) -> Outcome<bool> {
    same(a, b, DEPTH)
}

fn same(a: &Value, b: &Value, left: usize) -> Outcome<bool> {
    if left == 0 {
        return Err(exceeded(Resource::Nesting, DEPTH as u64));
    }
    pay(ITEM / 2)?;
    if let Some(numbers) = numbers(a, b) {
        return Ok(match numbers {
            Numbers::Ints(a, b) => a == b,
            Numbers::Floats(a, b) => a == b,
        });
    }
    Ok(match (kind(a), kind(b)) {
        (Kind::Undefined, Kind::Undefined) | (Kind::None, Kind::None) => true,
        (Kind::Str(a), Kind::Str(b)) => {
            pay(a.len().min(b.len()))?;
            a == b
        }
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (a, b) = (access::items(a)?, access::items(b)?);
            a.len() == b.len() && all(a.iter().zip(&b), |(a, b)| same(a, b, left - 1))?
        }
        (Kind::Dict, Kind::Dict) => {
            let (a, b) = (access::pairs(a)?, b);
            a.len() == access::pairs(b)?.len()
                && all(a.iter(), |(key, item)| match access::entry(b, key)? {
                    Some(other) => same(item, &other, left - 1),
                    None => Ok(false),
                })?
        }
        (Kind::Run(_), _) | (Kind::Object, _) => a == b,
        _ => false,
    })
}

fn all<T>(mut items: impl Iterator<Item = T>, check: impl Fn(T) -> Outcome<bool>) -> Outcome<bool> {
    items.try_fold(true, |so_far, item| Ok(so_far && check(item)?))
}

/// The order of `a` and `b` for the operator `op`; None if they have none (NaN).
pub(crate) fn compare(op: &str, a: &Value, b: &Value) -> Outcome<Option<Ordering>> {
    if let Some(numbers) = numbers(a, b) {
        return Ok(match numbers {
            Numbers::Ints(a, b) => Some(a.cmp(&b)),
            Numbers::Floats(a, b) => a.partial_cmp(&b),
        });
    }
    match (kind(a), kind(b)) {
        (Kind::Str(a), Kind::Str(b)) => {
            pay(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (a, b) = (access::items(a)?, access::items(b)?);
            for (a, b) in a.iter().zip(&b) {
                if !equal(a, b)? {
                    return compare(op, a, b);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        (Kind::Undefined, _) => access::undefined(a),
        (_, Kind::Undefined) => access::undefined(b),
        _ => type_error(format!("'{op}' not supported between instances of '{}' and '{}'", type_name(a), type_name(b))),
    }
}

/// `item in container`.
pub(crate) fn contains(container: &Value, item: &Value) -> Outcome<bool> {
    match kind(container) {
        Kind::Undefined => Ok(false),
        Kind::Str(s) => {
            pay(s.len())?;
            match kind(item) {
                Kind::Str(part) => Ok(s.contains(part)),
                _ => type_error(format!("'in <string>' requires string as left operand, not {}", type_name(item))),
            }
        }
        Kind::Dict => Ok(access::entry(container, item)?.is_some()),
        Kind::List | Kind::Tuple | Kind::Run(_) => {
            for other in access::items(container)? {
                if equal(&other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => type_error(format!("argument of type '{}' is not iterable", type_name(container))),
    }
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
    text.trim().replace('_', "").parse().map_or_else(|_| bad(), Ok)
}
