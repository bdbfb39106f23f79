//! A checkpoint whose model says what it is told to, token after token.

use crate::checkpoint::{Source, Tiny};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A template of the ChatML kind, as many models have it.
pub const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + \
                          '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// What the model says, and its tokens: the 256 bytes, then these.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Pairs of letters that are one token more each; ids from 256 on.
    pub merges: Vec<(char, char)>,
    /// Special tokens, which follow them.
    pub specials: Vec<&'static str>,
    /// Tokens that are added as special ones are, and not special.
    pub added: Vec<&'static str>,
    /// Each token's successor is the one behind it; no token may stand here twice but the last.
    pub chain: Vec<u32>,
}

impl Script {
    /// The id of a token that is not a byte.
    ///
    /// # Panics
    /// When there is none of this text.
    pub fn id(&self, token: &str) -> u32 {
        let at = self.specials.iter().chain(&self.added).position(|one| *one == token).expect("a token of the script");
        (256 + self.merges.len() + at) as u32
    }

    /// The ids of a text's bytes.
    pub fn bytes(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    /// Writes the checkpoint, with the tokenizer. `eos` is the end token of config.json.
    ///
    /// # Panics
    /// When a token has two successors.
    pub fn write(&self, folder: &Path, eos: Option<u32>) {
        let vocab = 256 + self.merges.len() + self.specials.len() + self.added.len();
        let tiny = Tiny { vocab, context: 1024, ..Tiny::default() };
        let mut tensors = tiny.tensors();
        for (key, Source { values, .. }) in &mut tensors {
            if key.ends_with("o_proj.weight") || key.ends_with("down_proj.weight") {
                values.iter_mut().for_each(|x| *x *= 1e-3);
            } else if key.ends_with("norm.weight") {
                values.fill(1.0);
            } else if !key.contains("layers") {
                values.fill(0.0);
            }
        }
        // A token's row of the embedding is one number, which its successor's row of the head looks for.
        assert!(self.chain.len() <= tiny.hidden, "too long for the model");
        for (place, pair) in self.chain.windows(2).enumerate() {
            assert!(!self.chain[..place].contains(&pair[0]), "two successors of {}", pair[0]);
            let mut set = |key: &str, row: u32, value| {
                tensors.get_mut(key).expect("a tensor of every model").values[row as usize * tiny.hidden + place] =
                    value;
            };
            set("model.embed_tokens.weight", pair[0], 1.0);
            set("lm_head.weight", pair[1], 20.0);
        }
        tiny.write_tensors(folder, &tensors);
        let mut config = tiny.config();
        config["bos_token_id"] = Value::Null;
        config["eos_token_id"] = json!(eos);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        fs::write(folder.join("tokenizer.json"), self.tokenizer().to_string()).unwrap();
    }

    /// The tokenizer.json.
    pub fn tokenizer(&self) -> Value {
        let mut vocabulary: serde_json::Map<String, Value> =
            (0..=255).map(|byte| (spelt(byte).to_string(), json!(byte))).collect();
        let mut merges = Vec::new();
        for (number, &(a, b)) in self.merges.iter().enumerate() {
            let (a, b) = (spelt(a as u8), spelt(b as u8));
            vocabulary.insert(format!("{a}{b}"), json!(256 + number));
            merges.push(json!([a.to_string(), b.to_string()]));
        }
        let added = self.specials.iter().chain(&self.added).enumerate().map(|(number, token)| {
            json!({"id": 256 + self.merges.len() + number, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": number < self.specials.len()})
        });
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}})
    }
}

/// The character that stands for a byte in such vocabularies: those that can be seen stand for themselves.
fn spelt(byte: u8) -> char {
    let is_seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match is_seen(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|&b| !is_seen(b)).count() as u32;
            char::from_u32(256 + before).expect("a character")
        }
    }
}
