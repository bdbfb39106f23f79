//! A `.nsv` file on disk, mapped. The only unsafe of this crate: the map itself.

use crate::error::{FormatError, Result};
use crate::header::SectionKind;
use crate::meta::{GenerationDefaults, Provenance};
use crate::reader::{Damage, Layout, TensorView, parse};
use crate::spec::ModelSpec;
use memmap2::Mmap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// An open `.nsv` file: its bytes, mapped read-only, and its checked layout.
///
/// Pages are read when they are touched and shared between processes. Opening touches the header alone.
#[derive(Debug)]
pub struct NsvFile {
    path: PathBuf,
    map: Mmap,
    layout: Layout,
}

impl NsvFile {
    /// Maps a file and checks its structure.
    ///
    /// # Errors
    /// When it cannot be opened or mapped, or is no good `.nsv` file.
    pub fn open(path: impl AsRef<Path>) -> Result<NsvFile> {
        let path = path.as_ref().to_path_buf();
        let failed = |action| {
            let path = path.clone();
            move |source| FormatError::Io { path, action, source }
        };
        let file = File::open(&path).map_err(failed("open"))?;
        if file.metadata().map_err(failed("read"))?.is_dir() {
            let source = std::io::ErrorKind::IsADirectory.into();
            return Err(FormatError::Io { path, action: "open", source });
        }
        let map = map(&file).map_err(failed("map"))?;
        let layout = parse(&map)?;
        Ok(NsvFile { path, map, layout })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every byte of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// What the file says about itself.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The model's numbers.
    pub fn spec(&self) -> &ModelSpec {
        &self.layout.spec
    }

    /// The view of a tensor, by its canonical name; None when the model has no such tensor.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.layout.tensor(name).map(|entry| self.layout.view(&self.map, entry))
    }

    /// The bytes of a section; None when the file has no such section.
    ///
    /// # Errors
    /// When the bytes are not the ones that were written.
    pub fn section(&self, kind: SectionKind) -> Result<Option<&[u8]>> {
        self.layout.section(&self.map, kind)
    }

    /// How its makers meant the model to be sampled.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn generation(&self) -> Result<GenerationDefaults> {
        self.layout.json(&self.map, SectionKind::Generation)
    }

    /// Where the file came from.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn provenance(&self) -> Result<Provenance> {
        self.layout.json(&self.map, SectionKind::Provenance)
    }

    /// Reads every byte and returns what is damaged; see [`Layout::damage`].
    pub fn check(&self) -> Vec<Damage> {
        self.layout.damage(&self.map)
    }
}

/// Maps a whole file read-only.
pub(crate) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and is only ever lent out as `&[u8]`, every bit pattern of which is valid. What
    // remains is another process changing or truncating the file while it is mapped. No program can rule that out
    // for a file it does not own; a writer of this crate never does it, because it replaces a file by renaming and
    // leaves the mapped inode alone. No check made at open is relied on for memory safety later: views are slices
    // within the map's length, whatever their bytes say.
    unsafe { Mmap::map(file) }
}
