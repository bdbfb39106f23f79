//! Filters of texts: formats, spaces, lines and HTML's escapes.

use super::sequences::by_attribute;
use crate::access;
use crate::calls::Args;
use crate::error::{Outcome, raise, type_error};
use crate::limits::pay;
use crate::methods;
use crate::value::{self, Kind, kind, same_markup, text, type_name};
use minijinja::Value;
use minijinja::value::Tuple;

pub(super) fn escape_filter(v: &Value, _: &Args) -> Outcome<Value> {
    Ok(Value::from_safe_string(value::escaped(v)?))
}

pub(super) fn format(v: &Value, a: &Args) -> Outcome<Value> {
    if !a.places.is_empty() && !a.names.is_empty() {
        return raise("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
    }
    let with = if a.names.is_empty() {
        Value::from(Tuple::from(a.places.clone()))
    } else {
        Value::from_pairs(a.names.iter().map(|(name, v)| (name.as_str(), v.clone())))
    };
    crate::format::percent(&same_markup(v, text(v)?), &with)
}

pub(super) fn indent(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("do_indent", &["width", "first", "blank"])?;
    match kind(v) {
        Kind::Str(_) => {}
        Kind::Undefined => return access::undefined(v),
        _ => return type_error(format!("unsupported operand type(s) for +=: '{}' and 'str'", type_name(v))),
    }
    let margin = match a.get(0, "width").map(|w| (kind(w), w)) {
        None => "    ".to_string(),
        Some((Kind::Str(s), _)) => s.to_string(),
        Some((_, w)) => {
            let width = usize::try_from(value::index(w)?).unwrap_or(0);
            pay(width)?;
            " ".repeat(width)
        }
    };
    let s = text(v)? + "\n";
    let lines: Vec<&str> = s.split_inclusive('\n').map(|line| line.trim_end_matches('\n')).collect();
    pay(lines.len().saturating_mul(margin.len() + 1))?;
    let blank = a.flag(2, "blank", false);
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if (at > 0 && (blank || !line.is_empty())) || (at == 0 && a.flag(1, "first", false)) {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(same_markup(v, out))
}

pub(super) fn join(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("sync_do_join", &["d", "attribute"])?;
    let between = a.str(0, "d", "")?;
    let mut out = String::new();
    for (at, item) in access::items(v)?.iter().enumerate() {
        if at > 0 {
            pay(between.len())?;
            out.push_str(&between);
        }
        out.push_str(&text(&by_attribute(item, a.get(1, "attribute"))?)?);
    }
    Ok(Value::from(out))
}

pub(super) fn replace(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("do_replace", &["s", "old", "new", "count"])?;
    let (old, new) = (text(a.need(0, "old")?)?, text(a.need(1, "new")?)?);
    let count = a.get(2, "count").filter(|c| !c.is_none()).map_or(Ok(-1), value::index)?;
    Ok(Value::from(methods::replace(&text(v)?, &old, &new, count)?))
}

pub(super) fn trim(v: &Value, a: &Args) -> Outcome<Value> {
    let places = a.get(0, "chars").cloned().into_iter().collect();
    methods::call(&same_markup(v, text(v)?), "strip", &Args { places, names: Vec::new() })
}
