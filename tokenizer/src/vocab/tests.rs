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
            if bytes[word * 4..][..4] == value.to_le_bytes() || word == 1 || word == 2 || word == 4 {
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
        options in 0u32..4,
    ) {
        let mut contents = if family { byte_level_contents() } else { text_contents() };
        contents.ignore_merges = options & 1 != 0;
        contents.nfc = options & 2 != 0;
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
    contents.added = vec![Added { text: " ".into(), id: 260, left: true, right: true }];
    let section = contents.to_bytes();
    let spaces = " ".repeat(300_000);
    assert_eq!(encode(&section, &spaces), vec![260; spaces.len()]);
}
