//! What a person asks first about a model: what is it called, which family is it of, can it chat, does it fit.

use crate::console::size;
use anyhow::Result;
use nanoserve_format::{Foreign, ModelSpec, NsvFile, QkNorm, RopeScaling, SectionKind};
use nanoserve_runtime::backend::DEFAULT_CHUNK;
use nanoserve_runtime::engine::admission::sequence_bytes;
use nanoserve_runtime::{KvType, RuntimeError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The context that is usual.
const USUAL_CONTEXT: usize = 4096;

/// The answers about a file.
pub struct About {
    /// `org/name`, where the sources say so.
    name: Option<String>,
    family: &'static str,
    tokenizer: bool,
    /// Whether there is a template for all conversations.
    template: bool,
    /// The names of templates for others.
    named: Vec<String>,
    weights: u64,
    kv: KvType,
    /// Contexts, each with the bytes that it takes beside the weights.
    contexts: Vec<(usize, u128)>,
}

impl About {
    /// Reads them.
    pub fn of(file: &NsvFile) -> Result<About> {
        let (layout, spec) = (file.layout(), file.spec());
        let section = |kind| file.section(kind).map_err(RuntimeError::from);
        let named: BTreeMap<String, Value> = match section(SectionKind::NamedTemplates)? {
            Some(json) => serde_json::from_slice(json)?,
            None => BTreeMap::new(),
        };
        // As a run without --kv keeps them.
        let kv = if layout.encodings().is_exact() { KvType::F32 } else { KvType::F16 };
        let all = spec.context_length;
        let contexts = [USUAL_CONTEXT].into_iter().filter(|&n| n < all).chain([all]);
        let provenance = file.provenance().map_err(RuntimeError::from)?;
        Ok(About {
            name: provenance.repository.or(provenance.name),
            family: family(spec),
            tokenizer: section(SectionKind::Tokenizer)?.is_some() || section(SectionKind::Vocabulary)?.is_some(),
            template: section(SectionKind::ChatTemplate)?.is_some(),
            named: named.into_keys().collect(),
            weights: layout.weight_bytes(),
            kv,
            contexts: contexts.map(|n| (n, sequence_bytes(spec, n, kv, DEFAULT_CHUNK))).collect(),
        })
    }

    /// A line for each.
    pub fn text(&self) -> String {
        let name = self.name.as_ref().map(|name| Foreign(name).to_string());
        let mut text = format!("name        {}\n", name.as_deref().unwrap_or("unknown: its sources do not say"));
        let _ = writeln!(text, "family      {}, by what it computes", self.family);
        let named = self.named.join(", ");
        let named = Foreign(&named);
        let template = match (self.template, self.named.is_empty()) {
            (true, true) => "yes".into(),
            (true, false) => format!("yes, and by name {named}"),
            (false, false) => format!("only by name: {named}"),
            (false, true) => "no: a base model, which goes on with a text".into(),
        };
        let _ = writeln!(text, "template    {template}");
        if !self.tokenizer {
            let _ = writeln!(text, "tokenizer   no: it runs on token ids alone");
        }
        let contexts = self.contexts.iter().map(|&(n, bytes)| {
            let which = if self.contexts.last().is_some_and(|last| last.0 == n) { "all " } else { "" };
            format!("a context of {which}{n} tokens {}", size(bytes + u128::from(self.weights)))
        });
        let contexts: Vec<String> = contexts.collect();
        let _ = writeln!(
            text,
            "memory      {}; of it weights {}, keys and values in {}",
            contexts.join(", "),
            size(self.weights),
            self.kv.name()
        );
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let context = |&(n, bytes): &(usize, u128)| json!({"tokens": n, "bytes": bytes as u64});
        json!({
            "name": self.name,
            "family": self.family,
            "tokenizer": self.tokenizer,
            "chat_template": self.template,
            "named_templates": self.named,
            "kv": self.kv.name(),
            "contexts": self.contexts.iter().map(context).collect::<Vec<_>>(),
        })
    }
}

/// The family whose models compute what a description says. A file keeps what is computed, not the class that its
/// sources named, and some families compute the same.
fn family(spec: &ModelSpec) -> &'static str {
    let scaled = [spec.residual_scale, spec.logit_divisor, spec.embed_scale].iter().any(|&x| x != 1.0);
    let long = matches!(spec.rope.scaling, RopeScaling::LongRope { .. });
    match spec {
        _ if spec.pre_norm && spec.post_norm && spec.qk_norm == QkNorm::Head => "Gemma 3",
        _ if spec.pre_norm && spec.post_norm => "Gemma 2",
        _ if spec.post_norm => "OLMo 2",
        _ if !spec.no_rope_layers.is_empty() => "SmolLM3",
        _ if scaled => "Granite 3",
        _ if spec.qk_norm == QkNorm::Head => "Qwen3",
        _ if spec.qkv_bias && !spec.attn_out_bias => "Qwen2",
        _ if long || spec.rope.rotary_dim(spec.head_dim) != spec.head_dim => "Phi-3",
        _ if spec.window.is_some() => "Mistral or Phi-3",
        _ => "Llama (as Mistral and Phi-3)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::{Rope, Window};

    #[test]
    fn families_are_told_by_what_they_compute() {
        let base = ModelSpec::default;
        let around = || ModelSpec { post_norm: true, embed_scale: 3.0, ..base() };
        let part = Rope { rotary_dim: Some(8), ..base().rope };
        for (spec, expected) in [
            (base(), "Llama (as Mistral and Phi-3)"),
            (ModelSpec { qkv_bias: true, attn_out_bias: true, ..base() }, "Llama (as Mistral and Phi-3)"),
            (ModelSpec { window: Some(Window { size: 9, layers: vec![0], rope: None }), ..base() }, "Mistral or Phi-3"),
            (ModelSpec { rope: part, head_dim: 16, ..base() }, "Phi-3"),
            (ModelSpec { qkv_bias: true, ..base() }, "Qwen2"),
            (ModelSpec { qk_norm: QkNorm::Head, ..base() }, "Qwen3"),
            (ModelSpec { logit_divisor: 8.0, ..base() }, "Granite 3"),
            (ModelSpec { no_rope_layers: vec![3], ..base() }, "SmolLM3"),
            (ModelSpec { pre_norm: false, post_norm: true, qk_norm: QkNorm::Projection, ..base() }, "OLMo 2"),
            (around(), "Gemma 2"),
            (ModelSpec { qk_norm: QkNorm::Head, ..around() }, "Gemma 3"),
        ] {
            assert_eq!(family(&spec), expected, "{spec:?}");
        }
    }

    #[test]
    fn all_is_named_once() {
        let about = |contexts| About {
            name: Some("org/na\u{1b}me".into()),
            family: "Qwen3",
            tokenizer: false,
            template: false,
            named: vec!["rag".into()],
            weights: 1_000_000,
            kv: KvType::F16,
            contexts,
        };
        assert_eq!(
            about(vec![(4096, 500_000), (8192, 1_000_000)]).text(),
            "name        org/na\\u{1b}me\n\
             family      Qwen3, by what it computes\n\
             template    only by name: rag\n\
             tokenizer   no: it runs on token ids alone\n\
             memory      a context of 4096 tokens 1.50 MB, a context of all 8192 tokens 2.00 MB; of it weights 1.00 MB, keys and \
             values in f16\n"
        );
        assert!(about(vec![(512, 0)]).text().contains("memory      a context of all 512 tokens 1.00 MB;"));
    }
}
