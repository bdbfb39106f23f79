//! What `nanoserve-run` can do beyond a plain continuation, as a user runs it.

use nanoserve_format::Encoding;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::{GenerateOptions, KvType, SamplingOptions};
use nanoserve_tests::{Run, changed, convert, engine, fixture, nanoserve};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A model in a temporary folder that lives as long as this value.
struct Model {
    folder: TempDir,
    path: PathBuf,
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Model {
    fn new(name: &str, encoding: Encoding) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let path = fixture(name).convert(encoding, folder.path());
        Model { folder, path }
    }

    /// The demo model, which knows words and repeats itself.
    fn demo(encoding: Encoding) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.nsv");
        convert(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo"), encoding, &path);
        Model { folder, path }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Run {
        nanoserve("run", [&[text(&self.path)], args].concat())
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).expect(0).json()
    }
}

/// The parts of an answer that do not depend on time.
fn answer(report: &Value) -> [&Value; 4] {
    [&report["ids"], &report["text"], &report["stop_reason"], &report["logits_hash"]]
}

#[test]
fn a_seed_gives_one_text_however_it_is_computed() {
    let model = Model::new("tied-llama3", Encoding::Q8);
    let every = [
        "-p",
        "The harbour",
        "-n",
        "40",
        "--seed",
        "3",
        "--temperature",
        "1.2",
        "--top-k",
        "60",
        "--top-p",
        "0.98",
        "--min-p",
        "0.01",
        "--typical",
        "0.97",
        "--top-n-sigma",
        "3",
        "--xtc-probability",
        "0.5",
        "--xtc-threshold",
        "0.05",
        "--repeat-penalty",
        "1.1",
        "--frequency-penalty",
        "0.1",
        "--presence-penalty",
        "-0.1",
        "--repeat-last-n",
        "-1",
        "--dry-multiplier",
        "0.8",
        "--dry-sequence-breaker",
        "\n",
        "-l",
        "5+1.5",
        "--logit-bias",
        "6-inf",
    ];
    let mirostat = ["-p", "The harbour", "-n", "40", "--seed", "3", "--mirostat", "2", "--mirostat-ent", "3"];
    for args in [&every[..], &mirostat] {
        let expected = model.json(args);
        assert!(!expected["ids"].as_array().unwrap().contains(&6.into()));
        for more in [&["-t", "1"][..], &["-t", "3", "--chunk", "2"], &["--isa", "scalar"], &["--lookup"]] {
            assert_eq!(answer(&model.json(&[args, more].concat())), answer(&expected), "{more:?}");
        }
        let plain = model.json(&["-p", "The harbour", "-n", "40", "--seed", "3"]);
        assert_ne!(plain["ids"], expected["ids"]);
    }
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let model = Model::new("tied-llama3", Encoding::Q8);
    let missing = model.file("missing");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--samplers", "top_k;nucleus"], &["nucleus", "typ_p"]),
        (&["--samplers", "top_k;min_p;top_k"], &["top_k", "twice"]),
        (&["--typical", "1.5"], &["typical_p", "1.5", "0 to 1"]),
        (&["--top-n-sigma", "nan"], &["top_n_sigma"]),
        (&["--xtc-probability", "2"], &["xtc_probability"]),
        (&["--xtc-threshold", "0", "--xtc-probability", "0.5"], &[]),
        (&["--xtc-threshold", "0"], &["--xtc-probability"]),
        (&["--samplers", "top_k", "--top-p", "0.5"], &["--top-p", "--samplers"]),
        (&["--mirostat", "2", "--top-k", "5"], &["--top-k", "--mirostat"]),
        (&["--mirostat", "0", "--mirostat-ent", "5"], &["--mirostat-ent", "--mirostat 2"]),
        (&["--frequency-penalty", "inf"], &["frequency_penalty"]),
        (&["--presence-penalty", "nan"], &["presence_penalty"]),
        (&["--repeat-penalty", "0"], &["repeat_penalty"]),
        (&["--repeat-last-n", "-2"], &["--repeat-last-n", "-2"]),
        (&["--dry-multiplier", "inf"], &["dry_multiplier"]),
        (&["--dry-multiplier", "1", "--dry-penalty-last-n", "-2"], &["--dry-penalty-last-n"]),
        (&["--dry-multiplier", "1", "--dry-sequence-breaker", ""], &["--dry-sequence-breaker"]),
        (&["--mirostat", "1"], &["--mirostat is 1", "2"]),
        (&["--mirostat-lr", "0.1"], &["--mirostat"]),
        (&["--mirostat", "2", "--mirostat-ent", "nan"], &["mirostat_ent"]),
        (&["--logit-bias", "5"], &["5", "15043+1"]),
        (&["--logit-bias", "5+inf"], &["5+inf"]),
        (&["--logit-bias", "99999+1"], &["99999"]),
        (&["--n-samples", "0"], &["--n-samples"]),
        (&["--logprobs", "3"], &["--json"]),
        (&["--lookup", "many"], &["many"]),
        (&["--stop", ""], &["stop string"]),
        (&["--json-schema", text(&missing)], &["--json-schema", "missing"]),
        (&["--json-schema", "{\"not\": {}}"], &["\"not\"", "#/not"]),
        (&["--json-schema", "{"], &["JSON"]),
        (&["--json-schema", "{}", "--grammar", "x"], &["--grammar"]),
        (&["--grammar", text(&missing)], &["--grammar", "missing"]),
        (&["--prompt-cache-ro"], &["--prompt-cache"]),
        (&["--prompt-cache", "x", "--prompt-cache-all", "--prompt-cache-ro"], &["--prompt-cache-ro"]),
        (&["--prompt-cache", text(model.folder.path())], &["prompt cache"]),
        (&["--perplexity", text(&missing)], &["--perplexity"]),
    ];
    for (args, words) in cases {
        let run = model.run(&[&["-p", "The harbour", "-n", "2"], *args].concat());
        if words.is_empty() {
            run.expect(0);
            continue;
        }
        let run = run.expect(2);
        assert_eq!(run.stdout, "", "{args:?}");
        for word in *words {
            assert!(run.stderr.contains(word), "{args:?}: no {word} in {}", run.stderr);
        }
    }
    let ids = Model::new("odd-sizes", Encoding::Q8);
    for (args, word) in [
        (&["--dry-multiplier", "1"][..], "--dry-sequence-breaker none"),
        (&["--json-schema", "{}"], "tokenizer"),
        (&["--stop", "x"], "tokenizer"),
    ] {
        let run = ids.run(&[&["--ids", "1,2,3"], args].concat()).expect(2);
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
    ids.run(&["--ids", "1,2,3", "-n", "9", "--dry-multiplier", "1", "--dry-sequence-breaker", "none"]).expect(0);
}

#[test]
fn samples_are_the_answers_of_their_seeds() {
    let model = Model::new("tied-llama3", Encoding::Q8);
    let args = ["-p", "The harbour", "-n", "12", "--temperature", "1"];
    let all = model.json(&[&args[..], &["--seed", "7", "--n-samples", "3"]].concat());
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 3);
    for (sample, seed) in all.iter().zip(["7", "8", "9"]) {
        assert_eq!(sample["seed"].to_string(), seed);
        assert_eq!(answer(&model.json(&[&args[..], &["--seed", seed]].concat())), answer(sample));
    }
    assert_ne!(all[0]["ids"], all[1]["ids"]);
    let run = model.run(&[&args[..], &["--seed", "7", "--n-samples", "2", "-q"]].concat()).expect(0);
    let texts = [&all[0]["text"], &all[1]["text"]].map(|t| t.as_str().unwrap());
    assert_eq!(run.stdout, format!("{}\n--- 2 of 2, seed 8 ---\n{}\n", texts[0], texts[1]));
}

#[test]
fn logprobs_are_the_models_own() {
    let model = Model::new("tied-llama3", Encoding::F32);
    let args = ["-p", "The harbour", "-n", "6", "--seed", "2", "--logprobs", "4"];
    let report = model.json(&args);
    let all = report["logprobs"].as_array().unwrap();
    assert_eq!(all.len(), report["ids"].as_array().unwrap().len());
    // What the model gives for the same text in a session of its own.
    let file = isa::available().pop().unwrap();
    let mut engine = engine(&model.path, file, 1);
    let ids = |key: &str| -> Vec<u32> {
        report[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let (prompt, chosen) = (ids("prompt_ids"), ids("ids"));
    let mut session = engine.session(prompt.len() + chosen.len(), KvType::F32).unwrap();
    let rows = session.feed_all(&[&prompt[..], &chosen].concat()).unwrap();
    let vocab = rows.len() / (prompt.len() + chosen.len());
    for (i, entry) in all.iter().enumerate() {
        let row: Vec<f64> = rows[(prompt.len() + i - 1) * vocab..][..vocab].iter().map(|x| f64::from(*x)).collect();
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        let expected = |id: usize| row[id] - sum.ln();
        assert_eq!(entry["id"], chosen[i]);
        let close = |entry: &Value| {
            let got = entry["logprob"].as_f64().unwrap();
            let expected = expected(entry["id"].as_u64().unwrap() as usize);
            assert!((got - expected).abs() < 1e-9, "token {i}: {got}, expected {expected}");
            got
        };
        close(entry);
        assert!(entry["text"].is_string());
        let top: Vec<f64> = entry["top"].as_array().unwrap().iter().map(close).collect();
        assert!(top.len() == 4 && top.is_sorted_by(|a, b| a >= b), "{top:?}");
        let best = (0..vocab).map(expected).fold(f64::NEG_INFINITY, f64::max);
        assert!((top[0] - best).abs() < 1e-9);
    }
    assert!(model.json(&args[..6])["logprobs"].is_null());
}

#[test]
fn a_prompt_cache_changes_no_bit() {
    let (model, other) = (Model::demo(Encoding::Q8), Model::demo(Encoding::F16));
    let cache = model.file("prompt.kv");
    let kept = ["--prompt-cache", text(&cache)];
    let long =
        "ROMEO:\nThe harbour lies as quiet as a church,\nAnd every ship sleeps on her own dark shape;\n".repeat(3);
    let args = |prompt: &'static str| ["-p", prompt, "-n", "12", "--seed", "4"];
    let long: &'static str = long.leak();
    let plain = model.json(&args(long));
    let count = plain["prompt_ids"].as_array().unwrap().len();

    let first = model.json(&[&args(long)[..], &kept].concat());
    assert_eq!((answer(&first), &first["prompt_reused"]), (answer(&plain), &0.into()));
    let written = fs::read(&cache).unwrap();
    let second = model.json(&[&args(long)[..], &kept].concat());
    assert_eq!((answer(&second), &second["prompt_reused"]), (answer(&plain), &(count - 1).into()));
    assert_eq!(fs::read(&cache).unwrap(), written, "nothing new, nothing written");
    // Prompts that share a prefix with it, longer and shorter; other numbers of threads; a stored answer as well.
    let more: &'static str = format!("{long}And what is that?").leak();
    let less: &'static str = "ROMEO:\nThe harbour lies as quiet as";
    let else_: &'static str = "First Servant:\nMy lord";
    for (prompt, some) in [(more, true), (less, true), (else_, false)] {
        for ro in [&["--prompt-cache-ro"][..], &["--prompt-cache-ro", "-t", "1", "--chunk", "3"]] {
            let plain = model.json(&args(prompt));
            let report = model.json(&[&args(prompt)[..], &kept, ro].concat());
            assert_eq!(answer(&report), answer(&plain), "{prompt}");
            assert_eq!(report["prompt_reused"].as_u64().unwrap() > 3, some, "{prompt}");
            assert_eq!(fs::read(&cache).unwrap(), written, "read only");
        }
    }
    let run = model.run(&[&args(more)[..], &kept].concat()).expect(0);
    assert!(run.stderr.contains("prompt cache: ") && run.stderr.contains(" MB"), "{}", run.stderr);
    assert_ne!(fs::read(&cache).unwrap(), written);
    let report = model.json(&[&args(more)[..], &["--prompt-cache-all"], &kept].concat());
    let answered = report["text"].as_str().unwrap();
    let next: &'static str = format!("{more}{answered}").leak();
    let report = model.json(&[&args(next)[..], &kept].concat());
    let asked = report["prompt_ids"].as_array().unwrap().len();
    assert!(report["prompt_reused"].as_u64().unwrap() as usize > asked - 6, "the answer is reused: {report}");
    assert_eq!(answer(&report), answer(&model.json(&args(next))));

    // A cache of another model or kind, too long, or damaged is refused and not touched.
    fs::write(&cache, &written).unwrap();
    let refused = |model: &Model, more: &[&str], bytes: Vec<u8>, word: &str| {
        fs::write(&cache, &bytes).unwrap();
        let run = model.run(&[&args(long)[..], &kept, more].concat()).expect(2);
        assert!(run.stderr.contains(word) && run.stderr.contains("prompt.kv"), "{word}: {}", run.stderr);
        assert_eq!((run.stdout.as_str(), fs::read(&cache).unwrap()), ("", bytes));
    };
    refused(&other, &[], written.clone(), "root");
    refused(&model, &["--kv", "f32"], written.clone(), "f16");
    refused(&model, &["--ctx", &(count - 1).to_string()], written.clone(), "room");
    for at in [8, 20, 50, 60, 70, written.len() / 2, written.len() - 1] {
        let mut bytes = written.clone();
        bytes[at] ^= 1;
        refused(&model, &[], bytes, if at == 8 { "version" } else { "damaged" });
    }
    for length in [12, 64, 100, written.len() / 2, written.len() - 1] {
        refused(&model, &[], written[..length].to_vec(), "damaged");
    }
    refused(&model, &[], [&written[..], b"x"].concat(), "damaged");
    refused(&model, &[], Vec::new(), "no prompt cache");
    refused(&model, &[], b"some text that somebody needs".to_vec(), "no prompt cache");
    let none = model.file("none.kv");
    model.run(&[&args(less)[..], &["--prompt-cache", text(&none), "--prompt-cache-ro"]].concat()).expect(0);
    assert!(!none.exists());
    assert_eq!(fs::read_dir(model.folder.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn guessing_changes_no_bit() {
    let model = Model::demo(Encoding::Q8);
    let verse = "ROMEO:\nThe harbour lies as quiet as a church.\n";
    for kv in [KvType::F32, KvType::F16] {
        let mut engine = engine(&model.path, isa::available().pop().unwrap(), 2);
        let tokenizer = engine.tokenizer().unwrap();
        let prompt = tokenizer.encode(&verse.repeat(6), true).unwrap();
        let mut session = engine.session(prompt.len() + 100, kv).unwrap();
        let mut right = 0;
        for (temperature, penalty) in [(0.0, 1.0), (0.5, 1.0), (1.0, 1.3)] {
            for (max_tokens, stop) in [(Some(80), ""), (None, ""), (Some(80), "church"), (Some(1), ""), (Some(0), "")] {
                let sampling = changed!(SamplingOptions {
                    temperature,
                    repeat_penalty: penalty,
                    seed: 11,
                    ..SamplingOptions::default()
                });
                let stops = if stop.is_empty() { Vec::new() } else { vec![stop.to_owned()] };
                let plain = changed!(GenerateOptions { max_tokens, sampling, stops, ..GenerateOptions::default() });
                let mut last = None;
                for lookup in [0, 1, 5, 16, 64] {
                    _ = session.truncate(0);
                    let options = changed!(GenerateOptions { lookup, ..plain.clone() });
                    let mut pieces = Vec::new();
                    let g = session
                        .generate(&prompt, &options, Some(&tokenizer), &mut |text| {
                            pieces.push(text.to_owned());
                            true
                        })
                        .unwrap();
                    let outcome = (g.ids, g.text, g.stop_reason, g.logits_hash, session.ids().to_vec());
                    assert_eq!(*last.get_or_insert(outcome.clone()), outcome, "{kv:?} {temperature} lookup {lookup}");
                    assert_eq!(g.guessed[0] > 0, g.guessed[0] >= g.guessed[1].max(1), "{:?}", g.guessed);
                    right += g.guessed[1];
                    assert_eq!(pieces.concat(), outcome.1);
                }
            }
        }
        // The test shows something only if some guesses were right.
        assert!(right > 20, "{right}");
    }
}

#[test]
fn perplexity_is_the_one_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/perplexity");
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let corpus = folder.join("text.txt");
    let models = [Encoding::F32, Encoding::F16, Encoding::Q8].map(|encoding| (encoding, Model::demo(encoding)));
    for want in expected["values"].as_array().unwrap() {
        let ctx = want["ctx"].to_string();
        for (encoding, model) in &models {
            let args = ["--perplexity", text(&corpus), "--ctx", &ctx];
            let report = model.json(&args);
            assert_eq!(report["scored"], want["scored"]);
            assert_eq!((&report["tokens"], &report["bos"]), (&expected["tokens"], &expected["bos"]));
            let close = |key: &str, tolerance: f64| {
                let [got, want] = [&report[key], &want[key]].map(|x| x.as_f64().unwrap());
                assert!((got / want - 1.0).abs() < tolerance, "{encoding} ctx {ctx} {key}: {got}, expected {want}");
            };
            // In another encoding the model is slightly different.
            let tolerance = if *encoding == Encoding::F32 { 1e-4 } else { 1e-2 };
            close("perplexity", tolerance);
            close("standard_error", tolerance);
            let other = model.json(&[&args[..], &["--chunk", "7", "-t", "1"]].concat());
            assert_eq!(other["perplexity"], report["perplexity"], "however it is cut");
        }
    }
    let (_, f32) = &models[0];
    let run = f32.run(&["--perplexity", text(&corpus), "--ctx", "128"]).expect(0);
    assert!(run.stderr.contains("window 1 of") && run.stderr.contains("tok/s"), "{}", run.stderr);
    assert!(run.stdout.starts_with("| ") && run.stdout.contains("perplexity"));
    let last = run
        .stdout
        .lines()
        .last()
        .unwrap()
        .strip_prefix("Final estimate: PPL = ")
        .expect("llama-perplexity's last line");
    let (value, error) = last.split_once(" +/- ").unwrap();
    let report = f32.json(&["--perplexity", text(&corpus), "--ctx", "128"]);
    for (got, key) in [(value, "perplexity"), (error, "standard_error")] {
        assert!((got.parse::<f64>().unwrap() - report[key].as_f64().unwrap()).abs() < 1e-4, "{last}");
    }
    let quiet = f32.run(&["--perplexity", text(&corpus), "--ctx", "128", "-q"]).expect(0);
    assert_eq!((quiet.stdout.lines().count(), quiet.stderr.as_str()), (1, ""), "a row of a table");
    let run = f32.run(&["--perplexity", text(&corpus), "--ctx", "1024"]).expect(2);
    assert!(run.stderr.contains("1024") && run.stderr.contains("--ctx"), "{}", run.stderr);
    f32.run(&["--perplexity", text(&corpus), "--ctx", "3"]).expect(2);
    f32.run(&["--perplexity", text(&corpus), "--ctx", "4096"]).expect(2);
}

#[test]
fn a_schema_from_the_command_line() {
    let model = Model::demo(Encoding::Q8);
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type":
        "boolean"}}, "required": ["n", "ok"], "additionalProperties": false}"#;
    let file = model.file("schema.json");
    fs::write(&file, schema).unwrap();
    for seed in ["1", "2", "3"] {
        let args = ["-p", "ROMEO:", "-n", "400", "--seed", seed, "--json-schema"];
        let inline = model.json(&[&args[..], &[schema]].concat());
        assert_eq!(answer(&inline), answer(&model.json(&[&args[..], &[text(&file)]].concat())));
        let value: Value = serde_json::from_str(inline["text"].as_str().unwrap()).unwrap();
        assert!(value["n"].is_u64() && value["ok"].is_boolean(), "{value}");
        assert_eq!(inline["stop_reason"], "grammar");
    }
    // The answer ended before it was complete, and the program says so.
    let short = model.json(&["-p", "ROMEO:", "-n", "2", "--json-schema", schema]);
    assert_eq!(short["stop_reason"], "length");
    let grammar = model.file("answer.lark");
    fs::write(&grammar, "start: \"yes\" | \"no\"\n").unwrap();
    let run = model.run(&["-p", "JULIET:", "--grammar", text(&grammar), "-q"]).expect(0);
    assert!(["yes\n", "no\n"].contains(&run.stdout.as_str()), "{}", run.stdout);
}
