//! Filters of sequences: choosing, ordering and combining their items.

use super::need;
use crate::access;
use crate::arithmetic;
use crate::calls::Args;
use crate::checks;
use crate::error::{Outcome, raise, type_error};
use crate::grow::{collect, gather, pay_object, push};
use crate::limits::{OBJECT, pay, shallow};
use crate::methods::{self, list};
use crate::objects::{Missing, Run};
use crate::value::{self, Kind, compare, equal, int, kind, plain, same_markup, text, type_name};
use minijinja::Value;
use minijinja::value::Tuple;
use std::cmp::Ordering;

/// A dict literal, from its keys and its values.
pub(super) fn new_dict(keys: &Value, a: &Args) -> Outcome<Value> {
    let (keys, values) = (access::items(keys)?, access::items(a.need(0, "values")?)?);
    if let Some(key) = keys.iter().find(|key| matches!(kind(key), Kind::List | Kind::Dict)) {
        return type_error(format!("unhashable type: '{}'", type_name(key)));
    }
    value::dict(keys.into_iter().zip(values).collect())
}

/// The result of a filter that makes its items one by one.
fn generator(items: Vec<Value>) -> Outcome<Value> {
    pay_object()?;
    shallow(Run::value("generator", items))
}

/// A key to sort by. Texts are compared without regard to case unless `sensitive`.
fn folded(v: &Value, sensitive: bool) -> Outcome<Value> {
    match kind(v) {
        Kind::Str(s) if !sensitive => plain(methods::lower(s)?),
        _ => Ok(v.clone()),
    }
}

pub(super) fn dict_sort(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("do_dictsort", &["case_sensitive", "by", "reverse"])?;
    if !matches!(kind(v), Kind::Dict) {
        return raise("AttributeError", format!("'{}' object has no attribute 'items'", type_name(v)));
    }
    let by = a.str(1, "by", "key")?;
    let place = match by.as_str() {
        "key" => 0,
        "value" => 1,
        _ => return raise("FilterArgumentError", "You can only sort by either \"key\" or \"value\""),
    };
    let pairs = tuples(v)?;
    let sensitive = a.flag(0, "case_sensitive", false);
    let key = |pair: &Value| folded(&access::item(pair, &int(place))?, sensitive);
    list(access::sorted(pairs, key, a.flag(2, "reverse", false))?)
}

pub(super) fn first(v: &Value, _: &Args) -> Outcome<Value> {
    let none = || Missing::nothing("No first item, sequence was empty.");
    Ok(access::items(v)?.into_iter().next().unwrap_or_else(none))
}

pub(super) fn last(v: &Value, _: &Args) -> Outcome<Value> {
    if let Kind::Run(run) = kind(v)
        && run.name == "generator"
    {
        return type_error("'generator' object is not reversible");
    }
    let none = || Missing::nothing("No last item, sequence was empty.");
    Ok(access::items(v)?.pop().unwrap_or_else(none))
}

/// The items of a value; no items if it is false, such as none. So a template can go over tools when there are none.
fn items_if_true(v: &Value) -> Outcome<Vec<Value>> {
    if v.is_true() { access::items(v) } else { Ok(Vec::new()) }
}

/// The part of an item that a filter works on.
pub(super) fn by_attribute(item: &Value, attribute: Option<&Value>) -> Outcome<Value> {
    attribute.filter(|a| !a.is_none()).map_or_else(|| Ok(item.clone()), |path| access::path(item, path))
}

pub(super) fn items(v: &Value, _: &Args) -> Outcome<Value> {
    match kind(v) {
        Kind::Undefined => generator(Vec::new()),
        Kind::Dict => generator(tuples(v)?),
        _ => type_error("Can only get item pairs from a mapping."),
    }
}

/// A dict's pairs as tuples.
fn tuples(v: &Value) -> Outcome<Vec<Value>> {
    let pairs = access::pairs(v)?;
    pay(pairs.len().saturating_mul(OBJECT))?;
    collect(pairs.len(), pairs.into_iter().map(|(key, item)| Value::from(Tuple::from([key, item]))))
}

/// What `make` gives for each item.
fn each(items: &[Value], make: impl Fn(&Value) -> Outcome<Value>) -> Outcome<Vec<Value>> {
    let mut made = Vec::new();
    for item in items {
        push(&mut made, make(item)?)?;
    }
    Ok(made)
}

pub(super) fn map(v: &Value, a: &Args) -> Outcome<Value> {
    let items = items_if_true(v)?;
    if a.places.is_empty()
        && let Some(attribute) = a.named("attribute")
    {
        let default = a.named("default");
        let part = |item: &Value| {
            let part = by_attribute(item, Some(attribute))?;
            let absent = matches!(kind(&part), Kind::Undefined);
            Ok(default.filter(|_| absent).cloned().unwrap_or(part))
        };
        return generator(each(&items, part)?);
    }
    let Some((name, rest)) = a.places.split_first() else {
        return raise("FilterArgumentError", "map requires a filter argument");
    };
    let filter = need(&text(name)?)?;
    let args = Args { places: rest.to_vec(), names: a.names.clone() };
    generator(each(&items, |item| filter(item, &args))?)
}

pub(super) fn select(v: &Value, a: &Args, attribute: bool, wanted: bool) -> Outcome<Value> {
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
    let mut selected = Vec::new();
    for item in items_if_true(v)? {
        let part = by_attribute(&item, path)?;
        let holds = check.map_or_else(|| Ok(part.is_true()), |check| check(&part, &args))?;
        if holds == wanted {
            push(&mut selected, item)?;
        }
    }
    generator(selected)
}

pub(super) fn extreme(v: &Value, a: &Args, wanted: Ordering) -> Outcome<Value> {
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
    Ok(best.map_or_else(|| Missing::nothing("No aggregated item, sequence was empty."), |(_, item)| item))
}

pub(super) fn reverse(v: &Value, _: &Args) -> Outcome<Value> {
    if let Kind::Str(s) = kind(v) {
        return same_markup(v, gather(s.chars().rev())?);
    }
    let mut items = access::items(v)?;
    items.reverse();
    Ok(match kind(v) {
        Kind::List => Run::value("list_reverseiterator", items),
        Kind::Run(run) if run.name == "generator" => Value::from(items),
        _ => Run::value("reversed iterator", items),
    })
}

pub(super) fn sort(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("do_sort", &["reverse", "case_sensitive", "attribute"])?;
    let sensitive = a.flag(1, "case_sensitive", false);
    let attribute = a.get(2, "attribute");
    let paths: Vec<Value> = match attribute.map(kind) {
        Some(Kind::Str(names)) => {
            pay(names.len())?;
            let count = names.matches(',').count() + 1;
            collect(count, names.split(',').map(Value::from))?
        }
        _ => vec![attribute.cloned().unwrap_or(Value::from(()))],
    };
    // Jinja's keys are lists, even of one part. In a list, undefined parts are equal; by themselves they are an error.
    let key = |item: &Value| {
        pay_object()?;
        Ok(Value::from(each(&paths, |path| folded(&by_attribute(item, Some(path))?, sensitive))?))
    };
    list(access::sorted(access::items(v)?, key, a.flag(0, "reverse", false))?)
}

pub(super) fn sum(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("sync_do_sum", &["attribute", "start"])?;
    let start = a.get(1, "start").cloned().unwrap_or_else(|| int(0));
    if let Kind::Str(_) = kind(&start) {
        return type_error("sum() can't sum strings [use ''.join(seq) instead]");
    }
    let add =
        |so_far: Value, item: &Value| arithmetic::binary("+", &so_far, &by_attribute(item, a.get(0, "attribute"))?);
    access::items(v)?.iter().try_fold(start, add)
}

pub(super) fn unique(v: &Value, a: &Args) -> Outcome<Value> {
    let sensitive = a.flag(0, "case_sensitive", false);
    let (mut seen, mut distinct): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    'items: for item in access::items(v)? {
        let key = folded(&by_attribute(&item, a.get(1, "attribute"))?, sensitive)?;
        for other in &seen {
            if equal(other, &key)? {
                continue 'items;
            }
        }
        push(&mut seen, key)?;
        push(&mut distinct, item)?;
    }
    generator(distinct)
}
