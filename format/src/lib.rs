//! The `.nsv` model file: what its bytes mean, how they are checked, mapped and written.
//!
//! One file holds everything a model needs to run: the numbers that describe it ([`ModelSpec`]), its weights in
//! the layout that the kernels read ([`panel`]), its tokenizer, chat template and generation defaults. Opening maps
//! the file and checks its header; no weight is read, converted or copied. `docs/nsv.md` specifies the bytes for
//! other readers; this crate is that document in executable form. It knows nothing of Hugging Face, kernels or
//! regular expressions.
//!
//! ```
//! use nanoserve_format::{Encoding, ModelSpec, Plan, SectionKind, Shape, Writer, panel, parse, schema};
//!
//! // A tiny model: its numbers decide which tensors it has.
//! let spec = ModelSpec { hidden_size: 8, intermediate_size: 16, n_layers: 1, n_heads: 2, n_kv_heads: 1, head_dim: 4,
//!     vocab_size: 32, tied_lm_head: true, ..ModelSpec::default() };
//! let plan = Plan::new(spec, Encoding::F32)?;
//! let dir = tempfile::tempdir().unwrap();
//! let path = dir.path().join("tiny.nsv");
//! let mut writer = Writer::create(&path, plan)?;
//! for index in writer.stored() {
//!     writer.write(index, |_panels, out| { out.fill(0); Ok::<(), nanoserve_format::FormatError>(()) })?;
//! }
//! writer.finish()?;
//!
//! let bytes = std::fs::read(&path).unwrap();
//! let layout = parse(&bytes)?;
//! assert_eq!(layout.tensor("lm_head.weight").unwrap().alias_of, Some("embed.weight".into()));
//! # Ok::<(), nanoserve_format::FormatError>(())
//! ```
//!
//! The trap: opening checks structure, not weights. Only [`NsvFile::check`] finds a flipped bit in a weight.

#[cfg(target_endian = "big")]
compile_error!("a .nsv file is little-endian and mapped as it is: a big-endian machine cannot run it");

mod at;
mod bundle;
#[allow(unsafe_code)]
pub mod codes;
mod encoding;
mod error;
mod float;
mod foreign;
mod golden;
mod header;
mod hex;
mod keys;
#[allow(unsafe_code)]
mod map;
mod meta;
#[allow(unsafe_code)]
mod pack_q8;
pub mod panel;
mod partial;
pub mod q8;
mod reader;
mod recipe;
mod repair;
mod replace;
pub mod schema;
mod sign;
#[allow(unsafe_code)]
pub mod signal;
mod spec;
pub mod splitmix;
mod stream;
#[cfg(test)]
mod tiny;
pub mod tree;
mod user_key;
mod writer;

pub use bundle::{Bundle, BundleError, bundle};
pub use codes::Codes;
pub use encoding::{Encoding, EncodingSet, INPUT_BLOCK, InputForm, PANEL_ROWS, Shape, padded_rows};
pub use error::{ErrorKind, FileAction, FormatError, Result};
pub use foreign::{Foreign, json_text, on_screen};
pub use golden::{Golden, GoldenRow, GoldenRun, KEPT_LOGITS, TokenizerVector, TokenizerVectors};
pub use golden::{
    MAX_GOLDEN_BYTES, MAX_GOLDEN_IDS, MAX_GOLDEN_RUNS, MAX_REFERENCE_BYTES, MAX_REFERENCE_IDS, MAX_VECTOR_BYTES,
    MAX_VECTOR_IDS, MAX_VECTOR_TEXTS,
};
pub use header::{HASH_BYTES, Hash, MAGIC, PREAMBLE_BYTES, SectionKind, VERSION};
pub use hex::hex;
pub use keys::{KeyError, PublicKey, SecretKey};
pub use map::{NsvFile, open_now};
pub use meta::{GenerationDefaults, LicenseFile, Provenance, SourceFile};
pub use reader::{Damage, Layout, SectionEntry, TensorEntry, TensorView, parse};
pub use recipe::{Recipe, RecipeError};
pub use repair::{RepairError, Repaired, repair};
pub use replace::{Replacing, can_replace, replace};
pub use schema::Role;
pub use sign::{SIGNATURE_PLACE, Signature, SignatureError, SignatureScheme};
pub use spec::{Activation, FeedForwardKind, LayerKind, MixerKind, ModelSpec, QkNorm, Rope, RopeScaling, Window};
pub use splitmix::SplitMix64;
pub use user_key::UserKey;
pub use writer::{Plan, Summary, Writer};
