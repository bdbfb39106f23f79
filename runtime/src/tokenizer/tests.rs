//! Small tokenizers of both families, made as JSON here.

use super::*;
use serde_json::{Value, json};

/// The character that stands for a byte.
fn char_of(byte: u8) -> char {
    (0..0x144).filter_map(char::from_u32).find(|&c| byte_of(c) == Some(byte)).expect("256 bytes are in the table")
}

fn written(text: &str) -> String {
    text.bytes().map(char_of).collect()
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special,
               "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
}

/// A post-processor that puts the given tokens before and behind a text.
fn template(before: &[(&str, u32)], behind: &[(&str, u32)]) -> Value {
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

const BOS: u32 = 262;
const EOS: u32 = 263;

/// Ids 0 ..= 255 are the bytes, 256 "he", 257 "ll", 258 the first two bytes of 日, 259 its last and the first of the
/// next, 260 " t", 261 " th", 262 <bos> and
/// 263 <eos> special, 264 "<tool é>" and 265 "né" added.
fn byte_level_json(post_processor: &Value) -> Value {
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
fn sentencepiece_json() -> Value {
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

fn open(json: &Value, bos_id: Option<u32>, add_bos: Option<bool>) -> Tokenizer {
    Tokenizer::from_json(json.to_string().as_bytes(), bos_id, add_bos).expect("a good tokenizer")
}

fn byte_level() -> Tokenizer {
    open(&byte_level_json(&template(&[("<bos>", BOS)], &[])), Some(BOS), None)
}

fn sentencepiece() -> Tokenizer {
    open(&sentencepiece_json(), Some(1), None)
}

fn stream_all(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
    let mut stream = TextStream::new(tokenizer, skip);
    let mut text: String = ids.iter().map(|&id| stream.push(id).expect("decodes")).collect();
    text += &stream.finish();
    text
}

/// The stream gives what decode gives: from the beginning, and behind each beginning taken as a prompt.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32]) {
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

#[test]
fn the_byte_table_is_the_decoders() {
    let tokenizer = byte_level();
    for byte in 0..=255u8 {
        let decoded = tokenizer.decode(&[u32::from(byte)], false).expect("decodes");
        assert_eq!(decoded, String::from_utf8_lossy(&[byte]));
        assert_eq!(tokenizer.id_to_piece(u32::from(byte)), Some(char_of(byte).to_string()));
    }
    assert_eq!((byte_of(' '), byte_of('\u{ad}'), byte_of('\u{144}')), (None, None, None));
    assert_eq!((byte_of('Ġ'), byte_of('Ċ')), (Some(b' '), Some(b'\n')));
}

#[test]
fn bos_comes_once() {
    let hello = [BOS, 256, 257, u32::from(b'o')];
    let put = template(&[("<bos>", BOS)], &[]);
    let put_both = template(&[("<bos>", BOS)], &[("<eos>", EOS)]);
    let put_eos = template(&[], &[("<eos>", EOS)]);
    let none = Value::Null;
    for (post_processor, bos_id, add_bos, expected) in [
        (&put, Some(BOS), None, true),
        (&put, Some(BOS), Some(true), true),
        (&put, Some(BOS), Some(false), false),
        (&put, None, None, true),
        (&put, None, Some(true), true),
        (&put, None, Some(false), false),
        (&put_both, Some(BOS), None, true),
        (&put_both, Some(BOS), Some(false), false),
        (&put_eos, Some(BOS), None, false),
        (&put_eos, Some(BOS), Some(true), true),
        (&none, Some(BOS), None, false),
        (&none, Some(BOS), Some(true), true),
        (&none, Some(BOS), Some(false), false),
        (&none, None, None, false),
    ] {
        let tokenizer = open(&byte_level_json(post_processor), bos_id, add_bos);
        let case = format!("{post_processor} {bos_id:?} {add_bos:?}");
        let start = usize::from(!expected);
        assert_eq!(tokenizer.encode("hello", true).expect("encodes"), hello[start..], "{case}");
        assert_eq!(tokenizer.encode("", true).expect("encodes"), hello[start..1], "{case}");
        // Written out it is there once, wanted or not.
        assert_eq!(tokenizer.encode("<bos>hello", true).expect("encodes"), hello, "{case}");
        assert_eq!(tokenizer.encode("<bos>hello", false).expect("encodes"), hello, "{case}");
        assert_eq!(tokenizer.encode("hello", false).expect("encodes"), hello[1..], "{case}");
        assert!(tokenizer.encode("", false).expect("encodes").is_empty(), "{case}");
        // An end that the text itself has stays.
        assert_eq!(tokenizer.encode("<eos>", false).expect("encodes"), [EOS], "{case}");
    }
}

#[test]
fn several_tokens_in_front() {
    let post_processor = template(&[("<bos>", BOS), ("<tool é>", 264)], &[]);
    let tokenizer = open(&byte_level_json(&post_processor), Some(BOS), None);
    let expected = [BOS, 264, 256];
    for text in ["he", "<bos>he", "<bos><tool é>he"] {
        assert_eq!(tokenizer.encode(text, true).expect("encodes"), expected, "{text}");
    }
    let tokenizer = open(&byte_level_json(&post_processor), Some(BOS), Some(false));
    assert_eq!(tokenizer.encode("he", true).expect("encodes"), expected[1..]);
}

#[test]
fn an_unknown_bos_cannot_be_added() {
    let json = byte_level_json(&Value::Null).to_string();
    let error = Tokenizer::from_json(json.as_bytes(), None, Some(true)).expect_err("no BOS");
    assert!(matches!(error, TokenizerError::BosUnknown), "{error}");
}

#[test]
fn bad_files_are_refused() {
    for bytes in [&b""[..], b"{}", b"[1, 2]", b"\xff\xfe", b"{\"version\": \"1.0\"}"] {
        let error = Tokenizer::from_json(bytes, None, None).expect_err("no tokenizer");
        assert!(matches!(error, TokenizerError::Json { .. }), "{error}");
    }
    let mut json = byte_level_json(&Value::Null);
    json["decoder"] = json!({"type": "Sequence", "decoders": [json["decoder"], {"type": "Fuse"}]});
    let error = Tokenizer::from_json(json.to_string().as_bytes(), None, None).expect_err("a strange decoder");
    assert!(matches!(error, TokenizerError::Unsupported { part: "decoder", .. }), "{error}");
    let mut gap = byte_level_json(&Value::Null);
    gap["added_tokens"][3]["id"] = json!(300);
    let error = Tokenizer::from_json(gap.to_string().as_bytes(), None, None).expect_err("ids with a gap");
    assert!(matches!(error, TokenizerError::AddedId { got: 265, expected: 300, .. }), "{error}");
    // In a sequence of its own it is the plain one.
    json["decoder"]["decoders"].as_array_mut().expect("a list").pop();
    check_stream(&open(&json, None, None), &[256, 257, 258, 0xa5]);
}

#[test]
fn truncation_padding_and_dropout_are_off() {
    let mut json = byte_level_json(&Value::Null);
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    json["model"]["dropout"] = json!(0.9);
    let tokenizer = open(&json, None, None);
    let ids = tokenizer.encode("hehehe", true).expect("encodes");
    assert_eq!(ids, [256, 256, 256]);
    assert_eq!(tokenizer.encode("he", true).expect("encodes"), [256]);
}

#[test]
fn counts_and_pieces() {
    let tokenizer = byte_level();
    assert_eq!((tokenizer.token_count(), tokenizer.max_id()), (266, Some(265)));
    assert_eq!(tokenizer.id_to_piece(260).as_deref(), Some("Ġt"));
    assert_eq!(tokenizer.id_to_piece(264).as_deref(), Some("<tool é>"));
    assert_eq!(tokenizer.id_to_piece(299), None);
    assert_eq!([BOS, EOS, 264, 256, 299].map(|id| tokenizer.is_special(id)), [true, true, false, false, false]);
}

#[test]
fn decode_skips_what_it_is_told_to() {
    let tokenizer = byte_level();
    let ids = [BOS, 256, 264, 299, 4_000_000_000, EOS];
    assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), "he<tool é>");
    assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), "<bos>he<tool é><eos>");
    assert_eq!(tokenizer.decode(&[], false).expect("decodes"), "");
    assert_eq!(tokenizer.decode(&[BOS, 299], true).expect("decodes"), "");
    assert_eq!(tokenizer.encode("he<tool é>", false).expect("encodes"), [256, 264]);
}

#[test]
fn byte_level_streams_whole_characters() {
    let tokenizer = byte_level();
    let mut stream = TextStream::new(&tokenizer, true);
    // 日日: its tokens are cut inside both characters.
    let texts = [258, 259, 0x97, 0xa5, 256, BOS, 299].map(|id| stream.push(id).expect("decodes"));
    assert_eq!(texts, ["", "日", "", "日", "he", "", ""]);
    for text in ["hello the<tool é>re", "日日本 né \u{1F469}\u{200D}\u{1F680}", " \n\n\t x", "e\u{301}\u{FFFD}!"] {
        check_stream(&tokenizer, &tokenizer.encode(text, true).expect("encodes"));
    }
}

#[test]
fn byte_level_streams_broken_bytes_like_decode() {
    let tokenizer = byte_level();
    check_stream(&tokenizer, &[258]);
    check_stream(&tokenizer, &[258, 258, 0xa5, 256]);
    check_stream(&tokenizer, &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0xf0, 0x9f, 0x91, 256]);
    check_stream(&tokenizer, &[0xf0, 0x9f, EOS, 0x91, 0x8d, 0xed, 0xa0, 0x80, 0xc0, 0x80, 0xf4, 0x90]);
    let mut state = 1u32;
    for _ in 0..300 {
        let ids: Vec<u32> = (0..40)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Mostly upper bytes, then merged pieces and added tokens.
                if state >> 30 == 0 { 256 + (state >> 8) % 12 } else { 0x80 + (state >> 8) % 0x80 }
            })
            .collect();
        check_stream(&tokenizer, &ids);
    }
}

#[test]
fn sentencepiece_round_trips() {
    let tokenizer = sentencepiece();
    let there = 269;
    assert_eq!(tokenizer.id_to_piece(there).as_deref(), Some("▁there"));
    assert_eq!(tokenizer.encode("there there", true).expect("encodes"), [1, there, there]);
    assert_eq!(tokenizer.encode("<s>there", true).expect("encodes"), [1, there]);
    assert_eq!(tokenizer.encode("", true).expect("encodes"), [1]);
    for text in ["there", " there", "  there  a", "日本 a", " ", "   ", "\n", "a\u{1F469}\u{200D}\u{1F680}é"] {
        let ids = tokenizer.encode(text, true).expect("encodes");
        assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), text);
        check_stream(&tokenizer, &ids);
    }
}

#[test]
fn sentencepiece_keeps_the_space_between_prompt_and_answer() {
    let tokenizer = sentencepiece();
    let there = 269;
    let first =
        |prompt: &[u32], id| TextStream::after(&tokenizer, prompt, true).expect("decodes").push(id).expect("decodes");
    assert_eq!(first(&[1, there], there), " there");
    assert_eq!(first(&[1], there), "there"); // here it does begin the text
    assert_eq!(first(&[], there), "there");
    assert_eq!(first(&[1, 259], there), " there"); // a lone ▁ is the space that is dropped
    assert_eq!(first(&[1, there, 2, 1], there), " there");
    let long: Vec<u32> = [[there; 40], [2; 40]].concat();
    assert_eq!(first(&long, there), " there");
    // Alone, the token before would have been stripped of its only space.
    let mut stream = TextStream::after(&tokenizer, &[1, there], true).expect("decodes");
    let texts = [259, 259, there, 270].map(|id| stream.push(id).expect("decodes"));
    assert_eq!(texts, [" ", " ", " there", "  "]);
}

#[test]
fn byte_fallback_streams_whole_characters() {
    let tokenizer = sentencepiece();
    let byte = |b: u8| 3 + u32::from(b);
    let bytes = |text: &str| text.bytes().map(byte).collect::<Vec<_>>();
    let mut stream = TextStream::new(&tokenizer, true);
    let texts: Vec<String> =
        [bytes("日é"), vec![269]].concat().into_iter().map(|id| stream.push(id).expect("decodes")).collect();
    assert_eq!(texts, ["", "", "日", "", "é", " there"]);
    // A special token in the middle is not there when it is skipped, and ends the row of bytes when it is not.
    check_stream(&tokenizer, &[1, byte(0xe6), 2, byte(0x97), byte(0xa5)]);
    // Spaces as bytes, where the first is dropped.
    check_stream(&tokenizer, &[1, byte(b' '), byte(b' '), 269, byte(b' '), 269]);
    check_stream(&tokenizer, &[byte(b' '), 2, 269]);
    // Unfinished, at the end and in the middle.
    check_stream(&tokenizer, &[269, byte(0xe6), byte(0x97)]);
    check_stream(&tokenizer, &[byte(0xe6), byte(0x97), 269, byte(0xff), 269, byte(0x80), byte(0x80)]);
}

#[test]
fn bad_bytes_in_a_row_leave_printed_characters_alone() {
    let tokenizer = sentencepiece();
    let ids: Vec<u32> = "日".bytes().chain([0xff]).map(|b| 3 + u32::from(b)).chain([269]).collect();
    assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD} there");
    assert_eq!(stream_all(&tokenizer, &ids, true), "日\u{FFFD} there");
}

#[test]
fn other_decoders_stream_too() {
    let mut json = sentencepiece_json();
    for decoder in [
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": false}),
        json!({"type": "BPEDecoder", "suffix": "re"}),
        json!({"type": "Fuse"}),
        Value::Null,
    ] {
        json["decoder"] = decoder;
        let tokenizer = open(&json, Some(1), None);
        check_stream(&tokenizer, &[1, 269, 269, 259, 259, 264, 2, 262, 5, 269, 260, 262]);
        check_stream(&tokenizer, &[1, 2, 259, 269]);
    }
}

#[test]
fn the_window_stays_small() {
    let tokenizer = sentencepiece();
    let mut stream = TextStream::new(&tokenizer, true);
    for i in 0..10_000u32 {
        // Stray continuation bytes, spaces, skipped and unknown ids: nothing may pile up.
        stream.push([3 + 0x80, 259, 2, 9999, 3 + 0xe6][(i % 5) as usize]).expect("decodes");
        assert!(stream.context.len() <= MAX_CONTEXT + 1 && stream.bytes.len() <= 3 && stream.run.len() <= 4);
    }
}
