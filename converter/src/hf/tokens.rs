//! Tokens that stand beside tokenizer.json: a fine-tune often leaves that file as it was and lists its new tokens in
//! another. They become added tokens as in transformers 5:
//!
//! ```text
//! listed     tokenizer_config.json: added_tokens_decoder. Where it has none, added_tokens.json, and
//!            special_tokens_map.json, whose fields replace those of tokenizer_config.json
//! named      bos_token, eos_token, ..., then all other names that end in _token, then names in extra_special_tokens
//! extra      the list extra_special_tokens, or where there is none, additional_special_tokens
//! ```
//!
//! A token that the tokenizer has keeps its id, and one that it lacks gets the next, whatever the file says: these are
//! the rows that the model was trained with. The result is a tokenizer.json with all of them among its added tokens.
//!
//! The trap: a listed token replaces one of tokenizer.json that has other switches; a named or extra one does not.

use crate::error::{Problems, What};
use crate::hf::checkpoint::Folder;
use crate::hf::json::{self, Entries, Fields};
use crate::hf::sidecars::{TOKENIZER, TOKENIZER_CONFIG};
use crate::vocab;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use tokenizers::{AddedToken, Tokenizer};

pub(crate) const ADDED_TOKENS: &str = "added_tokens.json";
pub(crate) const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const LISTED: &str = "added_tokens_decoder";
const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";

/// The names that every tokenizer may have, in the order in which their tokens get ids.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The tokens that other files list.
#[derive(Default)]
struct Beside {
    /// By the id that the file gives them; the order counts, the id does not.
    listed: BTreeMap<u64, AddedToken>,
    named: Vec<(String, AddedToken)>,
    extra: Vec<AddedToken>,
}

/// Adds the tokens of other files to a tokenizer, and returns its tokenizer.json with them. Without such tokens the
/// file stays as it is, byte for byte.
pub(crate) fn add(
    folder: &Folder,
    config: Option<&[u8]>,
    bytes: Vec<u8>,
    mut loaded: Tokenizer,
    problems: &Problems,
) -> Option<(Vec<u8>, Tokenizer)> {
    let file = added_of(&bytes);
    let beside = read(folder, config, &file, problems);
    let tokens = beside.missing_in(&loaded);
    let moved = file.iter().any(|(id, token)| loaded.token_to_id(&token.content) != u32::try_from(*id).ok());
    if tokens.is_empty() && !moved {
        return Some((bytes, loaded));
    }
    let failed = |cause: String| problems.file(TOKENIZER, What::Tokenizer { cause });
    loaded.add_tokens(tokens).map_err(|e| failed(e.to_string())).ok()?;
    let bytes = with_added(&bytes, &loaded);
    let again = vocab::load(&bytes).map_err(failed).ok()?;
    let ids = |tokenizer: &Tokenizer| -> BTreeMap<u32, String> {
        tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content)).collect()
    };
    if ids(&again) != ids(&loaded) {
        failed("the ids of its added tokens depend on the order in which they are read".into());
        return None;
    }
    Some((bytes, again))
}

/// The added tokens of a tokenizer.json, with the ids that it gives them.
fn added_of(bytes: &[u8]) -> Vec<(u64, AddedToken)> {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Map<String, Value>>,
    }
    let added = serde_json::from_slice::<File>(bytes).map(|file| file.added_tokens).unwrap_or_default();
    added.iter().filter_map(|token| Some((token.get("id")?.as_u64()?, object(token)?))).collect()
}

/// A tokenizer.json whose added tokens are those of `loaded`, and which is otherwise the same. A token that was special
/// once stays so, as in the library, whatever a later file says.
fn with_added(bytes: &[u8], loaded: &Tokenizer) -> Vec<u8> {
    let special = |content: &str| loaded.get_added_vocabulary().is_special_token(content);
    let added: BTreeMap<u32, AddedToken> = loaded.get_added_tokens_decoder().into_iter().collect();
    let entry = |(id, token): (u32, AddedToken)| {
        json!({"id": id, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
            "rstrip": token.rstrip, "normalized": token.normalized, "special": special(&token.content)})
    };
    let added = Value::Array(added.into_iter().map(entry).collect()).to_string();
    let Entries(fields) =
        serde_json::from_slice::<Entries<Box<RawValue>>>(bytes).expect("it was read as an object before");
    let kept = fields.iter().filter(|(key, _)| key != "added_tokens").map(|(key, value)| (key.as_str(), value.get()));
    let all = kept.chain([("added_tokens", added.as_str())]).map(|(key, value)| format!("{}:{value}", json!(key)));
    format!("{{{}}}", all.collect::<Vec<_>>().join(",")).into_bytes()
}

/// Reads the files beside a tokenizer.json whose added tokens are `file`.
fn read(folder: &Folder, config: Option<&[u8]>, file: &[(u64, AddedToken)], problems: &Problems) -> Beside {
    let fields = |bytes: &[u8]| serde_json::from_slice::<Entries<Value>>(bytes).map_or(Vec::new(), |all| all.0);
    let mut all = Named::default();
    let config_fields = config.map_or(Vec::new(), fields);
    config_fields.into_iter().for_each(|(key, value)| all.set(&key, value));
    all.rename_additional();
    let mut beside = Beside::default();
    // Named tokens take the switches of a listed one with the same text.
    let mut switches: BTreeMap<String, AddedToken> = BTreeMap::new();
    match all.listed.take() {
        Some(listed) => {
            let map = Map::from_iter([(LISTED.to_string(), listed)]);
            let listed = Fields::new(TOKENIZER_CONFIG, &map, problems);
            for (id, token) in listed.object(LISTED).iter().flat_map(|fields| fields.entries()) {
                match id.parse().ok().zip(token.as_object().and_then(object)) {
                    Some((id, token)) => _ = beside.listed.insert(id, token),
                    None => listed.wrong(&format!("{LISTED}.{id}"), token, "a token with its content, under its id"),
                }
            }
            switches.extend(beside.listed.values().map(|token| (token.content.clone(), token.clone())));
        }
        None => {
            let map = folder.read(SPECIAL_TOKENS, problems);
            all.override_with(map.as_deref().map_or(Vec::new(), fields));
            let special = all.texts();
            let words = folder.read(ADDED_TOKENS, problems).and_then(|b| json::object(ADDED_TOKENS, &b, problems));
            let words = words.unwrap_or_default();
            let fields = Fields::new(ADDED_TOKENS, &words, problems);
            for content in words.keys() {
                let Some(id) = fields.size(content) else { continue };
                let token = AddedToken::from(content.clone(), special.contains(content));
                beside.listed.insert(id as u64, token.clone());
                switches.insert(content.clone(), token);
            }
            // Of two tokens with one id that of tokenizer.json stays.
            for (id, token) in file {
                beside.listed.insert(*id, token.clone());
                switches.insert(token.content.clone(), token.clone());
            }
        }
    }
    let Named { mut named, extra, additional, .. } = all;
    let rank = |name: &str| NAMES.iter().position(|n| *n == name);
    // Of other names, those whose token is written as an object come first.
    named.sort_by_key(|(name, value)| (rank(name).unwrap_or(NAMES.len()), rank(name).is_none() && !value.is_object()));
    let names = match &extra {
        Some(Extra::Names(names)) => names.as_slice(),
        _ => &[],
    };
    for (name, value) in named.iter().chain(names) {
        let Some(token) = token(value) else { continue };
        let known = switches.get(&token.content).filter(|_| rank(name).is_some());
        let token = known.cloned().unwrap_or(token);
        beside.named.retain(|(other, _)| other != name);
        beside.named.push((name.clone(), token));
    }
    let list = match extra {
        Some(Extra::List(list)) => list,
        Some(Extra::Names(_)) => Vec::new(),
        None => additional.unwrap_or_default(),
    };
    beside.extra = list.iter().filter_map(token).collect();
    beside
}

/// The fields about tokens, as they are written.
#[derive(Default)]
struct Named {
    listed: Option<Value>,
    /// In the order of the file.
    named: Vec<(String, Value)>,
    extra: Option<Extra>,
    additional: Option<Vec<Value>>,
    /// Texts of tokens that special_tokens_map.json writes as objects.
    objects: HashSet<String>,
}

enum Extra {
    List(Vec<Value>),
    Names(Vec<(String, Value)>),
}

impl Named {
    fn set(&mut self, key: &str, value: Value) {
        match (key, value) {
            (LISTED, value) if !value.is_null() => self.listed = Some(value),
            (EXTRA, Value::Array(list)) => self.extra = Some(Extra::List(list)),
            (EXTRA, Value::Object(names)) => self.extra = Some(Extra::Names(names.into_iter().collect())),
            (ADDITIONAL, Value::Array(list)) => self.additional = Some(list),
            (key, value) if key.ends_with("_token") => match self.named.iter_mut().find(|(name, _)| name == key) {
                Some((_, old)) => *old = value,
                None => self.named.push((key.to_string(), value)),
            },
            _ => {}
        }
    }

    /// The list has two names, of which the newer counts.
    fn rename_additional(&mut self) {
        let empty = match &self.extra {
            None => true,
            Some(Extra::List(list)) => list.is_empty(),
            Some(Extra::Names(names)) => names.is_empty(),
        };
        if empty && let Some(list) = self.additional.take() {
            self.extra = Some(Extra::List(list));
        }
    }

    /// The fields of special_tokens_map.json replace those that are there; only its list is added to another. Every token
    /// in that file is special.
    fn override_with(&mut self, fields: Vec<(String, Value)>) {
        let special = |mut value: Value| {
            if let Some(token) = value.as_object_mut() {
                token.insert("special".into(), true.into());
            }
            value
        };
        for (key, value) in fields {
            match (key.as_str(), value, &mut self.extra) {
                (LISTED, ..) => {}
                (EXTRA, Value::Array(more), Some(Extra::List(list))) => list.extend(more.into_iter().map(special)),
                (_, Value::Array(list), _) => self.set(&key, list.into_iter().map(special).collect()),
                (EXTRA, names, _) => self.set(&key, names),
                (_, value, _) => {
                    let value = special(value);
                    self.objects.extend(value.as_object().and_then(object).map(|token| token.content));
                    self.set(&key, value);
                }
            }
        }
    }

    /// The texts of tokens that are special by their name.
    fn texts(&self) -> HashSet<String> {
        let standard = self.named.iter().filter(|(name, _)| NAMES.contains(&name.as_str()));
        let list = match &self.extra {
            Some(Extra::List(list)) => list.as_slice(),
            _ => &[],
        };
        let texts = standard.map(|(_, value)| value).chain(list).filter_map(|value| match value {
            Value::Object(token) => object(token).map(|t| t.content).filter(|text| self.objects.contains(text)),
            text => text.as_str().map(str::to_string),
        });
        texts.collect()
    }
}

impl Beside {
    /// The tokens to add, in the order of their ids.
    fn missing_in(self, loaded: &Tokenizer) -> Vec<AddedToken> {
        let have: Vec<AddedToken> = loaded.get_added_tokens_decoder().into_values().collect();
        let mut texts: HashSet<String> = have.iter().map(|token| token.content.clone()).collect();
        let mut tokens: Vec<AddedToken> = self.listed.into_values().filter(|token| !have.contains(token)).collect();
        texts.extend(tokens.iter().map(|token| token.content.clone()));
        let special: HashSet<String> = self.named.iter().map(|(_, token)| token.content.clone()).collect();
        let others = self.named.into_iter().map(|(_, token)| token).chain(self.extra);
        tokens.extend(others.filter(|token| texts.insert(token.content.clone())));
        for token in &mut tokens {
            token.special |= special.contains(&token.content);
        }
        tokens.retain(|token| !token.content.is_empty());
        tokens
    }
}

/// A token that is written as its text, which makes it special, or as an object.
fn token(value: &Value) -> Option<AddedToken> {
    match value {
        Value::Object(map) => object(map),
        text => text.as_str().map(|text| AddedToken::from(text, true)),
    }
}

/// A token from its fields. What is not said is false; only a token that is not special is searched for in normalized
/// text.
fn object(fields: &Map<String, Value>) -> Option<AddedToken> {
    let content = fields.get("content")?.as_str()?;
    let flag = |key: &str| fields.get(key).and_then(Value::as_bool);
    let token = AddedToken::from(content, flag("special").unwrap_or(false));
    let normalized = flag("normalized").unwrap_or(token.normalized);
    let switch = |key: &str| flag(key).unwrap_or(false);
    Some(
        token
            .normalized(normalized)
            .lstrip(switch("lstrip"))
            .rstrip(switch("rstrip"))
            .single_word(switch("single_word")),
    )
}
