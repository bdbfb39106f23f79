//! How much a template may use. A template can come from anywhere, and may be made to hang or to fill memory.
//!
//! The engine counts its own instructions. The work of an instruction is counted here, before it is done: a byte made or
//! read costs 1, an item of a list [`ITEM`], a comparison half of that, an object [`OBJECT`]. What grows does so through
//! [`crate::grow`], which pays first. A template has a thread of its own and renders one conversation at a time, so the
//! counter is thread-local.

use crate::access::is_engine_object;
use crate::error::{Outcome, Raise, Resource, TemplateError};
use crate::grow::{LARGE, room};
use crate::objects::{Bound, Run};
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
/// The cost of an object: a list, a dict, a value that is undefined.
pub(crate) const OBJECT: usize = 128;
/// Lists within lists.
pub(crate) const DEPTH: usize = 200;
/// Namespaces, macros and loops that are put into a namespace, each counted with the lists around it. A row of them may
/// become a chain, and a chain is freed by as many nested calls.
pub(crate) const LINKS: u64 = 10_000;
/// Bytes of a template: ten times those of the longest in use.
pub(crate) const SOURCE: usize = 256 << 10;
/// Bytes of a name: the engine copies and hashes it at each use.
pub(crate) const NAME: usize = 256;
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
    static LINKED: Cell<u64> = const { Cell::new(0) };
    static EMITTED: Cell<usize> = const { Cell::new(0) };
}

/// Begins a rendering on this thread, of a conversation of so many bytes.
pub(crate) fn begin(conversation: usize) {
    let allowed = WORK.saturating_add(PER_BYTE.saturating_mul(conversation as u64));
    LEFT.set(allowed);
    ALLOWED.set(allowed);
    LINKED.set(0);
    EMITTED.set(0);
}

/// Pays for a text that the engine is about to write. The engine's buffer doubles as it grows, and the engine cannot be
/// told that there is no memory: the system is asked for that much whenever another 8 KiB were written.
pub(crate) fn emit(bytes: usize) -> Outcome<()> {
    pay(bytes)?;
    let before = EMITTED.get();
    let after = before.saturating_add(bytes);
    EMITTED.set(after);
    if after / LARGE == before / LARGE { Ok(()) } else { room(after.saturating_mul(2)) }
}

/// Pays for bytes.
pub(crate) fn pay(bytes: usize) -> Outcome<()> {
    match LEFT.get().checked_sub(bytes as u64) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        // Nothing is left, so that what ignores one refusal meets the next.
        None => {
            LEFT.set(0);
            Err(exceeded(Resource::Work, ALLOWED.get()))
        }
    }
}

/// Pays for items.
pub(crate) fn pay_items(count: usize) -> Outcome<()> {
    pay(count.saturating_mul(ITEM))
}

/// Pays for a value with all that is in it, which the engine is about to hash or to compare.
pub(crate) fn pay_all(value: &Value) -> Outcome<()> {
    walk(value, DEPTH, &mut |value, _| {
        let items = value.downcast_object_ref::<Run>().map_or(0, Run::len);
        pay(value.as_str().map_or(ITEM, str::len))?;
        pay_items(items)
    })
}

pub(crate) fn exceeded(what: Resource, limit: u64) -> Raise {
    Raise(TemplateError::Limit { what, limit })
}

/// Returns a container as it is, unless it is nested too deep to be printed, compared and freed.
pub(crate) fn shallow(value: Value) -> Outcome<Value> {
    walk(&value, DEPTH, &mut |_, _| pay(1))?;
    Ok(value)
}

/// Returns a value that a namespace is to keep, unless chains of such values become too long to be freed.
pub(crate) fn kept(value: Value) -> Outcome<Value> {
    walk(&value, DEPTH, &mut |value, depth| {
        pay(1)?;
        if is_engine_object(value) {
            LINKED.set(LINKED.get() + 1 + depth as u64);
        }
        if LINKED.get() > LINKS { Err(exceeded(Resource::Links, LINKS)) } else { Ok(()) }
    })?;
    Ok(value)
}

/// Visits a value and all that is in it, with its depth. Generators stay as they are.
fn walk(value: &Value, left: usize, visit: &mut impl FnMut(&Value, usize) -> Outcome<()>) -> Outcome<()> {
    visit(value, DEPTH - left)?;
    let Some(object) = value.as_object() else { return Ok(()) };
    if left == 0 {
        return Err(exceeded(Resource::Nesting, DEPTH as u64));
    }
    if let Some(run) = value.downcast_object_ref::<Run>() {
        return run.look().iter().try_for_each(|item| walk(item, left - 1, visit));
    }
    if let Some(bound) = value.downcast_object_ref::<Bound>() {
        return walk(&bound.value, left - 1, visit);
    }
    // The engine lists the keys of its own objects before it gives the first.
    pay(if is_engine_object(value) { object.enumerator_len().unwrap_or(0) } else { 0 })?;
    for (key, item) in object.try_iter_pairs().into_iter().flatten() {
        walk(&key, left - 1, visit)?;
        walk(&item, left - 1, visit)?;
    }
    Ok(())
}
