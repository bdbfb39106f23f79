//! Perplexity: how well a model predicts a text, as exp of the mean of -ln(probability) of its tokens.
//!
//! The method is that of llama.cpp. The text's tokens are cut into independent windows of `ctx`. The second half of a
//! window is scored, the first half is context. An incomplete last window is ignored. For models whose prompts begin
//! with a BOS token, it replaces the first token of each window.
//!
//! ```text
//! window       tokens[i * ctx..(i + 1) * ctx]
//! scored       token t + 1 with the logits of token t, for t from ctx / 2 to ctx - 2
//! value        exp(mean of -ln p)
//! error        value * sqrt((mean of (ln p)^2 - (mean of ln p)^2) / (scored - 1)), one standard error
//! ```

pub mod base;
pub mod divergence;

use crate::backend::Backend;
use crate::engine::session::Session;
use crate::error::{Result, RuntimeError};
use crate::generate::logprobs::log_sum_exp;

/// The score so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Number of windows done.
    pub windows: usize,
    /// Number of tokens scored.
    pub scored: usize,
    /// Sum of -ln p.
    sum: f64,
    /// Sum of its squares.
    squares: f64,
}

impl Perplexity {
    /// exp(mean of -ln p).
    pub fn value(&self) -> f64 {
        libm::exp(self.mean())
    }

    /// Mean of -ln p, in nats per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.scored as f64
    }

    /// One standard error of the value.
    pub fn error(&self) -> f64 {
        let variance = self.squares / self.scored as f64 - self.mean() * self.mean();
        self.value() * libm::sqrt(variance.max(0.0) / (self.scored.saturating_sub(1)) as f64)
    }

    fn add(&mut self, surprise: f64) {
        self.scored += 1;
        self.sum += surprise;
        self.squares += surprise * surprise;
    }
}

/// The number of windows of `ctx` tokens in a text of `tokens` tokens.
///
/// # Errors
/// When there is none, or a window is too short to score anything.
pub fn windows(tokens: usize, ctx: usize) -> Result<usize> {
    if ctx < 4 || tokens < ctx {
        return Err(RuntimeError::TextTooShort { got: tokens, ctx });
    }
    Ok(tokens / ctx)
}

/// A text to score.
#[derive(Clone, Copy, Debug)]
pub struct Text<'t> {
    /// Its tokens.
    pub tokens: &'t [u32],
    /// Tokens of a window.
    pub ctx: usize,
    /// If given, replaces the first token of each window.
    pub bos: Option<u32>,
    /// The most windows to score; None is all.
    pub most: Option<usize>,
}

impl Text<'_> {
    /// The number of windows that are scored.
    ///
    /// # Errors
    /// As [`windows`].
    pub fn windows(&self) -> Result<usize> {
        let all = windows(self.tokens.len(), self.ctx)?;
        Ok(self.most.map_or(all, |most| most.min(all)))
    }
}

/// Tokens of a window that are scored.
pub fn scored_per_window(ctx: usize) -> usize {
    (ctx - 1).saturating_sub(ctx / 2)
}

/// Scores a text window by window, in a session with a capacity of at least a window; a step takes `chunk` tokens. `on_row`
/// gets the logits behind each scored token, and that token. `on_window` is called after each window with the score so far
/// and returns whether to go on.
///
/// # Errors
/// When the text has no window, or a step or `on_row` fails.
pub fn perplexity<B: Backend>(
    session: &mut Session<B>,
    text: &Text,
    chunk: usize,
    on_row: &mut dyn FnMut(&[f32], u32) -> Result<()>,
    on_window: &mut dyn FnMut(&Perplexity) -> bool,
) -> Result<Perplexity> {
    let (mut all, ctx) = (Perplexity::default(), text.ctx);
    for window in text.tokens.chunks_exact(ctx).take(text.windows()?) {
        let mut window = window.to_vec();
        if let Some(bos) = text.bos {
            window[0] = bos;
        }
        _ = session.truncate(0);
        let first = ctx / 2;
        session.feed_quietly(&window[..first], chunk)?;
        // The last token is only predicted and need not run.
        for start in (first..ctx - 1).step_by(chunk.max(1)) {
            let ids = &window[start..(start + chunk.max(1)).min(ctx - 1)];
            let logits = session.feed_all(ids)?;
            let row_len = logits.len() / ids.len();
            for (row, &next) in logits.chunks_exact(row_len).zip(&window[start + 1..]) {
                all.add(log_sum_exp(row) - f64::from(row[next as usize]));
                on_row(row, next)?;
            }
        }
        all.windows += 1;
        if !on_window(&all) {
            break;
        }
    }
    Ok(all)
}
