//! One file built in code for each way in which a header is wrong.

use crate::gguf::container::*;
use crate::gguf::kinds::Scalar;
use crate::gguf::tests::build::*;

fn error(bytes: &[u8]) -> GgufError {
    Header::parse(bytes).unwrap_err()
}

fn good() -> Vec<u8> {
    let keys = [
        key("a", TEXT, &text("word")),
        key("b", 5, &(-3i32).to_le_bytes()),
        key("c", ARRAY, &array(TEXT, 2, &[text("x"), text("")].concat())),
        key("d", 7, &[1]),
        key("e", ARRAY, &array(4, 2, &[0; 8])),
        key("f", 6, &1.5f32.to_le_bytes()),
    ];
    file(&keys, &[tensor("t", &[32, 3], 8, 0), tensor("u", &[2], 0, 128)], 160)
}

#[test]
fn a_whole_file_is_read() {
    let bytes = good();
    let header = Header::parse(&bytes).unwrap();
    let Some(Value::Text(range)) = header.get("a") else { panic!("no text") };
    assert_eq!(&bytes[range.clone()], b"word");
    assert_eq!(header.get("b"), Some(&Value::Signed(-3)));
    assert!(matches!(header.get("c"), Some(Value::Texts(2, range)) if range.len() == 17));
    assert_eq!(header.get("d"), Some(&Value::Bool(true)));
    assert!(matches!(header.get("e"), Some(Value::Array(Scalar::Unsigned(4), range)) if range.len() == 8));
    assert_eq!(header.get("f"), Some(&Value::Float(1.5)));
    let [t, u] = &header.tensors[..] else { panic!("two tensors") };
    assert_eq!((&t.shape[..], t.kind.name, t.range.len()), (&[3, 32][..], "Q8_0", 102));
    assert_eq!((u.range.start, u.range.end), (t.range.start + 128, bytes.len() - 24));
}

#[test]
fn every_cut_is_refused_but_that_of_the_last_padding() {
    let bytes = good();
    let end = bytes.len() - 24;
    assert!((0..end).all(|len| Header::parse(&bytes[..len]).is_err()));
    assert!((end..=bytes.len()).all(|len| Header::parse(&bytes[..len]).is_ok()));
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(error(&longer), GgufError::Length { got: bytes.len() + 1, expected: bytes.len() });
}

#[test]
fn other_containers_are_refused() {
    assert_eq!(error(b"GGML"), GgufError::Magic);
    for (version, expected) in [(0, GgufError::Version(0)), (1, GgufError::Version(1)), (4, GgufError::Version(4))] {
        let mut bytes = good();
        bytes[4..8].copy_from_slice(&u32::to_le_bytes(version));
        assert_eq!(error(&bytes), expected);
    }
    let mut bytes = good();
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert_eq!(error(&bytes), GgufError::BigEndian);
}

#[test]
fn counts_and_lengths_are_bounded() {
    for at in [8, 16] {
        let mut bytes = good();
        bytes[at..at + 8].fill(0xff);
        assert!(matches!(error(&bytes), GgufError::Count { got: u64::MAX, .. }));
    }
    // The length of a key, of a text, and the count of arrays of texts and of numbers.
    let huge = u64::MAX.to_le_bytes();
    let keys = [huge.to_vec(), key("k", TEXT, &huge), key("k", ARRAY, &array(TEXT, u64::MAX, &[]))];
    for bytes in keys.iter().map(|key| file(std::slice::from_ref(key), &[], 0)) {
        assert!(matches!(error(&bytes), GgufError::Short { .. }), "{:?}", error(&bytes));
    }
    for count in [u64::MAX, 1 << 61, 1 << 40] {
        let bytes = file(&[key("k", ARRAY, &array(12, count, &[]))], &[], 0);
        assert!(matches!(error(&bytes), GgufError::Short { what: "an array", .. }));
    }
}

#[test]
fn keys_are_checked() {
    let one = |key: Vec<u8>| error(&file(&[key], &[], 0));
    assert!(matches!(one(key("", 7, &[0])), GgufError::Text { fault: "empty", .. }));
    assert!(matches!(one(key(&"k".repeat(65_536), 7, &[0])), GgufError::Text { fault: "too long", .. }));
    assert!(matches!(one(key("k", TEXT, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])), GgufError::Text { .. }));
    assert!(matches!(one(key("k", 7, &[2])), GgufError::Bool { got: 2, .. }));
    assert!(matches!(one(key("k", ARRAY, &array(7, 2, &[1, 3]))), GgufError::Bool { got: 3, .. }));
    assert!(matches!(one(key("k", 13, &[0; 8])), GgufError::KeyType { got: 13, in_array: false, .. }));
    for kind in [ARRAY, 13, u32::MAX] {
        let nested = one(key("k", ARRAY, &array(kind, 1 << 40, &[0; 16])));
        assert!(matches!(nested, GgufError::KeyType { got, in_array: true, .. } if got == kind));
    }
    let twice = file(&[key("k", 7, &[0]), key("k", 7, &[0])], &[], 0);
    assert!(matches!(error(&twice), GgufError::Twice { what: "key", .. }));
}

#[test]
fn alignments_are_powers_of_two_within_reason() {
    for got in [0, 3, 48, 1 << 21, 1 << 31, u32::MAX] {
        let bytes = file(&[key("general.alignment", 4, &got.to_le_bytes())], &[], 0);
        assert_eq!(error(&bytes), GgufError::Alignment { got: got.to_string() });
    }
    let bytes = file(&[key("general.alignment", TEXT, &text("32"))], &[], 0);
    assert!(matches!(error(&bytes), GgufError::Alignment { .. }));
}

#[test]
fn tensors_are_checked() {
    let one = |tensor: Vec<u8>| error(&file(&[], &[tensor], 1024));
    for dims in [&[][..], &[1; 5], &[0], &[4, 0], &[1 << 33, 1 << 33], &[u64::MAX], &[31]] {
        assert!(matches!(one(tensor("t", dims, 8, 0)), GgufError::Dims { .. }), "{dims:?}");
    }
    // Rows of whole blocks whose bytes do not fit 64 bits, and whose padded end does not.
    for dims in [[1 << 62, 1], [(1 << 62) - 1, 1]] {
        let kind = if dims[0] == 1 << 62 { 28 } else { 0 };
        assert!(matches!(one(tensor("t", &dims, kind, 0)), GgufError::Dims { .. }), "{dims:?}");
    }
    for kind in [4, 5, 31, 36, 1000, u32::MAX] {
        assert_eq!(one(tensor("t", &[32], kind, 0)), GgufError::TensorType { tensor: "t".into(), got: kind });
    }
    assert!(matches!(one(tensor("", &[32], 0, 0)), GgufError::Text { fault: "empty", .. }));
    assert!(matches!(one(tensor(&"n".repeat(64), &[32], 0, 0)), GgufError::Text { fault: "too long", .. }));
    // Data beyond the file, and files of a terabyte that are not there.
    assert!(matches!(one(tensor("t", &[1024], 0, 0)), GgufError::Length { .. }));
    assert!(matches!(one(tensor("t", &[1 << 40], 0, 0)), GgufError::Length { .. }));
    let twice = [tensor("t", &[8], 0, 0), tensor("t", &[8], 0, 32)];
    assert!(matches!(error(&file(&[], &twice, 64)), GgufError::Twice { what: "tensor", .. }));
}

#[test]
fn tensors_neither_overlap_nor_leave_gaps() {
    for offset in [0, 31, 64, u64::MAX] {
        let pair = [tensor("t", &[8], 0, 0), tensor("u", &[8], 0, offset)];
        let expected = GgufError::Offset { tensor: "u".into(), got: offset, expected: 32 };
        assert_eq!(error(&file(&[], &pair, 64)), expected);
    }
}
