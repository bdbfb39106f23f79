//! docs/troubleshooting.md: each message that it quotes is one that the programs print.

use nanoserve_format::{FileAction, FormatError};
use nanoserve_runtime::{DeviceError, Limit, MemoryUse, RuntimeError};
use nanoserve_tests::{command, copy_folder, nanoserve, root};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;

/// What the page quotes in the first column of its tables, cut where something differs each time.
fn quoted() -> Vec<Vec<String>> {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let pieces = |(cell, _): (&str, &str)| -> Vec<String> {
        cell.split("...").map(str::trim).filter(|piece| !piece.is_empty()).map(str::to_string).collect()
    };
    cells.map(pieces).collect()
}

/// Whether a text has all the pieces, one behind the other.
fn has(text: &str, pieces: &[String]) -> bool {
    let mut rest = text;
    pieces.iter().all(|piece| match rest.split_once(piece.as_str()) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// The messages of programs that are given what they cannot take, each with the words that were given.
fn provoked(folder: &Path) -> Vec<(String, String)> {
    let at = |name: &str| folder.join(name).display().to_string();
    let checkpoint = |name: &str, change: &dyn Fn(&Path)| {
        copy_folder(&root().join("weights/demo"), &folder.join(name));
        change(&folder.join(name));
        at(name)
    };
    let edit = |folder: &Path, from: &str, to: &str| {
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    let weights = |folder: &Path, bytes: &[u8]| fs::write(folder.join("model.safetensors"), bytes).unwrap();
    let (model, out) = (at("demo.nsv"), at("out.nsv"));
    nanoserve("convert", [root().join("weights/demo").as_os_str(), OsStr::new(&model), OsStr::new("-q")]).expect(0);

    let bytes = fs::read(&model).unwrap();
    fs::write(at("short.nsv"), &bytes[..bytes.len() / 2]).unwrap();
    let mut changed = bytes;
    changed[200_000] ^= 1;
    fs::write(at("changed.nsv"), changed).unwrap();
    fs::write(at("text"), "no model").unwrap();
    fs::write(at("file.gguf"), b"GGUF\x03\0\0\0\0\0\0\0").unwrap();
    fs::create_dir(at("gguf")).unwrap();
    fs::copy(at("file.gguf"), Path::new(&at("gguf")).join("model.gguf")).unwrap();
    fs::write(at("gguf/config.json"), "{}").unwrap();
    fs::write(at("long"), "and so on ".repeat(100)).unwrap();
    fs::write(at("narrator.json"), r#"[{"role": "narrator", "content": "Once."}]"#).unwrap();
    fs::create_dir(at("empty")).unwrap();
    nanoserve("inspect", ["keygen", &at("key.pem")]).expect(0);

    let mute = checkpoint("mute", &|folder| fs::remove_file(folder.join("tokenizer.json")).unwrap());
    nanoserve("convert", [mute, at("mute.nsv"), "-q".into()]).expect(0);
    let pointer = checkpoint("pointer", &|folder| {
        weights(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 5\n");
    });
    let cut = checkpoint("cut", &|folder| {
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        weights(folder, &bytes[..bytes.len() / 2]);
    });
    let other = checkpoint("other", &|folder| edit(folder, "LlamaForCausalLM", "UnheardOfForCausalLM"));
    let quantized =
        checkpoint("quantized", &|folder| edit(folder, "{", r#"{"quantization_config": {"quant_method": "awq"},"#));
    let adapter = checkpoint("adapter", &|folder| {
        fs::remove_file(folder.join("model.safetensors")).unwrap();
        fs::rename(folder.join("config.json"), folder.join("adapter_config.json")).unwrap();
        fs::write(folder.join("adapter_config.json"), r#"{"peft_type": "LORA", "base_model_name_or_path": "a/b"}"#)
            .unwrap();
        weights(folder, b"");
        fs::rename(folder.join("model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
    });
    let stray = checkpoint("stray", &|folder| {
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        // A name of the same length: the header keeps its size.
        let (name, at) = (b"layers.0.mlp.up_proj", bytes.windows(20).position(|w| w == b"layers.0.mlp.up_proj"));
        let mut renamed = bytes.clone();
        renamed[at.unwrap()..][..name.len()].copy_from_slice(b"layers.0.mlp.xx_proj");
        weights(folder, &renamed);
    });

    let template = root().join("tests/reference/templates/demo.jinja").display().to_string();
    let (foreign, short, altered) = (at("text"), at("short.nsv"), at("changed.nsv"));
    let all: &[(&str, &[&str])] = &[
        ("convert", &[&at("empty"), &out]),
        ("convert", &[&at("nowhere"), &out]),
        ("convert", &[&pointer, &out]),
        ("convert", &[&cut, &out]),
        ("convert", &[&other, &out]),
        ("convert", &[&quantized, &out]),
        ("convert", &[&adapter, &out]),
        ("convert", &[&stray, &out]),
        ("convert", &[&at("file.gguf"), &out]),
        ("convert", &[&at("gguf"), &out]),
        ("convert", &[&root().join("weights/demo").display().to_string(), &foreign]),
        ("run", &[&foreign, "-p", "x"]),
        ("run", &[&at("empty"), "-p", "x"]),
        ("run", &[&short, "-p", "x"]),
        ("run", &[&altered, "-p", "x", "--check"]),
        ("run", &[&model, "-p", "x", "--require-signer", &at("key.pub.pem")]),
        ("run", &[&model, "-p", "x", "-c", "99999"]),
        ("run", &[&model, "-p", "x", "--isa", if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" }]),
        ("run", &[&model, "-f", &at("long"), "-c", "64"]),
        ("run", &[&model, "--chat", "-p", "x"]),
        ("run", &[&model, "--messages", &at("narrator.json"), "--chat-template", &template]),
        ("run", &[&at("mute.nsv"), "-p", "x"]),
        ("run", &[&model, "-p", "x", "--json-schema", r#"{"uniqueItems": true}"#]),
        ("run", &[&model, "-p", "x", "--flash-attn"]),
        ("run", &[&model]),
    ];
    let mut told = Vec::new();
    for (name, words) in all {
        let run = nanoserve(name, words.iter());
        assert!(matches!(run.code, Some(1 | 2)), "{words:?}: {:?} {}", run.code, run.stderr);
        told.push((words.join(" "), run.stderr));
    }
    let mut more = |name: &str, words: &[&str], environment: &[(&str, &str)]| {
        let mut command = command(name, words);
        let out = command.envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap();
        told.push((words.join(" "), String::from_utf8(out.stderr).unwrap()));
    };
    let home = at("home");
    more("nanoserve-run", &[&model, "-p", "x", "-n", "1"], &[("NANOSERVE_THREAD", "1")]);
    more("nanoserve", &["pull", "a/b"], &[("HF_HUB_OFFLINE", "1"), ("HF_HOME", &home)]);
    // Nobody listens on this port.
    more("nanoserve", &["pull", "a/b"], &[("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_HOME", &home)]);
    told.extend(of_the_machine());
    told
}

/// What the libraries say of a machine that has too little of something.
fn of_the_machine() -> [(String, String); 4] {
    let failed = |action, number| {
        FormatError::Io { path: "a.nsv".into(), action, source: io::Error::from_raw_os_error(number) }.to_string()
    };
    let context = RuntimeError::Memory {
        what: MemoryUse::Context { positions: 4096, element: 4 },
        need: 2_000_000,
        room: 1_000_000,
        limit: Limit::Machine,
    };
    let driver = DeviceError::Missing { cause: "no driver".into(), remedy: None };
    [
        ("a full disk".into(), failed(FileAction::Reserve, 28)),
        ("--lock".into(), failed(FileAction::Lock, 12)),
        ("a long context".into(), context.to_string()),
        ("--device cuda".into(), driver.to_string()),
    ]
}

/// All sources of the programs and libraries, their texts as they are printed.
fn sources() -> String {
    fn add(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(&path, all);
            } else if path.extension() == Some(OsStr::new("rs")) {
                all.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut all = String::new();
    ["cli", "converter", "format", "runtime"].iter().for_each(|part| add(&root().join(part).join("src"), &mut all));
    // A text goes on in the next line behind a backslash.
    let mut parts = all.split("\\\n");
    let first = parts.next().unwrap_or("").to_string();
    parts.fold(first, |joined, part| joined + part.trim_start())
}

#[test]
fn the_page_quotes_what_the_programs_say() {
    let folder = tempfile::tempdir().unwrap();
    let (quoted, provoked) = (quoted(), provoked(folder.path()));
    assert!(quoted.len() >= 20, "{quoted:?}");
    for (words, told) in &provoked {
        assert!(
            quoted.iter().any(|pieces| has(told, pieces)),
            "the page does not have what this says: {words}\n{told}"
        );
    }
    let sources = sources();
    let by_hand: Vec<&Vec<String>> =
        quoted.iter().filter(|pieces| !provoked.iter().any(|(_, told)| has(told, pieces))).collect();
    // These need a disk that breaks, an account of the Hub, or a terminal.
    assert!(by_hand.len() <= 4, "too few are provoked: {by_hand:?}");
    for pieces in by_hand {
        for piece in pieces.iter().filter(|piece| piece.len() > 4) {
            assert!(sources.contains(piece), "no program says: {piece}");
        }
    }
}
