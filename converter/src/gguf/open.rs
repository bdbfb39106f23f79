//! Opens a GGUF file and the other shards of its model.

use crate::error::{Problems, What};
use crate::files::kind_name;
use crate::gguf::container::{Header, Value};
use crate::input::{Bytes, SourceFile};
use crate::map;
use nanoserve_format::open_now;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The files of a model.
pub(crate) struct Opened {
    /// The first shard first.
    pub files: Vec<SourceFile>,
    /// Their names and paths.
    pub paths: Vec<(String, PathBuf)>,
    /// What they say, one header for each file.
    pub headers: Vec<Header>,
}

/// Digits of the numbers in a shard's name.
const DIGITS: usize = 5;
/// More shards than any model has.
const MOST_SHARDS: usize = 4096;

/// Whether there is a GGUF file at a path, by its first bytes. What cannot be read is none.
pub fn is_gguf(path: &Path) -> bool {
    let mut start = [0; 4];
    regular(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start == *b"GGUF"
}

/// The files of a model whose first GGUF file is at `path`, by their names alone: `NAME-00001-of-00003.gguf` is followed by
/// two more.
pub fn gguf_shards(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = name.strip_suffix(".gguf").and_then(|name| name.rsplit_once("-00001-of-"));
    let count = count.filter(|(_, digits)| digits.len() == DIGITS).and_then(|(_, digits)| digits.parse().ok());
    let others = others(path, count.filter(|&n| n <= MOST_SHARDS).unwrap_or(1)).unwrap_or_default();
    std::iter::once(path.to_path_buf()).chain(others).collect()
}

/// The paths of the other shards of so many; None where the name is not that of the first of them.
fn others(path: &Path, count: usize) -> Option<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some((2..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"))).collect())
}

/// Opens a regular file, without waiting for the other end of a pipe. A link is followed: the user gave it.
fn regular(path: &Path) -> Result<File, What> {
    let file = open_now(path).map_err(What::Read)?;
    let kind = file.metadata().map_err(What::Read)?.file_type();
    if kind.is_file() { Ok(file) } else { Err(What::NotAFile { got: kind_name(kind) }) }
}

/// Opens the file at `path` and, where it is the first of several, the others. None if a problem was noted.
pub(crate) fn open(path: &Path, problems: &Problems) -> Option<Opened> {
    let before = problems.len();
    let mut opened = Opened { files: Vec::new(), paths: Vec::new(), headers: Vec::new() };
    opened.add(path, problems)?;
    let shards = shards(path, &opened.headers[0], problems)?;
    for path in shards {
        opened.add(&path, problems);
    }
    (problems.len() == before).then_some(opened)
}

/// A file of these bytes alone, as if it had been opened; None if its header cannot be read, which is noted.
#[cfg(any(test, feature = "from-bytes"))]
pub(crate) fn of_bytes(bytes: &[u8], problems: &Problems) -> Option<Opened> {
    let name = "model.gguf".to_string();
    match Header::parse(bytes) {
        Ok(header) => {
            let files = vec![SourceFile { name, bytes: Bytes::Held(bytes.to_vec()) }];
            Some(Opened { files, paths: Vec::new(), headers: vec![header] })
        }
        Err(e) => {
            problems.file(name, What::Header { cause: e.to_string() });
            None
        }
    }
}

/// Reads a tokenizer.json that the user gives; None if a problem was noted.
pub(crate) fn tokenizer(path: &Path, problems: &Problems) -> Option<SourceFile> {
    /// As of one in a checkpoint folder.
    const MOST: u64 = 256 << 20;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut bytes = Vec::new();
    let read = regular(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes).map_err(What::Read));
    let what = match read {
        Err(what) => what,
        Ok(0) => What::Empty,
        Ok(got) if got as u64 > MOST => What::TooLong { most: MOST },
        Ok(_) => return Some(SourceFile { name, bytes: Bytes::Held(bytes) }),
    };
    problems.file(name, what);
    None
}

impl Opened {
    fn add(&mut self, path: &Path, problems: &Problems) -> Option<()> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let read = || {
            let map = map::map(&regular(path)?).map_err(What::Read)?;
            let header = Header::parse(&map).map_err(|e| What::Header { cause: e.to_string() })?;
            Ok((map, header))
        };
        match read() {
            Ok((map, header)) => {
                self.paths.push((name.clone(), path.to_path_buf()));
                self.files.push(SourceFile { name, bytes: Bytes::Mapped(map) });
                self.headers.push(header);
                Some(())
            }
            Err(What::Read(e)) if e.kind() == ErrorKind::NotFound => {
                problems.file(name, What::ShardMissing);
                None
            }
            Err(what) => {
                problems.file(name, what);
                None
            }
        }
    }
}

/// The paths of the other shards: `NAME-00001-of-00003.gguf` is followed by two more. None if a problem was noted.
fn shards(path: &Path, first: &Header, problems: &Problems) -> Option<Vec<PathBuf>> {
    let number = |key: &str| match first.get(key) {
        Some(&Value::Unsigned(n)) => Some(n as usize),
        Some(&Value::Signed(n)) => usize::try_from(n).ok(),
        _ => None,
    };
    let count = number("split.count").unwrap_or(1);
    if count <= 1 {
        return Some(Vec::new());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let wrong = |field: &str, got: String, expected: &str| {
        problems.file(name.clone(), What::Field { field: field.into(), got, expected: expected.into() });
        None
    };
    if count > MOST_SHARDS {
        return wrong("split.count", count.to_string(), "4096 at most");
    }
    if let Some(number) = number("split.no").filter(|&n| n != 0) {
        return wrong("split.no", number.to_string(), "0: give the first shard, whose name has -00001-of-");
    }
    let ending = format!("-00001-of-{count:05}.gguf");
    let Some(stem) = name.strip_suffix(&ending) else {
        return wrong(
            "the file's name",
            format!("'{name}'"),
            &format!("one that ends in {ending}: its shards are found by it"),
        );
    };
    Some((2..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"))).collect())
}
