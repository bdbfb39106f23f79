//! The buffers of a step: one set for each engine, shared by all its sequences.

use super::model::Model;
use crate::backend::Backend;
use crate::backend::rope::{RopeTable, unstretched};
use nanoserve_format::Rope;
use std::sync::Arc;

/// Buffers that a step fills. T is the number of tokens in the step, over all its sequences.
#[derive(Debug)]
pub struct Workspace<B: Backend> {
    /// RoPE tables: cosines and sines. Sequences with the same frequencies share a table.
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
    /// `[T, intermediate_size]`: filled only for a tap, like `up`.
    pub gate: B::Buffer,
    /// `[T, intermediate_size]`
    pub up: B::Buffer,
    /// `[T, intermediate_size]`
    pub gated: B::Buffer,
    /// `[T, hidden_size]`: what a block adds to the residual stream.
    pub out: B::Buffer,
    /// `[rows of logits asked for, vocab_size]`
    pub logits: B::Buffer,
}

impl<B: Backend> Workspace<B> {
    /// Buffers of the model's widths, still without rows.
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

    /// The RoPE tables for a sequence of `capacity` positions, one for each of the model's rotary embeddings. Only
    /// embeddings that depend on the capacity have several tables; a table that no sequence uses is replaced.
    pub fn ropes_for(&mut self, model: &Model<B>, capacity: usize) -> Vec<RopeUse> {
        model.ropes.iter().map(|rope| self.rope_for(rope, model.spec.head_dim, capacity)).collect()
    }

    fn rope_for(&mut self, rope: &Rope, head_dim: usize, capacity: usize) -> RopeUse {
        // All capacities that do not stretch the frequencies share a table.
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

/// A sequence's use of a RoPE table. The table is not replaced while this is held.
#[derive(Debug)]
pub struct RopeUse {
    /// Index in [`Workspace::ropes`].
    pub place: usize,
    _used: Arc<()>,
}

/// A RoPE table with a count of the sequences that use it.
#[derive(Debug)]
pub struct RopeSlot {
    used: Arc<()>,
    /// Cosines and sines.
    pub table: RopeTable,
}
