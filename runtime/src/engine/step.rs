//! One step of a decoder-only transformer: some tokens of some sequences in, logits out. One operation a line; shapes
//! beside them.
//!
//! The rows of a step are the tokens of its spans, one span behind the other: T of them. Every operation but RoPE and
//! attention treats a row by itself, and those two look at the row's own sequence and position. So a row's result does not
//! depend on how a text was cut into steps, nor on what else is in the step.

use super::model::{AttentionBlock, FeedForward, GatedBlock, Layer, Mixer, Model};
use super::sequence::Sequence;
use super::workspace::{RopeSlot, Workspace};
use crate::backend::{Attending, Backend, Ids, Turn};
use crate::error::{Result, RuntimeError};
use nanoserve_format::ModelSpec;
use std::ops::Range;

/// Which rows of logits a span of a step is to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// One for each token.
    All,
    /// The last token's alone.
    Last,
    /// None: the tokens are there for the cache, and more follow.
    None,
}

/// Sees the result of each operation by its name on the ladder: `(name, rows)`. Rows that it returns take their place:
/// what follows is computed from them.
pub type Tap<'t, 'r> = &'t mut dyn FnMut(&str, &[f32]) -> Option<&'r [f32]>;

/// Tokens of one sequence in a step.
#[derive(Debug)]
pub(super) struct Run<'s, B: Backend> {
    pub sequence: &'s mut Sequence<B>,
    pub ids: Ids<'s>,
    pub rows: LogitRows,
}

/// Where the rows of a run stand, in its sequence and in the step.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Position of the first token.
    first: usize,
    tokens: usize,
    /// The last of them whose logits are wanted.
    kept: usize,
}

/// The runs of a step, one behind the other.
struct Layout {
    places: Vec<Place>,
    /// T
    tokens: usize,
    /// Rows that go on behind the last layer's keys and values, and how many they are.
    kept: Vec<Range<usize>>,
    logits: usize,
}

impl Layout {
    /// Of some runs.
    ///
    /// # Errors
    /// When one has no token, no room for its tokens, or a token that is not in the vocabulary.
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

/// Ok where a sequence can take these tokens.
pub(super) fn check<B: Backend>(spec: &ModelSpec, sequence: &Sequence<B>, ids: Ids) -> Result<()> {
    let room = sequence.capacity() - sequence.len();
    if ids.count() == 0 {
        return Err(RuntimeError::EmptyPrompt);
    }
    if ids.count() > room {
        return Err(RuntimeError::PromptTooLong { got: ids.count(), room });
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
    /// Begins the names of what the tap sees.
    prefix: String,
}

/// Runs the tokens of `runs`, each behind those that its sequence holds. The rows of logits that were wanted are then in
/// `work.logits`, `[rows, vocab_size]`, one run behind the other. The tokens do not count yet: see [`Sequence::push`].
///
/// # Errors
/// When a run has no token, no room for its tokens, or a token that is not in the vocabulary, nothing is run; and when a
/// device failed.
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
    /// Shows rows to the tap, which may put others in their place.
    fn see(&mut self, name: &str, buffer: &mut B::Buffer) {
        let Some(tap) = &mut self.tap else { return };
        let instead = tap(&format!("{}{name}", self.prefix), &self.backend.read(buffer));
        if let Some(rows) = instead {
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

    /// What lets a token see others.
    fn mix(&mut self, i: usize, layer: &Layer<B>, work: &mut Workspace<B>, runs: &mut [Run<B>], last: bool) {
        match &layer.mixer {
            Mixer::Attention(block) => self.attention(i, block, work, runs, last),
        }
    }

    /// What each token goes through by itself.
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
        // What the block reads.
        let input = if block.pre_norm.is_some() { &mut *norm } else { &mut *x };
        // The last layer's tokens are seen through their keys and values; only those go on whose logits are wanted.
        let narrows = last && self.layout.logits < self.layout.tokens;
        if narrows {
            self.backend.linear(input, &mut [(&block.k, k), (&block.v, v)]);
            if self.layout.logits == 0 {
                self.backend.keep(q, &[]);
            } else {
                self.backend.keep(input, &self.layout.kept); //                      T is the rows of logits from here on
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

    /// How the rows of a step are turned by one of the model's rotary embeddings: all of them, or those that are kept.
    fn turns<'w>(&self, ropes: &'w [RopeSlot], runs: &[Run<B>], rope: usize, kept: bool) -> Vec<Turn<'w>> {
        let turn = |(run, place): (&Run<B>, &Place)| {
            let rows = if kept { place.kept } else { place.tokens };
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
            // The fused operation shows neither: once more, by itself.
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

    /// Adds what a block made, `work.out`, to the residual stream: `sum` is its name then.
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
