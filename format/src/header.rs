//! Encodes and decodes the preamble, section table and tensor directory, without I/O.

use crate::encoding::Shape;
use crate::error::{FormatError, Result};
use crate::hex::hex;
use crate::sign::{SIGNATURE_PLACE, Signature};
use byteorder::{ByteOrder, LittleEndian as LE, WriteBytesExt};
use std::fmt;

/// The first eight bytes. 0x89 is not text; CR LF and LF reveal text-mode damage; 0x1a ends a listing on DOS.
pub const MAGIC: [u8; 8] = *b"\x89NSV\r\n\x1a\n";

/// Major and minor version of the format that this crate writes. It reads every minor version of the same major.
pub const VERSION: (u16, u16) = (1, 0);

/// Bytes of the preamble.
pub const PREAMBLE_BYTES: usize = 192;

/// Bytes of the preamble that the root hash covers; the hash itself and the signature's place follow.
const HASHED_PREAMBLE: usize = 32;

/// Bytes of one entry of the section table.
pub(crate) const SECTION_ENTRY_BYTES: usize = 64;

/// Sections and tensors begin at a multiple of this.
pub(crate) const ALIGNMENT: u64 = 64;

/// The tensors' region begins at a multiple of this: the largest page size in common use.
pub(crate) const DATA_ALIGNMENT: u64 = 1 << 16;

/// Flag of a section that a reader must understand.
const REQUIRED: u32 = 1;

/// Required feature: matrices in encodings of 4 to 6 bits.
pub(crate) const FEATURE_CODES: u32 = 1;

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;

/// A BLAKE3 hash.
pub type Hash = [u8; HASH_BYTES];

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectionKind {
    /// The [`ModelSpec`](crate::ModelSpec), JSON. Required.
    Spec,
    /// The tensor directory. Required.
    Directory,
    /// `tokenizer.json`, unchanged.
    Tokenizer,
    /// The chat template: Jinja text, unchanged.
    ChatTemplate,
    /// [`GenerationDefaults`](crate::GenerationDefaults), JSON.
    Generation,
    /// [`Provenance`](crate::Provenance), JSON.
    Provenance,
    /// The tokenizer, compiled: tables that are read in place.
    Vocabulary,
    /// The hashes of every tensor's chunks, see [`tree`](crate::tree).
    Chunks,
    /// This file's answers when it was made: a [`Golden`](crate::Golden), JSON.
    Golden,
    /// A reference's answers: a [`Golden`](crate::Golden), JSON.
    Reference,
    /// Texts as the source's tokenizer encodes them: [`TokenizerVectors`](crate::TokenizerVectors), JSON.
    TokenizerVectors,
    /// Chat templates besides the default one, by name: JSON.
    NamedTemplates,
}

impl SectionKind {
    /// Every kind of this format version, in the file's order.
    pub const ALL: [SectionKind; 12] = [
        SectionKind::Spec,
        SectionKind::Directory,
        SectionKind::Tokenizer,
        SectionKind::ChatTemplate,
        SectionKind::Generation,
        SectionKind::Provenance,
        SectionKind::Vocabulary,
        SectionKind::Chunks,
        SectionKind::Golden,
        SectionKind::Reference,
        SectionKind::TokenizerVectors,
        SectionKind::NamedTemplates,
    ];

    /// Its number in the section table.
    pub fn code(self) -> u32 {
        match self {
            SectionKind::Spec => 1,
            SectionKind::Directory => 2,
            SectionKind::Tokenizer => 3,
            SectionKind::ChatTemplate => 4,
            SectionKind::Generation => 5,
            SectionKind::Provenance => 6,
            SectionKind::Vocabulary => 7,
            SectionKind::Chunks => 8,
            SectionKind::Golden => 9,
            SectionKind::Reference => 10,
            SectionKind::TokenizerVectors => 11,
            SectionKind::NamedTemplates => 12,
        }
    }

    /// The kind that a number stands for.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.code() == code)
    }

    /// Whether a reader that does not know this kind must refuse the file.
    pub fn required(self) -> bool {
        matches!(self, SectionKind::Spec | SectionKind::Directory)
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            SectionKind::Spec => "spec",
            SectionKind::Directory => "directory",
            SectionKind::Tokenizer => "tokenizer",
            SectionKind::ChatTemplate => "chat_template",
            SectionKind::Generation => "generation",
            SectionKind::Provenance => "provenance",
            SectionKind::Vocabulary => "vocabulary",
            SectionKind::Chunks => "chunks",
            SectionKind::Golden => "golden",
            SectionKind::Reference => "reference",
            SectionKind::TokenizerVectors => "tokenizer_vectors",
            SectionKind::NamedTemplates => "named_templates",
        })
    }
}

/// One row of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawSection {
    pub kind: u32,
    pub required: bool,
    pub offset: u64,
    pub len: u64,
    pub hash: Hash,
}

/// Preamble and section table, parsed and checked against each other and the file's length.
pub(crate) struct Header {
    /// The required features.
    pub features: u32,
    pub sections: Vec<RawSection>,
    pub root: Hash,
    pub signature: Option<Signature>,
    pub end: u64,
}

/// The root hash: covers the preamble's fields and the section table, whose hashes cover the rest.
fn root(preamble: &[u8], table: &[u8]) -> Hash {
    blake3::Hasher::new().update(&preamble[..HASHED_PREAMBLE]).update(table).finalize().into()
}

/// Bytes of preamble and section table together.
pub(crate) fn encoded_bytes(sections: usize) -> u64 {
    (PREAMBLE_BYTES + 8 + sections * SECTION_ENTRY_BYTES) as u64
}

/// Preamble and section table of a file of `file_len` bytes, and its root hash.
pub(crate) fn encode(sections: &[RawSection], features: u32, file_len: u64) -> (Vec<u8>, Hash) {
    let mut table = vec![0; 8 + sections.len() * SECTION_ENTRY_BYTES];
    LE::write_u32(&mut table, sections.len() as u32);
    for (section, entry) in sections.iter().zip(table[8..].chunks_exact_mut(SECTION_ENTRY_BYTES)) {
        LE::write_u32(entry, section.kind);
        LE::write_u32(&mut entry[4..], if section.required { REQUIRED } else { 0 });
        LE::write_u64(&mut entry[8..], section.offset);
        LE::write_u64(&mut entry[16..], section.len);
        entry[32..].copy_from_slice(&section.hash);
    }
    let mut out = vec![0; PREAMBLE_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    LE::write_u16(&mut out[8..], VERSION.0);
    LE::write_u16(&mut out[10..], VERSION.1);
    LE::write_u32(&mut out[12..], features);
    LE::write_u64(&mut out[16..], table.len() as u64);
    LE::write_u64(&mut out[24..], file_len);
    let root = root(&out, &table);
    out[32..64].copy_from_slice(&root);
    out.extend_from_slice(&table);
    (out, root)
}

/// What a file is that has no bytes.
pub(crate) const EMPTY: &str = "it is empty";

/// A guess at what a file is that is not a .nsv file.
fn hint(got: &[u8]) -> &'static str {
    match got {
        [] => EMPTY,
        [b'G', b'G', b'U', b'F', ..] => {
            " (a GGUF file; `nanoserve convert` makes a .nsv file of it, and `nanoserve run` takes it as it is)"
        }
        [_, _, _, _, _, _, 0, 0] => " (perhaps a safetensors file; give its folder to nanoserve-convert)",
        [0x89, b'N', b'S', b'V', ..] | [b'\t', b'N', b'S', b'V', ..] => {
            " (a .nsv file that was copied as text; copy it in binary mode)"
        }
        [b'P', b'K', ..] => " (a zip archive or PyTorch file)",
        _ => "",
    }
}

/// Decodes and checks preamble and section table.
pub(crate) fn decode(bytes: &[u8]) -> Result<Header> {
    let mut magic = [0; 8];
    let n = bytes.len().min(8);
    magic[..n].copy_from_slice(&bytes[..n]);
    if magic != MAGIC {
        return Err(FormatError::Magic { got: magic, hint: hint(&bytes[..n]) });
    }
    let file_len = bytes.len() as u64;
    if bytes.len() < PREAMBLE_BYTES {
        return Err(FormatError::FileLength { got: file_len, expected: PREAMBLE_BYTES as u64 });
    }
    let (major, minor) = (LE::read_u16(&bytes[8..]), LE::read_u16(&bytes[10..]));
    if major != VERSION.0 {
        return Err(FormatError::Version { major, minor, known: VERSION.0 });
    }
    let features = LE::read_u32(&bytes[12..]);
    if features & !FEATURE_CODES != 0 {
        return Err(FormatError::Features { bits: features & !FEATURE_CODES });
    }
    let expected = LE::read_u64(&bytes[24..]);
    if expected != file_len {
        return Err(FormatError::FileLength { got: file_len, expected });
    }
    let (len, room) = (LE::read_u64(&bytes[16..]), file_len - PREAMBLE_BYTES as u64);
    if len > room || len < 8 {
        return Err(FormatError::HeaderLength { got: len, room });
    }
    let end = PREAMBLE_BYTES + len as usize;
    let table = &bytes[PREAMBLE_BYTES..end];
    let (got, expected) = (root(bytes, table), &bytes[HASHED_PREAMBLE..64]);
    if got != expected {
        return Err(FormatError::HeaderHash { got: hex(&got), expected: hex(expected) });
    }
    let signature = Signature::decode(&bytes[SIGNATURE_PLACE])?;
    let sections = decode_sections(table, end as u64, file_len)?;
    Ok(Header { features, sections, root: got, signature, end: end as u64 })
}

fn decode_sections(table: &[u8], header_end: u64, file_len: u64) -> Result<Vec<RawSection>> {
    let (count, rest) = (LE::read_u32(table), &table[8..]);
    if LE::read_u32(&table[4..]) != 0 {
        return Err(FormatError::Reserved { place: "the section table's second word" });
    }
    if rest.len() as u64 != u64::from(count) * SECTION_ENTRY_BYTES as u64 {
        return Err(FormatError::SectionTable { count, bytes: table.len() as u64 });
    }
    let mut sections: Vec<RawSection> = Vec::with_capacity(count as usize);
    let mut min = header_end;
    for entry in rest.chunks_exact(SECTION_ENTRY_BYTES) {
        let (kind, flags) = (LE::read_u32(entry), LE::read_u32(&entry[4..]));
        let (offset, len) = (LE::read_u64(&entry[8..]), LE::read_u64(&entry[16..]));
        if flags & !REQUIRED != 0 || LE::read_u64(&entry[24..]) != 0 {
            return Err(FormatError::Reserved { place: "part of a section's entry" });
        }
        let required = flags & REQUIRED != 0;
        if required && SectionKind::from_code(kind).is_none() {
            return Err(FormatError::SectionUnknown { kind });
        }
        if let Some(last) = sections.last().filter(|s| s.kind >= kind) {
            return Err(FormatError::SectionOrder { kind, after: last.kind });
        }
        let end = offset.saturating_add(len);
        if offset < min || end > file_len || !offset.is_multiple_of(ALIGNMENT) {
            return Err(FormatError::SectionBounds { kind, offset, end, min, max: file_len });
        }
        min = end;
        let hash = entry[32..].try_into().expect("32 bytes");
        sections.push(RawSection { kind, required, offset, len, hash });
    }
    Ok(sections)
}

/// One entry of the tensor directory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RawTensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub encoding: u8,
    pub place: RawPlace,
}

/// Where a tensor's bytes are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RawPlace {
    Stored { offset: u64, len: u64, hash: Hash },
    Alias { target: u32 },
}

impl RawTensor {
    pub fn new(name: String, shape: Shape, encoding: u8, place: RawPlace) -> Self {
        RawTensor { name, dims: shape.dims().into_iter().map(|d| d as u64).collect(), encoding, place }
    }
}

/// Encodes the directory; its length does not depend on offsets and hashes.
pub(crate) fn encode_directory(tensors: &[RawTensor]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut write = || -> std::io::Result<()> {
        out.write_u32::<LE>(tensors.len() as u32)?;
        for tensor in tensors {
            out.write_u16::<LE>(tensor.name.len() as u16)?;
            out.extend_from_slice(tensor.name.as_bytes());
            out.write_u8(matches!(tensor.place, RawPlace::Alias { .. }) as u8)?;
            out.write_u8(tensor.encoding)?;
            out.write_u8(tensor.dims.len() as u8)?;
            for &dim in &tensor.dims {
                out.write_u64::<LE>(dim)?;
            }
            match tensor.place {
                RawPlace::Stored { offset, len, hash } => {
                    out.write_u64::<LE>(offset)?;
                    out.write_u64::<LE>(len)?;
                    out.extend_from_slice(&hash);
                }
                RawPlace::Alias { target } => out.write_u32::<LE>(target)?,
            }
        }
        Ok(())
    };
    write().expect("a vector takes all bytes");
    out
}

/// Takes bytes off the front of the directory.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let slice = self.bytes.get(self.at..).and_then(|rest| rest.get(..n));
        let error = || FormatError::Directory {
            bytes: self.bytes.len() as u64,
            where_: format!("inside {what} at byte {}", self.at),
        };
        let slice = slice.ok_or_else(error)?;
        self.at += n;
        Ok(slice)
    }
}

/// Decodes the directory. It must have `expected` tensors, the number that the model has.
pub(crate) fn decode_directory(bytes: &[u8], expected: usize) -> Result<Vec<RawTensor>> {
    let mut cursor = Cursor { bytes, at: 0 };
    let got = LE::read_u32(cursor.take(4, "the count")?) as usize;
    if got != expected {
        return Err(FormatError::TensorCount { got, expected });
    }
    // The shortest entry has 9 bytes: never allocate more entries than the bytes can hold.
    let mut tensors = Vec::with_capacity(got.min(bytes.len() / 9));
    for _ in 0..got {
        let len = LE::read_u16(cursor.take(2, "a name's length")?) as usize;
        let name = String::from_utf8_lossy(cursor.take(len, "a name")?).into_owned();
        let &[storage, encoding, rank] = cursor.take(3, "an entry")? else { unreachable!("three bytes") };
        let dims = cursor.take(8 * rank as usize, "dimensions")?.chunks_exact(8).map(LE::read_u64).collect();
        let place = match storage {
            0 => {
                let b = cursor.take(16 + HASH_BYTES, "a place")?;
                let hash = b[16..].try_into().expect("32 bytes");
                RawPlace::Stored { offset: LE::read_u64(b), len: LE::read_u64(&b[8..]), hash }
            }
            1 => RawPlace::Alias { target: LE::read_u32(cursor.take(4, "an alias")?) },
            kind => return Err(FormatError::TensorStorage { tensor: name, kind }),
        };
        tensors.push(RawTensor { name, dims, encoding, place });
    }
    match bytes.len() - cursor.at {
        0 => Ok(tensors),
        more => Err(FormatError::Directory {
            bytes: bytes.len() as u64,
            where_: format!("{more} bytes after its last entry"),
        }),
    }
}
