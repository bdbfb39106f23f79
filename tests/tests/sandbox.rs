//! What the programs give up before they read a model. That it is gone is tried beside the code (`cli/src/sandbox/tests.rs`);
//! here the programs do all that they should with what is left. Systems without the one or the other skip a part, and say so.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use nanoserve_tests::{Run, Terminal, command, nanoserve, root};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A folder with the demo, converted.
fn scene() -> &'static Path {
    static SCENE: OnceLock<TempDir> = OnceLock::new();
    SCENE
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let model = folder.path().join("demo.nsv");
            nanoserve("convert", [root().join("weights/demo"), model, "-q".into()]).expect(0);
            folder
        })
        .path()
}

/// nanoserve-run with the demo, started in the scene's folder.
fn run(more: &[&str]) -> Command {
    let mut command = command("nanoserve-run", ["demo.nsv"].iter().chain(more));
    command.current_dir(scene());
    command
}

/// Arguments of a conversation.
fn talk(more: &[&str]) -> Vec<String> {
    let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
    let own = ["--chat", "-n", "2", "--temperature", "0", "--chat-template", &template];
    own.iter().chain(more).map(ToString::to_string).collect()
}

/// What a run says of its sandbox.
fn said(more: &[&str]) -> String {
    let answer = ["-p", "ROMEO:", "-n", "2", "--temperature", "0", "--json"];
    Run::of(&mut run(&[&answer, more].concat())).expect(0).json()["sandbox"].as_str().unwrap().to_string()
}

/// Whether the whole sandbox holds here.
fn holds() -> bool {
    let said = said(&[]);
    if said != "on" {
        println!("SKIPPED in part: this system has no whole sandbox ({said})");
    }
    said == "on"
}

#[test]
fn a_report_says_what_holds() {
    assert!(["on", "files", "calls", "off"].contains(&said(&[]).as_str()));
    assert_eq!(said(&["--no-sandbox"]), "off");
    assert_eq!(said(&["--device", "auto"]), "off", "the driver of a GPU needs more than is listed");
    let mut from_outside = run(&["-p", "ROMEO:", "-n", "1", "--json"]);
    from_outside.env("NANOSERVE_NO_SANDBOX", "1");
    assert_eq!(Run::of(&mut from_outside).expect(0).json()["sandbox"], "off");
    let mut score = run(&["--perplexity", "-", "--ctx", "16", "--json", "-q", "--no-sandbox"]);
    let score = Run::of(score.stdin(text())).expect(0);
    assert_eq!(score.json()["sandbox"], "off");
}

/// A text to score.
fn text() -> Stdio {
    fs::File::open(root().join("LICENSE-MIT")).unwrap().into()
}

#[test]
fn every_thread_of_a_conversation_is_in_it() {
    if !holds() {
        return;
    }
    let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
    for (more, filtered) in [(&[][..], "2"), (&["--no-sandbox"], "0")] {
        let command = run(&[&["--chat", "-t", "2", "--chat-template", &template], more].concat());
        let mut terminal = Terminal::start(command, 80);
        terminal.expect("> ");
        let threads = fs::read_dir(format!("/proc/{}/task", terminal.id())).unwrap();
        let mut count = 0;
        for thread in threads {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let value = |name: &str| {
                let line =
                    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{status}"));
                line.trim().to_string()
            };
            assert_eq!(value("Seccomp:"), filtered);
            assert_eq!(value("NoNewPrivs:"), if filtered == "2" { "1" } else { "0" });
            count += 1;
        }
        assert!(count >= 3, "{count} threads: the kernels', and those that wait for signals");
        terminal.send("\x04");
        assert_eq!(terminal.wait().code(), Some(0), "{}", terminal.all());
    }
}

#[test]
fn a_conversation_is_saved_in_its_own_folder_and_without_a_sandbox_anywhere() {
    let other = tempfile::tempdir().unwrap();
    let elsewhere = other.path().join("elsewhere.json").display().to_string();
    let said = |more: &[&str], typed: &str, code: i32| {
        let mut child =
            run(&talk(more).iter().map(String::as_str).collect::<Vec<_>>()).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        // A command that fails in a pipe is remembered.
        assert_eq!(out.status.code(), Some(code));
        String::from_utf8(out.stderr).unwrap()
    };
    fs::create_dir_all(scene().join("below")).unwrap();
    let told = said(&["-q"], "hi\n/save here.json\n/save below/there.json\n", 0);
    assert_eq!(told.matches("messages saved").count(), 2, "{told}");
    assert_eq!(fs::read(scene().join("here.json")).unwrap(), fs::read(scene().join("below/there.json")).unwrap());
    let told = said(&["-q", "--no-sandbox"], &format!("hi\n/save {elsewhere}\n"), 0);
    assert!(told.contains("messages saved"), "{told}");
    fs::remove_file(&elsewhere).unwrap();
    if holds() {
        // A link that leads out is out.
        let linked = other.path().join("linked.json");
        fs::write(&linked, "linked").unwrap();
        std::os::unix::fs::symlink(&linked, scene().join("out.json")).unwrap();
        for name in [elsewhere.as_str(), "out.json"] {
            let told = said(&["-q"], &format!("hi\n/save {name}\n"), 1);
            assert!(
                told.to_lowercase().contains("permission denied") && told.contains("with --no-sandbox everywhere"),
                "{told}"
            );
        }
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&linked).unwrap(), b"linked");
    }
    // What is refused by the rights of the folder gets no hint that would not help.
    let told = said(&["-q"], "hi\n/save missing/a.json\n", 1);
    assert!(!told.contains("no-sandbox"), "{told}");
}

#[test]
fn files_that_options_name_are_written_wherever_they_are() {
    let other = tempfile::tempdir().unwrap();
    let name = |name: &str| other.path().join(name).display().to_string();
    let answer = ["-p", "ROMEO:", "-n", "2", "--temperature", "0", "-q", "--prompt-cache"];
    Run::of(&mut run(&[&answer[..], &[&name("p.kv")]].concat())).expect(0);
    let reused =
        Run::of(&mut run(&[&answer[..], &[&name("p.kv"), "--prompt-cache-ro", "--json"]].concat())).expect(0).json();
    assert!(reused["prompt_reused"].as_u64().unwrap() > 0, "{reused}");
    let score = ["--perplexity", "-", "--ctx", "16", "--chunks", "2", "-q", "--kl-base"];
    Run::of(run(&[&score[..], &[&name("base")]].concat()).stdin(text())).expect(0);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 2, "and nothing else");
    // Every way of loading a file works with what is left.
    for way in [&["--load", "huge"][..], &["--load", "map", "--check"], &["--self-test"]] {
        let prompt: &[&str] = if way == ["--self-test"] { &[] } else { &["-p", "ROMEO:", "-n", "2"] };
        Run::of(&mut run(&[way, prompt, &["-q"]].concat())).expect(0);
    }
    // Where the limit allows it.
    let locked = Run::of(&mut run(&["--lock", "-p", "ROMEO:", "-n", "2", "-q"]));
    assert!(locked.code == Some(0) || locked.stderr.contains("lock in memory"), "{}", locked.stderr);
    assert!(!locked.stderr.contains("not permitted"), "{}", locked.stderr);
}
