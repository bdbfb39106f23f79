//! Reads chat templates, and the special tokens that they know by name.

use crate::error::{Problems, What};
use crate::hf::checkpoint::Folder;
use crate::hf::folder::is_plain;
use crate::hf::json::{self, Fields};
use crate::hf::tokens::SPECIAL_TOKENS;
use crate::report::Warning;
use crate::sidecars::Templates;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub(crate) const FILE: &str = "chat_template.jinja";
const MORE: &str = "additional_chat_templates";
const ENDING: &str = ".jinja";
const FIELD: &str = "chat_template";
const DEFAULT: &str = "default";
/// Tokens that only some models name.
const EXTRA: &str = "extra_special_tokens";

/// Reads the files if there are any, else the field of tokenizer_config.json: a text, or a list of named ones.
pub(crate) fn read(folder: &Folder, tokens: Fields, problems: &Problems, warnings: &mut Vec<Warning>) -> Templates {
    let mut named = files(folder, problems);
    if named.is_empty() {
        named = match tokens.get(FIELD) {
            Some(Value::Array(all)) => {
                let pair =
                    |v: &Value| Some((v.get("name")?.as_str()?.to_string(), v.get("template")?.as_str()?.to_string()));
                all.iter().map(pair).collect::<Option<_>>().unwrap_or_else(|| {
                    tokens.wrong(FIELD, "a list of something else", "a text, or a list of {name, template}");
                    BTreeMap::new()
                })
            }
            _ => tokens.text(FIELD).map(|text| (DEFAULT.to_string(), text.to_string())).into_iter().collect(),
        };
    }
    let default = named.remove(DEFAULT);
    if default.is_none() && !named.is_empty() {
        warnings.push(Warning::NoDefaultTemplate { names: named.keys().cloned().collect() });
    }
    Templates { default, named }
}

/// Whether a path of a checkpoint is a further template.
pub(crate) fn is_further(path: &str) -> bool {
    let name = path.strip_prefix(MORE).and_then(|name| name.strip_prefix('/'));
    name.is_some_and(|name| name.ends_with(ENDING) && is_plain(name))
}

/// chat_template.jinja, and every file of the folder for additional templates, by name.
fn files(folder: &Folder, problems: &Problems) -> BTreeMap<String, String> {
    let more = folder
        .names_in(MORE, problems)
        .into_iter()
        .filter_map(|name| Some((name.strip_suffix(ENDING)?.to_string(), format!("{MORE}/{name}"))));
    // A file named default in that folder comes last, and wins.
    let all = [(DEFAULT.to_string(), FILE.to_string())].into_iter().chain(more);
    let read = all.filter_map(|(name, path)| {
        let bytes = folder.read(&path, problems)?;
        match String::from_utf8(bytes) {
            Ok(text) => Some((name, text)),
            Err(e) => {
                let (field, got) = ("the template".to_string(), format!("no UTF-8 ({})", e.utf8_error()));
                problems.file(path, What::Field { field, got, expected: "text".into() });
                None
            }
        }
    });
    read.collect()
}

/// The texts of the tokens that templates know by name. If tokenizer_config.json is older than `added_tokens_decoder`,
/// special_tokens_map.json overrides it.
pub(crate) fn special_tokens(folder: &Folder, tokens: Fields, problems: &Problems) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    add(&mut all, tokens.entries());
    if tokens.get("added_tokens_decoder").is_none()
        && let Some(map) =
            folder.read(SPECIAL_TOKENS, problems).and_then(|bytes| json::object(SPECIAL_TOKENS, &bytes, problems))
    {
        add(&mut all, &map);
    }
    all
}

/// Adds the tokens that a file has, and removes those that are null in it.
fn add(all: &mut BTreeMap<String, String>, fields: &Map<String, Value>) {
    let extra = fields.get(EXTRA).and_then(Value::as_object).into_iter().flatten();
    for (name, token) in fields.iter().filter(|(name, _)| name.ends_with("_token")).chain(extra) {
        match text(token) {
            Some(text) => _ = all.insert(name.clone(), text),
            None if token.is_null() => _ = all.remove(name),
            None => {}
        }
    }
}

/// The text of a token, which is written as a text or as an object with its text.
fn text(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_string)
}
