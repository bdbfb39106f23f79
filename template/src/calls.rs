//! The arguments of a call, by place or by name, as in Python.

use crate::error::{Outcome, type_error};
use crate::limits::pay_items;
use crate::value::{index, text};
use minijinja::Value;
use minijinja::value::Kwargs;

/// The arguments of a filter, a test, a method or a function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    /// The arguments without a name, in order.
    pub places: Vec<Value>,
    /// The arguments with a name.
    pub names: Vec<(String, Value)>,
}

impl Args {
    /// Splits up the engine's values: it puts all named arguments into one value behind the others.
    pub fn from_values(values: &[Value]) -> Outcome<Args> {
        let mut args = Args::default();
        pay_items(values.len())?;
        for value in values {
            if value.is_kwargs() {
                pay_items(value.len().unwrap_or(0).saturating_mul(2))?;
                let Ok(kwargs) = Kwargs::try_from(value.clone()) else { return type_error("arguments cannot be read") };
                for name in kwargs.args().map(str::to_string).collect::<Vec<_>>() {
                    let Ok(value) = kwargs.get::<Value>(&name) else { return type_error("arguments cannot be read") };
                    args.names.push((name, value));
                }
            } else {
                args.places.push(value.clone());
            }
        }
        Ok(args)
    }

    /// Refuses more arguments than `names`, and arguments of other names.
    pub fn expect_only(&self, function: &str, names: &[&str]) -> Outcome<()> {
        if self.places.len() > names.len() {
            return type_error(format!(
                "{function}() takes at most {} arguments ({} given)",
                names.len(),
                self.places.len() + self.names.len()
            ));
        }
        for (name, _) in &self.names {
            match names.iter().position(|n| n == name) {
                None => return type_error(format!("{function}() got an unexpected keyword argument '{name}'")),
                Some(at) if at < self.places.len() => {
                    return type_error(format!("{function}() got multiple values for argument '{name}'"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The argument at a place, or of a name.
    pub fn get(&self, place: usize, name: &str) -> Option<&Value> {
        self.places.get(place).or_else(|| self.named(name))
    }

    /// The argument of a name.
    pub fn named(&self, name: &str) -> Option<&Value> {
        self.names.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// A required argument.
    pub fn need(&self, place: usize, name: &str) -> Outcome<&Value> {
        self.get(place, name)
            .map_or_else(|| type_error(format!("missing 1 required positional argument: '{name}'")), Ok)
    }

    /// A text, or `default` if it is absent.
    pub fn str(&self, place: usize, name: &str, default: &str) -> Outcome<String> {
        self.get(place, name).map_or_else(|| Ok(default.to_string()), text)
    }

    /// A whole number, or `default` if it is absent.
    pub fn int(&self, place: usize, name: &str, default: i128) -> Outcome<i128> {
        self.get(place, name).map_or(Ok(default), index)
    }

    /// A boolean, or `default` if it is absent.
    pub fn flag(&self, place: usize, name: &str, default: bool) -> bool {
        self.get(place, name).map_or(default, Value::is_true)
    }
}
