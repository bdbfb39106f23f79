//! Models from the Hub: `pull`, `convert ORG/NAME`, `run --hf`, `list` and `rm`, against a server that speaks its routes.

use nanoserve_tests::hub::{Files, Hub, commit, etag, files_of};
use nanoserve_tests::{Run, Terminal, command, fixture, namespace, program};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const REPO: &str = "some-org/Some-Model.1";
const WEIGHTS: &str = "model.safetensors";

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server and an empty home.
struct Scene {
    hub: Hub,
    home: TempDir,
}

impl Scene {
    fn new(files: Files) -> Scene {
        Scene { hub: Hub::start(REPO, files), home: tempfile::tempdir().unwrap() }
    }

    /// Of the model in weights/demo, and what a repository holds beside.
    fn demo() -> Scene {
        let mut files = files_of(&demo());
        for (name, bytes) in [(".gitattributes", "x"), ("pytorch_model.bin", "pickle"), ("onnx/config.json", "{}")] {
            files.insert(name.into(), bytes.into());
        }
        Scene::new(files)
    }

    /// `nanoserve` with a home of its own, and nothing else that could say where the Hub is.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = command("nanoserve", args);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_ascii_uppercase();
            let says = ["HF_", "HUGGING", "TRANSFORMERS_", "XDG_"].iter().any(|begin| text.starts_with(begin));
            if says || text.ends_with("_PROXY") || text.ends_with("_CA_BUNDLE") {
                command.env_remove(name);
            }
        }
        command.env_remove("XDG_CACHE_HOME");
        command.env("HOME", self.home.path()).env("HF_ENDPOINT", &self.hub.endpoint).current_dir(self.home.path());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        run(self.command(args))
    }

    fn with(&self, variables: &[(&str, &str)], args: &[&str]) -> Run {
        let mut command = self.command(args);
        command.envs(variables.iter().copied());
        run(command)
    }

    /// The model's folder in the cache.
    fn repo(&self) -> PathBuf {
        self.home.path().join(".cache/huggingface/hub/models--some-org--Some-Model.1")
    }

    fn snapshot(&self, number: usize) -> PathBuf {
        self.repo().join("snapshots").join(commit(number))
    }

    fn converted(&self, number: usize) -> PathBuf {
        let name = format!(".cache/nanoserve/models--some-org--Some-Model.1/{}-q8.nsv", commit(number));
        self.home.path().join(name)
    }

    fn weights(&self) -> Vec<u8> {
        self.hub.state().commits[&commit(1)][WEIGHTS].clone()
    }

    /// The bytes of the weights that have come, as long as some are missing.
    fn partial(&self) -> PathBuf {
        self.repo().join("blobs").join(etag(WEIGHTS, &self.weights()) + ".incomplete")
    }

    /// Adds a commit with another small file, and makes it `main`.
    fn second_commit(&self) {
        let mut state = self.hub.state();
        let mut files = state.commits[&commit(1)].clone();
        files.insert("generation_config.json".into(), br#"{"temperature": 0.5}"#.to_vec());
        state.commits.insert(commit(2), files);
        state.refs.insert("main".into(), commit(2));
        state.refs.insert("v1".into(), commit(1));
        state.refs.insert("refs/pr/3".into(), commit(2));
    }
}

fn run(mut command: Command) -> Run {
    let out = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("programs print UTF-8");
    Run { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// Names of the files below a folder, with what the links among them say.
fn tree(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().display().to_string();
        if path.symlink_metadata().unwrap().is_dir() {
            all.extend(tree(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else if let Ok(to) = fs::read_link(&path) {
            all.push(format!("{name} -> {}", to.display()));
        } else {
            all.push(name);
        }
    }
    all.sort();
    all
}

#[test]
fn a_model_comes_whole_and_only_what_a_conversion_reads() {
    let scene = Scene::demo();
    let run = scene.run(&["pull", REPO]).expect(0);
    assert_eq!(run.stdout, format!("{}\n", scene.snapshot(1).display()));
    assert!(
        run.stderr.starts_with(&format!("{REPO} at {}: 6 files, 6.79 MB to download\n", &commit(1)[..12])),
        "{}",
        run.stderr
    );
    assert!(run.stderr.ends_with(&format!("next: nanoserve convert {REPO} model.nsv\n")), "{}", run.stderr);
    let mut expected = vec!["refs/main".to_string()];
    for name in
        ["README.md", "config.json", "generation_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"]
    {
        let bytes = fs::read(demo().join(name)).unwrap();
        assert_eq!(fs::read(scene.snapshot(1).join(name)).unwrap(), bytes);
        let hash = etag(name, &bytes);
        expected.extend([format!("blobs/{hash}"), format!("snapshots/{}/{name} -> ../../blobs/{hash}", commit(1))]);
    }
    expected.sort();
    assert_eq!(tree(&scene.repo()), expected);
    assert_eq!(fs::read_to_string(scene.repo().join("refs/main")).unwrap(), commit(1));

    // What is there does not come again: one question, no file.
    scene.hub.asked();
    let again = scene.run(&["pull", REPO, "--json"]).expect(0);
    assert_eq!(again.json()["downloaded"], 0);
    let asked: Vec<String> = scene.hub.asked().into_iter().map(|asked| asked.what).collect();
    assert_eq!(asked, [format!("GET /api/models/{REPO}/revision/main")]);
    let quiet = scene.run(&["pull", REPO, "-q"]).expect(0);
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (run.stdout, ""));
}

#[test]
fn shards_come_by_the_index() {
    let mut files = files_of(&fixture("sharded").path);
    files.insert("model-00004-of-00003.safetensors".into(), b"of nothing".to_vec());
    files.insert("additional_chat_templates/tool use.jinja".into(), b"{{ x }}".to_vec());
    let scene = Scene::new(files.clone());
    scene.run(&["pull", REPO]).expect(0);
    let mut came: Vec<String> =
        tree(&scene.snapshot(1)).iter().map(|l| l.split(" -> ").next().unwrap().into()).collect();
    came.sort();
    let shards = (1..=3).map(|i| format!("model-0000{i}-of-00003.safetensors"));
    let beside = ["additional_chat_templates/tool use.jinja", "config.json", "model.safetensors.index.json"];
    let mut expected: Vec<String> = beside.map(str::to_string).into_iter().chain(shards).collect();
    expected.sort();
    assert_eq!(came, expected);
    for name in &came {
        assert_eq!(fs::read(scene.snapshot(1).join(name)).unwrap(), files[name], "{name}");
    }
    // The model has no vocabulary, which is known now: nobody is asked again.
    scene.hub.asked();
    scene.run(&["convert", REPO, "out.nsv"]).expect(0);
    assert_eq!(scene.hub.asked(), []);
}

#[test]
fn a_cut_connection_goes_on_where_it_was_cut() {
    let scene = Scene::demo();
    scene.hub.state().cut = Some((2_000_000, 2));
    scene.run(&["pull", REPO]).expect(0);
    assert_eq!(fs::read(scene.snapshot(1).join(WEIGHTS)).unwrap(), scene.weights());
    let ranges: Vec<_> =
        scene.hub.asked().into_iter().filter(|a| a.what.starts_with("GET /cdn/")).map(|asked| asked.range).collect();
    assert_eq!(ranges, [None, Some("bytes=2000000-".into()), Some("bytes=4000000-".into())]);
    assert!(!scene.partial().exists());
}

#[test]
fn the_next_try_goes_on_where_the_last_one_ended() {
    for no_ranges in [false, true] {
        let scene = Scene::demo();
        fs::create_dir_all(scene.partial().parent().unwrap()).unwrap();
        fs::write(scene.partial(), &scene.weights()[..3_000_000]).unwrap();
        scene.hub.state().no_ranges = no_ranges;
        scene.run(&["pull", REPO]).expect(0);
        assert_eq!(fs::read(scene.snapshot(1).join(WEIGHTS)).unwrap(), scene.weights());
        let ranges: Vec<_> = scene
            .hub
            .asked()
            .into_iter()
            .filter(|a| a.what.starts_with("GET /cdn/"))
            .map(|asked| asked.range)
            .collect();
        assert_eq!(ranges, [Some("bytes=3000000-".to_string())]);
    }
    // More than there should be, and all of it: neither asks for a range beyond the end.
    for extra in [0, 5] {
        let scene = Scene::demo();
        fs::create_dir_all(scene.partial().parent().unwrap()).unwrap();
        fs::write(scene.partial(), [scene.weights(), vec![0; extra]].concat()).unwrap();
        scene.run(&["pull", REPO]).expect(0);
        assert_eq!(fs::read(scene.snapshot(1).join(WEIGHTS)).unwrap(), scene.weights());
        let asked = scene.hub.asked();
        assert_eq!(asked.iter().filter(|a| a.what.starts_with("GET /cdn/")).count(), usize::from(extra > 0));
    }
}

#[test]
fn a_connection_that_never_comes_back_keeps_what_came() {
    let scene = Scene::demo();
    scene.hub.state().cut = Some((0, usize::MAX));
    fs::create_dir_all(scene.partial().parent().unwrap()).unwrap();
    fs::write(scene.partial(), &scene.weights()[..1000]).unwrap();
    let run = scene.run(&["pull", REPO]).expect(1);
    assert!(run.stderr.contains("the connection was cut; is the network there? What came is kept"), "{}", run.stderr);
    assert_eq!(fs::read(scene.partial()).unwrap(), &scene.weights()[..1000]);
    assert!(!scene.repo().join("refs/main").exists());
}

#[test]
fn wrong_bytes_are_removed() {
    for name in [WEIGHTS, "config.json"] {
        let scene = Scene::demo();
        scene.hub.state().corrupt = Some(name.into());
        let run = scene.run(&["pull", REPO]).expect(1);
        let expected = etag(name, &fs::read(demo().join(name)).unwrap());
        assert!(run.stderr.contains(&format!("error: {name}: the bytes that came have the hash ")), "{}", run.stderr);
        assert!(run.stderr.contains(&format!("the Hub says {expected}; they were removed")), "{}", run.stderr);
        assert!(tree(&scene.repo()).iter().all(|file| !file.contains(&expected)), "{:?}", tree(&scene.repo()));
        // The rest is there, and the next try needs this file alone.
        scene.hub.state().corrupt = None;
        scene.run(&["pull", REPO]).expect(0);
    }
    // What an earlier try left was damaged since.
    let scene = Scene::demo();
    fs::create_dir_all(scene.partial().parent().unwrap()).unwrap();
    fs::write(scene.partial(), [0; 1000]).unwrap();
    scene.run(&["pull", REPO]).expect(1);
    assert!(!scene.partial().exists());
    // More bytes than the Hub says.
    let scene = Scene::demo();
    scene.hub.state().size = Some(1000);
    let run = scene.run(&["pull", REPO]).expect(1);
    assert!(run.stderr.contains("more bytes come than the 1000 that the Hub says"), "{}", run.stderr);
    assert!(!scene.partial().exists());
}

#[test]
fn a_disk_without_room_is_told_before_a_byte_comes() {
    let scene = Scene::demo();
    scene.hub.state().size = Some(1 << 60);
    let run = scene.run(&["pull", REPO]).expect(1);
    assert!(run.stderr.contains("hub needs 1152921.50 TB more, and "), "{}", run.stderr);
    assert!(scene.hub.asked().iter().all(|asked| !asked.what.starts_with("GET /cdn/")));
    assert!(!scene.repo().exists());
}

/// What may be left by a `pull` that a disk has stopped: each file of the commit is whole, the revision is not noted, and
/// there are no files of other names than the cache has.
fn nothing_is_half_there(scene: &Scene, cache: &Path, files: &Files) {
    let repo = cache.join("models--some-org--Some-Model.1");
    if !repo.exists() {
        return;
    }
    for file in tree(&repo) {
        match file.split(" -> ").next().unwrap().strip_prefix(&format!("snapshots/{}/", commit(1))) {
            Some(name) => assert!(fs::read(scene.snapshot(1).join(name)).ok().as_ref() == files.get(name), "{file}"),
            None => {
                let blob = file.strip_prefix("blobs/").unwrap_or_else(|| panic!("{file} is left"));
                let name = blob.strip_suffix(".incomplete").unwrap_or(blob);
                assert!(files.iter().any(|(file, bytes)| etag(file, bytes) == name), "{file} is left");
            }
        }
    }
}

#[test]
fn a_disk_that_fills_up_keeps_what_came() {
    let files = files_of(&demo());
    // A limit on the size of a file, reached within one.
    let scene = Scene::new(files.clone());
    let pull = |scene: &Scene, prefix: &[&str], script: &str| {
        let plain = scene.command(&["pull", REPO]);
        let mut command = Command::new(prefix.first().copied().unwrap_or("sh"));
        command.args(&prefix[prefix.len().min(1)..]).args(if prefix.is_empty() { &[][..] } else { &["sh"][..] });
        command.args(["-c", script, "sh"]).arg(plain.get_program()).args(plain.get_args());
        plain.get_envs().for_each(|(name, value)| match value {
            Some(value) => _ = command.env(name, value),
            None => _ = command.env_remove(name),
        });
        run(command)
    };
    let limited = pull(&scene, &[], "ulimit -f 2000; exec \"$@\"").expect(1);
    let words = "HASH.incomplete: cannot write: File too large (os error 27); what came is kept: a limit on the size of files is \
                 set (ulimit -f), or the file system has one";
    assert!(limited.stderr.ends_with(&format!("{}\n", &words["HASH".len()..])), "{}", limited.stderr);
    nothing_is_half_there(&scene, scene.repo().parent().unwrap(), &files);
    assert!(fs::metadata(scene.partial()).unwrap().len() >= 1_000_000);
    scene.run(&["pull", REPO]).expect(0);

    // A file system that has room for just so many bytes or files. What is needed is told before; what its blocks and
    // folders take beside is not known then.
    let Some(unshare) = namespace() else { return };
    let need: usize = ["README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
        .iter()
        .chain(&[WEIGHTS])
        .map(|&name| files[name].len())
        .sum();
    let mut limits: Vec<String> = (5..30).map(|inodes| format!("size=64m,nr_inodes={inodes}")).collect();
    limits.extend((0..4).map(|more| format!("size={}", (need.next_multiple_of(4096)) + more * 4096)));
    limits.push("size=64m".into());
    let (mut stopped, mut went) = (0, 0);
    for limit in limits {
        let scene = Scene::new(files.clone());
        let (home, copy) = (scene.home.path().display(), tempfile::tempdir().unwrap());
        let script = format!(
            "mount -t tmpfs -o {limit} none {home} || exit 99; \"$@\"; code=$?; cp -a {home}/. {0}; exit $code",
            copy.path().display()
        );
        let run = pull(&scene, &unshare, &script);
        let mut scene = scene;
        scene.home = copy;
        if run.code == Some(0) {
            went += 1;
            assert_eq!(fs::read_to_string(scene.repo().join("refs/main")).unwrap(), commit(1), "{limit}");
        } else {
            stopped += 1;
            assert_eq!(run.code, Some(1), "{limit}: {}", run.stderr);
            let lines: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
            assert!(
                lines.len() == 1 && lines[0].contains("No space left on device (os error 28); what came is kept"),
                "{limit}: {}",
                run.stderr
            );
            nothing_is_half_there(&scene, &scene.home.path().join(".cache/huggingface/hub"), &files);
        }
    }
    assert!(stopped > 20 && went > 0, "{stopped} stopped, {went} went");
}

#[test]
fn refusals_say_what_to_do() {
    let scene = Scene::demo();
    let told = |variables: &[(&str, &str)], name: &str, code: i32, words: &[&str]| {
        let run = scene.with(variables, &["pull", name]).expect(code);
        assert!(run.stderr.starts_with("error: ") && run.stdout.is_empty(), "{}", run.stderr);
        words.iter().for_each(|words| assert!(run.stderr.contains(words), "{words}: {}", run.stderr));
    };
    let host = scene.hub.endpoint.strip_prefix("http://").unwrap().to_string();
    told(&[], "some-org/none", 2, &[&format!("{host} has no model some-org/none; a private one needs your token")]);
    told(&[], &format!("{REPO}:v9"), 2, &["has no branch, tag or commit 'v9'"]);
    told(&[], &format!("{REPO}:Q4_K_M"), 2, &["what follows the colon is a revision", "--dtype"]);
    told(&[], "a/../b", 2, &["expected ORG/NAME or ORG/NAME:REVISION"]);
    told(&[("HF_ENDPOINT", "ftp://x")], REPO, 2, &["HF_ENDPOINT is 'ftp://x'"]);
    told(&[("HF_TOKEN", "a b")], REPO, 2, &["a character that no token has"]);
    told(&[("SSL_CERT_FILE", "/nowhere")], REPO, 2, &["/nowhere: cannot read certificates"]);
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    told(&[("HF_ENDPOINT", &format!("http://{gone}"))], REPO, 1, &["onnection refused", "is the network there?"]);

    scene.hub.state().token = Some("hf_right".into());
    told(&[], REPO, 2, &["is gated: accept its terms at", &format!("/{REPO} with"), "give it as HF_TOKEN"]);
    told(&[("HF_TOKEN", "hf_other")], REPO, 2, &["is gated", "the token that was sent is of an account that has not"]);
    scene.hub.state().code = "RepoNotFound";
    told(&[], REPO, 2, &["has no model", "a private one needs your token"]);
    told(&[("HF_TOKEN", "hf_other")], REPO, 2, &["has no model", "or not for your token's account"]);
    scene.hub.state().code = "";
    told(&[("HF_TOKEN", "hf_other")], REPO, 2, &["does not know your token"]);

    let run = scene.with(&[("HF_TOKEN", "hf_right")], &["pull", REPO]).expect(0);
    assert!(run.stdout.contains(&commit(1)));
    for asked in scene.hub.asked() {
        // The token goes to the Hub alone, not where its files lie.
        assert!(
            !asked.what.contains("/cdn/") || asked.token.is_none() && asked.host.starts_with("localhost"),
            "{asked:?}"
        );
    }
}

#[test]
fn the_token_is_that_of_the_login() {
    let scene = Scene::demo();
    scene.hub.state().token = Some("hf_right".into());
    fs::create_dir_all(scene.home.path().join(".cache/huggingface")).unwrap();
    fs::write(scene.home.path().join(".cache/huggingface/token"), "hf_right\n").unwrap();
    scene.run(&["pull", REPO]).expect(0);
}

#[test]
fn a_busy_server_is_asked_again() {
    let scene = Scene::demo();
    scene.hub.state().busy = 3;
    scene.run(&["pull", REPO]).expect(0);
    scene.hub.state().busy = 100;
    let run = scene.run(&["pull", REPO]).expect(1);
    assert!(run.stderr.contains("the server answers 503"), "{}", run.stderr);
}

#[test]
fn revisions_are_branches_tags_and_commits() {
    let scene = Scene::demo();
    scene.run(&["pull", REPO]).expect(0);
    scene.second_commit();
    for (revision, number) in [("main", 2), ("v1", 1), ("refs/pr/3", 2), (commit(1).as_str(), 1)] {
        let run = scene.run(&["pull", &format!("{REPO}:{revision}")]).expect(0);
        assert_eq!(run.stdout.trim(), text(&scene.snapshot(number)), "{revision}");
    }
    let refs: Vec<String> = tree(&scene.repo().join("refs"));
    assert_eq!(refs, ["main", "refs/pr/3", "v1"]);
    // One file is another: the rest is shared.
    assert_eq!(fs::read_dir(scene.repo().join("blobs")).unwrap().count(), 7);
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let scene = Scene::demo();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let missing = scene.with(&offline, &["pull", REPO]).expect(2);
    assert!(
        missing.stderr.contains("is not in the cache") && missing.stderr.contains("HF_HUB_OFFLINE"),
        "{}",
        missing.stderr
    );
    for args in [&["convert", REPO, "x.nsv", "--yes"][..], &["run", "-hf", REPO, "--yes", "-p", "a"]] {
        assert!(scene.with(&offline, args).expect(2).stderr.contains("HF_HUB_OFFLINE is set"));
    }
    assert_eq!(scene.hub.asked(), []);
    scene.run(&["pull", REPO]).expect(0);
    scene.hub.asked();
    let run = scene.with(&offline, &["pull", REPO]).expect(0);
    assert_eq!(run.stdout.trim(), text(&scene.snapshot(1)));
    scene.with(&offline, &["convert", REPO, "x.nsv"]).expect(0);
    scene.with(&offline, &["run", "-hf", REPO, "-p", "ROMEO:", "-n", "2"]).expect(0);
    // Weights that are not whole do not count.
    fs::remove_file(scene.snapshot(1).join(WEIGHTS)).unwrap();
    scene.with(&offline, &["pull", REPO]).expect(2);
    assert_eq!(scene.hub.asked(), []);
}

#[test]
fn a_name_converts_to_the_bytes_of_its_folder() {
    let scene = Scene::demo();
    let refused = scene.run(&["convert", REPO, "out.nsv"]).expect(2);
    assert!(
        refused.stderr.contains("is no folder here and no model in the cache; it would be downloaded from 127.0.0.1"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("give --yes to go on without a question"), "{}", refused.stderr);
    assert_eq!((scene.hub.asked(), scene.repo().exists()), (vec![], false));

    let run = scene.run(&["convert", REPO, "out.nsv", "--yes"]).expect(0);
    assert!(run.stdout.starts_with("out.nsv is 3.78 MB"), "{}", run.stdout);
    let folder = demo();
    scene.run(&["convert", text(&folder), "folder.nsv"]).expect(0);
    let bytes = |name: &str| fs::read(scene.home.path().join(name)).unwrap();
    assert!(bytes("out.nsv") == bytes("folder.nsv"));
    scene.run(&["convert", "--check", REPO, "out.nsv"]).expect(0);

    // From the cache, without a question and without the network.
    scene.hub.asked();
    scene.run(&["convert", REPO, "again.nsv", "-q"]).expect(0);
    assert_eq!(scene.hub.asked(), []);
    assert!(bytes("again.nsv") == bytes("folder.nsv"));

    // A folder of that name is a folder.
    fs::create_dir_all(scene.home.path().join(REPO)).unwrap();
    let empty = scene.run(&["convert", REPO, "again.nsv"]).expect(2);
    assert!(empty.stderr.contains("config.json"), "{}", empty.stderr);
    let other = scene.run(&["convert", "some-org/none", "again.nsv", "--yes"]).expect(2);
    assert!(other.stderr.contains("has no model some-org/none"), "{}", other.stderr);
}

#[test]
fn a_terminal_is_asked() {
    let scene = Scene::demo();
    for (answer, goes) in [("n\n", false), ("\x04", false), ("what\n", false), ("\n", true)] {
        let mut terminal = Terminal::start(scene.command(&["convert", REPO, "out.nsv"]), 200);
        terminal.expect("6.79 MB to download, from 127.0.0.1");
        terminal.expect("Go on? [Y/n] ");
        terminal.send(answer);
        let code = terminal.wait().code();
        assert_eq!(
            (code, scene.home.path().join("out.nsv").exists()),
            (Some(if goes { 0 } else { 1 }), goes),
            "{answer:?}"
        );
    }
    let mut terminal = Terminal::start(scene.command(&["rm", REPO]), 200);
    terminal.expect("(from the hub): 6.79 MB? [y/N] ");
    terminal.send("\n");
    assert_eq!(terminal.wait().code(), Some(1));
    assert!(scene.snapshot(1).exists());
    let mut terminal = Terminal::start(scene.command(&["rm", REPO]), 200);
    terminal.expect("[y/N] ");
    terminal.send("y\n");
    terminal.expect("6.79 MB freed");
    assert_eq!(terminal.wait().code(), Some(0));
    assert!(!scene.repo().exists());
}

#[test]
fn ctrl_c_keeps_what_came() {
    let scene = Scene::demo();
    scene.hub.state().hang = Some(2_000_000);
    let mut shown = "2.09 MB/6.79 MB";
    for args in [&["pull", REPO][..], &["convert", REPO, "out.nsv", "--yes"], &["run", "-hf", REPO, "--yes", "-p", "a"]]
    {
        let mut terminal = Terminal::start(scene.command(args), 120);
        // The server keeps the connection, and sends no more.
        terminal.expect(shown);
        terminal.send("\x03");
        terminal.expect("error: stopped; what came is kept: the same command goes on from it");
        assert_eq!(terminal.wait().code(), Some(130));
        assert!(terminal.is_sane());
        assert_eq!(fs::metadata(scene.partial()).unwrap().len(), 2_000_000);
        assert!(!scene.home.path().join("out.nsv").exists());
        // The next one goes on, and waits for the first byte.
        (scene.hub.state().hang, shown) = (Some(0), "2.00 MB/6.69 MB");
    }
    let listed = scene.run(&["list", "--json"]).expect(0).json();
    assert_eq!((&listed[1]["kind"], &listed[1]["bytes"]), (&"partial".into(), &2_000_000.into()));
    scene.hub.state().hang = None;
    scene.hub.asked();
    scene.run(&["pull", REPO]).expect(0);
    assert!(scene.hub.asked().iter().any(|asked| asked.range.as_deref() == Some("bytes=2000000-")));
}

#[test]
fn a_model_runs_by_its_name() {
    let scene = Scene::demo();
    let prompt = ["-p", "ROMEO:", "-n", "8", "--temperature", "0", "-q"];
    let by_name = |more: &[&str]| scene.run(&[&["run", "-hf", REPO][..], &prompt, more].concat());
    let refused = by_name(&[]).expect(2);
    assert!(
        refused.stderr.contains("give --yes to go on without a question") && scene.hub.asked().is_empty(),
        "{}",
        refused.stderr
    );
    let first = by_name(&["--yes"]).expect(0);
    assert_eq!(first.stderr, "");
    // The file is that of a conversion.
    let (folder, file) = (demo(), scene.converted(1));
    scene.run(&["convert", text(&folder), "folder.nsv", "-q"]).expect(0);
    assert!(fs::read(&file).unwrap() == fs::read(scene.home.path().join("folder.nsv")).unwrap());
    assert_eq!(first.stdout, scene.run(&[&["run", "folder.nsv"][..], &prompt].concat()).expect(0).stdout);
    // The next start converts and asks nothing, and needs neither sources nor network.
    scene.hub.asked();
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    scene.run(&["rm", REPO, "--only", "hub", "--yes"]).expect(0);
    assert!(!scene.repo().exists());
    assert_eq!(by_name(&[]).expect(0).stdout, first.stdout);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
    assert_eq!(scene.hub.asked(), []);
    // Told where standard error is looked at; another spelling, another command.
    scene.run(&["rm", REPO, "--yes"]).expect(0);
    let chat = scene.run(&["chat", "--hf", &format!("{REPO}:main"), "--yes", "-p", "Hi", "--single-turn"]);
    assert!(chat.stderr.contains("converting "), "{}", chat.stderr);
    // A newer one that was pulled is what is meant.
    scene.second_commit();
    scene.run(&["pull", REPO]).expect(0);
    by_name(&[]).expect(0);
    assert!(scene.converted(2).exists());

    let both = scene.run(&["run", "-hf", REPO, "folder.nsv", "-p", "a"]).expect(2);
    assert!(both.stderr.contains("cannot be used with"), "{}", both.stderr);
    let neither = scene.run(&["run", "-p", "a"]).expect(2);
    assert!(neither.stderr.contains("<MODEL>"), "{}", neither.stderr);
    let yes = scene.run(&["run", "folder.nsv", "--yes", "-p", "a"]).expect(2);
    assert!(yes.stderr.contains("--hf"), "{}", yes.stderr);
}

#[test]
fn the_list_shows_both_kinds() {
    let scene = Scene::demo();
    let nothing = scene.run(&["list"]).expect(0);
    assert!(nothing.stdout.is_empty() && nothing.stderr.contains("nanoserve pull ORG/NAME"), "{}", nothing.stderr);
    assert_eq!(scene.run(&["list", "--json"]).expect(0).stdout, "[]\n");
    scene.run(&["run", "-hf", REPO, "--yes", "-p", "a", "-n", "1"]).expect(0);
    scene.second_commit();
    scene.run(&["pull", REPO]).expect(0);
    let list = scene.run(&["list"]).expect(0).stdout;
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 5, "{list}");
    assert_eq!(lines[0], ["NAME", "REVISION", "KIND", "SIZE", "USED"]);
    let (one, two) = (&commit(1)[..12], &commit(2)[..12]);
    assert_eq!(lines[1], [REPO, one, "(main)", "converted", "3.78", "MB", "now"]);
    assert_eq!(lines[2], [REPO, one, "hub", "6.79", "MB", "now"]);
    assert_eq!(lines[3], [REPO, two, "(main)", "hub", "6.79", "MB", "now"]);
    // Most of the two is one.
    assert_eq!(lines[4][..2], ["10.56", "MB"]);
    let json = scene.run(&["list", "--json"]).expect(0).json();
    assert_eq!(json[2]["commit"], commit(2));
    assert_eq!(json[2]["path"], text(&scene.snapshot(2)));
}

#[test]
fn removing_a_revision_keeps_what_others_use() {
    let scene = Scene::demo();
    scene.run(&["run", "-hf", REPO, "--yes", "-p", "a", "-n", "1"]).expect(0);
    scene.second_commit();
    scene.run(&["pull", REPO]).expect(0);
    let refused = scene.run(&["rm", REPO]).expect(2);
    assert!(refused.stderr.contains("give --yes to go on without a question"), "{}", refused.stderr);
    for name in ["some-org/none", &format!("{REPO}:v9"), &format!("{REPO}:111")] {
        let run = scene.run(&["rm", name, "--yes"]).expect(2);
        assert!(run.stderr.contains("is not in the cache: nanoserve list"), "{}", run.stderr);
    }
    // As the list shows it: the second commit's own file goes, and nothing of the first.
    scene.run(&["rm", &format!("{REPO}:{}", &commit(2)[..12]), "--yes"]).expect(0);
    assert!(!scene.snapshot(2).exists() && !scene.repo().join("refs/main").exists());
    assert_eq!(fs::read_dir(scene.repo().join("blobs")).unwrap().count(), 6);
    for name in fs::read_dir(scene.snapshot(1)).unwrap() {
        assert!(name.unwrap().path().exists());
    }
    assert!(scene.converted(1).exists());
    let run = scene.run(&["rm", REPO, "--yes"]).expect(0);
    assert!(run.stderr.ends_with("10.56 MB freed\n"), "{}", run.stderr);
    let cache = scene.home.path().join(".cache");
    assert_eq!(tree(&cache), ["huggingface/hub/CACHEDIR.TAG"]);
}

#[test]
fn no_link_is_followed_out_of_the_cache() {
    let scene = Scene::demo();
    let outside = tempfile::tempdir().unwrap();
    let kept = outside.path().join("kept/blobs");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("file"), "mine").unwrap();
    let is_kept = || fs::read_to_string(kept.join("file")).unwrap() == "mine";

    // Links among the files go, what they lead to stays.
    scene.run(&["pull", REPO]).expect(0);
    scene.second_commit();
    scene.run(&["pull", REPO]).expect(0);
    for snapshot in [scene.snapshot(1), scene.snapshot(2)] {
        symlink(kept.join("file"), snapshot.join("a-file")).unwrap();
        symlink(&kept, snapshot.join("a-folder")).unwrap();
    }
    scene.run(&["rm", &format!("{REPO}:main"), "--yes"]).expect(0);
    assert!(is_kept() && !scene.snapshot(2).exists());
    scene.run(&["rm", REPO, "--yes"]).expect(0);
    assert!(is_kept() && !scene.repo().exists());

    // A link in the place of a folder is refused.
    for below in ["", "blobs", "snapshots", "refs"] {
        let _ = fs::remove_file(scene.repo()).or_else(|_| fs::remove_dir_all(scene.repo()));
        let at = scene.repo().join(below);
        if below.is_empty() {
            fs::create_dir_all(at.parent().unwrap()).unwrap()
        } else {
            fs::create_dir_all(scene.repo()).unwrap()
        }
        symlink(outside.path().join("kept"), scene.repo().join(below).components().collect::<PathBuf>()).unwrap();
        let run = scene.run(&["rm", REPO, "--yes"]).expect(2);
        assert!(run.stderr.contains("is a link that leads out of the cache") && is_kept(), "{below}: {}", run.stderr);
    }
}

#[test]
fn two_programs_do_not_write_one_file() {
    let scene = Scene::demo();
    scene.run(&["pull", REPO]).expect(0);
    let locks = scene.repo().parent().unwrap().join(".locks/models--some-org--Some-Model.1");
    let lock = File::open(locks.join(etag(WEIGHTS, &scene.weights()) + ".lock")).unwrap();
    lock.lock().unwrap();
    let run = scene.run(&["rm", REPO, "--yes"]).expect(1);
    assert!(run.stderr.contains("another program is downloading here"), "{}", run.stderr);
    fs::remove_file(scene.snapshot(1).join(WEIGHTS)).unwrap();
    let run = scene.run(&["pull", REPO]).expect(1);
    assert!(run.stderr.contains("another program is downloading here"), "{}", run.stderr);
    drop(lock);
    scene.run(&["pull", REPO]).expect(0);
}

/// Hugging Face's own tool takes what `pull` brought, `pull` what it brought, and both lay it out alike. Needs a Python that has
/// it: `NANOSERVE_PYTHON=venv/bin/python`.
#[test]
fn the_cache_is_that_of_hugging_faces_own_tool() {
    let Some(python) = std::env::var_os("NANOSERVE_PYTHON") else {
        println!("SKIPPED: NANOSERVE_PYTHON names no Python with huggingface_hub");
        return;
    };
    let script = "import sys\nfrom huggingface_hub import snapshot_download, scan_cache_dir\n\
                  files = ['README.md', 'config.json', 'generation_config.json', 'model.safetensors', 'tokenizer*.json']\n\
                  print(snapshot_download(sys.argv[1], revision=sys.argv[2], allow_patterns=files))\n\
                  print(scan_cache_dir().warnings)";
    let theirs = |scene: &Scene, variables: &[(&str, &str)]| {
        let mut command = Command::new(&python);
        command
            .args(["-c", script, REPO, "main"])
            .env("HOME", scene.home.path())
            .env("HF_ENDPOINT", &scene.hub.endpoint);
        command.env_remove("HF_HOME").env_remove("HF_HUB_CACHE").env("HF_HUB_DISABLE_TELEMETRY", "1");
        command.envs(variables.iter().copied());
        let run = run(command).expect(0);
        assert!(run.stdout.ends_with("\n[]\n"), "{}", run.stdout);
        run.stdout.lines().next().unwrap().to_string()
    };
    let gets = |scene: &Scene| scene.hub.asked().iter().filter(|a| a.what.starts_with("GET /cdn/")).count();
    // The list of all files, which it keeps beside, is its own.
    let layout = |scene: &Scene| {
        let cache = scene.repo().parent().unwrap().to_path_buf();
        tree(&cache).into_iter().filter(|file| !file.contains("/trees/")).collect::<Vec<_>>()
    };

    let ours_first = Scene::demo();
    let folder = ours_first.run(&["pull", REPO]).expect(0).stdout;
    assert_eq!(gets(&ours_first), 1);
    let ours = layout(&ours_first);
    assert_eq!(theirs(&ours_first, &[("HF_HUB_OFFLINE", "1")]), folder.trim());
    assert_eq!(theirs(&ours_first, &[]), folder.trim());
    assert_eq!((gets(&ours_first), layout(&ours_first)), (0, ours.clone()));

    let theirs_first = Scene::demo();
    assert_eq!(theirs(&theirs_first, &[]), text(&theirs_first.snapshot(1)));
    assert_eq!(gets(&theirs_first), 1);
    assert_eq!(layout(&theirs_first), ours);
    assert_eq!(theirs_first.run(&["pull", REPO, "--json"]).expect(0).json()["downloaded"], 0);
    assert_eq!(gets(&theirs_first), 0);
    theirs_first.run(&["convert", REPO, "out.nsv"]).expect(0);
    theirs_first.run(&["rm", REPO, "--yes"]).expect(0);
    assert!(!theirs_first.repo().exists());
    assert!(program("nanoserve").exists());
}
