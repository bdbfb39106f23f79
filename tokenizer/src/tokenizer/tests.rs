use super::*;
use crate::testing::*;
use crate::vocab::{Contents, Family, Piece, byte_of, char_of};
use serde_json::{Value, json};

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
        // Written out in the text, BOS comes once, wanted or not.
        assert_eq!(tokenizer.encode("<bos>hello", true).expect("encodes"), hello, "{case}");
        assert_eq!(tokenizer.encode("<bos>hello", false).expect("encodes"), hello, "{case}");
        assert_eq!(tokenizer.encode("hello", false).expect("encodes"), hello[1..], "{case}");
        assert!(tokenizer.encode("", false).expect("encodes").is_empty(), "{case}");
        // An EOS in the text itself stays.
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
    // ByteLevel alone in a sequence is allowed.
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

/// Grammars and DRY ask for the bytes of all tokens: what a file may ask for in a few bytes each is bounded.
#[test]
fn the_bytes_of_all_tokens_are_bounded() {
    let mut contents = Contents::new(Family::ByteLevel);
    contents.byte_ids = (0..256).collect();
    contents.pieces = vec![Some(Piece { bytes: vec![b'a'; 4096], ..Piece::default() }); 8193];
    contents.token_count = 8193;
    let tokenizer = Tokenizer::from_section(contents.to_bytes(), None, None).unwrap();
    let all = tokenizer.token_bytes(8192).unwrap();
    assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 32 << 20);
    let error = tokenizer.token_bytes(8193).unwrap_err().to_string();
    assert!(error.contains("vocab is more than 32 MiB of text"), "{error}");
}
