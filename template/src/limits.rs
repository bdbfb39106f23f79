//! How much a template may use. A template can come from anywhere, and may be made to hang or to fill memory.
//!
//! The engine counts its own instructions. The work of an instruction is counted here: a byte made or read costs 1, an
//! item of a list [`ITEM`], a comparison half of that. A template has a thread of its own and renders one conversation
//! at a time, so the counter is thread-local.

use crate::error::{Outcome, Raise, Resource, TemplateError};
use minijinja::Value;
use std::cell::Cell;

/// Instructions of the engine: about a second.
pub(crate) const FUEL: u64 = 20_000_000;
/// Bytes that may be made or read, plus [`PER_BYTE`] for each byte of the conversation.
pub(crate) const WORK: u64 = 64 << 20;
/// See [`WORK`]: a good template may go over the conversation once for each of its messages.
pub(crate) const PER_BYTE: u64 = 256;
/// The cost of an item of a list.
pub(crate) const ITEM: usize = 32;
/// Lists within lists.
pub(crate) const DEPTH: usize = 200;
/// Bytes of a template.
pub(crate) const SOURCE: usize = 1 << 20;
/// Words between two braces, which the parser may nest.
pub(crate) const TOKENS: usize = 5_000;
/// Branches of a template, which the parser nests.
pub(crate) const BRANCHES: usize = 2_000;
/// Bytes of stack of a template's thread. In a test build, no single limit takes more than 2.1 MiB and all together
/// take less than 8 MiB; sanitizers make frames several times larger.
pub(crate) const STACK: usize = 64 << 20;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static ALLOWED: Cell<u64> = const { Cell::new(0) };
}

/// Begins a rendering on this thread, of a conversation of so many bytes.
pub(crate) fn begin(conversation: usize) {
    let allowed = WORK + PER_BYTE * conversation as u64;
    LEFT.set(allowed);
    ALLOWED.set(allowed);
}

/// Pays for bytes.
pub(crate) fn pay(bytes: usize) -> Outcome<()> {
    match LEFT.get().checked_sub(bytes as u64) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => Err(exceeded(Resource::Work, ALLOWED.get())),
    }
}

/// Pays for items.
pub(crate) fn pay_items(count: usize) -> Outcome<()> {
    pay(count.saturating_mul(ITEM))
}

pub(crate) fn exceeded(what: Resource, limit: u64) -> Raise {
    Raise(TemplateError::Limit { what, limit })
}

/// Returns a container as it is, unless it is nested too deep to be printed, compared and freed.
pub(crate) fn shallow(value: Value) -> Outcome<Value> {
    fn look(value: &Value, left: usize) -> Outcome<()> {
        let Some(object) = value.as_object() else { return Ok(()) };
        if left == 0 {
            return Err(exceeded(Resource::Nesting, DEPTH as u64));
        }
        for (key, item) in object.try_iter_pairs().into_iter().flatten() {
            pay(1)?;
            look(&key, left - 1)?;
            look(&item, left - 1)?;
        }
        Ok(())
    }
    look(&value, DEPTH)?;
    Ok(value)
}
