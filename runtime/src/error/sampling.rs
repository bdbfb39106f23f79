//! What goes wrong when a token is chosen.

/// Why no token was chosen.
///
/// ```
/// use nanoserve_runtime::generate::sampler::Step;
/// use nanoserve_runtime::SamplingError;
///
/// let error = Step::parse_chain("top_k;luck").unwrap_err();
/// assert!(matches!(error, SamplingError::UnknownStep { got, .. } if got == "luck"));
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// An option outside its range.
    #[error("sampling option {field} is {got}, expected {expected}")]
    Option {
        /// The option's name, a field of [`SamplingOptions`](crate::SamplingOptions).
        field: &'static str,
        /// What it was set to.
        got: f32,
        /// What it may be.
        expected: &'static str,
    },
    /// A step of the chain that does not exist.
    #[error("there is no sampler {got:?}; there are {known}")]
    UnknownStep {
        /// The name.
        got: String,
        /// Every name that exists.
        known: String,
    },
    /// A step that is in the chain twice.
    #[error("the sampler {got:?} is there twice; each of {known} may be there once")]
    StepTwice {
        /// The name.
        got: String,
        /// Every name that exists.
        known: String,
    },
    /// A bias for a token that has no logit.
    #[error("a logit bias is for token {got}, but there are {expected} tokens")]
    Bias {
        /// The id.
        got: u32,
        /// How many logits there are.
        expected: usize,
    },
    /// DRY's sequence breakers, split into the vocabulary's tokens, are too many.
    #[error("DRY's sequence breakers are more than {most} tokens in this vocabulary: give shorter ones")]
    Breakers {
        /// How many they may be.
        most: usize,
    },
    /// A logit that cannot be ranked: not a number, or plus infinity.
    #[error("the logit of token {id} is {got}, expected a finite number (or -inf for never)")]
    Logit {
        /// The first such token.
        id: u32,
        /// Its logit.
        got: f32,
    },
    /// A token seen before that has no logit.
    #[error("token {got} was seen before, but there are logits for {expected} tokens only")]
    History {
        /// The id in the history.
        got: u32,
        /// How many logits there are.
        expected: usize,
    },
    /// Every logit is minus infinity, or there are no logits.
    #[error("none of {got} tokens may be chosen, expected at least one finite logit")]
    NoCandidate {
        /// How many logits there are.
        got: usize,
    },
}
