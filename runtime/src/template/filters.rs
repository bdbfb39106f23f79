//! Jinja's filters, with transformers' `tojson`.

use super::access::{self, Run};
use super::calls::Args;
use super::checks;
use super::error::{Outcome, raise, type_error, value_error};
use super::limits::{ITEM, pay, pay_items, shallow};
use super::methods::{self, list};
use super::value::{self, Kind, compare, equal, escape, int, kind, same_markup, text, type_name};
use minijinja::Value;
use minijinja::value::Tuple;
use std::cmp::Ordering;

/// A filter: the value, and what stands in parentheses.
pub(super) type Filter = fn(&Value, &Args) -> Outcome<Value>;

/// Every filter by its name.
pub(super) const ALL: [(&str, Filter); 57] = [
    ("abs", abs),
    ("attr", |v, a| access::attribute(v, &text(a.need(0, "name")?)?)),
    ("batch", batch),
    ("capitalize", |v, _| Ok(same_markup(v, methods::capitalize(&text(v)?)))),
    ("center", center),
    ("count", |v, _| Ok(int(access::length(v)? as i128))),
    ("d", default),
    ("default", default),
    ("dictsort", dict_sort),
    ("e", escape_filter),
    ("escape", escape_filter),
    ("filesizeformat", file_size),
    ("first", first),
    ("float", float),
    ("forceescape", |v, _| Ok(Value::from_safe_string(escape(&text(v)?)))),
    ("format", format),
    ("groupby", group_by),
    ("indent", indent),
    ("int", integer),
    ("items", items),
    ("join", join),
    ("last", last),
    ("length", |v, _| Ok(int(access::length(v)? as i128))),
    ("list", |v, _| list(access::items(v)?)),
    ("lower", |v, _| Ok(same_markup(v, text(v)?.to_lowercase()))),
    ("map", map),
    ("max", |v, a| extreme(v, a, Ordering::Greater)),
    ("min", |v, a| extreme(v, a, Ordering::Less)),
    ("pprint", |v, _| Ok(Value::from(value::repr(v)?))),
    ("random", |_, _| raise("TemplateRuntimeError", "a prompt must not depend on chance: no filter named 'random'")),
    ("reject", |v, a| select(v, a, false, false)),
    ("rejectattr", |v, a| select(v, a, true, false)),
    ("replace", replace),
    ("reverse", reverse),
    ("round", round),
    ("safe", |v, _| Ok(Value::from_safe_string(text(v)?))),
    ("select", |v, a| select(v, a, false, true)),
    ("selectattr", |v, a| select(v, a, true, true)),
    ("slice", slice),
    ("sort", sort),
    ("string", |v, _| Ok(same_markup(v, text(v)?))),
    ("striptags", |v, _| Ok(Value::from(strip_tags(&text(v)?)))),
    ("sum", sum),
    ("title", |v, _| Ok(same_markup(v, methods::title(&text(v)?, true)))),
    ("tojson", super::json::to_json),
    ("trim", trim),
    ("truncate", truncate),
    ("unique", unique),
    ("upper", |v, _| Ok(same_markup(v, text(v)?.to_uppercase()))),
    ("urlencode", url_encode),
    ("urlize", |_, _| raise("TemplateRuntimeError", "no filter named 'urlize'")),
    ("wordcount", |v, _| Ok(int(word_count(&text(v)?)))),
    ("wordwrap", word_wrap),
    ("xmlattr", xml_attributes),
    // Names that only the engine's own code writes.
    ("$iter", |v, _| Ok(Value::from(access::items(v)?))),
    ("$new", |v, _| new(v)),
    ("$neg", |v, _| value::negative(v)),
];

/// The filter of a name.
pub(super) fn find(name: &str) -> Option<Filter> {
    ALL.iter().find(|(known, _)| *known == name && !name.starts_with('$')).map(|(_, filter)| *filter)
}

fn need(name: &str) -> Outcome<Filter> {
    find(name).map_or_else(|| raise("TemplateRuntimeError", format!("No filter named '{name}'.")), Ok)
}

/// A list, tuple or dict that a template has written down.
fn new(v: &Value) -> Outcome<Value> {
    if let Kind::Dict = kind(v) {
        for (key, _) in access::pairs(v)? {
            if matches!(kind(&key), Kind::List | Kind::Dict) {
                return type_error(format!("unhashable type: '{}'", type_name(&key)));
            }
        }
    }
    shallow(v.clone())
}

/// What filters that make their items one by one give.
fn generator(items: Vec<Value>) -> Outcome<Value> {
    pay_items(items.len())?;
    shallow(Value::from(items.clone()))?;
    Ok(Run::value("generator", items))
}

fn abs(v: &Value, _: &Args) -> Outcome<Value> {
    match kind(v) {
        Kind::Int(i) => Ok(int(i.saturating_abs())),
        Kind::Bool(yes) => Ok(int(yes.into())),
        Kind::Float(x) => Ok(Value::from(x.abs())),
        _ => type_error(format!("bad operand type for abs(): '{}'", type_name(v))),
    }
}

fn default(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_default", &["default_value", "boolean"])?;
    let absent = matches!(kind(v), Kind::Undefined) || (a.flag(1, "boolean", false) && !v.is_true());
    Ok(if absent { a.get(0, "default_value").cloned().unwrap_or_else(|| Value::from("")) } else { v.clone() })
}

/// Pieces of so many items, the last filled up where something to fill with is given.
fn batch(v: &Value, a: &Args) -> Outcome<Value> {
    let count = usize::try_from(value::index(a.need(0, "linecount")?)?).unwrap_or(0).max(1);
    let mut pieces: Vec<Vec<Value>> = access::items(v)?.chunks(count).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (a.get(1, "fill_with").filter(|f| !f.is_none()), pieces.last_mut()) {
        pay_items(count)?;
        last.resize(count, fill.clone());
    }
    generator(pieces.into_iter().map(Value::from).collect())
}

/// So many pieces of equal size, the first of them one longer where it does not come out even.
fn slice(v: &Value, a: &Args) -> Outcome<Value> {
    let items = access::items(v)?;
    let Some(count) = usize::try_from(value::index(a.need(0, "slices")?)?).ok().filter(|&n| n > 0) else {
        return raise("ZeroDivisionError", "integer division or modulo by zero");
    };
    pay_items(count)?;
    let (size, longer) = (items.len() / count, items.len() % count);
    let (mut pieces, mut at) = (Vec::new(), 0);
    for piece in 0..count {
        let end = at + size + usize::from(piece < longer);
        let mut piece_items = items[at..end].to_vec();
        at = end;
        if let Some(fill) = a.get(1, "fill_with").filter(|f| !f.is_none() && piece >= longer && longer > 0) {
            piece_items.push(fill.clone());
        }
        pieces.push(Value::from(piece_items));
    }
    generator(pieces)
}

fn center(v: &Value, a: &Args) -> Outcome<Value> {
    let width = a.get(0, "width").cloned().unwrap_or_else(|| Value::from(80));
    methods::call(&same_markup(v, text(v)?), "center", &Args { places: vec![width], names: Vec::new() })
}

/// A key to sort by: texts without regard to case, unless it is asked for.
fn folded(v: &Value, sensitive: bool) -> Outcome<Value> {
    match kind(v) {
        Kind::Str(s) if !sensitive => {
            pay(s.len())?;
            Ok(Value::from(s.to_lowercase()))
        }
        _ => Ok(v.clone()),
    }
}

fn dict_sort(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_dictsort", &["case_sensitive", "by", "reverse"])?;
    if !matches!(kind(v), Kind::Dict) {
        return raise("AttributeError", format!("'{}' object has no attribute 'items'", type_name(v)));
    }
    let by = a.str(1, "by", "key")?;
    let place = match by.as_str() {
        "key" => 0,
        "value" => 1,
        _ => return raise("FilterArgumentError", "You can only sort by either \"key\" or \"value\""),
    };
    let pairs = access::pairs(v)?.into_iter().map(|(key, value)| Value::from(Tuple::from([key, value]))).collect();
    let sensitive = a.flag(0, "case_sensitive", false);
    let key = |pair: &Value| folded(&access::item(pair, &int(place))?, sensitive);
    list(access::sorted(pairs, key, a.flag(2, "reverse", false))?)
}

fn escape_filter(v: &Value, _: &Args) -> Outcome<Value> {
    Ok(Value::from_safe_string(value::escaped(v)?))
}

fn file_size(v: &Value, a: &Args) -> Outcome<Value> {
    let bytes = match kind(&float(v, &Args::default())?) {
        Kind::Float(x) => x,
        _ => 0.0,
    };
    let (base, units) = match a.flag(0, "binary", false) {
        true => (1024.0f64, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]),
        false => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    Ok(Value::from(if bytes == 1.0 {
        "1 Byte".to_string()
    } else if bytes < base {
        format!("{} Bytes", bytes as i64)
    } else {
        let power = (1..8).find(|&n| bytes < base.powi(n + 1)).unwrap_or(8);
        format!("{:.1} {}", bytes / base.powi(power), units[power as usize - 1])
    }))
}

fn first(v: &Value, _: &Args) -> Outcome<Value> {
    let none = || super::access::Missing::nothing("No first item, sequence was empty.");
    Ok(access::items(v)?.into_iter().next().unwrap_or_else(none))
}

fn last(v: &Value, _: &Args) -> Outcome<Value> {
    if let Kind::Run(run) = kind(v)
        && run.name == "generator"
    {
        return type_error("'generator' object is not reversible");
    }
    let none = || super::access::Missing::nothing("No last item, sequence was empty.");
    Ok(access::items(v)?.pop().unwrap_or_else(none))
}

fn float(v: &Value, a: &Args) -> Outcome<Value> {
    let default = || Ok(a.get(0, "default").cloned().unwrap_or_else(|| Value::from(0.0)));
    match kind(v) {
        Kind::Float(_) => Ok(v.clone()),
        Kind::Int(i) => Ok(Value::from(i as f64)),
        Kind::Bool(yes) => Ok(Value::from(f64::from(u8::from(yes)))),
        Kind::Str(s) => value::parse_float(s).map_or_else(|_| default(), |x| Ok(Value::from(x))),
        Kind::Undefined => access::undefined(v),
        _ => default(),
    }
}

fn integer(v: &Value, a: &Args) -> Outcome<Value> {
    let default = || Ok(a.get(0, "default").cloned().unwrap_or_else(|| int(0)));
    let base = u32::try_from(a.int(1, "base", 10)?).unwrap_or(10).clamp(2, 36);
    match kind(v) {
        Kind::Int(_) => Ok(v.clone()),
        Kind::Bool(yes) => Ok(int(yes.into())),
        Kind::Float(x) if x.is_finite() => Ok(int(x.trunc() as i128)),
        Kind::Str(s) => match value::parse_int(s, base) {
            Ok(i) => Ok(int(i)),
            Err(_) => match value::parse_float(s) {
                Ok(x) if x.is_finite() => Ok(int(x.trunc() as i128)),
                _ => default(),
            },
        },
        Kind::Undefined => access::undefined(v),
        _ => default(),
    }
}

fn format(v: &Value, a: &Args) -> Outcome<Value> {
    if !a.places.is_empty() && !a.names.is_empty() {
        return raise("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
    }
    let with = if a.names.is_empty() {
        Value::from(Tuple::from(a.places.clone()))
    } else {
        Value::from_pairs(a.names.iter().map(|(name, v)| (name.as_str(), v.clone())))
    };
    super::format::percent(&same_markup(v, text(v)?), &with)
}

/// The part of an item that filters work by.
fn by_attribute(item: &Value, attribute: Option<&Value>) -> Outcome<Value> {
    attribute.filter(|a| !a.is_none()).map_or_else(|| Ok(item.clone()), |path| access::path(item, path))
}

fn group_by(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_groupby", &["attribute", "default", "case_sensitive"])?;
    let (attribute, sensitive) = (a.need(0, "attribute")?, a.flag(2, "case_sensitive", false));
    let grouper = |item: &Value| {
        let part = access::path(item, attribute)?;
        let absent = matches!(kind(&part), Kind::Undefined);
        Ok(a.get(1, "default").filter(|_| absent).cloned().unwrap_or(part))
    };
    let sorted = access::sorted(access::items(v)?, |item| folded(&grouper(item)?, sensitive), false)?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for item in sorted {
        let part = grouper(&item)?;
        let key = folded(&part, sensitive)?;
        match groups.last_mut() {
            Some((last, _, items)) if equal(last, &key)? => items.push(item),
            _ => groups.push((key, part, vec![item])),
        }
    }
    list(groups.into_iter().map(|(_, part, items)| super::access::group(part, items)).collect())
}

fn indent(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_indent", &["width", "first", "blank"])?;
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

fn items(v: &Value, _: &Args) -> Outcome<Value> {
    match kind(v) {
        Kind::Undefined => generator(Vec::new()),
        Kind::Dict => {
            let pairs = access::pairs(v)?.into_iter();
            generator(pairs.map(|(key, item)| Value::from(Tuple::from([key, item]))).collect())
        }
        _ => type_error("Can only get item pairs from a mapping."),
    }
}

fn join(v: &Value, a: &Args) -> Outcome<Value> {
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

fn map(v: &Value, a: &Args) -> Outcome<Value> {
    let items = access::items(v)?;
    if a.places.is_empty()
        && let Some(attribute) = a.named("attribute")
    {
        let default = a.named("default");
        let part = |item: &Value| {
            let part = access::path(item, attribute)?;
            let absent = matches!(kind(&part), Kind::Undefined);
            Ok(default.filter(|_| absent).cloned().unwrap_or(part))
        };
        return generator(items.iter().map(part).collect::<Outcome<_>>()?);
    }
    let Some((name, rest)) = a.places.split_first() else {
        return raise("FilterArgumentError", "map requires a filter argument");
    };
    let filter = need(&text(name)?)?;
    let args = Args { places: rest.to_vec(), names: a.names.clone() };
    generator(items.iter().map(|item| filter(item, &args)).collect::<Outcome<_>>()?)
}

fn select(v: &Value, a: &Args, attribute: bool, wanted: bool) -> Outcome<Value> {
    let mut places = a.places.iter();
    let path = match attribute {
        true => match places.next() {
            Some(path) => Some(path),
            None => return raise("FilterArgumentError", "Missing parameter for attribute name"),
        },
        false => None,
    };
    let check = places.next().map(|name| checks::need(&text(name)?)).transpose()?;
    let args = Args { places: places.cloned().collect(), names: a.names.clone() };
    let mut kept = Vec::new();
    for item in access::items(v)? {
        let part = by_attribute(&item, path)?;
        let holds = check.map_or_else(|| Ok(part.is_true()), |check| check(&part, &args))?;
        if holds == wanted {
            kept.push(item);
        }
    }
    generator(kept)
}

fn extreme(v: &Value, a: &Args, wanted: Ordering) -> Outcome<Value> {
    let sensitive = a.flag(0, "case_sensitive", false);
    let key = |item: &Value| folded(&by_attribute(item, a.get(1, "attribute"))?, sensitive);
    let op = if wanted == Ordering::Less { "<" } else { ">" };
    let mut best: Option<(Value, Value)> = None;
    for item in access::items(v)? {
        let key = key(&item)?;
        if best.is_none() || best.as_ref().is_some_and(|(b, _)| compare(op, &key, b).is_ok_and(|o| o == Some(wanted))) {
            best = Some((key, item));
        } else if let Some((b, _)) = &best {
            compare(op, &key, b)?;
        }
    }
    Ok(best
        .map_or_else(|| super::access::Missing::nothing("No aggregated item, sequence was empty."), |(_, item)| item))
}

fn replace(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_replace", &["s", "old", "new", "count"])?;
    let (old, new) = (text(a.need(0, "old")?)?, text(a.need(1, "new")?)?);
    let count = a.get(2, "count").filter(|c| !c.is_none()).map_or(Ok(-1), value::index)?;
    Ok(Value::from(methods::replace(&text(v)?, &old, &new, count)?))
}

fn reverse(v: &Value, _: &Args) -> Outcome<Value> {
    if let Kind::Str(s) = kind(v) {
        pay(s.len())?;
        return Ok(same_markup(v, s.chars().rev().collect()));
    }
    let mut items = access::items(v)?;
    items.reverse();
    Ok(match kind(v) {
        Kind::List => Run::value("list_reverseiterator", items),
        Kind::Run(run) if run.name == "generator" => Value::from(items),
        _ => Run::value("reversed iterator", items),
    })
}

fn round(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_round", &["precision", "method"])?;
    let precision = a.int(0, "precision", 0)?.clamp(-300, 300) as i32;
    let method = a.str(1, "method", "common")?;
    let x = match kind(v) {
        Kind::Int(i) if method == "common" && precision >= 0 => return Ok(int(i)),
        Kind::Int(i) => i as f64,
        Kind::Bool(yes) => f64::from(u8::from(yes)),
        Kind::Float(x) => x,
        _ => return type_error(format!("type {} doesn't define __round__ method", type_name(v))),
    };
    let scale = 10f64.powi(precision);
    Ok(Value::from(match method.as_str() {
        // To even where it is halfway, of the number that the float really is: as printing does it.
        "common" if precision >= 0 => format!("{x:.*}", precision as usize).parse().unwrap_or(x),
        "common" => {
            let rounded = (x * scale).round_ties_even() / scale;
            return Ok(if let Kind::Int(_) = kind(v) { int(rounded as i128) } else { Value::from(rounded) });
        }
        "ceil" => (x * scale).ceil() / scale,
        "floor" => (x * scale).floor() / scale,
        _ => return raise("FilterArgumentError", "method must be common, ceil or floor"),
    }))
}

fn sort(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_sort", &["reverse", "case_sensitive", "attribute"])?;
    let sensitive = a.flag(1, "case_sensitive", false);
    let attribute = a.get(2, "attribute");
    let paths: Vec<Value> = match attribute.map(kind) {
        Some(Kind::Str(names)) if names.contains(',') => names.split(',').map(Value::from).collect(),
        _ => Vec::new(),
    };
    let key = |item: &Value| {
        if paths.is_empty() {
            return folded(&by_attribute(item, attribute)?, sensitive);
        }
        let parts = paths.iter().map(|path| folded(&access::path(item, path)?, sensitive));
        Ok(Value::from(parts.collect::<Outcome<Vec<_>>>()?))
    };
    list(access::sorted(access::items(v)?, key, a.flag(0, "reverse", false))?)
}

fn strip_tags(s: &str) -> String {
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

fn sum(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("sync_do_sum", &["attribute", "start"])?;
    let start = a.get(1, "start").cloned().unwrap_or_else(|| int(0));
    if let Kind::Str(_) = kind(&start) {
        return type_error("sum() can't sum strings [use ''.join(seq) instead]");
    }
    let add = |so_far: Value, item: &Value| value::binary("+", &so_far, &by_attribute(item, a.get(0, "attribute"))?);
    access::items(v)?.iter().try_fold(start, add)
}

fn trim(v: &Value, a: &Args) -> Outcome<Value> {
    let places = a.get(0, "chars").cloned().into_iter().collect();
    methods::call(&same_markup(v, text(v)?), "strip", &Args { places, names: Vec::new() })
}

fn truncate(v: &Value, a: &Args) -> Outcome<Value> {
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
    if s.chars().count() <= length.saturating_add(leeway) {
        return Ok(same_markup(v, s));
    }
    let kept: String = s.chars().take(room).collect();
    let whole = kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words);
    Ok(same_markup(v, if a.flag(1, "killwords", false) { kept + &end } else { whole.to_string() + &end }))
}

fn unique(v: &Value, a: &Args) -> Outcome<Value> {
    let sensitive = a.flag(0, "case_sensitive", false);
    let (mut seen, mut kept): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    'items: for item in access::items(v)? {
        let key = folded(&by_attribute(&item, a.get(1, "attribute"))?, sensitive)?;
        for other in &seen {
            if equal(other, &key)? {
                continue 'items;
            }
        }
        seen.push(key);
        kept.push(item);
    }
    generator(kept)
}

fn url_encode(v: &Value, _: &Args) -> Outcome<Value> {
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

fn word_count(s: &str) -> i128 {
    s.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count() as i128
}

fn word_wrap(v: &Value, a: &Args) -> Outcome<Value> {
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

fn xml_attributes(v: &Value, a: &Args) -> Outcome<Value> {
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
