//! The methods of Python's strings.

use crate::access;
use crate::calls::Args;
use crate::error::{Outcome, type_error, value_error};
use crate::limits::{pay, pay_items};
use crate::value::{Kind, escaped, index, int, kind, same_markup, text, type_name};
use minijinja::Value;
use minijinja::value::Tuple;

/// The characters that `strip` and its kin remove; None means white space.
fn strip_set(s: &str, args: &Args) -> Outcome<Option<Vec<char>>> {
    match args.get(0, "chars").map(kind) {
        None | Some(Kind::None) => Ok(None),
        Some(Kind::Str(chars)) => {
            pay(s.len().saturating_mul(chars.len()))?;
            Ok(Some(chars.chars().collect()))
        }
        _ => type_error("strip arg must be None or str"),
    }
}

/// Python's `str.isspace`: Unicode's white space and the four separators of ASCII.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn needs_str<'a>(args: &'a Args, place: usize, name: &str) -> Outcome<&'a str> {
    let value = args.need(place, name)?;
    match kind(value) {
        Kind::Str(s) => Ok(s),
        _ => type_error(format!("must be str, not {}", type_name(value))),
    }
}

/// Whether the check holds for a text, or for one text of a tuple.
fn one_of(args: &Args, check: impl Fn(&str) -> bool, what: &str) -> Outcome<bool> {
    let value = args.need(0, "prefix")?;
    match kind(value) {
        Kind::Str(s) => Ok(check(s)),
        Kind::Tuple => Ok(access::items(value)?.iter().filter_map(Value::as_str).any(check)),
        _ => type_error(format!("{what} first arg must be str or a tuple of str, not {}", type_name(value))),
    }
}

/// Calls a method of the text `s`, which `value` is.
pub(super) fn call(value: &Value, s: &str, name: &str, args: &Args) -> Outcome<Value> {
    let like = |text: String| Ok(same_markup(value, text));
    let parts = |parts: Vec<String>| {
        pay_items(parts.len())?;
        Ok(Value::from(parts.into_iter().map(|part| same_markup(value, part)).collect::<Vec<_>>()))
    };
    let all = |check: fn(char) -> bool| Ok(Value::from(!s.is_empty() && s.chars().all(check)));
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let set = strip_set(s, args)?;
            let is_stripped = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
            like(match name {
                "strip" => s.trim_matches(is_stripped).to_string(),
                "lstrip" => s.trim_start_matches(is_stripped).to_string(),
                _ => s.trim_end_matches(is_stripped).to_string(),
            })
        }
        "lower" => like(s.to_lowercase()),
        "upper" => like(s.to_uppercase()),
        "title" => like(title(s, false)),
        "capitalize" => like(capitalize(s)),
        "startswith" | "endswith" => {
            let text = part(s, args, 1)?;
            let check = |part: &str| if name == "startswith" { text.starts_with(part) } else { text.ends_with(part) };
            Ok(Value::from(one_of(args, check, name)?))
        }
        "removeprefix" => like(s.strip_prefix(needs_str(args, 0, "prefix")?).unwrap_or(s).to_string()),
        "removesuffix" => like(s.strip_suffix(needs_str(args, 0, "suffix")?).unwrap_or(s).to_string()),
        "replace" => {
            let (old, new) = (needs_str(args, 0, "old")?, args.need(1, "new")?);
            needs_str(args, 1, "new")?;
            let new = if value.is_safe() { escaped(new)? } else { text(new)? };
            like(replace(s, old, &new, args.int(2, "count", -1)?)?)
        }
        "split" | "rsplit" => {
            let most = usize::try_from(args.int(1, "maxsplit", -1)?).unwrap_or(usize::MAX);
            let split = match args.get(0, "sep") {
                Some(sep) if !sep.is_none() => {
                    let sep = needs_str(args, 0, "sep")?;
                    if sep.is_empty() {
                        return value_error("empty separator");
                    }
                    match name {
                        "split" => s.splitn(most.saturating_add(1), sep).map(str::to_string).collect(),
                        _ => reversed(s.rsplitn(most.saturating_add(1), sep)),
                    }
                }
                _ if name == "split" => split_spaces(s, most),
                _ => {
                    let backwards: String = s.chars().rev().collect();
                    let parts = split_spaces(&backwards, most);
                    parts.iter().rev().map(|part| part.chars().rev().collect()).collect()
                }
            };
            parts(split)
        }
        "splitlines" => parts(split_lines(s, args.flag(0, "keepends", false))),
        "partition" | "rpartition" => {
            let sep = needs_str(args, 0, "sep")?;
            if sep.is_empty() {
                return value_error("empty separator");
            }
            let found = if name == "partition" { s.split_once(sep) } else { s.rsplit_once(sep) };
            let three = match found {
                Some((before, after)) => [before, sep, after],
                None if name == "partition" => [s, "", ""],
                None => ["", "", s],
            };
            Ok(Value::from(Tuple::from(three.map(|part| same_markup(value, part.to_string())))))
        }
        "join" => {
            let iterable = args.need(0, "iterable")?;
            if matches!(kind(iterable), Kind::None) {
                return type_error("can only join an iterable");
            }
            let mut out = String::new();
            for (at, item) in access::items(iterable)?.iter().enumerate() {
                if at > 0 {
                    out.push_str(s);
                }
                match kind(item) {
                    Kind::Str(part) if value.is_safe() && !item.is_safe() => out.push_str(&crate::value::escape(part)),
                    Kind::Str(part) => out.push_str(part),
                    _ => {
                        let found = type_name(item);
                        return type_error(format!("sequence item {at}: expected str instance, {found} found"));
                    }
                }
            }
            pay(out.len())?;
            like(out)
        }
        "find" | "rfind" | "index" | "rindex" => {
            let wanted = needs_str(args, 0, "sub")?;
            let skipped = usize::try_from(args.int(1, "start", 0)?).unwrap_or(0);
            let from = s.char_indices().nth(skipped).map_or(s.len(), |(at, _)| at);
            let found = if name.starts_with('r') { s[from..].rfind(wanted) } else { s[from..].find(wanted) };
            match found {
                Some(at) => Ok(int(s[..from + at].chars().count() as i128)),
                None if name.ends_with("find") => Ok(int(-1)),
                None => value_error("substring not found"),
            }
        }
        "count" => {
            let wanted = needs_str(args, 0, "sub")?;
            let count = if wanted.is_empty() { s.chars().count() + 1 } else { s.matches(wanted).count() };
            Ok(int(count as i128))
        }
        "format" => crate::format::braces(value, s, args),
        "isdigit" => all(|c| c.is_ascii_digit()),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_space),
        "islower" => Ok(Value::from(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase))),
        "isupper" => Ok(Value::from(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase))),
        _ => type_error(format!("str.{name} makes what no template can print")),
    }
}

/// The part of a text that `startswith(x, start, end)` looks at.
fn part<'s>(s: &'s str, args: &Args, place: usize) -> Outcome<&'s str> {
    let count = s.chars().count() as i128;
    let bound = |place: usize, default: i128| -> Outcome<usize> {
        let at = match args.places.get(place) {
            Some(v) if !v.is_none() => index(v)?,
            _ => default,
        };
        let at = (if at < 0 { at + count } else { at }).clamp(0, count) as usize;
        Ok(s.char_indices().nth(at).map_or(s.len(), |(at, _)| at))
    };
    let (start, end) = (bound(place, 0)?, bound(place + 1, count)?);
    Ok(s.get(start..end).unwrap_or_default())
}

/// `str.replace`: at most `count` times, unless `count` is negative.
pub(crate) fn replace(s: &str, old: &str, new: &str, count: i128) -> Outcome<String> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let places = if old.is_empty() { s.chars().count() + 1 } else { s.matches(old).count() };
    pay(s.len().saturating_add(places.min(most).saturating_mul(new.len())))?;
    Ok(s.replacen(old, new, most))
}

fn reversed<'s>(parts: impl Iterator<Item = &'s str>) -> Vec<String> {
    let mut parts: Vec<String> = parts.map(str::to_string).collect();
    parts.reverse();
    parts
}

/// `str.split()`: at runs of white space, none at the ends.
fn split_spaces(s: &str, most: usize) -> Vec<String> {
    let (mut parts, mut rest) = (Vec::new(), s.trim_start_matches(is_space));
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(rest.trim_end_matches(is_space).to_string());
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(rest[..end].to_string());
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn split_lines(s: &str, keep: bool) -> Vec<String> {
    let (mut lines, mut rest) = (Vec::new(), s);
    let ends = |c| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let mark =
            if rest[end..].starts_with("\r\n") { 2 } else { rest[end..].chars().next().map_or(0, char::len_utf8) };
        lines.push(rest[..if keep { end + mark } else { end }].to_string());
        rest = &rest[end + mark..];
    }
    lines
}

/// Every word with a capital. Words are runs of letters, or what Jinja's `title` filter takes for words.
pub(crate) fn title(s: &str, jinja: bool) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = if jinja { !(is_space(c) || "-({[<".contains(c)) } else { c.is_alphabetic() };
    }
    out
}

/// The first character in upper case, the others in lower case.
pub(crate) fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect())
}
