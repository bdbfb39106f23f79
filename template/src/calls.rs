//! The arguments of a call: by place or by name, as Python has them.

use crate::error::{Outcome, type_error};
use crate::value::{index, text};
use minijinja::Value;
use minijinja::value::Kwargs;

/// What a filter, a test, a method or a function is called with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    /// Those without a name, in order.
    pub places: Vec<Value>,
    /// Those with one.
    pub names: Vec<(String, Value)>,
}

impl Args {
    /// The engine puts those with a name into one value behind the others.
    pub fn from_values(values: &[Value]) -> Outcome<Args> {
        let mut args = Args::default();
        for value in values {
            if value.is_kwargs() {
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

    /// Refuses more arguments, or others, than `names` are.
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

    /// The argument at a place or of a name.
    pub fn get(&self, place: usize, name: &str) -> Option<&Value> {
        self.places.get(place).or_else(|| self.named(name))
    }

    /// The argument of a name.
    pub fn named(&self, name: &str) -> Option<&Value> {
        self.names.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// One that there must be.
    pub fn need(&self, place: usize, name: &str) -> Outcome<&Value> {
        self.get(place, name)
            .map_or_else(|| type_error(format!("missing 1 required positional argument: '{name}'")), Ok)
    }

    /// A text, or what stands for it where it is absent.
    pub fn str(&self, place: usize, name: &str, default: &str) -> Outcome<String> {
        self.get(place, name).map_or_else(|| Ok(default.to_string()), text)
    }

    /// A whole number.
    pub fn int(&self, place: usize, name: &str, default: i128) -> Outcome<i128> {
        self.get(place, name).map_or(Ok(default), index)
    }

    /// A yes or no.
    pub fn flag(&self, place: usize, name: &str, default: bool) -> bool {
        self.get(place, name).map_or(default, Value::is_true)
    }
}
