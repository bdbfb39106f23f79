//! Equality, order and membership, as Python's operators have them.

use super::{Kind, Numbers, kind, numbers, type_name};
use crate::access;
use crate::error::{Outcome, Resource, type_error};
use crate::limits::{DEPTH, ITEM, exceeded, pay, pay_all};
use minijinja::Value;
use std::cmp::Ordering;

/// `a == b`.
pub(crate) fn equal(a: &Value, b: &Value) -> Outcome<bool> {
    same(a, b, DEPTH)
}

fn same(a: &Value, b: &Value, left: usize) -> Outcome<bool> {
    if left == 0 {
        return Err(exceeded(Resource::Nesting, DEPTH as u64));
    }
    pay(ITEM / 2)?;
    if let Some(numbers) = numbers(a, b) {
        return Ok(match numbers {
            Numbers::Ints(a, b) => a == b,
            Numbers::Floats(a, b) => a == b,
        });
    }
    Ok(match (kind(a), kind(b)) {
        (Kind::Undefined, Kind::Undefined) | (Kind::None, Kind::None) => true,
        (Kind::Str(a), Kind::Str(b)) => {
            pay(a.len().min(b.len()))?;
            a == b
        }
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (a, b) = (access::items(a)?, access::items(b)?);
            a.len() == b.len() && all(a.iter().zip(&b), |(a, b)| same(a, b, left - 1))?
        }
        (Kind::Dict, Kind::Dict) => {
            let (a, b) = (access::pairs(a)?, b);
            a.len() == access::pairs(b)?.len()
                && all(a.iter(), |(key, item)| match access::entry(b, key)? {
                    Some(other) => same(item, &other, left - 1),
                    None => Ok(false),
                })?
        }
        (Kind::Run(_), _) | (Kind::Object, _) => {
            pay_all(a)?;
            pay_all(b)?;
            a == b
        }
        _ => false,
    })
}

fn all<T>(mut items: impl Iterator<Item = T>, check: impl Fn(T) -> Outcome<bool>) -> Outcome<bool> {
    items.try_fold(true, |so_far, item| Ok(so_far && check(item)?))
}

/// The order of `a` and `b` for the operator `op`; None if they have none (NaN).
pub(crate) fn compare(op: &str, a: &Value, b: &Value) -> Outcome<Option<Ordering>> {
    if let Some(numbers) = numbers(a, b) {
        return Ok(match numbers {
            Numbers::Ints(a, b) => Some(a.cmp(&b)),
            Numbers::Floats(a, b) => a.partial_cmp(&b),
        });
    }
    match (kind(a), kind(b)) {
        (Kind::Str(a), Kind::Str(b)) => {
            pay(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (a, b) = (access::items(a)?, access::items(b)?);
            for (a, b) in a.iter().zip(&b) {
                if !equal(a, b)? {
                    return compare(op, a, b);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        (Kind::Undefined, _) => access::undefined(a),
        (_, Kind::Undefined) => access::undefined(b),
        _ => type_error(format!("'{op}' not supported between instances of '{}' and '{}'", type_name(a), type_name(b))),
    }
}

/// `item in container`.
pub(crate) fn contains(container: &Value, item: &Value) -> Outcome<bool> {
    match kind(container) {
        Kind::Undefined => Ok(false),
        Kind::Str(s) => {
            pay(s.len())?;
            match kind(item) {
                Kind::Str(part) => Ok(s.contains(part)),
                _ => type_error(format!("'in <string>' requires string as left operand, not {}", type_name(item))),
            }
        }
        Kind::Dict => Ok(access::entry(container, item)?.is_some()),
        Kind::List | Kind::Tuple | Kind::Run(_) => {
            for other in access::items(container)? {
                if equal(&other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => type_error(format!("argument of type '{}' is not iterable", type_name(container))),
    }
}
