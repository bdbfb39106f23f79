//! A checkpoint folder: its small files read, its shards mapped, its tensors by name.

use crate::error::{Problems, What};
use crate::hf::json::Entries;
use crate::hf::shard::{Shard, TensorInfo};
use crate::input::{Bytes, SourceFile};
use crate::report::Warning;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The form of weights that is read.
const SAFETENSORS: &str = "safetensors";

/// Names, or ends of names, of weights in other forms.
const FOREIGN: [(&str, &str); 7] = [
    (".gguf", "a GGUF file"),
    ("adapter_model.safetensors", "a LoRA adapter without its model"),
    (".index.json", "the index of pickled weights"),
    (".bin", "a pickled PyTorch file"),
    (".pt", "a pickled PyTorch file"),
    (".pth", "a pickled PyTorch file"),
    (".h5", "a TensorFlow file"),
];

fn foreign(name: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(end, _)| name.ends_with(end)).map(|(_, what)| *what)
}

/// A path as messages show it: the last part, or all of it if it has none.
fn shown(path: &Path) -> String {
    PathBuf::from(path.file_name().unwrap_or(path.as_os_str())).display().to_string()
}

/// The folder and its small files. Remembers what was read, for the record of sources.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where it is.
    pub path: PathBuf,
    read: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Folder {
    /// The folder at `path`, if it is one.
    pub fn open(path: &Path, problems: &Problems) -> Option<Folder> {
        let name = path.display().to_string();
        match fs::metadata(path) {
            Ok(m) if m.is_dir() => return Some(Folder { path: path.to_path_buf(), read: Mutex::default() }),
            Ok(_) => {
                let what = foreign(&name).map(|got| What::Foreign { got, expected: SAFETENSORS });
                problems.file(name, what.unwrap_or(What::NotAFolder { got: "a file" }));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                problems.file(name, What::NotAFolder { got: "not there" });
            }
            Err(e) => problems.file(name, What::Read(e)),
        }
        None
    }

    /// The bytes of a small file; None if it is not there, or cannot be read, which is noted.
    pub fn read(&self, name: &str, problems: &Problems) -> Option<Vec<u8>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => {
                self.seen().insert(name.to_string(), bytes.clone());
                Some(bytes)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => {
                problems.file(name, What::Read(e));
                None
            }
        }
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

    /// Whether a file of that name is there.
    pub fn has(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    /// Notes that there are no weights, and what is there instead.
    fn no_weights(&self, problems: &Problems) {
        let names = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|e| shown(&e.path()));
        let mut names: Vec<String> = names.collect();
        names.sort();
        let others: Vec<_> = names.iter().filter_map(|n| Some((n, foreign(n)?))).collect();
        if let Some((name, got)) = others.first() {
            return problems.file(name.as_str(), What::Foreign { got, expected: SAFETENSORS });
        }
        let found = names.iter().find(|n| n.ends_with(".safetensors"));
        let found = found.map(|n| format!(", found {n} without {INDEX}")).unwrap_or_default();
        problems.file(SINGLE, What::FileMissing { found });
    }
}

/// A tensor of the checkpoint: which shard, and where in it.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    /// Index of its file in [`Checkpoint::files`].
    pub file: usize,
    /// Type, shape and place.
    pub info: TensorInfo,
}

/// The weights: shards and their tensors by name.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The shards, in the order of names.
    pub files: Vec<SourceFile>,
    /// Every tensor.
    pub tensors: BTreeMap<String, Tensor>,
    /// The file that messages name for a missing tensor.
    pub listing: &'static str,
    /// Whether every shard was there and could be read: then a tensor that is not here is in no file.
    pub whole: bool,
}

#[derive(Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

impl Checkpoint {
    /// Opens every shard of a folder; None when there is none.
    pub fn open(folder: &Folder, problems: &Problems, warnings: &mut Vec<Warning>) -> Option<Checkpoint> {
        if folder.has(SINGLE) {
            if folder.has(INDEX) {
                warnings.push(Warning::IndexIgnored { read: SINGLE });
            }
            let before = problems.len();
            let shard = Shard::open(&folder.path, SINGLE, problems)?;
            return Some(Checkpoint::of_shards(vec![shard], SINGLE, problems.len() == before, problems));
        }
        let Some(index) = folder.read(INDEX, problems) else {
            if !folder.has(INDEX) {
                folder.no_weights(problems);
            }
            return None;
        };
        let Index { weight_map: Entries(listed) } = serde_json::from_slice(&index)
            .map_err(|e| problems.file(INDEX, What::Json { cause: e.to_string() }))
            .ok()?;
        let mut keys = HashSet::new();
        for (key, _) in &listed {
            if !keys.insert(key.as_str()) {
                problems.tensor(INDEX, key, What::DuplicateKey);
            }
        }
        let (mut shards, mut whole) = (Vec::new(), true);
        for name in listed.iter().map(|(_, shard)| shard.as_str()).collect::<BTreeSet<_>>() {
            // A name with a folder in it could point anywhere.
            if Path::new(name).file_name() != Some(name.as_ref()) {
                let (field, expected) = ("weight_map".into(), "names of files in the folder".into());
                problems.file(INDEX, What::Field { field, got: format!("'{name}'"), expected });
                whole = false;
            } else if !folder.has(name) {
                problems.file(name, What::ShardMissing);
                whole = false;
            } else {
                let before = problems.len();
                let shard = Shard::open(&folder.path, name, problems);
                let sound = problems.len() == before;
                if let Some(shard) = shard {
                    // A broken header may hide tensors: these do not count as missing from the shard.
                    compare(&shard, &listed, &keys, sound, problems);
                    shards.push(shard);
                }
                whole &= sound;
            }
        }
        Some(Checkpoint::of_shards(shards, INDEX, whole, problems))
    }

    /// The tensors of all shards.
    pub fn of_shards(shards: Vec<Shard>, listing: &'static str, whole: bool, problems: &Problems) -> Checkpoint {
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut files: Vec<SourceFile> = Vec::with_capacity(shards.len());
        for Shard { name: file, map, tensors: all } in shards {
            files.push(SourceFile { name: file.clone(), bytes: Bytes::Mapped(map) });
            for (name, info) in all {
                if let Some(first) = tensors.insert(name.clone(), Tensor { file: files.len() - 1, info }) {
                    let other = files[first.file].name.clone();
                    problems.tensor(&file, name, What::TwoShards { other });
                }
            }
        }
        Checkpoint { files, tensors, listing, whole }
    }

    /// A tensor's bytes.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.files[tensor.file].bytes[tensor.info.range.clone()]
    }

    /// Name of the file that a tensor is in.
    pub fn file(&self, tensor: &Tensor) -> &str {
        &self.files[tensor.file].name
    }
}

/// Notes where a shard and the index disagree. `sound`: every tensor of the shard is known.
fn compare(shard: &Shard, listed: &[(String, String)], keys: &HashSet<&str>, sound: bool, problems: &Problems) {
    let have: HashSet<&str> = shard.tensors.iter().map(|(name, _)| name.as_str()).collect();
    let absent = |(key, file): &&(String, String)| *file == shard.name && !have.contains(key.as_str());
    for (key, _) in listed.iter().filter(absent).filter(|_| sound) {
        problems.tensor(&shard.name, key, What::IndexedMissing);
    }
    for (key, _) in shard.tensors.iter().filter(|(key, _)| !keys.contains(key.as_str())) {
        problems.tensor(&shard.name, key, What::Unlisted);
    }
}
