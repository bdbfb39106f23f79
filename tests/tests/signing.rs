//! Signatures as a user of the programs sees them: what a signed file is good for, and every reason to refuse one.

use nanoserve_format::{Encoding, FormatError, NsvFile, PublicKey, SIGNATURE_PLACE, SecretKey, SignatureError};
use nanoserve_tests::{Run, SourceType, Tiny, command, convert, nanoserve};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const TENSOR: &str = "layers.1.mlp.down.weight";

/// Two models, two key pairs, and the first model signed with the first key.
struct Signed {
    folder: TempDir,
    unsigned: Vec<u8>,
    signed: Vec<u8>,
    other: Vec<u8>,
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Signed {
    fn new() -> Signed {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let model = |seed: u64, name: &str| {
            Tiny { seed, dtype: SourceType::Bf16, ..Tiny::default() }.write(&path("tiny"));
            convert(&path("tiny"), Encoding::Q8, &path(name));
            fs::read(path(name)).unwrap()
        };
        let (unsigned, _) = (model(1, "model.nsv"), model(2, "other.nsv"));
        for (key, seed) in [("a.pem", 1), ("b.pem", 2)] {
            SecretKey::from_seed(&[seed; 32]).write_new(&path(key)).unwrap();
        }
        for name in ["model.nsv", "other.nsv"] {
            nanoserve("inspect", ["sign", text(&path(name)), "--key", text(&path("a.pem")), "-q"]).expect(0);
        }
        let (signed, other) = (fs::read(path("model.nsv")).unwrap(), fs::read(path("other.nsv")).unwrap());
        Signed { folder, unsigned, signed, other }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a file with these bytes, requiring a signer.
    fn run(&self, bytes: &[u8], signer: &str) -> Run {
        let path = self.path("run.nsv");
        fs::write(&path, bytes).unwrap();
        let key = self.path(signer);
        let args = ["--ids", "1,2,3", "-n", "4", "--temperature", "0", "-q", "--require-signer", text(&key)];
        nanoserve("run", [&[text(&path)], &args[..]].concat())
    }

    /// The signed file with a change to it.
    fn with(&self, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = self.signed.clone();
        change(&mut bytes);
        bytes
    }
}

#[test]
fn a_file_is_signed_shown_verified_and_run() {
    let s = Signed::new();
    let differ: Vec<usize> = (0..s.signed.len()).filter(|&i| s.signed[i] != s.unsigned[i]).collect();
    assert_eq!(s.signed.len(), s.unsigned.len());
    assert!(differ.iter().all(|at| SIGNATURE_PLACE.contains(at)) && differ.len() > 90, "{differ:?}");
    let model = s.path("model.nsv");
    let file = NsvFile::open(&model).unwrap();
    let key = PublicKey::read(&s.path("a.pub.pem")).unwrap();
    file.layout().require_signer(&key).unwrap();
    assert_eq!(file.check(), []);
    let digits = key.to_string();

    // The signer is shown by default, and can be required by key file and by hex digits.
    let shown = nanoserve("inspect", [text(&model)]).expect(0).stdout;
    assert!(shown.contains(&format!("signed by   {digits}\n")), "{shown}");
    for key in [text(&s.path("a.pub.pem")), &digits] {
        let run = nanoserve("inspect", [text(&model), "--verify-key", key, "--check"]).expect(0);
        assert!(run.stdout.contains("verified: ") && run.stdout.contains("intact: "), "{}", run.stdout);
    }
    let report = nanoserve("inspect", [text(&model), "--verify-key", &digits, "--json"]).expect(0).json();
    assert_eq!(report["signature"], serde_json::json!({"signer": digits, "good": true}));
    assert_eq!(report["verified"]["good"], true);
    let plain = nanoserve("run", [text(&model), "--ids", "1,2,3", "-n", "4", "--temperature", "0", "-q", "--check"]);
    assert_eq!(s.run(&s.signed, "a.pub.pem").expect(0).stdout, plain.expect(0).stdout);

    // Signing with another key replaces the signature, and the program says so.
    let second = s.path("b.pem");
    let args = ["sign", text(&model), "--key", text(&second)];
    let again = nanoserve("inspect", args).expect(0).stdout;
    let other = PublicKey::read(&s.path("b.pub.pem")).unwrap().to_string();
    assert!(again.contains(&format!("replaced a signature of {digits}")) && again.contains(&other), "{again}");
    let report = nanoserve("inspect", [&args[..], &["--json"]].concat()).expect(0).json();
    assert_eq!((&report["signer"], &report["replaced"]), (&serde_json::json!(other), &serde_json::json!(other)));
    let run = nanoserve("inspect", [text(&model), "--verify-key", &digits, "-q"]).expect(1);
    assert!(
        run.stdout.contains(&format!("REFUSED: the file is signed by {other}, expected {digits}")),
        "{}",
        run.stdout
    );
}

/// A case: its name, the file's bytes, the required signer, and words of the error.
type Case<'a> = (&'a str, Vec<u8>, &'a str, &'a str);

#[test]
fn everything_else_is_refused() {
    let s = Signed::new();
    let place = SIGNATURE_PLACE;
    let copied = s.with(|b| b[place.clone()].copy_from_slice(&s.other[place.clone()]));
    let flipped = |at: usize| s.with(|b| b[at] ^= 0x10);
    let cases: [Case; 14] = [
        ("unsigned", s.unsigned.clone(), "a.pub.pem", "is not signed"),
        ("stripped", s.with(|b| b[place.clone()].fill(0)), "a.pub.pem", "is not signed"),
        ("another key asked for", s.signed.clone(), "b.pub.pem", "is signed by"),
        ("another file's signature", copied, "a.pub.pem", "is wrong"),
        ("scheme", flipped(64), "a.pub.pem", "newer nanoserve"),
        ("scheme of none", s.with(|b| b[64] = 0), "a.pub.pem", "should be zero"),
        ("word after the scheme", flipped(68), "a.pub.pem", "should be zero"),
        ("key", flipped(72), "a.pub.pem", "is signed by"),
        ("first half", flipped(104), "a.pub.pem", "is wrong"),
        ("second half", flipped(136), "a.pub.pem", "is wrong"),
        ("half a signature", s.with(|b| b[136..168].fill(0)), "a.pub.pem", "is wrong"),
        ("behind it", flipped(191), "a.pub.pem", "should be zero"),
        ("truncated", s.signed[..s.signed.len() - 1].to_vec(), "a.pub.pem", "truncated"),
        ("a second one at the end", [&s.signed[..], &s.signed[place.clone()]].concat(), "a.pub.pem", "added to"),
    ];
    for (name, bytes, key, words) in cases {
        let run = s.run(&bytes, key).expect(2);
        assert!(run.stdout.is_empty() && run.stderr.contains(words), "{name}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains("run.nsv"), "{name}: {}", run.stderr);
        // inspect says the same about files that it can open.
        let (path, key) = (s.path("run.nsv"), s.path(key));
        let shown = nanoserve("inspect", [text(&path), "--verify-key", text(&key), "-q"]);
        match NsvFile::open(&path) {
            Ok(_) => assert!(shown.expect(1).stdout.contains(words), "{name}"),
            Err(_) => assert!(shown.expect(2).stderr.contains(words), "{name}"),
        }
    }
    // A header changed after signing, with a corrected root: the signature is for another root.
    let mut changed = s.signed.clone();
    changed[10] = 1;
    let table = 192..192 + u64::from_le_bytes(changed[16..24].try_into().unwrap()) as usize;
    let root = blake3::Hasher::new().update(&changed[..32]).update(&changed[table]).finalize();
    changed[32..64].copy_from_slice(root.as_bytes());
    assert!(s.run(&changed, "a.pub.pem").expect(2).stderr.contains("is wrong"));
    // A wrong signature is detected even without a key, and counts as damage.
    fs::write(s.path("run.nsv"), flipped(140)).unwrap();
    let run = nanoserve("inspect", [text(&s.path("run.nsv")), "--check"]).expect(1);
    assert!(
        run.stdout.contains("is WRONG") && run.stdout.contains("DAMAGED: signature bytes 64..192"),
        "{}",
        run.stdout
    );
    // Without a valid key the file does not run.
    for key in ["none.pem", "a.pem", "model.nsv"] {
        assert!(s.run(&s.signed, key).expect(2).stderr.contains("key"));
    }
}

#[test]
fn what_was_signed_is_what_runs() {
    let s = Signed::new();
    let range = NsvFile::open(s.path("model.nsv")).unwrap().layout().tensor(TENSOR).unwrap().range.clone();
    let damaged = s.with(|b| b[range.start + 100] ^= 4);
    let words = format!("damaged: tensor {TENSOR} bytes {}..", range.start);
    // The header is as signed, but a weight has changed.
    let run = s.run(&damaged, "a.pub.pem").expect(1);
    assert!(run.stdout.is_empty() && run.stderr.contains(&words), "{}", run.stderr);
    let path = s.path("run.nsv");
    for how in [&["--check"][..], &["--check", "--load", "huge"]] {
        let run = nanoserve("run", [&[text(&path), "--ids", "1", "-n", "2"], how].concat()).expect(1);
        assert!(run.stdout.is_empty() && run.stderr.contains(&words), "{}", run.stderr);
    }
    nanoserve("run", [text(&path), "--ids", "1", "-n", "2", "-q"]).expect(0);
    // A damaged file cannot be signed.
    let run = nanoserve("inspect", ["sign", text(&path), "--key", text(&s.path("b.pem"))]).expect(1);
    assert!(run.stdout.contains(&format!("DAMAGED: tensor {TENSOR}")) && run.stderr.contains("not signed"));
    assert!(fs::read(&path).unwrap() == damaged);
    // Nor can an invalid file, or one that was replaced between opening and signing.
    fs::write(&path, &s.signed[..1000]).unwrap();
    nanoserve("inspect", ["sign", text(&path), "--key", text(&s.path("b.pem"))]).expect(2);
    nanoserve("inspect", ["sign", text(&s.path("none.nsv")), "--key", text(&s.path("b.pem"))]).expect(2);
    nanoserve("inspect", ["sign", text(&s.path("model.nsv")), "--key", text(&s.path("b.pub.pem"))]).expect(2);
    let root = NsvFile::open(s.path("model.nsv")).unwrap().layout().root;
    let signature = nanoserve_format::Signature::new(&SecretKey::from_seed(&[9; 32]), &root);
    let replaced = signature.write(&s.path("other.nsv"), &root);
    assert!(matches!(replaced, Err(FormatError::HeaderHash { .. })), "{replaced:?}");
    assert!(fs::read(s.path("other.nsv")).unwrap() == s.other);
    let error = NsvFile::open(s.path("other.nsv")).unwrap().layout().require_signer(&signature.key);
    assert!(matches!(error, Err(SignatureError::Signer { .. })), "{error:?}");
}

/// Where a model's signer is required, keys and values that replace a run must be this user's own.
#[cfg(unix)]
#[test]
fn a_prompt_cache_of_somebody_else_is_refused_where_a_signer_is_required() {
    use std::os::unix::fs::PermissionsExt;
    let s = Signed::new();
    let (model, key) = (s.path("model.nsv"), s.path("a.pub.pem"));
    let (mine, theirs) = (s.path("mine"), s.path("theirs"));
    let run = |home: Option<&Path>, cache: &str, more: &[&str]| {
        let cache = s.path(cache);
        let args = ["--ids", "1,2,3,4,5", "-n", "2", "--temperature", "0", "--json", "--prompt-cache", text(&cache)];
        let mut command = command("nanoserve-run", [&[text(&model)], &args[..], more].concat());
        command.env_remove("HOME").env_remove("XDG_CACHE_HOME");
        home.into_iter().for_each(|home| _ = command.env("XDG_CACHE_HOME", home));
        let out = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
    };
    let required = ["--require-signer", text(&key)];
    let reused = |run: Run| run.expect(0).json()["prompt_reused"].as_u64().unwrap();
    let refused = |run: Run, words: &str| {
        let run = run.expect(2);
        assert!(run.stdout.is_empty() && run.stderr.contains(words), "{words}: {}", run.stderr);
    };
    assert_eq!(reused(run(Some(&mine), "a.kv", &required)), 0);
    assert_eq!(reused(run(Some(&mine), "a.kv", &required)), 4);
    let secret = mine.join("nanoserve/prompt-cache.key");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    // With another key it is somebody else's: good enough for who asks for nothing, and for nobody else.
    refused(run(Some(&theirs), "a.kv", &required), "a.kv was made by this user");
    assert_eq!(reused(run(Some(&theirs), "a.kv", &[])), 4);
    // Without a folder of the user's there is no mark.
    assert_eq!(reused(run(None, "b.kv", &[])), 0);
    assert_eq!(reused(run(None, "b.kv", &[])), 4);
    refused(run(Some(&mine), "b.kv", &required), "b.kv was made by this user");
    refused(run(None, "a.kv", &required), "no key marks this user's prompt caches");
    // A key that others can read marks nothing.
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    refused(run(Some(&mine), "a.kv", &required), "with mode 600");
    assert_eq!(reused(run(Some(&mine), "a.kv", &[])), 4);
    // A token that the model does not have, under a right hash.
    let mut bytes = fs::read(s.path("b.kv")).unwrap();
    bytes[80..84].copy_from_slice(&0x00ff_ffff_u32.to_le_bytes());
    let end = bytes.len() - 32;
    let hash = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(hash.as_bytes());
    fs::write(s.path("c.kv"), bytes).unwrap();
    refused(run(Some(&theirs), "c.kv", &[]), "it holds token 16777215");
}

#[test]
fn a_new_pair_of_keys_signs() {
    let s = Signed::new();
    let key = s.path("new.pem");
    let report = nanoserve("inspect", ["keygen", text(&key), "--json"]).expect(0).json();
    let public = report["public"].as_str().unwrap();
    assert_eq!(report["public_key"], text(&s.path("new.pub.pem")));
    assert_eq!(PublicKey::read(&s.path("new.pub.pem")).unwrap().to_string(), public);
    let kept = fs::read(&key).unwrap();
    let run = nanoserve("inspect", ["keygen", text(&key)]).expect(2);
    assert!(run.stderr.contains("new.pem") && fs::read(&key).unwrap() == kept, "{}", run.stderr);
    nanoserve("inspect", ["keygen", "/no/such/folder/key.pem"]).expect(2);
    nanoserve("inspect", ["sign", text(&s.path("model.nsv")), "--key", text(&key)]).expect(0);
    nanoserve("inspect", [text(&s.path("model.nsv")), "--verify-key", public, "--check", "-q"]).expect(0);
    let quiet = nanoserve("inspect", ["keygen", text(&s.path("third.pem")), "-q"]).expect(0).stdout;
    assert_eq!(quiet.trim().len(), 64);
    for args in [&["sign", "model.nsv"][..], &["keygen"], &[], &["model.nsv", "sign"], &["--check", "sign", "x"]] {
        nanoserve("inspect", args).expect(2);
    }
}
