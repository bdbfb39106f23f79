use super::*;
use crate::{Encoding, ModelSpec, Plan, Writer};
use tempfile::TempDir;

/// A file whose embedding has several chunks, in a folder with room for others.
fn good() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("good.nsv");
    let spec = ModelSpec {
        hidden_size: 64,
        intermediate_size: 32,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        vocab_size: 12_000,
        tied_lm_head: true,
        ..ModelSpec::default()
    };
    let mut plan = Plan::new(spec, Encoding::F32).unwrap();
    plan.section(SectionKind::ChatTemplate, b"hello".to_vec());
    let mut writer = Writer::create(&path, plan).unwrap();
    for index in writer.stored() {
        let fill = |pieces: Range<usize>, out: &mut [u8]| {
            out.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 7 + pieces.start * 31 + index) as u8);
            Ok::<(), FormatError>(())
        };
        writer.write(index, fill).unwrap();
    }
    writer.finish().unwrap();
    (folder, path)
}

#[test]
fn any_damage_is_undone_and_nothing_else_is_written() {
    let (folder, good) = good();
    let bytes = fs::read(&good).unwrap();
    let bad = folder.path().join("bad.nsv");
    let layout = parse(&bytes).unwrap();
    let embed = layout.tensors[0].range.clone();
    assert!(tree::chunk_count(embed.len()) == 3);
    let template = layout.sections.iter().find(|s| s.code == SectionKind::ChatTemplate.code()).unwrap().range.start;
    let cases: [(&str, &[usize], usize); 7] = [
        ("nothing", &[], 0),
        ("a chunk", &[embed.start + CHUNK_BYTES + 9], 1),
        ("two bytes of a chunk", &[embed.start + 1, embed.start + CHUNK_BYTES - 1], 1),
        ("a small tensor and a section", &[layout.tensors[1].range.start, template], 2),
        ("padding", &[embed.start - 1], 1),
        ("the magic", &[0], 1),
        ("the table's hash of a section, and a chunk", &[192 + 8 + 40, embed.end - 1], 2),
    ];
    for (what, places, taken) in cases {
        let mut damaged = bytes.clone();
        places.iter().for_each(|&at| damaged[at] ^= 0x10);
        fs::write(&bad, &damaged).unwrap();
        let repaired = repair(&bad, &good).unwrap();
        assert_eq!(repaired.taken.len(), taken, "{what}: {:?}", repaired.taken);
        for place in places {
            assert!(repaired.taken.iter().any(|d| d.range.contains(place)), "{what}");
        }
        assert!(fs::read(&bad).unwrap() == bytes, "{what}");
    }
    for len in [bytes.len() / 2, bytes.len() + 100] {
        let mut damaged = bytes.clone();
        damaged.resize(len, 7);
        fs::write(&bad, &damaged).unwrap();
        repair(&bad, &good).unwrap();
        assert!(fs::read(&bad).unwrap() == bytes, "{len} bytes");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn zeros_are_written_in_blocks_and_nowhere_else() {
    for (at, len) in [(0, 0), (5, 1), (3, (1 << 16) - 1), (1, 1 << 16), (7, (3 << 16) + 5)] {
        let file = tempfile::tempfile().unwrap();
        let before = vec![9; 5 << 16];
        file.write_all_at(&before, 0).unwrap();
        write_zeros(&file, at as u64, len).unwrap();
        let mut after = vec![1; before.len()];
        file.read_exact_at(&mut after, 0).unwrap();
        assert!(after[at..at + len].iter().all(|&b| b == 0), "{at} {len}");
        assert_eq!(after.iter().filter(|&&b| b == 9).count(), before.len() - len, "{at} {len}");
    }
}

#[test]
fn two_damaged_copies_make_a_good_one() {
    let (folder, good) = good();
    let bytes = fs::read(&good).unwrap();
    let embed = parse(&bytes).unwrap().tensors[0].range.clone();
    let (bad, other) = (folder.path().join("bad.nsv"), folder.path().join("other.nsv"));
    let damaged = |at: usize| {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        damaged
    };
    fs::write(&bad, damaged(embed.start)).unwrap();
    fs::write(&other, damaged(embed.end - 1)).unwrap();
    repair(&bad, &other).unwrap();
    assert!(fs::read(&bad).unwrap() == bytes);
    // If both are damaged in the same chunk, neither helps.
    fs::write(&bad, damaged(embed.end - 2)).unwrap();
    let error = repair(&bad, &other).unwrap_err();
    assert!(matches!(&error, RepairError::Nowhere(parts) if parts.len() == 1), "{error}");
    assert!(fs::read(&bad).unwrap() == damaged(embed.end - 2));
}

#[test]
fn another_file_is_left_alone() {
    let (folder, good) = good();
    let bad = folder.path().join("bad.nsv");
    for content in [&b""[..], b"my notes", &[7; 100_000]] {
        fs::write(&bad, content).unwrap();
        assert!(matches!(repair(&bad, &good), Err(RepairError::Unlike { .. })));
        assert_eq!(fs::read(&bad).unwrap(), content);
    }
    let spec = NsvFile::open(&good).unwrap().spec().clone();
    let mut writer = Writer::create(&bad, Plan::new(spec, Encoding::F32).unwrap()).unwrap();
    for index in writer.stored() {
        let zeros = |_: Range<usize>, out: &mut [u8]| {
            out.fill(0);
            Ok::<(), FormatError>(())
        };
        writer.write(index, zeros).unwrap();
    }
    writer.finish().unwrap();
    assert!(matches!(repair(&bad, &good), Err(RepairError::Another { .. })));
    // A copy whose header is damaged is refused.
    fs::write(folder.path().join("headless.nsv"), b"\x89NSV").unwrap();
    let headless = repair(&bad, &folder.path().join("headless.nsv"));
    assert!(matches!(headless, Err(RepairError::Format(_))));
}
