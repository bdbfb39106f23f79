//! The methods of Python's strings.

use crate::access;
use crate::calls::Args;
use crate::error::{Outcome, type_error, value_error};
use crate::grow::{Text, copy, gather, pay_object, push, room};
use crate::limits::pay;
use crate::value::{Kind, escape, escaped, index, int, kind, same_markup, text, type_name};
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
    let check = |part: &str| pay(part.len()).map(|()| check(part));
    match kind(value) {
        Kind::Str(s) => check(s),
        Kind::Tuple => {
            for item in access::items(value)? {
                if let Some(part) = item.as_str()
                    && check(part)?
                {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => type_error(format!("{what} first arg must be str or a tuple of str, not {}", type_name(value))),
    }
}

pub(super) fn call(value: &Value, s: &str, name: &str, args: &Args) -> Outcome<Value> {
    let like = |text: String| same_markup(value, text);
    // The parts one by one, each paid before the next is looked for.
    let parts = |parts: &mut dyn Iterator<Item = &str>| {
        let mut list = Vec::new();
        for part in parts {
            push(&mut list, same_markup(value, copy(part)?)?)?;
        }
        pay_object()?;
        Ok(list)
    };
    let all = |check: fn(char) -> bool| Ok(Value::from(!s.is_empty() && s.chars().all(check)));
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let set = strip_set(s, args)?;
            let is_stripped = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
            like(match name {
                "strip" => copy(s.trim_matches(is_stripped))?,
                "lstrip" => copy(s.trim_start_matches(is_stripped))?,
                _ => copy(s.trim_end_matches(is_stripped))?,
            })
        }
        "lower" => like(lower(s)?),
        "upper" => like(upper(s)?),
        "title" => like(title(s, false)?),
        "capitalize" => like(capitalize(s)?),
        "startswith" | "endswith" => {
            let text = part(s, args, 1)?;
            let check = |part: &str| if name == "startswith" { text.starts_with(part) } else { text.ends_with(part) };
            Ok(Value::from(one_of(args, check, name)?))
        }
        "removeprefix" => like(copy(s.strip_prefix(needs_str(args, 0, "prefix")?).unwrap_or(s))?),
        "removesuffix" => like(copy(s.strip_suffix(needs_str(args, 0, "suffix")?).unwrap_or(s))?),
        "replace" => {
            let (old, new) = (needs_str(args, 0, "old")?, args.need(1, "new")?);
            needs_str(args, 1, "new")?;
            let new = if value.is_safe() { escaped(new)? } else { text(new)? };
            like(replace(s, old, &new, args.int(2, "count", -1)?)?)
        }
        "split" | "rsplit" => {
            let most = usize::try_from(args.int(1, "maxsplit", -1)?).unwrap_or(usize::MAX);
            let mut split = match args.get(0, "sep") {
                Some(sep) if !sep.is_none() => {
                    let sep = needs_str(args, 0, "sep")?;
                    if sep.is_empty() {
                        return value_error("empty separator");
                    }
                    match name {
                        "split" => parts(&mut s.splitn(most.saturating_add(1), sep))?,
                        _ => parts(&mut s.rsplitn(most.saturating_add(1), sep))?,
                    }
                }
                _ if name == "split" => parts(&mut split_spaces(s, most))?,
                _ => parts(&mut rsplit_spaces(s, most))?,
            };
            if name == "rsplit" {
                split.reverse();
            }
            Ok(Value::from(split))
        }
        "splitlines" => Ok(Value::from(parts(&mut split_lines(s, args.flag(0, "keepends", false)))?)),
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
            let three = three.iter().map(|part| same_markup(value, copy(part)?)).collect::<Outcome<Vec<_>>>()?;
            pay_object()?;
            Ok(Value::from(Tuple::from(three)))
        }
        "join" => {
            let iterable = args.need(0, "iterable")?;
            if matches!(kind(iterable), Kind::None) {
                return type_error("can only join an iterable");
            }
            let mut out = Text::new();
            for (at, item) in access::items(iterable)?.iter().enumerate() {
                if at > 0 {
                    out.push(s)?;
                }
                match kind(item) {
                    Kind::Str(part) if value.is_safe() && !item.is_safe() => out.push(&escape(part)?)?,
                    Kind::Str(part) => out.push(part)?,
                    _ => {
                        let found = type_name(item);
                        return type_error(format!("sequence item {at}: expected str instance, {found} found"));
                    }
                }
            }
            like(out.finish())
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
    // The text grows by doubling: for a moment there are the old one and one of twice its bytes.
    let made = s.len().saturating_add(places.min(most).saturating_mul(new.len()));
    pay(made)?;
    room(made.saturating_mul(3))?;
    Ok(s.replacen(old, new, most))
}

/// `str.split()`: at runs of white space, none at the ends.
fn split_spaces(s: &str, most: usize) -> impl Iterator<Item = &str> {
    let (mut count, mut rest) = (0, s.trim_start_matches(is_space));
    std::iter::from_fn(move || {
        let end = match rest {
            "" => return None,
            _ if count == most => rest.trim_end_matches(is_space).len(),
            _ => rest.find(is_space).unwrap_or(rest.len()),
        };
        let part = &rest[..end];
        rest = rest[end..].trim_start_matches(is_space);
        count += 1;
        Some(part)
    })
}

/// `str.rsplit()`: as [`split_spaces`], from the end; the last part comes first.
fn rsplit_spaces(s: &str, most: usize) -> impl Iterator<Item = &str> {
    let (mut count, mut rest) = (0, s.trim_end_matches(is_space));
    std::iter::from_fn(move || {
        let start = match rest {
            "" => return None,
            _ if count == most => rest.len() - rest.trim_start_matches(is_space).len(),
            _ => rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8()),
        };
        let part = &rest[start..];
        rest = rest[..start].trim_end_matches(is_space);
        count += 1;
        Some(part)
    })
}

fn split_lines(s: &str, keep: bool) -> impl Iterator<Item = &str> {
    let mut rest = s;
    let ends = |c| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(ends).unwrap_or(rest.len());
        let mark =
            if rest[end..].starts_with("\r\n") { 2 } else { rest[end..].chars().next().map_or(0, char::len_utf8) };
        let line = &rest[..if keep { end + mark } else { end }];
        rest = &rest[end + mark..];
        Some(line)
    })
}

/// All in lower case.
pub(crate) fn lower(s: &str) -> Outcome<String> {
    // A character may become three times as long.
    pay(s.len().saturating_mul(3))?;
    room(s.len().saturating_mul(3))?;
    Ok(s.to_lowercase())
}

/// All in upper case.
pub(crate) fn upper(s: &str) -> Outcome<String> {
    gather(s.chars().flat_map(char::to_uppercase))
}

/// Every word with a capital. Words are runs of letters, or what Jinja's `title` filter takes for words.
pub(crate) fn title(s: &str, jinja: bool) -> Outcome<String> {
    let mut out = Text::new();
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase())?;
        } else {
            out.extend(c.to_uppercase())?;
        }
        inside = if jinja { !(is_space(c) || "-({[<".contains(c)) } else { c.is_alphabetic() };
    }
    Ok(out.finish())
}

/// The first character in upper case, the others in lower case.
pub(crate) fn capitalize(s: &str) -> Outcome<String> {
    let mut chars = s.chars();
    let Some(first) = chars.next() else { return Ok(String::new()) };
    gather(first.to_uppercase().chain(lower(chars.as_str())?.chars()))
}
