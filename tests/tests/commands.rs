//! The programs as a user runs them: their output and exit codes.

use nanoserve_format::{Encoding, NsvFile};
use nanoserve_runtime::cpu::isa;
use nanoserve_tests::{Fixture, Run, Tiny, command, convert, copy_folder, engine, fixture, nanoserve};
use nanoserve_tokenizer::TextStream;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A fixture, converted with the program, in a temporary folder that lives as long as this value.
struct Model {
    folder: TempDir,
    fixture: Fixture,
    path: PathBuf,
}

impl Model {
    fn new(name: &str, dtype: &str) -> Model {
        let (folder, fixture) = (tempfile::tempdir().unwrap(), fixture(name));
        let path = folder.path().join("model.nsv");
        let args = [text(&fixture.path), text(&path), "--dtype", dtype];
        let run = nanoserve("convert", args).expect(0);
        assert!(run.stdout.contains("model.nsv is "), "{}", run.stdout);
        Model { folder, fixture, path }
    }

    fn run(&self, args: &[&str]) -> Run {
        nanoserve("run", [&[text(&self.path)], args].concat())
    }

    /// The report of a successful run.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).expect(0).json()
    }

    /// The prompt of the fixture's reference, as `--ids` takes it.
    fn ids(&self) -> String {
        self.fixture.reference().input_ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

const GREEDY: [&str; 4] = ["--temperature", "0", "--repeat-penalty", "1"];

#[test]
fn convert_run_verify_inspect_bench() {
    for name in ["tied-llama3", "untied-mha"] {
        let model = Model::new(name, "f32");
        let (path, reference) = (text(&model.path).to_string(), model.fixture.reference_path());

        let run = model.run(&["-p", "The harbour", "-n", "12", "--seed", "1"]).expect(0);
        assert!(run.stdout.trim().chars().count() > 1, "no text: {:?}", run.stdout);
        assert!(run.stderr.contains("stopped: "), "{}", run.stderr);
        let quiet = model.run(&["-p", "The harbour", "-n", "12", "--seed", "1", "-q"]).expect(0);
        assert_eq!((quiet.stdout, quiet.stderr), (run.stdout, String::new()));

        let run = nanoserve("verify", [&path, text(&reference)]).expect(0);
        assert!(run.stdout.contains("layers.1.mlp.out") && run.stdout.contains("20 of 20 equal"), "{}", run.stdout);
        assert!(run.stdout.lines().last().unwrap().starts_with("PASS"), "{}", run.stdout);
        // The dump is a reference that the model matches to the last bit.
        let dump = model.folder.path().join("ours.safetensors");
        let report = nanoserve("verify", [&path, text(&reference), "--json", "--dump", text(&dump)]).expect(0).json();
        assert_eq!(report["pass"], true);
        assert_eq!(report["greedy"]["got"], report["greedy"]["expected"]);
        assert_eq!(report["components"].as_array().unwrap().len(), 3 + 2 * 15);
        nanoserve("verify", [&path, text(&dump), "--atol", "0", "--rtol", "0"]).expect(0);

        let run = nanoserve("inspect", [&path, "--tensors", "--check"]).expect(0);
        for word in ["layers.1.attn.q.weight", "lm_head.weight", "intact", "made by", "tokenizer"] {
            assert!(run.stdout.contains(word), "no {word} in {}", run.stdout);
        }
        assert_eq!(run.stdout.contains("= embed.weight"), name == "tied-llama3");
        let report = nanoserve("inspect", [&path, "--tensors", "--check", "--json"]).expect(0).json();
        assert_eq!(report["damage"], serde_json::json!([]));
        assert_eq!(report["tensors"].as_array().unwrap().len(), 3 + 2 * 9);
        assert_eq!(report["spec"]["n_layers"], 2);

        let args = [&path, "-p", "12", "-n", "4", "-r", "2"];
        let table = nanoserve("bench", args).expect(0).stdout;
        assert!(table.contains("of read") && table.contains("limits   "), "{table}");
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        let quiet = nanoserve("bench", [&args[..], &["-q", "--no-limits"]].concat()).expect(0).stdout;
        assert_eq!(quiet.lines().count(), 1, "{quiet}");
        let rows = nanoserve("bench", [&args[..], &["-t", "1,2", "--json"]].concat()).expect(0).stdout;
        let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        assert_eq!(rows.len(), 2);
        for (row, threads) in rows.iter().zip([1, 2]) {
            for (key, value) in [("threads", threads), ("prompt", 12), ("generated", 4)] {
                assert_eq!(row[key], value, "{row}");
            }
            for key in ["prompt_tok_s", "generate_tok_s", "gb_s"] {
                assert!(row[key].as_f64().unwrap() > 0.0, "{row}");
            }
            for (group, key) in [("limits", "read_gb_s"), ("limits", "fma_gmac_s"), ("shares", "generate")] {
                let known = row["isa"] != "scalar" || key != "fma_gmac_s";
                assert_eq!(row[group][key].as_f64().is_some_and(|x| x > 0.0), known, "{group} {key} of {row}");
            }
            assert!(row["isa"].is_string());
            assert_eq!(row["logits_hash"], rows[0]["logits_hash"]);
        }
    }
}

#[test]
fn the_json_report_of_a_run() {
    let model = Model::new("tied-llama3", "q8");
    let args = ["-p", "The harbour", "-n", "16", "--temperature", "1", "--seed", "7"];
    let report = model.json(&args);
    for (key, kind) in [("prompt_ids", 'a'), ("ids", 'a'), ("text", 's'), ("stop_reason", 's'), ("logits_hash", 's')] {
        let right = if kind == 'a' { report[key].is_array() } else { report[key].is_string() };
        assert!(right, "{key} of {report}");
    }
    for key in ["load_s", "first_token_s", "prompt_tok_s", "generate_tok_s"] {
        assert!(report["timings"][key].as_f64().unwrap() > 0.0, "{key} of {report}");
    }
    assert_eq!(report["logits_hash"].as_str().unwrap().len(), 64);
    let streamed = model.run(&[&args[..], &["-q"]].concat()).expect(0).stdout;
    assert_eq!(streamed, format!("{}\n", report["text"].as_str().unwrap()));

    // The same seed gives the same everything, with any number of threads and any chunks. Another seed gives another
    // text.
    for more in [&["-t", "1"][..], &["-t", "3"], &["--chunk", "1"], &["--isa", "scalar"]] {
        let again = model.json(&[&args[..], more].concat());
        for key in ["prompt_ids", "ids", "text", "logits_hash"] {
            assert_eq!(again[key], report[key], "{more:?}");
        }
    }
    let other = model.json(&["-p", "The harbour", "-n", "16", "--temperature", "1", "--seed", "8"]);
    assert_ne!(other["ids"], report["ids"]);
    // A prompt from a file gives the same.
    let file = model.folder.path().join("prompt.txt");
    fs::write(&file, "The harbour").unwrap();
    let from_file = model.json(&["-f", text(&file), "-n", "16", "--temperature", "1", "--seed", "7"]);
    assert_eq!(from_file["ids"], report["ids"]);
}

#[test]
fn greedy_is_the_references() {
    for name in ["tied-llama3", "untied-mha", "odd-sizes"] {
        let model = Model::new(name, "f32");
        let report = model.json(&[&["--ids", &model.ids(), "-n", "20"], &GREEDY[..]].concat());
        let reference = model.fixture.reference();
        assert_eq!(ids(&report["ids"]), reference.greedy_ids.unwrap(), "{name}");
        assert_eq!(ids(&report["prompt_ids"]), reference.input_ids, "{name}: nothing is added to --ids");
        assert_eq!(report["stop_reason"], "length");
    }
}

#[test]
fn bos_is_added_exactly_once() {
    for (name, bos, written) in [("tied-llama3", 376, "<|begin_of_text|>"), ("untied-mha", 1, "<s>")] {
        let model = Model::new(name, "q8");
        for prompt in ["The harbour", &format!("{written}The harbour"), "", written] {
            let got = ids(&model.json(&["-p", prompt, "-n", "1"])["prompt_ids"]);
            assert_eq!(got[0], bos, "{name} {prompt:?}: {got:?}");
            assert_eq!(got.iter().filter(|&&id| id == bos).count(), 1, "{name} {prompt:?}: {got:?}");
            assert_eq!(got.len() > 1, prompt.contains("harbour"), "{name} {prompt:?}: {got:?}");
        }
    }
}

#[test]
fn it_stops_at_any_eos_of_the_generation_config() {
    let model = Model::new("tied-llama3", "f32");
    let prompt = model.ids();
    let args = [&["--ids", &prompt, "-n", "20"], &GREEDY[..]].concat();
    let free = ids(&model.json(&args)["ids"]);
    // A token that the greedy run makes becomes the second of two end tokens.
    let eos = free[7];
    let first = free.iter().position(|&id| id == eos).unwrap();
    let source = model.folder.path().join("source");
    copy_folder(&model.fixture.path, &source);
    let config = format!("{{\"bos_token_id\": 376, \"eos_token_id\": [377, {eos}]}}");
    fs::write(source.join("generation_config.json"), config).unwrap();
    convert(&source, Encoding::F32, &model.path);
    let report = model.json(&args);
    assert_eq!(report["stop_reason"], "eos");
    assert_eq!(ids(&report["ids"]), free[..=first]);
    let report = model.json(&[&args[..], &["--ignore-eos"]].concat());
    assert_eq!(report["stop_reason"], "length");
    assert_eq!(ids(&report["ids"]).len(), 20);
    assert!(!ids(&report["ids"]).contains(&eos));
}

/// A greedy text and its pieces, token by token.
fn pieces(model: &Model, prompt: &str) -> (String, Vec<String>) {
    let report = model.json(&[&["-p", prompt, "-n", "40"], &GREEDY[..]].concat());
    let engine = engine(&model.path, isa::available()[0], 1);
    let tokenizer = engine.tokenizer().unwrap();
    let mut stream = TextStream::after(&tokenizer, &ids(&report["prompt_ids"]), true).unwrap();
    let mut pieces: Vec<String> = ids(&report["ids"]).iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish());
    let text = report["text"].as_str().unwrap().to_string();
    assert_eq!(pieces.concat(), text, "streaming and the report differ");
    (text, pieces)
}

#[test]
fn stop_strings_end_the_text_also_across_tokens() {
    let model = Model::new("tied-llama3", "f32");
    let (mut within, mut across) = (0, 0);
    for prompt in ["The harbour", "lamps", "When the", "quiet was the", "A"] {
        let (whole, pieces) = pieces(&model, prompt);
        for (i, piece) in pieces.iter().enumerate().filter(|(_, p)| !p.is_empty() && !p.contains('\u{fffd}')) {
            let Some(next) = pieces.get(i + 1).filter(|n| !n.is_empty() && !n.contains('\u{fffd}')) else { continue };
            // A stop text across two tokens, and one that is a single token.
            let edge: String = piece.chars().last().into_iter().chain(next.chars().next()).collect();
            let (stop, count) = if i % 2 == 0 { (&edge, &mut across) } else { (piece, &mut within) };
            if *count >= 4 || stop.trim().is_empty() {
                continue;
            }
            *count += 1;
            let args = [&["-p", prompt, "-n", "40", "--stop", "never in it", "--stop", stop], &GREEDY[..]].concat();
            let report = model.json(&args);
            assert_eq!(report["stop_reason"], "stop", "{prompt:?} {stop:?}");
            assert_eq!(report["text"], whole[..whole.find(stop.as_str()).unwrap()], "{prompt:?} {stop:?}");
            let printed = model.run(&[&args[..], &["-q"]].concat()).expect(0).stdout;
            assert_eq!(printed, format!("{}\n", report["text"].as_str().unwrap()));
        }
    }
    assert!(within >= 2 && across >= 2, "{within} stop strings within a token, {across} across: too few to tell");
}

#[test]
fn it_stops_at_the_length_and_at_the_contexts_end() {
    let model = Model::new("odd-sizes", "q8");
    let report = model.json(&["--ids", "5,6,7,8", "-n", "5", "--ignore-eos"]);
    assert_eq!((report["stop_reason"].as_str(), ids(&report["ids"]).len()), (Some("length"), 5));
    // Ten positions hold the four tokens of the prompt and six more; the last chosen token needs none.
    for n in ["50", "-1"] {
        let report = model.json(&["--ids", "5,6,7,8", "-n", n, "--ctx", "10", "--ignore-eos"]);
        assert_eq!((report["stop_reason"].as_str(), ids(&report["ids"]).len()), (Some("context"), 7));
    }
    // The model's own context length is 55.
    let report = model.json(&["--ids", "5,6,7,8", "-n", "100", "--ignore-eos"]);
    assert_eq!((report["stop_reason"].as_str(), ids(&report["ids"]).len()), (Some("context"), 52));
}

#[test]
fn a_file_without_tokenizer_runs_on_ids() {
    let model = Model::new("odd-sizes", "q8");
    let run = model.run(&["--ids", "1,2,3", "-n", "4", "--temperature", "0"]).expect(0);
    let printed: Vec<u32> = run.stdout.trim().split(',').map(|id| id.parse().unwrap()).collect();
    let report = model.json(&["--ids", "1,2,3", "-n", "4", "--temperature", "0"]);
    assert_eq!((ids(&report["ids"]), report["text"].as_str()), (printed, Some("")));
    let run = model.run(&["-p", "text"]).expect(2);
    assert!(run.stderr.contains("tokenizer") && run.stderr.contains("--ids"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    let run = model.run(&["--ids", "1", "--stop", "x"]).expect(2);
    assert!(run.stderr.contains("tokenizer"), "{}", run.stderr);
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let model = Model::new("odd-sizes", "q8");
    let long = (0..60).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    // Options, and words that the message must contain.
    let cases: [(&[&str], &[&str]); 26] = [
        (&["--ids", &long], &["60", "shorten it: the model has 55 positions"]),
        (&["--ids", "1", "-t", "100000"], &["--threads", "1 to 1024"]),
        (&["--ids", "1", "-t", "4294967296"], &["--threads", "1 to 1024"]),
        (&["--ids", "1", "--chunk", "0"], &["--chunk"]),
        (&["--ids", "1", "-n", "-2"], &["--n-predict", "-1 for no bound"]),
        (&["--ids", "1", "--lookup", "0"], &["--lookup"]),
        (&["--ids", "1", "--overlap"], &["--overlap", "--device cuda"]),
        (&["--ids", "1", "-fa", "on"], &["-fa", "leave it away"]),
        (&["--ids", "1", "--now", "noon"], &["--now"]),
        (&["-f", "-", "--chat", "--chat-template", "-"], &["--file", "--chat-template", "standard input"]),
        (&["--ids", "1,2,3,4,5,6,7", "--ctx", "6"], &["7 tokens", "6"]),
        (&["--ids", "1", "--ctx", "56"], &["56", "55"]),
        (&["--ids", "331"], &["331"]),
        (&["--ids", ""], &[]),
        (&["--ids", "a,b"], &["--ids"]),
        (&[], &["-p TEXT", "--chat"]),
        (&["--ids", "1", "-p", "x"], &["--prompt"]),
        (&["--ids", "1", "--no-such-option"], &["--no-such-option"]),
        (&["--ids", "1", "--isa", "bogus"], &["bogus", "scalar"]),
        (&["--ids", "1", "--gpu-layers", "1"], &["--device cuda"]),
        (&["--ids", "1", "--device", "auto", "--gpu-layers", "1"], &["--device cuda"]),
        (&["--ids", "1", "--device", "abacus"], &["abacus"]),
        (&["--ids", "1", "-t", "0"], &["--threads"]),
        (&["--ids", "1", "--temperature", "-1"], &["-1"]),
        (&["--ids", "1", "--top-p", "1.5"], &["1.5"]),
        (&["-f", "/no/such/prompt"], &["/no/such/prompt"]),
    ];
    for (args, words) in cases {
        let run = model.run(args).expect(2);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{args:?}");
        for word in words {
            assert!(run.stderr.contains(word), "{args:?}: no {word} in {}", run.stderr);
        }
    }
}

#[test]
fn without_a_gpu_cuda_is_refused_and_auto_is_the_cpu() {
    if nanoserve_runtime::cuda::Driver::open().is_ok() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    let model = Model::new("odd-sizes", "q8");
    let missing = |stderr: &str| stderr.contains("CUDA") && stderr.contains("--device cpu");
    let run = model.run(&["--ids", "1", "--device", "cuda"]).expect(2);
    assert!(run.stdout.is_empty() && missing(&run.stderr), "{}", run.stderr);
    let run = model.run(&["--ids", "1", "--device", "cuda", "--gpu-layers", "1"]).expect(2);
    assert!(missing(&run.stderr), "{}", run.stderr);
    // With no layer on the GPU, no GPU is needed.
    let ids = ["--ids", "1,2,3", "-n", "4", "--temperature", "0", "--json"];
    let cpu = model.run(&ids).expect(0);
    let none = model.run(&[&ids[..], &["--device", "cuda", "--gpu-layers", "0"]].concat()).expect(0);
    assert_eq!((&none.json()["logits_hash"], none.stderr.as_str()), (&cpu.json()["logits_hash"], ""));
    let auto = model.run(&[&ids[..], &["--device", "auto"]].concat()).expect(0);
    assert_eq!(auto.json()["logits_hash"], cpu.json()["logits_hash"]);
    assert!(auto.stderr.starts_with("running on the CPU: ") && missing(&auto.stderr), "{}", auto.stderr);
    assert_eq!(cpu.json()["device"], auto.json()["device"]);
}

#[test]
fn a_file_that_is_no_model_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let gguf = write("model.gguf", b"GGUF\x03\0\0\0 and more");
    let safetensors = fixture("odd-sizes").path.join("model.safetensors");
    let cases = [
        (folder.path().join("none.nsv"), "none.nsv"),
        (write("empty.nsv", b""), ""),
        (gguf, "model.gguf"),
        (safetensors, "nanoserve-convert"),
        (folder.path().to_path_buf(), "directory"),
    ];
    for (path, word) in cases {
        for (program, args) in [("run", &["--ids", "1"][..]), ("inspect", &[]), ("bench", &["-p", "1"])] {
            let run = nanoserve(program, [&[text(&path)], args].concat()).expect(2);
            assert!(run.stderr.contains(word), "{program} {}: no {word} in {}", path.display(), run.stderr);
        }
    }
    let model = Model::new("odd-sizes", "q8");
    for reference in ["/no/such/reference", text(&model.path)] {
        let run = nanoserve("verify", [text(&model.path), reference]).expect(2);
        assert!(run.stderr.contains(reference), "{}", run.stderr);
    }
}

#[test]
fn however_it_is_loaded_the_logits_are_the_same() {
    let model = Model::new("tied-llama3", "q8");
    let args = [text(&model.path), "-p", "9", "-n", "3", "-r", "1", "--no-limits", "--json"];
    let row = |more: &[&str]| nanoserve("bench", [&args, more].concat()).expect(0).json();
    let mapped = row(&[]);
    assert_eq!((&mapped["load"], &mapped["limits"]), (&Value::from("map"), &Value::Null));
    let huge = row(&["--load", "huge"]);
    assert_eq!(huge["load"], "huge");
    assert_eq!(huge["logits_hash"], mapped["logits_hash"]);
    // Locking may be forbidden; then the program says so, and the exit code is that of a failure of the machine.
    let locked = nanoserve("bench", [&args[..], &["--lock"]].concat());
    match locked.code {
        Some(0) => assert_eq!(locked.json()["logits_hash"], mapped["logits_hash"]),
        _ => assert!(locked.expect(1).stderr.contains("cannot lock in memory")),
    }
}

#[test]
fn what_bench_cannot_measure() {
    let model = Model::new("odd-sizes", "q8");
    for (args, word) in [
        (["-p", "0"], "--prompt"),
        (["-r", "0"], "--rounds"),
        (["-t", "1,0"], "--threads"),
        (["-t", "100000"], "--threads"),
        (["--chunk", "0"], "--chunk"),
        (["-p", "9-1"], "9-1"),
        (["-o", "xml"], "xml"),
        (["-d", "1000000"], "context"),
        (["-p", "1000000"], "context"),
        (["-n", "1000000"], "context"),
    ] {
        let run = nanoserve("bench", [&[text(&model.path)], &args[..]].concat()).expect(2);
        assert!(run.stderr.contains(word), "{args:?}: no {word} in {}", run.stderr);
    }
}

#[test]
fn damage_and_differences_exit_with_1() {
    let model = Model::new("untied-mha", "q8");
    let reference = model.fixture.reference_path();
    // Rounded weights are judged by the answers; the components are information, without a verdict.
    let run = nanoserve("verify", [text(&model.path), text(&reference)]).expect(0);
    let last = run.stdout.lines().last().unwrap();
    assert!(last.starts_with("PASS: within the bounds for q8, cache f16: mean KL 2e-2"), "{last}");
    assert!(run.stdout.contains("layers.1.mlp.out") && run.stdout.matches("PASS").count() == 1, "{}", run.stdout);
    assert!(!run.stdout.contains("FAIL"), "{}", run.stdout);
    let report = nanoserve("verify", [text(&model.path), text(&reference), "--json"]).expect(0).json();
    assert_eq!((&report["pass"], &report["judged_by"]), (&Value::from(true), &Value::from("answers")));
    assert!(report["kl_mean"].as_f64().unwrap() > 0.0 && report["components"][0]["pass"] == false);
    // A tolerance that is asked for decides.
    for option in ["--atol", "--rtol"] {
        let run = nanoserve("verify", [text(&model.path), text(&reference), option, "1e-5"]).expect(1);
        assert_eq!(run.stdout.lines().last().unwrap(), "FAIL: look at embed first");
    }
    // Another model's reference is refused.
    let other = fixture("odd-sizes").reference_path();
    nanoserve("verify", [text(&model.path), text(&other)]).expect(2);

    let place = NsvFile::open(&model.path).unwrap().layout().tensor("layers.1.mlp.down.weight").unwrap().range.start;
    let mut bytes = fs::read(&model.path).unwrap();
    bytes[place + 100] ^= 4;
    fs::write(&model.path, &bytes).unwrap();
    for quiet in [&[][..], &["-q"]] {
        let run = nanoserve("inspect", [&[text(&model.path), "--check"], quiet].concat()).expect(1);
        assert!(run.stdout.contains("DAMAGED: tensor layers.1.mlp.down.weight"), "{}", run.stdout);
    }
    let report = nanoserve("inspect", [text(&model.path), "--check", "--json"]).expect(1).json();
    assert_eq!(report["damage"][0]["what"], "tensor layers.1.mlp.down.weight");
    nanoserve("inspect", [text(&model.path)]).expect(0);
    // Every program refuses a truncated file at once.
    fs::write(&model.path, &bytes[..bytes.len() - 64]).unwrap();
    let run = nanoserve("inspect", [text(&model.path)]).expect(2);
    assert!(run.stderr.contains("truncated"), "{}", run.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let model = Model::new("tied-llama3", "q8");
    let (path, reference) = (text(&model.path), model.fixture.reference_path());
    let out = model.folder.path().join("again.nsv");
    for (program, args, code) in [
        ("run", vec![path, "-p", "The harbour", "-n", "60", "--ignore-eos"], 0),
        ("run", vec![path, "-p", "The harbour", "-n", "4", "--json"], 0),
        ("verify", vec![path, text(&reference)], 0),
        ("inspect", vec![path, "--tensors"], 0),
        ("bench", vec![path, "-p", "4", "-n", "2", "-r", "1"], 0),
        ("convert", vec![text(&model.fixture.path), text(&out)], 0),
    ] {
        let mut child = command(&format!("nanoserve-{program}"), args).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{program}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("Broken pipe"), "{program}: {stderr}");
    }
}

#[test]
fn every_program_helps_with_an_example() {
    for program in ["convert", "run", "verify", "inspect", "bench"] {
        let run = nanoserve(program, ["--help"]).expect(0);
        assert!(run.stdout.contains(&format!("  nanoserve-{program} ")), "{}", run.stdout);
        assert!(run.stdout.contains("--json") && run.stdout.contains("--quiet"), "{}", run.stdout);
        let version = nanoserve(program, ["--version"]).expect(0).stdout;
        assert_eq!(version.trim(), format!("nanoserve-{program} {}", env!("CARGO_PKG_VERSION")));
        nanoserve(program, ["--no-such-option"]).expect(2);
    }
}

/// Converts, expects exit code 2 and no file, and returns the message.
#[track_caller]
fn refused(folder: &Path, source: &Path) -> String {
    let out = folder.join("refused.nsv");
    let run = nanoserve("convert", [text(source), text(&out)]).expect(2);
    assert!(run.stdout.is_empty(), "{}", run.stdout);
    let left = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.contains("refused.nsv")).collect();
    assert!(left.is_empty(), "{left:?} left behind");
    run.stderr
}

#[test]
fn what_can_be_converted_is_listed() {
    let text = nanoserve("convert", ["--list"]).expect(0).stdout;
    let list = nanoserve("convert", ["--list", "--json"]).expect(0).json();
    let families = list["families"].as_array().unwrap();
    assert!(families.len() >= 11, "{text}");
    for family in families {
        for word in ["name", "models"] {
            assert!(text.contains(family[word].as_str().unwrap()), "{family} {text}");
        }
        assert!(text.contains(family["classes"][0].as_str().unwrap()), "{family} {text}");
    }
    nanoserve("convert", ["--list", "folder", "out.nsv"]).expect(2);
    for kind in ["default", "linear", "dynamic", "yarn", "longrope", "llama3"] {
        assert!(list["rope_types"].as_array().unwrap().contains(&kind.into()) && text.contains(kind), "{text}");
    }
}

#[test]
fn what_cannot_be_converted_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let source = folder.join("source");
    let tiny = Tiny::default();

    tiny.write(&source);
    let mut config = tiny.config();
    config["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
    config["model_type"] = "mixtral".into();
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    let message = refused(folder, &source);
    assert!(message.contains("MixtralForCausalLM") && message.contains("LlamaForCausalLM"), "{message}");

    let gguf = folder.join("gguf");
    fs::create_dir(&gguf).unwrap();
    fs::write(gguf.join("model.gguf"), b"GGUF\x03\0\0\0").unwrap();
    fs::write(gguf.join("config.json"), tiny.config().to_string()).unwrap();
    let message = refused(folder, &gguf);
    assert!(message.contains("GGUF") && message.contains("safetensors"), "{message}");
    let message = refused(folder, &gguf.join("model.gguf"));
    assert!(message.contains("hint"), "{message}");
    refused(folder, &folder.join("no-such-folder"));

    // One report of several problems: a tensor missing, one unknown, one with the wrong shape.
    let mut tensors = tiny.tensors();
    tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
    let mut wrong = tensors["model.layers.0.self_attn.k_proj.weight"].clone();
    tensors.insert("model.layers.0.self_attn.q_norm.weight".into(), wrong.clone());
    wrong.shape[0] += 1;
    wrong.values.resize(wrong.shape.iter().product(), 0.5);
    tensors.insert("model.layers.0.self_attn.v_proj.weight".into(), wrong);
    tiny.write_tensors(&source, &tensors);
    let message = refused(folder, &source);
    for word in [
        "'model.layers.1.mlp.up_proj.weight': is missing",
        "'model.layers.0.self_attn.q_norm.weight'",
        "'model.layers.0.self_attn.v_proj.weight': has shape [33, 64]",
        "num_key_value_heads 2 x head_dim 16 = 32",
        "3 problems; nothing was written",
    ] {
        assert!(message.contains(word), "no {word} in {message}");
    }

    // A weight that is NaN is refused, and the old file stays.
    let mut tensors = tiny.tensors();
    tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().values[77] = f32::NAN;
    tiny.write_tensors(&source, &tensors);
    let message = refused(folder, &source);
    assert!(message.contains("'model.layers.1.mlp.down_proj.weight'") && message.contains("NaN"), "{message}");
    let old = folder.join("old.nsv");
    fs::write(&old, "old").unwrap();
    nanoserve("convert", [text(&source), text(&old)]).expect(2);
    assert_eq!(fs::read(&old).unwrap(), b"old");
}

#[test]
fn a_file_that_is_no_model_is_replaced_only_with_force() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("tied-llama3").path, folder.path().join("notes.txt"));
    fs::write(&out, "notes").unwrap();
    let args = [text(&source), text(&out), "--no-golden"];
    let run = nanoserve("convert", args).expect(2);
    assert_eq!(
        run.stderr,
        format!("error: {}: is there already, and is no .nsv file\n  hint: --force replaces it\n", out.display())
    );
    assert_eq!(fs::read(&out).unwrap(), b"notes");
    let run = nanoserve("convert", [&args[..], &["--force"]].concat()).expect(0);
    // The command that comes next, as it is typed.
    assert_eq!(run.stdout.lines().last(), Some(format!("next: nanoserve chat {}", out.display()).as_str()));
    // A model is replaced without it.
    nanoserve("convert", args).expect(0);
    nanoserve("convert", [&args[..], &["--check", "--force"]].concat()).expect(2);
}

#[test]
fn what_is_to_be_left_out_is_left_out_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out.nsv"));
    let tiny = Tiny::default();
    let mut tensors = tiny.tensors();
    let extra = tensors["model.norm.weight"].clone();
    tensors.insert("value_model.norm.weight".into(), extra);
    tiny.write(&source);
    tiny.write_tensors(&source, &tensors);
    let convert = |more: &[&str]| nanoserve("convert", [&[text(&source), text(&out), "--no-golden"], more].concat());
    let said = convert(&[]).expect(2).stderr;
    assert!(said.contains("'value_model.norm.weight': is no tensor") && said.contains("--leave-out PATTERN"), "{said}");
    let said = convert(&["--leave-out", "value_model.*"]).expect(0).stderr;
    assert!(said.contains("warning: 1 tensor left out, as asked: value_model.norm.weight\n"), "{said}");
    let said = convert(&["--leave-out", "value_model.*", "--leave-out", "*.bias"]).expect(2).stderr;
    assert!(said.contains("no tensor's name matches the pattern \"*.bias\""), "{said}");
    let said = convert(&["--leave-out", "*norm.weight"]).expect(2).stderr;
    assert!(said.contains("'model.norm.weight': is left out, and the model needs it"), "{said}");
}

#[test]
fn a_dry_run_writes_nothing_and_json_tells_all() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("tied-llama3").path, folder.path().join("out.nsv"));
    let dry = nanoserve("convert", [text(&source), text(&out), "--dry-run", "--json"]).expect(0).json();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let real = nanoserve("convert", [text(&source), text(&out), "--json", "--no-golden"]).expect(0).json();
    for key in ["tensors", "parameters", "bytes", "bits_per_weight"] {
        assert!(real[key].is_number() && real[key] == dry[key], "{key}: {dry} {real}");
    }
    assert_eq!(real["bytes"], fs::metadata(&out).unwrap().len());
    assert!(real["worst_snr_db"]["db"].as_f64().unwrap() > 30.0, "{real}");
    let quiet = nanoserve("convert", [text(&source), text(&out), "-q"]).expect(0);
    assert_eq!((quiet.stdout, quiet.stderr), (String::new(), String::new()));
}
