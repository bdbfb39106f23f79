//! Bad files: a hand-made one for each error of the parser, every truncation, every changed byte.
//!
//! The bytes are assembled according to docs/nsv.md, without the format crate. The first test is that both agree on a
//! valid file.

use nanoserve_format::{Encoding, FileAction, FormatError, ModelSpec, NsvFile, Plan, SectionKind, Writer, parse};
use nanoserve_runtime::{GenerateOptions, KvType};
use nanoserve_tests::parts::{DATA, PREAMBLE, Parts, Section, put, rehash, reroot, u32_at, u64_at};
use nanoserve_tests::targets::{open, touch};
use nanoserve_tests::{ENCODINGS, SplitMix64, changed, engine, for_each_isa, thorough, write_file};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// One entry of the tensor directory. `place` has the 48 bytes of a stored tensor or the 4 of an alias.
#[derive(Clone)]
struct Entry {
    name: Vec<u8>,
    storage: u8,
    encoding: u8,
    dims: Vec<u64>,
    place: Vec<u8>,
}

impl Entry {
    fn decode(mut bytes: &[u8]) -> Vec<Entry> {
        let mut take = |n: usize| bytes.split_off(..n).unwrap().to_vec();
        let count = u32_at(&take(4), 0);
        let mut entry = |_| {
            let name_bytes = u16::from_le_bytes(take(2).try_into().unwrap());
            let name = take(name_bytes.into());
            let [storage, encoding, rank]: [u8; 3] = take(3).try_into().unwrap();
            let dims = (0..rank).map(|_| u64_at(&take(8), 0)).collect();
            Entry { name, storage, encoding, dims, place: take(if storage == 0 { 48 } else { 4 }) }
        };
        (0..count).map(&mut entry).collect()
    }

    fn encode(entries: &[Entry]) -> Vec<u8> {
        let mut out = (entries.len() as u32).to_le_bytes().to_vec();
        for e in entries {
            out.extend((e.name.len() as u16).to_le_bytes());
            out.extend(&e.name);
            out.extend([e.storage, e.encoding, e.dims.len() as u8]);
            out.extend(e.dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(&e.place);
        }
        out
    }

    fn offset(&self) -> u64 {
        u64_at(&self.place, 0)
    }

    fn set_offset(&mut self, offset: u64) {
        put(&mut self.place, 0, &offset.to_le_bytes());
    }

    fn shift(&mut self, bytes: u64) {
        self.set_offset(self.offset() + bytes);
    }

    fn alias(&mut self, target: u32) {
        self.storage = 1;
        self.place = target.to_le_bytes().to_vec();
    }
}

/// The file with a change to the entries of its directory.
fn with_entries(good: &Parts, change: impl Fn(&mut Vec<Entry>)) -> Vec<u8> {
    let mut parts = good.clone();
    let mut entries = Entry::decode(parts.body(2));
    change(&mut entries);
    *parts.body(2) = Entry::encode(&entries);
    parts.file()
}

fn spec() -> ModelSpec {
    ModelSpec {
        hidden_size: 8,
        intermediate_size: 20,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        vocab_size: 33,
        qkv_bias: true,
        tied_lm_head: true,
        ..ModelSpec::default()
    }
}

fn good_file(folder: &Path, sections: &[(SectionKind, Vec<u8>)]) -> Vec<u8> {
    let path = folder.join("good.nsv");
    write_file(&path, &spec(), Encoding::F32, sections, &|name, row, out| {
        let mut random = SplitMix64::new((name.len() * 1000 + row) as u64);
        out.fill_with(|| random.bell());
    });
    fs::read(path).unwrap()
}

fn good_parts() -> Parts {
    Parts::split(&good_file(tempfile::tempdir().unwrap().path(), &[]))
}

#[test]
fn the_document_and_the_writer_agree() {
    let folder = tempfile::tempdir().unwrap();
    for sections in [
        vec![],
        vec![(SectionKind::Tokenizer, b"{}".to_vec()), (SectionKind::ChatTemplate, "{{ bos }}".into())],
        vec![(SectionKind::Generation, b"{\"eos_ids\":[2]}".to_vec()), (SectionKind::Provenance, vec![])],
    ] {
        let file = good_file(folder.path(), &sections);
        let parts = Parts::split(&file);
        assert_eq!(parts.sections.len(), 2 + sections.len());
        assert!(parts.file() == file, "put together from the document the file is another one");
        let directory = &parts.sections[1].2;
        assert_eq!(&Entry::encode(&Entry::decode(directory)), directory);
        for entry in Entry::decode(directory).iter().filter(|e| e.storage == 0) {
            let (start, len) = (entry.offset() as usize, u64_at(&entry.place, 8) as usize);
            assert_eq!(blake3::hash(&file[start..start + len]).as_bytes(), &entry.place[16..]);
        }
        parse(&file).unwrap();
    }
}

/// Bad files by the variant that refuses them: preamble and section table.
fn bad_headers(good: &Parts) -> Vec<(&'static str, Vec<u8>)> {
    let file = good.file();
    let section = |kind: u32, flags: u32, body: &[u8]| (kind, flags, body.to_vec());
    let sections = |change: &dyn Fn(&mut Vec<Section>)| {
        let mut parts = good.clone();
        change(&mut parts.sections);
        parts.file()
    };
    let entry = |i: usize| PREAMBLE + 8 + 64 * i;
    let flipped = |at: usize| {
        let mut changed = file.clone();
        changed[at] ^= 1;
        changed
    };
    let flipped_description = good.with_bytes(|b| {
        let at = u64_at(b, entry(0) + 8) as usize;
        b[at] ^= 1;
    });
    vec![
        ("Magic", vec![]),
        ("Magic", b"GGUF\x03\0\0\0".to_vec()),
        ("Magic", b"\x89NSV\n\x1a\n\0".to_vec()),
        ("Magic", good.with_bytes(|b| b[0] = 0x09)),
        ("Version", good.with_bytes(|b| b[8] = 2)),
        ("Version", good.with_bytes(|b| b[8] = 0)),
        ("Features", good.with_bytes(|b| b[12] = 2)),
        ("FeaturesNeeded", good.with_bytes(|b| b[12] = 1)),
        ("Features", good.with_bytes(|b| b[15] = 0x80)),
        ("FileLength", file[..8].to_vec()),
        ("FileLength", file[..PREAMBLE - 1].to_vec()),
        ("FileLength", file[..file.len() - 1].to_vec()),
        ("FileLength", [&file[..], &[0]].concat()),
        ("FileLength", good.with_bytes(|b| put(b, 24, &u64::MAX.to_le_bytes()))),
        ("HeaderLength", good.with_bytes(|b| put(b, 16, &u64::MAX.to_le_bytes()))),
        ("HeaderLength", good.with_bytes(|b| put(b, 16, &(file.len() as u64).to_le_bytes()))),
        ("HeaderLength", good.with_bytes(|b| put(b, 16, &7u64.to_le_bytes()))),
        ("HeaderHash", flipped(10)),
        ("HeaderHash", flipped(40)),
        ("HeaderHash", flipped(entry(1) + 9)),
        ("Reserved", good.with_bytes(|b| b[64] = 1)),
        ("Reserved", good.with_bytes(|b| b[64 + 8] = 1)),
        ("SignatureScheme", good.with_bytes(|b| b[64] = 3)),
        ("Reserved", good.with_bytes(|b| b[PREAMBLE - 1] = 1)),
        ("Reserved", good.with_bytes(|b| b[PREAMBLE + 4] = 1)),
        ("Reserved", good.with_bytes(|b| b[entry(0) + 4] |= 2)),
        ("Reserved", good.with_bytes(|b| b[entry(1) + 24] = 1)),
        ("SectionTable", good.with_bytes(|b| b[PREAMBLE] = 3)),
        ("SectionTable", good.with_bytes(|b| put(b, PREAMBLE, &u32::MAX.to_le_bytes()))),
        ("SectionTable", good.with_bytes(|b| put(b, 16, &(8u64 + 64).to_le_bytes()))),
        ("SectionUnknown", sections(&|s| s.push(section(99, 1, b"?")))),
        ("SectionOrder", sections(&|s| s.swap(0, 1))),
        ("SectionOrder", sections(&|s| s.insert(1, s[0].clone()))),
        ("SectionBounds", good.with_bytes(|b| b[entry(1) + 8] += 1)),
        ("SectionBounds", good.with_bytes(|b| put(b, entry(0) + 8, &[0; 8]))),
        ("SectionBounds", good.with_bytes(|b| put(b, entry(0) + 8, &(u64::MAX - 63).to_le_bytes()))),
        ("SectionBounds", good.with_bytes(|b| put(b, entry(1) + 16, &u64::MAX.to_le_bytes()))),
        ("SectionBounds", good.with_bytes(|b| b.copy_within(entry(0) + 8..entry(0) + 16, entry(1) + 8))),
        ("SectionBounds", over_tensors(good)),
        ("SectionMissing", sections(&|s| _ = s.remove(0))),
        ("SectionMissing", sections(&|s| _ = s.remove(1))),
        ("SectionMissing", sections(&|s| s.clear())),
        ("SectionHash", flipped_description),
        ("SectionHash", good.with_bytes(|b| b[entry(1) + 40] ^= 1)),
    ]
}

/// A third section that claims the tensors' first bytes.
fn over_tensors(good: &Parts) -> Vec<u8> {
    let mut parts = good.clone();
    parts.sections.push((77, 0, vec![0; 64]));
    parts.with_bytes(|b| put(b, PREAMBLE + 8 + 2 * 64 + 8, &(DATA as u64).to_le_bytes()))
}

/// Bad files by the variant that refuses them: description and directory.
fn bad_contents(good: &Parts) -> Vec<(&'static str, Vec<u8>)> {
    let body = |kind: u32, change: &dyn Fn(&mut Vec<u8>)| {
        let mut parts = good.clone();
        change(parts.body(kind));
        parts.file()
    };
    // Places in the directory: embed, attn_norm, q, q's bias, ..., final_norm, lm_head.
    let (norm, q, bias) = (1, 2, 3);
    let head = Entry::decode(&good.sections[1].2).len() - 1;
    let entries = |change: &dyn Fn(&mut Vec<Entry>)| with_entries(good, change);
    vec![
        ("SectionText", body(1, &|b| b.truncate(5))),
        ("SectionText", body(1, &|b| *b = b"\xff\xfe".to_vec())),
        ("SectionText", good.with_spec(|j| j["window"] = 4096.into())),
        ("SectionText", good.with_spec(|j| j["hidden_size"] = (-1).into())),
        ("SectionText", good.with_spec(|j| j["rope"]["scaling"]["kind"] = "yarn".into())),
        ("SectionText", good.with_spec(|j| _ = j.as_object_mut().unwrap().remove("n_heads"))),
        ("Spec", good.with_spec(|j| j["hidden_size"] = 0.into())),
        ("Spec", good.with_spec(|j| j["vocab_size"] = (1u64 << 60).into())),
        ("Spec", good.with_spec(|j| j["n_kv_heads"] = 3.into())),
        ("Spec", good.with_spec(|j| j["head_dim"] = 5.into())),
        ("Spec", good.with_spec(|j| j["norm_eps"] = (-1.0).into())),
        ("Directory", body(2, &|b| _ = b.pop())),
        ("Directory", body(2, &|b| b.push(0))),
        ("Directory", body(2, &|b| b.truncate(3))),
        ("Directory", body(2, &|b| put(b, 4, &[0xff, 0xff]))),
        ("TensorCount", body(2, &|b| b[0] += 1)),
        ("TensorCount", body(2, &|b| put(b, 0, &u32::MAX.to_le_bytes()))),
        ("TensorCount", good.with_spec(|j| j["n_layers"] = 65536.into())),
        ("TensorCount", entries(&|e| _ = e.pop())),
        ("TensorName", entries(&|e| e[q].name[9] ^= 1)),
        ("TensorName", entries(&|e| e[q].name = vec![0xff; 3])),
        ("TensorName", entries(&|e| e.swap(q, bias))),
        ("TensorShape", entries(&|e| e[q].dims[0] += 1)),
        ("TensorShape", entries(&|e| e[q].dims.push(1))),
        ("TensorShape", entries(&|e| e[norm].dims.clear())),
        ("TensorShape", good.with_spec(|j| j["intermediate_size"] = 21.into())),
        ("TensorEncoding", entries(&|e| e[q].encoding = 16)),
        ("TensorEncoding", entries(&|e| e[norm].encoding = 255)),
        ("VectorEncoding", entries(&|e| e[norm].encoding = 1)),
        ("VectorEncoding", entries(&|e| e[bias].encoding = 2)),
        ("TensorStorage", entries(&|e| e[q].storage = 2)),
        ("TensorLength", entries(&|e| e[q].place[8] += 64)),
        ("TensorLength", entries(&|e| e[q].encoding = 1)),
        ("TensorLength", entries(&|e| put(&mut e[q].place, 8, &u64::MAX.to_le_bytes()))),
        ("TensorAlignment", entries(&|e| e[0].set_offset(DATA as u64 + 64))),
        ("TensorAlignment", entries(&|e| e[q].shift(32))),
        ("TensorBounds", entries(&|e| e[0].set_offset(0))),
        ("TensorBounds", entries(&|e| e[norm].set_offset(DATA as u64))),
        ("TensorBounds", entries(&|e| e[q].set_offset(u64::MAX - 63))),
        ("TensorBounds", entries(&|e| e[head - 1].shift(64))),
        ("Alias", entries(&|e| e[q].alias(0))),
        ("Alias", entries(&|e| e[head].alias(1))),
        ("Alias", entries(&|e| e[head].encoding = 1)),
        ("Alias", entries(&|e| (e[head].storage, e[head].place) = (0, e[0].place.clone()))),
        ("Alias", good.with_spec(|j| j["tied_lm_head"] = false.into())),
    ]
}

#[test]
fn each_bad_file_is_refused_by_its_variant() {
    let good = good_parts();
    let mut seen = BTreeSet::new();
    for (i, (expected, file)) in bad_headers(&good).into_iter().chain(bad_contents(&good)).enumerate() {
        let error = parse(&file).expect_err(&format!("bad file {i}, {expected}, was taken"));
        let (name, from_parser) = error.variant();
        assert_eq!(name, expected, "bad file {i}: {error}");
        assert!(from_parser && !error.to_string().is_empty());
        seen.insert(name);
    }
    assert_eq!(seen.len(), FormatError::OF_PARSE, "variants without a bad file: only {seen:?}");
}

#[test]
fn a_missing_file_and_a_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none.nsv"), folder.path().to_path_buf()] {
        assert!(
            matches!(NsvFile::open(&path), Err(FormatError::Io { action: FileAction::Open, .. })),
            "{}",
            path.display()
        );
    }
    let empty = folder.path().join("empty.nsv");
    fs::write(&empty, b"").unwrap();
    NsvFile::open(&empty).expect_err("an empty file");
}

#[test]
fn the_writer_refuses_what_is_not_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.nsv");
    let create = || Writer::create(&path, Plan::new(spec(), Encoding::F32).unwrap()).unwrap();
    let zeros = |_: Range<usize>, out: &mut [u8]| {
        out.fill(0);
        Ok::<(), FormatError>(())
    };
    let unwritten = |result: Result<(), FormatError>, expected: &str| match result {
        Err(FormatError::Unwritten { tensor, .. }) => assert_eq!(tensor, expected),
        other => panic!("{other:?}"),
    };
    let mut writer = create();
    let (stored, head) = (writer.stored(), Plan::new(spec(), Encoding::F32).unwrap().tensors().len() - 1);
    unwritten(writer.write(head, zeros), "lm_head.weight");
    writer.write(stored[0], zeros).unwrap();
    unwritten(writer.write(stored[0], zeros), "embed.weight");
    unwritten(writer.finish().map(|_| ()), "layers.0.attn_norm.weight");
    // An error of the closure becomes the error of the write. None of these cases leaves a file.
    let failed = create().write(stored[0], |_, _| Err(FormatError::Features { bits: 7 }));
    assert!(matches!(failed, Err(FormatError::Features { bits: 7 })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = Writer::create(Path::new("/no/such/folder/out.nsv"), Plan::new(spec(), Encoding::F32).unwrap());
    assert!(matches!(nowhere, Err(FormatError::Io { .. })));
    let bad = Plan::new(ModelSpec { hidden_size: 0, ..spec() }, Encoding::F32);
    assert!(matches!(bad, Err(FormatError::Spec { field: "hidden_size", .. })));
}

#[test]
fn every_truncation_and_addition_is_refused() {
    let good = good_parts().file();
    let tensors_end = parse(&good).unwrap().tensors.iter().map(|t| t.range.end).max().unwrap();
    for n in 0..good.len() {
        assert!(parse(&good[..n]).is_err(), "{n} bytes");
    }
    // The same with a preamble that states the shorter length: only the zeros after the last tensor can be missing.
    let mut file = good.clone();
    for n in PREAMBLE..good.len() {
        put(&mut file, 24, &(n as u64).to_le_bytes());
        reroot(&mut file);
        match parse(&file[..n]) {
            Ok(layout) => touch(&layout, &file[..n]),
            Err(e) => assert!(n < tensors_end, "{n} bytes: {e}"),
        }
        assert!(n >= tensors_end || parse(&file[..n]).is_err(), "{n} bytes");
    }
    for n in [1, 63, 64, 65536] {
        assert!(parse(&[&good[..], &vec![0; n]].concat()).is_err(), "{n} bytes more");
    }
}

#[test]
fn every_changed_byte_of_the_header_is_refused_or_harmless() {
    let good = good_parts().file();
    let ends = (0..2).map(|i| {
        let entry = PREAMBLE + 8 + 64 * i;
        (u64_at(&good, entry + 8) + u64_at(&good, entry + 16)) as usize
    });
    let end = ends.max().unwrap();
    let taken: usize = (0..end)
        .into_par_iter()
        .map_init(
            || good.clone(),
            |file, at| {
                let mut taken = 0;
                for change in 1..=255 {
                    file[at] ^= change;
                    // Without corrected hashes the change is detected, except in the padding before a section.
                    if let Ok(layout) = parse(file) {
                        assert_eq!(layout.damage(file)[0].what, "padding, which should be zero,", "byte {at}");
                    }
                    // With corrected hashes, the file is either accepted as what it says, or refused.
                    rehash(file);
                    if let Ok(layout) = parse(file) {
                        touch(&layout, file);
                        taken += 1;
                        if u32::count_ones(change.into()) == 1 || [0, 0xff].contains(&file[at]) {
                            open(file);
                        }
                    }
                    file[..end].copy_from_slice(&good[..end]);
                }
                taken
            },
        )
        .sum();
    println!("{end} bytes, {} changes, {taken} with right hashes still parse", end * 255);
    // Most accepted changes are in a tensor's hash, or in a digit of a number without constraints.
    assert!(taken > 0 && taken < end * 255 / 2, "{taken} of {} changes were taken", end * 255);
}

/// The positions of all bytes except the long run of zeros before the tensors.
fn meaning(good: &[u8]) -> Vec<usize> {
    let head = good[..DATA].iter().rposition(|&b| b != 0).unwrap() + 1;
    (0..head).chain(DATA..good.len()).collect()
}

#[test]
fn changed_weights_run_to_the_end() {
    let good = good_parts().file();
    let step = if thorough() { 5 } else { 25 };
    let ran = (DATA..good.len()).into_par_iter().step_by(step).map(|at| {
        let mut file = good.clone();
        // A sign bit, all ones, then an arbitrary value. From NaN and infinite logits no token can be chosen.
        let changes = [0x80, 0xff, (at % 251) as u8].into_iter();
        let runs = changes.filter(|change| {
            file[at] ^= change;
            open(&file)
        });
        runs.count()
    });
    let (ran, all) = (ran.sum::<usize>(), (good.len() - DATA).div_ceil(step) * 3);
    println!("{ran} of {all} files with a changed weight give tokens");
    assert!(ran > all / 2, "{ran} of {all}");
}

/// A regression test: in a kernel, the sum of bytes made from NaN overflowed.
#[test]
fn weights_that_are_no_numbers_end_in_an_error_or_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.nsv");
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        for encoding in ENCODINGS {
            write_file(&path, &spec(), encoding, &[], &|name, _, out| {
                out.fill(if name.ends_with("norm.weight") || name.ends_with("bias") { bad } else { 1.0 });
            });
            for_each_isa(|kernels| {
                for (_, kv) in KvType::ALL {
                    let mut engine = engine(&path, kernels, 1);
                    let options = changed!(GenerateOptions { max_tokens: Some(2), ..GenerateOptions::default() });
                    let _ = engine.session(4, kv).unwrap().generate(&[1, 2], &options, None, &mut |_| true);
                }
            });
        }
    }
}

#[test]
fn random_changes_are_refused_or_harmless() {
    let good = good_parts().file();
    let places = meaning(&good);
    let edges = [0u64, 1, 63, 64, 65_536, 1 << 28, u32::MAX.into(), u64::MAX - 63, u64::MAX];
    let changes: u64 = if thorough() { 100_000 } else { 20_000 };
    let ran: usize = (0..changes)
        .into_par_iter()
        .map_init(
            || good.clone(),
            |file, seed| {
                file.copy_from_slice(&good);
                let mut random = SplitMix64::new(seed);
                // Changes close together, as in a damaged block, or anywhere.
                let first = random.below(places.len());
                let reach = if seed % 2 == 0 { 64 } else { places.len() };
                for _ in 0..2 + random.below(15) {
                    let at = places[(first + random.below(reach)) % places.len()];
                    match random.below(4) {
                        0 => {
                            let at = at.min(file.len() - 8);
                            put(file, at, &edges[random.below(edges.len())].to_le_bytes());
                        }
                        _ => file[at] = random.next_u64() as u8,
                    }
                }
                if *file == good {
                    return 0;
                }
                // Without corrected hashes it is refused, or the check of every byte names it.
                if let Ok(layout) = parse(file) {
                    assert!(!layout.damage(file).is_empty(), "change {seed}");
                }
                // With corrected hashes it is refused, or runs to the end.
                rehash(file);
                usize::from(open(file))
            },
        )
        .sum();
    println!("of {changes} changed files {ran} run to the end once their hashes are right");
    assert!(ran as u64 > changes / 100, "{ran} ran: too few to say anything");
}

#[test]
fn check_names_whatever_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let sections = [(SectionKind::Tokenizer, vec![b'x'; 100]), (SectionKind::Provenance, b"{}".to_vec())];
    let good = good_file(folder.path(), &sections);
    let layout = parse(&good).unwrap();
    assert_eq!(layout.damage(&good), []);
    let part = |at: usize| {
        let tensor = layout.tensors.iter().find(|t| t.range.contains(&at)).map(|t| format!("tensor {}", t.name));
        let section = layout.sections.iter().find(|s| s.range.contains(&at)).map(|s| s.code);
        let section = section.map(|code| format!("section {}", SectionKind::from_code(code).unwrap()));
        tensor.or(section).unwrap_or("padding, which should be zero,".into())
    };
    let header_end = PREAMBLE + 8 + 64 * layout.sections.len();
    // Every byte of sections and tensors, and every byte of padding except the long run of zeros.
    let long = header_end + 4096..DATA - 64;
    let places: Vec<usize> = (header_end..good.len()).filter(|at| !long.contains(at) || at % 997 == 0).collect();
    places.par_iter().for_each_init(
        || good.clone(),
        |file, &at| {
            file[at] ^= 0x10;
            match parse(file) {
                Ok(layout) => {
                    let damage = layout.damage(file);
                    assert_eq!(damage.len(), 1, "byte {at}");
                    assert_eq!(damage[0].what, part(at), "byte {at}");
                    assert!(damage[0].range.contains(&at), "byte {at}");
                }
                Err(FormatError::SectionHash { kind, .. }) => assert_eq!(part(at), format!("section {kind}")),
                Err(e) => panic!("byte {at}: {e}"),
            }
            file[at] ^= 0x10;
        },
    );
    // The same through a file on disk.
    let path = folder.path().join("damaged.nsv");
    let at = layout.tensor("layers.0.mlp.up.weight").unwrap().range.start + 7;
    let mut file = good.clone();
    file[at] ^= 1;
    fs::write(&path, &file).unwrap();
    let damage = NsvFile::open(&path).unwrap().check();
    assert_eq!(damage.len(), 1);
    assert_eq!(damage[0].what, "tensor layers.0.mlp.up.weight");
    // Two damages are both named, in the file's order. A damaged section is refused when it is read.
    let at = layout.sections[2].range.start;
    file[at] ^= 1;
    let names: Vec<String> = layout.damage(&file).into_iter().map(|d| d.what).collect();
    assert_eq!(names, ["tensor layers.0.mlp.up.weight", "section tokenizer"]);
    let refused = layout.section(&file, SectionKind::Tokenizer).map_err(|e| e.variant().0);
    assert_eq!(refused, Err("SectionHash"));
}

#[test]
fn unknown_sections_are_skipped_unless_required() {
    let mut parts = good_parts();
    parts.sections.push((4_000_000_000, 0, b"from the future".to_vec()));
    let file = parts.file();
    let layout = parse(&file).unwrap();
    touch(&layout, &file);
    let unknown = layout.sections.last().unwrap();
    assert_eq!((unknown.code, &file[unknown.range.clone()]), (4_000_000_000, &b"from the future"[..]));
    // An unknown section is still covered by the check.
    let mut damaged = file.clone();
    damaged[unknown.range.start] ^= 1;
    assert_eq!(layout.damage(&damaged)[0].what, "section 4000000000");
    parts.sections.last_mut().unwrap().1 = 1;
    let error = parse(&parts.file()).unwrap_err();
    assert!(matches!(error, FormatError::SectionUnknown { kind: 4_000_000_000 }), "{error}");
    // A newer minor version is read.
    let newer = good_parts().with_bytes(|b| b[10] = 9);
    touch(&parse(&newer).unwrap(), &newer);
}
