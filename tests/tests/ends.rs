//! Where an answer ends, which special tokens are seen, and which ids the next prompt has.

use nanoserve_format::NsvFile;
use nanoserve_runtime::Tokenizer;
use nanoserve_runtime::chat::Prompter;
use nanoserve_tests::{CHATML, Run, Script, Terminal, command, nanoserve};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use tempfile::TempDir;

const END: &str = "<|im_end|>";
const TEXT_END: &str = "<|endoftext|>";

/// A model that says `O K <|im_end|> ! ? <|endoftext|>` after a line's end.
fn said(specials: &[&'static str], added: &[&'static str]) -> Script {
    let mut script = Script { specials: specials.to_vec(), added: added.to_vec(), ..Script::default() };
    script.chain =
        [Script::bytes("\nOK"), vec![script.id(END)], Script::bytes("!?"), vec![script.id(TEXT_END)]].concat();
    script
}

struct Model {
    folder: TempDir,
}

impl Model {
    /// Converts a script's checkpoint: the end token of config.json, and other files beside it.
    fn new(script: &Script, eos: Option<u32>, files: &[(&str, Value)]) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        script.write(&source, eos);
        for (name, content) in files {
            let text = content.as_str().map_or_else(|| content.to_string(), str::to_string);
            fs::write(source.join(name), text).unwrap();
        }
        nanoserve("convert", [source, folder.path().join("model.nsv"), "-q".into()]).expect(0);
        Model { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.nsv")
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let mut all =
            [&self.path().display().to_string(), "-t", "1", "--temperature", "0"].map(str::to_string).to_vec();
        if !more.contains(&"-n") {
            all.extend(["-n", "20"].map(str::to_string));
        }
        all.extend(more.iter().map(|s| s.to_string()));
        all
    }

    fn run(&self, more: &[&str]) -> Run {
        nanoserve("run", self.arguments(more)).expect(0)
    }

    /// Text and reason of an answer.
    fn answer(&self, more: &[&str]) -> (String, String) {
        let answer = self.run(&[more, &["--json"]].concat()).json();
        (answer["text"].as_str().unwrap().to_string(), answer["stop_reason"].as_str().unwrap().to_string())
    }

    fn chat(&self) -> (String, String) {
        self.answer(&["--chat", "--single-turn", "-p", "hi"])
    }

    /// The answers to lines from a pipe.
    fn lines(&self, lines: &str, more: &[&str]) -> Vec<Value> {
        let arguments = self.arguments(&[&["--chat", "--json"], more].concat());
        let mut child = command("nanoserve-run", arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.to_string(), b.to_string())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_file_can_name_a_conversations_end() {
    let special = said(&[TEXT_END, "<|im_start|>", END], &[]);
    let plain = said(&[TEXT_END], &["<|im_start|>", END]);
    let chatml = ("chat_template.jinja", json!(CHATML));
    // Writes no mark behind an answer, so that only the other files can name it.
    let bare = ("chat_template.jinja", json!("{% for m in messages %}{{ m.content }}\n{% endfor %}"));
    let named = ("tokenizer_config.json", json!({"eos_token": END}));
    let ended = pair("OK", "eos");
    for (script, name) in [(&special, "special"), (&plain, "plain")] {
        let (text_end, end) = (script.id(TEXT_END), script.id(END));
        let generation = |eos: Value| ("generation_config.json", json!({"eos_token_id": eos}));
        for (eos, files, by) in [
            (Some(end), vec![bare.clone()], "config.json"),
            (Some(end), vec![bare.clone(), generation(json!(text_end))], "config.json, not generation_config.json"),
            (Some(text_end), vec![bare.clone(), generation(json!([text_end, end]))], "generation_config.json"),
            (Some(text_end), vec![bare.clone(), generation(json!(text_end)), named.clone()], "the tokenizer"),
            (None, vec![bare.clone(), named.clone()], "the tokenizer alone"),
            (Some(text_end), vec![chatml.clone()], "the template"),
        ] {
            assert_eq!(Model::new(script, eos, &files).chat(), ended, "{name}, said by {by}");
        }
        // A plain text goes on to where the model's files say a text ends.
        let model = Model::new(script, Some(text_end), &[chatml.clone(), named.clone()]);
        let shown = if name == "special" { "OK!?" } else { "OK<|im_end|>!?" };
        assert_eq!(model.answer(&["-p", "hi\n"]), pair(shown, "eos"));
        assert_eq!(model.answer(&["--chat", "-p", "hi", "--ignore-eos", "-n", "2"]), pair("OK", "length"));
        let file = NsvFile::open(model.path()).unwrap().generation().unwrap();
        assert_eq!((file.eos_ids, file.turn_end_ids), (vec![text_end], vec![end]));
    }
    // No file says it: the tokenizer's word ends every text.
    let model = Model::new(&special, None, &[named]);
    assert_eq!(NsvFile::open(model.path()).unwrap().generation().unwrap().eos_ids, [special.id(END)]);
    assert_eq!(model.answer(&["-p", "hi\n"]), ended);
}

#[test]
fn the_grammar_of_a_conversation_knows_its_end() {
    let script = said(&[TEXT_END, "<|im_start|>", END], &[]);
    let model = Model::new(&script, Some(script.id(TEXT_END)), &[("chat_template.jinja", json!(CHATML))]);
    let grammar = model.folder.path().join("letters.lark");
    fs::write(&grammar, "start: /[A-Z!?]+/").unwrap();
    let grammar = grammar.display().to_string();
    assert_eq!(model.answer(&["--chat", "-p", "hi", "--grammar", &grammar]), pair("OK", "eos"));
}

#[test]
fn stop_texts_may_be_special_tokens() {
    let script = said(&[TEXT_END, "<|im_start|>", END], &[]);
    let model = Model::new(&script, Some(script.id(TEXT_END)), &[]);
    let (o, k, end, text_end) = (u32::from(b'O'), u32::from(b'K'), script.id(END), script.id(TEXT_END));
    for (stop, text, made) in [
        (END, "OK", vec![o, k, end]),
        ("K<|im_end|>", "O", vec![o, k, end]),
        ("im_end|>!", "OK", vec![o, k, end, 33]),
        ("K", "O", vec![o, k]),
        (TEXT_END, "OK!?", vec![o, k, end, 33, 63, text_end]),
        ("?<|endoftext|>", "OK!", vec![o, k, end, 33, 63, text_end]),
    ] {
        let answer = model.run(&["-p", "hi\n", "--stop", stop, "--json"]).json();
        assert_eq!((answer["text"].as_str(), ids(&answer["ids"])), (Some(text), made), "{stop}");
        assert_eq!(answer["stop_reason"], "stop", "{stop}");
        assert_eq!(model.run(&["-p", "hi\n", "--stop", stop, "-q"]).stdout, format!("{text}\n"), "{stop}");
    }
}

#[test]
fn special_tokens_are_shown_on_demand() {
    let script = said(&[TEXT_END, "<|im_start|>", END], &[]);
    let model = Model::new(&script, Some(script.id(TEXT_END)), &[("chat_template.jinja", json!(CHATML))]);
    assert_eq!(model.run(&["-p", "hi\n", "-q"]).stdout, "OK!?\n");
    assert_eq!(model.run(&["-p", "hi\n", "-q", "--special"]).stdout, "OK<|im_end|>!?<|endoftext|>\n");
    let all = model.answer(&["-p", "hi\n", "--special"]);
    assert_eq!(all, pair("OK<|im_end|>!?<|endoftext|>", "eos"));
    assert_eq!(model.answer(&["-p", "hi\n", "--special", "--stop", "!"]), pair("OK<|im_end|>", "stop"));
    assert_eq!(model.run(&["--chat", "-p", "hi", "-q", "--special"]).stdout, "OK<|im_end|>\n");
    // What is shown is no part of what was said.
    let shown = model.lines("a\nb\n", &["--special"]);
    let usual = model.lines("a\nb\n", &[]);
    assert_eq!(shown[0]["text"], "OK<|im_end|>");
    assert_eq!((&shown[1]["prompt_ids"], &usual[0]["text"]), (&usual[1]["prompt_ids"], &json!("OK")));
}

/// The next prompt holds the ids of an answer as they were chosen: special tokens within it, and letters that the
/// tokenizer would put together.
#[test]
fn a_conversation_keeps_the_ids_that_were_chosen() {
    let mut script =
        Script { merges: vec![('O', 'K')], specials: vec!["<|im_start|>", END, "<|mark|>"], ..Script::default() };
    script.chain =
        [Script::bytes("\nOK"), vec![script.id("<|mark|>")], Script::bytes("!"), vec![script.id(END)]].concat();
    let template = ("chat_template.jinja", json!(CHATML));
    let model = Model::new(&script, Some(script.id(END)), &[template]);
    let answers = model.lines("a\nb\nc\n", &[]);
    for pair in answers.windows(2) {
        let (chosen, next) = (ids(&pair[0]["ids"]), ids(&pair[1]["prompt_ids"]));
        assert_eq!(chosen.len(), 5);
        let expected = [ids(&pair[0]["prompt_ids"]), chosen.clone()].concat();
        assert_eq!(next[..expected.len()], expected, "the end token too: the template writes it");
        assert_eq!(pair[1]["prompt_run"].as_u64().unwrap() as usize, next.len() - (expected.len() - 1));
        assert_eq!(pair[0]["text"], "OK!");
    }
    // A stop text ends at a token's end: what stands before it was chosen so, and is kept.
    let stopped = model.lines("a\nb\n", &["--stop", "<|mark|>"]);
    let (chosen, next) = (ids(&stopped[0]["ids"]), ids(&stopped[1]["prompt_ids"]));
    let expected = [&ids(&stopped[0]["prompt_ids"])[..], &chosen[..2], &[script.id(END)]].concat();
    assert_eq!((stopped[0]["text"].as_str(), &next[..expected.len()]), (Some("OK"), &expected[..]));
    // Where the template writes the answer otherwise than it was said, the template has the last word.
    let lower = json!(CHATML.replace("m['content']", "(m['content'] | lower)"));
    let model = Model::new(&script, Some(script.id(END)), &[("chat_template.jinja", lower)]);
    let answers = model.lines("a\nb\n", &[]);
    let next = ids(&answers[1]["prompt_ids"]);
    let expected = [ids(&answers[0]["prompt_ids"]), Script::bytes("ok!"), vec![script.id(END)]].concat();
    assert_eq!(next[..expected.len()], expected);
}

#[test]
fn ids_are_kept_where_the_text_goes_on_and_made_anew_where_it_does_not() {
    let script = Script { merges: vec![('O', 'K'), ('!', '\n')], ..Script::default() };
    let tokenizer = Tokenizer::from_json(script.tokenizer().to_string().as_bytes(), None, None).unwrap();
    let bytes = Script::bytes;
    let encoded = |text: &str| tokenizer.encode(text, false).unwrap();
    assert_eq!((encoded("OK"), encoded("!\n")), (vec![256], vec![257]));
    let mut prompter = Prompter::default();
    prompter.answered("Q", &bytes("Q"), "OK", Some(&bytes("OK")));
    // Followed by ordinary text, at a place where the tokenizer divides as well, and where it does not.
    assert_eq!(prompter.ids("QOK\nQ", &tokenizer).unwrap(), bytes("QOK\nQ"));
    prompter.answered("Q", &bytes("Q"), "OK!", Some(&bytes("OK!")));
    assert_eq!(prompter.ids("QOK!\nQ", &tokenizer).unwrap(), bytes("QOK!\nQ"));
    assert_eq!(prompter.ids("QOK!", &tokenizer).unwrap(), bytes("QOK!"));
    // Several turns.
    prompter.answered("QOK!\nQ", &bytes("QOK!\nQ"), "OK", Some(&bytes("OK")));
    assert_eq!(prompter.ids("QOK!\nQOK\nQ", &tokenizer).unwrap(), bytes("QOK!\nQOK\nQ"));
    // The second answer is written otherwise: the first keeps its ids.
    assert_eq!(prompter.ids("QOK!\nQOx", &tokenizer).unwrap(), bytes("QOK!\nQOx"));
    assert_eq!(prompter.ids("QOK!\nQOK!\n", &tokenizer).unwrap(), [bytes("QOK!\nQOK"), vec![257]].concat());
    // The first is written otherwise, or there is none: everything is encoded.
    assert_eq!(prompter.ids("QOKOK", &tokenizer).unwrap(), encoded("QOKOK"));
    // No ids have just the text that was said.
    prompter.answered("Q", &bytes("Q"), "OK", None);
    assert_eq!(prompter.ids("QOK\n", &tokenizer).unwrap(), encoded("QOK\n"));
    prompter.reset();
    assert_eq!(prompter.ids("QOK!\n", &tokenizer).unwrap(), encoded("QOK!\n"));

    // A tokenizer that puts a space in front of every text must not put one in the middle.
    let spaced = json!({"version": "1.0", "added_tokens": [], "post_processor": null, "pre_tokenizer": null,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": {"▁": 0, "a": 1, "b": 2, "▁a": 3, "ba": 4, "ab": 5},
            "merges": [["▁", "a"], ["b", "a"], ["a", "b"]]}});
    let tokenizer = Tokenizer::from_json(spaced.to_string().as_bytes(), None, None).unwrap();
    let encoded = |text: &str| tokenizer.encode(text, false).unwrap();
    assert_eq!((encoded("aba"), encoded("b")), (vec![3, 4], vec![0, 2]));
    let mut prompter = Prompter::default();
    prompter.answered("a", &[3], "ba", Some(&[2, 1]));
    assert_eq!(prompter.ids("aba b", &tokenizer).unwrap(), [3, 2, 1, 0, 2], "a space that the text has");
    assert_eq!(prompter.ids("ababa", &tokenizer).unwrap(), [3, 2, 1, 4], "none that it has not");
    assert_eq!(tokenizer.decode(&prompter.ids("abab", &tokenizer).unwrap(), false).unwrap(), "abab");
}

#[test]
fn reasoning_stands_apart_from_the_answer() {
    for (marks, special) in [(["<think>", "</think>"], false), (["[THINK]", "[/THINK]"], true)] {
        let all = ["<|im_start|>", END, marks[0], marks[1]];
        let (specials, added) = if special { (&all[..], &[][..]) } else { (&all[..2], &all[2..]) };
        let mut script = Script { specials: specials.to_vec(), added: added.to_vec(), ..Script::default() };
        let [begin, end] = marks.map(|mark| vec![script.id(mark)]);
        script.chain =
            [Script::bytes("\n"), begin, Script::bytes("Hm"), end, Script::bytes("OK"), vec![script.id(END)]].concat();
        let model = Model::new(&script, Some(script.id(END)), &[("chat_template.jinja", json!(CHATML))]);
        let whole = format!("{}Hm{}OK", marks[0], marks[1]);
        let said = ["--chat", "-p", "hi"];
        assert_eq!(model.run(&[&said[..], &["-q"]].concat()).stdout, format!("{whole}\n"));
        assert_eq!(model.answer(&said), pair(&whole, "eos"));
        let hidden = [&said[..], &["--hide-reasoning"]].concat();
        assert_eq!(model.run(&[&hidden[..], &["-q"]].concat()).stdout, "OK\n");
        assert_eq!(model.answer(&hidden), pair("OK", "eos"));
        // What the model thought stays in the conversation, however it is shown.
        let answers = model.lines("a\nb\n", &["--hide-reasoning"]);
        let (chosen, next) = (ids(&answers[0]["ids"]), ids(&answers[1]["prompt_ids"]));
        let expected = [ids(&answers[0]["prompt_ids"]), chosen].concat();
        assert_eq!(next[..expected.len()], expected);
        let terminal = |name: &str, value: &str| {
            let mut command = command("nanoserve-run", model.arguments(&said));
            command.arg("--single-turn").env_remove("NO_COLOR").env(name, value);
            let mut terminal = Terminal::start(command, 80);
            terminal.expect("OK\n");
            assert_eq!(terminal.wait().code(), Some(0));
            terminal.raw().replace('\r', "")
        };
        assert_eq!(terminal("COLUMNS", "80"), "\x1b[2mHm\x1b[0m\n\nOK\n");
        assert_eq!(terminal("NO_COLOR", "1"), format!("{whole}\n"));
    }
}

#[test]
fn a_prompt_may_end_within_reasoning() {
    // As DeepSeek-R1's and Qwen3's thinking templates do.
    let opened = CHATML.replace("assistant\\n", "assistant\\n<think>\\n");
    assert_ne!(opened, CHATML);
    let mut script =
        Script { specials: vec!["<|im_start|>", END], added: vec!["<think>", "</think>"], ..Script::default() };
    script.chain =
        [Script::bytes("\nHm"), vec![script.id("</think>")], Script::bytes("OK"), vec![script.id(END)]].concat();
    let model = Model::new(&script, Some(script.id(END)), &[("chat_template.jinja", json!(opened))]);
    let whole = "Hm</think>OK";
    let said = ["--chat", "-p", "hi"];
    assert_eq!(model.answer(&said), pair(whole, "eos"));
    assert_eq!(model.answer(&[&said[..], &["--hide-reasoning"]].concat()), pair("OK", "eos"));
    assert_eq!(model.run(&[&said[..], &["-q", "--hide-reasoning"]].concat()).stdout, "OK\n");
    let terminal = |more: &[&str]| {
        let mut command = command("nanoserve-run", model.arguments(&[&said[..], &["--single-turn"], more].concat()));
        command.env_remove("NO_COLOR");
        let mut terminal = Terminal::start(command, 80);
        terminal.expect("OK\n");
        assert_eq!(terminal.wait().code(), Some(0));
        terminal.raw().replace('\r', "")
    };
    assert_eq!(terminal(&[]), "\x1b[2mHm\x1b[0m\n\nOK\n");
    assert_eq!(terminal(&["--hide-reasoning"]), "OK\n");

    // An answer that is continued within its reasoning: the template writes no mark, the message has it.
    let model = Model::new(&script, Some(script.id(END)), &[("chat_template.jinja", json!(CHATML))]);
    for begun in ["<think>\n", "<think>So\n"] {
        let talk = json!({"continue_final_message": true, "messages": [
            {"role": "user", "content": "hi"}, {"role": "assistant", "content": begun}]});
        let file = model.folder.path().join("begun.json");
        fs::write(&file, talk.to_string()).unwrap();
        let continued = ["--messages", file.to_str().unwrap()];
        assert_eq!(model.answer(&continued), pair(whole, "eos"), "{begun}");
        assert_eq!(model.answer(&[&continued[..], &["--hide-reasoning"]].concat()), pair("OK", "eos"), "{begun}");
    }
}
