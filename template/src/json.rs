//! The `tojson` filter as in transformers: Python's `json.dumps`.

use crate::access;
use crate::calls::Args;
use crate::error::{Outcome, Resource, type_error};
use crate::grow::Text;
use crate::limits::{DEPTH, exceeded, pay, pay_items};
use crate::value::{Kind, float_text, kind, plain, text, type_name};
use minijinja::Value;

struct Style {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
}

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(crate) fn to_json(value: &Value, args: &Args) -> Outcome<Value> {
    args.expect_only("tojson", &["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match args.get(1, "indent").map(|v| (kind(v), v)) {
        None | Some((Kind::None, _)) => None,
        Some((Kind::Str(s), _)) => Some(s.to_string()),
        Some((_, v)) => {
            let spaces = usize::try_from(crate::value::index(v)?).unwrap_or(0);
            let mut indent = Text::new();
            indent.repeat(" ", spaces)?;
            Some(indent.finish())
        }
    };
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string());
    if let Some(separators) = args.get(2, "separators").filter(|v| !v.is_none()) {
        let both = access::items(separators)?;
        let [a, b] = &both[..] else { return type_error("separators must be two texts") };
        (item, key) = (text(a)?, text(b)?);
    }
    let style =
        Style { ascii: args.flag(0, "ensure_ascii", false), indent, item, key, sort: args.flag(3, "sort_keys", false) };
    let mut out = Text::new();
    write(&mut out, value, &style, 0)?;
    plain(out.finish())
}

fn write(out: &mut Text, value: &Value, style: &Style, depth: usize) -> Outcome<()> {
    if depth > DEPTH {
        return Err(exceeded(Resource::Nesting, DEPTH as u64));
    }
    pay(1)?;
    let line = |out: &mut Text, depth: usize| {
        let Some(indent) = &style.indent else { return Ok(()) };
        out.push("\n")?;
        out.repeat(indent, depth)
    };
    match kind(value) {
        Kind::None => out.push("null"),
        Kind::Bool(yes) => out.push(if yes { "true" } else { "false" }),
        Kind::Int(i) => out.push(&i.to_string()),
        Kind::Float(x) if x.is_nan() => out.push("NaN"),
        Kind::Float(x) if x.is_infinite() => out.push(if x > 0.0 { "Infinity" } else { "-Infinity" }),
        Kind::Float(x) => out.push(&float_text(x)),
        Kind::Str(s) => write_str(out, s, style.ascii),
        Kind::List | Kind::Tuple => {
            let items = access::items(value)?;
            out.push("[")?;
            for (at, item) in items.iter().enumerate() {
                out.push(if at == 0 { "" } else { &style.item })?;
                line(out, depth + 1)?;
                write(out, item, style, depth + 1)?;
            }
            if !items.is_empty() {
                line(out, depth)?;
            }
            out.push("]")
        }
        Kind::Dict => {
            let mut pairs = Vec::new();
            for (key, item) in access::pairs(value)? {
                pairs.push((key_text(&key)?, item));
            }
            if style.sort {
                // Each key is compared with as many others as the number of keys has bits.
                let bits = (usize::BITS - pairs.len().leading_zeros()) as usize;
                pay_items(bits.saturating_mul(pairs.len()))?;
                pay(bits.saturating_mul(pairs.iter().map(|(key, _)| key.len()).sum()))?;
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
            }
            out.push("{")?;
            for (at, (key, item)) in pairs.iter().enumerate() {
                out.push(if at == 0 { "" } else { &style.item })?;
                line(out, depth + 1)?;
                write_str(out, key, style.ascii)?;
                out.push(&style.key)?;
                write(out, item, style, depth + 1)?;
            }
            if !pairs.is_empty() {
                line(out, depth)?;
            }
            out.push("}")
        }
        _ => type_error(format!("Object of type {} is not JSON serializable", type_name(value))),
    }
}

fn key_text(key: &Value) -> Outcome<String> {
    Ok(match kind(key) {
        Kind::None => "null".into(),
        Kind::Bool(yes) => if yes { "true" } else { "false" }.into(),
        Kind::Str(_) | Kind::Int(_) | Kind::Float(_) => text(key)?,
        _ => {
            return type_error(format!("keys must be str, int, float, bool or None, not {}", type_name(key)));
        }
    })
}

fn write_str(out: &mut Text, s: &str, ascii: bool) -> Outcome<()> {
    out.push_char('"')?;
    for c in s.chars() {
        match c {
            '"' => out.push("\\\"")?,
            '\\' => out.push("\\\\")?,
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            '\u{8}' => out.push("\\b")?,
            '\u{c}' => out.push("\\f")?,
            _ if (c as u32) < 0x20 || (ascii && !(' '..='~').contains(&c)) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push(&format!("\\u{unit:04x}"))?;
                }
            }
            _ => out.push_char(c)?,
        }
    }
    out.push_char('"')
}
