//! Python's operators: `1 + "a"` is an error, and `7 // -2` is -4. [`crate::rewrite`] sends every operator here.

use crate::access;
use crate::error::{Outcome, raise, type_error};
use crate::grow::{Text, collect, pay_object, push};
use crate::limits::pay_items;
use crate::value::{
    Kind, Numbers, dict, escaped, int, kind, markup, number, numbers, plain, same_markup, text, type_name,
};
use minijinja::Value;
use minijinja::value::Tuple;

fn unsupported<T>(op: &str, a: &Value, b: &Value) -> Outcome<T> {
    type_error(format!("unsupported operand type(s) for {op}: '{}' and '{}'", type_name(a), type_name(b)))
}

fn checked(result: Option<i128>) -> Outcome<Value> {
    result.map_or_else(|| raise("OverflowError", "an integer has more than 127 bits"), |i| Ok(int(i)))
}

/// `a op b`, as Python computes it.
pub(crate) fn binary(op: &str, a: &Value, b: &Value) -> Outcome<Value> {
    let formats = op == "%" && matches!(kind(a), Kind::Str(_));
    for operand in [a, b] {
        if matches!(kind(operand), Kind::Undefined) && op != "~" && !formats {
            return access::undefined(operand);
        }
    }
    match op {
        "~" => {
            return plain(joined(&text(a)?, &text(b)?)?);
        }
        "+" => match (kind(a), kind(b)) {
            (Kind::Str(x), Kind::Str(y)) => {
                return if a.is_safe() || b.is_safe() {
                    markup(joined(&escaped(a)?, &escaped(b)?)?)
                } else {
                    plain(joined(x, y)?)
                };
            }
            (Kind::List, Kind::List) => {
                return Ok(Value::from(both(a, b)?));
            }
            (Kind::Tuple, Kind::Tuple) => {
                return Ok(Value::from(Tuple::from(both(a, b)?)));
            }
            (Kind::Str(_), _) => {
                return type_error(format!("can only concatenate str (not \"{}\") to str", type_name(b)));
            }
            (Kind::List, _) => {
                return type_error(format!("can only concatenate list (not \"{}\") to list", type_name(b)));
            }
            (Kind::Tuple, _) => {
                return type_error(format!("can only concatenate tuple (not \"{}\") to tuple", type_name(b)));
            }
            _ => {}
        },
        "*" => {
            let count = |v: &Value| match kind(v) {
                Kind::Int(n) => Some(usize::try_from(n.max(0)).unwrap_or(usize::MAX)),
                Kind::Bool(yes) => Some(yes.into()),
                _ => None,
            };
            for (sequence, times) in [(a, b), (b, a)] {
                let list = matches!(kind(sequence), Kind::List | Kind::Tuple);
                if let (Kind::Str(s), Some(n)) = (kind(sequence), count(times)) {
                    let mut many = Text::new();
                    many.repeat(s, n)?;
                    return same_markup(sequence, many.finish());
                } else if let (true, Some(n)) = (list, count(times)) {
                    let items = access::items(sequence)?;
                    pay_object()?;
                    let many = collect(items.len().saturating_mul(n), items.iter().cycle().cloned())?;
                    return Ok(if sequence.is_tuple() { Value::from(Tuple::from(many)) } else { Value::from(many) });
                } else if list || matches!(kind(sequence), Kind::Str(_)) {
                    return type_error(format!("can't multiply sequence by non-int of type '{}'", type_name(times)));
                }
            }
        }
        "%" if formats => return crate::format::percent(a, b),
        "|" => {
            if let (Kind::Dict, Kind::Dict) = (kind(a), kind(b)) {
                let (mut all, more) = (access::pairs(a)?, access::pairs(b)?);
                pay_items(2 * (all.len() + more.len()))?;
                all.extend(more);
                return dict(all);
            }
        }
        _ => {}
    }
    let Some(numbers) = numbers(a, b) else {
        return unsupported(if op == "**" { "** or pow()" } else { op }, a, b);
    };
    let division_by_zero = |message: &str| raise("ZeroDivisionError", message);
    match (op, numbers) {
        ("+", Numbers::Ints(a, b)) => checked(a.checked_add(b)),
        ("-", Numbers::Ints(a, b)) => checked(a.checked_sub(b)),
        ("*", Numbers::Ints(a, b)) => checked(a.checked_mul(b)),
        ("/" | "//" | "%", Numbers::Ints(_, 0)) => division_by_zero(match op {
            "/" => "division by zero",
            "//" => "integer division or modulo by zero",
            _ => "integer modulo by zero",
        }),
        ("/", Numbers::Ints(a, b)) => Ok(Value::from(a as f64 / b as f64)),
        ("//", Numbers::Ints(a, b)) => checked(floor_div(a, b)),
        ("%", Numbers::Ints(a, b)) => checked(floor_div(a, b).map(|q| a - q * b)),
        ("**", Numbers::Ints(0, ..=-1)) => division_by_zero("0.0 cannot be raised to a negative power"),
        ("**", Numbers::Ints(a, b @ ..=-1)) => Ok(Value::from((a as f64).powf(b as f64))),
        ("**", Numbers::Ints(a, b)) => checked(u32::try_from(b).ok().and_then(|b| a.checked_pow(b))),
        ("+", Numbers::Floats(a, b)) => Ok(Value::from(a + b)),
        ("-", Numbers::Floats(a, b)) => Ok(Value::from(a - b)),
        ("*", Numbers::Floats(a, b)) => Ok(Value::from(a * b)),
        ("/", Numbers::Floats(_, 0.0)) => division_by_zero("float division by zero"),
        ("//", Numbers::Floats(_, 0.0)) => division_by_zero("float floor division by zero"),
        ("%", Numbers::Floats(_, 0.0)) => division_by_zero("float modulo"),
        ("/", Numbers::Floats(a, b)) => Ok(Value::from(a / b)),
        ("//", Numbers::Floats(a, b)) => Ok(Value::from(((a - float_mod(a, b)) / b).round())),
        ("%", Numbers::Floats(a, b)) => Ok(Value::from(float_mod(a, b))),
        ("**", Numbers::Floats(a, b)) => Ok(Value::from(a.powf(b))),
        _ => unsupported(op, a, b),
    }
}

/// One text after the other.
fn joined(a: &str, b: &str) -> Outcome<String> {
    let mut out = Text::new();
    out.push(a)?;
    out.push(b)?;
    Ok(out.finish())
}

/// The items of two sequences, one after the other.
fn both(a: &Value, b: &Value) -> Outcome<Vec<Value>> {
    pay_object()?;
    let (mut all, more) = (access::items(a)?, access::items(b)?);
    for item in more {
        push(&mut all, item)?;
    }
    Ok(all)
}

fn floor_div(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}

fn float_mod(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest == 0.0 {
        0.0f64.copysign(b)
    } else if (rest < 0.0) != (b < 0.0) {
        rest + b
    } else {
        rest
    }
}

/// `-a`.
pub(crate) fn negative(a: &Value) -> Outcome<Value> {
    match number(a) {
        Some(Ok(i)) => checked(i.checked_neg()),
        Some(Err(x)) => Ok(Value::from(-x)),
        None if matches!(kind(a), Kind::Undefined) => access::undefined(a),
        None => type_error(format!("bad operand type for unary -: '{}'", type_name(a))),
    }
}
