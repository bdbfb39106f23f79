//! What accompanies the weights in a GGUF file: tokenizer, chat templates, generation defaults. All of it is optional.

use crate::error::{Problems, What};
use crate::gguf::keys::Keys;
use crate::gguf::tokenizer::{Synthesized, tokenizer};
use crate::report::Warning;
use crate::sidecars::{LoadedTokenizer, Sidecars, Templates, rows};
use crate::vocab;
use nanoserve_format::{GenerationDefaults, ModelSpec};
use std::collections::BTreeMap;

/// The kind of tokenizer.
const MODEL: &str = "tokenizer.ggml.model";
/// What a file without a vocabulary says there.
const NONE: &str = "no_vocab";

/// Reads and checks what is there. `given` is a tokenizer.json in place of the file's own.
pub(crate) fn read(
    keys: &Keys,
    given: Option<&[u8]>,
    spec: Option<&ModelSpec>,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> Sidecars {
    let made = if keys.text(MODEL).is_some_and(|model| model != NONE) {
        let given = given.and_then(|json| str::from_utf8(json).ok());
        let made = tokenizer(keys.header, keys.bytes, &keys.architecture, given);
        made.unwrap_or_else(|problem| {
            problems.file(keys.file, What::GgufTokenizer { cause: problem.to_string() });
            None
        })
    } else {
        None
    };
    let json = given.or(made.as_ref().map(|made| made.json.as_bytes()));
    let mut tokenizer = json.and_then(|json| load(keys, json, spec, problems, warnings));
    if let Some(tokenizer) = &mut tokenizer {
        tokenizer.made = given.is_none();
    }
    if json.is_none() && problems.len() == 0 {
        warnings.push(Warning::NoTokenizer { missing: MODEL, hint: "" });
    }
    let (templates, generation) = match made {
        Some(made) => generation(made, spec),
        None => (Templates::default(), GenerationDefaults::default()),
    };
    if generation.eos_ids.is_empty() {
        warnings.push(Warning::NoEos);
    }
    if templates.default.is_none() && !templates.named.is_empty() {
        warnings.push(Warning::NoDefaultTemplate { names: templates.named.keys().cloned().collect() });
    }
    let sampling = |name: &str| keys.number(&format!("general.sampling.{name}"));
    let generation = GenerationDefaults {
        temperature: sampling("temp").filter(|&x| x >= 0.0),
        top_k: sampling("top_k").filter(|&k| k >= 0.0).map(|k| k as u32),
        top_p: sampling("top_p").filter(|&x| x > 0.0 && x <= 1.0),
        min_p: sampling("min_p").filter(|&x| (0.0..=1.0).contains(&x)),
        ..generation
    };
    Sidecars { tokenizer, templates, generation }
}

/// Loads a tokenizer.json, and checks that the model has a row for every token that text can become.
fn load(
    keys: &Keys,
    json: &[u8],
    spec: Option<&ModelSpec>,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> Option<LoadedTokenizer> {
    let loaded = match vocab::load(json) {
        Ok(loaded) => loaded,
        Err(cause) => {
            problems.file(keys.file, What::Tokenizer { cause });
            return None;
        }
    };
    let vocab_size = spec.map_or(usize::MAX, |spec| spec.vocab_size);
    match rows(&loaded, vocab_size) {
        Ok(warning) => warnings.extend(warning),
        Err(what) => problems.file(keys.file, what),
    }
    Some(LoadedTokenizer { json: json.to_vec(), loaded, made: true })
}

/// How to generate, by the metadata. Ids that the model has no row for are dropped: nothing can make them.
fn generation(made: Synthesized, spec: Option<&ModelSpec>) -> (Templates, GenerationDefaults) {
    let known = |id: &u32| spec.is_none_or(|spec| (*id as usize) < spec.vocab_size);
    let special_tokens: BTreeMap<String, String> =
        made.named.into_iter().map(|(name, text)| (name.to_string(), text)).collect();
    let generation = GenerationDefaults {
        bos_id: made.bos.filter(known),
        add_bos: Some(made.add_bos),
        eos_ids: made.eos.into_iter().filter(known).collect(),
        turn_end_ids: made.turn_ends.into_iter().filter(known).collect(),
        special_tokens,
        ..GenerationDefaults::default()
    };
    (made.templates, generation)
}
