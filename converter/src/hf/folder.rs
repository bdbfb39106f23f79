//! A checkpoint folder: is it one, and what its small files hold. Files are opened by [`Root`] alone.

use crate::error::{Problems, What};
use crate::files::kind_name;
use crate::hf::refused::Refused;
use crate::hf::root::Root;
use crate::input::{Bytes, SourceFile};
use std::collections::BTreeMap;
use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// The form of weights that is read.
pub(crate) const SAFETENSORS: &str = "safetensors";

/// What our own files are called.
pub(crate) const CONVERTED: &str = "a converted model already";
/// What a file of llama.cpp is called.
pub(crate) const GGUF: &str = "a GGUF file";
/// Names, or ends of names, of weights in other forms.
const FOREIGN: [(&str, &str); 8] = [
    (".gguf", GGUF),
    (".nsv", CONVERTED),
    ("adapter_model.safetensors", "a LoRA adapter without its model"),
    (".index.json", "the index of pickled weights"),
    (".bin", "a pickled PyTorch file"),
    (".pt", "a pickled PyTorch file"),
    (".pth", "a pickled PyTorch file"),
    (".h5", "a TensorFlow file"),
];

/// What weights in another form are called.
pub(crate) fn foreign(name: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(end, _)| name.ends_with(end)).map(|(_, what)| *what)
}

/// The most bytes of a small file, by its name. Published ones have a tenth of that at most.
fn most(name: &str) -> u64 {
    match name {
        "tokenizer.json" => 256 << 20,
        _ if name.ends_with(".index.json") => 64 << 20,
        _ if name.ends_with(".jinja") => 4 << 20,
        _ => 16 << 20,
    }
}

/// The folder and its small files. Remembers what was read, for the record of sources.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where it is.
    pub path: PathBuf,
    root: Root,
    read: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Folder {
    /// The folder at `path`, if it is one.
    pub fn open(path: &Path, problems: &Problems) -> Option<Folder> {
        let what = match fs::metadata(path) {
            Ok(m) if m.is_dir() => match cached(path) {
                Some(what) => what,
                None => match Root::open(path) {
                    Ok(root) => return Some(Folder { path: path.to_path_buf(), root, read: Mutex::default() }),
                    Err(e) => What::Read(e),
                },
            },
            Ok(m) => no_folder(path, m.file_type()),
            Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => absent(path),
            Err(e) => What::Read(e),
        };
        problems.file(path.display().to_string(), what);
        None
    }

    /// The bytes of a small file; None if it is not there, or cannot be read, which is noted. Only a template may be
    /// empty.
    pub fn read(&self, name: &str, problems: &Problems) -> Option<Vec<u8>> {
        let file = self.file(name, problems)?;
        let most = most(name);
        let mut bytes = Vec::new();
        let what = match file.take(most + 1).read_to_end(&mut bytes) {
            Err(e) => What::Read(e),
            Ok(0) if !name.ends_with(".jinja") => What::Empty,
            Ok(got) if got as u64 > most => What::TooLong { most },
            Ok(_) => {
                self.seen().insert(name.to_string(), bytes.clone());
                return Some(bytes);
            }
        };
        problems.file(name, what);
        None
    }

    /// A file of the folder; None if it is not there, or is none to read, which is noted.
    pub fn file(&self, name: &str, problems: &Problems) -> Option<File> {
        let what = match self.root.file(name) {
            Ok(file) => return Some(file),
            Err(Refused::Absent) => return None,
            Err(refused) => refused.into(),
        };
        problems.file(name, what);
        None
    }

    /// At most `most` bytes of a file that is not recorded as a source.
    pub fn peek(&self, name: &str, most: u64) -> Result<Vec<u8>, Refused> {
        let mut bytes = Vec::new();
        self.root.file(name)?.take(most).read_to_end(&mut bytes).map_err(Refused::System)?;
        Ok(bytes)
    }

    /// The names in a folder of it, in order; `.` is this folder. One that may not be read is noted.
    pub fn names_in(&self, folder: &str, problems: &Problems) -> Vec<String> {
        self.root.names(folder).unwrap_or_else(|refused| {
            problems.file(folder, refused.into());
            Vec::new()
        })
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.read.lock().expect("no thread panics while it holds this")
    }

    /// The names of the small files that were read, in order.
    pub fn names(&self) -> Vec<String> {
        self.seen().keys().cloned().collect()
    }

    /// The small files that were read, in the order of names.
    pub fn into_files(self) -> impl Iterator<Item = SourceFile> {
        let read = self.read.into_inner().expect("no thread panicked while it held this");
        read.into_iter().map(|(name, bytes)| SourceFile { name, bytes: Bytes::Held(bytes) })
    }

    /// Whether there is anything of that name, a dangling link included.
    pub fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path.join(name)).is_ok()
    }
}

impl From<Refused> for What {
    fn from(refused: Refused) -> What {
        match refused {
            Refused::Absent => What::Read(io::ErrorKind::NotFound.into()),
            Refused::Dangling(target) => What::DanglingLink { target },
            Refused::Outside(target) => What::LinkOutside { target },
            Refused::Kind(got) => What::NotAFile { got },
            Refused::System(e) => What::Read(e),
        }
    }
}

/// What something that is no folder is.
fn no_folder(path: &Path, kind: FileType) -> What {
    let name = path.display().to_string();
    if !kind.is_file() {
        return What::NotAFolder { got: kind_name(kind) };
    }
    // A shard of a model, or a small file beside one.
    let beside = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")).join("config.json").exists();
    let part = ["safetensors", "safetensors.index.json", "config.json"].iter().any(|end| name.ends_with(end));
    let adapter = name.ends_with("adapter_model.safetensors");
    match foreign(&name) {
        _ if part && beside && !adapter => What::FileOfFolder { folder: path.parent().unwrap_or(path).to_path_buf() },
        Some(got) => What::Foreign { got, expected: SAFETENSORS },
        None => What::NotAFolder { got: "a file" },
    }
}

/// What a path is that leads to nothing.
fn absent(path: &Path) -> What {
    if let Ok(target) = fs::read_link(path) {
        return What::DanglingLink { target };
    }
    let text = path.to_str().unwrap_or_default();
    if is_repository(text) && !path.parent().is_some_and(Path::exists) {
        return What::HubName { name: text.to_string() };
    }
    What::NotAFolder { got: "not there" }
}

/// Whether this is the name of a file itself, not a path, and not hidden.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// The most bytes of a name on a hub.
const LONGEST_NAME: usize = 200;

/// Whether a name is `org/name` on a hub, and not a path on somebody's disk.
pub(crate) fn is_repository(name: &str) -> bool {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.len() <= LONGEST_NAME && name.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// What is wrong with a folder of the hub's cache that is no snapshot: the cache of all models, or that of one.
fn cached(path: &Path) -> Option<What> {
    if path.join("config.json").exists() {
        return None;
    }
    let folders = |path: &Path| -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect();
        all.retain(|path| path.is_dir());
        all.sort();
        all
    };
    let snapshots = |model: &Path| folders(&model.join("snapshots"));
    if path.join("snapshots").is_dir() && (path.join("blobs").is_dir() || path.join("refs").is_dir()) {
        // The one that the main branch is at, or else any.
        let mut main = String::new();
        let file = Root::open(path).ok().and_then(|root| root.file("refs/main").ok());
        let _ = file.map(|file| file.take(LONGEST_NAME as u64).read_to_string(&mut main));
        let all = snapshots(path);
        let is_main = |s: &&PathBuf| s.file_name().is_some_and(|name| name == main.trim());
        let found = all.iter().find(is_main).or(all.last()).cloned();
        return Some(What::CacheOfModel { snapshot: found });
    }
    if path.ends_with("snapshots") && !folders(path).is_empty() {
        return Some(What::CacheOfModel { snapshot: folders(path).pop() });
    }
    let models = folders(path)
        .into_iter()
        .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with("models--")));
    let models: Vec<PathBuf> = models.collect();
    (!models.is_empty()).then(|| What::CacheOfHub {
        snapshot: models.iter().find_map(|model| snapshots(model).pop()),
        models: models.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_paths() {
        for name in ["meta-llama/Llama-3.2-1B", "TinyLlama/TinyLlama_v1.1", "a/b"] {
            assert!(is_repository(name), "{name}");
        }
        for name in
            ["", "gpt2", "/home/me/model", "./model", "../a/b", "a/b/c", "models/../b", "C:\\a/b", "a b/c", "a/"]
        {
            assert!(!is_repository(name), "{name}");
        }
    }
}
