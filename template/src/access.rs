//! Access to the parts of values: attributes, items, slices, iteration, and undefined values where there is no part.
//!
//! Jinja looks for `a.b` among a value's methods first and its items second, for `a['b']` the other way round. If there
//! is neither, the result is undefined: it is false, empty and prints nothing, but using it further is an error that
//! says what was missing. That is why it is an object here ([`Missing`]): it keeps its name.

use crate::error::{Outcome, Resource, raise, type_error, value_error};
use crate::grow::{collect, copy, gather, pay_object, push, room};
use crate::limits::{ITEM, exceeded, pay, pay_all, pay_items};
use crate::methods;
use crate::objects::{Bound, Missing, shown};
use crate::value::{Kind, compare, equal, index, int, kind, repr, same_markup, type_name};
use minijinja::value::Tuple;
use minijinja::{Error, State, Value};

/// The error that an undefined value raises when it is used.
pub(crate) fn undefined<T>(value: &Value) -> Outcome<T> {
    match value.downcast_object_ref::<Missing>() {
        Some(missing) => Err(missing.raise.clone()),
        None => raise("UndefinedError", "the value is undefined"),
    }
}

/// Whether a map is a dict, and not one of the engine's objects that look like one.
pub(crate) fn is_dict(value: &Value) -> bool {
    let is_engine_type = |name: &str| ["Namespace", "Loop", "Macro", "Module"].iter().any(|own| name.ends_with(own));
    value.as_object().is_some_and(|object| !is_engine_type(object.type_name()))
}

/// Whether a value is an object of the engine, such as a namespace, a macro or `loop`.
pub(crate) fn is_engine_object(value: &Value) -> bool {
    matches!(kind(value), Kind::Object)
}

/// The type name of a value that is neither data nor undefined.
pub(crate) fn object_name(value: &Value) -> &'static str {
    let name = value.as_object().map_or("", |object| object.type_name());
    match name.rsplit("::").next() {
        Some("Namespace") => "Namespace",
        Some("Loop") => "LoopContext",
        Some("Macro") => "Macro",
        Some("Bound") => "builtin_function_or_method",
        _ => "function",
    }
}

/// The items that iterating a value gives.
pub(crate) fn items(value: &Value) -> Outcome<Vec<Value>> {
    match kind(value) {
        Kind::Undefined => Ok(Vec::new()),
        Kind::Str(s) => {
            pay(s.len())?;
            collect(s.chars().count(), s.chars().map(|c| Value::from(&*c.encode_utf8(&mut [0; 4]))))
        }
        Kind::List | Kind::Tuple | Kind::Dict => match value.as_object().and_then(|o| o.try_iter()) {
            Some(items) => collect(value.len().unwrap_or(0), items),
            None => Ok(Vec::new()),
        },
        Kind::Run(run) => run.all(),
        _ => type_error(format!("'{}' object is not iterable", type_name(value))),
    }
}

/// A dict's keys and values.
pub(crate) fn pairs(value: &Value) -> Outcome<Vec<(Value, Value)>> {
    pay_items(value.len().unwrap_or(0).saturating_mul(2))?;
    let mut pairs = Vec::new();
    let count = value.len().unwrap_or(0);
    pairs.try_reserve_exact(count).map_err(|_| exceeded(Resource::Memory, (2 * ITEM * count) as u64))?;
    pairs.extend(value.as_object().and_then(|o| o.try_iter_pairs()).into_iter().flatten().take(count));
    Ok(pairs)
}

/// A dict's value for a key.
pub(crate) fn entry(dict: &Value, key: &Value) -> Outcome<Option<Value>> {
    // `true` and 1 are one key in Python. The engine finds one under the other only by chance.
    if matches!(kind(key), Kind::Bool(_) | Kind::Int(0 | 1) | Kind::Float(0.0 | 1.0)) {
        for (other, value) in pairs(dict)? {
            if equal(&other, key)? {
                return Ok(Some(value));
            }
        }
        return Ok(None);
    }
    // The engine hashes the key, and compares it.
    pay_all(key)?;
    Ok(dict.as_object().and_then(|dict| dict.get_value(key)))
}

/// `len(value)`.
pub(crate) fn length(value: &Value) -> Outcome<usize> {
    match kind(value) {
        Kind::Undefined => Ok(0),
        Kind::Str(s) => {
            pay(s.len())?;
            Ok(s.chars().count())
        }
        Kind::List | Kind::Tuple | Kind::Dict => Ok(value.len().unwrap_or(0)),
        Kind::Run(run) if !run.is_once() => Ok(run.len()),
        _ => type_error(format!("object of type '{}' has no len()", type_name(value))),
    }
}

/// Whether a value has a length and can be indexed, as Jinja's `sequence` test wants.
pub(crate) fn is_sequence(value: &Value) -> bool {
    match kind(value) {
        Kind::Run(run) => run.name == "range",
        // An undefined value has the length 0.
        Kind::Undefined | Kind::Str(_) | Kind::List | Kind::Tuple | Kind::Dict => true,
        _ => false,
    }
}

/// `value.name`.
pub(crate) fn attribute(value: &Value, name: &str) -> Outcome<Value> {
    if let Some(method) = method(value, name)? {
        return Ok(method);
    }
    Ok(named(value, name)?.unwrap_or_else(|| Missing::attribute(value, name)))
}

/// `value|attr(name)`: the items of a dict are not its attributes.
pub(crate) fn own(value: &Value, name: &str) -> Outcome<Value> {
    match kind(value) {
        Kind::Dict => Ok(method(value, name)?.unwrap_or_else(|| Missing::attribute(value, name))),
        _ => attribute(value, name),
    }
}

/// `value[key]`.
pub(crate) fn item(value: &Value, key: &Value) -> Outcome<Value> {
    let found = match (kind(value), kind(key)) {
        (Kind::Undefined, _) => return undefined(value),
        (_, Kind::Undefined) => None,
        (Kind::Dict, _) => entry(value, key)?,
        (Kind::Str(s), Kind::Int(_) | Kind::Bool(_)) => {
            pay(s.len())?;
            let count = s.chars().count();
            let at = position(index(key)?, count);
            at.and_then(|at| s.chars().nth(at)).map(|c| same_markup(value, c.to_string())).transpose()?
        }
        (Kind::List | Kind::Tuple, Kind::Int(_) | Kind::Bool(_)) => {
            let count = value.len().unwrap_or(0);
            position(index(key)?, count).and_then(|at| value.get_item_by_index(at).ok())
        }
        (Kind::Run(run), Kind::Int(_) | Kind::Bool(_)) if run.name == "range" => {
            position(index(key)?, run.len()).and_then(|at| run.get(at))
        }
        (Kind::Object, Kind::Str(name)) => named(value, name)?,
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    match kind(key) {
        Kind::Str(name) => Ok(method(value, name)?.unwrap_or_else(|| Missing::attribute(value, name))),
        _ => {
            let owner = if value.is_none() { "None".to_string() } else { format!("{} object", type_name(value)) };
            Ok(Missing::value("UndefinedError", format!("{owner} has no element {}", shown(&repr(key)?))))
        }
    }
}

/// What a value has under a name, except methods.
fn named(value: &Value, name: &str) -> Outcome<Option<Value>> {
    match kind(value) {
        Kind::Dict => entry(value, &Value::from(name)),
        Kind::Object => Ok(value.get_attr(name).ok().filter(|found| !found.is_undefined())),
        _ => Ok(None),
    }
}

/// A method of a value, unless it would change the value or reach into Python.
fn method(value: &Value, name: &str) -> Outcome<Option<Value>> {
    if matches!(kind(value), Kind::Undefined) {
        return undefined(value);
    }
    if (name.starts_with("__") && name.ends_with("__") && name.len() > 4) || methods::changes(value, name) {
        return Ok(Some(Missing::unsafe_attribute(value, name)));
    }
    if !methods::has(value, name) {
        return Ok(None);
    }
    pay_object()?;
    Ok(Some(Value::from_object(Bound { value: value.clone(), name: name.to_string() })))
}

/// `value.name(...)`.
pub(crate) fn call_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if matches!(kind(value), Kind::Undefined) {
        return Ok(undefined(value)?);
    }
    if methods::has(value, name) {
        return Ok(methods::call(value, name, &crate::calls::Args::from_values(args)?)?);
    }
    if matches!(kind(value), Kind::Object) && value.downcast_object_ref::<Bound>().is_none() {
        // `loop.changed` compares its arguments with those before.
        if name == "changed" {
            args.iter().try_for_each(pay_all)?;
        }
        if name == "cycle" && args.is_empty() {
            return Ok(type_error("no items for cycling given")?);
        }
        if let Ok(found) = value.get_attr(name)
            && !found.is_undefined()
        {
            return call(state, &found, args);
        }
        return value.call_method(state, name, args);
    }
    call(state, &attribute(value, name)?, args)
}

fn call(state: &mut State, found: &Value, args: &[Value]) -> Result<Value, Error> {
    if found.as_object().is_none() || matches!(kind(found), Kind::Dict | Kind::List | Kind::Tuple | Kind::Run(_)) {
        return Ok(type_error(format!("'{}' object is not callable", type_name(found)))?);
    }
    found.call(state, args)
}

/// The engine's callback for a method it does not find. For an object of its own, the engine must not be asked again.
pub(crate) fn call_unknown(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match kind(value) {
        Kind::Object => Ok(undefined(&Missing::attribute(value, name))?),
        _ => call_method(state, value, name, args),
    }
}

/// The place that an index means among `count` items. A negative index counts from the end.
fn position(index: i128, count: usize) -> Option<usize> {
    let at = if index < 0 { index + count as i128 } else { index };
    usize::try_from(at).ok().filter(|&at| at < count)
}

/// `value[start:stop:step]`.
pub(crate) fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Outcome<Value> {
    if matches!(kind(value), Kind::Undefined) {
        return undefined(value);
    }
    let items = match kind(value) {
        Kind::Str(_) | Kind::List | Kind::Tuple => items(value)?,
        Kind::Run(run) if run.name == "range" => run.all()?,
        Kind::Dict => return type_error("unhashable type: 'slice'"),
        _ => return type_error(format!("'{}' object is not subscriptable", type_name(value))),
    };
    let bound = |v: &Value| match kind(v) {
        Kind::None => Ok(None),
        Kind::Int(_) | Kind::Bool(_) => index(v).map(Some),
        _ => type_error("slice indices must be integers or None or have an __index__ method"),
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return value_error("slice step cannot be zero");
    }
    let count = items.len() as i128;
    let (low, high) = if step < 0 { (-1, count - 1) } else { (0, count) };
    let clamp = |at: i128| (if at < 0 { at.saturating_add(count) } else { at }).clamp(low, high);
    let (mut at, stop) = match step < 0 {
        true => (start.map_or(high, clamp), stop.map_or(low, clamp)),
        false => (start.map_or(low, clamp), stop.map_or(high, clamp)),
    };
    let mut chosen = Vec::new();
    while if step < 0 { at > stop } else { at < stop } {
        if let Some(item) = usize::try_from(at).ok().and_then(|at| items.get(at)) {
            push(&mut chosen, item.clone())?;
        }
        at = at.saturating_add(step);
    }
    Ok(match kind(value) {
        Kind::Str(_) => same_markup(value, gather(chosen.iter().filter_map(Value::as_str).flat_map(str::chars))?)?,
        Kind::Tuple => Value::from(Tuple::from(chosen)),
        _ => Value::from(chosen),
    })
}

/// Values in the order of a key, ascending unless `reverse`; equal ones keep their order.
pub(crate) fn sorted(items: Vec<Value>, key: impl Fn(&Value) -> Outcome<Value>, reverse: bool) -> Outcome<Vec<Value>> {
    pay_items(items.len().saturating_mul((1 + usize::BITS - items.len().leading_zeros()) as usize))?;
    // The keys with their items, and as much again to sort them.
    room(items.len().saturating_mul(8 * ITEM))?;
    let mut keyed = items.into_iter().map(|item| Ok((key(&item)?, item))).collect::<Outcome<Vec<_>>>()?;
    let mut failed = None;
    if reverse {
        keyed.reverse();
    }
    keyed.sort_by(|(a, _), (b, _)| match if failed.is_none() { compare("<", a, b) } else { Ok(None) } {
        Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
        Err(e) => {
            failed.get_or_insert(e);
            std::cmp::Ordering::Equal
        }
    });
    if reverse {
        keyed.reverse();
    }
    match failed {
        Some(e) => Err(e),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

/// What a path such as `a.b.0` leads to from a value, as in the `attribute` of filters.
pub(crate) fn path(value: &Value, path: &Value) -> Outcome<Value> {
    let Kind::Str(path) = kind(path) else { return item(value, path) };
    path.split('.').try_fold(value.clone(), |at, part| {
        pay(ITEM + part.len())?;
        match part.parse::<u32>() {
            Ok(number) => item(&at, &int(number.into())),
            Err(_) => item(&at, &Value::from(copy(part)?)),
        }
    })
}
