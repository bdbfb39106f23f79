//! The weights of a checkpoint folder: its shards mapped, its tensors by name.

use crate::error::{Problems, What};
pub(crate) use crate::hf::folder::Folder;
use crate::hf::folder::{SAFETENSORS, foreign};
use crate::hf::json::{self, Entries};
use crate::hf::shard::{Shard, TensorInfo};
use crate::input::{Bytes, SourceFile};
use crate::leave_out;
use crate::report::Warning;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Whether there are weights in a folder, in one file or in shards.
pub(crate) fn is_in(folder: &Folder) -> bool {
    folder.has(SINGLE) || folder.has(INDEX)
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
    /// Every tensor but those that are left out.
    pub tensors: BTreeMap<String, Tensor>,
    /// Names of tensors that the user leaves out.
    pub left_out: BTreeSet<String>,
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
            let shard = Shard::open(folder, SINGLE, problems)?;
            return Some(Checkpoint::of_shards(vec![shard], SINGLE, problems.len() == before, problems));
        }
        let Some(index) = folder.read(INDEX, problems) else {
            if !folder.has(INDEX) {
                no_weights(folder, problems);
            }
            return None;
        };
        let Index { weight_map: Entries(listed) } = json::parse(INDEX, &index, problems)?;
        // A name that is there twice, with one file, means one thing.
        let mut keys = HashMap::new();
        for (key, file) in &listed {
            if keys.insert(key.as_str(), file).is_some_and(|first| first != file) {
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
                shards.extend(Shard::open(folder, name, problems));
                whole &= problems.len() == before;
            }
        }
        // A broken header may hide tensors: these do not count as missing from the shard.
        let odd = if whole { differences(&shards, &keys) } else { Vec::new() };
        if let Some(first) = odd.first() {
            warnings.push(Warning::IndexDiffers { count: odd.len(), first: first.to_string() });
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
        Checkpoint { files, tensors, left_out: BTreeSet::new(), listing, whole }
    }

    /// Leaves out every tensor whose name matches one of the patterns; each of them must match a name.
    pub fn leave_out(&mut self, patterns: &[String], problems: &Problems, warnings: &mut Vec<Warning>) {
        let listing = (self.listing, self.whole);
        self.left_out = leave_out::matching(patterns, self.tensors.keys(), listing, problems, warnings);
        self.tensors.retain(|key, _| !self.left_out.contains(key));
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

/// The tensors of which the index says something else than the shards, in order. The shards are right: a name too many
/// in the index is no tensor, and one that it lacks, or has in another shard, is where it is.
fn differences<'a>(shards: &'a [Shard], listed: &HashMap<&'a str, &String>) -> Vec<&'a str> {
    let there =
        shards.iter().flat_map(|shard| shard.tensors.iter().map(|(key, _)| (key.as_str(), shard.name.as_str())));
    let there: HashSet<(&str, &str)> = there.collect();
    let listed: HashSet<(&str, &str)> = listed.iter().map(|(key, file)| (*key, file.as_str())).collect();
    let odd: BTreeSet<&str> = there.symmetric_difference(&listed).map(|(key, _)| *key).collect();
    odd.into_iter().collect()
}

/// Notes that there are no weights, and what is there instead.
fn no_weights(folder: &Folder, problems: &Problems) {
    let names = folder.names_in(".", problems);
    let mut others = names.iter().filter_map(|n| Some((n, foreign(n)?)));
    if let Some((name, got)) = others.next() {
        return problems.file(name.as_str(), What::Foreign { got, expected: SAFETENSORS });
    }
    let found = names.iter().find(|n| n.ends_with(".safetensors"));
    let found = found.map(|n| format!(", found {n} without {INDEX}")).unwrap_or_default();
    problems.file(SINGLE, What::FileMissing { found });
}
