//! Checks the steps of a tokenizer.json: they may come from anywhere, and the library that runs them expects good ones.

use super::{VocabularyError, check_expression};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The factor by which all steps of a kind together may lengthen a text.
const MAX_GROWTH: usize = 4096;

/// The most tokens that all steps together may put around a text.
const MAX_AROUND: usize = 64;

/// The steps that a tokenizer.json names, in the order in which a text passes through them.
#[derive(Deserialize)]
struct Steps {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

/// Checks a tokenizer.json before it is loaded: its expressions have a form that terminates ([`check_expression`]), and
/// its steps do not lengthen a text without limit. Loading alone runs some of them, on added tokens.
///
/// # Errors
/// When it is not JSON, or one of its steps fails these checks.
pub fn check_steps(json: &[u8]) -> Result<(), VocabularyError> {
    let no_json = |e: serde_json::Error| VocabularyError::Steps { part: "text", cause: e.to_string() };
    let Steps { normalizer, pre_tokenizer, post_processor, decoder } = serde_json::from_slice(json).map_err(no_json)?;
    if around(&post_processor) > MAX_AROUND {
        let cause = "its steps together put more than 64 tokens around a text".to_string();
        return Err(VocabularyError::Steps { part: "post_processor", cause });
    }
    for (part, steps) in [
        ("normalizer", normalizer),
        ("pre_tokenizer", pre_tokenizer),
        ("post_processor", post_processor),
        ("decoder", decoder),
    ] {
        if growth(&steps)? > MAX_GROWTH {
            let cause = "its steps together can make a text more than 4096 times longer".to_string();
            return Err(VocabularyError::Steps { part, cause });
        }
    }
    Ok(())
}

/// How many tokens post-processors put around a text or a pair of texts: a template lists special tokens, and each stands
/// for any number of ids.
fn around(step: &Value) -> usize {
    let parts = |name: &str| step.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter();
    let within: usize = parts("processors").map(around).fold(0, usize::saturating_add);
    let ids = |part: &Value| match part.get("SpecialToken").and_then(|token| token.get("id")).and_then(Value::as_str) {
        Some(name) => {
            let listed = step.get("special_tokens").and_then(|tokens| tokens.get(name));
            listed.and_then(|token| token.get("ids")).and_then(Value::as_array).map_or(1, Vec::len).max(1)
        }
        // The text itself, which a template may repeat: it stands once in a single text, once each in a pair.
        None => 1,
    };
    ["single", "pair"].into_iter().flat_map(parts).map(ids).fold(within, usize::saturating_add)
}

/// The factor by which the steps may lengthen a text. Checks their expressions on the way.
fn growth(steps: &Value) -> Result<usize, VocabularyError> {
    // A list, a step, or a step with a list in it.
    let (own, within): (usize, Vec<&Value>) = match steps {
        Value::Array(all) => (1, all.iter().collect()),
        Value::Object(map) => (growth_of_one(map)?, map.values().collect()),
        _ => (1, Vec::new()),
    };
    within.into_iter().try_fold(own, |product, step| Ok(product.saturating_mul(growth(step)?)))
}

fn growth_of_one(step: &Map<String, Value>) -> Result<usize, VocabularyError> {
    if let Some(expression) = step.get("Regex").and_then(Value::as_str) {
        check_expression(expression)?;
    }
    Ok(match step.get("type").and_then(Value::as_str) {
        Some("Replace") => {
            let bytes = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, str::len);
            let pattern = step.get("pattern").and_then(|pattern| pattern.get("String"));
            // An expression may match the empty text between any two characters.
            1 + bytes(step.get("content")).div_ceil(bytes(pattern).max(1))
        }
        // A byte becomes a character of one or two bytes; a space becomes one of three.
        Some("ByteLevel" | "Prepend") => 2,
        Some("Metaspace") => 3,
        _ => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(part: &str, steps: Value) -> Result<(), VocabularyError> {
        check_steps(json!({ part: steps }).to_string().as_bytes())
    }

    #[test]
    fn steps_in_use_pass_and_rows_of_growth_do_not() {
        let llama2 = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]});
        assert_eq!(growth(&llama2).unwrap(), 8);
        check("normalizer", llama2).unwrap();
        check("normalizer", Value::Null).unwrap();
        check_steps(b"{}").unwrap();
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        for part in ["normalizer", "decoder"] {
            let row = json!({"type": "Sequence", "of": vec![double.clone(); 60]});
            assert!(matches!(check(part, row), Err(VocabularyError::Steps { part: p, .. }) if p == part));
        }
        let template = |ids: usize, times: usize| {
            let token = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
            json!({"type": "TemplateProcessing", "single": vec![token; times], "pair": [],
                   "special_tokens": {"<s>": {"id": "<s>", "ids": vec![1; ids], "tokens": vec!["<s>"; ids]}}})
        };
        for (steps, fine) in [
            (template(1, 3), true),
            (template(65, 1), false),
            (template(9, 9), false),
            (json!({"type": "Sequence", "processors": vec![template(4, 4); 4]}), true),
            (json!({"type": "Sequence", "processors": vec![template(4, 4); 5]}), false),
        ] {
            assert_eq!(check("post_processor", steps.clone()).is_ok(), fine, "{steps}");
        }
        let split = |expression: &str| json!([{"type": "Split", "pattern": {"Regex": expression}}]);
        check("pre_tokenizer", split(r"\s+(?!\S)")).unwrap();
        assert!(matches!(check("pre_tokenizer", split("(?:a+)+")), Err(VocabularyError::Pattern { .. })));
        assert!(matches!(check_steps(b"{"), Err(VocabularyError::Steps { part: "text", .. })));
    }
}
