//! Turns the operations of a step into launches.
//!
//! One token goes through a matrix as a vector. Several go as a matrix of f16 ("halves"), which is made once for all
//! matrices with the same input. Attention of one token is one kernel. With several tokens, keys and values are stored
//! first, then attention runs; if a ring buffer wraps, for a few tokens at a time.

use super::device::{DeviceError, Launch, Span};
use super::encodings::{HalvesForm, Matmul, kernels};
use super::fuse::{Fused, fuse};
use super::launch::{self, Chip, Halves};
use super::ops::{Attend, DeviceOp, DeviceRows, Norm, Projection, filled};
use nanoserve_format::Encoding;

/// Memory that launches share, and the step's data that they read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scratch {
    /// First position and number of tokens of the step: two u32.
    pub step: Span,
    /// `[T]` of u32: the step's token ids.
    pub ids: Span,
    /// `[T, padded]` of f16: rows in halves.
    pub hi: Span,
    /// `[T, padded]` of f16: the rounding error of `hi`.
    pub lo: Span,
    /// `[T]` of f32: a scale for each row.
    pub scales: Span,
    /// `[T, intermediate_size]`
    pub up: Span,
    /// Partial sums of attention.
    pub partial: Span,
    /// Counters of attention, zero between launches.
    pub counter: Span,
}

/// How many bytes of each memory in a [`Scratch`] a queue needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of `hi`.
    pub halves: usize,
    /// Bytes of `lo`.
    pub rest: usize,
    /// Bytes of `scales`.
    pub scales: usize,
    /// Bytes of `up`.
    pub up: usize,
    /// Bytes of `partial`.
    pub partial: usize,
    /// Bytes of `counter`.
    pub counter: usize,
}

impl Needs {
    /// The needs of a queue.
    pub fn of(ops: &[DeviceOp], chip: Chip) -> Needs {
        let mut needs = Needs::default();
        for op in ops {
            let (x, encodings) = match op {
                DeviceOp::Linear { x, parts, .. } => (x, parts.iter().map(|part| part.matrix.encoding).collect()),
                DeviceOp::Gated { x, gate, up, out, .. } => {
                    // Always counted, although one token with gate and up of one encoding does without: there it is one kernel.
                    needs.up = needs.up.max(4 * out.len());
                    (x, vec![gate.matrix.encoding, up.matrix.encoding])
                }
                DeviceOp::Attend(a) if launch::decodes(a) => {
                    let (splits, dim) = (launch::splits(&a.cache, chip), a.cache.head_dim);
                    needs.partial = needs.partial.max(launch::partial_bytes(a.q.width / dim, dim, splits));
                    needs.counter = needs.counter.max(4 * a.cache.kv_heads);
                    continue;
                }
                _ => continue,
            };
            let bytes = 2 * x.rows * launch::padded(x.width);
            for encoding in encodings.into_iter().filter(|_| x.rows > 1) {
                let Matmul::Halves { form, .. } = kernels(encoding).matmul else { continue };
                needs.halves = needs.halves.max(bytes);
                needs.scales = needs.scales.max(4 * x.rows);
                if form.rest {
                    needs.rest = needs.rest.max(bytes);
                }
            }
        }
        needs
    }
}

/// Fuses a queue and returns its launches. `left_out` lists rows that earlier queues did not fill; it is updated.
///
/// # Errors
/// When the queue reads such rows.
pub fn plan(
    ops: &[DeviceOp],
    scratch: &Scratch,
    chip: Chip,
    left_out: &mut Vec<DeviceRows>,
) -> Result<Vec<Launch>, DeviceError> {
    for op in ops {
        if let Some(rows) = left_out.iter().find(|rows| op.reads().iter().any(|read| read.overlaps(**rows))) {
            return Err(DeviceError::LeftOut { address: rows.address });
        }
        filled(left_out, op);
    }
    let Fused { ops, left_out: new } = fuse(ops);
    left_out.extend(new);
    Ok(each(&ops, scratch, chip))
}

/// The launches of a queue as it is, one operation after the other.
pub fn each(ops: &[DeviceOp], scratch: &Scratch, chip: Chip) -> Vec<Launch> {
    let mut lower = Lower { scratch, chip, launches: Vec::with_capacity(ops.len()), halved: None };
    ops.iter().for_each(|op| lower.op(op));
    lower.launches
}

struct Lower<'s> {
    scratch: &'s Scratch,
    chip: Chip,
    launches: Vec<Launch>,
    /// The rows whose halves are in the scratch memory, and their form.
    halved: Option<(DeviceRows, HalvesForm)>,
}

impl Lower<'_> {
    fn op(&mut self, op: &DeviceOp) {
        let scratch = self.scratch;
        // Operations on no rows do nothing: the last layer's queries in a step that asks for no logits.
        let empty = |rows: DeviceRows| rows.rows == 0;
        let launch = match op {
            DeviceOp::Embed { table, out, scale } => {
                launch::embed(*table, scratch.ids.part(0, 4 * out.rows as u64), *out, *scale)
            }
            DeviceOp::Norm { x, .. } | DeviceOp::NormParts { x, .. } | DeviceOp::Rope { x, .. } if empty(*x) => return,
            DeviceOp::Norm { x, norm, out } => launch::rms_norm(*x, *norm, *out, x.rows, x.width),
            DeviceOp::NormAdd { x, y, norm, factor } => launch::norm_add(*x, *y, *norm, *factor),
            DeviceOp::NormParts { x, norm, width } => launch::rms_norm(*x, *norm, *x, x.len() / width, *width),
            DeviceOp::Scale { x, factor } => launch::scale(*x, *factor),
            DeviceOp::Softcap { x, cap } => launch::softcap(*x, *cap),
            DeviceOp::Add { x, y } => launch::add(*x, *y),
            DeviceOp::Rope { x, head_dim, angles, offset } => {
                launch::rope(*x, *angles, scratch.step, *offset, *head_dim)
            }
            DeviceOp::Decode { attend, angles, norms } => {
                let work = [scratch.partial, scratch.counter];
                launch::decode(attend, *angles, *norms, work, scratch.step, self.chip)
            }
            DeviceOp::Attend(attend) => return self.attend(attend),
            DeviceOp::Linear { x, norm, parts, residual } => {
                self.linear(*x, *norm, parts, *residual);
                return self.changed(op);
            }
            DeviceOp::Gated { x, norm, gate, up, activation, out } => {
                if x.rows == 1 && gate.matrix.encoding == up.matrix.encoding {
                    self.launches.push(launch::matvec_gated(*x, *norm, [*gate, *up], *activation, *out, self.chip));
                } else {
                    let rows = DeviceRows { address: scratch.up.address, ..*out };
                    self.linear(*x, *norm, &[Projection { out: *out, ..*gate }, Projection { out: rows, ..*up }], None);
                    self.launches.push(launch::gate(*activation, *out, rows, *out));
                }
                return self.changed(op);
            }
        };
        self.launches.push(launch);
        self.changed(op);
    }

    /// Forgets the halves if the operation changed the rows they were made from.
    fn changed(&mut self, op: &DeviceOp) {
        if self.halved.is_some_and(|(rows, _)| op.writes().iter().any(|written| written.overlaps(rows))) {
            self.halved = None;
        }
    }

    /// Stores keys and values and computes attention, `at_a_time` tokens at a time.
    fn attend(&mut self, a: &Attend) {
        let step = self.scratch.step;
        let slice = |rows: DeviceRows, from: usize, to: usize| DeviceRows {
            address: rows.address + 4 * (from * rows.width) as u64,
            rows: to - from,
            ..rows
        };
        // Leading tokens that are only stored.
        let only_stored = a.k.rows - a.q.rows;
        for start in (0..a.k.rows).step_by(a.at_a_time) {
            let end = a.k.rows.min(start + a.at_a_time);
            let offset = |token: usize| a.offset + token as i32;
            let (k, v) = (slice(a.k, start, end), slice(a.v, start, end));
            self.launches.push(launch::kv_store(&Attend { k, v, offset: offset(start), ..*a }, step));
            let from = start.max(only_stored);
            if from < end {
                let [q, out] = [a.q, a.out].map(|rows| slice(rows, from - only_stored, end - only_stored));
                self.launches.push(launch::attention(a, q, out, offset(from), step, self.chip));
            }
        }
    }

    fn linear(&mut self, x: DeviceRows, norm: Option<Norm>, parts: &[Projection], residual: Option<f32>) {
        if x.rows == 1 {
            // Matrices with the same encoding share launches.
            for encoding in Encoding::ALL {
                let same: Vec<Projection> = parts.iter().filter(|p| p.matrix.encoding == encoding).copied().collect();
                for parts in same.chunks(3) {
                    self.launches.push(launch::matvec(x, norm, parts, residual, self.chip));
                }
            }
            return;
        }
        for part in parts.iter().filter(|_| x.rows > 0) {
            let launch = match &kernels(part.matrix.encoding).matmul {
                Matmul::Floats(kernel) => launch::matmul_floats(kernel, x, *part, residual),
                Matmul::Halves { form, narrow, wide } => {
                    let kernel = if x.rows <= narrow.tile { narrow } else { wide };
                    launch::matmul(kernel, self.halves(x, *form), x.rows, *part, residual)
                }
            };
            self.launches.push(launch);
        }
    }

    /// The halves of `x` in a form; makes them if they are not there yet.
    fn halves(&mut self, x: DeviceRows, form: HalvesForm) -> Halves {
        let (scratch, bytes) = (self.scratch, 2 * (x.rows * launch::padded(x.width)) as u64);
        let lo = if form.rest { scratch.lo.part(0, bytes) } else { Span::NONE };
        let halves = Halves { hi: scratch.hi.part(0, bytes), lo, scales: scratch.scales.part(0, 4 * x.rows as u64) };
        if self.halved != Some((x, form)) {
            self.launches.push(launch::to_f16(x, halves, form.grouped));
            self.halved = Some((x, form));
        }
        halves
    }
}
