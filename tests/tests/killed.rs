//! A conversion that is killed or interrupted at any moment leaves the old file, the whole new one, or none.

use nanoserve_converter::{ConvertError, Options, Progress, Step};
use nanoserve_format::Encoding;
use nanoserve_tests::{SplitMix64, Tiny, command, nanoserve, program, thorough};
use rustix::process::{Pid, Signal};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A checkpoint of 42 MB, the file converted from it, and a folder to work in.
struct Scene {
    folder: TempDir,
    new: Vec<u8>,
}

const OLD: &[u8] = b"\x89NSV\r\n\x1a\nthe file of before";

/// How many times a conversion is ended at a random moment.
fn rounds() -> u32 {
    if thorough() { 200 } else { 60 }
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Tiny { hidden: 512, intermediate: 1408, vocab: 8192, tied: true, ..Tiny::default() };
        tiny.write(&folder.path().join("source"));
        fs::create_dir(folder.path().join("out")).unwrap();
        let reference = folder.path().join("reference.nsv");
        // Made with the program, which has a last step that the library does not have.
        let arguments = [folder.path().join("source"), reference.clone()];
        assert!(command("nanoserve-convert", arguments).arg("-q").status().unwrap().success());
        let new = fs::read(&reference).unwrap();
        assert!(new.len() > 7_000_000);
        Scene { folder, new }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out/model.nsv")
    }

    fn start(&self) -> Child {
        let mut command = command("nanoserve-convert", [self.source(), self.out()]);
        // One thread takes longer, which gives more moments to kill it.
        command.args(["-t", "1"]).spawn().unwrap()
    }

    /// Names in the output's folder, except the output.
    fn siblings(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path().join("out")).unwrap();
        names.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|n| n != "model.nsv").collect()
    }

    /// What the output's name refers to: the old file, the new one, or none. Anything else fails.
    fn state(&self, had_old: bool) -> &'static str {
        match fs::read(self.out()) {
            Ok(bytes) if bytes == self.new => "new",
            Ok(bytes) if had_old && bytes == OLD => "old",
            Err(e) if !had_old && e.kind() == std::io::ErrorKind::NotFound => "none",
            Ok(bytes) => panic!("{} bytes under the output's name are neither the old file nor the new", bytes.len()),
            Err(e) => panic!("the old file is gone: {e}"),
        }
    }

    /// Checks what an interrupted conversion has left and returns its exit code; None if the signal itself ended it.
    fn interrupted(&self, child: Child, had_old: bool) -> Option<i32> {
        let out = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
        match out.status.code() {
            // It had finished.
            Some(0) => assert_eq!(self.state(had_old), "new"),
            // It stopped. Before its handler is installed, the signal itself ends it.
            Some(130) | None => assert_ne!(self.state(had_old), "new"),
            other => panic!("exit code {other:?}: {stderr}"),
        }
        assert_eq!(self.siblings(), [] as [&str; 0], "{stderr}");
        out.status.code()
    }

    /// Prepares the output's folder with the old file or without.
    fn set_up(&self, old: bool) {
        let _ = fs::remove_file(self.out());
        if old {
            fs::write(self.out(), OLD).unwrap();
        }
    }
}

fn wait_for(child: &mut Child, condition: impl Fn() -> bool) {
    while !condition() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success() || sent.code() == Some(1));
}

/// How long a conversion takes, used to spread the interruptions over it.
fn whole(scene: &Scene) -> Duration {
    let time = |_| {
        let start = Instant::now();
        assert!(scene.start().wait().unwrap().success());
        start.elapsed()
    };
    (0..4).map(time).min().expect("four times")
}

#[test]
fn killed_at_any_moment_it_leaves_no_partial_file_under_the_name() {
    let scene = Scene::new();
    let whole = whole(&scene);
    let (rounds, mut random) = (rounds(), SplitMix64::new(11));
    let (mut new, mut writing) = (0, 0);
    for i in 0..rounds {
        let had_old = i % 2 == 0;
        scene.set_up(had_old);
        let before = scene.siblings();
        let mut child = scene.start();
        std::thread::sleep(whole.mul_f64((f64::from(i) + random.unit()) / f64::from(rounds + 1)));
        let _ = child.kill();
        child.wait().unwrap();
        new += u32::from(scene.state(had_old) == "new");
        // At most one temporary file of its own: earlier ones are removed before the next is made.
        let left = scene.siblings();
        assert!(left.len() <= 1, "{left:?}");
        writing += u32::from(left.iter().any(|name| !before.contains(name)));
    }
    println!("of {rounds}, over {whole:?}: {writing} were killed while they wrote, {new} were done before");
    assert!(writing >= rounds / 8, "only {writing} of {rounds} were killed while they wrote: too few to tell");
    // The next conversion works, and removes what the killed ones left.
    scene.set_up(true);
    assert!(scene.start().wait().unwrap().success());
    assert_eq!(scene.state(true), "new");
    assert_eq!(scene.siblings(), [] as [&str; 0]);
    nanoserve("inspect", [scene.out().as_os_str(), "--check".as_ref()]).expect(0);
}

#[test]
fn interrupted_at_any_moment_it_leaves_nothing() {
    let scene = Scene::new();
    let whole = whole(&scene);
    let (rounds, mut random) = (rounds(), SplitMix64::new(12));
    let (mut stopped, mut early, mut new) = (0, 0, 0);
    for i in 0..rounds {
        let had_old = i % 2 == 0;
        scene.set_up(had_old);
        let child = scene.start();
        std::thread::sleep(whole.mul_f64((f64::from(i) + random.unit()) / f64::from(rounds + 1)));
        interrupt(&child);
        match scene.interrupted(child, had_old) {
            Some(130) => stopped += 1,
            Some(_) => new += 1,
            None => early += 1,
        }
    }
    println!("of {rounds}, over {whole:?}: {stopped} stopped, {early} were not yet listening, {new} were done before");
    assert!(stopped >= rounds / 8, "only {stopped} of {rounds} were stopped at work: too few to tell");
}

#[test]
fn stale_temporary_files_are_cleaned_and_those_in_use_are_not() {
    let scene = Scene::new();
    let folder = scene.folder.path().join("out");
    let (stale, used) = (folder.join(".model.nsv.AbCdEf.partial"), folder.join(".model.nsv.GhIjKl.partial"));
    for path in [&stale, &used, &folder.join(".other.nsv.AbCdEf.partial"), &folder.join("model.nsv.partial")] {
        fs::write(path, "half").unwrap();
    }
    // Another conversion is still using this one.
    let lock = fs::File::open(&used).unwrap();
    lock.lock().unwrap();
    assert!(scene.start().wait().unwrap().success());
    assert_eq!(scene.state(false), "new");
    assert!(!stale.exists(), "what a killed conversion left is still there");
    assert_eq!(scene.siblings().len(), 3, "{:?}: files of others were removed", scene.siblings());
    drop(lock);
    assert!(scene.start().wait().unwrap().success());
    assert!(!used.exists());
}

#[test]
fn interrupted_it_leaves_nothing() {
    let scene = Scene::new();
    let mut stopped = 0;
    for i in 0..6 {
        let had_old = i % 2 == 0;
        scene.set_up(had_old);
        let mut child = scene.start();
        // Interrupts as soon as its temporary file exists, on even turns a moment later.
        if i < 4 {
            wait_for(&mut child, || !scene.siblings().is_empty());
        } else {
            std::thread::sleep(Duration::from_millis(30));
        }
        interrupt(&child);
        stopped += u32::from(scene.interrupted(child, had_old) == Some(130));
    }
    println!("{stopped} of 6 were stopped");
}

/// What a system sends to a program that is to end, and a user who does not want to wait.
#[test]
fn ended_by_a_signal_it_leaves_nothing() {
    let scene = Scene::new();
    let whole = whole(&scene);
    let mut random = SplitMix64::new(13);
    for (signal, times, code) in [("-TERM", 1, 143), ("-HUP", 1, 129), ("-INT", 2, 130)] {
        let mut ended = 0;
        for i in 0..24 {
            let had_old = i % 2 == 0;
            scene.set_up(had_old);
            let mut child = scene.start();
            // Most while there is a temporary file, some at any time.
            match i % 4 {
                0 => std::thread::sleep(whole.mul_f64(random.unit())),
                _ => wait_for(&mut child, || !scene.siblings().is_empty()),
            }
            for _ in 0..times {
                let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
            }
            let out = child.wait_with_output().unwrap();
            match out.status.code() {
                Some(0) => assert_eq!(scene.state(had_old), "new"),
                // The signal itself ended it, before it listened.
                None => assert_ne!(scene.state(had_old), "new"),
                // It may have come when all was written.
                got => {
                    assert_eq!(got, Some(code), "{}", String::from_utf8_lossy(&out.stderr));
                    scene.state(had_old);
                    ended += 1;
                }
            }
            assert_eq!(scene.siblings(), [] as [&str; 0], "{signal}");
        }
        assert!(ended >= 6, "only {ended} of 24 were ended at work by {signal}");
    }
}

/// Two that write to one name at once: each has a file of its own, takes none of the other's for a leftover, and ends well.
#[test]
fn two_conversions_into_one_place_both_end_well() {
    let scene = Scene::new();
    for i in 0..6 {
        let had_old = i % 2 == 0;
        scene.set_up(had_old);
        // A pipe in the place of a leftover is not waited for.
        let pipe = scene.out().with_file_name(".model.nsv.AbCdEf.partial");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let both = [scene.start(), scene.start()];
        for child in both {
            let out = child.wait_with_output().unwrap();
            assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
        }
        assert_eq!(scene.state(had_old), "new");
        assert_eq!(scene.siblings(), [".model.nsv.AbCdEf.partial"]);
        fs::remove_file(pipe).unwrap();
    }
}

/// A repair that is ended leaves the damaged file as it was, or the whole one; what a killed one leaves, the next removes.
#[test]
fn an_interrupted_repair_leaves_the_damaged_file_or_the_whole_one() {
    let scene = Scene::new();
    let mut damaged = scene.new.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let repair = || {
        let copy = scene.folder.path().join("reference.nsv");
        let args = ["repair".into(), scene.out().into_os_string(), "--from".into(), copy.into_os_string(), "-q".into()];
        command("nanoserve-inspect", args).spawn().unwrap()
    };
    for (signal, code) in
        [(Signal::TERM, Some(143)), (Signal::HUP, Some(129)), (Signal::INT, Some(130)), (Signal::KILL, None)]
    {
        let mut ended = 0;
        for _ in 0..12 {
            fs::write(scene.out(), &damaged).unwrap();
            let before = scene.siblings();
            let mut child = repair();
            wait_for(&mut child, || scene.siblings().iter().any(|name| !before.contains(name)));
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(Pid::from_child(&child), signal);
            let out = child.wait_with_output().unwrap();
            if out.status.code() != Some(0) {
                assert_eq!(out.status.code(), code, "{}", String::from_utf8_lossy(&out.stderr));
                ended += 1;
            }
            let left = fs::read(scene.out()).unwrap();
            assert!(left == damaged || left == scene.new, "{signal:?}: {} bytes", left.len());
            assert!(
                scene.siblings().len() <= usize::from(signal == Signal::KILL),
                "{signal:?}: {:?}",
                scene.siblings()
            );
        }
        println!("{signal:?} ended {ended} of 12 at work");
        assert!(ended > 0, "none was ended at work by {signal:?}: too few to tell");
    }
    fs::write(scene.out(), &damaged).unwrap();
    assert_eq!(repair().wait().unwrap().code(), Some(0));
    assert_eq!((scene.state(false), scene.siblings()), ("new", Vec::new()));
}

/// `nohup` ignores SIGHUP for what it starts.
#[test]
fn a_hangup_that_is_ignored_stays_so() {
    let scene = Scene::new();
    scene.set_up(false);
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" -q -t 1 \"$1\" \"$2\""])
        .args([program("nanoserve-convert"), scene.source(), scene.out()])
        .spawn()
        .unwrap();
    wait_for(&mut child, || !scene.siblings().is_empty());
    let _ = Command::new("kill").args(["-HUP", &child.id().to_string()]).stderr(Stdio::null()).status();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(scene.state(false), "new");
}

/// Asks to stop after a given number of calls.
struct StopAt<'a> {
    calls: AtomicU64,
    at: u64,
    cancel: &'a AtomicBool,
}

impl StopAt<'_> {
    fn call(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            self.cancel.store(true, Ordering::SeqCst);
        }
    }
}

impl Progress for StopAt<'_> {
    fn begin(&self, _: Step, _: u64) {
        self.call();
    }

    fn advance(&self, _: u64) {
        self.call();
    }
}

#[test]
fn cancelled_at_any_step_it_leaves_what_was_there() {
    let scene = Scene::new();
    let cancelled = |at: u64, output: &Path| {
        let cancel = AtomicBool::new(false);
        let progress = StopAt { calls: AtomicU64::new(0), at, cancel: &cancel };
        let mut options = Options::new(scene.source(), output, Encoding::Q8);
        options.threads = Some(2);
        let result = nanoserve_converter::convert(&options, &progress, &cancel);
        (result, progress.calls.load(Ordering::SeqCst))
    };
    scene.set_up(true);
    let (done, calls) = cancelled(u64::MAX, &scene.out());
    done.unwrap();
    assert!(calls > 20, "progress was told {calls} times");
    let mut stopped = 0;
    // The last call begins the step that is not interrupted.
    for at in (0..calls - 1).step_by((calls as usize / 12).max(1)) {
        let had_old = at % 2 == 0;
        scene.set_up(had_old);
        match cancelled(at, &scene.out()).0 {
            Err(ConvertError::Cancelled) => {
                assert_ne!(scene.state(had_old), "new");
                stopped += 1;
            }
            Ok(_) => assert_eq!(scene.state(had_old), "new"),
            Err(e) => panic!("{e}"),
        }
        assert_eq!(scene.siblings(), [] as [&str; 0], "stopped at call {at}");
    }
    assert!(stopped >= 6, "only {stopped} were stopped");
}
