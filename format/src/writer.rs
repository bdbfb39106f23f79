//! Writes a file: the layout is planned first, tensors are encoded in parallel in small pieces, sections go around
//! them, and a rename puts the file in place.
//!
//! ```text
//! preamble, section table     written last
//! spec, directory             their sizes follow from the plan
//! tensors
//! all other sections          may be added while tensors are written: nothing depends on their sizes
//! ```

use crate::at::FileAt;
use crate::encoding::{Encoding, Shape, features};
use crate::error::{FileAction, FormatError, Result};
use crate::header::{self, ALIGNMENT, DATA_ALIGNMENT, HASH_BYTES, Hash, RawPlace, RawSection, RawTensor, SectionKind};
use crate::partial::temporary_sibling;
use crate::recipe::Recipe;
use crate::replace::reserve;
use crate::schema::{self, Role};
use crate::spec::ModelSpec;
use crate::stream::Stream;
use crate::tree;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file larger than this bypasses the page cache; a smaller one is likely to be read again at once.
const DIRECT_BYTES: u64 = 256 << 20;

/// The contents of a file, except the weights' values.
#[derive(Clone, Debug)]
pub struct Plan {
    spec: ModelSpec,
    recipe: Recipe,
    tensors: Vec<(String, Shape, Encoding)>,
    sections: BTreeMap<SectionKind, Vec<u8>>,
    later: u64,
}

impl Plan {
    /// Plans a file for a model: every matrix in the encoding of its role, or all in one; vectors in f32. The head of a
    /// tied model is an alias of the embedding and has its encoding.
    ///
    /// # Errors
    /// When the model's numbers are out of range.
    pub fn new(spec: ModelSpec, recipe: impl Into<Recipe>) -> Result<Plan> {
        spec.check()?;
        let mut recipe = recipe.into();
        if spec.tied_lm_head {
            recipe = recipe.with(Role::Head, recipe.encoding(Role::Embedding));
        }
        let tensors = schema::tensors(&spec).into_iter().map(|(name, shape)| {
            let encoding = match shape {
                Shape::Vector(_) => Encoding::F32,
                Shape::Matrix(..) => recipe.encoding(Role::of(&name).expect("every matrix of the schema has a role")),
            };
            (name, shape, encoding)
        });
        let tensors = tensors.collect();
        let json = serde_json::to_vec(&spec).expect("a spec is plain data");
        Ok(Plan { spec, recipe, tensors, sections: BTreeMap::from([(SectionKind::Spec, json)]), later: 0 })
    }

    /// The encoding of each role, for every matrix that [`Plan::set_encoding`] left as it was.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// Gives one matrix another encoding than the recipe says. In a tied model the head follows the embedding.
    ///
    /// # Panics
    /// When there is no matrix of that name, or it is the head of a tied model.
    pub fn set_encoding(&mut self, tensor: &str, encoding: Encoding) {
        assert!(!(self.spec.tied_lm_head && tensor == schema::LM_HEAD), "the head of a tied model is an alias");
        let alias = (self.spec.tied_lm_head && tensor == schema::EMBED).then_some(schema::LM_HEAD);
        for name in std::iter::once(tensor).chain(alias) {
            let found = self.tensors.iter_mut().find(|(other, ..)| other == name);
            match found {
                Some((_, Shape::Matrix(..), own)) => *own = encoding,
                _ => panic!("{name} is no matrix of this model"),
            }
        }
    }

    /// Adds a section that holds `bytes` as they are.
    ///
    /// # Panics
    /// For the kinds that the writer makes itself.
    pub fn section(&mut self, kind: SectionKind, bytes: Vec<u8>) {
        assert!(!made_here(kind), "the writer makes section {kind}");
        self.sections.insert(kind, bytes);
    }

    /// The sections so far.
    pub fn sections(&self) -> &BTreeMap<SectionKind, Vec<u8>> {
        &self.sections
    }

    /// Reserves space for `later` bytes of sections that are added later, see [`Writer::section`].
    pub fn expect_bytes(&mut self, later: u64) {
        self.later += later;
    }

    /// Adds a section that holds `value` as JSON.
    pub fn json(&mut self, kind: SectionKind, value: &impl serde::Serialize) {
        self.section(kind, serde_json::to_vec(value).expect("sections are plain data"));
    }

    /// Name, shape and encoding of every tensor, in the file's order.
    pub fn tensors(&self) -> &[(String, Shape, Encoding)] {
        &self.tensors
    }
}

/// Whether the writer itself makes sections of this kind.
fn made_here(kind: SectionKind) -> bool {
    kind.required() || kind == SectionKind::Chunks
}

/// A file being written, under a temporary name beside its own. Dropped before [`Writer::finish`], it is removed.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    temp: NamedTempFile,
    spec: ModelSpec,
    tensors: Vec<RawTensor>,
    shapes: Vec<(Shape, Encoding)>,
    sections: BTreeMap<SectionKind, Vec<u8>>,
    /// Where the last tensor ends.
    tensors_end: u64,
    /// Number of stored tensors written so far, in the file's order.
    written: usize,
    chunks: Vec<Hash>,
    /// Some until all tensors are written.
    stream: Option<Stream>,
}

/// A finished file.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Its length.
    pub file_len: u64,
    /// Its root hash.
    pub root: Hash,
}

impl Writer {
    /// Lays out the file and reserves its disk space beside `path`; `path` itself is untouched.
    ///
    /// # Errors
    /// When the folder cannot be written, or has too little space.
    pub fn create(path: &Path, plan: Plan) -> Result<Writer> {
        let Plan { spec, recipe: _, tensors, mut sections, later } = plan;
        // Offsets and hashes are filled in later; the directory's length does not depend on them.
        let mut raw: Vec<RawTensor> = Vec::with_capacity(tensors.len());
        let mut chunks = 0;
        for (name, shape, encoding) in &tensors {
            let place = if spec.tied_lm_head && name == schema::LM_HEAD {
                RawPlace::Alias { target: 0 }
            } else {
                let len = shape.bytes(*encoding).ok_or_else(|| FormatError::TensorLength {
                    tensor: name.clone(),
                    got: u64::MAX,
                    expected: u64::MAX,
                })?;
                chunks += tree::chunk_count(len);
                RawPlace::Stored { offset: 0, len: len as u64, hash: [0; HASH_BYTES] }
            };
            raw.push(RawTensor::new(name.clone(), *shape, encoding.code(), place));
        }
        sections.insert(SectionKind::Directory, header::encode_directory(&raw));
        if chunks > 0 {
            sections.insert(SectionKind::Chunks, vec![0; chunks * HASH_BYTES]);
        }
        let data = section_offsets(&sections, true, head_end()).1.next_multiple_of(DATA_ALIGNMENT);
        let mut at = data;
        for tensor in &mut raw {
            if let RawPlace::Stored { offset, len, .. } = &mut tensor.place {
                *offset = at;
                at = (at + *len).next_multiple_of(ALIGNMENT);
            }
        }
        let (path, temp) = temporary_sibling(path)?;
        let mut writer = Writer {
            shapes: tensors.iter().map(|t| (t.1, t.2)).collect(),
            tensors: raw,
            tensors_end: at,
            path,
            temp,
            spec,
            sections,
            written: 0,
            chunks: Vec::with_capacity(chunks),
            stream: None,
        };
        reserve(writer.temp.as_file(), writer.file_len() + later).map_err(writer.failed(FileAction::Reserve))?;
        let direct = (writer.file_len() > DIRECT_BYTES).then_some(writer.temp.path());
        let stream = writer.temp.as_file().try_clone().and_then(|file| Stream::new(file, direct, data));
        writer.stream = Some(stream.map_err(writer.failed(FileAction::Write))?);
        Ok(writer)
    }

    /// The model being written.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Bytes of the file with the sections known so far.
    pub fn file_len(&self) -> u64 {
        section_offsets(&self.sections, false, self.tensors_end).1
    }

    /// Adds or replaces a section that holds `bytes` as they are.
    ///
    /// # Panics
    /// For the kinds that the writer makes itself.
    pub fn section(&mut self, kind: SectionKind, bytes: Vec<u8>) {
        assert!(!made_here(kind), "the writer makes section {kind}");
        self.sections.insert(kind, bytes);
    }

    /// Adds or replaces a section that holds `value` as JSON.
    pub fn json(&mut self, kind: SectionKind, value: &impl serde::Serialize) {
        self.section(kind, serde_json::to_vec(value).expect("sections are plain data"));
    }

    /// Directory indices of all tensors that have bytes of their own, in the file's order.
    pub fn stored(&self) -> Vec<usize> {
        let stored = |i: &usize| matches!(self.tensors[*i].place, RawPlace::Stored { .. });
        (0..self.tensors.len()).filter(stored).collect()
    }

    fn failed(&self, action: FileAction) -> impl Fn(std::io::Error) -> FormatError + use<> {
        let path = self.path.clone();
        move |source| FormatError::Io { path: path.clone(), action, source }
    }

    /// Encodes and writes tensor `index`, the next of [`Writer::stored`]. `fill` gets a range of the tensor's pieces
    /// (panels of a matrix, the whole of a vector) and the bytes to fill; it runs in the current rayon pool, pieces in
    /// any order.
    ///
    /// # Errors
    /// The first error of `fill` or of the file; after either, drop the writer.
    pub fn write<E: From<FormatError> + Send>(
        &mut self,
        index: usize,
        fill: impl Fn(Range<usize>, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let unwritten = |what| FormatError::Unwritten { tensor: self.tensors[index].name.clone(), what };
        let RawPlace::Stored { offset, len, .. } = self.tensors[index].place else {
            return Err(unwritten("written, but is an alias").into());
        };
        if self.stored().get(self.written) != Some(&index) {
            return Err(unwritten("written out of its turn, or twice").into());
        }
        let failed = self.failed(FileAction::Write);
        let stream = self.stream.as_mut().expect("it is there until all tensors are written");
        let pieces = self.shapes[index].0.pieces();
        let (hash, chunks) = stream.tensor((offset, pieces, len as usize / pieces), fill, |e| E::from(failed(e)))?;
        self.tensors[index].place = RawPlace::Stored { offset, len, hash };
        self.chunks.extend(chunks);
        self.written += 1;
        Ok(())
    }

    /// Writes everything else, which makes the temporary file a complete one. It may be opened, closed, and given
    /// further sections; [`Writer::finish`] seals it again.
    ///
    /// # Errors
    /// When a tensor was not written or the system fails.
    pub fn seal(&mut self) -> Result<(&Path, Summary)> {
        if let Some(&next) = self.stored().get(self.written) {
            return Err(FormatError::Unwritten { tensor: self.tensors[next].name.clone(), what: "not written" });
        }
        if let Some(stream) = self.stream.take() {
            let (at, rest) = stream.finish().map_err(self.failed(FileAction::Write))?;
            self.temp.as_file().write_all_at(&rest, at).map_err(self.failed(FileAction::Write))?;
            if !self.chunks.is_empty() {
                self.sections.insert(SectionKind::Chunks, self.chunks.as_flattened().to_vec());
            }
            self.sections.insert(SectionKind::Directory, header::encode_directory(&self.tensors));
        }
        let (head, _) = section_offsets(&self.sections, true, head_end());
        let (tail, file_len) = section_offsets(&self.sections, false, self.tensors_end);
        let offsets = head.into_iter().chain(tail);
        let (file, failed) = (self.temp.as_file(), self.failed(FileAction::Write));
        let mut table = Vec::with_capacity(self.sections.len());
        file.set_len(file_len).map_err(&failed)?;
        for ((kind, bytes), offset) in self.sections.iter().zip(offsets) {
            let (len, hash) = (bytes.len() as u64, blake3::hash(bytes).into());
            table.push(RawSection { kind: kind.code(), required: kind.required(), offset, len, hash });
            file.write_all_at(bytes, offset).map_err(&failed)?;
        }
        let (head, root) =
            header::encode(&table, features(self.shapes.iter().map(|(_, encoding)| *encoding)), file_len);
        file.write_all_at(&head, 0).map_err(&failed)?;
        Ok((self.temp.path(), Summary { file_len, root }))
    }

    /// Seals the file, syncs, and gives it its name.
    ///
    /// # Errors
    /// When a tensor was not written or the system fails; a file that was there before stays.
    pub fn finish(mut self) -> Result<Summary> {
        let (_, summary) = self.seal()?;
        self.temp.as_file().sync_all().map_err(self.failed(FileAction::Sync))?;
        let failed = self.failed(FileAction::RenameTo);
        self.temp.persist(&self.path).map_err(|e| failed(e.error))?;
        sync_folder(&self.path);
        Ok(summary)
    }
}

/// Syncs the folder of a file, so that its new name lasts. Some file systems cannot, which does no harm.
pub(crate) fn sync_folder(path: &Path) {
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        let _ = folder.sync_all();
    }
}

/// Where the sections before the tensors begin: after a section table with every kind of section.
fn head_end() -> u64 {
    header::encoded_bytes(SectionKind::ALL.len())
}

/// Offsets of the sections before the tensors, or of those after them, from `at` on; and the end of the last one.
fn section_offsets(sections: &BTreeMap<SectionKind, Vec<u8>>, before: bool, mut at: u64) -> (Vec<u64>, u64) {
    let mut offsets = Vec::new();
    for bytes in sections.iter().filter(|(kind, _)| kind.required() == before).map(|(_, bytes)| bytes) {
        at = at.next_multiple_of(ALIGNMENT);
        offsets.push(at);
        at += bytes.len() as u64;
    }
    (offsets, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_matrix_may_have_an_encoding_of_its_own() {
        for tied in [false, true] {
            let spec = ModelSpec { n_layers: 2, tied_lm_head: tied, ..ModelSpec::default() };
            let mut plan = Plan::new(spec, Encoding::Q8).unwrap();
            plan.set_encoding("layers.1.attn.v.weight", Encoding::F16);
            plan.set_encoding(schema::EMBED, Encoding::F32);
            for (name, _, encoding) in plan.tensors().iter().filter(|t| matches!(t.1, Shape::Matrix(..))) {
                let expected = match name.as_str() {
                    "layers.1.attn.v.weight" => Encoding::F16,
                    schema::EMBED => Encoding::F32,
                    schema::LM_HEAD if tied => Encoding::F32,
                    _ => Encoding::Q8,
                };
                assert_eq!(*encoding, expected, "{name}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "final_norm.weight is no matrix")]
    fn a_vector_has_no_other_encoding() {
        Plan::new(ModelSpec::default(), Encoding::Q8).unwrap().set_encoding(schema::FINAL_NORM, Encoding::F16);
    }
}
