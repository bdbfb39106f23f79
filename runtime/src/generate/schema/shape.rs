//! What values a set of parts allows, by their type, as a graph: nodes are sets of parts, and an array's items and an
//! object's members are nodes again.

use super::Refusal;
use super::branch::{Branch, Part, branches};
use super::document::Document;
use super::json::Json;
use super::scalars::{Scalars, allows, scalars};
use super::strings::{self, Language};
use std::collections::{BTreeSet, HashMap};

/// Larger graphs are refused.
const MAX_NODES: usize = 20_000;
/// So many `patternProperties` make two to that power kinds of names.
const MAX_PATTERNS: usize = 6;

pub type NodeId = usize;

/// Arrays of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrays {
    pub first: Vec<NodeId>,
    pub rest: NodeId,
    pub min: usize,
    pub max: usize,
}

/// Objects of one kind.
#[derive(Clone, Debug)]
pub struct Objects {
    pub named: Vec<(String, NodeId, bool)>,
    /// Sets of other names, apart from each other, and what their members are.
    pub others: Vec<(Language, NodeId)>,
    pub min: usize,
    pub max: usize,
    /// Of the schema, for messages.
    pub place: String,
}

/// What values a set of parts allows: any of these.
#[derive(Debug, Default)]
pub struct Node {
    pub scalars: Vec<Scalars>,
    pub arrays: Vec<Arrays>,
    pub objects: Vec<Objects>,
    /// Whether there is any value.
    pub possible: bool,
}

/// The nodes of a schema; the first is the schema's own.
pub struct Graph<'a> {
    document: &'a Document<'a>,
    pub nodes: Vec<Node>,
    keys: Vec<Vec<Part>>,
    by_key: HashMap<Vec<Part>, NodeId>,
    /// Parts that no array and no object may fulfil together: two options of a `oneOf`. And where that is.
    apart: Vec<(Vec<Part>, String)>,
}

impl<'a> Graph<'a> {
    /// All that can be reached from a schema.
    ///
    /// # Errors
    /// A keyword that cannot be held to exactly.
    pub fn new(document: &'a Document<'a>, root: &'a Json) -> Result<Graph<'a>, Refusal> {
        let (nodes, keys, by_key, apart) = Default::default();
        let mut graph = Graph { document, nodes, keys, by_key, apart };
        graph.node(vec![Part::Schema(document.id(root))]);
        graph.grow(0, true)?;
        let apart = std::mem::take(&mut graph.apart);
        let first = graph.keys.len();
        let checks: Vec<_> = apart.into_iter().map(|(parts, place)| (graph.node(parts), place)).collect();
        graph.grow(first, false)?;
        graph.find_possible();
        for (node, place) in checks {
            let node = &graph.nodes[node];
            let array = node.arrays.iter().any(|a| graph.possible_array(a));
            if array || node.objects.iter().any(|o| graph.possible_object(o)) {
                let what = if array { "an array" } else { "an object" };
                let cause = format!("{what} can fulfil two options at once; use anyOf, or tell them apart by a const");
                return Err(Refusal::new(&place, cause));
            }
        }
        Ok(graph)
    }

    fn node(&mut self, mut parts: Vec<Part>) -> NodeId {
        parts.sort_unstable();
        parts.dedup();
        let next = self.keys.len();
        *self.by_key.entry(parts).or_insert_with_key(|parts| {
            self.keys.push(parts.clone());
            next
        })
    }

    fn grow(&mut self, first: NodeId, with_checks: bool) -> Result<(), Refusal> {
        let mut next = first;
        while next < self.keys.len() {
            if next >= MAX_NODES {
                return Err(Refusal::new("#", "it is too large"));
            }
            let mut node = Node::default();
            for branch in branches(self.document, &self.keys[next].clone())? {
                let scalars = scalars(self.document, &branch, false, &[])?;
                node.scalars.push(scalars);
                let (arrays, objects) = (self.arrays(&branch), self.objects(&branch)?);
                if with_checks && (arrays.is_some() || objects.is_some()) {
                    self.note_checks(&branch);
                }
                node.arrays.extend(arrays);
                node.objects.extend(objects);
            }
            debug_assert_eq!(self.nodes.len(), next);
            self.nodes.push(node);
            next += 1;
        }
        Ok(())
    }

    fn note_checks(&mut self, branch: &Branch) {
        for part in branch {
            let Part::Only(id, option) = *part else { continue };
            let options = self.document.json(id).get("oneOf").and_then(Json::items).unwrap_or(&[]);
            for other in &options[..option] {
                let mut parts: Vec<Part> = branch.iter().filter(|p| **p != *part).copied().collect();
                parts.push(Part::Schema(self.document.id(other)));
                self.apart.push((parts, format!("{}/oneOf", self.document.place(id))));
            }
        }
    }

    /// The schemas of a branch if they allow a type, and the values that it must equal; None if it does not.
    fn of_type(&self, branch: &Branch, name: &str) -> Option<(Vec<&'a Json>, Vec<&'a Json>)> {
        let (mut schemas, mut values) = (Vec::new(), Vec::new());
        for part in branch {
            match part {
                Part::Own(id) => schemas.push(self.document.json(*id)),
                Part::Value(id) => values.push(self.document.json(*id)),
                Part::Listed(_) => return None,
                Part::Only(..) | Part::Schema(_) => {}
            }
        }
        schemas.iter().all(|schema| allows(schema, name)).then_some((schemas, values))
    }

    fn arrays(&mut self, branch: &Branch) -> Option<Arrays> {
        let (schemas, values) = self.of_type(branch, "array")?;
        let (mut min, mut max, mut length) = (0, usize::MAX, 0);
        // The schemas of the first items, and of the others.
        let mut lists: Vec<(&[Json], Option<&Json>)> = Vec::new();
        for schema in schemas {
            let (first, rest) = match schema.get("items") {
                Some(Json::Array(first)) => (&first[..], schema.get("additionalItems")),
                rest => (schema.get("prefixItems").and_then(Json::items).unwrap_or(&[]), rest),
            };
            min = min.max(schema.get("minItems").and_then(Json::count).unwrap_or(0));
            max = max.min(schema.get("maxItems").and_then(Json::count).unwrap_or(usize::MAX));
            length = length.max(first.len());
            lists.push((first, rest));
        }
        for value in &values {
            let items = value.items()?;
            (min, max, length) = (min.max(items.len()), max.min(items.len()), length.max(items.len()));
        }
        if min > max {
            return None;
        }
        let at = |i: usize| {
            let of_lists = lists.iter().filter_map(|(first, rest)| first.get(i).or(*rest));
            let of_values = values.iter().filter_map(|value| value.items()?.get(i));
            let schemas = of_lists.map(|one| Part::Schema(self.document.id(one)));
            schemas.chain(of_values.map(|one| Part::Value(self.document.id(one)))).collect::<Vec<_>>()
        };
        let first: Vec<_> = (0..length.min(max)).map(at).collect();
        let rest = at(length);
        let first = first.into_iter().map(|parts| self.node(parts)).collect();
        Some(Arrays { first, rest: self.node(rest), min, max })
    }

    fn objects(&mut self, branch: &Branch) -> Result<Option<Objects>, Refusal> {
        let Some((schemas, values)) = self.of_type(branch, "object") else { return Ok(None) };
        if values.iter().any(|value| !matches!(value, Json::Object(_))) {
            return Ok(None);
        }
        let (mut min, mut max) = (0, usize::MAX);
        let mut names: Vec<&str> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut required = BTreeSet::new();
        let mut patterns: Vec<(&str, Language)> = Vec::new();
        let mut all_names: Vec<Language> = Vec::new();
        for value in &values {
            let members = value.members().iter().map(|(name, _)| name.as_str());
            required.extend(members.clone());
            names.extend(members.filter(|name| seen.insert(*name)));
        }
        for schema in &schemas {
            min = min.max(schema.get("minProperties").and_then(Json::count).unwrap_or(0));
            max = max.min(schema.get("maxProperties").and_then(Json::count).unwrap_or(usize::MAX));
            let properties = schema.get("properties").map_or(&[][..], Json::members);
            names.extend(properties.iter().map(|(name, _)| name.as_str()).filter(|name| seen.insert(*name)));
            required.extend(schema.get("required").and_then(Json::items).unwrap_or(&[]).iter().filter_map(Json::text));
            for (pattern, inside) in schema.get("patternProperties").map_or(&[][..], Json::members) {
                if !patterns.iter().any(|(known, _)| known == pattern) {
                    let place = self.document.place(self.document.id(inside));
                    let set = super::pattern::language(pattern).map_err(|cause| Refusal::new(place, cause))?;
                    patterns.push((pattern, set));
                }
            }
            if let Some(inside) = schema.get("propertyNames") {
                let mut sets = Vec::new();
                for branch in branches(self.document, &[Part::Schema(self.document.id(inside))])? {
                    sets.extend(scalars(self.document, &branch, false, &[])?.strings);
                }
                all_names.push(Language::Or(sets));
            }
        }
        names.extend(required.iter().filter(|name| !seen.contains(*name)));
        let place = schemas.first().map_or("#", |schema| self.document.place(self.document.id(schema))).to_owned();
        let unsure = || Refusal::new(&place, "it takes too long to find out which names its patterns take");
        let (mut named, mut keys) = (Vec::new(), Vec::new());
        for name in &names {
            let holds = |set: &Language| strings::contains(set, name).ok_or_else(unsure);
            let taking = patterns.iter().map(|(_, set)| holds(set)).collect::<Result<Vec<_>, _>>()?;
            let good = all_names.iter().map(holds).collect::<Result<Vec<_>, _>>()?.into_iter().all(|good| good);
            let good = good && values.iter().all(|value| value.get(name).is_some());
            if good {
                let takes = |pattern: &str| patterns.iter().zip(&taking).any(|((p, _), takes)| *takes && *p == pattern);
                let mut parts = self.member(&schemas, Some(name), &takes);
                parts.extend(
                    values.iter().filter_map(|value| value.get(name)).map(|v| Part::Value(self.document.id(v))),
                );
                keys.push((name.to_string(), parts, required.contains(name)));
            } else if required.contains(name) {
                return Ok(None);
            }
        }
        for (name, parts, required) in keys {
            named.push((name, self.node(parts), required));
        }
        let mut others = Vec::new();
        if values.is_empty() {
            if patterns.len() > MAX_PATTERNS {
                let cause = format!("it has more than {MAX_PATTERNS} patternProperties");
                return Err(Refusal::new(&place, cause));
            }
            let taken = Language::Or(names.iter().map(|name| strings::literal(name)).collect());
            for kind in 0..1usize << patterns.len() {
                let mut sets = all_names.clone();
                for (i, (_, set)) in patterns.iter().enumerate() {
                    sets.push(if kind >> i & 1 == 1 { set.clone() } else { strings::not(set.clone()) });
                }
                let easy = sets.is_empty();
                if !names.is_empty() {
                    sets.push(strings::not(taken.clone()));
                }
                let set = strings::all_of(sets);
                if easy || !strings::is_empty(&set).ok_or_else(unsure)? {
                    let takes = |pattern: &str| {
                        patterns.iter().enumerate().any(|(i, (p, _))| kind >> i & 1 == 1 && *p == pattern)
                    };
                    let parts = self.member(&schemas, None, &takes);
                    others.push((set, self.node(parts)));
                }
            }
        }
        Ok(Some(Objects { named, others, min, max, place }))
    }

    /// What a member must be, by its name and the patterns that take it.
    fn member(&self, schemas: &[&'a Json], name: Option<&str>, takes: &dyn Fn(&str) -> bool) -> Vec<Part> {
        let mut parts = Vec::new();
        for schema in schemas {
            let before = parts.len();
            parts.extend(name.and_then(|name| schema.get("properties")?.get(name)));
            let patterns = schema.get("patternProperties").map_or(&[][..], Json::members);
            parts.extend(patterns.iter().filter(|(pattern, _)| takes(pattern)).map(|(_, inside)| inside));
            if parts.len() == before {
                parts.extend(schema.get("additionalProperties"));
            }
        }
        parts.into_iter().map(|inside| Part::Schema(self.document.id(inside))).collect()
    }

    /// Finds the nodes that have any value: those whose values need no node without one.
    fn find_possible(&mut self) {
        loop {
            let found: Vec<NodeId> = (0..self.nodes.len())
                .filter(|i| !self.nodes[*i].possible)
                .filter(|i| {
                    let node = &self.nodes[*i];
                    let scalar = |s: &Scalars| s.null || s.no || s.yes || s.numbers.is_some() || s.strings.is_some();
                    node.scalars.iter().any(scalar)
                        || node.arrays.iter().any(|arrays| self.possible_array(arrays))
                        || node.objects.iter().any(|objects| self.possible_object(objects))
                })
                .collect();
            if found.is_empty() {
                return;
            }
            found.into_iter().for_each(|i| self.nodes[i].possible = true);
        }
    }

    pub fn possible_array(&self, arrays: &Arrays) -> bool {
        let first = arrays.first.iter().take(arrays.min).all(|node| self.nodes[*node].possible);
        first && (arrays.min <= arrays.first.len() || self.nodes[arrays.rest].possible)
    }

    pub fn possible_object(&self, objects: &Objects) -> bool {
        let possible = |node: &NodeId| self.nodes[*node].possible;
        let required = objects.named.iter().filter(|(.., required)| *required);
        let named = objects.named.iter().filter(|(_, node, _)| possible(node)).count();
        let any_other = objects.others.iter().any(|(_, node)| possible(node));
        required.clone().all(|(_, node, _)| possible(node))
            && required.count() <= objects.max
            && objects.min <= objects.max
            && (any_other || named >= objects.min)
    }
}
