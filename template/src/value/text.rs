//! Values as text: Python's `str` and `repr`, and what is escaped for HTML.

use super::{Kind, kind, type_name};
use crate::access;
use crate::error::{Outcome, Resource};
use crate::limits::{DEPTH, exceeded, pay};
use crate::objects::Bound;
use minijinja::Value;
use std::fmt::Write;

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
