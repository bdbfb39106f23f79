//! One typed function for each kernel: its grid, block and shared bytes, its arguments in order, and the spans it
//! touches.
//!
//! The kernels prescribe the sizes: the source of each kernel states them in the comment above it.

use super::device::{Access, Arg, Launch, Parts, Span};
use super::encodings::{HalvesKernel, Matvec, kernels};
use super::ops::{Angles, Attend, DeviceRows, LayerCache, Matrix, Norm, Projection};
use crate::backend::KvType;
use nanoserve_format::{Activation, PANEL_ROWS};

/// The name of every kernel.
pub const KERNELS: [&str; 40] = [
    "add",
    "argmax",
    "attention_f16",
    "attention_f32",
    "decode_f16",
    "decode_f32",
    "embed_f16",
    "embed_f32",
    "embed_q8",
    "flash_f16_128",
    "flash_f16_256",
    "flash_f16_64",
    "flash_f16_80",
    "flash_f16_96",
    "gate_gelu_tanh",
    "gate_silu",
    "kv_store_f16",
    "kv_store_f32",
    "matmul_f16",
    "matmul_f32",
    "matmul_narrow_f16",
    "matmul_narrow_q8",
    "matmul_q8",
    "matvec_f16",
    "matvec_f32",
    "matvec_gated_gelu_f16",
    "matvec_gated_gelu_f32",
    "matvec_gated_gelu_q8",
    "matvec_gated_silu_f16",
    "matvec_gated_silu_f32",
    "matvec_gated_silu_q8",
    "matvec_q8",
    "norm_add",
    "rms_norm",
    "rope",
    "scale",
    "softcap",
    "tensor_rate",
    "to_f16",
    "top_candidates",
];

/// Threads in a block of the kernels that go over rows or values.
const SMALL: u32 = 256;

/// The most blocks of a kernel that strides over values.
const MOST_BLOCKS: usize = 4096;

/// The properties of a device that determine launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Number of streaming multiprocessors.
    pub processors: u32,
    /// The most bytes of shared memory of a block.
    pub shared: u32,
}

impl Chip {
    /// Number of blocks for `panels` panels of a matrix: at most two on each processor, which go from panel to panel.
    fn panels(self, panels: usize) -> usize {
        panels.min(2 * self.processors as usize)
    }
}

/// A launch under construction.
struct Builder(Launch);

impl Builder {
    fn new(kernel: &'static str, grid: [usize; 3], block: u32) -> Self {
        let grid = grid.map(|n| u32::try_from(n).expect("no kernel has so many blocks"));
        Builder(Launch { kernel, grid, block, shared: 0, args: Vec::with_capacity(24), touches: Vec::with_capacity(8) })
    }

    fn shared(mut self, bytes: usize) -> Self {
        self.0.shared = u32::try_from(bytes).expect("shared memory has kilobytes");
        self
    }

    fn arg(mut self, arg: Arg) -> Self {
        self.0.args.push(arg);
        self
    }

    fn touch(mut self, span: Span, access: Access) -> Self {
        if span != Span::NONE {
            self.0.touches.push((span, access));
        }
        self
    }

    /// A pointer to a span that is read; [`Span::NONE`] is null.
    fn read(self, span: Span) -> Self {
        self.arg(Arg::Pointer(span.address)).touch(span, Access::Read)
    }

    /// A pointer to a span that is filled.
    fn write(self, span: Span) -> Self {
        self.arg(Arg::Pointer(span.address)).touch(span, Access::Write)
    }

    /// A pointer to a span that is changed.
    fn both(self, span: Span) -> Self {
        self.arg(Arg::Pointer(span.address)).touch(span, Access::Both)
    }

    /// A pointer to a span of which parts are read or changed.
    fn some(self, span: Span) -> Self {
        self.arg(Arg::Pointer(span.address)).touch(span, Access::Some)
    }

    fn int(self, n: usize) -> Self {
        self.arg(Arg::Int(i32::try_from(n).expect("sizes of a model fit an int")))
    }

    fn long(self, n: usize) -> Self {
        self.arg(Arg::Long(n as i64))
    }

    fn float(self, x: f32) -> Self {
        self.arg(Arg::Float(x))
    }
}

/// The kernel for a type of keys and values.
fn by_kv_type(kv_type: KvType, [f32, f16]: [&'static str; 2]) -> &'static str {
    match kv_type {
        KvType::F32 => f32,
        KvType::F16 => f16,
    }
}

/// A kernel that normalizes `rows` rows: a block takes eight narrow rows or a single wide one.
fn norm_rows(kernel: &'static str, rows: usize, width: usize) -> Builder {
    let blocks = if width <= 512 { rows.div_ceil(8) } else { rows };
    Builder::new(kernel, [blocks, 1, 1], SMALL).shared(32)
}

/// The grid of a kernel over `n` values.
fn grid_over(n: usize) -> [usize; 3] {
    [n.div_ceil(SMALL as usize).clamp(1, MOST_BLOCKS), 1, 1]
}

/// `out[t] = table[ids[t]] * scale`
pub fn embed(table: Matrix, ids: Span, out: DeviceRows, scale: f32) -> Launch {
    let grid = [out.rows, 1, 1];
    let b = Builder::new(kernels(table.encoding).embed, grid, SMALL).read(table.panels).read(ids).write(out.span());
    b.int(out.rows).int(table.cols).float(scale).0
}

/// `out = rms_norm(x)` of `rows` times `width` values; `x` and `out` may be the same.
pub fn rms_norm(x: DeviceRows, norm: Norm, out: DeviceRows, rows: usize, width: usize) -> Launch {
    let b = norm_rows("rms_norm", rows, width).read(x.span()).read(norm.weight).write(out.span());
    b.int(rows).int(width).float(norm.eps).0
}

/// `x += factor * rms_norm(y)`
pub fn norm_add(x: DeviceRows, y: DeviceRows, norm: Norm, factor: f32) -> Launch {
    let b = norm_rows("norm_add", x.rows, x.width).both(x.span()).read(y.span()).read(norm.weight);
    b.int(x.rows).int(x.width).float(norm.eps).float(factor).0
}

/// `x *= factor`
pub fn scale(x: DeviceRows, factor: f32) -> Launch {
    Builder::new("scale", grid_over(x.len()), SMALL).both(x.span()).long(x.len()).float(factor).0
}

/// `x = cap * tanh(x / cap)`
pub fn softcap(x: DeviceRows, cap: f32) -> Launch {
    Builder::new("softcap", grid_over(x.len()), SMALL).both(x.span()).long(x.len()).float(cap).0
}

/// `x += y`
pub fn add(x: DeviceRows, y: DeviceRows) -> Launch {
    Builder::new("add", grid_over(x.len()), SMALL).both(x.span()).read(y.span()).long(x.len()).float(1.0).0
}

/// `out = activation(gate) * up`
pub fn gate(activation: Activation, gate: DeviceRows, up: DeviceRows, out: DeviceRows) -> Launch {
    let kernel = match activation {
        Activation::Silu => "gate_silu",
        Activation::GeluTanh => "gate_gelu_tanh",
    };
    let b = Builder::new(kernel, grid_over(out.len()), SMALL).read(gate.span()).read(up.span());
    b.write(out.span()).long(out.len()).0
}

/// Applies RoPE to every head of every row.
pub fn rope(x: DeviceRows, angles: Angles, step: Span, offset: i32, head_dim: usize) -> Launch {
    let heads = x.width / head_dim;
    let b = Builder::new("rope", grid_over(x.rows * heads * angles.rotary_dim / 2), SMALL);
    let b = b.both(x.span()).some(angles.cos).some(angles.sin).read(step).arg(Arg::Int(offset));
    b.int(x.rows).int(heads).int(head_dim).int(angles.rotary_dim).0
}

/// Stores keys and values in the cache.
pub fn kv_store(a: &Attend, step: Span) -> Launch {
    let kernel = by_kv_type(a.cache.kv_type, ["kv_store_f32", "kv_store_f16"]);
    let b = Builder::new(kernel, grid_over(a.k.len()), SMALL).read(a.k.span()).read(a.v.span());
    let b = b.some(a.cache.keys).some(a.cache.values).read(step).arg(Arg::Int(a.offset));
    b.int(a.k.rows).int(a.cache.kv_heads).int(a.cache.head_dim).int(a.cache.positions).0
}

/// Attention of the queries `q`. The first one is `offset` positions after the step's first.
pub fn attention(a: &Attend, q: DeviceRows, out: DeviceRows, offset: i32, step: Span, chip: Chip) -> Launch {
    let (dim, heads) = (a.cache.head_dim, q.width / a.cache.head_dim);
    let fits = flash_shared(dim) <= chip.shared as usize;
    let worth = a.cache.kv_type == KvType::F16 && q.rows >= FLASH_LEAST;
    let flash = if worth && fits { flash(dim) } else { None };
    let (kernel, grid, shared) = match flash {
        Some(kernel) => (kernel, [q.rows.div_ceil(FLASH_ROWS), heads, 1], flash_shared(dim)),
        None => (by_kv_type(a.cache.kv_type, ["attention_f32", "attention_f16"]), [q.rows, heads, 1], 4 * dim + 544),
    };
    let b = Builder::new(kernel, grid, 128).shared(shared).read(q.span()).some(a.cache.keys).some(a.cache.values);
    let b = b.write(out.span()).read(step).arg(Arg::Int(offset)).int(q.rows).int(heads).int(a.cache.kv_heads);
    let b = b.int(dim).int(a.cache.positions).int(a.how.window.unwrap_or(0));
    b.float(a.how.scale).float(a.how.softcap.unwrap_or(0.0)).0
}

/// Query rows in a block of `flash_f16`, and the fewest rows for which that kernel is used.
const FLASH_ROWS: usize = 64;
const FLASH_LEAST: usize = 16;

/// The tensor core kernel for heads of this width, if there is one.
fn flash(head_dim: usize) -> Option<&'static str> {
    Some(match head_dim {
        64 => "flash_f16_64",
        80 => "flash_f16_80",
        96 => "flash_f16_96",
        128 => "flash_f16_128",
        256 => "flash_f16_256",
        _ => return None,
    })
}

/// Its bytes of shared memory: the block's queries, and two stages of a tile of keys and of values.
fn flash_shared(head_dim: usize) -> usize {
    let tile = if head_dim <= 96 { 64 } else { 32 };
    4 * (head_dim + 8) * (FLASH_ROWS + 2 * tile)
}

/// The widest head that attention supports.
pub const WIDEST_HEAD: usize = 256;

/// True if this is attention of one token that a single kernel can do.
pub fn decodes(a: &Attend) -> bool {
    let dim = a.cache.head_dim;
    let one = a.q.rows == 1 && a.k.rows == 1 && a.offset == 0;
    one && dim.is_multiple_of(8) && a.q.width / dim / a.cache.kv_heads <= 32
}

/// Into how many parts the positions of a cache are split among blocks, for one token.
pub fn splits(cache: &LayerCache, chip: Chip) -> usize {
    let blocks = (2 * chip.processors as usize).div_ceil(cache.kv_heads);
    cache.positions.div_ceil(DECODE_POSITIONS).min(blocks).clamp(1, MOST_SPLITS)
}

/// The fewest positions of a block of `decode`, and the most parts into which positions are split.
const DECODE_POSITIONS: usize = 128;
const MOST_SPLITS: usize = 64;

/// Bytes of `partial`: for each head and split, the weighted sum, the largest score and the sum of weights.
pub fn partial_bytes(heads: usize, head_dim: usize, splits: usize) -> usize {
    4 * heads * splits * (head_dim + 2)
}

/// Norms, RoPE, store and attention of one token. `partial` holds partial sums; `counter` is zero between launches.
pub fn decode(
    a: &Attend,
    angles: Option<Angles>,
    norms: Option<[Norm; 2]>,
    [partial, counter]: [Span; 2],
    step: Span,
    chip: Chip,
) -> Launch {
    let (dim, heads, kv_heads) = (a.cache.head_dim, a.q.width / a.cache.head_dim, a.cache.kv_heads);
    let splits = splits(&a.cache, chip);
    let kernel = by_kv_type(a.cache.kv_type, ["decode_f32", "decode_f16"]);
    let [q_norm, k_norm] = norms.map_or([Span::NONE; 2], |norms| norms.map(|n| n.weight));
    let [cos, sin] = angles.map_or([Span::NONE; 2], |angles| [angles.cos, angles.sin]);
    let shared = 4 * (heads / kv_heads * dim + 32 * (dim + 2) + 4);
    let b = Builder::new(kernel, [kv_heads, splits, 1], 256)
        .shared(shared)
        .read(a.q.span())
        .read(a.k.span())
        .read(a.v.span());
    let b = b.some(cos).some(sin).read(q_norm).read(k_norm).some(a.cache.keys).some(a.cache.values);
    let b = b.write(a.out.span()).some(partial).both(counter).read(step);
    let b = b.int(heads).int(kv_heads).int(dim).int(angles.map_or(0, |angles| angles.rotary_dim));
    let b = b.int(a.cache.positions).int(a.how.window.unwrap_or(0)).int(splits);
    let b = b.float(norms.map_or(0.0, |norms| norms[0].eps)).float(a.how.scale);
    b.float(a.how.softcap.unwrap_or(0.0)).0
}

/// Threads in a block of the matvec kernels.
const MATVEC: u32 = 384;

/// Their bytes of shared memory: partial sums, the input, the norm's weight, and for encodings that round the input,
/// the input in bytes with its scales.
fn matvec_shared(matrix: Matrix, norm: bool) -> usize {
    let Matvec { step, bytes, .. } = kernels(matrix.encoding).matvec;
    let cols = matrix.cols.next_multiple_of(step);
    let bytes = if bytes { cols + cols / 8 } else { 0 };
    3120 + 4 * cols + if norm { 4 * cols } else { 0 } + bytes
}

/// One token through up to three matrices of one encoding. With a residual, there is one matrix, and its result is
/// added to `out`.
pub fn matvec(x: DeviceRows, norm: Option<Norm>, parts: &[Projection], residual: Option<f32>, chip: Chip) -> Launch {
    let matrix = parts[0].matrix;
    let kernel = kernels(matrix.encoding).matvec.plain;
    let mut all = Parts { n: parts.len() as i32, ..Parts::default() };
    for (i, part) in parts.iter().enumerate() {
        (all.w[i], all.bias[i], all.out[i]) = (part.matrix.panels.address, part.bias.address, part.out.address);
        all.rows[i] = i32::try_from(part.matrix.rows).expect("sizes of a model fit an int");
    }
    let panels: usize = parts.iter().map(|p| p.matrix.rows.div_ceil(PANEL_ROWS)).sum();
    let shared = matvec_shared(matrix, norm.is_some());
    let mut b = Builder::new(kernel, [chip.panels(panels), 1, 1], MATVEC).shared(shared).arg(Arg::Parts(all));
    for part in parts {
        let out = if residual.is_some() { Access::Both } else { Access::Write };
        b = b.touch(part.matrix.panels, Access::Read).touch(part.bias, Access::Read).touch(part.out.span(), out);
    }
    let residual_at = residual.map_or(0, |_| parts[0].out.address);
    let b = b.read(x.span()).read(norm.map_or(Span::NONE, |n| n.weight)).float(norm.map_or(0.0, |n| n.eps));
    b.int(matrix.cols).arg(Arg::Pointer(residual_at)).float(residual.unwrap_or(1.0)).0
}

/// One token through gate and up, which have the same encoding.
pub fn matvec_gated(
    x: DeviceRows,
    norm: Option<Norm>,
    [gate, up]: [Projection; 2],
    activation: Activation,
    out: DeviceRows,
    chip: Chip,
) -> Launch {
    let (matvec, rows) = (&kernels(gate.matrix.encoding).matvec, gate.matrix.rows);
    let kernel = match activation {
        Activation::Silu => matvec.silu,
        Activation::GeluTanh => matvec.gelu_tanh,
    };
    let shared = matvec_shared(gate.matrix, norm.is_some());
    let b = Builder::new(kernel, [chip.panels(rows.div_ceil(PANEL_ROWS)), 1, 1], MATVEC).shared(shared);
    let b = b.read(gate.matrix.panels).read(up.matrix.panels).read(gate.bias).read(up.bias).read(x.span());
    let b = b.read(norm.map_or(Span::NONE, |n| n.weight)).float(norm.map_or(0.0, |n| n.eps));
    b.int(rows).int(gate.matrix.cols).write(out.span()).0
}

/// The number of columns to which [`to_f16`] pads rows of `cols`.
pub fn padded(cols: usize) -> usize {
    cols.next_multiple_of(64)
}

/// Rows in f16 ("halves"), as the matmul kernels take them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Halves {
    /// `[T, padded]` of f16.
    pub hi: Span,
    /// `[T, padded]` of f16: the rounding error of `hi`; [`Span::NONE`] if the form has no rest.
    pub lo: Span,
    /// `[T]` of f32: the scale that each row was divided by.
    pub scales: Span,
}

/// Converts `x` to halves; if `grouped`, with the column order of
/// [`HalvesForm::grouped`](super::encodings::HalvesForm::grouped).
pub fn to_f16(x: DeviceRows, halves: Halves, grouped: bool) -> Launch {
    let b = Builder::new("to_f16", [x.rows, 1, 1], SMALL).shared(32).read(x.span()).write(halves.hi).write(halves.lo);
    b.write(halves.scales).int(x.rows).int(x.width).int(padded(x.width)).int(grouped.into()).0
}

/// Many tokens through one matrix, with a kernel of its encoding. With a residual, the result is added to `out`.
pub fn matmul(kernel: &HalvesKernel, halves: Halves, tokens: usize, part: Projection, residual: Option<f32>) -> Launch {
    let (matrix, out) = (part.matrix, part.out.span());
    let grid = [matrix.rows.div_ceil(kernel.tile), tokens.div_ceil(kernel.tile), 1];
    let b = Builder::new(kernel.name, grid, 128).shared(kernel.shared);
    let b = b.read(matrix.panels).read(halves.hi).read(halves.lo).read(halves.scales).read(part.bias);
    let b = if residual.is_some() { b.both(out) } else { b.write(out) };
    let b = b.int(matrix.rows).int(matrix.cols).int(padded(matrix.cols)).int(tokens);
    b.arg(Arg::Pointer(residual.map_or(0, |_| out.address))).float(residual.unwrap_or(1.0)).0
}

/// Rows and tokens in a block's tile: of the matmul kernels for few tokens, and of those for more.
pub const NARROW: usize = 32;
pub const WIDE: usize = 128;

/// Many tokens through one matrix, with a kernel that takes f32 rows.
pub fn matmul_floats(kernel: &'static str, x: DeviceRows, part: Projection, residual: Option<f32>) -> Launch {
    let (matrix, out) = (part.matrix, part.out.span());
    let grid = [matrix.rows.div_ceil(64), x.rows.div_ceil(64), 1];
    let b = Builder::new(kernel, grid, SMALL).shared(8448).read(matrix.panels).read(x.span()).read(part.bias);
    let b = if residual.is_some() { b.both(out) } else { b.write(out) };
    let b = b.int(matrix.rows).int(matrix.cols).int(x.rows);
    b.arg(Arg::Pointer(residual.map_or(0, |_| out.address))).float(residual.unwrap_or(1.0)).0
}

/// Bytes of scratch that [`top_candidates`] needs for `k` candidates. The first 4 are zero between launches.
pub fn top_scratch(k: usize) -> usize {
    16 + TOP_BLOCKS * k * 8
}

/// Finds the largest logit of a row; `out` gets its id, then the logit. If `step` and `ids` are given, it also makes
/// that token the next step's.
pub fn argmax(logits: DeviceRows, scratch: Span, out: Span, [step, ids]: [Span; 2]) -> Launch {
    let b = Builder::new("argmax", [64, 1, 1], 256).shared(80).read(logits.span()).int(logits.width);
    b.some(scratch).write(out).both(step).write(ids).0
}

/// Measures the rate of tensor core products: each of the eight warps of a block does `rounds` rounds in sixteen
/// chains. `sums` has a float for each thread.
pub fn tensor_rate(blocks: usize, rounds: usize, sums: Span) -> Launch {
    Builder::new("tensor_rate", [blocks, 1, 1], RATE).int(rounds).write(sums).0
}

/// Threads in a block of [`tensor_rate`], and the multiply-accumulates of one round of all its warps.
pub const RATE: u32 = 256;
pub const RATE_MACS: usize = 8 * 16 * (16 * 8 * 16);

/// Blocks that search a row of logits.
const TOP_BLOCKS: usize = 128;

/// Finds the `k` largest logits of a row, in order; `out` gets the ids, then the logits.
pub fn top_candidates(logits: DeviceRows, k: usize, scratch: Span, out: Span) -> Launch {
    let bytes = 4 * k as u64;
    let b = Builder::new("top_candidates", [TOP_BLOCKS, 1, 1], 256).shared(8208).read(logits.span());
    let b = b.int(logits.width).int(k).some(scratch);
    b.write(out.part(0, bytes)).write(out.part(bytes, bytes)).0
}
