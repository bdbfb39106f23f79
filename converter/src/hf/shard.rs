//! One safetensors file: mapped, its header checked byte for byte.
//!
//! The `safetensors` crate decides last whether the header is valid. Before that, this module reports what the crate
//! does not: which tensor is at fault and how, duplicate keys (a map keeps the last), and more than the first problem.

use crate::error::{Problems, What};
use crate::hf::folder::Folder;
use crate::hf::json::Entries;
use crate::map::map;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::ops::Range;

/// Bytes of the header's length, before the header.
const LENGTH_BYTES: usize = 8;
/// What a Git LFS pointer begins with.
const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// The one key of the header that is not a tensor.
const METADATA: &str = "__metadata__";

/// A tensor of a shard.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// Type of its values.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are in the shard.
    pub range: Range<usize>,
}

/// A safetensors file.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Its name in the folder.
    pub name: String,
    /// All of its bytes.
    pub map: Mmap,
    /// Its tensors, in the order of their bytes.
    pub tensors: Vec<(String, TensorInfo)>,
}

#[derive(Deserialize)]
struct RawInfo {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Shard {
    /// Maps and checks a shard; None if its tensors cannot be determined.
    pub fn open(folder: &Folder, name: &str, problems: &Problems) -> Option<Shard> {
        let file = folder.file(name, problems)?;
        let map = map(&file).map_err(|e| problems.file(name, What::Read(e))).ok()?;
        Self::of_map(name, map, problems)
    }

    /// Checks a shard; None if its tensors cannot be determined.
    pub fn of_map(name: &str, map: Mmap, problems: &Problems) -> Option<Shard> {
        let before = problems.len();
        let tensors = header(name, &map, problems)?;
        if problems.len() == before
            && let Err(e) = SafeTensors::read_metadata(&map)
        {
            problems.file(name, What::Header { cause: e.to_string() });
            return None;
        }
        Some(Shard { name: name.to_string(), map, tensors })
    }
}

/// The tensors in a shard's header. One whose place or type is wrong is noted, and omitted.
fn header(file: &str, bytes: &[u8], problems: &Problems) -> Option<Vec<(String, TensorInfo)>> {
    if bytes.starts_with(LFS_POINTER) {
        problems.file(file, What::LfsPointer);
        return None;
    }
    if bytes.is_empty() {
        problems.file(file, What::Empty);
        return None;
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        problems.file(file, What::ShardLength { got: bytes.len() as u64, expected: LENGTH_BYTES as u64 });
        return None;
    };
    let length = u64::from_le_bytes(*length);
    let Some((header, data)) = usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n)) else {
        problems.file(file, What::HeaderLength { got: length, room: rest.len() as u64 });
        return None;
    };
    let raw = match entries(header) {
        Ok(raw) => raw,
        Err(cause) => {
            problems.file(file, What::Header { cause });
            return None;
        }
    };
    let data_at = LENGTH_BYTES + header.len();
    let mut seen = HashSet::new();
    let mut tensors = Vec::with_capacity(raw.len());
    let mut end = 0;
    for (name, RawInfo { dtype, shape, data_offsets: (from, to) }) in raw {
        if !seen.insert(name.clone()) {
            problems.tensor(file, name, What::DuplicateKey);
            continue;
        }
        if from != end || to < from {
            problems.tensor(file, &name, What::Offsets { got: from as u64, expected: end as u64 });
        }
        end = to.max(end);
        let Some(parsed) = parse_dtype(&dtype) else {
            problems.tensor(file, name, What::Dtype { got: dtype });
            continue;
        };
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let expected = elements.and_then(|n| n.checked_mul(parsed.bitsize())).map(|bits| bits.div_ceil(8));
        if expected != to.checked_sub(from) {
            let expected = expected.map_or("more than fit".to_string(), |n| n.to_string());
            let got = to.saturating_sub(from) as u64;
            problems.tensor(file, name, What::TensorBytes { got, shape, dtype, expected });
        } else if to <= data.len() {
            tensors.push((name, TensorInfo { dtype: parsed, shape, range: data_at + from..data_at + to }));
        }
    }
    if end != data.len() {
        let expected = (data_at as u64).saturating_add(end as u64);
        problems.file(file, What::ShardLength { got: bytes.len() as u64, expected });
        return None;
    }
    Some(tensors)
}

/// The header's tensors in the order of their bytes.
fn entries(header: &[u8]) -> Result<Vec<(String, RawInfo)>, String> {
    // Each entry as raw text first: parsed JSON values take a hundred times the memory of their text.
    let Entries(all) = serde_json::from_slice::<Entries<Box<RawValue>>>(header).map_err(|e| e.to_string())?;
    let mut tensors = Vec::with_capacity(all.len());
    for (name, value) in all.into_iter().filter(|(name, _)| name != METADATA) {
        let info: RawInfo = serde_json::from_str(value.get()).map_err(|e| format!("tensor '{name}': {e}"))?;
        tensors.push((name, info));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Ok(tensors)
}

fn parse_dtype(dtype: &str) -> Option<Dtype> {
    let text: serde::de::value::StrDeserializer<serde::de::value::Error> = dtype.into_deserializer();
    Dtype::deserialize(text).ok()
}
