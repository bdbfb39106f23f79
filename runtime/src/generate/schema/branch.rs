//! `allOf`, `anyOf`, `oneOf`, `enum` and `$ref` taken apart.
//!
//! What is asked of a value is a set of parts that it must fulfil all. Following references and `allOf` adds parts; a
//! choice (`anyOf`, `oneOf`, the members of an `enum`) makes several sets out of one. A set without choices is a branch:
//! a value is valid if it fulfils one branch. Schemas are finite, so there are finitely many sets, and a schema that
//! refers to itself comes back to a set that is already known.

use super::Refusal;
use super::document::{Document, Id};
use super::json::Json;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A thing that a value must fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// A schema, with all that it refers to.
    Schema(Id),
    /// A schema's keywords about the value itself.
    Own(Id),
    /// To be equal to this value.
    Value(Id),
    /// To be one of the nulls, booleans, numbers and strings in the `enum` of this schema.
    Listed(Id),
    /// To be valid for no other option of this schema's `oneOf`.
    Only(Id, usize),
}

/// Parts that must all be fulfilled.
pub type Branch = BTreeSet<Part>;

/// More combinations of choices than this are refused.
const MAX_BRANCHES: usize = 2000;

/// The schemas that led to one.
struct Chain {
    id: Id,
    up: Option<Rc<Chain>>,
}

/// The schemas that led to a part, if any.
type Led = Option<Rc<Chain>>;

#[derive(Clone, Default)]
struct State {
    pending: Vec<(Part, Led)>,
    choices: Vec<(Vec<Vec<Part>>, Led)>,
    branch: Branch,
    seen: BTreeSet<Id>,
}

/// The branches of a set of parts.
///
/// # Errors
/// When a schema refers to itself without a value in between, or there are too many branches.
pub fn branches(document: &Document, parts: &[Part]) -> Result<Vec<Branch>, Refusal> {
    let mut found = Vec::new();
    let pending = parts.iter().map(|part| (*part, None)).collect();
    walk(document, State { pending, ..State::default() }, &mut found)?;
    found.sort();
    found.dedup();
    Ok(found)
}

fn walk(document: &Document, mut state: State, found: &mut Vec<Branch>) -> Result<(), Refusal> {
    while let Some((part, chain)) = state.pending.pop() {
        let Part::Schema(id) = part else {
            state.branch.insert(part);
            continue;
        };
        let mut up = chain.as_ref();
        while let Some(above) = up {
            if above.id == id {
                return Err(Refusal::new(document.place(id), "it refers to itself without a value in between"));
            }
            up = above.up.as_ref();
        }
        if !state.seen.insert(id) {
            continue;
        }
        let schema = document.json(id);
        if *schema == Json::Bool(false) {
            return Ok(());
        }
        let chain = Some(Rc::new(Chain { id, up: chain }));
        state.branch.insert(Part::Own(id));
        state.pending.extend(document.target(id).map(|target| (Part::Schema(target), chain.clone())));
        for one in schema.get("allOf").and_then(Json::items).unwrap_or(&[]) {
            state.pending.push((Part::Schema(document.id(one)), chain.clone()));
        }
        state.branch.extend(schema.get("const").map(|value| Part::Value(document.id(value))));
        if let Some(values) = schema.get("enum").and_then(Json::items) {
            let structured = |value: &&Json| matches!(value, Json::Array(_) | Json::Object(_));
            let mut options: Vec<_> =
                values.iter().filter(structured).map(|value| vec![Part::Value(document.id(value))]).collect();
            if options.len() < values.len() {
                options.push(vec![Part::Listed(id)]);
            }
            state.choices.push((options, chain.clone()));
        }
        if let Some(options) = schema.get("anyOf").and_then(Json::items) {
            let options = options.iter().map(|one| vec![Part::Schema(document.id(one))]).collect();
            state.choices.push((options, chain.clone()));
        }
        if let Some(options) = schema.get("oneOf").and_then(Json::items) {
            let options = options.iter().enumerate();
            let options = options.map(|(i, one)| vec![Part::Schema(document.id(one)), Part::Only(id, i)]).collect();
            state.choices.push((options, chain.clone()));
        }
    }
    let Some((options, chain)) = state.choices.pop() else {
        found.push(state.branch);
        if found.len() > MAX_BRANCHES {
            return Err(Refusal::new("#", format!("it has more than {MAX_BRANCHES} combinations of anyOf and oneOf")));
        }
        return Ok(());
    };
    for option in options {
        let mut state = state.clone();
        state.pending.extend(option.into_iter().map(|part| (part, chain.clone())));
        walk(document, state, found)?;
    }
    Ok(())
}
