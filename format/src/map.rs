//! An open `.nsv` file, mapped, or copied on request. The only unsafe code is the mapping itself.

use crate::at::FileAt;
use crate::bundle::{Bundle, BundleError};
use crate::error::{FileAction, FormatError, Result};
use crate::golden::{Golden, MAX_GOLDEN_BYTES, MAX_REFERENCE_BYTES, MAX_VECTOR_BYTES, TokenizerVectors};
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

/// Bytes that a thread of [`NsvFile::open_copy`] reads at a time: several huge pages.
const COPY_BYTES: usize = 8 << 20;

/// An open `.nsv` file: its bytes, mapped read-only, and its checked layout.
///
/// Pages are read when they are touched and are shared between processes. Opening touches only the header. Other ways:
/// [`NsvFile::read_ahead`], [`NsvFile::lock`], [`NsvFile::open_copy`].
///
/// A [`Bundle`]'s path opens the model inside it: offsets are those of the `.nsv`, as if it were a file of its own.
#[derive(Debug)]
pub struct NsvFile {
    path: PathBuf,
    /// The whole file, a bundle's program included.
    map: Mmap,
    /// The `.nsv` in it.
    model: Range<usize>,
    bundle: Option<Bundle>,
    layout: Layout,
}

impl NsvFile {
    /// Maps a file and checks its structure.
    ///
    /// # Errors
    /// When it cannot be opened or mapped, or is not a valid `.nsv` file.
    pub fn open(path: impl AsRef<Path>) -> Result<NsvFile> {
        Self::with(path.as_ref(), FileAction::Map, map)
    }

    /// Copies a file into memory of its own, in huge pages if the system has them, and checks its structure.
    ///
    /// A mapped file may consist of small pages, whose lookup costs processor time: see [`NsvFile::read_ahead`]. A copy
    /// is not shared between processes, and takes time to make.
    ///
    /// # Errors
    /// When it cannot be opened or read, there is no memory for it, or it is not a valid `.nsv` file.
    pub fn open_copy(path: impl AsRef<Path>) -> Result<NsvFile> {
        Self::with(path.as_ref(), FileAction::Copy, copy)
    }

    /// Copies a file that is in memory already, and checks its structure. Its path is empty.
    ///
    /// # Errors
    /// When there is no memory for it, or it is not a valid `.nsv` file.
    pub fn from_bytes(bytes: &[u8]) -> Result<NsvFile> {
        let layout = parse(bytes)?;
        let copy = || {
            let mut memory = MmapMut::map_anon(bytes.len())?;
            memory.copy_from_slice(bytes);
            memory.make_read_only()
        };
        let map =
            copy().map_err(|source| FormatError::Io { path: PathBuf::new(), action: FileAction::Copy, source })?;
        Ok(NsvFile { path: PathBuf::new(), model: 0..map.len(), map, bundle: None, layout })
    }

    fn with(path: &Path, action: FileAction, bytes: fn(&File) -> io::Result<Mmap>) -> Result<NsvFile> {
        let path = path.to_path_buf();
        let failed = |action| {
            let path = path.clone();
            move |source| FormatError::Io { path, action, source }
        };
        let file = open_now(&path).map_err(failed(FileAction::Open))?;
        let kind = file.metadata().map_err(failed(FileAction::Read))?.file_type();
        if !kind.is_file() {
            let source = match kind.is_dir() {
                true => io::ErrorKind::IsADirectory.into(),
                false => io::Error::new(io::ErrorKind::InvalidInput, "a pipe or a device, expected a regular file"),
            };
            return Err(FormatError::Io { path, action: FileAction::Open, source });
        }
        let bundle = Bundle::find(&path, &file)?;
        let map = bytes(&file).map_err(failed(action))?;
        let model = bundle.map_or(0..map.len(), |bundle| bundle.range());
        let cut = BundleError::Length { got: map.len() as u64, expected: model.end as u64 };
        let layout = parse(map.get(model.clone()).ok_or(cut)?)?;
        Ok(NsvFile { path, map, model, bundle, layout })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bundle that it was opened in; None for a file of its own.
    pub fn bundle(&self) -> Option<&Bundle> {
        self.bundle.as_ref()
    }

    /// Where its first byte is in the file that was opened: 0, except in a bundle.
    pub fn offset(&self) -> usize {
        self.model.start
    }

    /// Reads a range of bytes from the disk, if they are not in the system's cache, and waits for them. A system
    /// without such a call gets a hint, and this returns at once; a system without hints does nothing.
    ///
    /// Waiting gives large pages. Linux caches hinted bytes in small pages. It caches bytes that are touched in a map
    /// advised to use huge pages, as this one is, in huge pages, if the file system can (ext4 since Linux 6.16, XFS
    /// since 5.18).
    pub fn read_ahead(&self, range: Range<usize>) {
        let range = range.start + self.model.start..range.end + self.model.start;
        #[cfg(target_os = "linux")]
        if self.map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()).is_ok() {
            return;
        }
        #[cfg(unix)]
        // If the hint fails, pages are still read when they are touched.
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

    /// Every byte of the `.nsv`.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.model.clone()]
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
        self.layout.tensor(name).map(|entry| self.layout.view(self.bytes(), entry))
    }

    /// The bytes of a section; None when the file has no such section.
    ///
    /// # Errors
    /// When the bytes do not match their hash.
    pub fn section(&self, kind: SectionKind) -> Result<Option<&[u8]>> {
        self.layout.section(self.bytes(), kind)
    }

    /// A copy of the bytes of a section, its hash checked after it was made: what uses the copy uses what was checked, even if
    /// the file changes meanwhile. None when the file has no such section.
    ///
    /// # Errors
    /// When the bytes do not match their hash.
    pub fn section_copy(&self, kind: SectionKind) -> Result<Option<Vec<u8>>> {
        self.layout.section_copy(self.bytes(), kind)
    }

    /// The sampling settings that the model's makers recommend.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn generation(&self) -> Result<GenerationDefaults> {
        Ok(self.layout.json(self.bytes(), SectionKind::Generation)?.unwrap_or_default())
    }

    /// The default chat template, and the others by name; `tool_use`, for one, is meant for conversations with tools.
    ///
    /// # Errors
    /// When a section is damaged, or the template is no text.
    pub fn chat_templates(&self) -> Result<(Option<String>, BTreeMap<String, String>)> {
        let kind = SectionKind::ChatTemplate;
        let damaged = |e: std::string::FromUtf8Error| FormatError::SectionText { kind, cause: e.to_string() };
        let default = self.section_copy(kind)?.map(String::from_utf8).transpose().map_err(damaged)?;
        Ok((default, self.layout.json(self.bytes(), SectionKind::NamedTemplates)?.unwrap_or_default()))
    }

    /// Where the file came from.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn provenance(&self) -> Result<Provenance> {
        Ok(self.layout.json(self.bytes(), SectionKind::Provenance)?.unwrap_or_default())
    }

    /// The file's answers when it was made; None if none were recorded.
    ///
    /// # Errors
    /// When the section is damaged, or asks for more work than golden vectors may: see [`Golden::check`].
    pub fn golden(&self) -> Result<Option<Golden>> {
        let kind = SectionKind::Golden;
        let golden: Option<Golden> = self.layout.json_within(self.bytes(), kind, MAX_GOLDEN_BYTES)?;
        match golden.as_ref().map(Golden::check) {
            Some(Err(cause)) => Err(FormatError::SectionText { kind, cause }),
            _ => Ok(golden),
        }
    }

    /// A reference's answers; None if none were given.
    ///
    /// # Errors
    /// When the section is damaged, or asks for more work than a reference may: see [`Golden::check_reference`].
    pub fn reference(&self) -> Result<Option<Golden>> {
        let kind = SectionKind::Reference;
        let reference: Option<Golden> = self.layout.json_within(self.bytes(), kind, MAX_REFERENCE_BYTES)?;
        match reference.as_ref().map(Golden::check_reference) {
            Some(Err(cause)) => Err(FormatError::SectionText { kind, cause }),
            _ => Ok(reference),
        }
    }

    /// Texts as the source's tokenizer encodes them; None if there was no tokenizer.
    ///
    /// # Errors
    /// When the section is damaged, or asks for more work than a start may: see [`TokenizerVectors::check`].
    pub fn tokenizer_vectors(&self) -> Result<Option<TokenizerVectors>> {
        let kind = SectionKind::TokenizerVectors;
        let vectors: Option<TokenizerVectors> = self.layout.json_within(self.bytes(), kind, MAX_VECTOR_BYTES)?;
        match vectors.as_ref().map(TokenizerVectors::check) {
            Some(Err(cause)) => Err(FormatError::SectionText { kind, cause }),
            _ => Ok(vectors),
        }
    }

    /// Reads every byte and returns what is damaged; see [`Layout::damage`]. Also verifies the signature, which no hash
    /// covers, and holds a bundle's program against its hash.
    pub fn check(&self) -> Vec<Damage> {
        let wrong = self.layout.signature.is_some_and(|s| s.verify(&self.layout.root).is_err());
        let signature = wrong.then(|| Damage { what: "signature".into(), range: SIGNATURE_PLACE });
        let before = &self.map[..self.model.start];
        let wrong = self.bundle.is_some_and(|bundle| blake3::hash(before) != bundle.program);
        let program = wrong.then(|| Damage { what: "program before the model,".into(), range: 0..before.len() });
        program.into_iter().chain(signature).chain(self.layout.damage(self.bytes())).collect()
    }
}

/// Opens a file for reading without waiting: a named pipe would wait for its other end. Links are followed.
///
/// # Errors
/// The system's own.
pub fn open_now(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    options.read(true).open(path)
}

/// Maps a whole file read-only.
pub(crate) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and lent out only as `&[u8]`, for which every bit pattern is valid. The remaining
    // risk is another process that changes or truncates the mapped file. No program can rule that out for a file it
    // does not own. This crate's writers never do it: they replace a file by renaming and leave the mapped inode alone,
    // except for the signature's place, which is copied once when a file is opened. Lost bytes raise a signal, see
    // `signal`. Memory safety does not rely on any check made at open: views are slices within the map's length,
    // whatever its bytes are.
    let map = unsafe { Mmap::map(file) }?;
    #[cfg(target_os = "linux")]
    // Small pages also work, only slower.
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// Copies a whole file into anonymous memory, in huge pages if there are any.
fn copy(file: &File) -> io::Result<Mmap> {
    let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // A map cannot be empty; the single byte mapped for an empty file is not a valid file either.
    let mut memory = MmapMut::map_anon(len.max(1))?;
    #[cfg(target_os = "linux")]
    // Small pages also work, only slower.
    let _ = memory.advise(memmap2::Advice::HugePage);
    let chunks = Mutex::new(memory[..len].chunks_mut(COPY_BYTES).enumerate());
    let next = || chunks.lock().expect("no thread panics between chunks").next();
    let read = || -> io::Result<()> {
        while let Some((i, chunk)) = next() {
            file.read_exact_at(chunk, (i * COPY_BYTES) as u64)?;
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
