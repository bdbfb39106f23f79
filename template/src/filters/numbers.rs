//! Filters of numbers.

use crate::access;
use crate::calls::Args;
use crate::error::{Outcome, raise, type_error};
use crate::value::{self, Kind, int, kind, type_name};
use minijinja::Value;

pub(super) fn abs(v: &Value, _: &Args) -> Outcome<Value> {
    match kind(v) {
        Kind::Int(i) => Ok(int(i.saturating_abs())),
        Kind::Bool(yes) => Ok(int(yes.into())),
        Kind::Float(x) => Ok(Value::from(x.abs())),
        _ => type_error(format!("bad operand type for abs(): '{}'", type_name(v))),
    }
}

pub(super) fn float(v: &Value, a: &Args) -> Outcome<Value> {
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

pub(super) fn integer(v: &Value, a: &Args) -> Outcome<Value> {
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

pub(super) fn round(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("do_round", &["precision", "method"])?;
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
        // Rounds the float's exact value, half to even, as printing does.
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
