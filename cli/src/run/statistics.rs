//! The report of an answer: statistics for a person, one JSON object for programs.

use crate::{console, machine, sandbox};
use anyhow::Result;
use nanoserve_runtime::generate::Prefilled;
use nanoserve_runtime::{Generation, KvType, RuntimeError, Session, Tokenizer};
use serde_json::{Value, json};

/// Prints the statistics on standard error.
pub fn tell(
    prompt: &Prefilled,
    g: &Generation,
    load_s: f64,
    seed: u64,
    session: &Session<machine::Backend>,
    kv_type: KvType,
) {
    let (t, [guessed, right]) = (&g.timings, g.guessed);
    let reused = if g.reused > 0 { format!(", {} of them from the cache", g.reused) } else { String::new() };
    let lookup = if guessed > 0 { format!(" | guessed {guessed}, right {right}") } else { String::new() };
    console::tell(format_args!(
        "\nprompt {} tokens{reused}, {:.1} tok/s | generated {}, {:.1} tok/s{lookup} | first token {:.3} s, load \
         {load_s:.3} s | stopped: {} | seed {seed} | {} kv {}",
        prompt.ids().len(),
        t.prompt_tok_s,
        g.ids.len(),
        t.generate_tok_s,
        t.first_token_s,
        g.stop_reason,
        machine::device_name(session.engine()),
        kv_type.name(),
    ));
}

/// The whole report as one JSON object.
pub fn json(
    prompt: &Prefilled,
    g: &Generation,
    seed: u64,
    load_s: f64,
    tokenizer: Option<&Tokenizer>,
    device: &str,
) -> Result<Value> {
    let t = &g.timings;
    let mut report = json!({
        "prompt_ids": prompt.ids(),
        "prompt_reused": g.reused,
        "ids": g.ids,
        "text": g.text,
        "stop_reason": g.stop_reason.to_string(),
        "logits_hash": g.logits_hash,
        "seed": seed,
        "device": device,
        "sandbox": sandbox::held().name(),
        "guessed": {"tokens": g.guessed[0], "right": g.guessed[1]},
        "timings": {
            "load_s": load_s,
            "first_token_s": t.first_token_s,
            "prompt_tok_s": t.prompt_tok_s,
            "generate_tok_s": t.generate_tok_s,
        },
    });
    if !g.logprobs.is_empty() {
        let token = |id: u32, logprob: f64| -> Result<Value> {
            let text = tokenizer.map(|t| t.decode(&[id], false)).transpose().map_err(RuntimeError::from)?;
            // An impossible token has minus infinity, which JSON cannot express.
            Ok(json!({"id": id, "text": text, "logprob": logprob.is_finite().then_some(logprob)}))
        };
        let mut all = Vec::new();
        for one in &g.logprobs {
            let mut entry = token(one.id, one.logprob)?;
            let top: Result<Vec<Value>> = one.top.iter().map(|&(id, logprob)| token(id, logprob)).collect();
            entry["top"] = Value::Array(top?);
            all.push(entry);
        }
        report["logprobs"] = Value::Array(all);
    }
    Ok(report)
}
