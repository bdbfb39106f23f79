//! A `.nsv` file on disk, mapped, or copied where that is asked for. Its one unsafe is the map itself.

use crate::error::{FileAction, FormatError, Result};
use crate::golden::{Golden, TokenizerVectors};
use crate::header::SectionKind;
use crate::meta::{GenerationDefaults, Provenance};
use crate::reader::{Damage, Layout, TensorView, parse};
use crate::sign::SIGNATURE_PLACE;
use crate::spec::ModelSpec;
use memmap2::{Mmap, MmapMut};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Bytes that a thread of [`NsvFile::open_copy`] reads at a time: some huge pages.
const COPY_BYTES: usize = 8 << 20;

/// An open `.nsv` file: its bytes, mapped read-only, and its checked layout.
///
/// Pages are read when they are touched and shared between processes. Opening touches the header alone. Where that is
/// not what is wanted: [`NsvFile::read_ahead`], [`NsvFile::lock`], [`NsvFile::open_copy`].
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
        Self::with(path.as_ref(), FileAction::Map, map)
    }

    /// Copies a file into memory of its own, in huge pages where the system has them, and checks its structure.
    ///
    /// A map of a file may be made of small pages, which a processor takes time to look up: see [`NsvFile::read_ahead`]. A
    /// copy is not shared between processes, and costs the time to make it.
    ///
    /// # Errors
    /// When it cannot be opened or read, there is no memory for it, or it is no good `.nsv` file.
    pub fn open_copy(path: impl AsRef<Path>) -> Result<NsvFile> {
        Self::with(path.as_ref(), FileAction::Copy, copy)
    }

    /// Copies a file that is in memory already, and checks its structure. Its path is empty.
    ///
    /// # Errors
    /// When there is no memory for it, or it is no good `.nsv` file.
    pub fn from_bytes(bytes: &[u8]) -> Result<NsvFile> {
        let layout = parse(bytes)?;
        let copy = || {
            let mut memory = MmapMut::map_anon(bytes.len())?;
            memory.copy_from_slice(bytes);
            memory.make_read_only()
        };
        let map =
            copy().map_err(|source| FormatError::Io { path: PathBuf::new(), action: FileAction::Copy, source })?;
        Ok(NsvFile { path: PathBuf::new(), map, layout })
    }

    fn with(path: &Path, action: FileAction, bytes: fn(&File) -> io::Result<Mmap>) -> Result<NsvFile> {
        let path = path.to_path_buf();
        let failed = |action| {
            let path = path.clone();
            move |source| FormatError::Io { path, action, source }
        };
        let file = File::open(&path).map_err(failed(FileAction::Open))?;
        if file.metadata().map_err(failed(FileAction::Read))?.is_dir() {
            let source = std::io::ErrorKind::IsADirectory.into();
            return Err(FormatError::Io { path, action: FileAction::Open, source });
        }
        let map = bytes(&file).map_err(failed(action))?;
        let layout = parse(&map)?;
        Ok(NsvFile { path, map, layout })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads some bytes from the disk, if they are not in the system's cache: waits for them, or where the system has no
    /// such call, asks for them and returns at once. A hint: where there is no such thing either, nothing is done.
    ///
    /// Waiting is what makes pages large: of bytes that are asked for Linux keeps small ones, of those that are touched in a
    /// map advised to be huge, as this one is, huge ones, where the file's system can (ext4 since Linux 6.16, XFS since 5.18).
    pub fn read_ahead(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if self.map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()).is_ok() {
            return;
        }
        #[cfg(unix)]
        // Pages are read when they are touched, whatever becomes of the hint.
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Keeps every byte in memory until the file is closed; waits until they are there.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn lock(&self) -> Result<()> {
        #[cfg(unix)]
        let locked = self.map.lock();
        #[cfg(not(unix))]
        let locked = Err(io::ErrorKind::Unsupported.into());
        locked.map_err(|source| FormatError::Io { path: self.path.clone(), action: FileAction::Lock, source })
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
        Ok(self.layout.json(&self.map, SectionKind::Generation)?.unwrap_or_default())
    }

    /// The chat template, and those beside it by name: `tool_use`, for one, is meant for conversations with tools.
    ///
    /// # Errors
    /// When a section is damaged, or the template is no text.
    pub fn chat_templates(&self) -> Result<(Option<&str>, BTreeMap<String, String>)> {
        let kind = SectionKind::ChatTemplate;
        let damaged = |e: std::str::Utf8Error| FormatError::SectionText { kind, cause: e.to_string() };
        let usual = self.section(kind)?.map(std::str::from_utf8).transpose().map_err(damaged)?;
        Ok((usual, self.layout.json(&self.map, SectionKind::NamedTemplates)?.unwrap_or_default()))
    }

    /// Where the file came from.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn provenance(&self) -> Result<Provenance> {
        Ok(self.layout.json(&self.map, SectionKind::Provenance)?.unwrap_or_default())
    }

    /// What the file answered when it was made; None when nobody asked it.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn golden(&self) -> Result<Option<Golden>> {
        self.layout.json(&self.map, SectionKind::Golden)
    }

    /// What a reference answered; None when none was given.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn reference(&self) -> Result<Option<Golden>> {
        self.layout.json(&self.map, SectionKind::Reference)
    }

    /// What the tokenizer that the file was made from made of some texts; None where there was no tokenizer.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn tokenizer_vectors(&self) -> Result<Option<TokenizerVectors>> {
        self.layout.json(&self.map, SectionKind::TokenizerVectors)
    }

    /// Reads every byte and returns what is damaged; see [`Layout::damage`]. A signature, which no hash covers, is
    /// verified.
    pub fn check(&self) -> Vec<Damage> {
        let wrong = self.layout.signature.is_some_and(|s| s.verify(&self.layout.root).is_err());
        let signature = wrong.then(|| Damage { what: "signature".into(), range: SIGNATURE_PLACE });
        signature.into_iter().chain(self.layout.damage(&self.map)).collect()
    }
}

/// Maps a whole file read-only.
pub(crate) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and is only ever lent out as `&[u8]`, every bit pattern of which is valid. What
    // remains is another process changing or truncating the file while it is mapped. No program can rule that out
    // for a file it does not own; a writer of this crate never does it, because it replaces a file by renaming and
    // leaves the mapped inode alone, but for a signature's place, which is copied once when a file is opened; lost bytes
    // raise a signal, for which see `signal`. No check made at open is relied on for memory safety later: views are
    // slices within the map's length, whatever their bytes say.
    let map = unsafe { Mmap::map(file) }?;
    #[cfg(target_os = "linux")]
    // Small pages serve as well, only slower.
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// A whole file in anonymous memory, in huge pages if there are any.
fn copy(file: &File) -> io::Result<Mmap> {
    let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // No map is empty; an empty file's one byte is no good file either.
    let mut memory = MmapMut::map_anon(len.max(1))?;
    #[cfg(target_os = "linux")]
    // Small pages serve as well, only slower.
    let _ = memory.advise(memmap2::Advice::HugePage);
    let chunks = Mutex::new(memory[..len].chunks_mut(COPY_BYTES).enumerate());
    let next = || chunks.lock().expect("no thread panics between chunks").next();
    let read = || -> io::Result<()> {
        while let Some((i, chunk)) = next() {
            read_at(file, chunk, (i * COPY_BYTES) as u64)?;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
    std::thread::scope(|s| {
        let helpers: Vec<_> = (1..threads).map(|_| s.spawn(read)).collect();
        let first = read();
        helpers.into_iter().map(|h| h.join().expect("a read returns its errors")).fold(first, |all, one| all.and(one))
    })?;
    memory.make_read_only()
}

#[cfg(unix)]
fn read_at(file: &File, chunk: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, chunk, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut chunk: &mut [u8], mut at: u64) -> io::Result<()> {
    while !chunk.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, chunk, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (chunk, at) = (&mut chunk[n..], at + n as u64),
        }
    }
    Ok(())
}
