//! Filters of texts: formats, spaces, lines and HTML's escapes.

use super::sequences::by_attribute;
use crate::access;
use crate::calls::Args;
use crate::error::{Outcome, raise, type_error};
use crate::grow::Text;
use crate::limits::pay_items;
use crate::methods;
use crate::value::{self, Kind, kind, markup, plain, same_markup, text, type_name};
use minijinja::Value;
use minijinja::value::Tuple;

pub(super) fn escape_filter(v: &Value, _: &Args) -> Outcome<Value> {
    markup(value::escaped(v)?)
}

pub(super) fn format(v: &Value, a: &Args) -> Outcome<Value> {
    if !a.places.is_empty() && !a.names.is_empty() {
        return raise("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
    }
    let with = if a.names.is_empty() {
        Value::from(Tuple::from(a.places.clone()))
    } else {
        pay_items(a.names.len().saturating_mul(2))?;
        Value::from_pairs(a.names.iter().map(|(name, v)| (name.as_str(), v.clone())))
    };
    crate::format::percent(&same_markup(v, text(v)?)?, &with)
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
            let mut margin = Text::new();
            margin.repeat(" ", width)?;
            margin.finish()
        }
    };
    let mut s = Text::new();
    s.push(&text(v)?)?;
    s.push("\n")?;
    let s = s.finish();
    let (first, blank) = (a.flag(1, "first", false), a.flag(2, "blank", false));
    let mut out = Text::new();
    for (at, line) in s.split_inclusive('\n').map(|line| line.trim_end_matches('\n')).enumerate() {
        if at > 0 {
            out.push("\n")?;
        }
        if (at > 0 && (blank || !line.is_empty())) || (at == 0 && first) {
            out.push(&margin)?;
        }
        out.push(line)?;
    }
    same_markup(v, out.finish())
}

pub(super) fn join(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("sync_do_join", &["d", "attribute"])?;
    let between = a.str(0, "d", "")?;
    let mut out = Text::new();
    for (at, item) in access::items(v)?.iter().enumerate() {
        if at > 0 {
            out.push(&between)?;
        }
        out.push(&text(&by_attribute(item, a.get(1, "attribute"))?)?)?;
    }
    plain(out.finish())
}

pub(super) fn replace(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("do_replace", &["s", "old", "new", "count"])?;
    let (old, new) = (text(a.need(0, "old")?)?, text(a.need(1, "new")?)?);
    let count = a.get(2, "count").filter(|c| !c.is_none()).map_or(Ok(-1), value::index)?;
    plain(methods::replace(&text(v)?, &old, &new, count)?)
}

pub(super) fn trim(v: &Value, a: &Args) -> Outcome<Value> {
    let places = a.get(0, "chars").cloned().into_iter().collect();
    methods::call(&same_markup(v, text(v)?)?, "strip", &Args { places, names: Vec::new() })
}
