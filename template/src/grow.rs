//! Texts and lists that ask before they grow: the budget first ([`pay`]), then the system.
//!
//! Whatever an operation of a template makes goes through here, so that no operation can make much and pay later.

use crate::error::{Outcome, Resource};
use crate::limits::{ITEM, OBJECT, exceeded, pay, pay_items};
use minijinja::Value;

/// Capacity from which on the system is asked whether it has it. Smaller requests are left to fail as all others do.
pub(crate) const LARGE: usize = 8 << 10;

/// What the engine keeps in front of a text or a list.
const HEAD: usize = 64;

/// A text in the making.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    pub fn new() -> Text {
        Text::default()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a text.
    pub fn push(&mut self, more: &str) -> Outcome<()> {
        self.reserve(more.len())?;
        self.0.push_str(more);
        Ok(())
    }

    /// Adds a character.
    pub fn push_char(&mut self, c: char) -> Outcome<()> {
        self.reserve(c.len_utf8())?;
        self.0.push(c);
        Ok(())
    }

    /// Adds a text so many times.
    pub fn repeat(&mut self, more: &str, times: usize) -> Outcome<()> {
        self.reserve(more.len().saturating_mul(times))?;
        (0..times).for_each(|_| self.0.push_str(more));
        Ok(())
    }

    /// Adds characters.
    pub fn extend(&mut self, more: impl Iterator<Item = char>) -> Outcome<()> {
        for c in more {
            self.push_char(c)?;
        }
        Ok(())
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }

    fn reserve(&mut self, more: usize) -> Outcome<()> {
        pay(more)?;
        self.0.try_reserve(more).map_err(|_| exceeded(Resource::Memory, more as u64))
    }
}

/// A copy of a text.
pub(crate) fn copy(text: &str) -> Outcome<String> {
    let mut out = Text::new();
    out.push(text)?;
    Ok(out.finish())
}

/// The characters of an iterator as a text.
pub(crate) fn gather(chars: impl Iterator<Item = char>) -> Outcome<String> {
    let mut out = Text::new();
    out.extend(chars)?;
    Ok(out.finish())
}

/// Items as a list; there are `count` of them.
pub(crate) fn collect(count: usize, items: impl Iterator<Item = Value>) -> Outcome<Vec<Value>> {
    pay_items(count)?;
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| exceeded(Resource::Memory, (count.saturating_mul(ITEM)) as u64))?;
    list.extend(items.take(count));
    Ok(list)
}

/// Adds an item to a list.
pub(crate) fn push(list: &mut Vec<Value>, item: Value) -> Outcome<()> {
    pay_items(1)?;
    list.try_reserve(1).map_err(|_| exceeded(Resource::Memory, (list.len().saturating_mul(2 * ITEM)) as u64))?;
    list.push(item);
    Ok(())
}

/// Pays for an object beside its items, such as a list in a list.
pub(crate) fn pay_object() -> Outcome<()> {
    pay(OBJECT)
}

/// Asks the system for memory that the engine is about to take: the engine itself cannot be told that there is none.
pub(crate) fn room(bytes: usize) -> Outcome<()> {
    if bytes < LARGE {
        return Ok(());
    }
    Vec::<u8>::new().try_reserve_exact(bytes.saturating_add(HEAD)).map_err(|_| exceeded(Resource::Memory, bytes as u64))
}
