//! Values that the engine lacks: undefined ones that know their name, methods that were looked up, and Python's lazy
//! sequences.

use crate::access::call_method;
use crate::error::{Raise, TemplateError};
use crate::value::{Kind, kind, type_name};
use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{Error, State, Value};
use std::sync::{Arc, Mutex};

/// An undefined value.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    /// The error that using it raises.
    pub raise: Raise,
}

impl Missing {
    pub fn value(kind: &'static str, message: String) -> Value {
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
        Self::value("UndefinedError", format!("'{owner}' has no attribute '{name}'"))
    }

    pub fn unsafe_attribute(owner: &Value, name: &str) -> Value {
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
    items: Mutex<Vec<Value>>,
}

impl Run {
    pub fn value(name: &'static str, items: Vec<Value>) -> Value {
        Self::range(name, String::new(), items)
    }

    pub fn range(name: &'static str, shown: String, items: Vec<Value>) -> Value {
        Value::from_object(Run { name, shown, items: Mutex::new(items) })
    }

    /// Whether it can be iterated only once.
    pub fn is_once(&self) -> bool {
        self.name == "generator" || self.name.ends_with("iterator")
    }

    /// Its items; a generator is empty afterwards.
    pub fn all(&self) -> Vec<Value> {
        let mut items = self.items.lock().unwrap_or_else(|e| e.into_inner());
        if self.is_once() { std::mem::take(&mut items) } else { items.clone() }
    }
}

impl Object for Run {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.all())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.is_once() || !self.all().is_empty()
    }
}
