//! One step of a decoder-only transformer: tokens of one or more sequences in, logits out. One operation a line, with
//! its shapes.
//!
//! The rows of a step are the T tokens of its spans, one span after the other. Every operation except RoPE and
//! attention treats each row by itself, and these two depend only on the row's own sequence and position. So a row's
//! result does not depend on how a text was cut into steps, or on what else is in the step.

use super::model::{AttentionBlock, FeedForward, GatedBlock, Layer, Mixer, Model};
use super::sequence::Sequence;
use super::workspace::{RopeSlot, Workspace};
use crate::backend::{Attending, Backend, Ids, Turn};
use crate::error::{Result, RuntimeError};
use nanoserve_format::ModelSpec;
use std::ops::Range;

/// Which rows of logits a step computes for a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// One for each token.
    All,
    /// Only the last token's.
    Last,
    /// None: the tokens only fill the KV cache, and more follow.
    None,
}

/// Called with the result of each operation, as `(name, rows)`, where the name is that of the bisect ladder. If it
/// returns rows, these replace the result, and everything after is computed from them.
pub type Tap<'t, 'r> = &'t mut dyn FnMut(&str, &[f32]) -> Option<&'r [f32]>;

/// Tokens of one sequence in a step.
#[derive(Debug)]
pub(super) struct Run<'s, B: Backend> {
    pub sequence: &'s mut Sequence<B>,
    pub ids: Ids<'s>,
    pub rows: LogitRows,
}

/// The rows of a run: where they begin in the sequence, and how many there are.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Position of the first token.
    first: usize,
    tokens: usize,
    /// How many of them, counted from the end, need logits.
    kept: usize,
}

/// The runs of a step, one after the other.
struct Layout {
    places: Vec<Place>,
    /// T
    tokens: usize,
    /// Rows that need logits: only they continue after the last layer's keys and values.
    kept: Vec<Range<usize>>,
    /// Number of rows in `kept`.
    logits: usize,
}

impl Layout {
    /// The layout of some runs.
    ///
    /// # Errors
    /// When a run has no token, no room for its tokens, or a token that is not in the vocabulary.
    fn new<B: Backend>(spec: &ModelSpec, runs: &[Run<B>]) -> Result<Layout> {
        let mut layout = Layout { places: Vec::with_capacity(runs.len()), tokens: 0, kept: Vec::new(), logits: 0 };
        for Run { sequence, ids, rows } in runs {
            check(spec, sequence, *ids)?;
            let tokens = ids.count();
            let kept = match rows {
                LogitRows::All => tokens,
                LogitRows::Last => 1,
                LogitRows::None => 0,
            };
            layout.places.push(Place { first: sequence.len(), tokens, kept });
            layout.tokens += tokens;
            layout.kept.push(layout.tokens - kept..layout.tokens);
            layout.logits += kept;
        }
        Ok(layout)
    }
}

/// Ok if a sequence can take these tokens.
pub(super) fn check<B: Backend>(spec: &ModelSpec, sequence: &Sequence<B>, ids: Ids) -> Result<()> {
    let room = sequence.capacity() - sequence.len();
    if ids.count() == 0 {
        return Err(RuntimeError::EmptyPrompt);
    }
    if ids.count() > room {
        return Err(RuntimeError::PromptTooLong { got: ids.count(), room, most: spec.context_length });
    }
    if let Ids::Known(ids) = ids
        && let Some(&got) = ids.iter().find(|&&id| id as usize >= spec.vocab_size)
    {
        return Err(RuntimeError::TokenId { got, vocab_size: spec.vocab_size });
    }
    Ok(())
}

/// A step under way.
struct Step<'a, 't, 'r, B: Backend> {
    backend: &'a mut B,
    spec: &'a ModelSpec,
    layout: Layout,
    tap: Option<Tap<'t, 'r>>,
    /// Prefix of the names that the tap sees.
    prefix: String,
}

/// Runs the tokens of `runs`, each appended to its sequence. Afterwards `work.logits` holds the rows of logits that
/// were asked for, `[rows, vocab_size]`, one run after the other. The sequences do not count the tokens yet: see
/// [`Sequence::push`].
///
/// # Errors
/// When a run has no token, no room for its tokens, or a token that is not in the vocabulary (nothing runs then); when
/// a device failed.
pub(super) fn step<B: Backend>(
    backend: &mut B,
    model: &Model<B>,
    work: &mut Workspace<B>,
    runs: &mut [Run<B>],
    tap: Option<Tap<'_, '_>>,
) -> Result<()> {
    let layout = Layout::new(&model.spec, runs)?;
    for Run { sequence, ids, .. } in &mut *runs {
        sequence.will_write(backend, ids.count());
        for rope in &sequence.ropes {
            work.ropes[rope.place].table.extend(sequence.len() + ids.count());
        }
    }
    let mut step = Step { backend, spec: &model.spec, layout, tap, prefix: String::new() };
    step.embed(model, work, runs);
    for (i, layer) in model.layers.iter().enumerate() {
        step.prefix = format!("layers.{i}.");
        let last = i + 1 == model.layers.len();
        step.mix(i, layer, work, runs, last);
        if last && step.layout.logits == 0 {
            break;
        }
        step.feed_forward(layer, work);
    }
    step.prefix.clear();
    if step.layout.logits > 0 {
        step.head(model, work);
    }
    step.backend.finish()
}

impl<B: Backend> Step<'_, '_, '_, B> {
    /// Shows rows to the tap, which may replace them.
    fn see(&mut self, name: &str, buffer: &mut B::Buffer) {
        let Some(tap) = &mut self.tap else { return };
        let replacement = tap(&format!("{}{name}", self.prefix), &self.backend.read(buffer));
        if let Some(rows) = replacement {
            self.backend.write(buffer, rows);
        }
    }

    fn embed(&mut self, model: &Model<B>, work: &mut Workspace<B>, runs: &[Run<B>]) {
        let x = &mut work.x;
        match runs {
            [run] => self.backend.embed(&model.embed, run.ids, x), //                x [T, hidden]
            runs => {
                let known = runs.iter().map(|run| match run.ids {
                    Ids::Known(ids) => ids,
                    Ids::Chosen => unreachable!("a token that the device knows alone is a step by itself"),
                });
                let ids = known.collect::<Vec<_>>().concat();
                self.backend.embed(&model.embed, Ids::Known(&ids), x);
            }
        }
        if self.spec.embed_scale != 1.0 {
            self.backend.scale(x, self.spec.embed_scale as f32);
        }
        self.see("embed", x);
    }

    /// The block in which tokens see each other.
    fn mix(&mut self, i: usize, layer: &Layer<B>, work: &mut Workspace<B>, runs: &mut [Run<B>], last: bool) {
        match &layer.mixer {
            Mixer::Attention(block) => self.attention(i, block, work, runs, last),
        }
    }

    /// The block that treats each token by itself.
    fn feed_forward(&mut self, layer: &Layer<B>, work: &mut Workspace<B>) {
        match &layer.feed_forward {
            FeedForward::Gated(block) => self.gated(block, work),
        }
    }

    fn attention(
        &mut self,
        i: usize,
        block: &AttentionBlock<B>,
        work: &mut Workspace<B>,
        runs: &mut [Run<B>],
        last: bool,
    ) {
        let (eps, head_dim) = (self.spec.norm_eps as f32, self.spec.head_dim);
        let Workspace { ropes, x, norm, q, k, v, mix, out, .. } = work;
        if let Some(weight) = &block.pre_norm {
            self.backend.rms_norm(x, weight, eps, norm); //                          norm [T, hidden]
            self.see("attn_norm", norm);
        }
        let input = if block.pre_norm.is_some() { &mut *norm } else { &mut *x };
        // In the last layer every token contributes its keys and values, but only tokens that need logits go further.
        let narrows = last && self.layout.logits < self.layout.tokens;
        if narrows {
            self.backend.linear(input, &mut [(&block.k, k), (&block.v, v)]);
            if self.layout.logits == 0 {
                self.backend.keep(q, &[]);
            } else {
                self.backend.keep(input, &self.layout.kept); //                      from here on T is the number of rows of logits
                self.backend.linear(input, &mut [(&block.q, q)]);
                if block.pre_norm.is_some() {
                    self.backend.keep(x, &self.layout.kept);
                }
            }
        } else {
            self.backend.linear(input, &mut [(&block.q, q), (&block.k, k), (&block.v, v)]); // q [T, heads * dim], k, v [T, kv * dim]
        }
        self.see("attn.q_plain", q);
        self.see("attn.k_plain", k);
        if let Some([q_norm, k_norm]) = &block.qk_norm {
            self.backend.norm_parts(q, q_norm, eps);
            self.backend.norm_parts(k, k_norm, eps);
            self.see("attn.q_norm", q);
            self.see("attn.k_norm", k);
        }
        if let Some(rope) = block.rope {
            self.backend.rope(q, head_dim, &self.turns(ropes, runs, rope, narrows));
            self.backend.rope(k, head_dim, &self.turns(ropes, runs, rope, false));
        }
        self.see("attn.q", q);
        self.see("attn.k", k);
        self.see("attn.v", v);
        let spans = runs.iter_mut().zip(&self.layout.places).map(|(run, place)| Attending {
            cache: &mut run.sequence.cache,
            first: place.first,
            tokens: place.tokens,
            queries: if narrows { place.kept } else { place.tokens },
        });
        self.backend.attention([q, k, v], &mut spans.collect::<Vec<_>>(), i, &block.how, mix); // mix [T, heads * dim]
        if last && self.layout.logits == 0 {
            return;
        }
        self.see("attn.mix", mix);
        self.backend.linear(mix, &mut [(&block.o, out)]); //                         out [T, hidden]
        self.see("attn.out", out);
        self.add_block(&block.post_norm, "attn_post_norm", "mid", work);
    }

    /// How one of the model's rotary embeddings turns the rows of a step: all of them, or only the kept ones.
    fn turns<'w>(&self, ropes: &'w [RopeSlot], runs: &[Run<B>], rope: usize, only_kept: bool) -> Vec<Turn<'w>> {
        let turn = |(run, place): (&Run<B>, &Place)| {
            let rows = if only_kept { place.kept } else { place.tokens };
            let table = &ropes[run.sequence.ropes[rope].place].table;
            Turn { table, first: place.first + place.tokens - rows, rows }
        };
        runs.iter().zip(&self.layout.places).map(turn).collect()
    }

    fn gated(&mut self, block: &GatedBlock<B>, work: &mut Workspace<B>) {
        let eps = self.spec.norm_eps as f32;
        let Workspace { x, norm, gate, up, gated, out, .. } = work;
        if let Some(weight) = &block.pre_norm {
            self.backend.rms_norm(x, weight, eps, norm);
            self.see("mlp_norm", norm);
        }
        let input = if block.pre_norm.is_some() { &mut *norm } else { &mut *x };
        if self.tap.is_some() {
            // The fused operation shows neither gate nor up, so they are computed separately for the tap.
            self.backend.set_width(gate, block.intermediate_size);
            self.backend.set_width(up, block.intermediate_size);
            self.backend.linear(input, &mut [(&block.gate, gate), (&block.up, up)]);
            self.see("mlp.gate", gate);
            self.see("mlp.up", up);
        }
        self.backend.set_width(gated, block.intermediate_size);
        self.backend.gated(input, [&block.gate, &block.up], self.spec.activation, gated); // gated [T, intermediate]
        self.see("mlp.gated", gated);
        self.backend.linear(gated, &mut [(&block.down, out)]); //                    out [T, hidden]
        self.see("mlp.out", out);
        self.add_block(&block.post_norm, "mlp_post_norm", "out", work);
    }

    /// Adds a block's output, `work.out`, to the residual stream. The tap sees the post-norm as `name`, the sum as
    /// `sum`.
    fn add_block(&mut self, post_norm: &Option<B::Weight>, name: &str, sum: &str, work: &mut Workspace<B>) {
        let Workspace { x, norm, out, .. } = work;
        if let Some(weight) = post_norm {
            self.backend.rms_norm(out, weight, self.spec.norm_eps as f32, norm);
            self.see(name, norm);
        }
        let block = if post_norm.is_some() { norm } else { out };
        if self.spec.residual_scale != 1.0 {
            self.backend.scale(block, self.spec.residual_scale as f32);
        }
        self.backend.add(x, block);
        self.see(sum, x);
    }

    fn head(&mut self, model: &Model<B>, work: &mut Workspace<B>) {
        let Workspace { x, norm, logits, .. } = work;
        self.backend.rms_norm(x, &model.final_norm, self.spec.norm_eps as f32, norm);
        self.see("final_norm", norm);
        self.backend.linear(norm, &mut [(&model.lm_head, logits)]); //               logits [T, vocab]
        if self.spec.logit_divisor != 1.0 {
            self.backend.scale(logits, (1.0 / self.spec.logit_divisor) as f32);
        }
        if let Some(cap) = self.spec.logit_softcap {
            self.backend.softcap(logits, cap as f32);
        }
        self.see("logits", logits);
    }
}
