//! Tests merging against its definition, and damaged or hostile sections.

use super::*;
use proptest::prelude::*;

/// Byte-level family: "he", "ll", "hell", " t" and some added tokens.
fn byte_level_contents() -> Contents {
    let mut contents = Contents::new(Family::ByteLevel);
    contents.byte_ids = (0..256).collect();
    contents.pieces = (0..=255u8).map(|b| Some(Piece { bytes: vec![b], ..Piece::default() })).collect();
    for text in ["he", "ll", "hell", " t"] {
        contents.pieces.push(Some(Piece { bytes: text.into(), ..Piece::default() }));
    }
    contents.merges = vec![
        [u32::from(b'h'), u32::from(b'e'), 0, 256],
        [u32::from(b'l'), u32::from(b'l'), 1, 257],
        [256, 257, 2, 258],
        [u32::from(b' '), u32::from(b't'), 3, 259],
    ];
    let special = |text: &str| Some(Piece { bytes: text.into(), special: true, literal: true });
    contents.pieces.extend([special("<a b>"), special("<a"), None, special("<a b>>")]);
    let added = |text: &str, id| Added { text: text.into(), id, ..Added::default() };
    contents.added = vec![added("<a b>", 260), added("<a", 261), added("<a b>>", 263)];
    contents.lead = vec![261];
    contents.pattern = r"\p{N}| ?\p{L}+".into();
    contents.keys = (0..260).collect();
    contents
}

/// Text family: "ab" and all that merges make of a and b.
fn text_contents() -> Contents {
    let mut contents = Contents::new(Family::Text);
    contents.byte_ids = (0..256).collect();
    contents.pieces =
        (0..=255u8).map(|b| Some(Piece { bytes: format!("<0x{b:02X}>").into_bytes(), ..Piece::default() })).collect();
    for text in ["▁", "a", "b", "▁a", "ab", "ba", "aba"] {
        contents.pieces.push(Some(Piece { bytes: text.into(), ..Piece::default() }));
    }
    contents.keys = vec![256, 257, 258];
    contents.added = vec![Added { text: "<a b>".into(), id: 3, ..Added::default() }];
    contents.merges = vec![[257, 258, 0, 260], [256, 257, 1, 259], [258, 257, 2, 261], [260, 257, 3, 262]];
    contents
}

fn encode(section: &[u8], text: &str) -> Vec<u32> {
    let vocabulary = CompiledVocabulary::open(section).unwrap();
    vocabulary.encode(&Splitter::new(&vocabulary).unwrap(), text).unwrap()
}

#[test]
fn bytes_are_split_and_merged() {
    let section = byte_level_contents().to_bytes();
    assert!(encode(&section, "").is_empty());
    assert_eq!(encode(&section, "hell"), [258]);
    assert_eq!(encode(&section, "hello th1"), [258, 111, 259, 104, 49]);
    assert_eq!(encode(&section, "é\0"), [0xc3, 0xa9, 0]);
    let ignoring = Contents { ignore_merges: true, merges: Vec::new(), ..byte_level_contents() }.to_bytes();
    assert_eq!(encode(&ignoring, "hell hello"), [258, 32, 104, 101, 108, 108, 111]);
}

#[test]
fn the_longest_added_token_is_taken() {
    let section = byte_level_contents().to_bytes();
    for (text, ids) in [
        ("<a b>>", vec![263]),
        ("<a b>", vec![260]),
        ("<a b<a b>h", vec![261, 32, 98, 260, 104]),
        ("<<a", vec![60, 261]),
        ("<", vec![60]),
        ("<b<aé", vec![60, 98, 261, 0xc3, 0xa9]),
    ] {
        assert_eq!(encode(&section, text), ids, "{text}");
    }
    let vocabulary = CompiledVocabulary::open(&section).unwrap();
    assert_eq!(vocabulary.decode(&[260, 262, 258, 0xff, 9999], false), "<a b>hell\u{FFFD}");
    assert_eq!(vocabulary.decode(&[260, 258], true), "hell");
    assert_eq!((vocabulary.piece(259).unwrap(), vocabulary.piece(260).unwrap()), ("Ġt".into(), "<a b>".into()));
    assert_eq!((vocabulary.piece(262), vocabulary.max_id(), vocabulary.lead()), (None, Some(263), &[261][..]));
}

#[test]
fn added_tokens_may_take_spaces() {
    let mut contents = byte_level_contents();
    (contents.added[0].left, contents.added[1].right) = (true, true);
    let section = contents.to_bytes();
    for (text, ids) in [
        ("h \n\u{3000}<a b> h", vec![104, 260, 32, 104]),
        ("<a  <a b>  <a  ", vec![261, 260, 32, 32, 261]),
        ("  <a b>", vec![260]),
        ("<a \t", vec![261]),
    ] {
        assert_eq!(encode(&section, text), ids, "{text}");
    }
}

#[test]
fn added_tokens_may_be_whole_words_only() {
    let mut contents = byte_level_contents();
    contents.added = vec![Added { text: "th".into(), id: 260, word: true, ..Added::default() }];
    let section = contents.to_bytes();
    for (text, ids) in
        [("th", vec![260]), ("-th.", vec![45, 260, 46]), ("thh", vec![116, 104, 104]), ("_th", vec![95, 116, 104])]
    {
        assert_eq!(encode(&section, text), ids, "{text}");
    }
}

/// What older programs can read is written for them, and what they would take wrongly they do not read.
#[test]
fn each_section_has_the_oldest_layout_that_can_say_it() {
    let layout = |contents: Contents| contents.to_bytes()[0];
    let (bytes, text) = (byte_level_contents, text_contents);
    let word = Added { text: "th".into(), id: 260, word: true, ..Added::default() };
    assert_eq!((layout(bytes()), layout(text())), (1, 1));
    assert_eq!(layout(Contents { ignore_merges: true, nfc: true, ..bytes() }), 1);
    for contents in [
        Contents { prefix: Prefix::Never, ..text() },
        Contents { keep_space: true, ..text() },
        Contents { split_spaces: true, ..text() },
        Contents { space_in_front: true, ..bytes() },
        Contents { pattern: "a\0b".into(), ..bytes() },
        Contents { added: vec![word.clone()], ..bytes() },
        Contents { added_normalized: vec![word.clone()], ..bytes() },
        Contents { added_normalized: vec![Added { word: false, ..word }], ..text() },
    ] {
        let mut section = contents.to_bytes();
        assert_eq!(section[0], 2, "{contents:?}");
        CompiledVocabulary::open(&section).unwrap();
        section[0] = 1;
        let first = CompiledVocabulary::open(&section);
        assert_eq!(first.is_err(), contents.to_bytes()[8] > 3, "options of the second layout are none of the first");
        section[0] = 3;
        assert!(matches!(CompiledVocabulary::open(&section), Err(VocabularyError::Version { got: 3, known: 2 })));
    }
}

#[test]
fn the_mark_in_front_has_four_ways() {
    // 256 is the mark, 259 the mark with a, 260 ab.
    for (prefix, text, ids) in [
        (Prefix::Always, "a b", [259, 256, 258].as_slice()),
        (Prefix::Always, " a", &[256, 259]),
        (Prefix::Never, "a b", &[257, 256, 258]),
        (Prefix::Never, " a", &[259]),
        (Prefix::First, " a", &[259]),
        (Prefix::First, "a<a", &[259, 300, 257]),
        (Prefix::Missing, "a<a<", &[259, 300, 259, 300]),
        (Prefix::Missing, "a< a", &[259, 300, 259]),
    ] {
        let added = vec![Added { text: "<".into(), id: 300, ..Added::default() }];
        let section = Contents { prefix, added, ..text_contents() }.to_bytes();
        assert_eq!(encode(&section, text), ids, "{prefix:?} {text:?}");
    }
    let merged = Contents { merges: vec![[257, 256, 0, 262]], ..text_contents() };
    assert_eq!(encode(&Contents { prefix: Prefix::Never, ..merged.clone() }.to_bytes(), "a a"), [262, 257]);
    let apart = Contents { prefix: Prefix::Never, split_spaces: true, ..merged };
    assert_eq!(encode(&apart.to_bytes(), "a a"), [257, 256, 257]);
}

#[test]
fn expressions_split_one_after_the_other() {
    let contents = |pattern: &str| Contents { pattern: pattern.into(), ..byte_level_contents() };
    assert_eq!(encode(&contents(r"\p{L}+").to_bytes(), "1hell1"), [49, 258, 49]);
    assert_eq!(encode(&contents("\\p{L}+\0[hel]{3}").to_bytes(), "1hell1"), [49, 256, 108, 108, 49]);
    let vocabulary = contents(&["a"; 17].join("\0")).to_bytes();
    assert!(Splitter::new(&CompiledVocabulary::open(&vocabulary).unwrap()).is_err());
    let spaced = Contents { space_in_front: true, ..contents("") }.to_bytes();
    assert_eq!((encode(&spaced, "th"), encode(&spaced, " th")), (vec![259, 104], vec![259, 104]));
}

#[test]
fn characters_without_a_piece_become_bytes() {
    let section = text_contents().to_bytes();
    assert_eq!(encode(&section, "aba a\u{e9}"), [256, 262, 259, 0xc3, 0xa9]);
    let vocabulary = CompiledVocabulary::open(&section).unwrap();
    assert_eq!(vocabulary.decode(&[256, 262, 259, 0xc3, 0xa9, 0xc3], false), "aba a\u{FFFD}\u{FFFD}\u{FFFD}");
    assert_eq!(vocabulary.decode(&[256, 262, 259, 0xc3, 0xa9], false), "aba aé");
}

#[test]
fn text_is_composed_if_asked() {
    let composed = Contents { nfc: true, ..byte_level_contents() }.to_bytes();
    assert_eq!(encode(&composed, "e\u{301}"), [0xc3, 0xa9]);
    assert_eq!(encode(&byte_level_contents().to_bytes(), "e\u{301}"), [101, 0xcc, 0x81]);
}

#[test]
fn the_bytes_of_gpt2() {
    for byte in 0..=255 {
        assert_eq!(byte_of(char_of(byte)), Some(byte));
    }
    assert_eq!((byte_of(' '), byte_of('\u{144}'), char_of(b' ')), (None, None, 'Ġ'));
}

#[test]
fn a_header_that_lies_is_refused() {
    let good = byte_level_contents().to_bytes();
    for n in 0..good.len() {
        assert!(CompiledVocabulary::open(&good[..n]).is_err(), "{n} bytes");
    }
    assert!(CompiledVocabulary::open(&[good.as_slice(), &[0]].concat()).is_err());
    for word in 0..HEAD {
        for value in [0u32, 1, 2, 3, 7, 1 << 16, 1 << 31, u32::MAX - 1, u32::MAX] {
            let mut bytes = good.clone();
            if bytes[word * 4..][..4] == value.to_le_bytes() || [1, 2, 4].contains(&word) || (word, value) == (0, 2) {
                continue;
            }
            bytes[word * 4..][..4].copy_from_slice(&value.to_le_bytes());
            assert!(CompiledVocabulary::open(&bytes).is_err(), "number {word} is {value}");
        }
    }
    let wide: Vec<u32> = bytemuck::pod_collect_to_vec(&[good.as_slice(), &[0; 8]].concat()[..good.len() / 4 * 4]);
    assert!(matches!(
        CompiledVocabulary::open(&bytemuck::cast_slice(&wide)[1..]),
        Err(VocabularyError::Alignment | VocabularyError::Version { .. })
    ));
}

#[test]
fn a_crowded_table_still_holds_everything() {
    // Every pair of 0..100 and 0..100; no pair whose left id is larger.
    let merges: Vec<[u32; 4]> = (0..10_000).map(|i| [i / 100, i % 100, i, 10_000 + i]).collect();
    let section = Contents { merges, ..byte_level_contents() }.to_bytes();
    let vocabulary = CompiledVocabulary::open(&section).unwrap();
    for i in 0..10_000 {
        assert_eq!(vocabulary.merge_of(i / 100, i % 100), Some((i, 10_000 + i)));
        assert_eq!(vocabulary.merge_of(i / 100 + 100, i % 100), None);
    }
}

/// Merges by the definition: search all pairs, merge one, repeat.
fn merge_by_definition(vocabulary: &CompiledVocabulary, mut symbols: Vec<u32>) -> Vec<u32> {
    loop {
        let pairs = symbols.windows(2).enumerate();
        let ranked = pairs.filter_map(|(at, p)| vocabulary.merge_of(p[0], p[1]).map(|(rank, id)| (rank, at, id)));
        let Some((_, at, id)) = ranked.min() else { return symbols };
        symbols.splice(at..at + 2, [id]);
    }
}

proptest! {
    #[test]
    fn few_and_many_merge_alike(word in proptest::collection::vec(256u32..259, 0..120)) {
        let section = text_contents().to_bytes();
        let vocabulary = CompiledVocabulary::open(&section).unwrap();
        let (mut scratch, mut few, mut many) = (merge::Scratch::default(), word.clone(), Vec::new());
        vocabulary.merge_few(&mut few, &mut Vec::new());
        if word.len() > 1 {
            vocabulary.merge_many(&word, &mut scratch, &mut many);
            prop_assert_eq!(&few, &many);
        }
        prop_assert_eq!(few, merge_by_definition(&vocabulary, word));
    }

    #[test]
    fn a_damaged_section_may_be_wrong_but_is_harmless(
        hits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..200),
        family in any::<bool>(),
        options in 0u32..128,
    ) {
        let mut contents = if family { byte_level_contents() } else { text_contents() };
        contents.ignore_merges = options & 1 != 0;
        contents.nfc = options & 2 != 0;
        contents.prefix = Prefix::of(options >> 2 & 3);
        contents.split_spaces = options & 32 != 0;
        contents.space_in_front = options & 64 != 0;
        if options & 16 != 0 {
            contents.added[0].word = true;
            contents.pattern = "\\p{N}\0\\p{L}+".into();
        }
        let mut bytes = contents.to_bytes();
        let head = HEAD * 4;
        for (at, value) in hits {
            let at = head + at.index(bytes.len() - head);
            bytes[at] = value;
        }
        if let Ok(vocabulary) = CompiledVocabulary::open(&bytes) {
            if let Ok(splitter) = Splitter::new(&vocabulary) {
                let text = "hello the<a b>re <a b>> \u{1F469}\u{200D}\u{1F680} abab e\u{301} 12\n\n".repeat(3);
                if let Ok(ids) = vocabulary.encode(&splitter, &text) {
                    let _ = vocabulary.decode(&ids, true);
                }
            }
            for id in 0..300 {
                let _ = (vocabulary.piece(id), vocabulary.is_special(id));
            }
        }
    }
}

#[test]
fn what_is_too_long_is_not_there() {
    let mut contents = byte_level_contents();
    let piece = |len: usize| Some(Piece { bytes: vec![b'x'; len], ..Piece::default() });
    contents.pieces.extend([piece(MAX_PIECE), piece(MAX_PIECE + 1)]);
    let added = |len: usize, id| Added { text: "y".repeat(len), id, ..Added::default() };
    contents.added = vec![added(MAX_ADDED, 263)];
    let section = contents.to_bytes();
    let vocabulary = CompiledVocabulary::open(&section).unwrap();
    assert_eq!((vocabulary.has(264), vocabulary.has(265)), (true, false));
    assert_eq!(vocabulary.decode(&[264, 265], false).len(), MAX_PIECE);
    assert_eq!(encode(&section, &"y".repeat(MAX_ADDED)), [263]);
    contents.added = vec![added(MAX_ADDED + 1, 263)];
    let text = "y".repeat(MAX_ADDED + 1);
    assert_eq!(encode(&contents.to_bytes(), &text), vec![u32::from(b'y'); text.len()]);
}

/// Each token is a space and takes the spaces after it: scanning these again for each token would take minutes.
#[test]
fn spaces_are_looked_at_once() {
    let mut contents = byte_level_contents();
    contents.added = vec![Added { text: " ".into(), id: 260, left: true, right: true, word: false }];
    let section = contents.to_bytes();
    let spaces = " ".repeat(300_000);
    assert_eq!(encode(&section, &spaces), vec![260; spaces.len()]);
}

/// Added tokens that share all but their end: at each place the search goes on with one byte less, 255 times.
#[test]
fn nested_added_tokens_take_counted_steps() {
    let nested = |k: usize| Added { text: "b".repeat(k) + "a", id: 0, ..Added::default() };
    let section = Contents { added: (1..=255).map(nested).collect(), ..byte_level_contents() }.to_bytes();
    assert_eq!(encode(&section, &"b".repeat(100)), [u32::from(b'b'); 100]);
    let vocabulary = CompiledVocabulary::open(&section).unwrap();
    let splitter = Splitter::new(&vocabulary).unwrap();
    match vocabulary.encode(&splitter, &"b".repeat(100_000)) {
        Err(VocabularyError::Split { bytes: 100_000, cause }) => assert_eq!(cause, "it takes too many steps"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_budget_covers_all_texts_together() {
    for contents in [byte_level_contents(), text_contents()] {
        let section = contents.to_bytes();
        let vocabulary = CompiledVocabulary::open(&section).unwrap();
        let splitter = Splitter::new(&vocabulary).unwrap();
        // An honest text takes a tenth of what it may at most, even without what any text may take.
        let text = "hello th1 <a <a b> aba ".repeat(1000);
        let mut budget = Budget::new(text.len());
        let before = budget.left();
        vocabulary.encode_within(&splitter, &text, &mut budget).unwrap();
        let used = before - budget.left();
        assert!(used < 200 * text.len() as u64, "{used}");
        // Each text alone is within the budget, all of them are not.
        let mut budget = Budget::new(text.len());
        let encoded = (0..1000).take_while(|_| vocabulary.encode_within(&splitter, &text, &mut budget).is_ok()).count();
        assert!((10..100).contains(&encoded), "{encoded}");
    }
}
