//! Values as text: Python's `str` and `repr`, and what is escaped for HTML.

use super::{Kind, kind, type_name};
use crate::access;
use crate::error::{Outcome, Resource};
use crate::grow::{Text, copy, room};
use crate::limits::{DEPTH, ITEM, exceeded, pay};
use crate::objects::Bound;
use minijinja::Value;

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
