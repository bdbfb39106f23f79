//! Options as users give them: by place, through a pipe, from the environment, in llama.cpp's spelling; and each of them with
//! conversations too.

use nanoserve_tests::{Run, command, fixture, nanoserve, root};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The demo, converted, and a conversation for it.
struct Scene {
    folder: TempDir,
}

fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene { folder };
        nanoserve("convert", [root().join("weights/demo"), scene.file("demo.nsv"), "-q".into()]).expect(0);
        fs::write(scene.file("talk.json"), r#"[{"role": "user", "content": "Who goes there?"}]"#).unwrap();
        scene
    })
}

impl Scene {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn run(&self, more: &[&str]) -> Run {
        nanoserve("run", [&[self.name("demo.nsv").as_str(), "-t", "1"], more].concat())
    }

    #[track_caller]
    fn json(&self, more: &[&str]) -> Value {
        self.run(&[more, &["--json"]].concat()).expect(0).json()
    }

    /// The answer to the conversation in talk.json.
    fn talk(&self, more: &[&str]) -> Run {
        self.talk_by("3", more)
    }

    fn talk_by(&self, seed: &str, more: &[&str]) -> Run {
        let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
        self.run(
            &[&["--messages", &self.name("talk.json"), "--chat-template", &template, "-n", "9", "-s", seed], more]
                .concat(),
        )
    }
}

/// What a program does with this standard input.
fn fed(mut command: Command, input: &[u8]) -> Run {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // A program that does not read it is a program that ends.
    let _ = child.stdin.take().unwrap().write_all(input);
    let out = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

const SAME: [&str; 6] = ["-n", "6", "--seed", "4", "-t", "1"];

/// A report without the times.
fn answer(report: &Value) -> [&Value; 5] {
    ["prompt_ids", "ids", "text", "logits_hash", "seed"].map(|key| &report[key])
}

#[test]
fn a_prompt_by_place_or_through_a_pipe_is_a_prompt() {
    let (scene, model) = (scene(), scene().name("demo.nsv"));
    let expected = scene.json(&[&["-p", "ROMEO:"], &SAME[..4]].concat());
    assert_eq!(answer(&scene.json(&[&["ROMEO:"], &SAME[..4]].concat())), answer(&expected));
    let whole = |more: &[&str]| command("nanoserve", [&["run", &model], &SAME[..], &["--json"], more].concat());
    for (input, same) in [("ROMEO:\n", true), ("ROMEO:\r\n", true), ("ROMEO:", true), ("ROMEO:\n\n", false)] {
        let run = fed(whole(&[]), input.as_bytes()).expect(0);
        assert_eq!(answer(&run.json()) == answer(&expected), same, "{input:?}");
    }
    // What is given counts, whatever could be read.
    assert_eq!(answer(&fed(whole(&["-p", "ROMEO:"]), b"JULIET:").expect(0).json()), answer(&expected));
    let empty = fed(whole(&[]), b"").expect(2);
    assert!(empty.stderr.contains("what to do is missing"), "{}", empty.stderr);
    assert!(fed(whole(&[]), b"\xff\xfe").expect(2).stderr.contains("standard input"));
    for more in [&["-p", "x"][..], &["--ids", "1"], &["--self-test"], &["--messages", "x"]] {
        assert!(scene.run(&[&["ROMEO:"], more].concat()).expect(2).stderr.contains("cannot be used with"), "{more:?}");
    }
}

#[test]
fn llama_cpp_spellings_give_the_same_answer() {
    let (scene, model) = (scene(), scene().name("demo.nsv"));
    let expected = scene.json(&[&["-p", "ROMEO:\n", "--stop", "zz"], &SAME[..4]].concat());
    let theirs =
        "-n 6 -s 4 -t 1 -c 0 -b 2048 -ub 64 -ctk f16 -ctv f16 --no-display-prompt -no-cnv --keep -1 -r zz -e --no-mmap";
    let words: Vec<&str> =
        ["run", "-m", &model, "-p", "ROMEO:\\n", "--json"].into_iter().chain(theirs.split(' ')).collect();
    let out = command("nanoserve", &words).output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    assert_eq!(answer(&report), answer(&expected));
    assert_ne!(
        scene.json(&["-p", "a", "-s", "-1", "-n", "1"])["seed"],
        scene.json(&["-p", "a", "-s", "-1", "-n", "1"])["seed"]
    );
    // A conversation in their words, its system message from a file, and the template's own variable.
    let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
    fs::write(scene.file("system.txt"), "Be brief.\n").unwrap();
    let system = scene.name("system.txt");
    let talk = |words: &[&str]| {
        scene.json(&[&["-p", "Hi", "--chat-template", &template, "-n", "3", "-s", "1"], words].concat())
    };
    let ours = talk(&["--chat", "--single-turn", "--system", "Be brief."]);
    assert_eq!(talk(&["-st", "-sysf", &system])["prompt_ids"], ours["prompt_ids"]);
    assert_eq!(talk(&["-cnv", "-st", "-sys", "Be brief."])["prompt_ids"], ours["prompt_ids"]);
    fs::write(scene.file("own.jinja"), "{{ mood }}{{ messages[0].content }}").unwrap();
    let own = ["-p", "Hi", "--chat", "--render", "--chat-template", &scene.name("own.jinja"), "--chat-template-kwargs"];
    assert_eq!(scene.run(&[&own[..], &[r#"{"mood": "calm "}"#]].concat()).expect(0).stdout, "calm Hi");
    assert!(scene.run(&[&own[..], &["[1]"]].concat()).expect(2).stderr.contains("--chat-template-kwargs"));
    let help = nanoserve("run", ["--help-llama"]).expect(0).stdout;
    assert!(help.contains("-ngl") && help.contains("--gpu-layers") && help.contains("llama-bench"), "{help}");
}

#[test]
fn the_environment_gives_defaults() {
    let scene = scene();
    let expected = scene.json(&[&["-p", "ROMEO:"], &SAME[..4], &["--ctx", "64"]].concat());
    let run = |set: &[(&str, &str)], args: &[&str]| {
        let mut command = command("nanoserve-run", args);
        command.envs(set.iter().copied()).env("NANOSERVE_MODEL", scene.file("demo.nsv"));
        let out = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
    };
    let set =
        [("NANOSERVE_THREADS", "1"), ("NANOSERVE_CTX", "64"), ("NANOSERVE_N_PREDICT", "6"), ("NANOSERVE_SEED", "4")];
    let from_there = run(&set, &["-p", "ROMEO:", "--json"]).expect(0);
    assert_eq!((answer(&from_there.json()), from_there.stderr.as_str()), (answer(&expected), ""));
    // The command line comes first, and a task that has no use for a default leaves it.
    assert_eq!(run(&set, &["-p", "ROMEO:", "-s", "5", "--json"]).expect(0).json()["seed"], 5);
    run(&set, &["--self-test", "-q"]).expect(0);
    let wrong = run(&[("NANOSERVE_CTX", "many")], &["-p", "x"]).expect(2);
    assert!(wrong.stderr.contains("--ctx") && wrong.stderr.contains("NANOSERVE_CTX"), "{}", wrong.stderr);
    let unknown = run(&[("NANOSERVE_CTXX", "1")], &["-p", "x", "-n", "1", "-q"]).expect(0);
    assert!(unknown.stderr.starts_with("warning: NANOSERVE_CTXX is set"), "{}", unknown.stderr);
    assert!(nanoserve("run", ["--help"]).expect(0).stdout.contains("[env: NANOSERVE_CTX="));
}

#[test]
fn conversations_take_what_prompts_take() {
    let scene = scene();
    let plain = scene.talk(&["--json"]).expect(0).json();
    for key in [
        "prompt_ids",
        "prompt_reused",
        "ids",
        "text",
        "stop_reason",
        "logits_hash",
        "seed",
        "device",
        "guessed",
        "prompt_run",
    ] {
        assert!(!plain[key].is_null(), "{key} of {plain}");
    }
    assert!(plain["timings"]["load_s"].as_f64().unwrap() > 0.0, "{plain}");
    // Log-probabilities, several answers, and a cache, as in completion.
    let logprobs = scene.talk(&["--json", "--logprobs", "2"]).expect(0).json();
    assert_eq!(logprobs["logprobs"].as_array().unwrap().len(), logprobs["ids"].as_array().unwrap().len());
    let all = scene.talk(&["--json", "--n-samples", "2"]).expect(0).json();
    let all = all.as_array().unwrap();
    assert_eq!((all.len(), answer(&all[0])), (2, answer(&plain)));
    assert_eq!(answer(&all[1]), answer(&scene.talk_by("4", &["--json"]).expect(0).json()));
    let texts = scene.talk(&["--n-samples", "2", "-q"]).expect(0).stdout;
    let text = |report: &Value| report["text"].as_str().unwrap().to_string();
    assert_eq!(texts, format!("{}\n--- 2 of 2, seed 4 ---\n{}\n", text(&all[0]), text(&all[1])));
    let cache = scene.name("talk.kv");
    let first = scene.talk(&["--json", "--prompt-cache", &cache]).expect(0).json();
    let second = scene.talk(&["--json", "--prompt-cache", &cache]).expect(0).json();
    let count = plain["prompt_ids"].as_array().unwrap().len();
    assert_eq!((answer(&first), answer(&second)), (answer(&plain), answer(&plain)));
    assert_eq!((&first["prompt_reused"], &second["prompt_reused"]), (&0.into(), &(count - 1).into()));
    // A conversation longer than the usual context makes it larger, as far as the model goes.
    let long = "Come, let us speak of ships and storms. ".repeat(400);
    fs::write(scene.file("long.json"), serde_json::json!([{"role": "user", "content": long}]).to_string()).unwrap();
    let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
    let long = scene.run(&["--messages", &scene.name("long.json"), "--chat-template", &template, "-n", "2", "--json"]);
    let prompt =
        scene.run(&["--messages", &scene.name("long.json"), "--chat-template", &template, "--render", "--json"]);
    let tokens = prompt.expect(0).json()["prompt_ids"].as_array().unwrap().len();
    assert!(tokens > 4096, "{tokens}");
    match long.code {
        Some(0) => assert_eq!(long.json()["prompt_ids"].as_array().unwrap().len(), tokens),
        // The demo itself is shorter than that: no larger --ctx would help, and none is advised.
        _ => assert!(!long.stderr.contains("--ctx") && long.expect(2).stderr.contains("no more positions")),
    }
}

#[test]
fn a_single_turn_hears_one_message() {
    let (scene, model) = (scene(), scene().name("demo.nsv"));
    let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
    let words = [&["chat", &model, "--chat-template", &template, "--single-turn", "--json"], &SAME[..]].concat();
    let run = fed(command("nanoserve", &words), b"\nHi\nAnd again\n").expect(0);
    let given =
        scene.json(&[&["--chat", "--single-turn", "-p", "Hi", "--chat-template", &template], &SAME[..4]].concat());
    assert_eq!(answer(&run.json()), answer(&given));
    assert_eq!(fed(command("nanoserve", &words), b"").expect(0).stdout, "");
}

#[test]
fn a_prompt_cache_that_cannot_be_written_costs_no_answer() {
    let scene = scene();
    let missing = scene.name("no/such/folder/a.kv");
    let expected = scene.run(&[&["-p", "ROMEO:", "-q"], &SAME[..4]].concat()).expect(0);
    for all in [&[][..], &["--prompt-cache-all"]] {
        let run = scene.run(&[&["-p", "ROMEO:", "-q", "--prompt-cache", &missing], &SAME[..4], all].concat()).expect(1);
        assert_eq!(run.stdout, expected.stdout);
        assert!(
            run.stderr.starts_with("warning: the prompt cache is not kept: ") && run.stderr.contains(&missing),
            "{}",
            run.stderr
        );
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
    assert_eq!(scene.talk(&["--prompt-cache", &missing]).expect(1).stdout, scene.talk(&[]).expect(0).stdout);
    // What has no end is not read.
    let device = scene.run(&["-p", "ROMEO:", "--prompt-cache", "/dev/zero"]).expect(2);
    assert!(device.stderr.contains("no regular file"), "{}", device.stderr);
}

#[test]
fn bench_takes_lists_and_prints_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.nsv").display().to_string();
    nanoserve("convert", [fixture("tied-llama3").path.display().to_string(), model.clone(), "-q".into()]).expect(0);
    let bench = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        nanoserve("bench", [&[model.as_str(), "--no-limits", "-r", "1"], &words[..]].concat()).expect(0).stdout
    };
    let shape = |row: &Value| ["threads", "depth", "prompt", "generated"].map(|key| row[key].as_u64().unwrap());
    let rows: Value = serde_json::from_str(&bench("-p 4,6 -n 1-2 -d 0,3 -t 1,2 -o json")).unwrap();
    let rows = rows.as_array().unwrap();
    let mut expected = Vec::new();
    for threads in [1, 2] {
        for depth in [0, 3] {
            expected.extend([(4, 1), (4, 2), (6, 1), (6, 2)].map(|(prompt, n)| [threads, depth, prompt, n]));
        }
    }
    assert_eq!(rows.iter().map(shape).collect::<Vec<_>>(), expected);
    let hash = |row: &Value| row["logits_hash"].as_str().unwrap().to_string();
    for (one, two) in rows[..8].iter().zip(&rows[8..]) {
        assert_eq!(hash(one), hash(two), "threads change no bit");
    }
    assert_ne!(hash(&rows[0]), hash(&rows[4]), "what stands before counts");
    let lines = bench("-p 4,6 -n 2 --json");
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((lines.lines().count(), hash(&first)), (2, hash(&rows[1])), "{lines}");

    let csv = bench("-p 4 -n 1,2 -o csv");
    let table: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(table.len(), 3);
    assert!(table.iter().all(|line| line.len() == table[0].len()), "{csv}");
    let column = |name: &str| table[0].iter().position(|column| *column == name).unwrap();
    assert_eq!(table[2][column("logits_hash")], hash(&rows[1]));
    assert_eq!([1, 2].map(|row| table[row][column("generated")]), ["1", "2"]);
    let md = bench("-p 4 -n 1,2 -o md");
    let bars: Vec<usize> = md.lines().map(|line| line.matches('|').count()).collect();
    assert_eq!(bars, [12; 4], "{md}");
    let several = bench("-p 4,6 -n 1");
    assert!(several.lines().all(|line| line.chars().count() <= 100) && several.contains("depth"), "{several}");
}

#[test]
fn perplexity_of_some_windows_and_against_a_base() {
    let scene = scene();
    let f32 = scene.name("f32.nsv");
    nanoserve(
        "convert",
        [root().join("weights/demo").display().to_string(), f32.clone(), "-q".into(), "--dtype=f32".into()],
    )
    .expect(0);
    let corpus = root().join("tests/reference/perplexity/text.txt").display().to_string();
    let score = |model: &str, more: &[&str]| {
        nanoserve("run", [&[model, "-t", "1", "--perplexity", &corpus, "--ctx", "64", "--chunks", "3"], more].concat())
    };
    let base = scene.name("base");
    let of_f32 = score(&f32, &["--kl-base", &base, "--json"]).expect(0).json();
    assert_eq!(of_f32["windows"], 3);
    let kept = fs::read(&base).unwrap();
    // Of itself nothing is far, of its rounded form little, and the ratio is that of the perplexities.
    let itself = score(&f32, &["--kl-base", &base, "--kl-divergence", "--json"]).expect(0).json();
    assert_eq!(itself["perplexity"], of_f32["perplexity"]);
    let number = |report: &Value, path: &str| {
        report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {report}"))
    };
    assert!(
        number(&itself, "/divergence/kld_maximum") < 1e-6 && number(&itself, "/divergence/same_top/mean") > 0.999,
        "{itself}"
    );
    let model = scene.name("demo.nsv");
    let q8 = score(&model, &["--kl-base", &base, "--kl-divergence", "--json"]).expect(0).json();
    let kld = number(&q8, "/divergence/kld/mean");
    assert!(kld > 1e-6 && kld < 0.05, "{q8}");
    let ratio = (number(&q8, "/perplexity") / number(&of_f32, "/perplexity")).ln();
    assert!((number(&q8, "/divergence/log_ratio/mean") - ratio).abs() < 1e-3, "{ratio}: {q8}");
    let text = score(&model, &["--kl-base", &base, "--kl-divergence"]).expect(0).stdout;
    for word in ["Mean    KLD:", "Maximum KLD:", "Same top p:", "Final estimate: PPL ="] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(fs::read(&base).unwrap(), kept, "only read");
    // Other windows, other text, damage, another file.
    let refused = |more: &[&str], word: &str| {
        let run = score(&model, &[more, &["--kl-divergence"]].concat()).expect(2);
        assert!(run.stderr.contains(word) && run.stdout.is_empty(), "{word}: {}", run.stderr);
    };
    let mut bytes = kept.clone();
    bytes[kept.len() / 2] ^= 1;
    fs::write(scene.file("damaged"), bytes).unwrap();
    refused(&["--kl-base", &scene.name("damaged")], "damaged");
    refused(&["--kl-base", &corpus], "no file of probabilities");
    refused(&["--kl-base", &scene.name("none")], "none: cannot read");
    let other =
        nanoserve("run", [&model, "--perplexity", &corpus, "--ctx", "32", "--kl-base", &base, "--kl-divergence"])
            .expect(2);
    assert!(other.stderr.contains("its windows have 64 tokens, these have 32"), "{}", other.stderr);
    let unwritten = scene.name("no/such/base");
    assert!(score(&model, &["--kl-base", &unwritten]).expect(1).stderr.contains("no/such/base"));
}
