//! A server that speaks the Hub's routes, on a thread of the test.
//!
//! Small files are git's: their ETag is git's SHA-1, and they lie behind a redirect on the same host. Files of weights are
//! LFS's: their hash is in `X-Linked-Etag`, and they lie on another host (`localhost` in place of `127.0.0.1`), which must
//! not see the token. Faults are switched on for a test.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// The files of a commit, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What the server has, what is wrong with it, and what it was asked.
#[derive(Debug, Default)]
pub struct State {
    /// The name of the only model.
    pub repo: String,
    /// Its commits.
    pub commits: BTreeMap<String, Files>,
    /// Its branches and tags.
    pub refs: BTreeMap<String, String>,
    /// Only who sends this token gets anything.
    pub token: Option<String>,
    /// What one without the token is told, as `X-Error-Code`.
    pub code: &'static str,
    /// Cuts the connection after so many bytes of a file of weights, this many times.
    pub cut: Option<(usize, usize)>,
    /// Sends nothing more after so many bytes of a file of weights, and keeps the connection.
    pub hang: Option<usize>,
    /// Changes a byte of this file on the way.
    pub corrupt: Option<String>,
    /// The size that it says of files of weights.
    pub size: Option<u64>,
    /// Does not know ranges.
    pub no_ranges: bool,
    /// Answers 503 to so many requests.
    pub busy: usize,
    /// `METHOD PATH` of each request, with the range and the token that came with it.
    pub asked: Vec<Asked>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// GET or HEAD, and the path.
    pub what: String,
    /// The host that it was sent to.
    pub host: String,
    /// The range.
    pub range: Option<String>,
    /// The token.
    pub token: Option<String>,
}

/// A running server; it ends with the test.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Its address, as `HF_ENDPOINT` takes it.
    pub endpoint: String,
    port: u16,
    state: Arc<Mutex<State>>,
}

/// The hash that the server gives a commit with this number.
pub fn commit(number: usize) -> String {
    format!("{number:x}").repeat(40)[..40].to_string()
}

/// The files of a folder, by name.
///
/// # Panics
/// When it cannot be read.
pub fn files_of(folder: &Path) -> Files {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(folder).unwrap().map(file).collect()
}

impl Hub {
    /// Serves one model, whose branch `main` is commit 1.
    ///
    /// # Panics
    /// When there is no port.
    pub fn start(repo: &str, files: Files) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut state = State { repo: repo.into(), code: "GatedRepo", ..State::default() };
        state.commits.insert(commit(1), files);
        state.refs.insert("main".into(), commit(1));
        let hub = Hub { endpoint: format!("http://127.0.0.1:{port}"), port, state: Arc::new(Mutex::new(state)) };
        let serving = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = serving.clone();
                // A client that goes away is one of the things that are tested.
                std::thread::spawn(move || hub.answer(&stream).ok());
            }
        });
        hub
    }

    /// What it has and does.
    ///
    /// # Panics
    /// When a thread of the server panicked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let mut headers = BTreeMap::new();
        for line in lines.by_ref() {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_string());
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let header = |name: &str| headers.get(name).cloned();
        let (range, token) = (header("range"), header("authorization"));
        let host = header("host").unwrap_or_default();
        self.state().asked.push(Asked {
            what: format!("{method} {path}"),
            host,
            range: range.clone(),
            token: token.clone(),
        });
        let Reply { status, headers, body, cut, hangs } = self.reply(path, range.as_deref(), token.as_deref());
        let length = body.len();
        let mut head = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\nContent-Length: {length}\r\n");
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        stream.write_all((head + "\r\n").as_bytes())?;
        if method == "GET" {
            stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])?;
        }
        if hangs {
            std::thread::sleep(std::time::Duration::from_secs(600));
        }
        Ok(())
    }

    fn reply(&self, path: &str, range: Option<&str>, token: Option<&str>) -> Reply {
        let mut state = self.state();
        if state.busy > 0 {
            state.busy -= 1;
            return Reply::of(503).with("Retry-After", "0");
        }
        if let Some(hash) = path.strip_prefix("/cdn/") {
            return state.file(hash, range);
        }
        let needed = state.token.as_ref().map(|token| format!("Bearer {token}"));
        if needed.is_some() && token.map(str::to_string) != needed {
            let reply = Reply::of(if token.is_some() && !state.code.is_empty() { 403 } else { 401 });
            return match state.code {
                "" => reply.with("X-Error-Message", "Invalid credentials in Authorization header"),
                code => reply.with("X-Error-Code", code),
            };
        }
        let path = path.split('?').next().unwrap_or_default().replace("%2F", "/");
        let (api, resolve) = (format!("/api/models/{}", state.repo), format!("/{}/resolve/", state.repo));
        let inner = format!("/api/resolve-cache/models/{}/", state.repo);
        if let Some(rest) = path.strip_prefix(&api) {
            if let Some(revision) = rest.strip_prefix("/tree/") {
                return state.tree(revision);
            }
            return state.info(rest.strip_prefix("/revision/").unwrap_or("main"));
        }
        let (rest, is_inner) = match (path.strip_prefix(&resolve), path.strip_prefix(&inner)) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ => return Reply::of(404).with("X-Error-Code", "RepoNotFound"),
        };
        let Some((commit, name)) = state.split(rest) else {
            return Reply::of(404).with("X-Error-Code", "RevisionNotFound");
        };
        let Some(bytes) = state.commits[&commit].get(&name) else {
            return Reply::of(404).with("X-Error-Code", "EntryNotFound").with("X-Repo-Commit", &commit);
        };
        let hash = etag(&name, bytes);
        let size = state.size.filter(|_| is_lfs(&name)).unwrap_or(bytes.len() as u64).to_string();
        match (is_lfs(&name), is_inner) {
            (true, _) => Reply::of(302)
                .with("Location", &format!("http://localhost:{}/cdn/{hash}", self.port))
                .with("X-Repo-Commit", &commit)
                .with("X-Linked-Etag", &format!("\"{hash}\""))
                .with("X-Linked-Size", &size)
                .with("ETag", "\"of-the-redirect\""),
            (false, false) => Reply::of(307)
                .with("Location", &format!("{inner}{commit}/{}", name.replace(' ', "%20")))
                .with("X-Repo-Commit", &commit)
                .with("X-Linked-Size", &size),
            (false, true) => state.file(&hash, range).with("X-Repo-Commit", &commit),
        }
    }
}

impl State {
    /// The commit and the name in `REVISION/NAME`, where a revision may have a slash.
    fn split(&self, rest: &str) -> Option<(String, String)> {
        let commits = self.commits.keys().map(|commit| (commit, commit));
        let mut all = self.refs.iter().chain(commits);
        all.find_map(|(name, commit)| {
            Some((commit.clone(), rest.strip_prefix(name)?.strip_prefix('/')?.replace("%20", " ")))
        })
    }

    fn commit(&self, revision: &str) -> Option<&String> {
        self.refs.get(revision).or_else(|| self.commits.get_key_value(revision).map(|(commit, _)| commit))
    }

    fn info(&self, revision: &str) -> Reply {
        let Some(commit) = self.commit(revision) else {
            return Reply::of(404).with("X-Error-Code", "RevisionNotFound");
        };
        let siblings: Vec<Value> = self.commits[commit].keys().map(|name| json!({"rfilename": name})).collect();
        Reply::json(json!({"id": self.repo, "sha": commit, "siblings": siblings, "private": false, "gated": false}))
    }

    fn tree(&self, revision: &str) -> Reply {
        let Some(commit) = self.commit(revision) else {
            return Reply::of(404).with("X-Error-Code", "RevisionNotFound");
        };
        let one = |(name, bytes): (&String, &Vec<u8>)| {
            let (size, git) = (bytes.len(), etag("", bytes));
            let lfs = is_lfs(name).then(|| json!({"oid": etag(name, bytes), "size": size, "pointerSize": 135}));
            let mut one = json!({"type": "file", "path": name, "size": size, "oid": git});
            lfs.into_iter().for_each(|lfs| one["lfs"] = lfs);
            one
        };
        Reply::json(self.commits[commit].iter().map(one).collect())
    }

    /// The bytes with this hash.
    fn file(&mut self, hash: &str, range: Option<&str>) -> Reply {
        let mut all = self.commits.values().flatten().map(|(name, bytes)| (name.clone(), bytes.clone()));
        let Some((name, mut bytes)) = all.find(|(name, bytes)| etag(name, bytes) == hash) else {
            return Reply::of(404);
        };
        if self.corrupt.as_ref() == Some(&name) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let start: usize = start.filter(|_| !self.no_ranges).unwrap_or(0);
        let content = format!("bytes {start}-{}/{}", bytes.len().saturating_sub(1), bytes.len());
        let etag = if is_lfs(&name) { "\"of-the-cdn\"".into() } else { format!("\"{hash}\"") };
        let mut reply = Reply::of(if start > 0 { 206 } else { 200 }).with("ETag", &etag);
        if start > 0 {
            reply = reply.with("Content-Range", &content);
        }
        reply.body = bytes.split_off(start);
        if is_lfs(&name) {
            if let Some((after, times @ 1..)) = self.cut {
                self.cut = Some((after, times - 1));
                reply.cut = Some(after);
            }
            reply.cut = reply.cut.or(self.hang);
            reply.hangs = self.hang.is_some();
        }
        reply
    }
}

/// Whether a file is LFS's.
fn is_lfs(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// The hash that the Hub has of a file.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    if is_lfs(name) {
        return nanoserve_format::hex(&Sha256::digest(bytes));
    }
    let git = sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes);
    nanoserve_format::hex(&git.finalize())
}

#[derive(Debug, Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Ends after so many bytes.
    cut: Option<usize>,
    /// Then keeps the connection.
    hangs: bool,
}

impl Reply {
    fn of(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    fn json(value: Value) -> Reply {
        let reply = Reply::of(200).with("Content-Type", "application/json");
        Reply { body: value.to_string().into_bytes(), ..reply }
    }

    fn with(mut self, name: &'static str, value: &str) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}
