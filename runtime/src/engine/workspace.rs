//! The buffers of a step, one set for an engine, whatever sequences it runs.

use super::model::Model;
use crate::backend::Backend;
use crate::backend::rope::{RopeTable, unstretched};
use nanoserve_format::Rope;
use std::sync::Arc;

/// Buffers that a step fills. T is the number of tokens of all its sequences together.
#[derive(Debug)]
pub struct Workspace<B: Backend> {
    /// Cosines and sines. Sequences share a table where they turn their tokens alike.
    pub ropes: Vec<RopeSlot>,
    /// `[T, hidden_size]`: the residual stream.
    pub x: B::Buffer,
    /// `[T, hidden_size]`
    pub norm: B::Buffer,
    /// `[T, n_heads * head_dim]`
    pub q: B::Buffer,
    /// `[T, n_kv_heads * head_dim]`
    pub k: B::Buffer,
    /// `[T, n_kv_heads * head_dim]`
    pub v: B::Buffer,
    /// `[T, n_heads * head_dim]`
    pub mix: B::Buffer,
    /// `[T, intermediate_size]`: filled for a tap alone, as is `up`.
    pub gate: B::Buffer,
    /// `[T, intermediate_size]`
    pub up: B::Buffer,
    /// `[T, intermediate_size]`
    pub gated: B::Buffer,
    /// `[T, hidden_size]`: what a block adds to the stream.
    pub out: B::Buffer,
    /// `[rows of logits that were asked for, vocab_size]`
    pub logits: B::Buffer,
}

impl<B: Backend> Workspace<B> {
    /// Buffers for a model, without rows.
    pub fn new(backend: &mut B, model: &Model<B>) -> Self {
        let s = &model.spec;
        Workspace {
            ropes: Vec::new(),
            x: backend.buffer(s.hidden_size),
            norm: backend.buffer(s.hidden_size),
            q: backend.buffer(s.q_size()),
            k: backend.buffer(s.kv_size()),
            v: backend.buffer(s.kv_size()),
            mix: backend.buffer(s.q_size()),
            gate: backend.buffer(s.intermediate_size),
            up: backend.buffer(s.intermediate_size),
            gated: backend.buffer(s.intermediate_size),
            out: backend.buffer(s.hidden_size),
            logits: backend.buffer(s.vocab_size),
        }
    }

    /// The tables by which a sequence of `capacity` positions turns, one for each of the model's rotary embeddings. Only
    /// embeddings that are stretched by a text's length have more tables than one; those that no sequence uses make room.
    pub fn ropes_for(&mut self, model: &Model<B>, capacity: usize) -> Vec<RopeUse> {
        model.ropes.iter().map(|rope| self.rope_for(rope, model.spec.head_dim, capacity)).collect()
    }

    fn rope_for(&mut self, rope: &Rope, head_dim: usize, capacity: usize) -> RopeUse {
        // All lengths up to the one that stretches turn alike.
        let length = unstretched(rope).map_or(0, |n| if capacity > n { capacity } else { 0 });
        let table = RopeTable::new(rope, head_dim, length);
        let known = self.ropes.iter().position(|slot| slot.table.turns_as(&table));
        let place = known.unwrap_or_else(|| {
            let slot = RopeSlot { used: Arc::new(()), table };
            match self.ropes.iter().position(|slot| Arc::strong_count(&slot.used) == 1) {
                Some(unused) => {
                    self.ropes[unused] = slot;
                    unused
                }
                None => {
                    self.ropes.push(slot);
                    self.ropes.len() - 1
                }
            }
        });
        RopeUse { place, _used: self.ropes[place].used.clone() }
    }
}

/// A sequence's use of a table: the table stays while this is held.
#[derive(Debug)]
pub struct RopeUse {
    /// Its place among the workspace's tables.
    pub place: usize,
    _used: Arc<()>,
}

/// A table, and whoever uses it.
#[derive(Debug)]
pub struct RopeSlot {
    used: Arc<()>,
    /// Cosines and sines.
    pub table: RopeTable,
}
