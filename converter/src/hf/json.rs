//! JSON objects whose fields may be absent: typed getters that note a wrong type instead of stopping at it.

use crate::error::{Problems, What};
use crate::hf::python_json;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::marker::PhantomData;

/// Parses a file that holds one JSON object.
pub(crate) fn object(file: &str, bytes: &[u8], problems: &Problems) -> Option<Map<String, Value>> {
    parse(file, bytes, problems)
}

/// Parses a file of JSON, as Python takes it.
pub(crate) fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8], problems: &Problems) -> Option<T> {
    let parsed = python_json::from_slice(bytes);
    parsed.map_err(|e| problems.file(file, What::Json { cause: e.to_string() })).ok()
}

/// The fields of an object in a file. `null` counts as absent.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    file: &'a str,
    /// The names of the objects around it, outermost first; empty names are unused.
    within: [&'a str; 3],
    map: &'a Map<String, Value>,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    /// The fields of a file's object.
    pub fn new(file: &'a str, map: &'a Map<String, Value>, problems: &'a Problems) -> Self {
        Fields { file, within: [""; 3], map, problems }
    }

    /// A field's value.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// Whether a field is present and null, which for some fields differs from absent.
    pub fn is_null(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(Value::is_null)
    }

    /// All fields.
    pub fn entries(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether any field is an object itself.
    pub fn has_objects(&self) -> bool {
        self.map.values().any(Value::is_object)
    }

    /// A whole number of 0 or more.
    pub fn size(&self, field: &str) -> Option<usize> {
        self.typed(field, "a whole number of 0 or more", |v| v.as_u64().and_then(|n| n.try_into().ok()))
    }

    /// Any number.
    pub fn number(&self, field: &str) -> Option<f64> {
        self.typed(field, "a number", Value::as_f64)
    }

    /// true or false.
    pub fn flag(&self, field: &str) -> Option<bool> {
        self.typed(field, "true or false", Value::as_bool)
    }

    /// A text.
    pub fn text(&self, field: &str) -> Option<&'a str> {
        self.typed(field, "a text", Value::as_str)
    }

    /// A list of numbers.
    pub fn numbers(&self, field: &str) -> Option<Vec<f64>> {
        self.typed(field, "a list of numbers", |v| v.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// A list of texts.
    pub fn texts(&self, field: &str) -> Option<Vec<&'a str>> {
        self.typed(field, "a list of texts", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// A token id, or a list of them.
    pub fn ids(&self, field: &str) -> Option<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        self.typed(field, "a token id or a list of them", |v| match v {
            Value::Array(all) => all.iter().map(id).collect(),
            one => Some(vec![id(one)?]),
        })
    }

    /// An object within this one.
    pub fn object(&self, field: &'a str) -> Option<Fields<'a>> {
        let map = self.typed(field, "an object", Value::as_object)?;
        let mut within = self.within;
        *within.iter_mut().find(|name| name.is_empty()).expect("objects are read three deep") = field;
        Some(Fields { within, map, ..*self })
    }

    /// Returns `found`. Notes a problem if that is None and the field is absent.
    pub fn required<T>(&self, field: &str, expected: &str, found: Option<T>) -> Option<T> {
        if found.is_none() && self.get(field).is_none() {
            self.wrong(field, "missing", expected);
        }
        found
    }

    /// Notes that a field's value is invalid.
    pub fn wrong(&self, field: &str, got: impl ToString, expected: impl ToString) {
        let (got, expected) = (got.to_string(), expected.to_string());
        self.problems.file(self.file, What::Field { field: self.full(field), got, expected });
    }

    /// Notes that a field asks for something that is not supported.
    pub fn unsupported(&self, field: &str, got: impl ToString, expected: impl ToString) {
        let (field, got, expected) = (self.full(field), got.to_string(), expected.to_string());
        self.problems.file(self.file, What::Unsupported { field, got, expected });
    }

    /// Notes any other problem of the file.
    pub fn problem(&self, what: What) {
        self.problems.file(self.file, what);
    }

    fn full(&self, field: &str) -> String {
        let outer: String = self.within.iter().filter(|name| !name.is_empty()).map(|name| format!("{name}.")).collect();
        outer + field
    }

    fn typed<T>(&self, field: &str, expected: &str, take: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(field)?;
        let taken = take(value);
        if taken.is_none() {
            self.wrong(field, value, expected);
        }
        taken
    }
}

/// An object's entries in their order, with duplicate keys: JSON allows them, and a map would hide them.
pub(crate) struct Entries<T>(pub Vec<(String, T)>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for Collect<T> {
            type Value = Entries<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Entries(all))
            }
        }
        deserializer.deserialize_map(Collect(PhantomData))
    }
}
