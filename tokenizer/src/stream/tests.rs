use super::*;
use crate::testing::*;
use serde_json::{Value, json};

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
    // A special token inside a row of bytes has no effect if it is skipped, and ends the row if it is not.
    check_stream(&tokenizer, &[1, byte(0xe6), 2, byte(0x97), byte(0xa5)]);
    // Spaces as bytes; the first is dropped.
    check_stream(&tokenizer, &[1, byte(b' '), byte(b' '), 269, byte(b' '), 269]);
    check_stream(&tokenizer, &[byte(b' '), 2, 269]);
    // Unfinished, at the end and in the middle.
    check_stream(&tokenizer, &[269, byte(0xe6), byte(0x97)]);
    check_stream(&tokenizer, &[byte(0xe6), byte(0x97), 269, byte(0xff), 269, byte(0x80), byte(0x80)]);
    // A byte that makes those before it bad and is itself unfinished.
    check_stream(&tokenizer, &[byte(0xe6), byte(0xe6), 269]);
    check_stream(&tokenizer, &[269, byte(0xf0), byte(0x9f), byte(0xe6), 269, byte(0xe6), byte(0xe6), byte(0x97), 269]);
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

#[test]
fn a_stream_outlives_its_tokenizer_on_another_thread() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    let mut stream = {
        let tokenizer = sentencepiece();
        shared(&tokenizer);
        TextStream::after(&tokenizer, &[1, 269], true).expect("decodes")
    };
    shared(&stream);
    let text = std::thread::spawn(move || stream.push(269).expect("decodes")).join().expect("no panic");
    assert_eq!(text, " there");
}
