//! A tokenizer that the file holds compiled: nothing is parsed, and its tables stay where they are.

use crate::error::{Result, TokenizerError};
use crate::vocab::{CompiledVocabulary, Splitter, VocabularyError};
use nanoserve_format::{NsvFile, SectionKind};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A section and what was made of it.
pub(crate) struct VocabularySection {
    bytes: Bytes,
    /// Compiling the expression takes longer than all the rest: the first text pays.
    splitter: OnceLock<Splitter>,
}

/// Where the section is.
enum Bytes {
    File(Arc<NsvFile>, Range<usize>),
    Memory(Vec<u8>),
}

impl VocabularySection {
    /// The section of a file, its hash checked; None where it has none that this program knows.
    pub fn from_file(file: &Arc<NsvFile>) -> Result<Option<Self>> {
        let damaged = |source: nanoserve_format::FormatError| TokenizerError::Json { source: source.into() };
        if file.section(SectionKind::Vocabulary).map_err(damaged)?.is_none() {
            return Ok(None);
        }
        let code = SectionKind::Vocabulary.code();
        let range = file.layout().sections.iter().find(|s| s.code == code).map(|s| s.range.clone());
        match range.map(|range| Self::checked(Bytes::File(file.clone(), range))).transpose() {
            // Of a layout that is not known yet: tokenizer.json is there too.
            Err(TokenizerError::Vocabulary(VocabularyError::Version { .. })) => Ok(None),
            compiled => compiled,
        }
    }

    /// The bytes of a section.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::checked(Bytes::Memory(bytes))
    }

    fn checked(bytes: Bytes) -> Result<Self> {
        let compiled = Self { bytes, splitter: OnceLock::new() };
        compiled.vocabulary()?;
        Ok(compiled)
    }

    /// The tables: sixteen numbers are read.
    pub fn vocabulary(&self) -> Result<CompiledVocabulary<'_>> {
        let bytes = match &self.bytes {
            Bytes::File(file, range) => file.bytes().get(range.clone()).unwrap_or_default(),
            Bytes::Memory(bytes) => bytes,
        };
        Ok(CompiledVocabulary::open(bytes)?)
    }

    /// The ids of a text, and nothing in front of it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let vocabulary = self.vocabulary()?;
        let splitter = match self.splitter.get() {
            Some(splitter) => splitter,
            None => {
                let splitter = Splitter::new(&vocabulary)?;
                self.splitter.get_or_init(|| splitter)
            }
        };
        Ok(vocabulary.encode(splitter, text)?)
    }
}
