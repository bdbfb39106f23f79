//! How conversations end when something else ends them: an output that takes no more, and signals on a terminal.

#![cfg(target_os = "linux")]

use nanoserve_tests::{Terminal, command, nanoserve, program, root};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The demo, converted, and a conversation in a file.
fn scene() -> &'static Path {
    static SCENE: OnceLock<TempDir> = OnceLock::new();
    SCENE
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let model = folder.path().join("demo.nsv");
            nanoserve("convert", [root().join("weights/demo"), model, "-q".into()]).expect(0);
            fs::write(folder.path().join("talk.json"), r#"[{"role": "user", "content": "Who is there?"}]"#).unwrap();
            folder
        })
        .path()
}

fn arguments(model: &Path, more: &[&str]) -> Vec<String> {
    let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
    let own = [&model.display().to_string(), "-t", "1", "--chat-template", &template];
    own.into_iter().chain(more.iter().copied()).map(str::to_string).collect()
}

#[test]
fn every_form_of_a_conversation_tells_of_a_full_output() {
    let model = scene().join("demo.nsv");
    let talk = scene().join("talk.json").display().to_string();
    let drawn = ["-n", "8", "--temperature", "0"];
    let forms: [(&[&str], &str); 8] = [
        (&["--chat"], "Who is there?\nAnd you?\n"),
        (&["--chat"], "Who is there?\n/save /dev/null\n"),
        (&["--chat", "-p", "Who is there?"], ""),
        (&["--chat", "-p", "Who is there?"], "And you?\n"),
        (&["--chat", "--single-turn"], "Who is there?\n"),
        (&["--messages", &talk], ""),
        (&["--messages", &talk, "--chat"], "And you?\n"),
        (&["--chat", "--single-turn", "-p", "Who is there?", "--n-samples", "2"], ""),
    ];
    let answers = forms.iter().map(|(form, typed)| ([*form, &drawn[..]].concat(), *typed));
    let renders = [vec!["--messages", &talk, "--render"], vec!["--chat", "-p", "hi", "--render"]];
    for (form, typed) in answers.chain(renders.into_iter().map(|form| (form, ""))) {
        for json in [&[][..], &["--json"]] {
            let arguments = arguments(&model, &[&form[..], json].concat());
            let mut command = command("nanoserve-run", arguments);
            command.stdin(Stdio::piped()).stdout(File::options().write(true).open("/dev/full").unwrap());
            let mut child = command.spawn().unwrap();
            // It may have ended before it reads all.
            let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
            let out = child.wait_with_output().unwrap();
            let told = String::from_utf8(out.stderr).unwrap();
            assert_eq!(out.status.code(), Some(1), "{form:?} {json:?} {typed:?}: {told}");
            let words = "error: cannot write to standard output: No space left on device";
            assert_eq!(told.matches(words).count(), 1, "{form:?} {json:?} {typed:?}: {told}");
        }
    }
}

/// A conversation on a terminal, with a file of its own, that leaves no core.
struct Talk {
    terminal: Terminal,
    model: PathBuf,
    _folder: TempDir,
}

/// What a conversation is doing when it is ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Prompt,
    Answer,
    /// The prompt of a conversation that ends with its first answer.
    OnlyPrompt,
}

impl Talk {
    fn at(moment: At) -> Talk {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("demo.nsv");
        fs::copy(scene().join("demo.nsv"), &model).unwrap();
        let single: &[&str] = if moment == At::OnlyPrompt { &["--single-turn"] } else { &[] };
        let more = [&["--chat", "--ignore-eos", "--ctx", "1024", "--isa", "scalar"], single].concat();
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -c 0; exec \"$@\"", "sh"]).arg(program("nanoserve-run"));
        shell.args(arguments(&model, &more)).env("LC_ALL", "C.UTF-8");
        let mut terminal = Terminal::start(shell, 80);
        terminal.expect("> ");
        if moment == At::Answer {
            terminal.send("Speak at length.\r");
            terminal.expect("length.\n");
            terminal.expect(" ");
        }
        assert!(!terminal.is_sane(), "{moment:?}: keys are not echoed");
        Talk { terminal, model, _folder: folder }
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.terminal.id().to_string()]).status().unwrap().success());
    }
}

#[test]
fn signals_give_the_terminal_back() {
    for (signal, code, by) in
        [("-TERM", Some(143), None), ("-HUP", Some(129), None), ("-ABRT", None, Some(6)), ("-BUS", None, Some(7))]
    {
        for moment in [At::Prompt, At::Answer, At::OnlyPrompt] {
            let mut talk = Talk::at(moment);
            talk.signal(signal);
            let ended = talk.terminal.wait();
            assert_eq!((ended.code(), ended.signal()), (code, by), "{signal} {moment:?}: {}", talk.terminal.all());
            assert!(talk.terminal.is_sane(), "{signal} {moment:?}");
        }
    }
}

#[test]
fn lost_bytes_give_the_terminal_back_before_they_are_told() {
    let mut talk = Talk::at(At::Answer);
    let file = File::options().write(true).open(&talk.model).unwrap();
    file.set_len(4096).unwrap();
    talk.terminal.expect(&format!("\nerror: {}: bytes of the mapped file are gone (SIGBUS)", talk.model.display()));
    assert_eq!(talk.terminal.wait().code(), Some(1));
    assert!(talk.terminal.is_sane());
}

/// Every program with little address space: it does what it was asked for, or says why not, by the exit codes of all programs.
/// Before it can begin, the system's loader may fail with 127.
#[test]
fn little_address_space_has_words() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (scene().join("demo.nsv"), folder.path().join("out.nsv"));
    let (model, source) = (model.display().to_string(), root().join("weights/demo").display().to_string());
    let limited = |kilobytes: usize, name: &str, args: &[&str]| {
        let script = format!("ulimit -c 0; ulimit -v {kilobytes}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(program(&format!("nanoserve-{name}"))).args(args);
        let out = command.stdin(Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let chat: Vec<String> = arguments(Path::new(&model), &["--chat", "-p", "hi", "-n", "2", "-q"]);
    let chat: Vec<&str> = chat.iter().map(String::as_str).collect();
    let out = out.display().to_string();
    let programs: [(&str, &[&str]); 6] = [
        ("run", &[&model, "-p", "ROMEO:", "-n", "4", "-q"]),
        ("run", &chat),
        ("run", &[&model, "--self-test", "-q"]),
        ("inspect", &[&model, "--check", "-q"]),
        ("bench", &[&model, "-p", "8", "-n", "4", "-r", "1", "-q", "--no-limits"]),
        ("convert", &[&source, &out, "-q", "--force"]),
    ];
    let mut failed = 0;
    for (name, args) in programs {
        for kilobytes in [51_200, 71_680, 102_400, 204_800] {
            let (code, _, told) = limited(kilobytes, name, args);
            match code {
                Some(0) => {}
                Some(1 | 2) => {
                    assert!(told.contains("error: "), "{name} in {kilobytes} kB: {told}");
                    failed += 1;
                }
                Some(127) if told.contains("shared") => {}
                other => panic!("{name} in {kilobytes} kB ends with {other:?}: {told}"),
            }
            assert!(!told.contains("panicked"), "{name} in {kilobytes} kB: {told}");
            assert!(fs::read_dir(folder.path()).unwrap().all(|entry| entry.unwrap().file_name() == "out.nsv"));
        }
    }
    assert!(failed > 0, "no limit was too small to tell");
    // The same for a file that is converted: a shard, and a GGUF file. Its bytes are never read.
    let checkpoint = folder.path().join("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    for entry in fs::read_dir(root().join("weights/demo")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), checkpoint.join(entry.file_name())).unwrap();
    }
    let gguf = folder.path().join("sparse.gguf");
    for path in [checkpoint.join("model.safetensors"), gguf.clone()] {
        fs::write(&path, "GGUF").unwrap();
        File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    }
    for source in [&checkpoint, &gguf] {
        let (code, _, told) = limited(500_000, "convert", &[&source.display().to_string(), &out, "--force"]);
        assert!(code == Some(1) && told.contains("Cannot allocate memory"), "{source:?}: {code:?} {told}");
    }
    // More address space than the program takes, less than the file does.
    let sparse = folder.path().join("sparse.nsv");
    File::create(&sparse).unwrap().set_len(1 << 30).unwrap();
    let (code, _, told) = limited(500_000, "run", &[&sparse.display().to_string(), "--ids", "1"]);
    assert!(
        code == Some(1) && told.contains("cannot map") && told.contains("Cannot allocate memory"),
        "{code:?} {told}"
    );
}
