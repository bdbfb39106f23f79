//! One variant for each way a `.nsv` file, or what should become one, is bad.

use crate::bundle::BundleError;
use crate::encoding::{Encoding, Shape};
use crate::foreign::Foreign;
use crate::header::SectionKind;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// What an error comes from: what a caller wants to know to go on, or to choose an exit code.
///
/// All crates of nanoserve share it: each of their errors has a `kind()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// From what was given: a file, an option, a text. Tried again as it is, it fails again.
    Input,
    /// From the machine: a full disk, threads or memory that the system refuses, a GPU that fails.
    Machine,
    /// From nothing: somebody asked to stop.
    Cancelled,
}

impl ErrorKind {
    /// Whose fault it is that the system refused a file: of the name that was given, if nothing is there, or something else
    /// than a file, or a file that may not be read; else of the machine, which has no memory, no room or no handle for it, or
    /// whose disk failed.
    ///
    /// ```
    /// use nanoserve_format::ErrorKind;
    /// use std::io;
    ///
    /// assert_eq!(ErrorKind::of_io(&io::ErrorKind::NotFound.into()), ErrorKind::Input);
    /// assert_eq!(ErrorKind::of_io(&io::ErrorKind::OutOfMemory.into()), ErrorKind::Machine);
    /// ```
    pub fn of_io(error: &io::Error) -> ErrorKind {
        use io::ErrorKind as Io;
        match error.kind() {
            Io::NotFound
            | Io::PermissionDenied
            | Io::AlreadyExists
            | Io::NotADirectory
            | Io::IsADirectory
            | Io::DirectoryNotEmpty
            | Io::InvalidInput
            | Io::InvalidData
            | Io::InvalidFilename
            | Io::UnexpectedEof
            | Io::Unsupported
            // Made by a program, about what it was given.
            | Io::Other => ErrorKind::Input,
            _ if leads_nowhere(error) => ErrorKind::Input,
            _ => ErrorKind::Machine,
        }
    }
}

/// Whether links lead in a circle, or a device or a socket has nothing behind it. The library has no stable kinds for them.
#[cfg(unix)]
fn leads_nowhere(error: &io::Error) -> bool {
    [libc::ELOOP, libc::ENXIO, libc::ENODEV].into_iter().any(|code| error.raw_os_error() == Some(code))
}

#[cfg(not(unix))]
fn leads_nowhere(_error: &io::Error) -> bool {
    false
}

/// What was tried with a file when the system failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileAction {
    /// To open one that should be there.
    Open,
    /// To make a new one.
    Create,
    /// To read it.
    Read,
    /// To map it into memory.
    Map,
    /// To keep it in memory.
    Lock,
    /// To copy it, into memory or beside itself.
    Copy,
    /// To take room for it on the disk.
    Reserve,
    /// To write it.
    Write,
    /// To have it on the disk for sure.
    Sync,
    /// To put it in the place of another.
    RenameTo,
}

impl fmt::Display for FileAction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            FileAction::Open => "open",
            FileAction::Create => "create",
            FileAction::Read => "read",
            FileAction::Map => "map",
            FileAction::Lock => "lock in memory",
            FileAction::Copy => "copy",
            FileAction::Reserve => "reserve space for",
            FileAction::Write => "write",
            FileAction::Sync => "sync",
            FileAction::RenameTo => "rename to",
        })
    }
}

/// What every fallible call of this crate returns.
pub type Result<T, E = FormatError> = std::result::Result<T, E>;

/// What is wrong with a file: where, what was found, what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system failed.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file at hand.
        path: PathBuf,
        /// What was tried.
        action: FileAction,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The first eight bytes are not those of a .nsv file.
    #[error("not a .nsv file: {}{hint}", beginning(got, hint))]
    Magic {
        /// The bytes found.
        got: [u8; 8],
        /// What they look like instead, for a person.
        hint: &'static str,
    },
    /// The file is of a format this reader does not know.
    #[error("file of format {major}.{minor}, this program reads {known}.x: a newer nanoserve is needed")]
    Version {
        /// Major version of the file.
        major: u16,
        /// Minor version of the file.
        minor: u16,
        /// Major version of this reader.
        known: u16,
    },
    /// The file needs features this reader does not have.
    #[error("the file needs features {bits:#x} that this program does not know: a newer nanoserve is needed")]
    Features {
        /// The unknown bits.
        bits: u32,
    },
    /// The required features are not those of the file's contents.
    #[error("the file says that it needs features {got:#x}, its contents need {expected:#x}")]
    FeaturesNeeded {
        /// The bits in the preamble.
        got: u32,
        /// The bits that follow from the directory.
        expected: u32,
    },
    /// The file is shorter or longer than its preamble says.
    #[error("the file has {got} bytes, its preamble says {expected}: it was {}", if got < expected { "truncated" } else { "added to" })]
    FileLength {
        /// Bytes there are.
        got: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The header does not fit the file.
    #[error("the header claims {got} bytes, the file has room for {room}")]
    HeaderLength {
        /// Bytes claimed.
        got: u64,
        /// Bytes there are after the preamble.
        room: u64,
    },
    /// Preamble or header were changed.
    #[error("preamble or section table are damaged: hash {got}, expected {expected}")]
    HeaderHash {
        /// Hash of the bytes found, hex.
        got: String,
        /// Hash that the preamble holds, hex.
        expected: String,
    },
    /// Bytes that are zero in this version are not.
    #[error("{place} should be zero and is not")]
    Reserved {
        /// Which bytes.
        place: &'static str,
    },
    /// A signature of a kind this reader does not know.
    #[error("the file is signed by scheme {scheme}, which this program does not know: a newer nanoserve is needed")]
    SignatureScheme {
        /// Its number.
        scheme: u32,
    },
    /// The section table is not a whole number of entries, or too many.
    #[error("the section table has {count} entries in {bytes} bytes")]
    SectionTable {
        /// Entries claimed.
        count: u32,
        /// Bytes of the header.
        bytes: u64,
    },
    /// A section this reader must understand and does not.
    #[error("section kind {kind} is required and unknown: a newer nanoserve is needed")]
    SectionUnknown {
        /// Its kind.
        kind: u32,
    },
    /// Sections are not in ascending order of kind, so one may be there twice.
    #[error("section kind {kind} follows kind {after}: kinds must ascend")]
    SectionOrder {
        /// The kind out of order.
        kind: u32,
        /// The kind before it.
        after: u32,
    },
    /// A section reaches beyond the file or into what stands before it.
    #[error("section kind {kind} takes bytes {offset}..{end}, allowed are {min}..{max}")]
    SectionBounds {
        /// Its kind.
        kind: u32,
        /// First byte.
        offset: u64,
        /// Byte after its last, saturated.
        end: u64,
        /// First byte that it may take.
        min: u64,
        /// Byte after the last that it may take.
        max: u64,
    },
    /// A section that every file has is missing.
    #[error("section {kind} is missing")]
    SectionMissing {
        /// Which.
        kind: SectionKind,
    },
    /// A section's bytes were changed.
    #[error("section {kind} is damaged: hash {got}, expected {expected}")]
    SectionHash {
        /// Which.
        kind: SectionKind,
        /// Hash of the bytes found, hex.
        got: String,
        /// Hash in the section table, hex.
        expected: String,
    },
    /// A section is no text, or not the JSON it should be.
    #[error("section {kind} cannot be read: {}", Foreign(cause))]
    SectionText {
        /// Which.
        kind: SectionKind,
        /// Line, column and what was expected there.
        cause: String,
    },
    /// A number of the model's description is out of its range.
    #[error("model description: {field} is {}, expected {expected}", Foreign(got))]
    Spec {
        /// Its name.
        field: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        expected: String,
    },

    /// The tensor directory ends inside an entry, or goes on after the last.
    #[error("the tensor directory of {bytes} bytes ends {where_}")]
    Directory {
        /// Its length.
        bytes: u64,
        /// Where it ended, or what follows.
        where_: String,
    },
    /// The directory has another number of tensors than the model.
    #[error("the tensor directory has {got} entries, the model has {expected} tensors")]
    TensorCount {
        /// Entries.
        got: usize,
        /// Tensors of the schema.
        expected: usize,
    },
    /// The tensor at this place has another name than the schema says.
    #[error("tensor {index} of the directory is '{}', expected '{expected}'", Foreign(got))]
    TensorName {
        /// Place in the directory.
        index: usize,
        /// Name found.
        got: String,
        /// Name of the schema.
        expected: String,
    },
    /// A tensor's shape is not the one that follows from the model's numbers.
    #[error("tensor '{tensor}' has shape {got:?}, expected {expected}")]
    TensorShape {
        /// Its name.
        tensor: String,
        /// Dimensions found.
        got: Vec<u64>,
        /// Shape of the schema.
        expected: Shape,
    },
    /// An encoding byte this reader does not know.
    #[error("tensor '{tensor}' has encoding {code}, which this program does not know: a newer nanoserve is needed")]
    TensorEncoding {
        /// Its name.
        tensor: String,
        /// The byte.
        code: u8,
    },
    /// A vector that is not f32.
    #[error("tensor '{tensor}' is a vector in {got}, expected f32")]
    VectorEncoding {
        /// Its name.
        tensor: String,
        /// The encoding found.
        got: Encoding,
    },
    /// A directory entry is neither stored nor an alias.
    #[error("tensor '{tensor}' is of storage kind {kind}, expected 0 (stored) or 1 (alias)")]
    TensorStorage {
        /// Its name.
        tensor: String,
        /// The byte found.
        kind: u8,
    },
    /// A tensor's byte count does not follow from its shape and encoding.
    #[error("tensor '{tensor}' has {got} bytes, its shape and encoding take {expected}")]
    TensorLength {
        /// Its name.
        tensor: String,
        /// Bytes claimed.
        got: u64,
        /// Bytes it takes.
        expected: u64,
    },
    /// A tensor reaches beyond the file, or into what stands before it.
    #[error("tensor '{tensor}' takes bytes {offset}..{end}, allowed are {min}..{max}")]
    TensorBounds {
        /// Its name.
        tensor: String,
        /// First byte.
        offset: u64,
        /// Byte after its last, saturated.
        end: u64,
        /// First byte that it may take.
        min: u64,
        /// Byte after the last that it may take.
        max: u64,
    },
    /// A tensor, or the first of them, does not start where alignment wants it.
    #[error("tensor '{tensor}' starts at byte {offset}, not a multiple of {expected}")]
    TensorAlignment {
        /// Its name.
        tensor: String,
        /// First byte.
        offset: u64,
        /// What it must be a multiple of.
        expected: u64,
    },
    /// An alias that the model does not have, or that points at the wrong tensor.
    #[error("tensor '{tensor}' is an alias of tensor {target}, expected {expected}")]
    Alias {
        /// Its name.
        tensor: String,
        /// Place in the directory that it points at.
        target: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// A tensor was left out, or written twice, between creating a file and finishing it.
    #[error("tensor '{tensor}' was {what}")]
    Unwritten {
        /// Its name.
        tensor: String,
        /// What happened.
        what: &'static str,
    },
    /// A bundle is bad, or cannot be made.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// How a file begins, unless it is empty.
fn beginning(got: &[u8; 8], hint: &str) -> String {
    if hint == crate::header::EMPTY { String::new() } else { format!("it begins with {got:02x?}") }
}

impl FormatError {
    /// Whether the file, or the machine, is at fault.
    pub fn kind(&self) -> ErrorKind {
        match self {
            FormatError::Io { action: FileAction::Open | FileAction::Read, source, .. } => ErrorKind::of_io(source),
            FormatError::Io { .. } => ErrorKind::Machine,
            FormatError::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Input,
        }
    }

    /// How many variants [`parse`](crate::parse) can return.
    #[doc(hidden)]
    pub const OF_PARSE: usize = 28;

    /// The variant's name, and whether [`parse`](crate::parse) can return it. For the tests, which hold a bad file for each
    /// variant: only here can a match be complete, so that a new variant does not compile until it is counted.
    #[doc(hidden)]
    pub fn variant(&self) -> (&'static str, bool) {
        match self {
            FormatError::Magic { .. } => ("Magic", true),
            FormatError::Version { .. } => ("Version", true),
            FormatError::Features { .. } => ("Features", true),
            FormatError::FeaturesNeeded { .. } => ("FeaturesNeeded", true),
            FormatError::FileLength { .. } => ("FileLength", true),
            FormatError::HeaderLength { .. } => ("HeaderLength", true),
            FormatError::HeaderHash { .. } => ("HeaderHash", true),
            FormatError::Reserved { .. } => ("Reserved", true),
            FormatError::SignatureScheme { .. } => ("SignatureScheme", true),
            FormatError::SectionTable { .. } => ("SectionTable", true),
            FormatError::SectionUnknown { .. } => ("SectionUnknown", true),
            FormatError::SectionOrder { .. } => ("SectionOrder", true),
            FormatError::SectionBounds { .. } => ("SectionBounds", true),
            FormatError::SectionMissing { .. } => ("SectionMissing", true),
            FormatError::SectionHash { .. } => ("SectionHash", true),
            FormatError::SectionText { .. } => ("SectionText", true),
            FormatError::Spec { .. } => ("Spec", true),
            FormatError::Directory { .. } => ("Directory", true),
            FormatError::TensorCount { .. } => ("TensorCount", true),
            FormatError::TensorName { .. } => ("TensorName", true),
            FormatError::TensorShape { .. } => ("TensorShape", true),
            FormatError::TensorEncoding { .. } => ("TensorEncoding", true),
            FormatError::VectorEncoding { .. } => ("VectorEncoding", true),
            FormatError::TensorStorage { .. } => ("TensorStorage", true),
            FormatError::TensorLength { .. } => ("TensorLength", true),
            FormatError::TensorBounds { .. } => ("TensorBounds", true),
            FormatError::TensorAlignment { .. } => ("TensorAlignment", true),
            FormatError::Alias { .. } => ("Alias", true),
            FormatError::Io { .. } => ("Io", false),
            FormatError::Unwritten { .. } => ("Unwritten", false),
            FormatError::Bundle(_) => ("Bundle", false),
            FormatError::Cancelled => ("Cancelled", false),
        }
    }
}
