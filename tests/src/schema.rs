//! A simple JSON schema validator, for answers that were constrained by a schema.

use serde_json::Value;
use std::cmp::Ordering;

/// Ok if a value is valid for the schema; otherwise what it violates, and where.
///
/// # Panics
/// When the schema has a keyword that is not known here: ignoring it would make the test pass for nothing.
pub fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    check(schema, schema, value, "$")
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let keywords = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Bool(false) => return Err(format!("{at}: nothing is allowed")),
        other => other.as_object().expect("a schema"),
    };
    for (key, asked) in keywords {
        let sub = |schema: &Value| check(root, schema, value, at);
        let good = match key.as_str() {
            "$ref" => {
                let pointer = asked.as_str().unwrap().strip_prefix('#').unwrap();
                sub(root.pointer(pointer).expect("a definition"))?;
                true
            }
            "type" => match asked.as_array() {
                Some(types) => types.iter().any(|t| is_type(t.as_str().unwrap(), value)),
                None => is_type(asked.as_str().unwrap(), value),
            },
            "const" => same(asked, value),
            "enum" => asked.as_array().unwrap().iter().any(|one| same(one, value)),
            "allOf" => asked.as_array().unwrap().iter().all(|s| sub(s).is_ok()),
            "anyOf" => asked.as_array().unwrap().iter().any(|s| sub(s).is_ok()),
            "oneOf" => asked.as_array().unwrap().iter().filter(|s| sub(s).is_ok()).count() == 1,
            "$defs" | "definitions" | "title" | "description" | "$schema" => true,
            _ => match value {
                Value::Object(_) => object(root, keywords, key, asked, value, at)?,
                Value::Array(_) => array(root, keywords, key, asked, value, at)?,
                Value::String(text) => string(key, asked, text),
                Value::Number(_) => number(key, asked, value),
                _ => true,
            },
        };
        if !good {
            return Err(format!("{at}: {value} breaks {key}: {asked}"));
        }
    }
    Ok(())
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    }
}

/// Equality that compares numbers by value, also within arrays and objects.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => compare(a, b) == Ordering::Equal,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// Compares numbers: integers of 64 bits with each other exactly, and with floats as whole numbers.
fn compare(a: &Value, b: &Value) -> Ordering {
    let whole = |v: &Value| v.as_i64().map(i128::from).or(v.as_u64().map(i128::from));
    let (x, y) = (a.as_f64().unwrap(), b.as_f64().unwrap());
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // A float as large as an integer that it cannot hold is a whole number itself.
        (Some(a), None) if y.abs() > 1e15 && y.abs() < 1e30 => a.cmp(&(y as i128)),
        (None, Some(b)) if x.abs() > 1e15 && x.abs() < 1e30 => (x as i128).cmp(&b),
        _ => x.partial_cmp(&y).unwrap(),
    }
}

/// A number that has at most 12 digits behind its point, times 10^12.
fn scaled(v: &Value) -> Option<i128> {
    let text = v.to_string();
    let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
    (places.len() <= 12).then(|| format!("{whole}{places:0<12}").parse().ok())?
}

/// True for keywords that constrain only another type than the value's.
fn of_another_type(key: &str) -> bool {
    const KNOWN: [&str; 23] = [
        "properties",
        "patternProperties",
        "additionalProperties",
        "required",
        "minProperties",
        "maxProperties",
        "propertyNames",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "const",
        "enum",
        "type",
    ];
    assert!(KNOWN.contains(&key), "unknown keyword {key}");
    true
}

type Keywords = serde_json::Map<String, Value>;

fn object(
    root: &Value,
    keywords: &Keywords,
    key: &str,
    asked: &Value,
    value: &Value,
    at: &str,
) -> Result<bool, String> {
    let members = value.as_object().unwrap();
    let named = |name: &str| keywords.get("properties").is_some_and(|p| p.get(name).is_some());
    let patterns = || keywords.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
    match key {
        "properties" => {
            for (name, schema) in asked.as_object().unwrap() {
                if let Some(value) = members.get(name) {
                    check(root, schema, value, &format!("{at}.{name}"))?;
                }
            }
        }
        "patternProperties" => {
            for (pattern, schema) in asked.as_object().unwrap() {
                for (name, value) in members.iter().filter(|(name, _)| matches(pattern, name)) {
                    check(root, schema, value, &format!("{at}.{name}"))?;
                }
            }
        }
        "additionalProperties" => {
            for (name, value) in members {
                if !named(name) && !patterns().any(|(pattern, _)| matches(pattern, name)) {
                    check(root, asked, value, &format!("{at}.{name}"))?;
                }
            }
        }
        "required" => return Ok(asked.as_array().unwrap().iter().all(|n| members.contains_key(n.as_str().unwrap()))),
        "propertyNames" => {
            for name in members.keys() {
                check(root, asked, &Value::from(name.as_str()), at)?;
            }
        }
        "minProperties" => return Ok(members.len() as u64 >= asked.as_u64().unwrap()),
        "maxProperties" => return Ok(members.len() as u64 <= asked.as_u64().unwrap()),
        other => return Ok(of_another_type(other)),
    }
    Ok(true)
}

fn array(root: &Value, keywords: &Keywords, key: &str, asked: &Value, value: &Value, at: &str) -> Result<bool, String> {
    let items = value.as_array().unwrap();
    let prefix = keywords.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
    match key {
        "items" => {
            for (i, item) in items.iter().enumerate().skip(prefix) {
                check(root, asked, item, &format!("{at}[{i}]"))?;
            }
        }
        "prefixItems" => {
            for (i, (schema, item)) in asked.as_array().unwrap().iter().zip(items).enumerate() {
                check(root, schema, item, &format!("{at}[{i}]"))?;
            }
        }
        "minItems" => return Ok(items.len() as u64 >= asked.as_u64().unwrap()),
        "maxItems" => return Ok(items.len() as u64 <= asked.as_u64().unwrap()),
        other => return Ok(of_another_type(other)),
    }
    Ok(true)
}

fn string(key: &str, asked: &Value, text: &str) -> bool {
    let length = text.chars().count() as u64;
    match key {
        "minLength" => length >= asked.as_u64().unwrap(),
        "maxLength" => length <= asked.as_u64().unwrap(),
        "pattern" => matches(asked.as_str().unwrap(), text),
        "format" => matches(
            match asked.as_str().unwrap() {
                "date" => r"\A\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\z",
                "uuid" => r"\A[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\z",
                "int32" => return true,
                "ipv4" => r"\A((25[0-5]|(2[0-4]|1\d|[1-9]|)\d)\.?\b){4}\z",
                other => panic!("format {other}"),
            },
            text,
        ),
        other => of_another_type(other),
    }
}

fn number(key: &str, asked: &Value, value: &Value) -> bool {
    match key {
        "minimum" => compare(value, asked).is_ge(),
        "maximum" => compare(value, asked).is_le(),
        "exclusiveMinimum" => compare(value, asked).is_gt(),
        "exclusiveMaximum" => compare(value, asked).is_lt(),
        "multipleOf" => match (scaled(value), scaled(asked)) {
            (Some(value), Some(asked)) => value % asked == 0,
            _ => false,
        },
        other => of_another_type(other),
    }
}

/// Whether a pattern is found. Patterns are written for ECMA 262; of it the tests use what is here made Onigmo's.
fn matches(pattern: &str, text: &str) -> bool {
    let mut ours = String::new();
    let mut characters = pattern.chars();
    let mut in_class = false;
    while let Some(c) = characters.next() {
        match c {
            '^' if !in_class => ours.push_str(r"\A"),
            '$' if !in_class => ours.push_str(r"\z"),
            '\\' => match characters.next().unwrap() {
                'd' if in_class => ours.push_str("0-9"),
                'd' => ours.push_str("[0-9]"),
                'w' if in_class => ours.push_str("A-Za-z0-9_"),
                'w' => ours.push_str("[A-Za-z0-9_]"),
                's' => ours.push_str(
                    "[\t-\r \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}]",
                ),
                other => ours.extend(['\\', other]),
            },
            c => {
                in_class = c == '[' || (in_class && c != ']');
                ours.push(c);
            }
        }
    }
    onig::Regex::new(&ours).unwrap().find(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_that_break_a_schema_are_found() {
        for (schema, good, bad) in [
            (json!({"type": "integer", "minimum": 3}), json!(3), json!(2)),
            (json!({"type": ["null", "string"]}), json!(null), json!(1)),
            (
                json!({"required": ["a"], "additionalProperties": false, "properties": {"a": true}}),
                json!({"a": 1}),
                json!({}),
            ),
            (json!({"additionalProperties": false, "properties": {"a": true}}), json!({"a": 1}), json!({"b": 1})),
            (json!({"items": {"type": "null"}, "maxItems": 2}), json!([null]), json!([null, null, null])),
            (json!({"prefixItems": [{"type": "null"}], "items": false}), json!([null]), json!([null, 1])),
            (json!({"pattern": "^a+$"}), json!("aa"), json!("ab")),
            (json!({"maxLength": 2}), json!("äö"), json!("abc")),
            (json!({"multipleOf": 0.25}), json!(1.75), json!(1.8)),
            (json!({"oneOf": [{"type": "number"}, {"type": "integer"}]}), json!(1.5), json!(1)),
            (json!({"anyOf": [{"const": 1}, {"enum": ["x"]}]}), json!("x"), json!("y")),
            (json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}), json!(null), json!(0)),
            (json!({"format": "ipv4"}), json!("1.2.3.44"), json!("1.2.3.444")),
            (json!({"patternProperties": {"^x": {"type": "null"}}}), json!({"y": 1}), json!({"x1": 1})),
            (json!({"minimum": 9007199254740993u64}), json!(9007199254740993u64), json!(9007199254740992u64)),
            (json!({"const": 9007199254740993u64}), json!(9007199254740993u64), json!(9007199254740992.0)),
            (json!({"const": [1.0]}), json!([1]), json!([2])),
            (json!({"multipleOf": 0.01}), json!(0.07), json!(0.071)),
            (json!({"pattern": r"^\s$"}), json!("\u{feff}"), json!("\u{85}")),
            (json!({"propertyNames": {"maxLength": 1}}), json!({"y": 1}), json!({"yy": 1})),
            (json!({"minProperties": 1}), json!({"y": 1}), json!({})),
        ] {
            assert_eq!(validate(&schema, &good), Ok(()), "{schema}");
            assert!(validate(&schema, &bad).is_err(), "{schema} took {bad}");
        }
    }
}
