//! The options of an answer.

use super::grammar::Grammar;
use super::sampler::{Sampler, SamplingOptions};
use super::stops::StopMatcher;
use crate::backend::DEFAULT_CHUNK;
use crate::error::Result;
use nanoserve_format::GenerationDefaults;

/// Which special tokens have a text in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Specials {
    /// None of them.
    #[default]
    None,
    /// These.
    These(Vec<u32>),
    /// All of them, and the token that ends the answer.
    All,
}

/// How to continue a prompt. More fields will come: start with the default, or [`GenerateOptions::from_defaults`], and set
/// what is to be otherwise.
///
/// ```
/// use nanoserve_runtime::GenerateOptions;
///
/// let mut options = GenerateOptions::default();
/// options.max_tokens = Some(200);
/// options.sampling.temperature = 0.0;
/// options.stops = vec!["\n\n".into()];
/// options.check()?;
/// # Ok::<(), nanoserve_runtime::RuntimeError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// The most tokens to make; None goes on until the context is full.
    pub max_tokens: Option<usize>,
    /// How a token is chosen.
    pub sampling: SamplingOptions,
    /// Which special tokens have a text in the result.
    pub specials: Specials,
    /// Texts that end generation; they are not part of the result. The texts of special tokens are searched too, whether
    /// or not they are part of the result. Where a token both ends the answer and completes a stop text, the stop text
    /// is the reason.
    pub stops: Vec<String>,
    /// Tokens that end generation.
    pub eos_ids: Vec<u32>,
    /// Never choose an end token.
    pub ignore_eos: bool,
    /// The most tokens of the prompt in one step.
    pub chunk: usize,
    /// What the answer must match; None allows any text.
    pub grammar: Option<Grammar>,
    /// Record each token's log-probability, and those of so many of the likeliest tokens; None records nothing.
    pub logprobs: Option<usize>,
    /// The most tokens to guess at once, from what is in the text already; 0 turns guessing off.
    pub lookup: usize,
    /// Hash the logits. Without the hash, a backend that can find the likeliest tokens itself returns only those.
    pub hash: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: Some(128),
            sampling: SamplingOptions::default(),
            specials: Specials::None,
            stops: Vec::new(),
            eos_ids: Vec::new(),
            ignore_eos: false,
            chunk: DEFAULT_CHUNK,
            grammar: None,
            logprobs: None,
            lookup: 0,
            hash: true,
        }
    }
}

impl GenerateOptions {
    /// The defaults of a file; where it has none, our own.
    pub fn from_defaults(file: &GenerationDefaults) -> Self {
        let ours = SamplingOptions::default();
        let sampling = SamplingOptions {
            temperature: file.temperature.map_or(ours.temperature, |x| x as f32),
            top_k: file.top_k.map_or(ours.top_k, |x| x as usize),
            top_p: file.top_p.map_or(ours.top_p, |x| x as f32),
            min_p: file.min_p.map_or(ours.min_p, |x| x as f32),
            repeat_penalty: file.repeat_penalty.map_or(ours.repeat_penalty, |x| x as f32),
            ..ours
        };
        GenerateOptions { sampling, eos_ids: file.eos_ids.clone(), ..Self::default() }
    }

    /// Checks that an answer can be made with these options. Unlike running a prompt, this takes no time.
    ///
    /// # Errors
    /// When a sampling option is out of its range, or a stop text is empty.
    pub fn check(&self) -> Result<()> {
        Sampler::new(self.sampling.clone())?;
        StopMatcher::new(self.stops.clone())?;
        Ok(())
    }
}
