//! Values as Python has them: types and their names, `str` and `repr`, equality, order.
//!
//! Chat templates are written for Jinja in Python, where `{{ None }}` is "None" and `1 == true`.

use crate::access;
use crate::error::{Outcome, Resource, type_error, value_error};
use crate::grow::{Text, copy, pay_object, room};
use crate::limits::{DEPTH, ITEM, OBJECT, exceeded, pay, pay_all, shallow};
use crate::objects::{Bound, Missing, Run};
use minijinja::Value;
use minijinja::value::ValueKind;
use std::cmp::Ordering;

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
    match kind(value) {
        Kind::Str(s) => copy(s),
        _ => repr(value),
    }
}

/// A value's `repr()`.
pub(crate) fn repr(value: &Value) -> Outcome<String> {
    let mut out = Text::new();
    write_repr(&mut out, value, DEPTH)?;
    Ok(out.finish())
}

fn write_repr(out: &mut Text, value: &Value, left: usize) -> Outcome<()> {
    if left == 0 {
        return Err(exceeded(Resource::Nesting, DEPTH as u64));
    }
    pay(1)?;
    let items = |out: &mut Text, open: &str, items: Vec<Value>, close: &str| {
        out.push(open)?;
        for (i, item) in items.iter().enumerate() {
            out.push(if i == 0 { "" } else { ", " })?;
            write_repr(out, item, left - 1)?;
        }
        out.push(close)
    };
    match kind(value) {
        Kind::Undefined if out.len() > 0 => out.push("Undefined"),
        Kind::Undefined => Ok(()),
        Kind::None => out.push("None"),
        Kind::Bool(yes) => out.push(if yes { "True" } else { "False" }),
        Kind::Int(int) => out.push(&int.to_string()),
        Kind::Float(float) => out.push(&float_text(float)),
        Kind::Str(s) if value.is_safe() => {
            out.push("Markup(")?;
            write_str_repr(out, s)?;
            out.push(")")
        }
        Kind::Str(s) => write_str_repr(out, s),
        Kind::List => items(out, "[", access::items(value)?, "]"),
        Kind::Tuple => {
            let all = access::items(value)?;
            let close = if all.len() == 1 { ",)" } else { ")" };
            items(out, "(", all, close)
        }
        Kind::Dict => {
            out.push("{")?;
            for (i, (key, item)) in access::pairs(value)?.iter().enumerate() {
                out.push(if i == 0 { "" } else { ", " })?;
                write_repr(out, key, left - 1)?;
                out.push(": ")?;
                write_repr(out, item, left - 1)?;
            }
            out.push("}")
        }
        Kind::Run(run) => match run.name {
            "range" => out.push(&run.shown),
            "generator" => out.push("<generator object>"),
            name if name.ends_with("iterator") => out.push(&format!("<{name} object>")),
            name => {
                out.push(name)?;
                items(out, "([", run.all()?, "])")
            }
        },
        Kind::Object => match value.downcast_object_ref::<Bound>() {
            Some(bound) => out.push(&format!("<built-in method {} of {} object>", bound.name, type_name(&bound.value))),
            None => out.push(&format!("<{}>", access::object_name(value))),
        },
    }
}

fn write_str_repr(out: &mut Text, s: &str) -> Outcome<()> {
    // Looking for the quotes reads the text too.
    pay(s.len())?;
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    out.push_char(quote)?;
    for c in s.chars() {
        let code = c as u32;
        match c {
            '\\' => out.push("\\\\"),
            '\n' => out.push("\\n"),
            '\r' => out.push("\\r"),
            '\t' => out.push("\\t"),
            _ if c == quote => out.push(&format!("\\{c}")),
            _ if is_printable(c) => out.push_char(c),
            _ if code < 0x100 => out.push(&format!("\\x{code:02x}")),
            _ if code < 0x10000 => out.push(&format!("\\u{code:04x}")),
            _ => out.push(&format!("\\U{code:08x}")),
        }?;
    }
    out.push_char(quote)
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
pub(crate) fn escape(s: &str) -> Outcome<String> {
    let mut out = Text::new();
    for c in s.chars() {
        match c {
            '&' => out.push("&amp;"),
            '<' => out.push("&lt;"),
            '>' => out.push("&gt;"),
            '"' => out.push("&#34;"),
            '\'' => out.push("&#39;"),
            _ => out.push_char(c),
        }?;
    }
    Ok(out.finish())
}

/// A text that is markup if `like` is: an operation on markup gives markup.
pub(crate) fn same_markup(like: &Value, text: String) -> Outcome<Value> {
    if like.is_safe() { markup(text) } else { plain(text) }
}

/// A text as a value. The engine copies it.
pub(crate) fn plain(text: String) -> Outcome<Value> {
    pay_text(&text)?;
    Ok(Value::from(text))
}

/// A text that needs no escapes any more, as a value.
pub(crate) fn markup(text: String) -> Outcome<Value> {
    pay_text(&text)?;
    Ok(Value::from_safe_string(text))
}

fn pay_text(text: &str) -> Outcome<()> {
    // Its share of the object that holds it.
    pay(ITEM)?;
    room(text.len())
}

/// A value's text, escaped unless it is markup already.
pub(crate) fn escaped(value: &Value) -> Outcome<String> {
    let plain = text(value)?;
    if value.is_safe() { Ok(plain) } else { escape(&plain) }
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
        (Kind::Run(_), _) | (Kind::Object, _) => {
            pay_all(a)?;
            pay_all(b)?;
            a == b
        }
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
