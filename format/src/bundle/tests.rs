use super::*;
use crate::{FormatError, repair, tiny};
use std::fs;
use tempfile::TempDir;

/// An ELF header whose section table ends at `end`, then the mark and other bytes up to there.
fn program(end: usize) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01".to_vec();
    bytes.resize(64, 0);
    LE::write_u64(&mut bytes[40..], end as u64 - 3 * 64);
    LE::write_u16(&mut bytes[58..], 64);
    LE::write_u16(&mut bytes[60..], 3);
    bytes.extend_from_slice(&MARK);
    bytes.resize(end, 7);
    bytes
}

/// A folder with a model, a program, and the bundle of both.
struct Made {
    folder: TempDir,
    made: Bundle,
}

impl Made {
    fn new() -> Made {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        tiny::write(&path("model.nsv"), tiny::plan(), |index| index as u8 + 1);
        fs::write(path("program"), program(70_000)).unwrap();
        let made = Made::bundle(&path("program"), &path("model.nsv"), &path("talk")).unwrap();
        Made { folder, made }
    }

    fn bundle(program: &Path, model: &Path, out: &Path) -> Result<Bundle> {
        let file = File::open(program).unwrap();
        bundle((program, &file), &NsvFile::open(model)?, out, &mut |_| true)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The error of opening these bytes.
    fn refused(&self, bytes: &[u8]) -> FormatError {
        fs::write(self.path("other"), bytes).unwrap();
        NsvFile::open(self.path("other")).unwrap_err()
    }
}

#[test]
fn the_model_in_a_bundle_is_the_model() {
    let m = Made::new();
    let (model, talk) = (m.bytes("model.nsv"), m.bytes("talk"));
    assert_eq!((m.made.offset, m.made.len), (131_072, model.len() as u64));
    assert_eq!(talk.len(), 131_072 + model.len() + TRAILER_BYTES);
    assert!(talk.starts_with(&program(70_000)) && talk[70_000..131_072].iter().all(|&byte| byte == 0));
    for open in [NsvFile::open, NsvFile::open_copy] {
        let (alone, inside) = (open(m.path("model.nsv")).unwrap(), open(m.path("talk")).unwrap());
        assert_eq!((alone.bundle(), alone.offset()), (None, 0));
        assert_eq!((inside.bundle(), inside.offset()), (Some(&m.made), 131_072));
        assert!(inside.bytes() == model && alone.layout().root == inside.layout().root);
        assert!(inside.bytes().as_ptr().addr().is_multiple_of(4096), "the model begins a page");
        assert_eq!(inside.tensor("embed.weight").unwrap().bytes, alone.tensor("embed.weight").unwrap().bytes);
        assert_eq!(inside.check(), []);
        inside.read_ahead(0..model.len());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| fs::metadata(m.path(name)).unwrap().permissions().mode();
        assert_eq!(mode("talk"), mode("model.nsv") | (mode("model.nsv") & 0o444) >> 2);
    }
}

#[test]
fn every_flipped_byte_before_and_behind_the_model_is_found() {
    let m = Made::new();
    let talk = m.bytes("talk");
    let end = talk.len() - TRAILER_BYTES;
    let flipped = |at: usize| {
        let mut bytes = talk.clone();
        bytes[at] ^= 1;
        bytes
    };
    for at in end..talk.len() {
        let found = m.refused(&flipped(at)).to_string();
        let expected = match at - end {
            0..8 => "a bundle whose end is missing",
            96.. => "what is around the numbers",
            _ => "the trailer of the bundle is damaged",
        };
        assert!(found.starts_with(expected), "{}: {found}", at - end);
    }
    for (at, what) in
        [(65, "program"), (69_999, "program"), (131_071, "program"), (end - 9, "padding"), (131_072 + 65_536, "tensor")]
    {
        fs::write(m.path("other"), flipped(at)).unwrap();
        let damage = NsvFile::open(m.path("other")).unwrap().check();
        assert!(damage.len() == 1 && damage[0].what.starts_with(what), "{at}: {damage:?}");
    }
}

#[test]
fn a_bundle_of_another_length_is_refused() {
    let m = Made::new();
    let talk = m.bytes("talk");
    let is_cut = |e: &FormatError| matches!(e, FormatError::Bundle(BundleError::Cut));
    for len in [131_080, 131_081, 140_000, talk.len() - TRAILER_BYTES, talk.len() - 1] {
        let error = m.refused(&talk[..len]);
        assert!(is_cut(&error), "{len}: {error}");
    }
    // Of the model nothing is left: a program, not a bundle.
    for len in [131_079, 131_072, 70_000, 64, 63, 6] {
        assert!(matches!(m.refused(&talk[..len]), FormatError::Magic { .. }), "{len}");
    }
    assert!(is_cut(&m.refused(&[&talk[..], b"\n"].concat())));
    let trailer = &talk[talk.len() - TRAILER_BYTES..];
    let moved = [&talk[..talk.len() - TRAILER_BYTES], &[0; 4096], trailer].concat();
    assert!(matches!(m.refused(&moved), FormatError::Bundle(BundleError::Length { .. })));

    let with = |change: fn(&mut Bundle), version: u32| {
        let mut bundle = m.made;
        change(&mut bundle);
        let mut trailer = encode(&bundle);
        LE::write_u32(&mut trailer[8..], version);
        let hash = blake3::hash(&trailer[..TRAILER_HASH.start]);
        trailer[TRAILER_HASH].copy_from_slice(hash.as_bytes());
        m.refused(&[&talk[..talk.len() - TRAILER_BYTES], &trailer].concat())
    };
    assert!(matches!(with(|_| (), 2), FormatError::Bundle(BundleError::Version { version: 2 })));
    assert!(matches!(with(|b| b.len = u64::MAX, 1), FormatError::Bundle(BundleError::Length { .. })));
    let unaligned = with(|b| (b.offset, b.len) = (b.offset - 64, b.len + 64), 1);
    assert!(matches!(unaligned, FormatError::Bundle(BundleError::Alignment { offset: 131_008 })));
    // Another place than the model's.
    let earlier = with(|b| (b.offset, b.len) = (65_536, b.len + 65_536), 1);
    assert!(matches!(earlier, FormatError::Magic { .. }), "{earlier}");
}

#[test]
fn what_begins_as_a_model_is_one_whatever_it_ends_with() {
    let m = Made::new();
    let talk = m.bytes("talk");
    let both = [&m.bytes("model.nsv")[..], &talk[talk.len() - TRAILER_BYTES..]].concat();
    assert!(matches!(m.refused(&both), FormatError::FileLength { .. }));
}

#[test]
fn only_a_program_and_a_model_are_bundled() {
    let m = Made::new();
    let path = |name| m.path(name);
    fs::write(path("launcher"), &program(70_000)[..64]).unwrap();
    let before = fs::read_dir(m.folder.path()).unwrap().count();
    for (program, model) in [("talk", "model.nsv"), ("program", "talk")] {
        let error = Made::bundle(&path(program), &path(model), &path("out")).unwrap_err();
        assert!(
            matches!(&error, FormatError::Bundle(BundleError::Twice { path: of }) if *of == path("talk")),
            "{error}"
        );
    }
    for program in ["launcher", "model.nsv"] {
        let error = Made::bundle(&path(program), &path("model.nsv"), &path("out")).unwrap_err();
        assert!(matches!(&error, FormatError::Bundle(BundleError::Program { .. })), "{error}");
    }
    let (file, model) = (File::open(path("program")).unwrap(), NsvFile::open(path("model.nsv")).unwrap());
    // At each step.
    for last in 0..3 {
        let mut steps = 0;
        let stopped = bundle((&path("program"), &file), &model, &path("out"), &mut |_| {
            steps += 1;
            steps <= last
        });
        assert!(matches!(stopped, Err(FormatError::Cancelled)));
    }
    assert_eq!(fs::read_dir(m.folder.path()).unwrap().count(), before, "nothing is left");
}

#[test]
fn a_bundle_is_signed_and_repaired_in_its_place() {
    let m = Made::new();
    let key = crate::SecretKey::from_seed(&[1; 32]);
    let whole = m.bytes("talk");
    crate::Signature::new(&key, &NsvFile::open(m.path("talk")).unwrap().layout().root)
        .write(&m.path("talk"), &NsvFile::open(m.path("model.nsv")).unwrap().layout().root)
        .unwrap();
    let file = NsvFile::open(m.path("talk")).unwrap();
    file.layout().require_signer(&key.public()).unwrap();
    assert_eq!(file.check(), []);
    let signed = m.bytes("talk");
    let changed: Vec<usize> = (0..signed.len()).filter(|&at| signed[at] != whole[at]).collect();
    assert!(changed.iter().all(|at| (131_072 + 64..131_072 + 192).contains(at)), "{changed:?}");

    for at in [131_072, 131_072 + 40, 131_072 + 66_000] {
        let mut bad = signed.clone();
        bad[at] ^= 1;
        fs::write(m.path("bad"), &bad).unwrap();
        assert_eq!(repair(&m.path("bad"), &m.path("model.nsv")).unwrap().taken.len(), 1);
        assert!(m.bytes("bad") == signed, "{at}");
        // And from a bundle.
        fs::write(m.path("bad.nsv"), &bad[131_072..bad.len() - TRAILER_BYTES]).unwrap();
        assert_eq!(repair(&m.path("bad.nsv"), &m.path("talk")).unwrap().taken.len(), 1);
        assert!(m.bytes("bad.nsv") == signed[131_072..signed.len() - TRAILER_BYTES], "{at}");
    }
}
