//! What a file says of itself is shown, and neither steers a terminal nor looks like a line of the program that shows it.

use nanoserve_format::{SectionKind, json_text};
use nanoserve_tests::parts::Parts;
use nanoserve_tests::{CHATML, Run, Script, Source, Tiny, nanoserve};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A text that sets a terminal's title, clears it, goes back to its line's start, adds lines, turns text around, and is long.
fn hostile() -> String {
    format!(
        "n\u{1b}]0;t\u{7}\u{1b}[2J\u{9b}2J\rwarning: LIE\nerror: LIE\n  hint: LIE\u{202e}\u{2066}{}",
        "y".repeat(1 << 20)
    )
}

/// The bytes of both outputs are as a terminal may get them, and there are few.
#[track_caller]
fn is_tame(run: &Run, most: usize) {
    assert!(matches!(run.code, Some(0..=2)), "{:?}: {}", run.code, run.stderr);
    for (name, text) in [("stdout", &run.stdout), ("stderr", &run.stderr)] {
        assert!(text.len() <= most, "{name} has {} bytes: {}", text.len(), text.chars().take(3000).collect::<String>());
        let steers =
            |c: char| c.is_control() && c != '\n' && c != '\t' || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}');
        assert!(!text.contains(steers), "{name}: {text:?}");
        let lies = |line: &str| ["error: LIE", "warning: LIE", "  hint: LIE"].iter().any(|lie| line.starts_with(lie));
        assert!(!text.lines().any(lies), "{name}: {text}");
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

/// A model that can chat, in a file, and the file's parts.
fn model(folder: &Path) -> Parts {
    let source = folder.join("source");
    let script =
        Script { specials: vec!["<|im_start|>", "<|im_end|>"], chain: Script::bytes("ab"), ..Script::default() };
    script.write(&source, None);
    fs::write(source.join("chat_template.jinja"), CHATML).unwrap();
    let path = folder.join("model.nsv");
    nanoserve("convert", [source.as_path(), &path, "-q".as_ref()]).expect(0);
    Parts::split(&fs::read(path).unwrap())
}

/// Puts a section of a kind in the place of the one there is, or among the others.
fn set(parts: &mut Parts, kind: SectionKind, body: Vec<u8>) {
    parts.sections.retain(|section| section.0 != kind.code());
    parts.sections.push((kind.code(), 0, body));
    parts.sections.sort_by_key(|section| section.0);
}

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("hostile.nsv");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn what_a_file_says_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (parts, h) = (model(folder.path()), hostile());
    let hash = "0f".repeat(32);
    let provenance = |name: &str, blake3: &str| {
        json!({"converter": h, "recipe": h, "repository": h, "revision": h, "license": h,
            "license_files": [{"name": h, "text": h}],
            "sources": [{"name": name, "bytes": 1, "blake3": blake3, "sha256": blake3}]})
    };
    let with = |provenance: Value| {
        let mut parts = parts.clone();
        set(&mut parts, SectionKind::Provenance, provenance.to_string().into_bytes());
        set(&mut parts, SectionKind::NamedTemplates, json!({&h: CHATML}).to_string().into_bytes());
        let golden = parts.body(SectionKind::Golden.code());
        let mut made: Value = serde_json::from_slice(golden).unwrap();
        // More than 256 KiB of golden vectors are not read at all.
        made["made_by"] = h[..128 << 10].into();
        *golden = made.to_string().into_bytes();
        let generation = json!({"eos_ids": [], "special_tokens": {"bos_token": h}});
        set(&mut parts, SectionKind::Generation, generation.to_string().into_bytes());
        write(folder.path(), &parts.file())
    };
    let run = |program: &str, path: &Path, args: &[&str]| {
        nanoserve(program, [path.to_str().unwrap()].iter().chain(args).copied())
    };
    let path = with(provenance(&h, &h));
    for args in [&[][..], &["--tensors"], &["--check"]] {
        let shown = run("inspect", &path, args).expect(0);
        is_tame(&shown, 32 << 10);
        assert!(
            shown.stdout.contains(r"\u{1b}]0;t\u{7}") && shown.stdout.contains("bytes left out"),
            "{}",
            shown.stdout
        );
    }
    for list in ["--provenance=b3sum", "--provenance=sha256sum", "--provenance"] {
        let refused = run("inspect", &path, &[list]).expect(2);
        is_tame(&refused, 8 << 10);
        assert_eq!(refused.stdout, "");
    }
    // JSON keeps values whole.
    let shown = run("inspect", &path, &["--json"]).expect(0);
    is_tame(&shown, 16 << 20);
    assert_eq!(shown.json()["provenance"]["repository"], h.as_str());
    assert_eq!(shown.json()["about"]["named_templates"], json!([h]));
    for (args, most) in [(&["--self-test"][..], 8 << 10), (&["--self-test", "--json"], 4 << 20)] {
        is_tame(&run("run", &path, args).expect(0), most);
    }
    // Names and hashes that a list can hold, beside licences that it does not.
    let path = with(provenance("config.json", &hash));
    assert_eq!(run("inspect", &path, &["--provenance=b3sum"]).expect(0).stdout, format!("{hash}  config.json\n"));
    let all = run("inspect", &path, &["--provenance"]).expect(0);
    // A licence is shown as far as one is kept.
    is_tame(&all, 300 << 10);
    assert!(all.stdout.contains("\n  error: LIE\n"), "the licence is not set in");
}

#[test]
fn what_a_file_cannot_be_run_for() {
    let folder = tempfile::tempdir().unwrap();
    let (parts, h) = (model(folder.path()), hostile());
    let template = |text: String| {
        let mut parts = parts.clone();
        set(&mut parts, SectionKind::ChatTemplate, text.into_bytes());
        parts.file()
    };
    let spec = |field: &str, value: Value| parts.with_spec(|spec| spec[field] = value.clone());
    let mut tensors = parts.clone();
    let directory = tensors.body(SectionKind::Directory.code());
    let at = directory.windows(12).position(|name| name == b"embed.weight").unwrap();
    directory[at..at + 12].copy_from_slice(b"\x1b[2J\nerror: ");
    let mut named = parts.clone();
    named.sections.retain(|section| section.0 != SectionKind::ChatTemplate.code());
    set(&mut named, SectionKind::NamedTemplates, json!({&h: CHATML}).to_string().into_bytes());
    // The test's parts have room for 64 KiB before the tensors.
    let short = &h[..16 << 10];
    let literal = h.replace('\'', "");
    let files = [
        template(format!("{{{{ raise_exception('{literal}') }}}}")),
        template(format!("{{% {h} %}}")),
        template(format!("{{{{ messages['{literal}'].x }}}}")),
        named.file(),
        spec(short, json!(1)),
        spec("hidden_size", json!(short)),
        tensors.file(),
    ];
    for (number, file) in files.iter().enumerate() {
        let path = write(folder.path(), file);
        let path = path.to_str().unwrap();
        let run = nanoserve("run", [path, "--chat", "-p", "a", "--single-turn", "-n", "1"]);
        is_tame(&run, 16 << 10);
        assert_eq!(run.code, Some(2), "file {number}: {}{}", run.stdout, run.stderr);
        is_tame(&nanoserve("inspect", [path]), 16 << 10);
        is_tame(&nanoserve("run", [path, "--self-test"]), 16 << 10);
    }
}

#[test]
fn what_a_prompt_prints_for_programs() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = model(folder.path());
    set(&mut parts, SectionKind::ChatTemplate, "a\u{1b}[2J\u{202e}\u{9b}{{ messages[0].content }}".into());
    let path = write(folder.path(), &parts.file());
    let run = nanoserve("run", [path.to_str().unwrap(), "--chat", "-p", "b", "--render", "--json"]).expect(0);
    is_tame(&run, 4 << 10);
    assert_eq!(run.json()["prompt"], "a\u{1b}[2J\u{202e}\u{9b}b");
    assert_eq!(json_text(run.stdout.clone()), run.stdout);
}

#[test]
fn what_a_checkpoint_calls_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out.nsv"));
    let (tiny, h) = (Tiny::default(), hostile());
    let convert = || nanoserve("convert", [&source, &out]);
    let fields = [
        ("architectures", json!([h])),
        ("model_type", json!(h)),
        ("hidden_act", json!(h)),
        ("hidden_size", json!(h)),
        ("rope_scaling", json!({"rope_type": h, "factor": 2.0})),
        ("quantization_config", json!({"quant_method": h})),
    ];
    for (field, value) in fields {
        tiny.write(&source);
        let mut config = tiny.config();
        config[field] = value;
        fs::write(source.join("config.json"), config.to_string()).unwrap();
        is_tame(&convert(), 32 << 10);
    }
    // A tensor that is none of the model's, and so many that no list of them helps.
    for count in [1, 400] {
        let mut tensors = tiny.tensors();
        for number in 0..count {
            let name = if count == 1 { h.clone() } else { format!("\u{1b}[2J\nerror: LIE {number}") };
            tensors.insert(name, Source { shape: vec![1], values: vec![0.0] });
        }
        tiny.write_tensors(&source, &tensors);
        let run = convert().expect(2);
        is_tame(&run, 64 << 10);
        assert_eq!(run.stderr.contains("and 300 more"), count == 400, "{}", run.stderr);
    }
    // A shard by a name like that, in the index.
    tiny.write(&source);
    fs::remove_file(source.join("model.safetensors")).unwrap();
    let index = json!({"metadata": {}, "weight_map": {&h: h}});
    fs::write(source.join("model.safetensors.index.json"), index.to_string()).unwrap();
    is_tame(&convert().expect(2), 32 << 10);
    // The output of a warning, and of a conversion that is done.
    tiny.write(&source);
    fs::write(source.join("LICENSE\u{1b}[2J\nerror: LIE"), "x".repeat(300 << 10)).unwrap();
    is_tame(&convert(), 8 << 10);
}

#[test]
fn what_a_reference_calls_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let (path, h) = (folder.path().join("reference.safetensors"), hostile());
    for header in [
        json!({&h: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
        json!({"input_ids": {"dtype": h, "shape": [1], "data_offsets": [0, 4]}}),
        json!({&h: h}),
    ] {
        let head = header.to_string().into_bytes();
        let bytes = [&(head.len() as u64).to_le_bytes()[..], &head, &[0; 4]].concat();
        fs::write(&path, bytes).unwrap();
        for args in [&[][..], &["--json"], &["--bisect"]] {
            let files = [folder.path().join("model.nsv"), path.clone()];
            let files = files.iter().map(|file| file.to_str().unwrap());
            is_tame(&nanoserve("verify", files.chain(args.iter().copied())).expect(2), 8 << 10);
        }
    }
}
