//! One executable of program and model, as a user makes it, runs it, and damages it.

#![cfg(target_os = "linux")]

use nanoserve_format::{Encoding, SecretKey};
use nanoserve_tests::{Fixture, Run, command, fixture, program};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn ended(command: &mut Command) -> Run {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("programs print UTF-8");
    Run { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// `nanoserve` with these words.
fn nanoserve<S: AsRef<OsStr>>(words: &[S]) -> Run {
    ended(&mut command("nanoserve", words))
}

/// A fixture's model and the bundle of it, `talk`.
struct Bundled {
    folder: TempDir,
    fixture: Fixture,
}

impl Bundled {
    fn new() -> Bundled {
        let (folder, fixture) = (tempfile::tempdir().unwrap(), fixture("tied-llama3"));
        fs::rename(fixture.convert(Encoding::F32, folder.path()), folder.path().join("model.nsv")).unwrap();
        let bundled = Bundled { folder, fixture };
        let run = bundled.bundle(&["model.nsv", "-o", "talk"]).expect(0);
        assert!(run.stdout.starts_with("talk is ") && run.stdout.contains("run it:  ./talk -p "), "{}", run.stdout);
        bundled
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `nanoserve bundle` in the folder.
    fn bundle(&self, words: &[&str]) -> Run {
        ended(command("nanoserve", ["bundle"]).args(words).current_dir(self.folder.path()))
    }

    /// A file of the folder, run.
    fn run(&self, name: &str, words: &[&str]) -> Run {
        ended(Command::new(self.path(name)).args(words))
    }

    /// Both ways to a command, and what each says without what names the file.
    fn same(&self, command: &[&str], words: &[&str]) -> Run {
        let model = self.path("model.nsv");
        let (first, rest) = command.split_at(command.len().min(1));
        let whole =
            nanoserve(&[&first.first().map_or(vec!["run"], |c| vec![*c])[..], &[text(&model)], rest, words].concat());
        let inside = self.run("talk", &[command, words].concat());
        assert_eq!((inside.code, &inside.stdout), (whole.code, &whole.stdout), "{command:?} {}", inside.stderr);
        inside
    }

    /// Names in the folder.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Changes a copy of the bundle, `other`. Another program makes what is run: were it open for writing here, what a test
    /// beside this one starts could hold it open too, and it could not be run ("Text file busy").
    fn changed(&self, change: impl Fn(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path("talk")).unwrap();
        change(&mut bytes);
        fs::write(self.path("bytes"), bytes).unwrap();
        fs::set_permissions(self.path("bytes"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut copy = Command::new("cp");
        copy.args(["-p", "--remove-destination"]).arg(self.path("bytes")).arg(self.path("other"));
        assert!(copy.status().unwrap().success());
    }
}

const FEW: [&str; 4] = ["-n", "8", "--temperature", "0"];

#[test]
fn a_bundle_does_what_nanoserve_does_with_its_model() {
    let b = Bundled::new();
    let size = |name: &str| fs::metadata(b.path(name)).unwrap().len();
    let program = fs::metadata(program("nanoserve")).unwrap().len();
    assert_eq!(size("talk"), program.next_multiple_of(65_536) + size("model.nsv") + 128);
    assert_ne!(fs::metadata(b.path("talk")).unwrap().permissions().mode() & 0o100, 0);

    b.same(&[], &[&["-p", "The harbour", "-q"], &FEW[..]].concat()).expect(0);
    b.same(&["run"], &[&["-p", "The harbour", "-q", "--check"], &FEW[..]].concat()).expect(0);
    b.same(&["chat"], &["--single-turn", "-p", "Hi", "-q", "-n", "4", "--temperature", "0"]);
    b.same(&["verify"], &[text(&b.fixture.reference_path())]);
    b.same(&["verify"], &["--bisect"]).expect(0);
    b.same(&["inspect"], &["--provenance"]).expect(0);
    let hash = |run: Run| run.expect(0).json()["logits_hash"].as_str().unwrap().to_string();
    let json = [&["-p", "The harbour", "--json"], &FEW[..]].concat();
    let alone = hash(nanoserve(&[&["run", text(&b.path("model.nsv"))], &json[..]].concat()));
    assert_eq!(hash(b.run("talk", &json)), alone);
    assert_eq!(hash(b.run("talk", &[&json[..], &["--load", "huge"]].concat())), alone);
    // A bundle is a model file too.
    assert_eq!(hash(nanoserve(&[&["run", text(&b.path("talk"))], &json[..]].concat())), alone);
    let few = ["-p", "4", "-n", "2", "-r", "1", "--no-limits", "--json", "-t", "1"];
    let bench = hash(b.run("talk", &[&["bench"], &few[..]].concat()));
    assert_eq!(bench, hash(nanoserve(&[&["bench", text(&b.path("model.nsv"))], &few[..]].concat())));

    let shown = b.run("talk", &["inspect", "--check"]).expect(0).stdout;
    let whole = nanoserve(&["inspect", text(&b.path("model.nsv"))]).expect(0).stdout;
    assert!(shown.contains("bundle      a program before the file") && shown.contains("intact: every byte"), "{shown}");
    assert!(whole.lines().all(|line| shown.lines().any(|l| l == line)), "{shown}");
}

#[test]
fn a_bundle_needs_its_name_alone() {
    let b = Bundled::new();
    fs::remove_file(b.path("model.nsv")).unwrap();
    fs::rename(b.path("talk"), b.path("nanoserve-verify")).unwrap();
    let words = [&["-p", "The harbour", "-q"], &FEW[..]].concat();
    let moved = b.run("nanoserve-verify", &words).expect(0);
    std::os::unix::fs::symlink(b.path("nanoserve-verify"), b.path("a link")).unwrap();
    assert_eq!(b.run("a link", &words).expect(0).stdout, moved.stdout);
    let found = Command::new("/bin/sh")
        .args(["-c", "cd / && exec nanoserve-verify \"$@\"", "sh"])
        .args(words)
        .env("PATH", text(b.folder.path()))
        .output();
    assert_eq!(String::from_utf8(found.unwrap().stdout).unwrap(), moved.stdout);
}

#[test]
fn help_names_the_commands_and_no_model() {
    let b = Bundled::new();
    let help = b.run("talk", &["--help"]).expect(0).stdout;
    for words in
        ["Usage: talk [OPTIONS]", "talk chat ", "talk inspect ", "talk verify ", "talk bench ", "talk -p \"Once"]
    {
        assert!(help.contains(words), "{words}: {help}");
    }
    for word in ["nanoserve-", "model-inside", "model.nsv", "<MODEL>", "-hf", "--yes"] {
        assert!(!help.contains(word), "{word}: {help}");
    }
    for command in ["run", "chat", "inspect", "verify", "bench"] {
        let help = b.run("talk", &[command, "--help"]).expect(0).stdout;
        assert!(help.contains(&format!("Usage: talk {command} ")), "{help}");
        assert!(!help.contains("model.nsv") && !help.contains("nanoserve-") && !help.contains("<MODEL>"), "{help}");
        assert_eq!(b.run("talk", &["help", command]).expect(0).stdout, help);
    }
    assert_eq!(b.run("talk", &["help"]).expect(0).stdout, help);
    let version = b.run("talk", &["--version"]).expect(0).stdout;
    assert!(version.starts_with("talk (nanoserve ") && version.lines().count() == 1, "{version}");

    for other in ["convert", "bundle", "man", "completions"] {
        let run = b.run("talk", &[other, "a", "b"]).expect(2);
        assert!(run.stderr.contains(&format!("'{other}' is a command of nanoserve")), "{}", run.stderr);
    }
    for wrong in [&["--model-inside", "x", "-p", "a"][..], &["inspect", "sign", "--key", "k"], &["--no-such-option"]] {
        let run = b.run("talk", wrong).expect(2);
        assert!(run.stderr.starts_with("error: ") && run.stdout.is_empty(), "{}", run.stderr);
    }
}

#[test]
fn a_bundle_that_was_truncated_or_changed_is_refused() {
    let b = Bundled::new();
    let len = fs::metadata(b.path("talk")).unwrap().len() as usize;
    let start = (fs::metadata(program("nanoserve")).unwrap().len() as usize).next_multiple_of(65_536);
    let words = [&["-p", "The harbour", "-q"], &FEW[..]].concat();
    for cut in [len - 1, len - 128, len - 5000, start + 8] {
        b.changed(|bytes| bytes.truncate(cut));
        for run in [b.run("other", &words), nanoserve(&["inspect", text(&b.path("other"))])] {
            let run = run.expect(2);
            assert!(run.stderr.contains("other: a bundle whose end is missing"), "{}", run.stderr);
        }
    }
    b.changed(|bytes| bytes.push(b'\n'));
    b.run("other", &words).expect(2);
    for (at, what) in [(len - 100, "the trailer of the bundle is damaged"), (start + 33, "section table are damaged")] {
        b.changed(|bytes| bytes[at] ^= 1);
        let run = b.run("other", &words).expect(2);
        assert!(run.stderr.contains(what), "{}", run.stderr);
    }
    // What is not read at the start is found where one asks; the last is in the zeros behind the program.
    for (at, what) in [(len - 200, "section "), (start + 200_000, "tensor "), (start - 1, "program before the model")] {
        b.changed(|bytes| bytes[at] ^= 1);
        let run = b.run("other", &[&words[..], &["--check"]].concat()).expect(1);
        assert!(run.stderr.contains("other: damaged: ") && run.stderr.contains(what), "{}", run.stderr);
        let run = b.run("other", &["inspect", "--check", "-q"]).expect(1);
        assert!(run.stdout.starts_with(&format!("DAMAGED: {what}")), "{}", run.stdout);
        let run = nanoserve(&["inspect", text(&b.path("other")), "--check", "-q"]).expect(1);
        assert!(run.stdout.starts_with(&format!("DAMAGED: {what}")), "{}", run.stdout);
    }
}

#[test]
fn what_signed_the_model_signs_the_bundle() {
    let b = Bundled::new();
    SecretKey::from_seed(&[1; 32]).write_new(&b.path("a.pem")).unwrap();
    SecretKey::from_seed(&[2; 32]).write_new(&b.path("b.pem")).unwrap();
    let words = |key: &str| {
        let key = b.path(key).display().to_string();
        ["-p", "The harbour", "-q", "-n", "2", "--require-signer", &key].map(str::to_string)
    };
    let run = |key: &str| b.run("talk", &words(key).each_ref().map(String::as_str));
    assert!(run("a.pub.pem").expect(2).stderr.contains("is not signed"));
    nanoserve(&["inspect", "sign", text(&b.path("talk")), "--key", text(&b.path("a.pem")), "-q"]).expect(0);
    run("a.pub.pem").expect(0);
    assert!(run("b.pub.pem").expect(2).stderr.contains("signed by"));
    b.run("talk", &["inspect", "--check", "--verify-key", text(&b.path("a.pub.pem"))]).expect(0);

    // Signed before, signed after.
    nanoserve(&["inspect", "sign", text(&b.path("model.nsv")), "--key", text(&b.path("b.pem")), "-q"]).expect(0);
    b.bundle(&["model.nsv", "-o", "talk", "-q"]).expect(0);
    run("b.pub.pem").expect(0);
}

#[test]
fn what_cannot_be_bundled_is_refused_and_leaves_nothing() {
    let b = Bundled::new();
    fs::write(b.path("text"), "a text").unwrap();
    fs::create_dir(b.path("folder")).unwrap();
    let mut damaged = fs::read(b.path("model.nsv")).unwrap();
    damaged[200_000] ^= 1;
    fs::write(b.path("damaged.nsv"), damaged).unwrap();
    let launcher = program("nanoserve-run");
    let (names, talk) = (b.names(), fs::read(b.path("talk")).unwrap());
    let again = "talk is a bundle already";
    for (words, code, what) in [
        (&["talk", "-o", "out"][..], 2, again),
        (&["model.nsv", "-o", "out", "--program", "talk"], 2, again),
        (&["model.nsv", "-o", "out", "--program", text(&launcher)], 2, "is not the program nanoserve"),
        (&["model.nsv", "-o", "out", "--program", "text"], 2, "is not the program nanoserve"),
        (&["model.nsv", "-o", "out", "--program", "nothing"], 2, "nothing: cannot open"),
        (&["text", "-o", "out"], 2, "not a .nsv file"),
        (&["nothing", "-o", "out"], 2, "nothing: cannot open"),
        (&["damaged.nsv", "-o", "talk"], 1, "damaged.nsv: damaged: tensor"),
        (&["model.nsv", "-o", "text"], 2, "text is there and is no bundle: --force replaces it"),
        (&["model.nsv", "-o", "model.nsv"], 2, "model.nsv is there and is no bundle"),
        (&["model.nsv", "-o", "folder", "--force"], 1, "is not a regular file"),
        (&["model.nsv", "-o", "folder"], 1, "is not a regular file"),
        (&["model.nsv", "-o", "no/such/folder"], 1, "cannot create"),
        (&["model.nsv"], 2, "--output"),
    ] {
        let run = b.bundle(words).expect(code);
        assert!(run.stderr.contains(what) && run.stdout.is_empty(), "{words:?}: {}", run.stderr);
        assert_eq!(b.names(), names, "{words:?}");
    }
    assert!(fs::read(b.path("talk")).unwrap() == talk && fs::read(b.path("text")).unwrap() == b"a text");
    b.bundle(&["model.nsv", "-o", "text", "--force", "-q"]).expect(0);
    b.bundle(&["model.nsv", "-o", "text", "-q"]).expect(0);
    assert!(fs::read(b.path("text")).unwrap() == talk, "the same files make the same bundle");
    let report = b.bundle(&["model.nsv", "-o", "text", "--json"]).expect(0).json();
    assert_eq!(report["bytes"].as_u64(), Some(talk.len() as u64));
    assert_eq!(b.names(), names);
}

#[test]
fn a_full_disk_leaves_the_old_bundle() {
    let b = Bundled::new();
    let script = "cd \"$1\" && mount -t tmpfs -o size=1m none . && cd \"$PWD\" || exit 99
        \"$2\" bundle \"$3\" -o talk; echo \"code $?\"; ls -A";
    fs::create_dir(b.path("disk")).unwrap();
    let paths = [b.path("disk"), program("nanoserve"), b.path("model.nsv")];
    let mounted = ["-m", "-rm"].iter().find_map(|flag| {
        let run = ended(Command::new("unshare").args([flag, "sh", "-c", script, "sh"]).args(&paths));
        (run.code == Some(0)).then_some(run)
    });
    let Some(run) = mounted else {
        return println!("SKIPPED: this test mounts a file system of its own, which is not allowed here");
    };
    assert_eq!(run.stdout, "code 1\n", "{}", run.stderr);
    assert!(run.stderr.contains("talk: cannot reserve space for: No space left"), "{}", run.stderr);
}
