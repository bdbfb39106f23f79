//! What the forward pass needs from a device. Nothing here knows a particular model.
//!
//! A dozen operations on buffers of rows. A row belongs to a token; the buffer fixes its width. The forward pass is
//! written once, over this trait.

pub mod room;
pub mod rope;

use crate::error::Result;
use nanoserve_format::{Activation, ModelSpec, NsvFile, PANEL_ROWS, Shape};
use room::Room;
use rope::RopeTable;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The default number of prompt tokens in one step of prefill.
pub const DEFAULT_CHUNK: usize = 256;

/// Positions in a block of the online softmax. Blocks begin at multiples of it.
pub const ATTENTION_BLOCK: usize = 64;

/// The most tokens that a layer with a sliding window stores and attends at a time. More would need a longer ring
/// buffer.
pub const WINDOW_STEP: usize = 256;

/// The most candidates that [`Backend::top`] may return.
pub const MOST_CANDIDATES: usize = 256;

/// The type of stored keys and values.
///
/// ```
/// use nanoserve_runtime::KvType;
///
/// let of_name = |name: &str| KvType::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, kv)| kv);
/// assert_eq!(of_name("f16"), Some(KvType::F16));
/// assert_eq!(KvType::F16.bytes(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// As they were computed.
    F32,
    /// Rounded to the nearest f16, ties to even: half the memory.
    F16,
}

impl KvType {
    /// Every type by its name.
    pub const ALL: [(&str, KvType); 2] = [("f32", KvType::F32), ("f16", KvType::F16)];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }
}

/// The sizes of a KV cache.
#[derive(Clone, Debug, PartialEq)]
pub struct KvShape {
    /// `[n_layers]`: the positions that each layer holds, in whole lanes. That is all positions, or a ring buffer if
    /// the layer has a sliding window and the ring is shorter. Position p is at p modulo this number.
    pub positions: Vec<usize>,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Type of keys and values.
    pub kv_type: KvType,
}

impl KvShape {
    /// The cache of a sequence with room for `capacity` positions.
    pub fn new(spec: &ModelSpec, capacity: usize, kv_type: KvType) -> Self {
        let all = capacity.checked_next_multiple_of(PANEL_ROWS).unwrap_or(usize::MAX);
        let positions = |layer| match spec.window_of(layer) {
            // What the first token of a step sees, plus the step, in whole blocks of the softmax.
            Some(window) => (window.size - 1 + WINDOW_STEP).next_multiple_of(ATTENTION_BLOCK).min(all),
            None => all,
        };
        let (n_kv_heads, head_dim) = (spec.n_kv_heads, spec.head_dim);
        KvShape { positions: (0..spec.n_layers).map(positions).collect(), n_kv_heads, head_dim, kv_type }
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> u128 {
        self.bytes_of(usize::MAX)
    }

    /// Bytes that the first `len` positions take.
    pub fn bytes_of(&self, len: usize) -> u128 {
        let widths = self.head_dim as u128 + self.head_dim.next_multiple_of(PANEL_ROWS) as u128;
        let positions: u128 = self.positions.iter().map(|&n| n.min(len) as u128).sum();
        self.n_kv_heads as u128 * positions * widths * self.kv_type.bytes() as u128
    }
}

/// The settings of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Multiplies queries.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Length of the sliding window: how many positions a token sees, including its own. None means all.
    pub window: Option<usize>,
}

/// A weight matrix with its bias, bound once.
#[derive(Debug)]
pub struct Linear<W> {
    /// `[rows, cols]`: `rows` outputs from `cols` inputs.
    pub weight: W,
    /// `[rows]`.
    pub bias: Option<W>,
}

/// The kind of backend that wrote a KV cache. Another kind cannot read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// The CPU.
    Cpu,
    /// The GPU runs the layers from this one on, the CPU those before it.
    Cuda(usize),
}

impl BackendKind {
    /// Its code in files: 0 is the CPU.
    pub fn code(self) -> u32 {
        match self {
            BackendKind::Cpu => 0,
            BackendKind::Cuda(first_layer) => 1 + first_layer as u32,
        }
    }

    /// The kind with this code.
    pub fn from_code(code: u32) -> BackendKind {
        if code == 0 { BackendKind::Cpu } else { BackendKind::Cuda(code as usize - 1) }
    }
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            BackendKind::Cpu => f.write_str("the CPU"),
            BackendKind::Cuda(0) => f.write_str("the GPU"),
            BackendKind::Cuda(layers) => write!(f, "{layers} layers on the CPU and the rest on the GPU"),
        }
    }
}

/// The tokens of a step.
#[derive(Clone, Copy, Debug)]
pub enum Ids<'a> {
    /// These.
    Known(&'a [u32]),
    /// The token that [`Backend::choose`] chose last.
    Chosen,
}

impl Ids<'_> {
    /// How many.
    pub fn count(self) -> usize {
        match self {
            Ids::Known(ids) => ids.len(),
            Ids::Chosen => 1,
        }
    }
}

/// Consecutive rows of one sequence in a step, for [`Backend::rope`].
#[derive(Clone, Copy, Debug)]
pub struct Turn<'t> {
    /// Cosines and sines of all positions.
    pub table: &'t RopeTable,
    /// Position of the first row.
    pub first: usize,
    /// Number of rows.
    pub rows: usize,
}

/// The tokens of one sequence in a step, for [`Backend::attention`].
#[derive(Debug)]
pub struct Attending<'c, C> {
    /// The sequence's keys and values.
    pub cache: &'c mut C,
    /// Position of the first token.
    pub first: usize,
    /// Number of tokens whose keys and values are stored.
    pub tokens: usize,
    /// How many of them, counted from the end, also attend: 0 to `tokens`.
    pub queries: usize,
}

/// Identifies a call of [`Backend::choose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(pub u64);

/// A device that can run a model.
pub trait Backend {
    /// A tensor that kernels can read.
    type Weight: std::fmt::Debug;
    /// Rows of f32 activations: `[tokens, width]`.
    type Buffer: std::fmt::Debug;
    /// Keys and values of all layers.
    type Cache: std::fmt::Debug;

    /// Makes a tensor of the file ready for kernels. On the CPU it borrows the mapped file and copies nothing.
    ///
    /// # Errors
    /// When the tensor is missing, or its shape is not `expected`.
    fn weight(&mut self, file: &Arc<NsvFile>, name: &str, expected: Shape) -> Result<Self::Weight>;

    /// A buffer for rows of `width`.
    fn buffer(&mut self, width: usize) -> Self::Buffer;

    /// Sets the width of a buffer's rows. If that changes the width, the contents are lost.
    fn set_width(&mut self, buffer: &mut Self::Buffer, width: usize);

    /// An empty cache. Other caches were promised `promised` bytes that they have not touched yet.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn cache(&mut self, shape: KvShape, promised: u64) -> Result<Self::Cache>;

    /// Keys and values of the first `len` positions, in parts, as this kind of backend stores them. They can go into a
    /// file for [`Backend::set_cache_bytes`] to read back.
    ///
    /// # Errors
    /// When they cannot be read from the device.
    fn cache_bytes<'a>(&'a self, cache: &'a Self::Cache, len: usize) -> Result<Vec<Cow<'a, [u8]>>>;

    /// Puts back what [`Backend::cache_bytes`] returned for `len` positions. If the number of bytes does not match,
    /// returns false and changes nothing.
    fn set_cache_bytes(&mut self, cache: &mut Self::Cache, len: usize, bytes: &[u8]) -> bool;

    /// The kind of this backend.
    fn kind(&self) -> BackendKind {
        BackendKind::Cpu
    }

    /// The best number of prompt tokens in one step of prefill.
    fn chunk(&self) -> usize {
        DEFAULT_CHUNK
    }

    /// True if a step may hold tokens of several sequences. If not, the engine runs the sequences one after the other,
    /// so that each gets the same arithmetic as alone.
    fn mixes(&self) -> bool {
        true
    }

    /// Free memory for a new sequence: what the system can give minus `promised`, the bytes that others were promised
    /// and have not touched yet. None if the system does not report it.
    fn room(&self, promised: u64) -> Option<Room> {
        Room::now(promised)
    }

    /// Bytes of a cache that are allocated but not touched yet once `len` positions were written.
    fn untouched(&self, cache: &Self::Cache, len: usize) -> u64;

    /// The rows of a buffer, on the host.
    fn read<'a>(&mut self, buffer: &'a Self::Buffer) -> Cow<'a, [f32]>;

    /// The `k` largest logits of a buffer of one row, as (id, logit). `k` is 1 to [`MOST_CANDIDATES`] and at most the
    /// width of the row. The largest comes first; of equal logits, the lower id; NaN and plus infinity come before all
    /// others. None if the backend cannot do this or the buffer has several rows: the caller then reads the rows.
    fn top(&mut self, _logits: &Self::Buffer, _k: usize) -> Option<Vec<(u32, f32)>> {
        None
    }

    /// Starts choosing the likeliest token of a buffer of one row, in the order of [`Backend::top`]. The next step may
    /// run that token ([`Ids::Chosen`]) before [`Backend::chosen`] returns it. None if the backend cannot do this.
    fn choose(&mut self, _logits: &Self::Buffer) -> Option<Choice> {
        None
    }

    /// Waits for one of the last two choices, but not for work started after it, and returns the token and its logit.
    ///
    /// # Errors
    /// Whatever failed on the device before the choice.
    fn chosen(&mut self, _choice: Choice) -> Result<(u32, f32)> {
        unreachable!("nothing was chosen")
    }

    /// Replaces the rows of a buffer.
    fn write(&mut self, buffer: &mut Self::Buffer, rows: &[f32]);

    /// Ends a step: starts any deferred work.
    ///
    /// # Errors
    /// Whatever failed since the end of the last step. All results computed since then are invalid.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// `out[t] = table[ids[t]]`: `[ids, hidden]`.
    fn embed(&mut self, table: &Self::Weight, ids: Ids, out: &mut Self::Buffer);

    /// `out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight`.
    fn rms_norm(&mut self, x: &Self::Buffer, weight: &Self::Weight, eps: f32, out: &mut Self::Buffer);

    /// `out = weight x + bias` for each pair, all from the same `x`.
    fn linear(&mut self, x: &Self::Buffer, parts: &mut [(&Linear<Self::Weight>, &mut Self::Buffer)]);

    /// Cuts each row into parts as long as `weight` and applies [`Backend::rms_norm`] to each part, in place.
    fn norm_parts(&mut self, x: &mut Self::Buffer, weight: &Self::Weight, eps: f32);

    /// Applies RoPE: turns every head of every row by its position. Of each head only the first `2 * table.pairs()`
    /// dimensions turn. `turns` covers all rows of `x`, one sequence after the other.
    fn rope(&mut self, x: &mut Self::Buffer, head_dim: usize, turns: &[Turn]);

    /// For each sequence, stores keys and values (`[tokens, n_kv_heads * head_dim]`) in a layer of its cache, then lets
    /// each query (`[queries, n_heads * head_dim]`) attend to its own position and those before it. `qkv` and `out`
    /// hold the rows of one sequence after the other, in the order of `spans`. A ring buffer overwrites old positions:
    /// it is only sure to hold the tokens' own positions and those that they see.
    fn attention(
        &mut self,
        qkv: [&Self::Buffer; 3],
        spans: &mut [Attending<Self::Cache>],
        layer: usize,
        how: &Attention,
        out: &mut Self::Buffer,
    );

    /// `out = activation(gate x) * (up x)`; `parts` is `[gate, up]`.
    fn gated(
        &mut self,
        x: &Self::Buffer,
        parts: [&Linear<Self::Weight>; 2],
        activation: Activation,
        out: &mut Self::Buffer,
    );

    /// `x *= factor`.
    fn scale(&mut self, x: &mut Self::Buffer, factor: f32);

    /// `x = cap * tanh(x / cap)`.
    fn softcap(&mut self, x: &mut Self::Buffer, cap: f32);

    /// `x += y`.
    fn add(&mut self, x: &mut Self::Buffer, y: &Self::Buffer);

    /// Keeps only these rows of `x`, given in ascending order.
    fn keep(&mut self, x: &mut Self::Buffer, rows: &[Range<usize>]);
}
