//! A JSON document that keeps what a schema needs: numbers as they are written, and members in their order.

use super::decimal::Number;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Deeper documents are refused: the compiler recurses.
const MAX_DEPTH: usize = 100;

/// A JSON value. `serde_json::Value` would round integers beyond 64 bits and lose how a number was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Json>),
    /// Each name once; the last value of a doubled name counts.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a text.
    ///
    /// # Errors
    /// A sentence when it is no JSON, nested too deep, or has a number with too many digits.
    pub fn parse(text: &str) -> Result<Json, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| e.to_string())?;
        read(raw, 0)
    }

    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn members(&self) -> &[(String, Json)] {
        match self {
            Json::Object(members) => members,
            _ => &[],
        }
    }

    pub fn items(&self) -> Option<&[Json]> {
        match self {
            Json::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// A count: a whole number that is not negative.
    pub fn count(&self) -> Option<usize> {
        match self {
            Json::Number(number) => number.count(),
            _ => None,
        }
    }
}

/// The members of an object, in order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Self::Value = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(members)
            }
        }
        from.deserialize_map(Collect).map(Members)
    }
}

fn read(raw: &RawValue, depth: usize) -> Result<Json, String> {
    if depth > MAX_DEPTH {
        return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
    }
    let text = raw.get();
    let said = |e: serde_json::Error| e.to_string();
    Ok(match text.as_bytes()[0] {
        b'n' => Json::Null,
        b't' => Json::Bool(true),
        b'f' => Json::Bool(false),
        b'"' => Json::String(serde_json::from_str(text).map_err(said)?),
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(said)?;
            Json::Array(items.into_iter().map(|item| read(item, depth + 1)).collect::<Result<_, _>>()?)
        }
        b'{' => {
            let Members(raw) = serde_json::from_str(text).map_err(said)?;
            let mut members: Vec<(String, Json)> = Vec::with_capacity(raw.len());
            let mut places: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
            for (name, value) in raw {
                let value = read(value, depth + 1)?;
                match places.get(&name) {
                    Some(at) => members[*at].1 = value,
                    None => {
                        places.insert(name.clone(), members.len());
                        members.push((name, value));
                    }
                }
            }
            Json::Object(members)
        }
        _ => Json::Number(Number::parse(text)?),
    })
}

/// A text as it stands in JSON, without the quotes. Every character has this one spelling in what grammars let through.
pub fn quoted(text: &str) -> String {
    text.chars().map(|c| super::strings::spelling(c).unwrap_or_else(|| c.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_order_are_kept() {
        let read = Json::parse(r#" {"b": 18446744073709551616, "a": [1.50, -0.0, null], "b": "\u00e9"} "#).unwrap();
        assert_eq!(read.members().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(read.get("b").unwrap().text(), Some("é"));
        assert_eq!(read.get("a").unwrap().items().unwrap()[0], Json::Number(Number::parse("1.5").unwrap()));
        assert!(Json::parse("{").is_err());
        assert!(Json::parse(&"[".repeat(300)).is_err());
        assert!(Json::parse(&("[".repeat(300) + &"]".repeat(300))).unwrap_err().contains("deeper"));
        assert!(Json::parse("1e999999999999").unwrap_err().contains("digits"));
    }
}
