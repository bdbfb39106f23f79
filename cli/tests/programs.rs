//! The programs by their names, as a user calls them: one copy of the code, the same answers by each way to it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NANOSERVE: &str = env!("CARGO_BIN_EXE_nanoserve");
const SMALL: [(&str, &str); 5] = [
    ("convert", env!("CARGO_BIN_EXE_nanoserve-convert")),
    ("run", env!("CARGO_BIN_EXE_nanoserve-run")),
    ("inspect", env!("CARGO_BIN_EXE_nanoserve-inspect")),
    ("verify", env!("CARGO_BIN_EXE_nanoserve-verify")),
    ("bench", env!("CARGO_BIN_EXE_nanoserve-bench")),
];
const RUN: &str = SMALL[1].1;

/// Runs a program: its exit code, standard output and standard error.
fn run(program: impl AsRef<Path>, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(program.as_ref()).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("programs print UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// A copy of a program in a folder, under a name. Another program makes it: were it open for writing here, what a test beside
/// this one starts could hold it open too, and it could not be run ("Text file busy").
fn copy(file: &str, folder: &Path, name: &str) -> PathBuf {
    let to = folder.join(name);
    assert!(Command::new("cp").arg(file).arg(&to).status().unwrap().success());
    to
}

#[test]
fn each_name_is_a_command_of_nanoserve() {
    for (name, program) in SMALL {
        for arguments in [&["--help"][..], &["-h"], &["--no-such-option"], &["no-such-file", "-p", "a"]] {
            let (code, out, err) = run(program, arguments);
            let whole = run(NANOSERVE, &[&[name], arguments].concat());
            let renamed = |text: &str| text.replace("nanoserve-", "nanoserve").replace([' ', '\n'], "");
            assert_eq!((code, renamed(&out), renamed(&err)), (whole.0, renamed(&whole.1), renamed(&whole.2)));
        }
        let (code, out, _) = run(program, &["--version"]);
        assert_eq!((code, out), (Some(0), format!("nanoserve-{name} {}\n", env!("CARGO_PKG_VERSION"))));
        assert!(run(program, &["--no-such-option"]).2.contains(&format!("Usage: nanoserve-{name} ")));
    }
}

#[test]
fn there_is_one_copy_of_the_code() {
    let size = |file| fs::metadata(file).unwrap().len();
    for (name, program) in SMALL {
        assert!(4 * size(program) < size(NANOSERVE), "{name} has {} bytes", size(program));
    }
}

#[test]
fn a_small_program_finds_nanoserve_beside_itself_wherever_it_is_called_from() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("somewhere");
    symlink(RUN, &link).unwrap();
    let version = format!("nanoserve-run {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&link, &["--version"]).1, version);

    // Moved together, and under a name of one's own.
    let mine = copy(RUN, folder.path(), "mine");
    copy(NANOSERVE, folder.path(), "nanoserve");
    assert_eq!(run(&mine, &["--version"]).1, version);
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let found = Command::new("sh").args(["-c", "cd / && mine --version"]).env("PATH", path).output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap(), version);
}

#[test]
fn a_small_program_alone_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let alone = copy(RUN, folder.path(), "nanoserve-run");
    let (code, out, err) = run(&alone, &["--version"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let missing = folder.path().canonicalize().unwrap().join("nanoserve");
    assert!(err.starts_with("error: nanoserve-run needs the program nanoserve beside it"), "{err}");
    assert!(err.contains(missing.to_str().unwrap()) && err.contains("Copy nanoserve to"), "{err}");

    // What it finds is a small program too: that must not go on for ever.
    copy(RUN, folder.path(), "nanoserve");
    let (code, _, err) = run(&alone, &["--version"]);
    assert!(code == Some(2) && err.contains("is a copy of nanoserve-run, not the program nanoserve"), "{err}");
    fs::remove_file(&missing).unwrap();
    symlink(&alone, &missing).unwrap();
    let (code, _, err) = run(&alone, &["--version"]);
    assert!(code == Some(2) && err.contains("is a copy of nanoserve-run, not the program nanoserve"), "{err}");

    // A file that cannot run.
    fs::remove_file(&missing).unwrap();
    fs::write(&missing, "").unwrap();
    let (code, _, err) = run(&alone, &["--version"]);
    assert!(code == Some(2) && err.contains("cannot run ") && err.contains("Permission denied"), "{err}");
}

#[test]
fn nanoserve_is_what_it_is_called() {
    let folder = tempfile::tempdir().unwrap();
    for (name, _) in SMALL {
        let copied = copy(NANOSERVE, folder.path(), &format!("nanoserve-{name}"));
        assert_eq!(run(copied, &["--version"]).1, format!("nanoserve-{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
    let other = copy(NANOSERVE, folder.path(), "nanoserve-0.1");
    assert_eq!(run(other, &["--version"]).1, format!("nanoserve {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_shows_the_way_first() {
    let (code, help, _) = run(NANOSERVE, &["--help"]);
    assert_eq!(code, Some(0));
    let way: Vec<&str> =
        help.lines().skip_while(|line| !line.is_empty()).skip(1).take_while(|l| !l.is_empty()).collect();
    assert_eq!(way.len(), 5, "{help}");
    for (line, begin) in way.iter().zip(["convert", "run", "model.nsv", "help run", "man run"]) {
        assert!(line.starts_with(&format!("  nanoserve {begin} ")), "{line}");
    }
    let (code, out, alone) = run(NANOSERVE, &[]);
    assert_eq!((code, out.as_str(), alone), (Some(2), "", help));
    let of_bundle = run(NANOSERVE, &["bundle", "--help"]).1;
    assert!(of_bundle.contains("nanoserve bundle model.nsv") && of_bundle.contains("nanoserve-aarch64"), "{of_bundle}");
    let of_run = run(NANOSERVE, &["run", "--help"]);
    assert_eq!(run(NANOSERVE, &["help", "run"]), of_run);
    assert!(of_run.1.contains("  nanoserve run model.nsv -p") && !of_run.1.contains("nanoserve-"), "{}", of_run.1);
}

#[test]
fn an_unknown_command_is_answered_with_the_nearest() {
    for (wrong, near) in [("insepct", "'inspect'"), ("covnert", "'convert'"), ("model.nsv", "nanoserve run model.nsv")]
    {
        let (code, out, err) = run(NANOSERVE, &[wrong]);
        assert_eq!((code, out.as_str()), (Some(2), ""));
        assert!(err.contains(&format!("'{wrong}'")) && err.contains(near), "{err}");
    }
}

#[test]
fn chat_is_run_with_chat() {
    let (code, help, _) = run(NANOSERVE, &["chat", "--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("Usage: nanoserve chat ") && help.contains("--system"), "{help}");
    assert!(!help.lines().any(|line| line.trim_start().starts_with("--chat ")), "{help}");
    // It knows that it talks: alone, these need --chat, or must not meet it.
    let open = |more: &[&str]| run(NANOSERVE, &[&["chat", "no-such-file"], more].concat());
    for more in [&["--system", "Be brief."][..], &["--single-turn", "-p", "Hi"], &["--chat"]] {
        let (code, _, err) = open(more);
        assert!(code == Some(2) && err.starts_with("error: no-such-file: cannot open"), "{err}");
    }
    let (code, _, err) = open(&["--self-test"]);
    assert!(code == Some(2) && err.contains("cannot be used with"), "{err}");
    let (code, _, err) = run(NANOSERVE, &["chat"]);
    assert!(code == Some(2) && err.contains("<MODEL>") && err.contains("nanoserve chat"), "{err}");
}
