//! A model's probabilities for a text in a file, so that another model of the same vocabulary can be compared with them.
//!
//! ```text
//! 0    8   magic: one byte above 0x7f, then NSVKL, CR, LF
//! 8    4   version, 1                                 all numbers little-endian
//! 12   4   tokens of the vocabulary
//! 16   4   tokens of a window
//! 20   4   windows
//! 24   32  root hash of the model's file
//! 56       the windows' tokens, 4 bytes each
//!          a row for each scored token: f32 largest log-probability, f32 step, u16 for each token of the vocabulary
//!      32  BLAKE3 of everything before
//! ```
//!
//! The log-probability of token t is `largest - step * number[t]`, which is off by half a step at most: 3e-4 nats for a row
//! whose values lie within 40. What lies further below counts as 40 below. The file appears whole or not at all.

use super::{Text, scored_per_window};
use crate::error::{Result, RuntimeError};
use crate::generate::logprobs::log_sum_exp;
use nanoserve_format::{FileAction, FormatError, Hash, Replacing, hex};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"\x8bNSVKL\r\n";
const VERSION: u32 = 1;
const HEADER: usize = 56;
const HASH: usize = 32;
/// How far below the largest a log-probability is kept, in nats.
const DEPTH: f64 = 40.0;

/// Writes the rows of a text.
#[derive(Debug)]
pub struct BaseWriter {
    to: Replacing,
    hash: blake3::Hasher,
    row: Vec<u8>,
}

fn row_bytes(vocab_size: usize) -> usize {
    8 + 2 * vocab_size
}

impl BaseWriter {
    /// Begins the file for the first `windows` windows of a text. Takes the room on the disk that all rows will need.
    ///
    /// # Errors
    /// When the file cannot be made, or the disk has no room for it.
    pub fn begin(path: &Path, text: &Text, windows: usize, vocab_size: usize, root: &Hash) -> Result<BaseWriter> {
        let rows = windows * scored_per_window(text.ctx);
        let bytes = HEADER + 4 * windows * text.ctx + rows * row_bytes(vocab_size) + HASH;
        let mut writer =
            BaseWriter { to: Replacing::begin(path, bytes as u64)?, hash: blake3::Hasher::new(), row: Vec::new() };
        writer.row.extend_from_slice(&MAGIC);
        for number in [VERSION, vocab_size as u32, text.ctx as u32, windows as u32] {
            writer.row.extend(number.to_le_bytes());
        }
        writer.row.extend_from_slice(root);
        writer.row.extend(text.tokens[..windows * text.ctx].iter().flat_map(|id| id.to_le_bytes()));
        writer.put()?;
        Ok(writer)
    }

    /// Adds the logits of a scored token.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, logits: &[f32]) -> Result<()> {
        let log_sum = log_sum_exp(logits);
        let largest = f64::from(logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)));
        let least = f64::from(logits.iter().fold(f32::INFINITY, |a, &b| a.min(b)));
        let step = ((largest - least).min(DEPTH) / f64::from(u16::MAX)) as f32;
        self.row.extend(((largest - log_sum) as f32).to_le_bytes());
        self.row.extend(step.to_le_bytes());
        let scale = if step > 0.0 { 1.0 / f64::from(step) } else { 0.0 };
        // The cast saturates: what is further below than the depth becomes the largest number.
        self.row.extend(logits.iter().flat_map(|&x| (((largest - f64::from(x)) * scale).round() as u16).to_le_bytes()));
        self.put()
    }

    /// Ends the file; only now it has its name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        let hash = self.hash.finalize();
        self.to.write(hash.as_bytes())?;
        Ok(self.to.finish()?)
    }

    fn put(&mut self) -> Result<()> {
        self.hash.update(&self.row);
        self.to.write(&self.row)?;
        self.row.clear();
        Ok(())
    }
}

/// The rows of a text in a file that was checked.
#[derive(Debug)]
pub struct Base {
    path: PathBuf,
    file: BufReader<File>,
    /// Tokens of a window.
    pub ctx: usize,
    /// Windows that it holds.
    pub windows: usize,
    vocab_size: usize,
    tokens: Vec<u32>,
    row: Vec<u8>,
}

impl Base {
    /// Opens a file and checks all of it against its hash.
    ///
    /// # Errors
    /// When it cannot be read, is something else, is damaged, or has another vocabulary.
    pub fn open(path: &Path, vocab_size: usize) -> Result<Base> {
        let wrong = |cause: String| RuntimeError::Reference { path: path.display().to_string(), cause };
        let failed = |source| FormatError::Io { path: path.into(), action: FileAction::Read, source };
        let found = std::fs::metadata(path).map_err(failed)?;
        if !found.is_file() {
            return Err(wrong("it is no regular file".into()));
        }
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
        let mut header = [0; HEADER];
        let begun = file.read_exact(&mut header).is_ok() && header[..8] == MAGIC;
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        if !begun || number(8) != VERSION as usize {
            return Err(wrong("it is no file of probabilities of this version".into()));
        }
        let [of, ctx, windows] = [12, 16, 20].map(number);
        let sizes = windows.checked_mul(ctx).and_then(|tokens| {
            let rows = windows.checked_mul(scored_per_window(ctx))?;
            tokens.checked_mul(4)?.checked_add(rows.checked_mul(row_bytes(of))?)?.checked_add(HEADER + HASH)
        });
        if ctx < 4 || sizes.map(|n| n as u64) != Some(found.len()) {
            return Err(wrong(format!("it is damaged: it has {} bytes, its header says otherwise", found.len())));
        }
        if of != vocab_size {
            return Err(wrong(format!("it has probabilities of {of} tokens, the model has {vocab_size}")));
        }
        let mut hash = blake3::Hasher::new();
        file.rewind().map_err(failed)?;
        std::io::copy(&mut file.by_ref().take(found.len() - HASH as u64), &mut hash).map_err(failed)?;
        let mut kept = [0; HASH];
        file.read_exact(&mut kept).map_err(failed)?;
        if hash.finalize() != kept {
            return Err(wrong(format!("it is damaged: its hash is not {}", hex(&kept[..8]))));
        }
        file.seek(SeekFrom::Start(HEADER as u64)).map_err(failed)?;
        let mut bytes = vec![0; 4 * windows * ctx];
        file.read_exact(&mut bytes).map_err(failed)?;
        let tokens = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(Base { path: path.into(), file, ctx, windows, vocab_size, tokens, row: vec![0; row_bytes(of)] })
    }

    /// Checks that the rows are those of this text.
    ///
    /// # Errors
    /// When its windows have another length, or its tokens are others.
    pub fn check(&self, text: &Text, windows: usize) -> Result<()> {
        let wrong = |cause| Err(RuntimeError::Reference { path: self.path.display().to_string(), cause });
        let tokens = windows * text.ctx;
        if self.ctx != text.ctx {
            return wrong(format!("its windows have {} tokens, these have {}", self.ctx, text.ctx));
        }
        match self.tokens.get(..tokens) {
            Some(same) if *same == text.tokens[..tokens] => Ok(()),
            _ => wrong("it is of another text, or of another tokenizer".into()),
        }
    }

    /// The next row's log-probabilities, which sum to 1: `[vocab_size]`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_row(&mut self) -> Result<Vec<f32>> {
        let (path, row) = (self.path.clone(), &mut self.row);
        let failed = |source| FormatError::Io { path, action: FileAction::Read, source };
        self.file.read_exact(row).map_err(failed)?;
        let float = |at: usize| f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let (largest, step) = (float(0), float(4));
        let numbers = row[8..].chunks_exact(2).map(|b| f32::from(u16::from_le_bytes([b[0], b[1]])));
        let mut out: Vec<f32> = numbers.map(|n| largest - step * n).collect();
        let off = log_sum_exp(&out) as f32;
        out.iter_mut().for_each(|x| *x -= off);
        debug_assert_eq!(out.len(), self.vocab_size);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        let tokens: Vec<u32> = (0..8).collect();
        let text = Text { tokens: &tokens, ctx: 4, bos: None, most: None };
        let rows = [[1.0f32, 2.0, 3.0], [0.0, 0.0, 0.0], [9.0, -500.0, 9.0], [1e-3, 0.5, -0.25]];
        let rows = &rows[..2 * scored_per_window(4)];
        let mut writer = BaseWriter::begin(&path, &text, 2, 3, &[7; 32]).unwrap();
        rows.iter().for_each(|row| writer.push(row).unwrap());
        assert!(!path.exists(), "it has its name at the end");
        writer.finish().unwrap();
        let mut base = Base::open(&path, 3).unwrap();
        base.check(&text, 2).unwrap();
        for row in rows {
            let log_sum = log_sum_exp(row);
            for (got, &logit) in base.next_row().unwrap().into_iter().zip(row) {
                let expected = (f64::from(logit) - log_sum).max(-41.0);
                assert!(
                    (f64::from(got) - expected).abs() < 1.0
                        && (expected < -40.0 || (f64::from(got) - expected).abs() < 4e-4)
                );
            }
        }
        let other: Vec<u32> = (1..9).collect();
        assert!(base.check(&Text { tokens: &other, ..text }, 2).is_err());
        assert!(base.check(&Text { ctx: 8, ..text }, 1).is_err());
        assert!(Base::open(&path, 4).is_err() && Base::open(folder.path(), 3).is_err());
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert!(Base::open(&path, 3).is_err(), "byte {at}");
        }
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(Base::open(&path, 3).is_err(), "{len} bytes");
        }
    }
}
