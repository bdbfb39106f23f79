//! What a device must be able to do for the forward pass, and nothing about any model.
//!
//! A dozen operations on buffers of rows: a row is a token, its width depends on the step. The forward pass is written once
//! over this trait; a device overrides the fused operations where it has something better.

pub mod room;
pub mod rope;

use crate::error::Result;
use nanoserve_format::{Activation, ModelSpec, NsvFile, PANEL_ROWS, Shape};
use room::Room;
use rope::RopeTable;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Tokens of a prompt that go through the model in one step, unless asked otherwise.
pub const DEFAULT_CHUNK: usize = 256;

/// Positions whose softmax is taken together; blocks begin at multiples of it.
pub const ATTENTION_BLOCK: usize = 64;

/// Tokens that a layer with a window stores and attends at a time: more would need a longer ring.
pub const WINDOW_STEP: usize = 256;

/// The most candidates that [`Backend::top`] may return.
pub const MOST_CANDIDATES: usize = 256;

/// How keys and values are kept.
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

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }
}

/// Sizes of a cache of keys and values.
#[derive(Clone, Debug, PartialEq)]
pub struct KvShape {
    /// Positions that each layer holds, in whole lanes: all, or a ring where the layer sees a window and that is fewer.
    /// Position p is at p modulo it.
    pub positions: Vec<usize>,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How they are kept.
    pub kv_type: KvType,
}

impl KvShape {
    /// Of a session with room for `capacity` positions.
    pub fn new(spec: &ModelSpec, capacity: usize, kv_type: KvType) -> Self {
        let all = capacity.checked_next_multiple_of(PANEL_ROWS).unwrap_or(usize::MAX);
        let positions = |layer| match spec.window_of(layer) {
            // What the first token of a step sees, and the step, in whole blocks of the softmax.
            Some(window) => (window.size - 1 + WINDOW_STEP).next_multiple_of(ATTENTION_BLOCK).min(all),
            None => all,
        };
        let (n_kv_heads, head_dim) = (spec.n_kv_heads, spec.head_dim);
        KvShape { positions: (0..spec.n_layers).map(positions).collect(), n_kv_heads, head_dim, kv_type }
    }

    /// Bytes of the cache: keys and values.
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

/// How a layer attends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Multiplies queries.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Positions that a token sees, its own included; None is all.
    pub window: Option<usize>,
}

/// A weight matrix with its bias, bound once.
#[derive(Debug)]
pub struct Linear<W> {
    /// `[rows, cols]`: rows outputs of cols inputs.
    pub weight: W,
    /// `[rows]`.
    pub bias: Option<W>,
}

/// What kind of backend keeps a cache: another kind cannot read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// The processor.
    Cpu,
    /// A GPU has the layers from this one on, the processor those before it.
    Cuda(usize),
}

impl BackendKind {
    /// Its number in files: 0 is the processor.
    pub fn code(self) -> u32 {
        match self {
            BackendKind::Cpu => 0,
            BackendKind::Cuda(first_layer) => 1 + first_layer as u32,
        }
    }

    /// What has this number.
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
    /// The one that [`Backend::choose`] chose last.
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

/// Rows of one sequence in a step, which stand one behind the other, as [`Backend::rope`] turns them.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'t> {
    /// Cosines and sines of the positions.
    pub table: &'t RopeTable,
    /// Position of the first row.
    pub first: usize,
    /// How many rows.
    pub rows: usize,
}

/// The tokens of one sequence in a step, as [`Backend::attention`] stores and attends them.
#[derive(Debug)]
pub struct Attending<'c, C> {
    /// The sequence's keys and values.
    pub cache: &'c mut C,
    /// Position of the first token.
    pub first: usize,
    /// Tokens whose keys and values are stored.
    pub tokens: usize,
    /// The last of them that also attend: 0 to `tokens`.
    pub queries: usize,
}

/// The number of a [`Backend::choose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(pub u64);

/// A device that can run a model.
pub trait Backend {
    /// A tensor, where kernels can read it.
    type Weight: std::fmt::Debug;
    /// Rows of f32 activations: `[tokens, width]`.
    type Buffer: std::fmt::Debug;
    /// Keys and values of all layers.
    type Cache: std::fmt::Debug;

    /// Makes a tensor of the file ready for kernels. On the CPU this borrows the map and copies nothing.
    ///
    /// # Errors
    /// When the tensor is missing, or has another shape than `expected`.
    fn weight(&mut self, file: &Arc<NsvFile>, name: &str, expected: Shape) -> Result<Self::Weight>;

    /// A buffer for rows of `width`.
    fn buffer(&mut self, width: usize) -> Self::Buffer;

    /// Gives a buffer rows of another width. What it held is lost where that changes something.
    fn set_width(&mut self, buffer: &mut Self::Buffer, width: usize);

    /// An empty cache.
    ///
    /// # Errors
    /// When the system gives no memory for it.
    fn cache(&mut self, shape: KvShape) -> Result<Self::Cache>;

    /// Keys and values of the first `len` positions, in parts, as they are kept: for files that this kind of backend reads
    /// back.
    ///
    /// # Errors
    /// When a device does not give them.
    fn cache_bytes<'a>(&'a self, cache: &'a Self::Cache, len: usize) -> Result<Vec<Cow<'a, [u8]>>>;

    /// Puts back what [`Backend::cache_bytes`] gave for `len` positions; false, and nothing is changed, where it would not
    /// have given so many bytes.
    fn set_cache_bytes(&mut self, cache: &mut Self::Cache, len: usize, bytes: &[u8]) -> bool;

    /// Which kind it is.
    fn kind(&self) -> BackendKind {
        BackendKind::Cpu
    }

    /// Tokens of a prompt that are best run in one step.
    fn chunk(&self) -> usize {
        DEFAULT_CHUNK
    }

    /// Whether a step may hold the tokens of several sequences. Where it may not, the engine runs them one after the
    /// other, so that each gets the arithmetic that it gets alone.
    fn mixes(&self) -> bool {
        true
    }

    /// What memory a sequence can get, less what others were promised and have not touched yet; None where the system
    /// does not say.
    fn room(&self, promised: u64) -> Option<Room> {
        Room::now(promised)
    }

    /// Bytes of a cache that the system has promised and that no token has touched yet, once `len` positions were
    /// written.
    fn untouched(&self, cache: &Self::Cache, len: usize) -> u64;

    /// The rows of a buffer, on the host.
    fn read<'a>(&mut self, buffer: &'a Self::Buffer) -> Cow<'a, [f32]>;

    /// The `k` (1 to [`MOST_CANDIDATES`], at most as many as there are) largest logits of a buffer of one row, with their
    /// ids: the largest first, of equals the lower id; what is not a number, or plus infinity, before all. None where a
    /// backend does not choose by itself, or the buffer has more rows: they are then read.
    fn top(&mut self, _logits: &Self::Buffer, _k: usize) -> Option<Vec<(u32, f32)>> {
        None
    }

    /// Begins to choose the likeliest token of a buffer of one row, as [`Backend::top`] ranks them. The next step may be
    /// of that token ([`Ids::Chosen`]) before [`Backend::chosen`] has told which it is. None where a backend cannot do that.
    fn choose(&mut self, _logits: &Self::Buffer) -> Option<Choice> {
        None
    }

    /// Waits for one of the last two choices, and for nothing that was begun since: the token and its logit.
    ///
    /// # Errors
    /// What went wrong before it.
    fn chosen(&mut self, _choice: Choice) -> Result<(u32, f32)> {
        unreachable!("nothing was chosen")
    }

    /// Puts other rows into a buffer, in the place of those that it has.
    fn write(&mut self, buffer: &mut Self::Buffer, rows: &[f32]);

    /// Ends a step: what was put off is begun.
    ///
    /// # Errors
    /// What has gone wrong since the last step's end; what was computed since is no use.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// `out[t] = table[ids[t]]`: `[ids, hidden]`.
    fn embed(&mut self, table: &Self::Weight, ids: Ids, out: &mut Self::Buffer);

    /// `out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight`.
    fn rms_norm(&mut self, x: &Self::Buffer, weight: &Self::Weight, eps: f32, out: &mut Self::Buffer);

    /// `out = weight x + bias` for each pair, all from the same `x`.
    fn linear(&mut self, x: &Self::Buffer, parts: &mut [(&Linear<Self::Weight>, &mut Self::Buffer)]);

    /// As [`Backend::rms_norm`], of each part of a row that is as long as the weight by itself, in place.
    fn norm_parts(&mut self, x: &mut Self::Buffer, weight: &Self::Weight, eps: f32);

    /// Turns every head of every row by its position, as far as the table goes. `turns` has the rows of one sequence
    /// after the other, together all rows of `x`.
    fn rope(&mut self, x: &mut Self::Buffer, head_dim: usize, turns: &[Turn]);

    /// Puts keys and values (`[tokens, n_kv_heads * head_dim]`) of each sequence into a layer of its cache, and attends
    /// its queries (`[queries, n_heads * head_dim]`) to what each sees: itself and what is before it. `qkv` and `out`
    /// hold the rows of one sequence after the other, in the order of `spans`. A ring forgets: it is sure to hold the
    /// tokens' own positions and those that they see.
    fn attention(
        &mut self,
        qkv: [&Self::Buffer; 3],
        spans: &mut [Attending<Self::Cache>],
        layer: usize,
        how: &Attention,
        out: &mut Self::Buffer,
    );

    /// `out = activation(gate x) * (up x)`; gate and up come first.
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

    /// Drops all rows of `x` but these, in ascending order.
    fn keep(&mut self, x: &mut Self::Buffer, rows: &[Range<usize>]);
}
