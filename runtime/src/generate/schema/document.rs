//! A schema's text: that its keywords are known and well formed, where each part stands, and what `$ref` means.

use super::Refusal;
use super::json::Json;
use std::collections::HashMap;

/// Keywords that are enforced and contain no schema.
const KEYWORDS: [&str; 19] = [
    "$ref",
    "const",
    "enum",
    "type",
    "minItems",
    "maxItems",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "propertyNames",
];
/// Enforced keywords that contain a schema, or a list of schemas.
const WITH_SCHEMAS: [&str; 7] =
    ["anyOf", "oneOf", "allOf", "items", "additionalItems", "prefixItems", "additionalProperties"];
/// Enforced keywords that contain schemas by name.
const WITH_NAMED_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords that constrain nothing.
const ANNOTATIONS: [&str; 14] = [
    "$anchor",
    "$schema",
    "$id",
    "id",
    "$comment",
    "title",
    "description",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "examples",
    "contentMediaType",
    "contentEncoding",
];
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// The keywords that are enforced, for messages.
pub fn supported() -> String {
    [&KEYWORDS[..], &WITH_SCHEMAS, &WITH_NAMED_SCHEMAS].concat().join(", ")
}

/// A part of the text: a schema or a value in it.
pub type Id = usize;

/// A schema's text with its parts numbered.
pub struct Document<'a> {
    parts: Vec<(&'a Json, String)>,
    ids: HashMap<*const Json, Id>,
    /// The schema that a `$ref` of a schema means.
    targets: HashMap<Id, Id>,
    /// Whole addresses: of `$id`, and of `$anchor` with its `#`.
    addresses: HashMap<String, &'a Json>,
    root: &'a Json,
    /// Keywords that are not supported, each with its place.
    pub unknown: Vec<String>,
}

impl<'a> Document<'a> {
    /// Reads a schema.
    ///
    /// # Errors
    /// A keyword with a value that it cannot have, or a `$ref` to nothing.
    pub fn new(root: &'a Json) -> Result<Document<'a>, Refusal> {
        let (parts, ids, targets, addresses) = Default::default();
        let mut document = Document { parts, ids, targets, addresses, root, unknown: Vec::new() };
        let mut refs = Vec::new();
        document.schema(root, "#".into(), "", &mut refs)?;
        // What a reference means may have references of its own.
        while let Some((from, base)) = refs.pop() {
            let target = document.find(from, &base)?;
            let (target, place) = (target.0, target.1);
            if !document.ids.contains_key(&(target as *const Json)) {
                document.schema(target, place, &base, &mut refs)?;
            }
            document.targets.insert(from, document.ids[&(target as *const Json)]);
        }
        Ok(document)
    }

    pub fn id(&self, json: &'a Json) -> Id {
        self.ids[&(json as *const Json)]
    }

    pub fn json(&self, id: Id) -> &'a Json {
        self.parts[id].0
    }

    /// A JSON pointer behind `#`.
    pub fn place(&self, id: Id) -> &str {
        &self.parts[id].1
    }

    /// The schema that the `$ref` of a schema means.
    pub fn target(&self, id: Id) -> Option<Id> {
        self.targets.get(&id).copied()
    }

    fn number(&mut self, json: &'a Json, place: String) -> Id {
        let next = self.parts.len();
        self.parts.push((json, place));
        *self.ids.entry(json as *const Json).or_insert(next)
    }

    /// Numbers a value and the values in it.
    fn value(&mut self, json: &'a Json, place: String) {
        for (i, item) in json.items().unwrap_or(&[]).iter().enumerate() {
            self.value(item, format!("{place}/{i}"));
        }
        for (name, member) in json.members() {
            self.value(member, pointer(&place, name));
        }
        self.number(json, place);
    }

    fn schema(
        &mut self,
        schema: &'a Json,
        place: String,
        base: &str,
        refs: &mut Vec<(Id, String)>,
    ) -> Result<(), Refusal> {
        let id = self.number(schema, place.clone());
        let members = match schema {
            Json::Bool(_) => return Ok(()),
            Json::Object(members) => members,
            _ => return Err(Refusal::new(&place, "a schema is an object, true or false")),
        };
        let named = schema.get("$id").or(schema.get("id")).and_then(Json::text);
        let base = match named {
            Some(name) if name.starts_with('#') => {
                self.addresses.insert(format!("{base}{name}"), schema);
                base.to_owned()
            }
            Some(name) => {
                let own = joined(base, name.trim_end_matches('#'));
                self.addresses.insert(own.clone(), schema);
                own
            }
            None => base.to_owned(),
        };
        if let Some(name) = schema.get("$anchor").and_then(Json::text) {
            self.addresses.insert(format!("{base}#{name}"), schema);
        }
        for (key, value) in members {
            let at = pointer(&place, key);
            match key.as_str() {
                "propertyNames" => self.schema(value, at, &base, refs)?,
                // As a list, the schemas of the first items, in older drafts.
                "anyOf" | "oneOf" | "allOf" | "prefixItems" | "items" if value.items().is_some() => {
                    if matches!(value.items(), Some([])) && key != "items" && key != "prefixItems" {
                        return Err(Refusal::new(&at, "the list is empty"));
                    }
                    if key == "items" && schema.get("prefixItems").is_some() {
                        return Err(Refusal::new(&at, "a list beside prefixItems is of another draft"));
                    }
                    for (i, one) in value.items().unwrap_or(&[]).iter().enumerate() {
                        self.schema(one, format!("{at}/{i}"), &base, refs)?;
                    }
                }
                "anyOf" | "oneOf" | "allOf" | "prefixItems" => {
                    return Err(Refusal::new(&at, "it must be a list of schemas"));
                }
                k if WITH_SCHEMAS.contains(&k) => self.schema(value, at, &base, refs)?,
                k if WITH_NAMED_SCHEMAS.contains(&k) => {
                    let Json::Object(named) = value else {
                        return Err(Refusal::new(&at, "it must be an object of schemas"));
                    };
                    for (name, value) in named {
                        self.schema(value, pointer(&at, name), &base, refs)?;
                    }
                }
                "$ref" => {
                    value.text().ok_or_else(|| Refusal::new(&at, "it must be a string"))?;
                    refs.push((id, base.clone()));
                }
                "const" => self.value(value, at),
                "uniqueItems" if *value == Json::Bool(false) => {}
                k if KEYWORDS.contains(&k) => {
                    form(k, value).map_err(|cause| Refusal::new(&at, cause))?;
                    if k == "enum" {
                        self.value(value, at);
                    }
                }
                k if ANNOTATIONS.contains(&k) || k.starts_with("x-") => {}
                k => self.unknown.push(format!("{k:?} at {at}")),
            }
        }
        Ok(())
    }

    /// What a `$ref` means, and where that stands.
    fn find(&self, from: Id, base: &str) -> Result<(&'a Json, String), Refusal> {
        let (schema, place) = &self.parts[from];
        let text = schema.get("$ref").and_then(Json::text).unwrap_or_default();
        let none = || Refusal::new(&format!("{place}/$ref"), format!("there is nothing at {text:?} in this schema"));
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let address = if address.is_empty() { base.to_owned() } else { joined(base, address) };
        let (start, start_place) = match self.addresses.get(&address) {
            Some(start) => (*start, self.place(self.id(start)).to_owned()),
            None if address == base || address.is_empty() => (self.root, "#".to_owned()),
            None => return Err(none()),
        };
        if !fragment.is_empty() && !fragment.starts_with('/') {
            let found = self.addresses.get(&format!("{address}#{fragment}")).copied().ok_or_else(none)?;
            return Ok((found, self.place(self.id(found)).to_owned()));
        }
        let mut here = start;
        let mut at = start_place;
        for step in unescaped(fragment).ok_or_else(none)?.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            here = match here {
                Json::Array(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
                other => other.get(&step),
            }
            .ok_or_else(none)?;
            at = pointer(&at, &step);
        }
        Ok((here, at))
    }
}

/// A place one step further in.
fn pointer(place: &str, name: &str) -> String {
    format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// An address as it is meant in another one.
fn joined(base: &str, address: &str) -> String {
    if address.contains(':') || base.is_empty() {
        return address.to_owned();
    }
    let folder = base.rfind('/').map_or("", |i| &base[..=i]);
    format!("{folder}{address}")
}

/// A fragment without its `%XX`.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let code = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What is wrong with a keyword's value.
fn form(keyword: &str, value: &Json) -> Result<(), &'static str> {
    let strings = |value: &Json| value.items().is_some_and(|all| all.iter().all(|one| one.text().is_some()));
    let good = match keyword {
        "minimum" | "maximum" | "multipleOf" => return number(value),
        // Draft 4 has them as booleans beside minimum and maximum.
        "exclusiveMinimum" | "exclusiveMaximum" if !matches!(value, Json::Bool(_)) => return number(value),
        "exclusiveMinimum" | "exclusiveMaximum" => true,
        "type" => {
            let known = |one: &Json| one.text().is_some_and(|one| TYPES.contains(&one));
            if !(known(value) || value.items().is_some_and(|all| !all.is_empty() && all.iter().all(known))) {
                return Err("types are null, boolean, integer, number, string, array and object");
            }
            true
        }
        "required" => strings(value),
        "enum" => value.items().is_some_and(|all| !all.is_empty()),
        "pattern" | "format" => value.text().is_some(),
        _ => {
            return value
                .count()
                .filter(|n| *n <= u32::MAX as usize / 2)
                .map(|_| ())
                .ok_or("it must be a whole number");
        }
    };
    if good { Ok(()) } else { Err("its value is of the wrong type") }
}

fn number(value: &Json) -> Result<(), &'static str> {
    matches!(value, Json::Number(_)).then_some(()).ok_or("it must be a number")
}
