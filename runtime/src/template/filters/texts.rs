//! Filters of texts: spaces, lines, tags and what HTML and addresses need.

use super::sequences::by_attribute;
use crate::template::access;
use crate::template::calls::Args;
use crate::template::error::{Outcome, raise, type_error, value_error};
use crate::template::limits::{ITEM, pay};
use crate::template::methods;
use crate::template::value::{self, Kind, escape, kind, same_markup, text, type_name};
use minijinja::Value;
use minijinja::value::Tuple;

pub(super) fn center(v: &Value, a: &Args) -> Outcome<Value> {
    let width = a.get(0, "width").cloned().unwrap_or_else(|| Value::from(80));
    methods::call(&same_markup(v, text(v)?), "center", &Args { places: vec![width], names: Vec::new() })
}

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
    crate::template::format::percent(&same_markup(v, text(v)?), &with)
}

pub(super) fn indent(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_indent", &["width", "first", "blank"])?;
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
    a.only("sync_do_join", &["d", "attribute"])?;
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
    a.only("do_replace", &["s", "old", "new", "count"])?;
    let (old, new) = (text(a.need(0, "old")?)?, text(a.need(1, "new")?)?);
    let count = a.get(2, "count").filter(|c| !c.is_none()).map_or(Ok(-1), value::index)?;
    Ok(Value::from(methods::replace(&text(v)?, &old, &new, count)?))
}

pub(super) fn strip_tags(s: &str) -> String {
    let s = without_comments(s);
    let (mut plain, mut rest) = (String::new(), &s[..]);
    while let Some((before, tag)) = rest.split_once('<') {
        let Some((_, after)) = tag.split_once('>') else { break };
        plain += before;
        rest = after;
    }
    plain += rest;
    let words: Vec<&str> = plain.split(methods::is_space).filter(|word| !word.is_empty()).collect();
    unescape(&words.join(" "))
}

/// Takes the first comment away until there is none: what stood before one and after it may be the beginning of another.
fn without_comments(s: &str) -> String {
    const OPEN: &str = "<!--";
    let (mut plain, mut rest) = (String::new(), s);
    loop {
        let seam = (1..OPEN.len()).rev().find(|&k| plain.ends_with(&OPEN[..k]) && rest.starts_with(&OPEN[k..]));
        // Bytes of plain that stay, of rest that go before the comment, and where the comment goes on behind its opening.
        let (keep, before, inner) = match (seam, rest.find(OPEN)) {
            (Some(k), _) => (plain.len() - k, 0, OPEN.len() - k),
            (None, Some(at)) => (plain.len(), at, at + OPEN.len()),
            (None, None) => return plain + rest,
        };
        // The dashes of the opening may be those of the end.
        let inside = &rest[inner..];
        let end = if inside.starts_with('>') {
            1
        } else if inside.starts_with("->") {
            2
        } else if let Some(at) = inside.find("-->") {
            at + 3
        } else {
            return plain + rest;
        };
        plain.truncate(keep);
        plain += &rest[..before];
        rest = &inside[end..];
    }
}

fn unescape(s: &str) -> String {
    let known = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    known.iter().fold(s.to_string(), |s, (from, to)| s.replace(from, to))
}

pub(super) fn trim(v: &Value, a: &Args) -> Outcome<Value> {
    let places = a.get(0, "chars").cloned().into_iter().collect();
    methods::call(&same_markup(v, text(v)?), "strip", &Args { places, names: Vec::new() })
}

pub(super) fn truncate(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_truncate", &["length", "killwords", "end", "leeway"])?;
    let (s, end) = (text(v)?, a.str(2, "end", "...")?);
    let length = usize::try_from(a.int(0, "length", 255)?).unwrap_or(0);
    let leeway = match a.get(3, "leeway").filter(|l| !l.is_none()) {
        Some(leeway) => usize::try_from(value::index(leeway)?).unwrap_or(0),
        None => 5,
    };
    let Some(room) = length.checked_sub(end.chars().count()) else {
        return raise("AssertionError", format!("expected length >= {}, got {length}", end.chars().count()));
    };
    if access::length(v)? <= length.saturating_add(leeway) {
        return Ok(same_markup(v, s));
    }
    let kept: String = s.chars().take(room).collect();
    let whole = kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words);
    Ok(same_markup(v, if a.flag(1, "killwords", false) { kept + &end } else { whole.to_string() + &end }))
}

pub(super) fn url_encode(v: &Value, _: &Args) -> Outcome<Value> {
    let quoted = |s: &str, slash: bool| {
        let mut out = String::new();
        for byte in s.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into()),
                b'/' if slash => out.push('/'),
                b' ' if !slash => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    let pairs = match kind(v) {
        Kind::Dict => access::pairs(v)?,
        Kind::List | Kind::Tuple | Kind::Run(_) => access::items(v)?
            .iter()
            .map(|pair| match &access::items(pair)?[..] {
                [key, item] => Ok((key.clone(), item.clone())),
                other => value_error(format!("not enough values to unpack (expected 2, got {})", other.len())),
            })
            .collect::<Outcome<_>>()?,
        _ => return Ok(Value::from(quoted(&text(v)?, true))),
    };
    let mut out = Vec::new();
    for (key, item) in pairs {
        out.push(format!("{}={}", quoted(&text(&key)?, false), quoted(&text(&item)?, false)));
    }
    Ok(Value::from(out.join("&")))
}

pub(super) fn word_count(s: &str) -> i128 {
    s.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count() as i128
}

pub(super) fn word_wrap(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_wordwrap", &["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
    let s = text(v)?;
    let Some(width) = usize::try_from(a.int(0, "width", 79)?).ok().filter(|&w| w > 0) else {
        return value_error("invalid width (must be > 0)");
    };
    let long = a.flag(1, "break_long_words", true);
    let wrap = a.get(2, "wrapstring").filter(|w| !w.is_none()).map_or(Ok("\n".to_string()), text)?;
    pay(s.len().saturating_mul(1 + wrap.len()))?;
    let mut out: Vec<String> = Vec::new();
    for line in s.split('\n') {
        let mut current = String::new();
        let mut chars = line.chars().peekable();
        while chars.peek().is_some() {
            let space = chars.peek().is_some_and(|c| c.is_whitespace());
            let mut chunk: Vec<char> = Vec::new();
            while let Some(c) = chars.next_if(|c| c.is_whitespace() == space) {
                chunk.push(c);
                if c == '-' && chunk.len() > 1 && a.flag(3, "break_on_hyphens", true) {
                    break;
                }
            }
            let used = current.chars().count();
            if used + chunk.len() <= width {
                current.extend(chunk);
                continue;
            }
            if space {
                // White space where a line breaks is left away.
                out.push(std::mem::take(&mut current));
                continue;
            }
            if !current.trim_end().is_empty() && (chunk.len() <= width || !long) {
                out.push(std::mem::take(&mut current).trim_end().to_string());
                current.extend(chunk);
            } else if long && chunk.len() > width {
                let mut rest = &chunk[..];
                while rest.len() + current.chars().count() > width {
                    let room = width - current.chars().count().min(width);
                    current.extend(&rest[..room]);
                    rest = &rest[room..];
                    out.push(std::mem::take(&mut current));
                }
                current.extend(rest);
            } else {
                current.extend(chunk);
            }
        }
        out.push(current.trim_end().to_string());
    }
    Ok(same_markup(v, out.join(&wrap)))
}

pub(super) fn xml_attributes(v: &Value, a: &Args) -> Outcome<Value> {
    let mut parts = Vec::new();
    for (key, item) in access::pairs(v)? {
        if item.is_none() || matches!(kind(&item), Kind::Undefined) {
            continue;
        }
        let key = text(&key)?;
        if key.contains(|c: char| c.is_whitespace() || "/>=".contains(c)) {
            return value_error(format!("Invalid character in attribute name: '{key}'"));
        }
        parts.push(format!("{}=\"{}\"", escape(&key), value::escaped(&item)?));
    }
    pay(parts.len() * ITEM)?;
    let joined = parts.join(" ");
    let space = if a.flag(0, "autospace", true) && !joined.is_empty() { " " } else { "" };
    Ok(Value::from_safe_string(space.to_string() + &joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As markupsafe does it: from the beginning again after each.
    fn plainly(s: &str) -> String {
        let mut s = s.to_string();
        for (open, close) in [("<!--", "-->"), ("<", ">")] {
            while let Some(start) = s.find(open) {
                let Some(end) = s[start..].find(close) else { break };
                s.replace_range(start..start + end + close.len(), "");
            }
        }
        s
    }

    #[test]
    fn tags_go_as_if_one_after_the_other() {
        // All texts of up to six parts.
        let parts = ["<", "!", "-", ">", "<!--", "-->", "a"];
        let mut all = vec![String::new()];
        for _ in 0..6 {
            all = all.iter().flat_map(|s| parts.map(|part| s.clone() + part)).collect();
            all.iter().for_each(|s| assert_eq!(strip_tags(s), plainly(s), "{s}"));
        }
    }
}
