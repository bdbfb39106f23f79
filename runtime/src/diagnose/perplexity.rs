//! How well a model foretells a text: exp of the mean of -ln(probability) of its tokens.
//!
//! As llama.cpp does it: the text's tokens are cut into windows of `ctx`, each by itself; the second half of a window is
//! scored, what is before it is context; a rest that fills no window is left out. Where prompts begin with a BOS, it takes
//! the place of each window's first token.
//!
//! ```text
//! window       tokens[i * ctx..(i + 1) * ctx]
//! scored       token t + 1 by the logits of token t, for t from ctx / 2 to ctx - 2
//! value        exp(mean of -ln p)
//! error        value * sqrt((mean of (ln p)^2 - (mean of ln p)^2) / (scored - 1)), one standard error
//! ```

use crate::backend::Backend;
use crate::engine::session::Session;
use crate::error::{Result, RuntimeError};
use crate::generate::logprobs::log_sum_exp;

/// What has been scored so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Windows done.
    pub windows: usize,
    /// Tokens scored.
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

    /// Mean of -ln p, in nats a token.
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

/// Windows of `ctx` tokens that a text of so many has.
///
/// # Errors
/// When it has none, or a window scores nothing.
pub fn windows(tokens: usize, ctx: usize) -> Result<usize> {
    if ctx < 4 || tokens < ctx {
        return Err(RuntimeError::TextTooShort { got: tokens, ctx });
    }
    Ok(tokens / ctx)
}

/// Scores a text window by window, in a session with room for `ctx`; `chunk` tokens go through the model in one step.
/// `bos` is what each window begins with. After each window `on_window` sees what there is, and answers whether to go on.
///
/// # Errors
/// When the text has no window, or a step fails.
pub fn perplexity<B: Backend>(
    session: &mut Session<B>,
    tokens: &[u32],
    ctx: usize,
    chunk: usize,
    bos: Option<u32>,
    on_window: &mut dyn FnMut(&Perplexity) -> bool,
) -> Result<Perplexity> {
    let mut all = Perplexity::default();
    for window in tokens.chunks_exact(ctx).take(windows(tokens.len(), ctx)?) {
        let mut window = window.to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        session.truncate(0);
        let first = ctx / 2;
        session.feed_quietly(&window[..first], chunk)?;
        // The last token is foretold and need not run.
        for start in (first..ctx - 1).step_by(chunk.max(1)) {
            let ids = &window[start..(start + chunk.max(1)).min(ctx - 1)];
            let logits = session.feed_all(ids)?;
            let row_len = logits.len() / ids.len();
            for (row, &next) in logits.chunks_exact(row_len).zip(&window[start + 1..]) {
                all.add(log_sum_exp(row) - f64::from(row[next as usize]));
            }
        }
        all.windows += 1;
        if !on_window(&all) {
            break;
        }
    }
    Ok(all)
}
