//! Sampling options, with llama.cpp's names and defaults.

use super::SamplingError;

/// One step of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Repeat, frequency and presence penalty.
    Penalties,
    /// Don't repeat yourself: a penalty on what would continue a repeated sequence.
    Dry,
    /// Keeps tokens within some standard deviations of the largest logit.
    TopNSigma,
    /// Keeps a number of the likeliest tokens.
    TopK,
    /// Keeps tokens about as surprising as expected.
    Typical,
    /// Keeps the likeliest tokens up to a share of the probability.
    TopP,
    /// Keeps tokens by their share of the largest probability.
    MinP,
    /// Exclude top choices.
    Xtc,
    /// Divides the logits.
    Temperature,
}

impl Step {
    /// Every step with its name, in the default order.
    pub const ALL: [(&str, Step); 9] = [
        ("penalties", Step::Penalties),
        ("dry", Step::Dry),
        ("top_n_sigma", Step::TopNSigma),
        ("top_k", Step::TopK),
        ("typ_p", Step::Typical),
        ("top_p", Step::TopP),
        ("min_p", Step::MinP),
        ("xtc", Step::Xtc),
        ("temperature", Step::Temperature),
    ];

    /// The default order.
    pub fn default_chain() -> Vec<Step> {
        Self::ALL.map(|(_, step)| step).to_vec()
    }

    /// The names of [`Step::ALL`], separated by semicolons.
    pub fn names() -> String {
        Self::ALL.map(|(name, _)| name).join(";")
    }

    /// Reads names of steps, separated by semicolons.
    ///
    /// # Errors
    /// When a name is unknown or occurs twice.
    pub fn parse_chain(names: &str) -> Result<Vec<Step>, SamplingError> {
        let mut chain = Vec::new();
        for name in names.split(';').map(str::trim).filter(|name| !name.is_empty()) {
            let found = Self::ALL.iter().find(|(own, _)| *own == name.replace('-', "_"));
            let step =
                found.ok_or_else(|| SamplingError::UnknownStep { got: name.to_owned(), known: Step::names() })?.1;
            if chain.contains(&step) {
                return Err(SamplingError::StepTwice { got: name.to_owned(), known: Step::names() });
            }
            chain.push(step);
        }
        Ok(chain)
    }
}

/// How a token is chosen. The defaults are llama.cpp's. More fields will come: start with the default and set what is to
/// be otherwise.
///
/// ```
/// use nanoserve_runtime::{SamplingError, SamplingOptions};
///
/// let mut options = SamplingOptions::default();
/// options.temperature = 0.6;
/// options.seed = 7;
/// assert_eq!(options.check(), Ok(()));
/// options.top_p = 1.5;
/// assert!(matches!(options.check(), Err(SamplingError::Option { field: "top_p", .. })));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SamplingOptions {
    /// The steps, in order. A step that is absent is not taken.
    pub chain: Vec<Step>,
    /// Divides the logits; 0 is greedy. Default 0.8.
    pub temperature: f32,
    /// Tokens kept by rank; 0 keeps all. Default 40.
    pub top_k: usize,
    /// Probability mass kept; 1 keeps all. The likeliest token always stays. Default 0.95.
    pub top_p: f32,
    /// Tokens kept whose probability is at least this share of the largest; 0 keeps all. Default 0.05.
    pub min_p: f32,
    /// Probability mass kept of the tokens whose surprise is nearest to the expected one; 1 keeps all. Default 1.
    pub typical_p: f32,
    /// Tokens kept whose logit is at most so many standard deviations below the largest; 0 or less keeps all. Default
    /// -1.
    pub top_n_sigma: f32,
    /// The probability that the likeliest tokens are removed; 0 is never. Default 0.
    pub xtc_probability: f32,
    /// Removed are all tokens of at least this probability, except the least likely of them; above 0.5, none. Default
    /// 0.1.
    pub xtc_threshold: f32,
    /// Divides positive and multiplies other logits of tokens seen before; 1 changes nothing. Default 1.
    pub repeat_penalty: f32,
    /// Subtracted from the logit of a token for each time it was seen. Default 0.
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of a token that was seen. Default 0.
    pub presence_penalty: f32,
    /// How many of the last tokens count as seen before; 0 is none. Default 64.
    pub repeat_last_n: usize,
    /// Scales the penalty on a token that would continue a repeated sequence; 0 turns DRY off. Default 0.
    pub dry_multiplier: f32,
    /// The factor by which that penalty grows with each token of the sequence; below 1 turns DRY off. Default 1.75.
    pub dry_base: f32,
    /// The longest sequence that may be repeated without a penalty. Default 2.
    pub dry_allowed_length: usize,
    /// How many of the last tokens are searched for repeated sequences; 0 is none. Default all.
    pub dry_penalty_last_n: usize,
    /// Sequences of tokens that no repeated sequence extends across. Default none: they depend on the tokenizer, see
    /// [`breakers`](super::breakers).
    pub dry_breakers: Vec<Vec<u32>>,
    /// Mirostat 2 instead of the chain's filters: bias, temperature, and a bound on the surprise that adapts.
    pub mirostat: Option<Mirostat>,
    /// Added to the logits of tokens, before all else; minus infinity excludes a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// The seed of the random numbers. Default 0.
    pub seed: u64,
}

/// The settings of Mirostat 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// The surprise to aim at, in bits. Default 5.
    pub tau: f32,
    /// How fast the bound adapts. Default 0.1.
    pub eta: f32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Mirostat { tau: 5.0, eta: 0.1 }
    }
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            chain: Step::default_chain(),
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: usize::MAX,
            dry_breakers: Vec::new(),
            mirostat: None,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Checks that every option is in its range. The error names the first that is not.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), SamplingError> {
        let (share, number) = ("0 to 1", "a number");
        let rules = [
            ("temperature", self.temperature, 0.0, f32::MAX, "0 or more"),
            ("top_p", self.top_p, 0.0, 1.0, share),
            ("min_p", self.min_p, 0.0, 1.0, share),
            ("typical_p", self.typical_p, 0.0, 1.0, share),
            ("top_n_sigma", self.top_n_sigma, f32::MIN, f32::MAX, number),
            ("xtc_probability", self.xtc_probability, 0.0, 1.0, share),
            ("xtc_threshold", self.xtc_threshold, 0.0, 1.0, share),
            ("repeat_penalty", self.repeat_penalty, f32::from_bits(1), f32::MAX, "more than 0"),
            ("frequency_penalty", self.frequency_penalty, f32::MIN, f32::MAX, number),
            ("presence_penalty", self.presence_penalty, f32::MIN, f32::MAX, number),
            ("dry_multiplier", self.dry_multiplier, 0.0, f32::MAX, "0 or more"),
            ("dry_base", self.dry_base, 0.0, f32::MAX, "0 or more"),
            ("mirostat_ent", self.mirostat.map_or(0.0, |m| m.tau), 0.0, f32::MAX, "0 or more"),
            ("mirostat_lr", self.mirostat.map_or(0.0, |m| m.eta), 0.0, f32::MAX, "0 or more"),
        ];
        // NaN is in no range.
        if let Some(&(field, got, .., expected)) =
            rules.iter().find(|(_, got, least, most, _)| !(least..=most).contains(&got))
        {
            return Err(SamplingError::Option { field, got, expected });
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            Some(&(_, got)) => {
                Err(SamplingError::Option { field: "logit_bias", got, expected: "a number, or -inf for never" })
            }
            None => Ok(()),
        }
    }

    /// Whether a step would change anything with these settings.
    pub(super) fn is_on(&self, step: Step) -> bool {
        match step {
            Step::Penalties => {
                let changes =
                    self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0;
                changes && self.repeat_last_n > 0
            }
            Step::Dry => self.dry_multiplier != 0.0 && self.dry_base >= 1.0 && self.dry_penalty_last_n > 0,
            Step::TopNSigma => self.top_n_sigma > 0.0,
            Step::TopK => self.top_k > 0,
            Step::Typical => self.typical_p < 1.0,
            Step::TopP => self.top_p < 1.0,
            Step::MinP => self.min_p > 0.0,
            Step::Xtc => self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5,
            Step::Temperature => self.temperature != 1.0,
        }
    }
}
