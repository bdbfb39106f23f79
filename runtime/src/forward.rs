//! One step of a decoder-only transformer: some tokens in, logits out. One operation a line; shapes beside them.
//!
//! T tokens stand at positions `first..first + T`; the cache holds what came before. The result does not depend on how
//! a text was cut into steps: every operation treats each token by itself, and attention sees positions.

use crate::backend::{Backend, KvShape, KvType};
use crate::error::{Result, RuntimeError};
use crate::model::Model;
use crate::rope::RopeTable;
use std::borrow::Cow;

/// Which rows of logits a step is to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
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

/// What a sequence of tokens has left behind: its cache, and the buffers of a step.
#[derive(Debug)]
pub struct State<B: Backend> {
    cache: B::Cache,
    rope: RopeTable,
    capacity: usize,
    len: usize,
    /// `[T, hidden_size]`: the residual stream.
    x: B::Buffer,
    /// `[T, hidden_size]`
    norm: B::Buffer,
    /// `[T, n_heads * head_dim]`
    q: B::Buffer,
    /// `[T, n_kv_heads * head_dim]`
    k: B::Buffer,
    /// `[T, n_kv_heads * head_dim]`
    v: B::Buffer,
    /// `[T, n_heads * head_dim]`
    mix: B::Buffer,
    /// `[T, intermediate_size]`: filled for a tap alone, as is `up`.
    gate: B::Buffer,
    /// `[T, intermediate_size]`
    up: B::Buffer,
    /// `[T, intermediate_size]`
    gated: B::Buffer,
    /// `[T, hidden_size]`: what a block adds to the stream.
    out: B::Buffer,
    /// `[T or 1, vocab_size]`
    logits: B::Buffer,
}

impl<B: Backend> State<B> {
    /// An empty sequence with room for `capacity` positions.
    ///
    /// # Errors
    /// When the model has fewer positions than that, or the system gives no memory for them.
    pub fn new(backend: &mut B, model: &Model<B>, capacity: usize, kv_type: KvType) -> Result<Self> {
        let s = &model.spec;
        if capacity > s.context_length {
            return Err(RuntimeError::ContextTooLong { got: capacity, expected: s.context_length });
        }
        let (n_layers, n_kv_heads, head_dim) = (s.n_layers, s.n_kv_heads, s.head_dim);
        Ok(State {
            cache: backend.cache(KvShape { n_layers, n_kv_heads, head_dim, capacity, kv_type })?,
            rope: RopeTable::new(&s.rope, head_dim),
            capacity,
            len: 0,
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
        })
    }

    /// Tokens seen so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Keys and values of the tokens seen so far.
    pub(crate) fn cached<'a>(&'a self, backend: &'a B) -> Vec<&'a [u8]> {
        backend.cache_bytes(&self.cache, self.len)
    }

    /// Takes `len` tokens as seen whose keys and values [`State::cached`] gave; false, and nothing seen, where it would not
    /// have given so many bytes.
    pub(crate) fn restore(&mut self, backend: &mut B, len: usize, kv: &[u8]) -> bool {
        let fits = backend.set_cache_bytes(&mut self.cache, len, kv);
        self.len = if fits { len } else { 0 };
        fits
    }
}

/// Runs tokens `ids` after those seen so far and returns their logits, `[T, 1 or 0, vocab_size]`.
///
/// # Errors
/// When there is no token, no room for them, or one is not in the vocabulary; the state is then unchanged.
pub fn forward<'s, B: Backend>(
    backend: &mut B,
    model: &Model<B>,
    state: &'s mut State<B>,
    ids: &[u32],
    rows: Rows,
    mut tap: Option<Tap<'_, '_>>,
) -> Result<Cow<'s, [f32]>> {
    let (spec, eps, first) = (&model.spec, model.spec.norm_eps as f32, state.len);
    let State { cache, rope, x, norm, q, k, v, mix, gate, up, gated, out, logits, .. } = state;
    if ids.is_empty() {
        return Err(RuntimeError::EmptyPrompt);
    }
    if ids.len() > state.capacity - first {
        return Err(RuntimeError::PromptTooLong { got: ids.len(), room: state.capacity - first });
    }
    if let Some(&got) = ids.iter().find(|&&id| id as usize >= spec.vocab_size) {
        return Err(RuntimeError::TokenId { got, vocab_size: spec.vocab_size });
    }
    let tapped = tap.is_some();
    let mut see = |backend: &mut B, name: &dyn Fn() -> String, buffer: &mut B::Buffer| {
        let Some(tap) = &mut tap else { return };
        let instead = tap(&name(), &backend.read(buffer));
        if let Some(rows) = instead {
            backend.write(buffer, rows);
        }
    };
    rope.extend(first + ids.len());
    // Position of the first of the T tokens that go on.
    let mut start = first;

    backend.embed(&model.embed, ids, x); //                                          x [T, hidden]
    see(backend, &|| "embed".into(), x);
    for (i, layer) in model.layers.iter().enumerate() {
        let name = |part: &'static str| move || format!("layers.{i}.{part}");

        backend.rms_norm(x, &layer.attn_norm, eps, norm); //                         norm [T, hidden]
        see(backend, &name("attn_norm"), norm);
        if rows != Rows::All && i + 1 == model.layers.len() {
            // The last layer's tokens are seen through their keys and values, all but the last one: T is 1 from here on.
            backend.linear(norm, &mut [(&layer.k, k), (&layer.v, v)]);
            if rows == Rows::None {
                backend.rope(k, spec.head_dim, rope, first);
                backend.store(cache, i, k, v, first);
                state.len += ids.len();
                return Ok(Cow::Borrowed(&[]));
            }
            backend.keep_last(x);
            backend.keep_last(norm);
            start = first + ids.len() - 1;
            backend.linear(norm, &mut [(&layer.q, q)]);
        } else {
            backend.linear(norm, &mut [(&layer.q, q), (&layer.k, k), (&layer.v, v)]); // q [T, heads * dim], k, v [T, kv * dim]
        }
        see(backend, &name("attn.q_plain"), q);
        see(backend, &name("attn.k_plain"), k);
        backend.rope(q, spec.head_dim, rope, start);
        backend.rope(k, spec.head_dim, rope, first);
        see(backend, &name("attn.q"), q);
        see(backend, &name("attn.k"), k);
        see(backend, &name("attn.v"), v);
        backend.store(cache, i, k, v, first);
        backend.attention(q, cache, i, start, mix); //                               mix [T, heads * dim]
        see(backend, &name("attn.mix"), mix);
        backend.linear(mix, &mut [(&layer.o, out)]); //                              out [T, hidden]
        see(backend, &name("attn.out"), out);
        backend.add(x, out);
        see(backend, &name("mid"), x);

        backend.rms_norm(x, &layer.mlp_norm, eps, norm);
        see(backend, &name("mlp_norm"), norm);
        if tapped {
            // The fused operation shows neither: once more, by itself.
            backend.linear(norm, &mut [(&layer.gate, gate), (&layer.up, up)]);
            see(backend, &name("mlp.gate"), gate);
            see(backend, &name("mlp.up"), up);
        }
        backend.gated(norm, &layer.gate, &layer.up, gated); //                       gated [T, intermediate]
        see(backend, &name("mlp.gated"), gated);
        backend.linear(gated, &mut [(&layer.down, out)]); //                         out [T, hidden]
        see(backend, &name("mlp.out"), out);
        backend.add(x, out);
        see(backend, &name("out"), x);
    }
    backend.rms_norm(x, &model.final_norm, eps, norm);
    see(backend, &|| "final_norm".into(), norm);
    backend.linear(norm, &mut [(&model.lm_head, logits)]); //                        logits [T, vocab]
    see(backend, &|| "logits".into(), logits);
    state.len += ids.len();
    Ok(backend.read(&state.logits))
}
