//! Small tokenizers of both families, made as JSON here.

use crate::vocab::char_of;
use crate::{TextStream, Tokenizer};
use serde_json::{Value, json};

/// A text's bytes as the byte-level family writes them.
pub(crate) fn written(text: &str) -> String {
    text.bytes().map(char_of).collect()
}

pub(crate) fn added(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special,
               "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
}

/// A post-processor that puts the given tokens before and after a text.
pub(crate) fn template(before: &[(&str, u32)], behind: &[(&str, u32)]) -> Value {
    let token = |(name, _): &(&str, u32)| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let mut single: Vec<Value> = before.iter().map(token).collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(behind.iter().map(token));
    let specials: serde_json::Map<String, Value> = before
        .iter()
        .chain(behind)
        .map(|(name, id)| ((*name).to_owned(), json!({"id": name, "ids": [id], "tokens": [name]})))
        .collect();
    let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials})
}

pub(crate) const BOS: u32 = 262;
pub(crate) const EOS: u32 = 263;

/// Ids 0 ..= 255 are the bytes, 256 "he", 257 "ll", 258 the first two bytes of 日, 259 its last and the first of the
/// next, 260 " t", 261 " th", 262 <bos> and 263 <eos> special, 264 "<tool é>" and 265 "né" added.
pub(crate) fn byte_level_json(post_processor: &Value) -> Value {
    let mut vocab: serde_json::Map<String, Value> = (0..=255u8).map(|b| (char_of(b).to_string(), json!(b))).collect();
    let bytes = |bytes: &[u8]| bytes.iter().map(|&b| char_of(b)).collect::<String>();
    let merges = [
        (written("h"), written("e")),
        (written("l"), written("l")),
        (bytes(&[0xe6]), bytes(&[0x97])),
        (bytes(&[0xa5]), bytes(&[0xe6])),
        (written(" "), written("t")),
        (written(" t"), written("h")),
    ];
    for (id, (a, b)) in (256..).zip(&merges) {
        vocab.insert(format!("{a}{b}"), json!(id));
    }
    let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [added(BOS, "<bos>", true), added(EOS, "<eos>", true), added(264, "<tool é>", false),
                         added(265, "né", false)],
        "pre_tokenizer": byte_level, "decoder": byte_level, "post_processor": post_processor,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": merges}
    })
}

/// As Llama 2: 0 <unk>, 1 <s>, 2 </s>, 3 ..= 258 the bytes, then pieces; a space before the text, dropped again.
pub(crate) fn sentencepiece_json() -> Value {
    let mut vocab: serde_json::Map<String, Value> =
        [("<unk>", 0), ("<s>", 1), ("</s>", 2)].map(|(name, id)| (name.to_owned(), json!(id))).into_iter().collect();
    for byte in 0..=255u32 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(3 + byte));
    }
    let merges = ["▁ t", "h e", "▁t he", "r e", "▁the re", "▁ ▁", "▁ a"];
    let single = ["▁", "t", "h", "e", "r", "a"].map(str::to_owned);
    let merged = merges.map(|merge| merge.replace(' ', ""));
    for (id, piece) in (259..).zip(single.into_iter().chain(merged)) {
        vocab.insert(piece, json!(id));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": template(&[("<s>", 1)], &[]),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": merges}
    })
}

pub(crate) fn open(json: &Value, bos_id: Option<u32>, add_bos: Option<bool>) -> Tokenizer {
    Tokenizer::from_json(json.to_string().as_bytes(), bos_id, add_bos).expect("a good tokenizer")
}

pub(crate) fn byte_level() -> Tokenizer {
    open(&byte_level_json(&template(&[("<bos>", BOS)], &[])), Some(BOS), None)
}

pub(crate) fn sentencepiece() -> Tokenizer {
    open(&sentencepiece_json(), Some(1), None)
}

pub(crate) fn stream_all(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
    let mut stream = TextStream::new(tokenizer, skip);
    let mut text: String = ids.iter().map(|&id| stream.push(id).expect("decodes")).collect();
    text += &stream.finish();
    text
}

/// Checks that a stream returns what decode does: from the beginning, and after each prefix taken as a prompt.
pub(crate) fn check_stream(tokenizer: &Tokenizer, ids: &[u32]) {
    for skip in [true, false] {
        let whole = tokenizer.decode(ids, skip).expect("decodes");
        assert_eq!(stream_all(tokenizer, ids, skip), whole, "{ids:?} skip {skip}");
        for cut in 0..=ids.len() {
            let mut first = TextStream::new(tokenizer, skip);
            let mut text: String = ids[..cut].iter().map(|&id| first.push(id).expect("decodes")).collect();
            let mut second = TextStream::after(tokenizer, &ids[..cut], skip).expect("decodes");
            for &id in &ids[cut..] {
                text += &second.push(id).expect("decodes");
            }
            text += &second.finish();
            assert_eq!(text, whole, "{ids:?} cut at {cut}, skip {skip}");
        }
    }
}
