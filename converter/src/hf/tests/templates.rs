//! Which templates and which special tokens a file gets: what transformers 5.23 finds in the same folders.

use super::*;
use crate::Warning;
use nanoserve_format::NsvFile;
use std::collections::BTreeMap;

const CONFIG: &str = "tokenizer_config.json";
const TOKENS: &str = "special_tokens_map.json";

/// A converted checkpoint with these files, and whether it has no default template.
fn file(files: &[(&str, String)]) -> (NsvFile, bool) {
    let fixture = Fixture::plain();
    fixture.write();
    fs::create_dir(fixture.dir.path().join("additional_chat_templates")).unwrap();
    files.iter().for_each(|(name, bytes)| _ = fixture.put(name, bytes));
    let warnings = fixture.convert(Encoding::Q8).unwrap().warnings;
    let none = warnings.iter().any(|w| matches!(w, Warning::NoDefaultTemplate { .. }));
    (NsvFile::open(fixture.output()).unwrap(), none)
}

#[test]
fn named_templates() {
    let list = |names: &[&str]| {
        let all: Vec<Value> =
            names.iter().map(|name| json!({"name": name, "template": format!("list {name}")})).collect();
        (CONFIG, json!({"chat_template": all}).to_string())
    };
    let one = |name: &'static str| (name, name.to_string());
    let (single, tools) = (one("chat_template.jinja"), one("additional_chat_templates/tool_use.jinja"));
    let default = one("additional_chat_templates/default.jinja");
    let field = (CONFIG, json!({"chat_template": "field"}).to_string());
    // Files, the default template, the others by name.
    type Case<'c> = (&'c [(&'static str, String)], Option<&'c str>, &'c [(&'c str, &'c str)]);
    let cases: [Case; 9] = [
        (&[], None, &[]),
        (std::slice::from_ref(&field), Some("field"), &[]),
        (
            &[list(&["default", "tool_use", "rag"])],
            Some("list default"),
            &[("rag", "list rag"), ("tool_use", "list tool_use")],
        ),
        (&[list(&["tool_use"])], None, &[("tool_use", "list tool_use")]),
        // A file of either kind replaces everything in tokenizer_config.json.
        (&[list(&["default", "tool_use"]), single.clone()], Some(&single.1), &[]),
        (&[field.clone(), tools.clone()], None, &[("tool_use", &tools.1)]),
        (
            &[field.clone(), tools.clone(), single.clone(), one("additional_chat_templates/notes.txt")],
            Some(&single.1),
            &[("tool_use", &tools.1)],
        ),
        (&[single.clone(), default.clone()], Some(&default.1), &[]),
        (&[default.clone(), tools.clone()], Some(&default.1), &[("tool_use", &tools.1)]),
    ];
    for (files, usual, others) in cases {
        let (file, warned) = file(files);
        let (got, named) = file.chat_templates().unwrap();
        let others: BTreeMap<_, _> = others.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        assert_eq!((got.as_deref(), &named), (usual, &others), "{files:?}");
        assert_eq!(warned, usual.is_none() && !named.is_empty(), "{files:?}");
    }
}

#[test]
fn a_list_of_something_else_is_a_problem() {
    for list in
        [json!(["x"]), json!([{"name": "default"}]), json!([{"name": 1, "template": "x"}]), json!({"default": "x"})]
    {
        let fixture = Fixture::plain();
        fixture.write().put(CONFIG, json!({"chat_template": list}).to_string());
        let (place, what) = fixture.problem();
        assert_eq!(place, CONFIG);
        assert!(matches!(&what, What::Field { field, .. } if field == "chat_template"), "{list}: {what:?}");
    }
}

#[test]
fn special_tokens() {
    let token = |text: &str| json!({"content": text, "lstrip": false, "normalized": true, "rstrip": false, "single_word": false});
    let typed = json!({"__type": "AddedToken", "content": "<s>", "lstrip": false, "special": true});
    let decoder = json!({"1": {"content": "<s>", "special": true}});
    // tokenizer_config.json, special_tokens_map.json, the tokens.
    let cases = [
        (
            json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": null, "add_bos_token": true}),
            None,
            json!({"bos_token": "<s>", "eos_token": "</s>"}),
        ),
        (
            json!({"bos_token": typed, "eos_token": token("</s>")}),
            None,
            json!({"bos_token": "<s>", "eos_token": "</s>"}),
        ),
        (
            json!({}),
            Some(json!({"bos_token": token("<s>"), "eos_token": "</s>"})),
            json!({"bos_token": "<s>", "eos_token": "</s>"}),
        ),
        // The map overrides the configuration, also with null.
        (
            json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
            Some(json!({"bos_token": "<pad>", "eos_token": token("<e>")})),
            json!({"bos_token": "<pad>", "eos_token": "<e>", "unk_token": "<unk>"}),
        ),
        (json!({"bos_token": "<s>"}), Some(json!({"bos_token": null})), json!({})),
        // It does not if the configuration lists the added tokens, even none.
        (
            json!({"bos_token": "<s>", "added_tokens_decoder": decoder}),
            Some(json!({"bos_token": "<pad>", "eos_token": "</s>"})),
            json!({"bos_token": "<s>"}),
        ),
        (
            json!({"bos_token": "<s>", "added_tokens_decoder": {}}),
            Some(json!({"bos_token": "<pad>"})),
            json!({"bos_token": "<s>"}),
        ),
        // Tokens that only this model names; a list gives no names.
        (
            json!({"image_token": "<i>", "extra_special_tokens": {"audio_token": token("<a>"), "boi": "<b>"}}),
            None,
            json!({"image_token": "<i>", "audio_token": "<a>", "boi": "<b>"}),
        ),
        (
            json!({}),
            Some(json!({"image_token": "<i>", "boi": "<b>", "extra_special_tokens": {"audio": "<a>"}})),
            json!({"image_token": "<i>", "audio": "<a>"}),
        ),
        (json!({"additional_special_tokens": ["<x>"], "extra_special_tokens": ["<y>"]}), None, json!({})),
    ];
    for (config, map, want) in cases {
        let files = [Some((CONFIG, config.to_string())), map.map(|map| (TOKENS, map.to_string()))];
        let files: Vec<_> = files.into_iter().flatten().collect();
        let got = file(&files).0.generation().unwrap().special_tokens;
        assert_eq!(json!(got), want, "{files:?}");
    }
}
