//! Reads what accompanies the weights in a checkpoint folder: tokenizer, chat template, generation defaults.

use crate::error::{Problems, What};
use crate::hf::checkpoint::Folder;
use crate::hf::config::Config;
use crate::hf::json::{self, Fields};
use crate::hf::{templates, tokens as beside};
use crate::report::Warning;
use crate::sidecars::{LoadedTokenizer, Sidecars, rows};
use crate::vocab;
use nanoserve_format::{GenerationDefaults, ModelSpec};
use serde_json::{Map, Value};

pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const GENERATION: &str = "generation_config.json";
/// The advice for a tokenizer of another form.
const SENTENCEPIECE: &str = "tokenizer.model is not read; load and save it with transformers to get tokenizer.json";

/// Reads and checks every file that is there.
pub(crate) fn read(
    folder: &Folder,
    config: Option<&Config>,
    spec: Option<&ModelSpec>,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> Sidecars {
    let vocab_size = spec.map(|s| s.vocab_size);
    let object = |name| folder.read(name, problems).and_then(|bytes| json::object(name, &bytes, problems));
    let said = folder.read(TOKENIZER_CONFIG, problems);
    let tokens = said.as_deref().and_then(|bytes| json::object(TOKENIZER_CONFIG, bytes, problems));
    let generation = object(GENERATION);
    let empty = Map::new();
    let tokens = Fields::new(TOKENIZER_CONFIG, tokens.as_ref().unwrap_or(&empty), problems);
    let generation = Fields::new(GENERATION, generation.as_ref().unwrap_or(&empty), problems);
    let config = config.map(|c| c.fields(problems));
    let tokenizer = tokenizer(folder, said.as_deref(), vocab_size, problems, warnings);
    let templates = templates::read(folder, tokens, problems, warnings);
    let special_tokens = templates::special_tokens(folder, tokens, problems);
    let named = special_tokens.get("eos_token").zip(tokenizer.as_ref());
    let named = named.and_then(|(text, tokenizer)| tokenizer.loaded.token_to_id(text));
    let mut generation = defaults(generation, config, tokens, (vocab_size, named), warnings);
    generation.special_tokens = special_tokens;
    Sidecars { tokenizer, templates, generation }
}

/// Reads the tokenizer, with the tokens that other files add, and checks that it loads and that the model has its [`rows`].
fn tokenizer(
    folder: &Folder,
    config: Option<&[u8]>,
    vocab_size: Option<usize>,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> Option<LoadedTokenizer> {
    let Some(bytes) = folder.read(TOKENIZER, problems) else {
        if !folder.has(TOKENIZER) {
            let hint = if folder.has("tokenizer.model") { SENTENCEPIECE } else { "" };
            warnings.push(Warning::NoTokenizer { missing: TOKENIZER, hint });
        }
        return None;
    };
    let loaded = match vocab::load(&bytes) {
        Ok(loaded) => loaded,
        Err(cause) => {
            problems.file(TOKENIZER, What::Tokenizer { cause });
            return None;
        }
    };
    let (json, loaded) = beside::add(folder, config, bytes, loaded, problems)?;
    match rows(&loaded, vocab_size.unwrap_or(usize::MAX)) {
        Ok(warning) => warnings.extend(warning),
        Err(what) => problems.file(TOKENIZER, what),
    }
    Some(LoadedTokenizer { json, loaded, made: false })
}

/// A token id, or a list of them; what is neither counts as none.
fn token_ids(value: &Value) -> Vec<u32> {
    let all = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    all.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// Generation defaults, from generation_config.json. Token ids that it lacks come from config.json, or else from the
/// text model in config.json. `named` is the id of the tokenizer's `eos_token`.
///
/// A text ends where generation_config.json says, as it does for transformers. A conversation ends there too, and where
/// config.json or the tokenizer says: a model may be trained further without a word in generation_config.json.
fn defaults(
    generation: Fields,
    config: Option<Fields>,
    tokens: Fields,
    (vocab_size, named): (Option<usize>, Option<u32>),
    warnings: &mut Vec<Warning>,
) -> GenerationDefaults {
    let text = config.and_then(|config| config.object("text_config"));
    let sources = [Some(generation), config, text];
    let is_known = |id: u32| vocab_size.is_none_or(|n| (id as usize) < n);
    let ids = |field: &str| {
        let from = sources.into_iter().flatten().find(|f| f.get(field).is_some())?;
        let ids = from.ids(field)?;
        for &got in ids.iter().filter(|&&id| !is_known(id)) {
            let vocab_size = vocab_size.unwrap_or_default();
            from.problem(What::TokenId { field: field.to_string(), got, vocab_size });
        }
        Some(ids)
    };
    let mut eos_ids = ids("eos_token_id").unwrap_or_default();
    if eos_ids.is_empty() {
        eos_ids.extend(named.filter(|&id| is_known(id)));
    }
    let mut seen = std::collections::HashSet::new();
    eos_ids.retain(|id| seen.insert(*id));
    // What a file says beside the one that counts for texts is no reason to refuse a model.
    let others = [config, text].into_iter().flatten().filter_map(|from| from.get("eos_token_id")).flat_map(token_ids);
    let turn_end_ids: Vec<u32> = others.chain(named).filter(|&id| is_known(id) && seen.insert(id)).collect();
    if eos_ids.is_empty() {
        warnings.push(Warning::NoEos);
    }
    let ranged = |field: &str, expected: &str, fine: fn(f64) -> bool| {
        let value = generation.number(field)?;
        if !fine(value) {
            generation.wrong(field, value, expected);
        }
        Some(value)
    };
    let temperature = ranged("temperature", "0 or more", |x| x >= 0.0);
    // An explicit `do_sample: false` means greedy, whatever the temperature.
    let greedy = generation.flag("do_sample") == Some(false);
    GenerationDefaults {
        bos_id: ids("bos_token_id").and_then(|ids| ids.first().copied()),
        add_bos: tokens.flag("add_bos_token"),
        eos_ids,
        turn_end_ids,
        temperature: if greedy { Some(0.0) } else { temperature },
        top_k: generation.size("top_k").map(|k| u32::try_from(k).unwrap_or(u32::MAX)),
        top_p: ranged("top_p", "above 0 and at most 1", |x| x > 0.0 && x <= 1.0),
        min_p: ranged("min_p", "0 to 1", |x| (0.0..=1.0).contains(&x)),
        repeat_penalty: ranged("repetition_penalty", "above 0", |x| x > 0.0),
        ..GenerationDefaults::default()
    }
}
