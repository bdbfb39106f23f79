//! Faults of the machine: a full disk, limits, files that shrink while they are mapped, a closed output. Each test
//! checks the exit code, the message, and what is left on the disk. docs/reliability.md lists them.

#![cfg(target_os = "linux")]

use nanoserve_format::Encoding;
use nanoserve_runtime::diagnose::verify::{dump, trace};
use nanoserve_runtime::{Engine, EngineOptions, KvType, RuntimeError};
use nanoserve_tests::{Fixture, Run, Tiny, command, convert, fixture, namespace, nanoserve, program};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const OLD: &str = "the file of before";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo")
}

fn run(command: &mut Command) -> Run {
    let out = command.stdin(Stdio::null()).output().unwrap();
    ended(out)
}

fn ended(out: std::process::Output) -> Run {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Run { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// Runs an `sh` script with a program and its arguments as `"$@"`.
fn shell<S: AsRef<OsStr>>(script: &str, name: &str, args: &[S]) -> Run {
    run(Command::new("sh").args(["-c", script, "sh"]).arg(program(&format!("nanoserve-{name}"))).args(args))
}

/// A fixture's model in a folder, and its reference.
struct Model {
    folder: TempDir,
    fixture: Fixture,
    path: PathBuf,
}

impl Model {
    fn new() -> Model {
        let (folder, fixture) = (tempfile::tempdir().unwrap(), fixture("tied-llama3"));
        let path = fixture.convert(Encoding::F32, folder.path());
        Model { folder, fixture, path }
    }

    /// Every program, with arguments that make it print text and with `--json`.
    fn commands(&self) -> Vec<(&'static str, Vec<String>)> {
        let (path, reference) = (text(&self.path), self.fixture.reference_path());
        let out = self.folder.path().join("again.nsv");
        let command = |name, args: &[&str]| (name, args.iter().map(ToString::to_string).collect::<Vec<String>>());
        let plain = [
            command("run", &[path, "-p", "The harbour", "-n", "4"]),
            command("verify", &[path, text(&reference)]),
            command("inspect", &[path, "--check"]),
            command("bench", &[path, "-p", "4", "-n", "2", "-r", "1", "--no-limits"]),
            command("convert", &[text(&self.fixture.path), text(&out)]),
        ];
        let json = plain.clone().map(|(name, args)| (name, [args, vec!["--json".to_string()]].concat()));
        plain.into_iter().chain(json).collect()
    }
}

/// Runs a program that writes `$1/out` into a tmpfs of this size, where an old file has that name. Returns the
/// program's output; its standard output also lists what is there afterwards.
fn on_tmpfs(size: &str, then: &str, name: &str, args: &[&str]) -> Option<Run> {
    let [unshare, flag] = namespace()?;
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        r#"cd "$1" && shift && mount -t tmpfs -o size={size} none . && cd "$PWD" && printf '{OLD}' > out && {then} || exit 99
        "$@"; echo "code $?"; ls -A; cat out"#
    );
    let mut command = Command::new(unshare);
    command.args([flag, "sh", "-c", &script, "sh", text(folder.path())]).arg(program(&format!("nanoserve-{name}")));
    Some(run(command.args(args)).expect(0))
}

/// What [`on_tmpfs`] lists if only the old file is left.
fn only_old() -> String {
    format!("code 1\nout\n{OLD}")
}

#[test]
fn a_full_disk_leaves_the_old_file_alone() {
    let Some(run) = on_tmpfs("1m", "true", "convert", &[text(&demo()), "out", "-q", "--force"]) else { return };
    assert_eq!(run.stdout, only_old());
    assert!(run.stderr.contains("cannot reserve space for: No space left on device"), "{}", run.stderr);
    assert!(run.stderr.contains("hint: --dry-run"), "{}", run.stderr);

    let model = Model::new();
    let reference = model.fixture.reference_path();
    let args = [text(&model.path), text(&reference), "--dump", "out"];
    let run = on_tmpfs("16k", "true", "verify", &args).expect("it could mount before");
    assert_eq!(run.stdout, only_old());
    assert!(run.stderr.contains("out: cannot write: No space left on device"), "{}", run.stderr);
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name)).to_string();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    File::create(at("empty")).unwrap();
    for (path, words) in [
        (at("pipe"), "cannot open: a pipe or a device, expected a regular file"),
        ("/dev/zero".into(), "cannot open: a pipe or a device, expected a regular file"),
        (text(folder.path()).into(), "cannot open: is a directory"),
        (at("empty"), "not a .nsv file: it is empty\n"),
    ] {
        for (name, more) in [("run", &["--ids", "1"][..]), ("inspect", &[]), ("bench", &[]), ("verify", &["--bisect"])]
        {
            let run = shell("exec timeout 60 \"$@\"", name, &[&[path.as_str()], more].concat()).expect(2);
            assert!(run.stderr.contains(words), "{name} {path}: {}", run.stderr);
        }
    }
}

#[test]
fn a_read_only_target_is_refused() {
    if let Some(run) = on_tmpfs("16m", "mount -o remount,ro .", "convert", &[text(&demo()), "out", "-q", "--force"]) {
        assert_eq!(run.stdout, only_old());
        assert!(run.stderr.contains("cannot create: read-only file"), "{}", run.stderr);
    }
    let model = Model::new();
    let out = model.folder.path().join("out/model.nsv");
    let folder = out.parent().unwrap();
    fs::create_dir(folder).unwrap();
    fs::write(&out, OLD).unwrap();
    let permit = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // As root, permissions have no effect, so there is nothing to test.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        println!("SKIPPED: a folder without permission does not stop root");
    } else {
        permit(folder, 0o555);
        let run = nanoserve("convert", [text(&model.fixture.path), text(&out), "--force"]).expect(1);
        permit(folder, 0o755);
        assert!(run.stderr.contains("cannot create: permission denied"), "{}", run.stderr);
        assert_eq!((fs::read(&out).unwrap(), fs::read_dir(folder).unwrap().count()), (OLD.into(), 1));
    }
    // A name belongs to its folder: a read-only file can still be replaced by a new one.
    permit(&out, 0o444);
    nanoserve("convert", [text(&model.fixture.path), text(&out), "--force"]).expect(0);
    nanoserve("inspect", [out.as_os_str(), "--check".as_ref()]).expect(0);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_signal() {
    let model = Model::new();
    let out = model.folder.path().join("out");
    let left = || fs::read_dir(model.folder.path()).unwrap().count();
    fs::write(&out, OLD).unwrap();
    let before = left();
    let args = [text(&model.fixture.path), text(&out), "--force"];
    let run = shell("ulimit -f 8; exec \"$@\"", "convert", &args).expect(1);
    assert!(run.stderr.contains("cannot reserve space for: File too large"), "{}", run.stderr);
    assert!(run.stderr.contains("hint: a limit on the size of files is set (ulimit -f)"), "{}", run.stderr);
    let reference = model.fixture.reference_path();
    let args = [text(&model.path), text(&reference), "--dump", text(&out)];
    let run = shell("ulimit -f 8; exec \"$@\"", "verify", &args).expect(1);
    assert!(run.stderr.contains("out: cannot write: File too large"), "{}", run.stderr);
    assert_eq!((fs::read_to_string(&out).unwrap(), left()), (OLD.to_string(), before));
    for (name, args) in model.commands().into_iter().filter(|(name, _)| *name != "convert") {
        let script = format!("ulimit -f 0; exec \"$@\" > {}/printed", text(model.folder.path()));
        let run = shell(&script, name, &args).expect(1);
        assert!(run.stderr.contains("cannot write to standard output: File too large"), "{name}: {}", run.stderr);
    }
    // A program that maps no model.
    let key = model.folder.path().join("key.pem");
    let run = shell("ulimit -f 0; exec \"$@\"", "inspect", &["keygen", text(&key)]).expect(1);
    assert!(run.stderr.contains("key.pem: File too large") && !key.exists(), "{}", run.stderr);
}

#[test]
fn output_that_cannot_be_written_exits_with_1() {
    let model = Model::new();
    for (name, args) in model.commands() {
        let run = shell("exec \"$@\" > /dev/full", name, &args).expect(1);
        let words = "standard output";
        assert!(run.stderr.contains(words) && run.stderr.contains("No space left"), "{name}: {}", run.stderr);
    }
    // The conversion itself was finished by then, as the message says.
    nanoserve("inspect", [text(&model.folder.path().join("again.nsv")), "--check"]).expect(0);
}

#[test]
fn an_output_closed_early_is_no_fault() {
    let model = Model::new();
    let status = model.folder.path().join("status");
    let missing = model.folder.path().join("none.nsv");
    let bad = ["run", "verify", "inspect", "bench"].map(|name| {
        let more: &[&str] = if name == "run" { &["--ids", "1"] } else { &[] };
        let reference = model.fixture.reference_path();
        let more = if name == "verify" { &[text(&reference)] } else { more };
        (name, [&[text(&missing)], more].concat().iter().map(ToString::to_string).collect::<Vec<_>>(), "2")
    });
    let bad_convert = ("convert", vec![text(&missing).to_string(), text(&status).to_string()], "2");
    let good = model.commands().into_iter().map(|(name, args)| (name, args, "0"));
    for (name, args, code) in good.chain(bad).chain([bad_convert]) {
        // The output is closed before the program starts; the reader closes it after a byte; the reader closes it and
        // standard error at once.
        let pipe = |to: &str| format!("{{ \"$@\" {to}; echo $? > {}; }}", text(&status));
        for script in [pipe(">&-"), format!("{} | head -c1", pipe("")), format!("{} 2>&1 | true", pipe(""))] {
            let run = shell(&script, name, &args).expect(0);
            let got = fs::read_to_string(&status).unwrap();
            assert_eq!(got.trim(), code, "{name} {args:?} {script}: {}", run.stderr);
            assert!(!run.stderr.contains("Broken pipe"), "{name}: {}", run.stderr);
        }
    }
}

/// A checkpoint of 42 MB and its model in f32: large enough that nothing finishes at once.
struct Large {
    folder: TempDir,
    source: PathBuf,
    model: PathBuf,
}

impl Large {
    fn new() -> Large {
        let folder = tempfile::tempdir().unwrap();
        let (source, model) = (folder.path().join("source"), folder.path().join("model.nsv"));
        let tiny = Tiny { hidden: 512, intermediate: 1408, vocab: 8192, tied: true, ..Tiny::default() };
        tiny.write(&source);
        convert(&source, Encoding::F32, &model);
        Large { folder, source, model }
    }
}

/// True if a program has mapped a file.
fn mapped(child: &Child, file: &Path) -> bool {
    fs::read_to_string(format!("/proc/{}/maps", child.id())).is_ok_and(|maps| maps.contains(text(file)))
}

/// Starts a program and cuts `file` in half as soon as `when` is true. If the program finished before, tries again.
fn cut(file: &Path, when: impl Fn(&Child) -> bool, start: impl Fn() -> Child) -> Run {
    let whole = file.with_extension("whole");
    fs::copy(file, &whole).unwrap();
    for _ in 0..50 {
        let mut child = start();
        while !when(&child) && child.try_wait().unwrap().is_none() {}
        File::options().write(true).open(file).unwrap().set_len(fs::metadata(&whole).unwrap().len() / 2).unwrap();
        let run = ended(child.wait_with_output().unwrap());
        fs::copy(&whole, file).unwrap();
        if run.code != Some(0) {
            fs::remove_file(&whole).unwrap();
            return run;
        }
    }
    panic!("fifty times it was done before the file was cut");
}

/// Asserts an error of one line that names the file.
fn assert_told(run: Run, file: &Path) {
    let run = run.expect(1);
    let start = format!("error: {}: bytes of ", text(file));
    assert!(run.stderr.starts_with(&start) && run.stderr.contains("(SIGBUS)"), "{}", run.stderr);
    assert!(run.stderr.contains("truncated") && run.stderr.lines().count() == 1, "{}", run.stderr);
}

#[test]
fn a_model_truncated_while_it_runs_ends_in_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("demo.nsv");
    // A long text is generated slowly, and the file is cut after the first letter. A copy in memory is not affected.
    for (load, n) in [("map", "1000"), ("huge", "100")] {
        convert(&demo(), Encoding::Q8, &model);
        let args = ["-p", "ROMEO:", "-n", n, "--ignore-eos", "-q", "--isa", "scalar", "-t", "2", "--load", load];
        let mut child = command("nanoserve-run", [&[text(&model)], &args[..]].concat()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let file = File::options().write(true).open(&model).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        let run = ended(child.wait_with_output().unwrap());
        if load == "map" {
            assert_told(run, &model);
        } else {
            assert!(run.expect(0).stdout.len() > 50);
        }
    }
}

#[test]
fn a_model_truncated_under_every_program_ends_in_a_message() {
    let large = Large::new();
    let reference = large.folder.path().join("reference.safetensors");
    let mut engine = Engine::open(&large.model, &EngineOptions::default()).unwrap();
    let ids: Vec<u32> = (0..48).collect();
    dump(&reference, &ids, None, &trace(&mut engine, &ids, KvType::F32).unwrap()).unwrap();
    drop(engine);
    let path = text(&large.model);
    for (name, args) in [
        ("inspect", vec![path, "--check"]),
        ("verify", vec![path, text(&reference), "--isa", "scalar"]),
        ("bench", vec![path, "-p", "32", "-n", "16", "-r", "10000", "--no-limits"]),
    ] {
        let start = || command(&format!("nanoserve-{name}"), &args).spawn().unwrap();
        assert_told(cut(&large.model, |child| mapped(child, &large.model), start), &large.model);
    }
}

#[test]
fn a_source_that_shrinks_while_mapped_ends_in_a_message_and_leaves_nothing() {
    let large = Large::new();
    let (shard, folder) = (large.source.join("model.safetensors"), large.folder.path().join("out"));
    let out = folder.join("out.nsv");
    fs::create_dir(&folder).unwrap();
    fs::write(&out, OLD).unwrap();
    let start = || {
        fs::write(&out, OLD).unwrap();
        command("nanoserve-convert", [text(&large.source), text(&out), "-t", "1", "--force"]).spawn().unwrap()
    };
    let files = || fs::read_dir(&folder).unwrap().count();
    // Once as soon as it is mapped, and once in the middle of writing, with an unfinished file beside the old one.
    for writing in [false, true] {
        let when = |child: &Child| if writing { files() == 2 } else { mapped(child, &shard) };
        assert_told(cut(&shard, when, start), &large.source);
        assert_eq!((fs::read_to_string(&out).unwrap(), files()), (OLD.to_string(), 1));
    }
}

#[test]
fn a_bus_error_that_somebody_sends_is_left_as_it_is() {
    let large = Large::new();
    let args = [text(&large.model), "-p", "32", "-n", "16", "-r", "100", "--no-limits"];
    let mut child = Command::new("sh");
    child.args(["-c", "ulimit -c 0; exec \"$@\"", "sh"]).arg(program("nanoserve-bench")).args(args);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !mapped(&child, &large.model) && child.try_wait().unwrap().is_none() {}
    assert!(Command::new("kill").args(["-BUS", &child.id().to_string()]).status().unwrap().success());
    let run = ended(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (None, ""));
}

#[test]
fn memory_too_small_for_the_context_is_said_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.nsv");
    let wide = Tiny { layers: 16, head_dim: 256, context: 1 << 28, ..Tiny::default() };
    wide.write(&folder.path().join("source"));
    convert(&folder.path().join("source"), Encoding::F32, &model);
    let refused = |run: Run, words: &[&str]| {
        let run = run.expect(2);
        assert_eq!((run.stdout.as_str(), run.stderr.lines().count()), ("", 1), "{}", run.stderr);
        for word in [&["error: ", " needs ", "this process can get "], words].concat() {
            assert!(run.stderr.contains(word), "no {word} in {}", run.stderr);
        }
    };
    // 18 TB of keys and values, and half of that.
    let ctx = ["--ids", "1", "--ctx", "268435456"];
    let run = |more: &[&str]| nanoserve("run", [&[text(&model)], &ctx[..], more].concat());
    refused(run(&["--json"]), &["a context of 268435456 positions", "kv f16", "smaller --ctx", "GB"]);
    refused(run(&["--kv", "f16"]), &["values in f16", "smaller --ctx"]);
    refused(nanoserve("bench", [text(&model), "-q", "-n", "268000000"]), &["a context of 268000512 positions"]);
    let mut engine = Engine::open(&model, &EngineOptions::default()).unwrap();
    match engine.session(1 << 28, KvType::F32).unwrap_err() {
        RuntimeError::Memory { need, room, .. } => assert!(need > 18_000_000_000_000 && room < need, "{need} {room}"),
        other => panic!("{other}"),
    }

    // The same under a limit of half a gigabyte, with a context of twice that and one of some megabytes.
    let limited = |ctx: &str, more: &[&str]| {
        let args = [&[text(&model), "--ids", "1", "-n", "1", "-t", "2", "--ctx", ctx], more].concat();
        shell("ulimit -v 500000; exec \"$@\"", "run", &args)
    };
    refused(limited("16000", &[]), &["the limit on address space, ulimit -v"]);
    limited("64", &[]).expect(0);
    // A step as large as the context and a copy of a file are refused as well.
    let ids = vec!["1"; 20_000].join(",");
    let step = ["--ids", &ids, "--chunk", "20000", "-t", "1", "--kv", "f16"];
    refused(
        shell("ulimit -v 1000000; exec \"$@\"", "run", &[&[text(&model)], &step[..]].concat()),
        &["a step of 20000 tokens"],
    );
    let sparse = folder.path().join("sparse.nsv");
    File::create(&sparse).unwrap().set_len(1 << 30).unwrap();
    let copy = [text(&sparse), "--ids", "1", "--load", "huge"];
    refused(shell("ulimit -v 500000; exec \"$@\"", "run", &copy), &["a copy of ", "--load map"]);
}

#[test]
fn a_killed_conversions_remains_do_not_hinder_the_next() {
    // On a full disk: files left by a killed program are removed before space is needed.
    let remains = "head -c 3000000 /dev/zero > .out.AbCdEf.partial";
    let Some(run) = on_tmpfs("5m", remains, "convert", &[text(&demo()), "out", "-q", "--force"]) else { return };
    assert!(run.stdout.starts_with("code 0\nout\n"), "{}\n{}", &run.stdout[..40.min(run.stdout.len())], run.stderr);
}
