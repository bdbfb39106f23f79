//! Turns bytes into checked views, without I/O: the entry point for fuzzing.

use crate::encoding::{Encoding, EncodingSet, Shape, features};
use crate::error::{FormatError, Result};
use crate::header::{self, ALIGNMENT, DATA_ALIGNMENT, HASH_BYTES, Hash, RawPlace, RawSection, RawTensor, SectionKind};
use crate::hex::hex;
use crate::recipe::Recipe;
use crate::schema::{self, Role};
use crate::sign::Signature;
use crate::spec::ModelSpec;
use crate::tree::{self, CHUNK_BYTES};
use std::collections::HashMap;
use std::ops::Range;

/// Everything a file says about itself, checked; byte ranges are inside the file that was parsed.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The model's numbers.
    pub spec: ModelSpec,
    /// Every tensor of the model, in the schema's order.
    pub tensors: Vec<TensorEntry>,
    /// Every section, those of unknown kind included.
    pub sections: Vec<SectionEntry>,
    /// The root hash: through the hashes it covers, it covers every byte of the file.
    pub root: Hash,
    /// The signature of the root, if there is one; opening does not verify it.
    pub signature: Option<Signature>,
    /// Bytes of the file.
    pub file_len: u64,
    header_end: u64,
    by_name: HashMap<String, usize>,
}

/// One tensor of the directory.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorEntry {
    /// Its canonical name.
    pub name: String,
    /// Its shape, without padding.
    pub shape: Shape,
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Its bytes in the file; an alias has those of the tensor it stands for.
    pub range: Range<usize>,
    /// BLAKE3 of these bytes.
    pub hash: Hash,
    /// The tensor whose bytes it shares.
    pub alias_of: Option<String>,
}

/// One row of the section table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionEntry {
    /// Its number, known to this version or not.
    pub code: u32,
    /// Its bytes in the file.
    pub range: Range<usize>,
    /// BLAKE3 of these bytes.
    pub hash: Hash,
}

/// A tensor's bytes, with its shape and encoding.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'f> {
    /// Its shape, without padding.
    pub shape: Shape,
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Exactly [`Shape::bytes`] bytes.
    pub bytes: &'f [u8],
}

/// A part of a file whose bytes do not match their hash, or are not zero in padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The tensor, section or padding.
    pub what: String,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// Checks a file's structure and returns what it holds.
///
/// Every length, bound, order, name and shape is checked before this returns; time and memory depend on the size of
/// the header, not of the file. Weights and the larger sections are not read: see [`Layout::damage`].
///
/// # Errors
/// The first thing that is wrong; see [`FormatError`].
pub fn parse(bytes: &[u8]) -> Result<Layout> {
    let header = header::decode(bytes)?;
    let spec: ModelSpec = json(SectionKind::Spec, required(bytes, &header.sections, SectionKind::Spec)?)?;
    spec.check()?;
    let directory = required(bytes, &header.sections, SectionKind::Directory)?;
    let raw = header::decode_directory(directory, schema::count(&spec))?;
    let tensors = check_tensors(&spec, raw, header.end, bytes.len() as u64)?;
    let expected = features(tensors.iter().map(|tensor| tensor.encoding));
    if header.features != expected {
        return Err(FormatError::FeaturesNeeded { got: header.features, expected });
    }

    // Tensors form one region; sections lie before or after it, in order.
    let region = tensors[0].range.start as u64..tensors.iter().map(|t| t.range.end).max().unwrap_or(0) as u64;
    for s in &header.sections {
        let end = s.offset + s.len;
        if end > region.start && s.offset < region.end {
            let (min, max) = (region.end, bytes.len() as u64);
            return Err(FormatError::SectionBounds { kind: s.kind, offset: s.offset, end, min, max });
        }
    }
    let sections = header.sections.iter().map(|s| SectionEntry {
        code: s.kind,
        range: s.offset as usize..(s.offset + s.len) as usize,
        hash: s.hash,
    });
    Ok(Layout {
        by_name: tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect(),
        sections: sections.collect(),
        root: header.root,
        signature: header.signature,
        file_len: bytes.len() as u64,
        header_end: header.end,
        spec,
        tensors,
    })
}

/// The bytes of a required section, checked against their hash.
fn required<'f>(bytes: &'f [u8], sections: &[RawSection], kind: SectionKind) -> Result<&'f [u8]> {
    let section = sections.iter().find(|s| s.kind == kind.code()).ok_or(FormatError::SectionMissing { kind })?;
    let range = section.offset as usize..(section.offset + section.len) as usize;
    checked(&bytes[range], kind, &section.hash)
}

fn checked<'f>(bytes: &'f [u8], kind: SectionKind, expected: &Hash) -> Result<&'f [u8]> {
    let got = blake3::hash(bytes);
    if got.as_bytes() == expected {
        Ok(bytes)
    } else {
        Err(FormatError::SectionHash { kind, got: got.to_hex().to_string(), expected: hex(expected) })
    }
}

fn json<T: serde::de::DeserializeOwned>(kind: SectionKind, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| FormatError::SectionText { kind, cause: e.to_string() })
}

/// Checks the directory against the schema, and that each stored tensor lies after the one before it.
fn check_tensors(spec: &ModelSpec, raw: Vec<RawTensor>, header_end: u64, max: u64) -> Result<Vec<TensorEntry>> {
    let mut tensors: Vec<TensorEntry> = Vec::with_capacity(raw.len());
    let mut min = header_end;
    for (index, (raw, (expected, shape))) in raw.into_iter().zip(schema::tensors(spec)).enumerate() {
        let RawTensor { name: tensor, dims, encoding: code, place } = raw;
        if tensor != expected {
            return Err(FormatError::TensorName { index, got: tensor, expected });
        }
        if !dims.iter().copied().eq(shape.dims().into_iter().map(|d| d as u64)) {
            return Err(FormatError::TensorShape { tensor, got: dims, expected: shape });
        }
        let Some(encoding) = Encoding::from_code(code) else {
            return Err(FormatError::TensorEncoding { tensor, code });
        };
        if matches!(shape, Shape::Vector(_)) && encoding != Encoding::F32 {
            return Err(FormatError::VectorEncoding { tensor, got: encoding });
        }
        let tied = spec.tied_lm_head && tensor == schema::LM_HEAD;
        let entry = match place {
            RawPlace::Alias { target } => {
                let target = u64::from(target);
                if !tied || target != 0 {
                    let expected = if tied { "tensor 0, the embedding" } else { "its own bytes: it is not tied" };
                    return Err(FormatError::Alias { tensor, target, expected });
                }
                if tensors[0].encoding != encoding {
                    let expected = "a tensor of the same encoding";
                    return Err(FormatError::Alias { tensor, target, expected });
                }
                TensorEntry { name: tensor, alias_of: Some(schema::EMBED.into()), ..tensors[0].clone() }
            }
            RawPlace::Stored { offset, len, hash } => {
                if tied {
                    let expected = "an alias: the model is tied";
                    return Err(FormatError::Alias { tensor, target: index as u64, expected });
                }
                let bytes = shape.bytes(encoding).map_or(u64::MAX, |b| b as u64);
                if len != bytes {
                    return Err(FormatError::TensorLength { tensor, got: len, expected: bytes });
                }
                let alignment = if index == 0 { DATA_ALIGNMENT } else { ALIGNMENT };
                if !offset.is_multiple_of(alignment) {
                    return Err(FormatError::TensorAlignment { tensor, offset, expected: alignment });
                }
                let end = offset.saturating_add(len);
                if offset < min || end > max {
                    return Err(FormatError::TensorBounds { tensor, offset, end, min, max });
                }
                min = end;
                let range = offset as usize..end as usize;
                TensorEntry { name: tensor, shape, encoding, range, hash, alias_of: None }
            }
        };
        tensors.push(entry);
    }
    Ok(tensors)
}

impl Layout {
    /// The directory's entry of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The encodings of the matrices; norms and biases are f32 in every file.
    pub fn encodings(&self) -> EncodingSet {
        self.tensors.iter().filter(|t| matches!(t.shape, Shape::Matrix(..))).map(|t| t.encoding).collect()
    }

    /// The encoding of each role in the first layer. A [`Plan`](crate::Plan) with this recipe has the same directory,
    /// unless other layers have other encodings.
    pub fn recipe(&self) -> Recipe {
        let mut recipe = Recipe::uniform(self.tensors[0].encoding);
        // Backwards, so that the first layer's encodings win.
        for tensor in self.tensors.iter().rev() {
            if let Some(role) = Role::of(&tensor.name) {
                recipe = recipe.with(role, tensor.encoding);
            }
        }
        recipe
    }

    /// The view of a tensor in `bytes`, the file that was parsed.
    ///
    /// # Panics
    /// When `bytes` is another file, shorter than the one parsed.
    pub fn view<'f>(&self, bytes: &'f [u8], entry: &TensorEntry) -> TensorView<'f> {
        TensorView { shape: entry.shape, encoding: entry.encoding, bytes: &bytes[entry.range.clone()] }
    }

    /// The bytes of a section in `bytes`, the file that was parsed; None when the file has no such section.
    ///
    /// # Errors
    /// When the bytes do not match their hash.
    pub fn section<'f>(&self, bytes: &'f [u8], kind: SectionKind) -> Result<Option<&'f [u8]>> {
        let section = self.sections.iter().find(|s| s.code == kind.code());
        section.map(|s| checked(&bytes[s.range.clone()], kind, &s.hash)).transpose()
    }

    /// A copy of the bytes of a section, checked after it was made.
    pub(crate) fn section_copy(&self, bytes: &[u8], kind: SectionKind) -> Result<Option<Vec<u8>>> {
        let Some(section) = self.sections.iter().find(|s| s.code == kind.code()) else { return Ok(None) };
        let copy = bytes[section.range.clone()].to_vec();
        checked(&copy, kind, &section.hash)?;
        Ok(Some(copy))
    }

    /// A section that is JSON; None when the file has none.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, bytes: &[u8], kind: SectionKind) -> Result<Option<T>> {
        self.section_copy(bytes, kind)?.map(|s| json(kind, &s)).transpose()
    }

    /// As [`Self::json`], for a section of at most so many bytes: it is not parsed if it has more, because a parsed list
    /// takes many times the bytes of its text.
    pub(crate) fn json_within<T: serde::de::DeserializeOwned>(
        &self,
        bytes: &[u8],
        kind: SectionKind,
        most: usize,
    ) -> Result<Option<T>> {
        match self.sections.iter().find(|s| s.code == kind.code()).map(|s| s.range.len()) {
            Some(len) if len > most => {
                Err(FormatError::SectionText { kind, cause: format!("it has {len} bytes, at most {most} are read") })
            }
            _ => self.json(bytes, kind),
        }
    }

    /// Bytes of all weights, each stored tensor once.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().filter(|t| t.alias_of.is_none()).map(|t| t.range.len() as u64).sum()
    }

    /// Numbers in all weights, each stored tensor once, padding not counted.
    pub fn weight_count(&self) -> u64 {
        let stored = self.tensors.iter().filter(|t| t.alias_of.is_none());
        stored.map(|t| t.shape.elements().unwrap_or(0) as u64).sum()
    }

    /// Reads every byte of the file and returns what is damaged: chunks of tensors, whole sections, and padding that is
    /// not zero.
    ///
    /// Runs in the current rayon pool.
    pub fn damage(&self, bytes: &[u8]) -> Vec<Damage> {
        let mut damage = Vec::new();
        let mut parts: Vec<Range<usize>> = Vec::new();
        for s in &self.sections {
            if blake3::Hasher::new().update_rayon(&bytes[s.range.clone()]).finalize().as_bytes() != &s.hash {
                let name = SectionKind::from_code(s.code).map_or(s.code.to_string(), |k| k.to_string());
                damage.push(Damage { what: format!("section {name}"), range: s.range.clone() });
            }
            parts.push(s.range.clone());
        }
        let mut expected = self.chunk_hashes(bytes).unwrap_or_default().iter();
        for t in self.tensors.iter().filter(|t| t.alias_of.is_none()) {
            let content = &bytes[t.range.clone()];
            let chunks = tree::chunks(content);
            let expected: Vec<&Hash> = expected.by_ref().take(chunks.len()).collect();
            if tree::root(&chunks, content) != t.hash {
                let damaged = damaged_chunks(&chunks, &expected, content.len());
                damage.extend(damaged.into_iter().map(|range| Damage {
                    what: format!("tensor {}", t.name),
                    range: t.range.start + range.start..t.range.start + range.end,
                }));
            }
            parts.push(t.range.clone());
        }
        parts.sort_by_key(|range| range.start);
        let mut at = self.header_end as usize;
        let end = bytes.len();
        for (start, next) in parts.into_iter().map(|part| (part.start, part.end)).chain(std::iter::once((end, end))) {
            if bytes[at..start].iter().any(|&b| b != 0) {
                damage.push(Damage { what: "padding, which should be zero,".into(), range: at..start });
            }
            at = next;
        }
        damage.sort_by_key(|d| d.range.start);
        damage
    }

    /// Where preamble and section table end.
    pub(crate) fn header_end(&self) -> usize {
        self.header_end as usize
    }

    /// The chunk hashes of all tensors, in order; None if the section is missing, damaged, or of the wrong length.
    pub(crate) fn chunk_hashes<'f>(&self, bytes: &'f [u8]) -> Option<&'f [Hash]> {
        let hashes = self.section(bytes, SectionKind::Chunks).ok()??.as_chunks::<HASH_BYTES>().0;
        let stored = self.tensors.iter().filter(|t| t.alias_of.is_none());
        let expected: usize = stored.map(|t| tree::chunk_count(t.range.len())).sum();
        (hashes.len() == expected).then_some(hashes)
    }
}

/// The runs of chunks that differ from `expected`; the whole tensor if no difference is known.
fn damaged_chunks(chunks: &[Hash], expected: &[&Hash], len: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, _) in chunks.iter().zip(expected).enumerate().filter(|(_, (got, expected))| got != *expected) {
        let range = i * CHUNK_BYTES..len.min((i + 1) * CHUNK_BYTES);
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => runs.push(range),
        }
    }
    if runs.is_empty() {
        runs.push(0..len);
    }
    runs
}
