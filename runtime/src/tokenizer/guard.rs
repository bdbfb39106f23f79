//! What stands between a tokenizer.json that nobody should have written and the `tokenizers` crate, which was made for
//! good ones: it runs any expression, lets steps blow a text up, and panics here and there.

use super::{Result, TokenizerError};
use nanoserve_format::vocab::check_expression;
use serde_json::{Map, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many times longer all steps together may make a text.
const MAX_GROWTH: usize = 4096;

/// Calls the crate; a panic becomes an error, its message is on standard error.
pub(super) fn caught<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the tokenizers library panicked".into()))
}

/// Checks the steps of a tokenizer: each expression is of a form that ends, and no text grows without measure.
pub(super) fn check_steps(part: &'static str, steps: &Value) -> Result<()> {
    if growth(steps)? > MAX_GROWTH {
        return Err(TokenizerError::Unsupported {
            part,
            got: "a row of steps, each of which makes a text longer",
            expected: "steps that together make it 4096 times longer at most",
        });
    }
    Ok(())
}

/// How many times longer the steps may make a text, once their expressions are checked.
fn growth(steps: &Value) -> Result<usize> {
    // A list, a step, or a list under a name within one.
    let (own, within): (usize, Vec<&Value>) = match steps {
        Value::Array(all) => (1, all.iter().collect()),
        Value::Object(map) => (growth_of_one(map)?, map.values().collect()),
        _ => (1, Vec::new()),
    };
    within.into_iter().try_fold(own, |product, step| Ok(product.saturating_mul(growth(step)?)))
}

fn growth_of_one(step: &Map<String, Value>) -> Result<usize> {
    if let Some(expression) = step.get("Regex").and_then(Value::as_str) {
        check_expression(expression)?;
    }
    Ok(match step.get("type").and_then(Value::as_str) {
        Some("Replace") => {
            let bytes = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, str::len);
            let pattern = step.get("pattern").and_then(|pattern| pattern.get("String"));
            // An expression may match nothing, between any two characters.
            1 + bytes(step.get("content")).div_ceil(bytes(pattern).max(1))
        }
        // A byte becomes a character of one byte or two; spaces become one of three.
        Some("ByteLevel" | "Prepend") => 2,
        Some("Metaspace") => 3,
        _ => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_in_use_pass_and_rows_of_growth_do_not() {
        let llama2 = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]});
        assert_eq!(growth(&llama2).unwrap(), 8);
        check_steps("normalizer", &llama2).unwrap();
        check_steps("normalizer", &Value::Null).unwrap();
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let row = json!({"type": "Sequence", "normalizers": vec![double; 60]});
        assert!(matches!(check_steps("normalizer", &row), Err(TokenizerError::Unsupported { part: "normalizer", .. })));
        let split = |expression: &str| json!([{"type": "Split", "pattern": {"Regex": expression}}]);
        check_steps("pre_tokenizer", &split(r"\s+(?!\S)")).unwrap();
        assert!(matches!(check_steps("pre_tokenizer", &split("(?:a+)+")), Err(TokenizerError::Vocabulary(_))));
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = caught::<()>(|| panic!("on purpose")).unwrap_err();
        assert_eq!(error.to_string(), "the tokenizers library panicked");
    }
}
