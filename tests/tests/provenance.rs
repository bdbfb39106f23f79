//! Where a file came from, printed so that the usual programs can check the sources.

use nanoserve_tests::{Run, copy_folder, fixture, nanoserve};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const REVISION: &str = "4a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Copies a checkpoint as it is after a download, with a licence.
fn download(to: &Path) {
    copy_folder(&fixture("tied-llama3").path, to);
    // Files of the fixture that are not part of a download.
    for name in ["reference.safetensors", "tokenizer_cases.json"] {
        fs::remove_file(to.join(name)).unwrap();
    }
    let records = to.join(".cache/huggingface/download");
    fs::create_dir_all(&records).unwrap();
    for entry in fs::read_dir(to).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_file()) {
        let record = records.join(format!("{}.metadata", entry.file_name().to_str().unwrap()));
        fs::write(record, format!("{REVISION}\netag\n1.5\n")).unwrap();
    }
    fs::write(to.join("LICENSE"), "Use it well.\n").unwrap();
    fs::write(to.join("README.md"), "---\nlicense: mit\n---\n").unwrap();
}

/// Has a program such as b3sum check a list in a folder; None if there is no such program.
fn checked_by(program: &str, list: &str, folder: &Path) -> Option<bool> {
    let mut command = Command::new(program);
    command.args(["--check", "-"]).current_dir(folder);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = piped.spawn().ok()?;
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    Some(child.wait().unwrap().success())
}

fn inspect(model: &Path, args: &[&str]) -> Run {
    nanoserve("inspect", [&[text(model)], args].concat())
}

#[test]
fn the_sources_hashes_are_those_of_the_usual_programs() {
    let folder = tempfile::tempdir().unwrap();
    let (source, model) = (folder.path().join("source"), folder.path().join("model.nsv"));
    download(&source);
    nanoserve("convert", [text(&source), text(&model), "--sha256", "-q"]).expect(0);
    let names =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let expected: String = names
        .iter()
        .map(|name| format!("{}  {name}\n", blake3::hash(&fs::read(source.join(name)).unwrap()).to_hex()))
        .collect();
    let b3sum = inspect(&model, &["--provenance=b3sum"]).expect(0).stdout;
    assert_eq!(b3sum, expected);
    assert_ne!(checked_by("b3sum", &b3sum, &source), Some(false));
    let sha256sum = inspect(&model, &["--provenance=sha256sum"]).expect(0).stdout;
    assert_eq!(sha256sum.lines().count(), names.len());
    let checked = checked_by("sha256sum", &sha256sum, &source);
    assert_ne!(checked, Some(false), "{sha256sum}");
    println!("sha256sum: {checked:?}");

    let all = inspect(&model, &["--provenance"]).expect(0).stdout;
    for part in [&b3sum, &sha256sum, REVISION, "repository  unknown", "licence     mit", "LICENSE\n\n  Use it well.\n"]
    {
        assert!(all.contains(part), "no {part} in {all}");
    }
    let shown = inspect(&model, &["--check"]).expect(0).stdout;
    assert!(shown.contains("licence     mit, LICENSE\n") && shown.contains("intact"), "{shown}");
    let json = &inspect(&model, &["--json"]).expect(0).json()["provenance"];
    assert_eq!((&json["revision"], &json["recipe"]), (&REVISION.into(), &"--dtype q8 --sha256".into()));
    assert_eq!(json["license_files"][0]["text"], "Use it well.\n");

    // A changed source is found. If there are no hashes, the program says so.
    fs::write(source.join("config.json"), "{}").unwrap();
    for (program, list) in [("b3sum", b3sum), ("sha256sum", sha256sum)] {
        assert_ne!(checked_by(program, &list, &source), Some(true), "{program}");
    }
    let plain = folder.path().join("plain.nsv");
    nanoserve("convert", [text(&fixture("tied-llama3").path), text(&plain), "-q"]).expect(0);
    let run = inspect(&plain, &["--provenance=sha256sum"]).expect(2);
    assert!(run.stderr.contains("--sha256") && run.stdout.is_empty(), "{}", run.stderr);
}

#[test]
fn the_same_files_in_another_folder_give_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = None;
    for place in ["one", "models--org--name/snapshots/0123456789abcdef"] {
        let source = folder.path().join(place);
        download(&source);
        let out = folder.path().join("out.nsv");
        nanoserve("convert", [text(&source), text(&out), "--sha256", "-q"]).expect(0);
        let bytes = fs::read(&out).unwrap();
        assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{place}");
    }
}
