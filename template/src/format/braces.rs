//! `"{} and {name:>5}".format(a, name=b)`.

use super::spec::{Spec, write};
use crate::access;
use crate::calls::Args;
use crate::error::{Outcome, raise, value_error};
use crate::grow::Text;
use crate::limits::pay;
use crate::value::{escape, plain, repr, same_markup, text};
use minijinja::Value;

/// `value.format(...)`, where `format` is the value's text.
pub(crate) fn braces(value: &Value, format: &str, args: &Args) -> Outcome<Value> {
    let mut next = 0;
    let out = fill(format, args, &mut next, value.is_safe(), 2)?;
    same_markup(value, out)
}

/// Fills in all fields. `next` is the place of the next field without a name. A field's format may have fields itself,
/// to a depth of `depth`.
fn fill(format: &str, args: &Args, next: &mut usize, markup: bool, depth: usize) -> Outcome<String> {
    if depth == 0 {
        return value_error("Max string recursion exceeded");
    }
    let (mut out, mut rest) = (Text::new(), format);
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        let mark = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(mark) {
            out.push(mark)?;
            rest = after;
            continue;
        }
        if mark == "}" {
            return value_error("Single '}' encountered in format string");
        }
        let Some(end) = closing_brace(rest) else { return value_error("expected '}' before end of string") };
        let (field, spec) = rest[..end].split_once(':').unwrap_or((&rest[..end], ""));
        let (path, conversion) = field.split_once('!').unwrap_or((field, ""));
        pay(end)?;
        rest = &rest[end + 1..];
        let value = look_up(path, args, next)?;
        let spec = match spec.contains(['{', '}']) {
            true => &fill(spec, args, next, false, depth - 1)?,
            false => spec,
        };
        let value = match conversion {
            "" => value,
            "s" => plain(text(&value)?)?,
            "r" | "a" => plain(repr(&value)?)?,
            other => return value_error(format!("Unknown conversion specifier {other}")),
        };
        let shown = write(&value, &Spec::parse(spec)?)?;
        out.push(&if markup && !value.is_safe() { escape(&shown)? } else { shown })?;
    }
    out.push(rest)?;
    Ok(out.finish())
}

/// Where the brace that was opened before this text is closed.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1;
    let end = text.char_indices().find(|(_, c)| {
        open += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        open == 0
    });
    end.map(|(at, _)| at)
}

/// The value of a field such as `0.name[key]`.
fn look_up(field: &str, args: &Args, next: &mut usize) -> Outcome<Value> {
    let (name, mut path) = field.split_at(field.find(['.', '[']).unwrap_or(field.len()));
    let mut value = if name.is_empty() {
        *next += 1;
        at_place(args, *next - 1)?
    } else if let Ok(number) = name.parse() {
        at_place(args, number)?
    } else {
        match args.named(name) {
            Some(value) => value.clone(),
            None => return raise("KeyError", repr(&Value::from(name))?),
        }
    };
    while !path.is_empty() {
        if let Some(inner) = path.strip_prefix('[') {
            let Some((key, tail)) = inner.split_once(']') else {
                return value_error("Missing ']' in format string");
            };
            let key = key.parse::<u32>().map_or_else(|_| Value::from(key), Value::from);
            value = access::item(&value, &key)?;
            path = tail;
        } else {
            let inner = &path[1..];
            let (attribute, tail) = inner.split_at(inner.find(['.', '[']).unwrap_or(inner.len()));
            value = access::attribute(&value, attribute)?;
            path = tail;
        }
    }
    Ok(value)
}

fn at_place(args: &Args, number: usize) -> Outcome<Value> {
    match args.places.get(number) {
        Some(value) => Ok(value.clone()),
        None => raise("IndexError", format!("Replacement index {number} out of range for positional args tuple")),
    }
}
