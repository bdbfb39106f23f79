//! A compiled tokenizer in a file: nothing is parsed, and its tables are read in place.

use crate::error::{Result, TokenizerError};
use crate::vocab::{Budget, CompiledVocabulary, Splitter, VocabularyError, check_exact};
use nanoserve_format::{NsvFile, SectionKind};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A section, and the splitter built from it.
pub(crate) struct VocabularySection {
    bytes: Bytes,
    /// The splitting expressions, copied before they were checked.
    patterns: Vec<String>,
    /// Built for the first text: compiling the expression takes longer than everything else.
    splitter: OnceLock<Splitter>,
}

/// Where the section's bytes are.
enum Bytes {
    File(Arc<NsvFile>, Range<usize>),
    Memory(Vec<u8>),
}

impl VocabularySection {
    /// The section of a file, its hash checked; None if it has none, one of an unknown layout, or one with an expression
    /// that this program's engine takes in another way than the one it was written for.
    pub fn from_file(file: &Arc<NsvFile>) -> Result<Option<Self>> {
        let damaged = |source: nanoserve_format::FormatError| TokenizerError::Json { source: source.into() };
        if file.section(SectionKind::Vocabulary).map_err(damaged)?.is_none() {
            return Ok(None);
        }
        let code = SectionKind::Vocabulary.code();
        let range = file.layout().sections.iter().find(|s| s.code == code).map(|s| s.range.clone());
        match range.map(|range| Self::checked(Bytes::File(file.clone(), range))).transpose() {
            // The layout is unknown to this version: the file has tokenizer.json too.
            Err(TokenizerError::Vocabulary(VocabularyError::Version { .. })) => Ok(None),
            Ok(Some(section)) => {
                let exact = section.patterns.iter().all(|pattern| check_exact(pattern).is_ok());
                Ok(exact.then_some(section))
            }
            compiled => compiled,
        }
    }

    /// A section from its bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::checked(Bytes::Memory(bytes))
    }

    fn checked(bytes: Bytes) -> Result<Self> {
        let compiled = Self { bytes, patterns: Vec::new(), splitter: OnceLock::new() };
        let patterns = compiled.vocabulary()?.patterns()?;
        Ok(Self { patterns, ..compiled })
    }

    /// The tables. This reads only the header's sixteen numbers.
    pub fn vocabulary(&self) -> Result<CompiledVocabulary<'_>> {
        let bytes = match &self.bytes {
            Bytes::File(file, range) => file.bytes().get(range.clone()).unwrap_or_default(),
            Bytes::Memory(bytes) => bytes,
        };
        Ok(CompiledVocabulary::open(bytes)?)
    }

    /// The ids of a text, with nothing added in front.
    pub fn encode(&self, text: &str, budget: &mut Budget) -> Result<Vec<u32>> {
        let vocabulary = self.vocabulary()?;
        let splitter = match self.splitter.get() {
            Some(splitter) => splitter,
            None => {
                let splitter = Splitter::with(&vocabulary, &self.patterns)?;
                self.splitter.get_or_init(|| splitter)
            }
        };
        Ok(vocabulary.encode_within(splitter, text, budget)?)
    }
}
