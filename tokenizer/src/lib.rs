//! Turns text into token ids and back.
//!
//! **Two forms.** A tokenizer that a file holds compiled is read in place, in a millisecond or two
//! ([`Tokenizer::from_file`]); otherwise, with the feature `json`, the `tokenizers` crate parses tokenizer.json
//! ([`Tokenizer::from_json`]). The ids are the same. Without that feature there is no C library in this crate's tree.
//!
//! **Prompts.** A prompt has the beginning-of-text token (BOS) once, whatever adds it, and nothing after its text: see
//! [`Tokenizer::encode`]. A tokenizer.json may carry truncation, padding and merge dropout from training; all three
//! are switched off, so that every text has one encoding and keeps its whole length.
//!
//! **Streams.** [`TextStream`] takes ids one at a time and returns whole characters.
//!
//! **Compiled vocabularies.** [`vocab`] has the layout of the section, for readers and writers.
//!
//! ```
//! use nanoserve_tokenizer::vocab::{Contents, Family, Piece};
//! use nanoserve_tokenizer::{TextStream, Tokenizer};
//!
//! // Every byte is a token, and nothing is merged.
//! let mut contents = Contents::new(Family::ByteLevel);
//! contents.byte_ids = (0..256).collect();
//! contents.pieces = (0..=255u8).map(|b| Some(Piece { bytes: vec![b], ..Piece::default() })).collect();
//!
//! let tokenizer = Tokenizer::from_section(contents.to_bytes(), None, None)?;
//! let ids = tokenizer.encode("é", true)?;
//! assert_eq!(ids, [0xc3, 0xa9]);
//! let mut stream = TextStream::new(&tokenizer, true);
//! assert_eq!((stream.push(ids[0])?, stream.push(ids[1])?), ("".into(), "é".into()));
//! # Ok::<(), nanoserve_tokenizer::TokenizerError>(())
//! ```
//!
//! The trap: [`TextStream::new`] is for the beginning of a text. To continue a prompt, use [`TextStream::after`].

mod error;
#[cfg(feature = "json")]
mod json;
mod panic;
mod pieces;
mod section;
mod stream;
#[cfg(all(test, feature = "json"))]
mod testing;
mod tokenizer;
mod vectors;
pub mod vocab;

pub use error::{Result, TokenizerError};
#[cfg(feature = "json")]
pub use json::{added_in_front, load_json};
pub use panic::{LibraryPanicked, catch_panic};
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
pub use vocab::VocabularyError;
