//! The metadata of a GGUF file, read key by key. What nobody reads is known at the end.

use crate::error::{Problems, What};
use crate::gguf::container::{Header, Value};
use crate::gguf::kinds::Scalar;
use std::cell::RefCell;
use std::collections::HashSet;

/// The metadata of the first file.
pub(crate) struct Keys<'k> {
    /// The file's name.
    pub file: &'k str,
    /// What the file says.
    pub header: &'k Header,
    /// All of the file.
    pub bytes: &'k [u8],
    problems: &'k Problems,
    read: RefCell<HashSet<String>>,
    /// What the model's own keys begin with.
    pub architecture: String,
}

impl<'k> Keys<'k> {
    /// The metadata of `header`, which was parsed from `bytes`, all of the file named `file`.
    pub fn new(file: &'k str, header: &'k Header, bytes: &'k [u8], problems: &'k Problems) -> Keys<'k> {
        let mut keys = Keys { file, header, bytes, problems, read: RefCell::default(), architecture: String::new() };
        keys.architecture = keys.text("general.architecture").unwrap_or_default().to_string();
        keys
    }

    /// The name of a key of the model's own.
    pub fn own(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// The value of a key, which counts as read; None if it is not there.
    pub fn get(&self, key: &str) -> Option<&'k Value> {
        self.read.borrow_mut().insert(key.to_string());
        self.header.get(key)
    }

    /// Notes that a key has a value that cannot be.
    pub fn wrong(&self, key: &str, got: impl ToString, expected: impl Into<String>) {
        let (field, got, expected) = (key.to_string(), got.to_string(), expected.into());
        self.problems.file(self.file, What::Field { field, got, expected });
    }

    /// Notes that a key asks for something that is not supported.
    pub fn unsupported(&self, key: &str, got: impl ToString, expected: impl Into<String>) {
        let (field, got, expected) = (key.to_string(), got.to_string(), expected.into());
        self.problems.file(self.file, What::Unsupported { field, got, expected });
    }

    /// A value that must be there; `expected` says what it is.
    pub fn required<T>(&self, key: &str, expected: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && self.header.get(key).is_none() {
            self.wrong(key, "missing", expected);
        }
        value
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl FnOnce(&'k Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let found = read(value);
        if found.is_none() {
            self.wrong(key, name_of(value), expected);
        }
        found
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&'k str> {
        self.typed(key, "a text", |value| match value {
            Value::Text(range) => str::from_utf8(&self.bytes[range.clone()]).ok(),
            _ => None,
        })
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.typed(key, "a truth value", |value| if let Value::Bool(on) = value { Some(*on) } else { None })
    }

    /// A whole number from 0 on, or one for each layer where all are equal.
    pub fn size(&self, key: &str) -> Option<usize> {
        self.typed(key, "a whole number from 0 on, the same for all layers", |value| match *value {
            Value::Array(..) => {
                let all = self.sizes_of(value)?;
                all.first().copied().filter(|first| all.iter().all(|n| n == first))
            }
            ref one => size(one),
        })
    }

    /// Whole numbers from 0 on, or truth values as 0 and 1.
    pub fn sizes(&self, key: &str) -> Option<Vec<usize>> {
        self.typed(key, "a list of whole numbers from 0 on", |value| self.sizes_of(value))
    }

    fn sizes_of(&self, value: &Value) -> Option<Vec<usize>> {
        /// More than any model has layers: a file must not ask for long lists.
        const MOST: usize = 1 << 16;
        let Value::Array(scalar, range) = value else { return None };
        let each = self.bytes[range.clone()].chunks_exact(scalar.bytes());
        let signed = matches!(scalar, Scalar::Signed(_));
        if each.len() > MOST || matches!(scalar, Scalar::Float(_)) {
            return None;
        }
        each.map(|b| {
            let bits = b.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
            let negative = signed && b.last().is_some_and(|last| last >> 7 == 1);
            usize::try_from(bits).ok().filter(|_| !negative)
        })
        .collect()
    }

    /// A number. One of 32 bits is taken for the shortest decimal that it stands for: 1e-5 was meant by 9.99999975e-6.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.typed(key, "a number", |value| match *value {
            Value::Float(x) if f64::from(x as f32) == x => shortest(x as f32),
            Value::Float(x) => Some(x),
            Value::Unsigned(n) => Some(n as f64),
            Value::Signed(n) => Some(n as f64),
            _ => None,
        })
    }

    /// The keys that nobody has read, in the file's order.
    pub fn unread(&self) -> impl Iterator<Item = (&'k str, &'k Value)> {
        let read = self.read.borrow().clone();
        self.header.keys.iter().filter(move |(key, _)| !read.contains(key)).map(|(key, value)| (key.as_str(), value))
    }
}

/// A whole number from 0 on.
fn size(value: &Value) -> Option<usize> {
    match *value {
        Value::Unsigned(n) => usize::try_from(n).ok(),
        Value::Signed(n) => usize::try_from(n).ok(),
        _ => None,
    }
}

/// The shortest decimal that a number of 32 bits stands for, as one of 64 bits.
pub(crate) fn shortest(x: f32) -> Option<f64> {
    x.to_string().parse().ok()
}

/// A value as messages show it.
pub(crate) fn name_of(value: &Value) -> String {
    match value {
        Value::Unsigned(n) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(on) => on.to_string(),
        Value::Text(_) => "a text".to_string(),
        Value::Array(scalar, range) => format!("a list of {} numbers", range.len() / scalar.bytes()),
        Value::Texts(count, _) => format!("a list of {count} texts"),
    }
}
