//! Conversations as a user runs them: on a terminal, from a pipe, from a file.

use nanoserve_tests::{Terminal, command, copy_folder, nanoserve, root};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The demo, converted, and a template for it.
struct Scene {
    folder: TempDir,
}

fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("demo.nsv");
        nanoserve("convert", [root().join("weights/demo"), model, "-q".into()]).expect(0);
        Scene { folder }
    })
}

impl Scene {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn model(&self) -> String {
        self.file("demo.nsv").display().to_string()
    }

    /// Arguments of nanoserve-run with the demo and its template.
    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
        let mut own = vec![self.model(), "-t".to_string(), "1".to_string()];
        // A plain text has no template, and a prompt that is only shown no temperature.
        if more.iter().any(|word| ["--chat", "--messages", "--render"].contains(word)) {
            own.extend(["--chat-template".to_string(), template]);
        }
        if !more.contains(&"--render") {
            own.extend(["--temperature", "0"].map(str::to_string));
        }
        own.into_iter().chain(more.iter().map(|s| s.to_string())).collect()
    }

    fn run(&self, more: &[&str]) -> nanoserve_tests::Run {
        nanoserve("run", self.arguments(more))
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = command("nanoserve-run", self.arguments(more));
        // Where a conversation may be saved.
        command.current_dir(self.folder.path());
        command
    }

    /// A conversation on a terminal, at its first prompt.
    fn terminal(&self, columns: u16, more: &[&str]) -> Terminal {
        let mut command = self.command(&[&["--chat"], more].concat());
        command.env_remove("NO_COLOR");
        let mut terminal = Terminal::start(command, columns);
        terminal.expect("leaves.");
        terminal.expect("> ");
        terminal
    }

    /// The messages of a saved conversation: role and content.
    fn saved(&self, name: &str) -> Vec<(String, String)> {
        let saved: Value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        let part = |message: &Value, name: &str| message[name].as_str().unwrap().to_string();
        saved["messages"].as_array().unwrap().iter().map(|m| (part(m, "role"), part(m, "content"))).collect()
    }
}

/// Sends a message, waits for the answer and returns it.
fn say(terminal: &mut Terminal, text: &str) -> String {
    terminal.send(&format!("{text}\r"));
    terminal.expect("\n");
    let mut answer = terminal.expect("\n> ");
    answer.truncate(answer.len() - "\n> ".len());
    answer
}

/// Sends a command and waits for its output.
fn ask(terminal: &mut Terminal, text: &str, answer: &str) -> String {
    terminal.send(&format!("{text}\r"));
    let told = terminal.expect(answer);
    terminal.expect("> ");
    told
}

/// Prompt, run, reused and generated tokens, as `/stats` prints them.
fn stats(terminal: &mut Terminal) -> [usize; 4] {
    let told = ask(terminal, "/stats", "stopped:");
    let told = told.split_once("last turn: ").expect("a turn").1;
    let numbers: Vec<usize> = told.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    numbers[..4].try_into().unwrap()
}

fn leave(mut terminal: Terminal) {
    terminal.send("\x04");
    assert_eq!(terminal.wait().code(), Some(0), "{}", terminal.all());
    assert!(terminal.is_sane());
    assert!(!terminal.all().contains("panicked"), "{}", terminal.all());
    // What the program itself sends to steer the terminal was not taken for somebody else's text.
    assert!(!terminal.all().contains("\\u{1b}"), "{}", terminal.all());
}

#[test]
fn only_the_new_tokens_of_a_turn_run() {
    let mut terminal = scene().terminal(80, &["-n", "12", "--ignore-eos"]);
    say(&mut terminal, "Good morrow, cousin.");
    let first = stats(&mut terminal);
    assert_eq!((first[1], first[2], first[3]), (first[0], 0, 12), "nothing was there before");
    say(&mut terminal, "What news?");
    let second = stats(&mut terminal);
    // The last token of an answer was chosen but has not run.
    assert_eq!(second[2], first[0] + first[3] - 1, "{first:?} {second:?}");
    assert_eq!(second[1], second[0] - second[2]);
    assert!(second[1] < 20, "{second:?}");
    leave(terminal);
}

#[test]
fn a_conversation_is_saved_loaded_and_begun_anew() {
    let scene = scene();
    let (a, b) = (scene.file("a.json"), scene.file("b.json"));
    let mut terminal = scene.terminal(80, &["-n", "8", "--system", "Speak."]);
    let answer = say(&mut terminal, "Who is there?");
    ask(&mut terminal, &format!("/save {}", a.display()), "3 messages saved");
    let saved = scene.saved("a.json");
    assert_eq!(saved[0], ("system".into(), "Speak.".into()));
    assert_eq!(saved[1], ("user".into(), "Who is there?".into()));
    assert_eq!((saved[2].0.as_str(), saved[2].1.trim()), ("assistant", answer.trim()));
    ask(&mut terminal, "/reset", "begins anew");
    ask(&mut terminal, "/system", "Speak.");
    assert_eq!(say(&mut terminal, "Who is there?"), answer, "the same again");
    ask(&mut terminal, "/system Be still.", "holds");
    ask(&mut terminal, &format!("/load {}", a.display()), "3 messages loaded");
    say(&mut terminal, "Who else?");
    ask(&mut terminal, &format!("/save {}", b.display()), "5 messages saved");
    assert_eq!(scene.saved("b.json")[..3], saved);
    ask(&mut terminal, "/load nothing-there.json", "error: cannot read nothing-there.json");
    ask(&mut terminal, "/nonsense", "no command /nonsense");
    ask(&mut terminal, "/help", "brings earlier".strip_prefix("brings ").unwrap());
    terminal.send("/quit\r");
    assert_eq!(terminal.wait().code(), Some(0));
    assert!(terminal.is_sane());
}

/// What was saved before stays whole until the new file takes its name: it is never written over.
#[test]
fn a_saved_conversation_takes_the_place_of_the_old_one_in_one_step() {
    let scene = scene();
    let (path, link) = (scene.file("again.json"), scene.file("linked.json"));
    fs::write(&path, "what was there").unwrap();
    fs::hard_link(&path, &link).unwrap();
    let mut child = scene.command(&["--chat", "-n", "4"]).stdin(Stdio::piped()).spawn().unwrap();
    let typed = format!("/system Be brief.\n/save {}\n", path.display());
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(scene.saved("again.json"), [("system".to_string(), "Be brief.".to_string())]);
    assert_eq!(fs::read_to_string(&link).unwrap(), "what was there");
}

#[test]
fn the_editor_has_history_and_several_lines() {
    let scene = scene();
    let mut terminal = scene.terminal(80, &["-n", "4"]);
    say(&mut terminal, "one");
    say(&mut terminal, "\x1b[A!"); // the arrow upwards
    terminal.send("two\\\rlines\r");
    terminal.expect("lines");
    terminal.expect("\n> ");
    terminal.send("\"\"\"three\r\rlines\"\"\"\r");
    terminal.expect("lines\"\"\"");
    terminal.expect("\n> ");
    say(&mut terminal, "//not a command");
    terminal.send("never sent\x03"); // Ctrl-C
    terminal.expect("leaves.");
    ask(&mut terminal, &format!("/save {}", scene.file("lines.json").display()), "messages saved");
    let said = scene.saved("lines.json");
    let said: Vec<&str> = said.iter().filter(|(role, _)| role == "user").map(|(_, text)| text.as_str()).collect();
    assert_eq!(said, ["one", "one!", "two\nlines", "three\n\nlines", "/not a command"]);
    leave(terminal);
}

#[test]
fn ctrl_c_stops_an_answer_and_keeps_the_conversation() {
    let scene = scene();
    let mut terminal = scene.terminal(80, &["--ignore-eos", "--ctx", "1024"]);
    terminal.send("Speak at length.\r");
    terminal.expect("length.\n");
    terminal.expect(" "); // it has begun
    terminal.send("\x03");
    terminal.expect("\n> ");
    ask(&mut terminal, "/stats", "stopped: cancelled");
    ask(&mut terminal, &format!("/save {}", scene.file("stopped.json").display()), "2 messages saved");
    let saved = scene.saved("stopped.json");
    assert_eq!(saved[1].0, "assistant");
    assert!(!saved[1].1.is_empty(), "what was said of it stays");
    leave(terminal);
}

#[test]
fn ctrl_c_before_an_answer_takes_the_message_back() {
    let scene = scene();
    fs::write(scene.file("long.txt"), "and so on ".repeat(300)).unwrap();
    // One token a step by the plain kernels: the prompt takes seconds, and its line of progress comes after one.
    let slow = ["-n", "4", "--ctx", "1024", "--isa", "scalar", "--chunk", "1"];
    let mut terminal = scene.terminal(80, &slow);
    say(&mut terminal, "one");
    ask(&mut terminal, &format!("/read {}", scene.file("long.txt").display()), "come before the next message]");
    terminal.send("two\r");
    terminal.expect(" left");
    terminal.send("\x03");
    ask(&mut terminal, "/read -", "[no file comes before the next message]");
    ask(&mut terminal, &format!("/save {}", scene.file("before.json").display()), "2 messages saved");
    say(&mut terminal, "three");
    ask(&mut terminal, &format!("/save {}", scene.file("before.json").display()), "4 messages saved");
    let saved = scene.saved("before.json");
    let roles: Vec<&str> = saved.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!((saved[0].1.as_str(), saved[2].1.as_str()), ("one", "three"));
    assert!(saved.iter().all(|(_, text)| !text.is_empty()), "{saved:?}");
    leave(terminal);
    // The message that a conversation begins with.
    let long = fs::read_to_string(scene.file("long.txt")).unwrap();
    let mut terminal = Terminal::start(scene.command(&[&["--chat", "-p", &long], &slow[..]].concat()), 80);
    terminal.expect(" left");
    terminal.send("\x03");
    terminal.expect("nothing was added");
    terminal.expect("> ");
    say(&mut terminal, "one");
    ask(&mut terminal, &format!("/save {}", scene.file("before.json").display()), "2 messages saved");
    assert_eq!(scene.saved("before.json")[0].1, "one");
    leave(terminal);
}

#[test]
fn what_the_program_says_fits_the_terminal() {
    for columns in [40, 60, 80] {
        let mut terminal = Terminal::start(scene().command(&["--chat", "-n", "4"]), columns);
        let mut told = terminal.expect("leaves.");
        terminal.expect("> ");
        for command in ["/help", "/set", "/nothing"] {
            terminal.send(&format!("{command}\r"));
            told += &terminal.expect("\n> ");
        }
        for line in told.lines() {
            assert!(line.chars().count() <= columns.into(), "{columns}: {line}");
        }
        leave(terminal);
    }
}

#[test]
fn keys_typed_during_an_answer_wait_for_the_prompt() {
    let scene = scene();
    let mut terminal = scene.terminal(80, &["--ignore-eos", "-n", "300"]);
    terminal.send("Speak at length.\r");
    terminal.expect("length.\n");
    terminal.expect(" "); // it has begun
    terminal.send("What then?\rhal");
    let answer = terminal.expect("\n> What then?");
    assert_eq!(answer.matches("What then?").count(), 1, "nothing is shown within the answer: {answer}");
    terminal.expect("\n> hal");
    terminal.send("f a line\r");
    terminal.expect("\n");
    terminal.send(&format!("/save {}\r\x04", scene.file("typed.json").display()));
    assert_eq!(terminal.wait().code(), Some(0), "{}", terminal.all());
    assert!(terminal.is_sane());
    let saved = scene.saved("typed.json");
    let said: Vec<&str> = saved.iter().filter(|(role, _)| role == "user").map(|(_, text)| text.as_str()).collect();
    assert_eq!(said, ["Speak at length.", "What then?", "half a line"]);
    assert_eq!(saved.len(), 6, "each was answered");
}

#[test]
fn a_second_ctrl_c_leaves_the_terminal_as_it_was() {
    let mut terminal = scene().terminal(80, &["--ignore-eos", "--ctx", "1024"]);
    terminal.send("Speak at length.\r");
    terminal.expect("length.\n");
    terminal.expect(" ");
    assert!(!terminal.is_sane(), "keys wait");
    // One byte of input, two signals: whichever stops the answer in time, the terminal is sane at the end.
    terminal.send("\x03\x03\x03");
    terminal.send("\x04");
    let code = terminal.wait().code();
    assert!(matches!(code, Some(0 | 130)), "{code:?} {}", terminal.all());
    assert!(terminal.is_sane());
}

#[test]
fn a_narrow_terminal_takes_long_lines() {
    let scene = scene();
    let mut terminal = scene.terminal(20, &["-n", "4"]);
    let long = "This is a message that is much longer than the terminal is wide, and it has é, 日本 and 😀 in it.";
    terminal.send(long);
    terminal.send("\x01\x05\x1b[D\x1b[C"); // home, end, left, right
    terminal.send("\r");
    terminal.expect("\n> ");
    // The echo has line breaks too, so wait for the answer by sending a command.
    terminal.send(&format!("/save {}\r", scene.file("narrow.json").display()));
    terminal.expect("saved");
    terminal.expect("> ");
    assert_eq!(scene.saved("narrow.json")[0].1, long);
    leave(terminal);
}

#[test]
fn a_full_context_lets_one_drop_the_oldest_turns() {
    let scene = scene();
    let mut terminal = scene.terminal(80, &["-n", "16", "--ctx", "64", "--ignore-eos"]);
    for turn in 0.. {
        assert!(turn < 10, "the context is never full: {}", terminal.all());
        terminal.send(&format!("turn {turn}\r"));
        terminal.expect("\n");
        if terminal.expect_one(&["\n> ", "[Y/n] "]).ends_with("[Y/n] ") {
            break;
        }
    }
    terminal.send("y\r");
    terminal.expect("dropped]");
    terminal.expect("\n> ");
    ask(&mut terminal, "/stats", "stopped: length");
    ask(&mut terminal, &format!("/save {}", scene.file("dropped.json").display()), "messages saved");
    let saved = scene.saved("dropped.json");
    assert_ne!(saved[0].1, "turn 0");
    assert_eq!(saved[0].0, "user");
    leave(terminal);
}

#[test]
fn a_refused_message_is_taken_back() {
    let scene = scene();
    fs::write(scene.file("odd.json"), r#"[{"role": "narrator", "content": "Once."}]"#).unwrap();
    let mut terminal = scene.terminal(80, &["-n", "4"]);
    ask(&mut terminal, &format!("/load {}", scene.file("odd.json").display()), "1 messages loaded");
    ask(&mut terminal, "Hello", "error: the chat template refuses this conversation: Nobody narrates here.");
    ask(&mut terminal, "/reset", "begins anew");
    say(&mut terminal, "Hello");
    leave(terminal);
}

#[test]
fn from_a_pipe_every_line_is_a_message() {
    let mut child = scene().command(&["--chat", "-n", "4", "--json", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\\\nlines\n\n/stats\nthree").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let answers: Vec<Value> =
        String::from_utf8(out.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(answers.len(), 3);
    let count = |answer: &Value, name: &str| answer[name].as_array().unwrap().len() as u64;
    let kept = count(&answers[0], "prompt_ids") + count(&answers[0], "ids") - 1;
    assert_eq!(answers[1]["prompt_run"].as_u64().unwrap(), count(&answers[1], "prompt_ids") - kept);
}

#[test]
fn a_file_of_messages_is_answered_or_rendered() {
    let scene = scene();
    let file = scene.file("messages.json").display().to_string();
    fs::write(&file, r#"{"messages": [{"role": "user", "content": "Hi"}], "unused": true}"#).unwrap();
    let run = scene.run(&["--messages", &file, "--render"]).expect(0);
    assert_eq!(run.stdout, "<|begin_of_text|>USER:Hi<|end_of_text|>ASSISTANT:");
    let rendered = scene.run(&["--messages", &file, "--render", "--json"]).expect(0).json();
    assert_eq!(rendered["prompt"], run.stdout.as_str());
    let ids: Vec<u64> = rendered["prompt_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 1, "one BOS");
    assert_eq!(ids[0], 0);
    let answer = scene.run(&["--messages", &file, "-n", "8", "--json"]).expect(0).json();
    assert_eq!(answer["prompt_ids"], rendered["prompt_ids"]);
    assert_eq!(scene.run(&["--chat", "-p", "Hi", "-n", "8", "--json"]).expect(0).json()["ids"], answer["ids"]);
    assert_eq!(
        scene.run(&["--chat", "--single-turn", "-p", "Hi", "-n", "8"]).expect(0).stdout.trim_end_matches('\n'),
        answer["text"]
    );
    // Without --chat the same text is a plain prompt.
    let plain = scene.run(&["-p", "Hi", "-n", "8", "--json"]).expect(0).json();
    assert_ne!(plain["prompt_ids"], answer["prompt_ids"]);
    let system = scene.run(&["--chat", "--system", "S", "-p", "Hi", "--render"]).expect(0).stdout;
    assert_eq!(system, "<|begin_of_text|>SYSTEM:S<|end_of_text|>USER:Hi<|end_of_text|>ASSISTANT:");
    fs::write(
        &file,
        json!({"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": false}).to_string(),
    )
    .unwrap();
    assert_eq!(
        scene.run(&["--messages", &file, "--render"]).expect(0).stdout,
        "<|begin_of_text|>USER:Hi<|end_of_text|>"
    );
}

#[test]
fn with_tools_the_template_for_tools_is_taken() {
    let scene = scene();
    let source = scene.file("named");
    copy_folder(&root().join("weights/demo"), &source);
    let (plain, tools, none) = (scene.file("plain.json"), scene.file("tools.json"), scene.file("no-tools.json"));
    let write = |path: &Path, tools: Value| {
        fs::write(path, json!({"messages": [{"role": "user", "content": "Hi"}], "tools": tools}).to_string()).unwrap();
    };
    write(&plain, Value::Null);
    write(&none, json!([]));
    write(&tools, json!([{"type": "function", "function": {"name": "f"}}]));
    let render = |messages: &Path, code| {
        let model = scene.file("named.nsv");
        let run = nanoserve("run", [&model, Path::new("--messages"), messages, Path::new("--render")]).expect(code);
        if code == 0 { run.stdout } else { run.stderr }
    };
    for default in [true, false] {
        let mut all = vec![json!({"name": "tool_use", "template": "T{{ bos_token }}"})];
        all.extend(default.then(|| json!({"name": "default", "template": "D{{ bos_token }}"})));
        let config = json!({"bos_token": {"content": "<|begin_of_text|>"}, "chat_template": all});
        fs::write(source.join("tokenizer_config.json"), config.to_string()).unwrap();
        nanoserve("convert", [source.clone(), scene.file("named.nsv"), "-q".into()]).expect(0);
        assert_eq!(render(&tools, 0), "T<|begin_of_text|>");
        assert_eq!(render(&none, 0), "T<|begin_of_text|>", "no tool is a list of tools");
        let model = scene.file("named.nsv").display().to_string();
        let by_name = |name: &str, code| {
            let messages = plain.display().to_string();
            nanoserve("run", [&model, "--messages", &messages, "--render", "--chat-template", name]).expect(code)
        };
        assert_eq!(by_name("tool_use", 0).stdout, "T<|begin_of_text|>");
        assert!(by_name("rag", 2).stderr.contains("cannot read the chat template rag"));
        if default {
            assert_eq!(render(&plain, 0), "D<|begin_of_text|>");
        } else {
            assert!(render(&plain, 2).contains("has no chat template but those named tool_use"));
        }
    }
}

#[test]
fn an_answer_is_made_again_and_settings_hold() {
    let scene = scene();
    let mut terminal = scene.terminal(80, &["-n", "8"]);
    ask(&mut terminal, "/regen", "there is no answer yet");
    let answer = say(&mut terminal, "Who is there?");
    assert_eq!(say(&mut terminal, "/regen"), answer, "the likeliest is the same again");
    ask(&mut terminal, "/set temperature 5", "[temperature is 5 from here on]");
    ask(&mut terminal, "/set top-k 0", "[top-k is 0 from here on]");
    let others: Vec<String> = (0..3).map(|_| say(&mut terminal, "/regen")).collect();
    assert!(others.iter().any(|other| *other != answer), "{others:?}");
    ask(&mut terminal, "/set n 3", "[n is 3 from here on]");
    say(&mut terminal, "/regen");
    assert_eq!(stats(&mut terminal)[3], 3);
    ask(&mut terminal, &format!("/save {}", scene.file("again.json").display()), "2 messages saved");
    for (setting, told) in [
        ("/set", "temperature       5"),
        ("/set colour red", "error: there is no setting colour"),
        ("/set temperature", "error: /set needs a name and a value"),
        ("/set temperature -1", "error: "),
        ("/stats maybe", "error: 'maybe' is no value for it, expected off or on"),
    ] {
        ask(&mut terminal, setting, told);
    }
    ask(&mut terminal, "/stats on", "[on]");
    assert!(say(&mut terminal, "More.").contains("| 3 tokens, "), "{}", terminal.all());
    ask(&mut terminal, "/stats off", "[off]");
    assert!(!say(&mut terminal, "More.").contains("| 3 tokens, "));
    ask(&mut terminal, "/clear", "begins anew");
    ask(&mut terminal, &format!("/save {}", scene.file("again.json").display()), "0 messages saved");
    terminal.send("/exit\r");
    assert_eq!(terminal.wait().code(), Some(0));
    assert!(!terminal.all().contains("\\u{1b}"), "{}", terminal.all());
    assert!(terminal.raw().contains("\x1b[2m[prompt "), "the figures are dim: {:?}", terminal.raw());
}

#[test]
fn a_file_comes_before_the_next_message() {
    let scene = scene();
    let file = scene.file("notes.txt");
    fs::write(&file, "First.\nSecond.\n").unwrap();
    let mut terminal = scene.terminal(80, &["-n", "4"]);
    ask(&mut terminal, "/read nothing-there.txt", "error: cannot read nothing-there.txt");
    ask(&mut terminal, &format!("/read {}", file.display()), "characters come before the next message]");
    say(&mut terminal, "What of it?");
    say(&mut terminal, "And now?");
    ask(&mut terminal, &format!("/save {}", scene.file("read.json").display()), "4 messages saved");
    let saved = scene.saved("read.json");
    assert_eq!((saved[0].1.as_str(), saved[2].1.as_str()), ("First.\nSecond.\n\nWhat of it?", "And now?"));
    leave(terminal);
}

#[test]
fn a_model_alone_begins_a_conversation_on_a_terminal() {
    let scene = scene();
    for program in ["nanoserve", "nanoserve-run"] {
        let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
        let words = scene.arguments(&["-n", "4", "--chat-template", &template]);
        let mut terminal = Terminal::start(command(program, words), 80);
        let banner = terminal.expect("leaves.");
        for part in ["demo.nsv | ", " weights in q8, ", "B | context ", " | CPU, ", ", 1 thread"] {
            assert!(banner.contains(part), "{part} {banner}");
        }
        terminal.expect("> ");
        say(&mut terminal, "Hello");
        leave(terminal);
    }
    let none = nanoserve("run", [scene.model()]).expect(2);
    assert!(none.stderr.contains("what to do is missing"), "{}", none.stderr);
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    for (name, value, coloured) in [("NO_COLOR", "", true), ("NO_COLOR", "1", false), ("TERM", "dumb", false)] {
        let mut command = scene().command(&["--chat", "-n", "4"]);
        command.env_remove("NO_COLOR").env(name, value);
        let mut terminal = Terminal::start_as(command, 80, if name == "TERM" { value } else { "xterm" });
        terminal.expect("leaves.");
        terminal.expect("> ");
        terminal.send("Hello\r");
        terminal.expect("\n");
        terminal.expect("> ");
        let raw = terminal.raw().to_string();
        assert_eq!(raw.contains("\x1b[1;32m"), coloured, "{name}={value} {raw:?}");
        assert_eq!(raw.contains('\x1b'), name != "TERM", "a terminal that knows no escape sequences gets none");
    }
}

#[test]
fn signals_leave_the_terminal_as_it_was() {
    for (signal, code) in [("-TERM", 143), ("-HUP", 129)] {
        for at_the_prompt in [true, false] {
            let mut terminal = scene().terminal(80, &["--ignore-eos", "--ctx", "1024"]);
            if !at_the_prompt {
                terminal.send("Speak at length.\r");
                terminal.expect("length.\n");
                terminal.expect(" ");
            }
            assert!(!terminal.is_sane());
            let sent = Command::new("kill").args([signal, &terminal.id().to_string()]).status().unwrap();
            assert!(sent.success());
            assert_eq!(terminal.wait().code(), Some(code), "{}", terminal.all());
            assert!(terminal.is_sane(), "{signal} {at_the_prompt}");
        }
    }
}

/// A template that knows two roles, and one that reads parts.
#[test]
fn nothing_that_was_said_is_lost_silently() {
    let scene = scene();
    let (two, parts, file) = (scene.file("two.jinja"), scene.file("parts.jinja"), scene.file("said.json"));
    fs::write(
        &two,
        "{% for m in messages if m.role in ['user', 'assistant'] %}{{ m.role }}:{{ m.content }};{% endfor %}",
    )
    .unwrap();
    fs::write(
        &parts,
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}\
         <{{ p.text }}>{% endfor %}{% endif %}{% endfor %}",
    )
    .unwrap();
    let run = |template: &Path, messages: Value, more: &[&str], code| {
        fs::write(&file, messages.to_string()).unwrap();
        let own =
            [&scene.model(), "--chat-template", &template.display().to_string(), "--messages"].map(str::to_string);
        let own = own.into_iter().chain([file.display().to_string(), "-t".into(), "1".into()]);
        // A prompt that is only shown has no length.
        let length: &[&str] = if more.contains(&"--render") { &[] } else { &["-n", "1"] };
        let own = own.chain(length.iter().map(|word| word.to_string()));
        nanoserve("run", own.chain(more.iter().map(|s| s.to_string()))).expect(code)
    };
    let message = |role: &str, content: Value| json!({"role": role, "content": content});
    let lost = json!([
        message("user", json!("Hi")),
        message("assistant", json!("Yes")),
        message("developer", json!("Be kind"))
    ]);
    let told = "message 3 has the role 'developer', which the chat template leaves out";
    assert!(run(&two, lost.clone(), &[], 2).stderr.contains(told));
    let rendered = run(&two, lost, &["--render"], 0);
    assert!(rendered.stderr.contains(told), "{}", rendered.stderr);
    assert_eq!(rendered.stdout, "user:Hi;assistant:Yes;");
    // What is written otherwise is not lost, and an answer may be left out: it is the model's own.
    run(&two, json!([message("user", json!("  Hi  ")), message("assistant", json!(""))]), &[], 0);
    let system = nanoserve(
        "run",
        [&scene.model(), "--chat-template", &two.display().to_string(), "--chat", "--system", "Be kind", "-p", "Hi"],
    );
    assert!(system.expect(2).stderr.contains("message 1 has the role 'system'"));

    let text = |text: &str| json!({"type": "text", "text": text});
    let listed = json!([message("user", json!([text("One."), text("Two.")]))]);
    assert_eq!(run(&two, listed.clone(), &["--render"], 0).stdout, "user:One.\nTwo.;");
    assert_eq!(run(&parts, listed, &["--render"], 0).stdout, "<One.><Two.>");
    for kind in ["image_url", "image", "input_audio", "file"] {
        let picture = json!([message("user", json!([text("What is this?"), {"type": kind, kind: {"url": "x"}}]))]);
        for template in [&two, &parts] {
            let told = run(template, picture.clone(), &["--render"], 2).stderr;
            assert!(told.contains(&format!("message 1 has a part of type '{kind}'")), "{told}");
        }
    }
    let odd = json!([message("user", json!([{"type": "text"}]))]);
    assert!(run(&two, odd, &["--render"], 2).stderr.contains("without a `text`"));
}

/// `TZ` as the C library reads it: a rule, a zone's name, either behind a colon.
#[test]
fn templates_see_the_local_time() {
    let scene = scene();
    let (template, file) = (scene.file("time.jinja"), scene.file("time.json"));
    fs::write(&template, "{{ strftime_now('%Y-%m-%d %H:%M') }}{{ messages[0].content }}").unwrap();
    fs::write(&file, r#"[{"role": "user", "content": ""}]"#).unwrap();
    let now = |zone: &str| {
        let (messages, template) = (file.display().to_string(), template.display().to_string());
        let arguments = [&scene.model(), "--messages", &messages, "--render", "--chat-template", &template];
        let mut command = command("nanoserve-run", arguments);
        command.env("TZ", zone);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    for (zone, rule) in [
        ("Asia/Tokyo", "JST-9"),
        (":Asia/Tokyo", "JST-9"),
        ("Pacific/Kiritimati", "<+14>-14"),
        ("Asia/Kolkata", "IST-5:30"),
        ("Etc/UTC", "UTC0"),
        ("", "UTC0"),
    ] {
        let before = now(rule);
        let (here, after) = (now(zone), now(rule));
        assert_eq!(here.len(), 16, "{here}");
        assert!([&before, &after].contains(&&here), "TZ={zone}: {here}, not {before}");
    }
}

/// Files of format 1.0 made before they had special tokens.
#[test]
fn a_file_without_special_tokens_chats_by_its_own_template() {
    let model = root().join("tests/format-1.0/f16.nsv").display().to_string();
    let said = [&model, "--chat", "--system", "S", "-p", "Hi"];
    let run = nanoserve("run", [&said[..], &["--render"]].concat()).expect(0);
    assert_eq!(run.stdout, "<|system|> S<|end|>\n<|user|> Hi<|end|>\n<|assistant|>");
    let answer = nanoserve("run", [&said[..], &["-n", "4", "--json", "-t", "1"]].concat()).expect(0).json();
    assert!(!answer["ids"].as_array().unwrap().is_empty(), "{answer}");
    let none = root().join("tests/format-1.0/f32.nsv").display().to_string();
    assert!(!nanoserve("run", [&none, "--chat", "-p", "Hi"]).expect(2).stderr.is_empty());
}

#[test]
fn what_cannot_be_rendered_is_said() {
    let scene = scene();
    let file = scene.file("bad.json").display().to_string();
    for (messages, told) in [
        ("[", "it is no JSON"),
        ("5", "neither an array of messages nor an object"),
        ("{}", "has no array `messages`"),
        ("[]", "at least one message is needed"),
        ("[1]", "message 1 is no object"),
        (r#"{"messages": [{}], "tools": 5}"#, "`tools` is no array"),
        (r#"[{"role": "narrator", "content": "x"}]"#, "refuses this conversation: Nobody narrates here."),
        (r#"[{"role": "user"}]"#, "UndefinedError: 'dict object' has no attribute 'content'"),
    ] {
        fs::write(&file, messages).unwrap();
        let run = scene.run(&["--messages", &file, "--render"]).expect(2);
        assert!(run.stderr.contains(told), "{messages}: {}", run.stderr);
    }
    let model = scene.model();
    let none = nanoserve("run", [model.as_str(), "--chat", "-p", "Hi"]).expect(2);
    assert!(none.stderr.contains("has no chat template: give one with --chat-template FILE"), "{}", none.stderr);
    for arguments in [
        &["--chat", "--ids", "1"][..],
        &["--messages", "x", "-p", "y"],
        &["--now", "noon", "--chat"],
        &["-p", "y", "--hide-reasoning"],
        &["--chat", "-p", "y", "--render", "--hide-reasoning"],
        &["--system", "x"],
        &[],
    ] {
        nanoserve("run", [&[model.as_str()], arguments].concat()).expect(2);
    }
    fs::write(scene.file("bad.jinja"), "{% if %}").unwrap();
    let template = scene.file("bad.jinja").display().to_string();
    let bad = nanoserve("run", [&model, "--chat", "-p", "Hi", "--chat-template", &template]).expect(2);
    assert!(bad.stderr.contains("bad.jinja: the chat template cannot be read: line 1"), "{}", bad.stderr);
    let full = scene.run(&["--chat", "-p", "Hi", "--ctx", "8"]).expect(2);
    assert!(full.stderr.contains("too little is left for an answer"), "{}", full.stderr);
}
