//! Values that the engine lacks: undefined ones that know their name, methods that were looked up, and Python's lazy
//! sequences.

use crate::access::call_method;
use crate::error::{Outcome, Raise, TemplateError};
use crate::grow::collect;
use crate::limits::OBJECT;
use crate::value::{Kind, int, kind, type_name};
use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{Error, State, Value};
use std::sync::{Arc, Mutex};

/// The most bytes of a name that an undefined value repeats.
const SHOWN: usize = 256;

/// A name as an undefined value repeats it: cut, if it is long.
pub(crate) fn shown(name: &str) -> &str {
    let end = (0..=SHOWN.min(name.len())).rev().find(|&at| name.is_char_boundary(at));
    &name[..end.unwrap_or(0)]
}

/// An undefined value.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    /// The error that using it raises.
    pub raise: Raise,
}

impl Missing {
    pub fn value(kind: &'static str, message: String) -> Value {
        // It is made where nothing can fail: the next operation meets an empty budget.
        _ = crate::limits::pay(2 * OBJECT + message.len());
        Value::from_object(Missing { raise: Raise(TemplateError::Failed { kind, message }) })
    }

    /// A variable without a value.
    pub fn variable(name: &str) -> Value {
        Self::value("UndefinedError", format!("'{name}' is undefined"))
    }

    /// An undefined value with this error message.
    pub fn nothing(message: &str) -> Value {
        Self::value("UndefinedError", message.to_string())
    }

    pub fn attribute(owner: &Value, name: &str) -> Value {
        let owner = match kind(owner) {
            Kind::None => "None".to_string(),
            _ => format!("{} object", type_name(owner)),
        };
        Self::value("UndefinedError", format!("'{owner}' has no attribute '{}'", shown(name)))
    }

    pub fn unsafe_attribute(owner: &Value, name: &str) -> Value {
        let name = shown(name);
        let message = format!("access to attribute '{name}' of '{}' object is unsafe.", type_name(owner));
        Self::value("SecurityError", message)
    }
}

impl Object for Missing {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Empty
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn call(self: &Arc<Self>, _: &mut State, _: &[Value]) -> Result<Value, Error> {
        Err(self.raise.clone().into())
    }
}

/// A method that was looked up but not called yet.
#[derive(Debug)]
pub(crate) struct Bound {
    pub value: Value,
    pub name: String,
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State, args: &[Value]) -> Result<Value, Error> {
        call_method(state, &self.value, &self.name, args)
    }
}

/// A sequence that is not a list: what Python makes lazily.
#[derive(Debug)]
pub(crate) struct Run {
    /// Its type's name in Python.
    pub name: &'static str,
    /// How it prints, for ranges.
    pub shown: String,
    items: Items,
}

/// What is in a sequence.
#[derive(Debug)]
enum Items {
    /// The numbers of a range.
    Range {
        start: i128,
        step: i128,
        count: usize,
    },
    Given(Mutex<Arc<Vec<Value>>>),
}

impl Run {
    pub fn value(name: &'static str, items: Vec<Value>) -> Value {
        Value::from_object(Run { name, shown: String::new(), items: Items::Given(Mutex::new(Arc::new(items))) })
    }

    pub fn range(shown: String, start: i128, step: i128, count: usize) -> Value {
        Value::from_object(Run { name: "range", shown, items: Items::Range { start, step, count } })
    }

    /// Whether it can be iterated only once.
    pub fn is_once(&self) -> bool {
        self.name == "generator" || self.name.ends_with("iterator")
    }

    /// How many items it has.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Range { count, .. } => *count,
            Items::Given(items) => items.lock().unwrap_or_else(|e| e.into_inner()).len(),
        }
    }

    /// The item at a place.
    pub fn get(&self, at: usize) -> Option<Value> {
        match &self.items {
            Items::Range { start, step, count } => (at < *count).then(|| int(start + at as i128 * step)),
            Items::Given(_) => self.look().get(at).cloned(),
        }
    }

    /// Its items as they are, without a copy: none for a range, which has only numbers.
    pub fn look(&self) -> Arc<Vec<Value>> {
        match &self.items {
            Items::Range { .. } => Arc::default(),
            Items::Given(items) => items.lock().unwrap_or_else(|e| e.into_inner()).clone(),
        }
    }

    /// Its items; a generator is empty afterwards.
    pub fn all(&self) -> Outcome<Vec<Value>> {
        collect(self.len(), self.take())
    }

    /// Its items one by one; a generator is empty afterwards.
    fn take(&self) -> Box<dyn Iterator<Item = Value> + Send + Sync> {
        match &self.items {
            &Items::Range { start, step, count } => Box::new((0..count).map(move |at| int(start + at as i128 * step))),
            Items::Given(items) => {
                let mut items = items.lock().unwrap_or_else(|e| e.into_inner());
                let all = if self.is_once() { std::mem::take(&mut *items) } else { items.clone() };
                Box::new((0..all.len()).map(move |at| all[at].clone()))
            }
        }
    }
}

impl Object for Run {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(self.take())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.is_once() || self.len() > 0
    }
}
