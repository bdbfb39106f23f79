//! The steps of a tokenizer.json that a compiled vocabulary has: how text is normalized, split, and put together again.

use nanoserve_tokenizer::vocab::{Family, MAX_PATTERN, Prefix, check_exact};
use serde_json::Value;

/// The expression of GPT-2's pre-tokenizer, for a tokenizer.json that only names it.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What the steps come to.
#[derive(Debug, PartialEq)]
pub(crate) struct Form {
    /// How text becomes pieces.
    pub family: Family,
    /// Text is composed (NFC) first.
    pub nfc: bool,
    /// How `▁` is put in front of a text.
    pub prefix: Prefix,
    /// Decoding keeps a space at the very beginning.
    pub keep_space: bool,
    /// A text is split in front of each `▁`.
    pub split_spaces: bool,
    /// A space is put in front of a text that does not begin with one.
    pub space_in_front: bool,
    /// The expressions that split a text, one after the other.
    pub patterns: Vec<String>,
}

/// The steps of a tokenizer.json, by kind.
struct Steps {
    normalizers: Vec<Value>,
    pre_tokenizers: Vec<Value>,
    decoders: Vec<Value>,
}

/// The form of a tokenizer.json; None if it has a step of another kind.
pub(crate) fn form(json: &Value) -> Option<Form> {
    let steps = |part: &str, key: &str| {
        let part = json.get(part).unwrap_or(&Value::Null);
        match kind(part) {
            "Sequence" => part.get(key).and_then(Value::as_array).cloned(),
            "" => part.is_null().then(Vec::new),
            _ => Some(vec![part.clone()]),
        }
    };
    let steps = Steps {
        normalizers: steps("normalizer", "normalizers")?,
        pre_tokenizers: steps("pre_tokenizer", "pretokenizers")?,
        decoders: steps("decoder", "decoders")?,
    };
    // ByteLevel alone, not in a list: the runtime's streams know no other decoder with it.
    if kind(&json["decoder"]) == "ByteLevel" {
        bytes(&steps)
    } else {
        text(&steps, flag(&json["model"], "byte_fallback"))
    }
}

/// The text family: spaces become `▁`, and characters without a piece become bytes.
fn text(steps: &Steps, byte_fallback: bool) -> Option<Form> {
    let Steps { normalizers, pre_tokenizers, decoders } = steps;
    let strips = |step: &Value| step["content"] == " " && step["start"] == 1 && step["stop"] == 0;
    let keep_space = match kinds(decoders).as_slice() {
        ["Replace", "ByteFallback", "Fuse"] => true,
        ["Replace", "ByteFallback", "Fuse", "Strip"] if strips(&decoders[3]) => false,
        _ => return None,
    };
    if !byte_fallback || !replaces(&decoders[0], "▁", " ") {
        return None;
    }
    let (prefix, split_spaces) = match (kinds(normalizers).as_slice(), kinds(pre_tokenizers).as_slice()) {
        (["Prepend", "Replace"], []) if normalizers[0]["prepend"] == "▁" && replaces(&normalizers[1], " ", "▁") => {
            (Prefix::Always, false)
        }
        (["Replace"], []) if replaces(&normalizers[0], " ", "▁") => (Prefix::Never, false),
        // There are no spaces to split at, once they were replaced.
        (["Replace"], ["Split"])
            if replaces(&normalizers[0], " ", "▁")
                && pre_tokenizers[0]["pattern"]["String"] == " "
                && pre_tokenizers[0]["invert"] == false =>
        {
            (Prefix::Never, false)
        }
        ([], ["Metaspace"]) if pre_tokenizers[0]["replacement"] == "▁" => {
            let step = &pre_tokenizers[0];
            let prefix = match step["prepend_scheme"].as_str()? {
                "always" => Prefix::Missing,
                "first" => Prefix::First,
                "never" => Prefix::Never,
                _ => return None,
            };
            (prefix, step["split"].as_bool()?)
        }
        _ => return None,
    };
    let (family, patterns) = (Family::Text, Vec::new());
    Some(Form { family, nfc: false, prefix, keep_space, split_spaces, space_in_front: false, patterns })
}

/// The byte-level family: expressions split a text, each on what the one before it left, then come bytes.
fn bytes(steps: &Steps) -> Option<Form> {
    let nfc = match kinds(&steps.normalizers).as_slice() {
        [] => false,
        ["NFC"] => true,
        _ => return None,
    };
    let (last, before) = steps.pre_tokenizers.split_last()?;
    let mut patterns = before.iter().map(expression).collect::<Option<Vec<String>>>()?;
    if kind(last) != "ByteLevel" {
        return None;
    }
    if last.get("use_regex").and_then(Value::as_bool).unwrap_or(true) {
        patterns.push(GPT2.to_string());
    }
    let space_in_front = last["add_prefix_space"].as_bool()?;
    let fine = patterns.iter().all(|p| !p.is_empty() && !p.contains('\0') && check_exact(p).is_ok());
    let room = patterns.len() <= 16 && patterns.iter().map(|p| p.len() + 1).sum::<usize>() <= MAX_PATTERN;
    if !fine || !room || (space_in_front && !before.is_empty()) {
        return None;
    }
    let (family, prefix) = (Family::ByteLevel, Prefix::Always);
    Some(Form { family, nfc, prefix, keep_space: false, split_spaces: false, space_in_front, patterns })
}

/// The expression of a step that splits; None if it does more.
fn expression(step: &Value) -> Option<String> {
    match kind(step) {
        "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
            let literal = |text: &str| {
                let escaped = |c: char| if c.is_ascii_punctuation() { format!("\\{c}") } else { c.to_string() };
                text.chars().map(escaped).collect()
            };
            let pattern = &step["pattern"];
            pattern["Regex"].as_str().map(str::to_string).or_else(|| pattern["String"].as_str().map(literal))
        }
        "Digits" if flag(step, "individual_digits") => Some(r"\p{N}".into()),
        "Digits" => Some(r"\p{N}+".into()),
        _ => None,
    }
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn kinds(steps: &[Value]) -> Vec<&str> {
    steps.iter().map(kind).collect()
}

fn replaces(step: &Value, from: &str, to: &str) -> bool {
    step["pattern"].get("String").and_then(Value::as_str) == Some(from) && step["content"] == to
}

/// A field that is true or false; false where it is absent.
pub(crate) fn flag(object: &Value, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or(false)
}
