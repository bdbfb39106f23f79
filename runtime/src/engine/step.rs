//! One step of a decoder-only transformer: some tokens in, logits out. One operation a line; shapes beside them.
//!
//! T tokens stand at positions `first..first + T`; the cache holds what came before. The result does not depend on how
//! a text was cut into steps: every operation treats each token by itself, and attention sees positions.

use crate::backend::rope::RopeTable;
use crate::backend::{Backend, Choice, Ids, KvShape, KvType};
use crate::engine::model::Model;
use crate::error::{Result, RuntimeError};
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
    /// One for each of the model's rotary embeddings.
    ropes: Vec<RopeTable>,
    capacity: usize,
    len: usize,
    /// The most tokens it had seen since it was empty: a ring holds the last before this many.
    most: usize,
    /// What a layer with a window sees before a token, and the positions that its ring holds; None where all hold all.
    ring: Option<(usize, usize)>,
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
        let shape = KvShape::new(s, capacity, kv_type);
        let ring = s.window.as_ref().map(|window| (window.size - 1, shape.positions[window.layers[0]]));
        Ok(State {
            cache: backend.cache(shape)?,
            ropes: model.ropes.iter().map(|rope| RopeTable::new(rope, s.head_dim, capacity)).collect(),
            capacity,
            len: 0,
            most: 0,
            ring: ring.filter(|(_, positions)| *positions < capacity),
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

    /// Forgets all but the first `len` tokens; how many are left. That is `len`, or what there was where that is less; and
    /// nothing where a layer with a window would have to see positions that its ring has given to later ones. Going back by
    /// [`WINDOW_STEP`](crate::backend::WINDOW_STEP) tokens from the most there were is always possible.
    #[must_use = "where nothing is left, all tokens must be fed again"]
    pub fn truncate(&mut self, len: usize) -> usize {
        self.len = self.len.min(len);
        let lost = |(before, positions): (usize, usize)| self.len.saturating_sub(before) + positions < self.most;
        if self.len == 0 || self.ring.is_some_and(lost) {
            (self.len, self.most) = (0, 0);
        }
        self.len
    }

    /// The token of the last [`forward_chosen`] is seen.
    pub(crate) fn keep_chosen(&mut self) {
        self.len += 1;
    }

    /// Keys and values of the tokens seen so far.
    pub(crate) fn cached<'a>(&'a self, backend: &'a B) -> Result<Vec<Cow<'a, [u8]>>> {
        backend.cache_bytes(&self.cache, self.len)
    }

    /// The most tokens seen since it was empty.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Takes `len` tokens, of `most` that there were, as seen whose keys and values [`State::cached`] gave; false, and
    /// nothing seen, where it would not have given so many bytes.
    pub(crate) fn restore(&mut self, backend: &mut B, (len, most): (usize, usize), kv: &[u8]) -> bool {
        let fits = len <= most && len <= self.capacity && backend.set_cache_bytes(&mut self.cache, len, kv);
        (self.len, self.most) = if fits { (len, most) } else { (0, 0) };
        fits
    }
}

/// Runs tokens `ids` after those seen so far and returns their logits, `[T, 1 or 0, vocab_size]`.
///
/// # Errors
/// When there is no token, no room for them, one is not in the vocabulary, or a device failed; the state is then unchanged.
pub fn forward<'s, B: Backend>(
    backend: &mut B,
    model: &Model<B>,
    state: &'s mut State<B>,
    ids: &[u32],
    rows: Rows,
    tap: Option<Tap<'_, '_>>,
) -> Result<Cow<'s, [f32]>> {
    step(backend, model, state, Ids::Known(ids), rows, tap)?;
    if rows == Rows::None {
        return Ok(Cow::Borrowed(&[]));
    }
    let State { logits, len, .. } = state;
    let logits = backend.read(logits);
    end(backend, len, ids.len())?;
    Ok(logits)
}

/// Ends what was asked of a step that has run; its tokens are not seen where that failed.
fn end<B: Backend>(backend: &mut B, len: &mut usize, tokens: usize) -> Result<()> {
    backend.finish().inspect_err(|_| *len -= tokens)
}

/// What a token is chosen from.
#[derive(Clone, Debug, PartialEq)]
pub enum Logits {
    /// `[vocab_size]`
    Row(Vec<f32>),
    /// The largest of them, by their ids: see [`Backend::top`].
    Top(Vec<(u32, f32)>),
}

/// As [`forward`] of the last row; where a backend can give the `top` largest logits alone, those.
///
/// # Errors
/// As [`forward`].
pub fn forward_top<B: Backend>(
    backend: &mut B,
    model: &Model<B>,
    state: &mut State<B>,
    ids: &[u32],
    top: Option<usize>,
) -> Result<Logits> {
    step(backend, model, state, Ids::Known(ids), Rows::Last, None)?;
    let logits = last(backend, &state.logits, top.map(|k| k.min(model.spec.vocab_size)));
    end(backend, &mut state.len, ids.len())?;
    Ok(logits)
}

/// The likeliest of a row of logits, or all of it.
fn last<B: Backend>(backend: &mut B, logits: &B::Buffer, top: Option<usize>) -> Logits {
    match top.and_then(|k| backend.top(logits, k)) {
        Some(top) => Logits::Top(top),
        None => Logits::Row(backend.read(logits).into_owned()),
    }
}

/// What is known of a token behind a step that was begun.
#[derive(Debug)]
pub(crate) enum Next {
    /// It is being chosen: see [`Backend::choose`].
    Chosen(Choice),
    /// The backend does not choose; the logits are here.
    Logits(Logits),
}

/// As [`forward_top`] of one token and the likeliest one; where the backend can choose it, without waiting.
pub(crate) fn forward_choice<B: Backend>(
    backend: &mut B,
    model: &Model<B>,
    state: &mut State<B>,
    id: u32,
) -> Result<Next> {
    step(backend, model, state, Ids::Known(&[id]), Rows::Last, None)?;
    let next = match backend.choose(&state.logits) {
        Some(choice) => Next::Chosen(choice),
        None => Next::Logits(last(backend, &state.logits, Some(1))),
    };
    end(backend, &mut state.len, 1)?;
    Ok(next)
}

/// The step of the token that was chosen last, and the choice behind it. The token is not seen, and its position the next
/// step's, until [`State::keep_chosen`].
pub(crate) fn forward_chosen<B: Backend>(
    backend: &mut B,
    model: &Model<B>,
    state: &mut State<B>,
) -> Result<Option<Choice>> {
    step(backend, model, state, Ids::Chosen, Rows::Last, None)?;
    state.len -= 1;
    let choice = backend.choose(&state.logits);
    backend.finish().map(|()| choice)
}

/// As [`forward`]; the logits stay where the backend has them.
fn step<B: Backend>(
    backend: &mut B,
    model: &Model<B>,
    state: &mut State<B>,
    ids: Ids,
    rows: Rows,
    mut tap: Option<Tap<'_, '_>>,
) -> Result<()> {
    let (spec, eps, first) = (&model.spec, model.spec.norm_eps as f32, state.len);
    let residual_scale = spec.residual_scale as f32;
    let State { cache, ropes, x, norm, q, k, v, mix, gate, up, gated, out, logits, .. } = state;
    let tokens = ids.count();
    if tokens == 0 {
        return Err(RuntimeError::EmptyPrompt);
    }
    if tokens > state.capacity - first {
        return Err(RuntimeError::PromptTooLong { got: tokens, room: state.capacity - first });
    }
    if let Ids::Known(ids) = ids
        && let Some(&got) = ids.iter().find(|&&id| id as usize >= spec.vocab_size)
    {
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
    ropes.iter_mut().for_each(|rope| rope.extend(first + tokens));
    // Position of the first of the T tokens that go on.
    let mut start = first;

    backend.embed(&model.embed, ids, x); //                                          x [T, hidden]
    if spec.embed_scale != 1.0 {
        backend.scale(x, spec.embed_scale as f32);
    }
    see(backend, &|| "embed".into(), x);
    for (i, layer) in model.layers.iter().enumerate() {
        let name = |part: &'static str| move || format!("layers.{i}.{part}");
        let rope = layer.rope.map(|rope| &ropes[rope]);

        if let Some(weight) = &layer.attn_norm {
            backend.rms_norm(x, weight, eps, norm); //                               norm [T, hidden]
            see(backend, &name("attn_norm"), norm);
        }
        // What the block reads.
        let input = if layer.attn_norm.is_some() { &mut *norm } else { &mut *x };
        let last = rows != Rows::All && i + 1 == model.layers.len();
        if last {
            // The last layer's tokens are seen through their keys and values; the last one goes on, or none.
            backend.linear(input, &mut [(&layer.k, k), (&layer.v, v)]);
            start = first + tokens - 1;
        } else {
            backend.linear(input, &mut [(&layer.q, q), (&layer.k, k), (&layer.v, v)]); // q [T, heads * dim], k, v [T, kv * dim]
        }
        match rows {
            Rows::Last if last => {
                backend.keep_last(input, 1); //                                      T is 1 from here on
                backend.linear(input, &mut [(&layer.q, q)]);
                if layer.attn_norm.is_some() {
                    backend.keep_last(x, 1);
                }
            }
            Rows::None if last => backend.keep_last(q, 0),
            _ => {}
        }
        see(backend, &name("attn.q_plain"), q);
        see(backend, &name("attn.k_plain"), k);
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            backend.norm_parts(q, q_norm, eps);
            backend.norm_parts(k, k_norm, eps);
            see(backend, &name("attn.q_norm"), q);
            see(backend, &name("attn.k_norm"), k);
        }
        if let Some(rope) = rope {
            backend.rope(q, spec.head_dim, rope, start);
            backend.rope(k, spec.head_dim, rope, first);
        }
        see(backend, &name("attn.q"), q);
        see(backend, &name("attn.k"), k);
        see(backend, &name("attn.v"), v);
        backend.attention([q, k, v], (cache, i), first, &layer.attention, mix); //   mix [T, heads * dim]
        if last && rows == Rows::None {
            break;
        }
        see(backend, &name("attn.mix"), mix);
        backend.linear(mix, &mut [(&layer.o, out)]); //                              out [T, hidden]
        see(backend, &name("attn.out"), out);
        if let Some(weight) = &layer.attn_post_norm {
            backend.rms_norm(out, weight, eps, norm);
            see(backend, &name("attn_post_norm"), norm);
        }
        let block = if layer.attn_post_norm.is_some() { &mut *norm } else { &mut *out };
        if residual_scale != 1.0 {
            backend.scale(block, residual_scale);
        }
        backend.add(x, block);
        see(backend, &name("mid"), x);

        if let Some(weight) = &layer.mlp_norm {
            backend.rms_norm(x, weight, eps, norm);
            see(backend, &name("mlp_norm"), norm);
        }
        let input = if layer.mlp_norm.is_some() { &mut *norm } else { &mut *x };
        if tapped {
            // The fused operation shows neither: once more, by itself.
            backend.linear(input, &mut [(&layer.gate, gate), (&layer.up, up)]);
            see(backend, &name("mlp.gate"), gate);
            see(backend, &name("mlp.up"), up);
        }
        backend.gated(input, [&layer.gate, &layer.up], spec.activation, gated); //   gated [T, intermediate]
        see(backend, &name("mlp.gated"), gated);
        backend.linear(gated, &mut [(&layer.down, out)]); //                         out [T, hidden]
        see(backend, &name("mlp.out"), out);
        if let Some(weight) = &layer.mlp_post_norm {
            backend.rms_norm(out, weight, eps, norm);
            see(backend, &name("mlp_post_norm"), norm);
        }
        let block = if layer.mlp_post_norm.is_some() { &mut *norm } else { &mut *out };
        if residual_scale != 1.0 {
            backend.scale(block, residual_scale);
        }
        backend.add(x, block);
        see(backend, &name("out"), x);
    }
    if rows != Rows::None {
        backend.rms_norm(x, &model.final_norm, eps, norm);
        see(backend, &|| "final_norm".into(), norm);
        backend.linear(norm, &mut [(&model.lm_head, logits)]); //                    logits [T, vocab]
        if spec.logit_divisor != 1.0 {
            backend.scale(logits, (1.0 / spec.logit_divisor) as f32);
        }
        if let Some(cap) = spec.logit_softcap {
            backend.softcap(logits, cap as f32);
        }
        see(backend, &|| "logits".into(), logits);
    }
    backend.finish()?;
    state.len += tokens;
    state.most = state.most.max(state.len);
    Ok(())
}
