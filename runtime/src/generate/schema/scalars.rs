//! The nulls, booleans, numbers and strings that fulfil a branch.
//!
//! They are regular languages, so `oneOf` is exact among them: what other options take is taken away.

use super::Refusal;
use super::branch::{Branch, Part, branches};
use super::decimal::Number;
use super::document::{Document, Id};
use super::json::Json;
use super::numbers::{self, Constraint, Numbers};
use super::strings::{self, Language};
use super::{formats, pattern};

/// Which of the values without parts are meant.
#[derive(Clone, Debug)]
pub struct Scalars {
    pub null: bool,
    pub no: bool,
    pub yes: bool,
    pub numbers: Option<Numbers>,
    /// Nothing is asked of numbers but, where it says so, that they are integers: every form may be written.
    pub free_numbers: Option<bool>,
    pub strings: Option<Language>,
}

impl Scalars {
    /// How numbers may be written.
    pub fn number_forms(&self) -> Option<Language> {
        match (self.free_numbers, &self.numbers) {
            (Some(true), _) => Some(numbers::any_integer()),
            (Some(false), _) => Some(numbers::any()),
            (None, Some(set)) => Some(Language::Or(vec![set.whole.clone(), set.pointed.clone()])),
            (None, None) => None,
        }
    }
}

/// Whether the `type` of a schema, if it has one, allows a type.
pub fn allows(schema: &Json, name: &str) -> bool {
    match schema.get("type") {
        None => true,
        Some(Json::Array(all)) => all.iter().any(|one| one.text() == Some(name)),
        Some(one) => one.text() == Some(name),
    }
}

/// The scalars of a branch. `within` are the schemas whose `oneOf` is being taken apart. For `widen` see [`numbers`].
///
/// # Errors
/// A keyword that cannot be held to exactly.
pub fn scalars(document: &Document, branch: &Branch, widen: bool, within: &[Id]) -> Result<Scalars, Refusal> {
    let has = |test: &dyn Fn(&Json) -> bool, types: &[&str]| {
        branch.iter().all(|part| match part {
            Part::Own(id) => types.iter().any(|name| allows(document.json(*id), name)),
            Part::Value(id) => test(document.json(*id)),
            Part::Listed(id) => listed(document, *id).iter().any(test),
            Part::Only(..) | Part::Schema(_) => true,
        })
    };
    let mut all = Scalars {
        null: has(&|value| *value == Json::Null, &["null"]),
        no: has(&|value| *value == Json::Bool(false), &["boolean"]),
        yes: has(&|value| *value == Json::Bool(true), &["boolean"]),
        numbers: None,
        free_numbers: None,
        strings: None,
    };
    if has(&|value| matches!(value, Json::Number(_)), &["number", "integer"]) {
        let constraints = number_constraints(document, branch);
        let only = branch.iter().any(|part| matches!(part, Part::Only(..)));
        let integer = constraints.iter().all(|(one, _)| *one == Constraint::Integer);
        let asked: Vec<_> = constraints.iter().map(|(one, _)| one.clone()).collect();
        all.free_numbers = (integer && !only && !widen).then_some(!constraints.is_empty());
        all.numbers = Some(numbers::numbers(&asked, widen).map_err(|cause| {
            let place = constraints.iter().find(|(one, _)| matches!(one, Constraint::MultipleOf(_)));
            Refusal::new(&place.map_or("#".into(), |(_, place)| place.clone()), cause)
        })?);
    }
    if has(&|value| value.text().is_some(), &["string"]) {
        all.strings = string_set(document, branch)?;
    }
    for part in branch {
        if let Part::Only(id, option) = part {
            take_away(document, *id, *option, widen, within, &mut all)?;
        }
    }
    if all.free_numbers.is_none() {
        all.numbers = match &all.numbers {
            Some(set) if is_empty(&set.whole, document, branch)? && is_empty(&set.pointed, document, branch)? => None,
            _ => all.numbers,
        };
    }
    if let Some(set) = &all.strings
        && !matches!(set, Language::Repeat(..))
        && is_empty(set, document, branch)?
    {
        all.strings = None;
    }
    Ok(all)
}

fn is_empty(set: &Language, document: &Document, branch: &Branch) -> Result<bool, Refusal> {
    strings::is_empty(set).ok_or_else(|| {
        let own = branch.iter().find_map(|part| if let Part::Own(id) = part { Some(*id) } else { None });
        Refusal::new(own.map_or("#", |id| document.place(id)), "it takes too long to find out whether anything fits it")
    })
}

fn listed<'a>(document: &Document<'a>, id: Id) -> &'a [Json] {
    document.json(id).get("enum").and_then(Json::items).unwrap_or(&[])
}

/// Takes away what another option of a `oneOf` takes.
fn take_away(
    document: &Document,
    id: Id,
    option: usize,
    widen: bool,
    within: &[Id],
    all: &mut Scalars,
) -> Result<(), Refusal> {
    if within.contains(&id) {
        return Err(Refusal::new(&format!("{}/oneOf", document.place(id)), "an option refers to this oneOf"));
    }
    let within = [within, &[id]].concat();
    let options = document.json(id).get("oneOf").and_then(Json::items).unwrap_or(&[]);
    for (_, other) in options.iter().enumerate().filter(|(i, _)| *i != option) {
        for branch in branches(document, &[Part::Schema(document.id(other))])? {
            // Of what is taken away from what is taken away, too much is the wrong side again.
            let other = scalars(document, &branch, !widen, &within)?;
            all.null &= !other.null;
            all.no &= !other.no;
            all.yes &= !other.yes;
            all.numbers = match (all.numbers.take(), other.numbers) {
                (Some(set), Some(other)) => Some(numbers::without(set, other)),
                (set, _) => set,
            };
            all.strings = match (all.strings.take(), other.strings) {
                (Some(set), Some(other)) => Some(strings::all_of(vec![set, strings::not(other)])),
                (set, _) => set,
            };
        }
    }
    Ok(())
}

/// What is asked of numbers, each with its place.
fn number_constraints(document: &Document, branch: &Branch) -> Vec<(Constraint, String)> {
    let mut all = Vec::new();
    let numbers = |values: &[Json]| -> Vec<Number> {
        values.iter().filter_map(|v| if let Json::Number(n) = v { Some(n.clone()) } else { None }).collect()
    };
    for part in branch {
        let id = match part {
            Part::Own(id) => *id,
            Part::Value(id) => {
                let values = numbers(std::slice::from_ref(document.json(*id)));
                all.push((Constraint::OneOf(values), document.place(*id).into()));
                continue;
            }
            Part::Listed(id) => {
                all.push((Constraint::OneOf(numbers(listed(document, *id))), document.place(*id).into()));
                continue;
            }
            Part::Only(..) | Part::Schema(_) => continue,
        };
        let schema = document.json(id);
        let mut add = |key: &str, constraint| all.push((constraint, format!("{}/{key}", document.place(id))));
        if !allows(schema, "number") {
            add("type", Constraint::Integer);
        }
        let number = |key| if let Some(Json::Number(n)) = schema.get(key) { Some(n.clone()) } else { None };
        let strict = |key| schema.get(key) == Some(&Json::Bool(true));
        let (low, high) = (strict("exclusiveMinimum"), strict("exclusiveMaximum"));
        if let Some(n) = number("minimum") {
            add("minimum", if low { Constraint::Above(n) } else { Constraint::AtLeast(n) });
        }
        if let Some(n) = number("maximum") {
            add("maximum", if high { Constraint::Below(n) } else { Constraint::AtMost(n) });
        }
        if let Some(n) = number("exclusiveMinimum") {
            add("exclusiveMinimum", Constraint::Above(n));
        }
        if let Some(n) = number("exclusiveMaximum") {
            add("exclusiveMaximum", Constraint::Below(n));
        }
        if let Some(n) = number("multipleOf") {
            add("multipleOf", Constraint::MultipleOf(n));
        }
        if let Some(bounds) = schema.get("format").and_then(Json::text).and_then(formats::bounds) {
            bounds.into_iter().for_each(|bound| add("format", bound));
        }
    }
    all
}

/// The strings of a branch without its `oneOf`; None if there are none.
fn string_set(document: &Document, branch: &Branch) -> Result<Option<Language>, Refusal> {
    let mut sets = Vec::new();
    let (mut min, mut max) = (0, None::<u32>);
    for part in branch {
        let id = match part {
            Part::Own(id) => *id,
            Part::Value(id) => {
                sets.push(strings::literal(document.json(*id).text().unwrap_or_default()));
                continue;
            }
            Part::Listed(id) => {
                let texts = listed(document, *id).iter().filter_map(Json::text);
                sets.push(Language::Or(texts.map(strings::literal).collect()));
                continue;
            }
            Part::Only(..) | Part::Schema(_) => continue,
        };
        let schema = document.json(id);
        let count = |key| schema.get(key).and_then(Json::count).map(|n| n as u32);
        min = min.max(count("minLength").unwrap_or(0));
        max = [max, count("maxLength")].into_iter().flatten().min();
        let at = |key: &str| format!("{}/{key}", document.place(id));
        if let Some(text) = schema.get("pattern").and_then(Json::text) {
            sets.push(pattern::language(text).map_err(|cause| Refusal::new(&at("pattern"), cause))?);
        }
        if let Some(name) = schema.get("format").and_then(Json::text) {
            // Formats of numbers ask nothing of strings.
            let of_numbers = formats::bounds(name).is_some() || ["float", "double"].contains(&name);
            match formats::language(name) {
                Some(set) => sets.push(set),
                None if of_numbers => {}
                None => {
                    let cause = format!("the format {name:?} is not supported; supported are {}", formats::NAMES);
                    return Err(Refusal::new(&at("format"), cause));
                }
            }
        }
    }
    if max.is_some_and(|max| max < min) {
        return Ok(None);
    }
    if min > 0 || max.is_some() {
        sets.push(strings::length(min, max));
    }
    Ok(Some(strings::all_of(sets)))
}
