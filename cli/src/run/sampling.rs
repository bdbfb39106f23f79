//! How tokens are chosen and when an answer ends. Options of the command line replace those of the file.

use crate::values::{Seed, or_unbounded, positive, seed};
use anyhow::{Context, Result, bail};
use clap::Args;
use nanoserve_format::GenerationDefaults;
use nanoserve_runtime::generate::Specials;
use nanoserve_runtime::generate::grammar::{Grammar, GrammarTokens};
use nanoserve_runtime::generate::sampler::{Mirostat, Step, breakers};
use nanoserve_runtime::{GenerateOptions, RuntimeError, Tokenizer};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

/// Samplers, by llama.cpp's names.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Divides the logits; 0 is greedy [default: 0.8]
    #[arg(long, alias = "temp", value_name = "X", env = "NANOSERVE_TEMPERATURE", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the N likeliest tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Keep the likeliest tokens of this probability together [default: 0.95]
    #[arg(long, value_name = "X")]
    top_p: Option<f32>,
    /// Keep tokens of at least this share of the likeliest one's probability [default: 0.05]
    #[arg(long, value_name = "X")]
    min_p: Option<f32>,
    /// Keep the tokens nearest to the expected surprise, of this probability together; 1 is off [default: 1.0]
    #[arg(long, alias = "typical-p", value_name = "X")]
    typical: Option<f32>,
    /// Keep tokens at most X standard deviations below the largest logit; -1 is off [default: -1]
    #[arg(long, alias = "top-nsigma", value_name = "X", allow_negative_numbers = true)]
    top_n_sigma: Option<f32>,
    /// How often to exclude the top choices; 0 is off [default: 0.0]
    #[arg(long, value_name = "X")]
    xtc_probability: Option<f32>,
    /// Which: all of this probability, the least likely of them apart; above 0.5 is off [default: 0.1]
    #[arg(long, value_name = "X", requires = "xtc_probability")]
    xtc_threshold: Option<f32>,
    /// Divides the logits of tokens seen before; 1 is off [default: 1.0]
    #[arg(long, value_name = "X")]
    repeat_penalty: Option<f32>,
    /// Taken from a logit for each time its token was seen [default: 0.0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Taken from the logits of tokens seen before [default: 0.0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// How many of the last tokens count as seen before; 0 is none, -1 all [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = or_unbounded)]
    repeat_last_n: Option<i64>,
    /// Penalty on what would continue a repeated sequence: X * base^(its length - allowed length); 0 is off [default: 0.0]
    #[arg(long, value_name = "X")]
    dry_multiplier: Option<f32>,
    /// Its base [default: 1.75]
    #[arg(long, value_name = "X", requires = "dry_multiplier")]
    dry_base: Option<f32>,
    /// Tokens that may be repeated freely [default: 2]
    #[arg(long, value_name = "N", requires = "dry_multiplier")]
    dry_allowed_length: Option<usize>,
    /// How many of the last tokens are searched; 0 is none, -1 all [default: -1]
    #[arg(long, value_name = "N", requires = "dry_multiplier", allow_negative_numbers = true, value_parser = or_unbounded)]
    dry_penalty_last_n: Option<i64>,
    /// Text that no repeated sequence extends across, in place of line end : " *; several times, or none [default: those four]
    #[arg(long, value_name = "TEXT", requires = "dry_multiplier")]
    pub dry_sequence_breaker: Vec<String>,
    /// 2 is Mirostat 2: temperature, then a bound on the surprise that is learned, nothing else [default: 0]
    #[arg(long, value_name = "0|2")]
    mirostat: Option<u32>,
    /// How fast Mirostat's bound follows [default: 0.1]
    #[arg(long, value_name = "X", requires = "mirostat")]
    mirostat_lr: Option<f32>,
    /// Surprise that Mirostat aims at, in bits [default: 5.0]
    #[arg(long, value_name = "X", requires = "mirostat")]
    mirostat_ent: Option<f32>,
    /// Added to the logit of a token: 15043+1, 15043-1.5 or 15043-inf; may be given several times
    #[arg(short = 'l', long, value_name = "ID(+/-)X", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// The samplers in order; those left out are off [default: penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(long, value_name = "NAMES", value_parser = chain)]
    samplers: Option<Chain>,
    /// Where the sampler starts; the same seed gives the same text on every machine; -1 is a new one each run [default: -1]
    #[arg(short, long, value_name = "N", env = "NANOSERVE_SEED", allow_negative_numbers = true, value_parser = seed)]
    seed: Option<Seed>,
}

/// The value of `--samplers`: the sampler steps in order.
#[derive(Clone, Debug)]
struct Chain(Vec<Step>);

fn chain(names: &str) -> Result<Chain, String> {
    Step::parse_chain(names).map(Chain).map_err(|e| e.to_string())
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || format!("{text:?} is no logit bias, expected a token id, + or -, and a number, such as 15043+1");
    let at = text.find(['+', '-']).ok_or_else(wrong)?;
    let (id, value) = text.split_at(at);
    let value: f32 = value.parse().map_err(|_| wrong())?;
    if value.is_nan() || value == f32::INFINITY {
        return Err(wrong());
    }
    Ok((id.parse().map_err(|_| wrong())?, value))
}

/// When an answer ends, and what it must be.
#[derive(Debug, Args)]
#[command(next_help_heading = "The answer")]
pub struct Answer {
    /// Tokens to make at most; -1 goes on to the context's end [default: 128; in a conversation -1]
    #[arg(
        short = 'n',
        long = "n-predict",
        value_name = "N",
        env = "NANOSERVE_N_PREDICT",
        allow_negative_numbers = true,
        value_parser = or_unbounded
    )]
    pub n_predict: Option<i64>,
    /// Stop at this text, which may be that of a special token, and do not print it; may be given several times
    #[arg(short = 'r', long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Show special tokens in the answer, its end token too
    #[arg(long)]
    pub special: bool,
    /// Never choose an end token
    #[arg(long)]
    ignore_eos: bool,
    /// The answer is JSON of this schema: a file, or the schema itself if it begins with {
    #[arg(short = 'j', long, alias = "json-schema-file", value_name = "FILE", conflicts_with = "grammar")]
    json_schema: Option<String>,
    /// The answer follows this grammar: a file in Lark notation, its first rule named start
    #[arg(long, alias = "grammar-file", value_name = "FILE")]
    grammar: Option<String>,
    /// With --json: each token's log-probability by the model, before any sampler, and those of the N likeliest
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,
    /// Give N answers to one prompt, which runs once; their seeds are --seed, --seed + 1, ...; with --json an array
    #[arg(long, value_name = "N", value_parser = |text: &str| positive(text).map(|n| n as u64))]
    pub n_samples: Option<u64>,
    /// Guess up to N tokens at once from the text so far. The answer is the same, and comes faster where it copies
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "16", value_parser = positive)]
    lookup: Option<usize>,
}

const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// A count; -1 means all.
fn count(n: Option<i64>, default: usize) -> usize {
    n.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

impl Sampling {
    /// Refuses an option that another one makes mean nothing.
    ///
    /// # Errors
    /// Both, by name.
    pub fn check(&self) -> Result<(), String> {
        let penalties = self.repeat_penalty.or(self.frequency_penalty).or(self.presence_penalty).is_some();
        // Each option of the chain, and the step it belongs to.
        let given = [
            ("--top-k", Step::TopK, self.top_k.is_some()),
            ("--top-p", Step::TopP, self.top_p.is_some()),
            ("--min-p", Step::MinP, self.min_p.is_some()),
            ("--typical", Step::Typical, self.typical.is_some()),
            ("--top-n-sigma", Step::TopNSigma, self.top_n_sigma.is_some()),
            ("--xtc-probability", Step::Xtc, self.xtc_probability.is_some()),
            ("--dry-multiplier", Step::Dry, self.dry_multiplier.is_some()),
            ("--repeat-penalty, --frequency-penalty or --presence-penalty", Step::Penalties, penalties),
            ("--repeat-last-n", Step::Penalties, self.repeat_last_n.is_some()),
            ("--temperature", Step::Temperature, self.temperature.is_some()),
        ];
        let mirostat = self.mirostat == Some(2);
        for (option, step, _) in given.into_iter().filter(|(.., given)| *given) {
            if mirostat && step != Step::Temperature {
                return Err(format!(
                    "{option} cannot be used with --mirostat 2, which takes the place of all other samplers"
                ));
            }
            if self.samplers.as_ref().is_some_and(|Chain(chain)| !chain.contains(&step)) && !mirostat {
                return Err(format!("{option} is given, and --samplers leaves that sampler out"));
            }
        }
        if mirostat && self.samplers.is_some() {
            return Err(
                "--samplers cannot be used with --mirostat 2, which takes the place of all other samplers".into()
            );
        }
        if !mirostat && self.mirostat_lr.or(self.mirostat_ent).is_some() {
            return Err("--mirostat-lr and --mirostat-ent need --mirostat 2".into());
        }
        Ok(())
    }
}

/// The file's options, replaced by those that the command line gives.
pub fn options(
    defaults: &GenerationDefaults,
    sampling: &Sampling,
    answer: &Answer,
    tokenizer: Option<&Tokenizer>,
    vocab_size: usize,
) -> Result<GenerateOptions> {
    let mut options = GenerateOptions::from_defaults(defaults);
    let s = &mut options.sampling;
    let Sampling { temperature, top_k, top_p, min_p, .. } = *sampling;
    s.temperature = temperature.unwrap_or(s.temperature);
    s.top_k = top_k.unwrap_or(s.top_k);
    s.top_p = top_p.unwrap_or(s.top_p);
    s.min_p = min_p.unwrap_or(s.min_p);
    s.typical_p = sampling.typical.unwrap_or(s.typical_p);
    s.top_n_sigma = sampling.top_n_sigma.unwrap_or(s.top_n_sigma);
    s.xtc_probability = sampling.xtc_probability.unwrap_or(s.xtc_probability);
    s.xtc_threshold = sampling.xtc_threshold.unwrap_or(s.xtc_threshold);
    s.repeat_penalty = sampling.repeat_penalty.unwrap_or(s.repeat_penalty);
    s.frequency_penalty = sampling.frequency_penalty.unwrap_or(s.frequency_penalty);
    s.presence_penalty = sampling.presence_penalty.unwrap_or(s.presence_penalty);
    s.repeat_last_n = count(sampling.repeat_last_n, s.repeat_last_n);
    s.dry_multiplier = sampling.dry_multiplier.unwrap_or(s.dry_multiplier);
    s.dry_base = sampling.dry_base.unwrap_or(s.dry_base);
    s.dry_allowed_length = sampling.dry_allowed_length.unwrap_or(s.dry_allowed_length);
    s.dry_penalty_last_n = count(sampling.dry_penalty_last_n, s.dry_penalty_last_n);
    let ours = Mirostat::default();
    s.mirostat = match sampling.mirostat {
        None | Some(0) => None,
        Some(2) => Some(Mirostat {
            tau: sampling.mirostat_ent.unwrap_or(ours.tau),
            eta: sampling.mirostat_lr.unwrap_or(ours.eta),
        }),
        Some(n) => bail!("--mirostat is {n}, expected 2, or 0 for none"),
    };
    s.logit_bias.clone_from(&sampling.logit_bias);
    if let Some(Chain(chain)) = &sampling.samplers {
        s.chain.clone_from(chain);
    }
    s.seed = match sampling.seed {
        Some(Seed::Given(seed)) => seed,
        Some(Seed::New) | None => RandomState::new().hash_one(0) >> 32,
    };
    if let Some((id, _)) = s.logit_bias.iter().find(|(id, _)| *id as usize >= vocab_size) {
        bail!("--logit-bias is for token {id}, the model has {vocab_size}");
    }
    s.check().map_err(RuntimeError::from)?;
    if s.dry_multiplier != 0.0 {
        let texts = &sampling.dry_sequence_breaker;
        let texts = if texts.is_empty() { BREAKERS.map(String::from).to_vec() } else { texts.clone() };
        s.dry_breakers = match (texts.iter().any(|text| text == "none"), tokenizer) {
            (true, _) => Vec::new(),
            (false, Some(tokenizer)) => breaker_ids(&texts, tokenizer, vocab_size)?,
            (false, None) => {
                bail!("DRY's sequence breakers need a tokenizer, and the file holds none: --dry-sequence-breaker none")
            }
        };
    }

    if tokenizer.is_none() && !answer.stop.is_empty() {
        bail!("--stop needs a tokenizer, and the file holds none");
    }
    if tokenizer.is_none() && answer.special {
        bail!("--special needs a tokenizer, and the file holds none");
    }
    if answer.special {
        options.specials = Specials::All;
    }
    options.stops.clone_from(&answer.stop);
    options.ignore_eos = answer.ignore_eos;
    options.max_tokens = answer.n_predict.map_or(options.max_tokens, |n| usize::try_from(n).ok());
    options.logprobs = answer.logprobs;
    options.lookup = answer.lookup.unwrap_or(0);
    options.grammar = grammar(answer, &options.eos_ids, tokenizer, vocab_size)?;
    Ok(options)
}

fn breaker_ids(texts: &[String], tokenizer: &Tokenizer, vocab_size: usize) -> Result<Vec<Vec<u32>>> {
    if texts.iter().any(String::is_empty) {
        bail!("--dry-sequence-breaker is empty, expected a text, or none");
    }
    let bytes = tokenizer.token_bytes(vocab_size).map_err(RuntimeError::from)?;
    let tokens = (0u32..).zip(bytes.iter().map(Vec::as_slice));
    let ids = breakers(texts, tokens, |text| tokenizer.encode(text, false).map_err(RuntimeError::from));
    Ok(ids?)
}

fn grammar(
    answer: &Answer,
    eos_ids: &[u32],
    tokenizer: Option<&Tokenizer>,
    vocab_size: usize,
) -> Result<Option<Grammar>> {
    let (option, given) = match (&answer.json_schema, &answer.grammar) {
        (Some(schema), _) => ("--json-schema", schema),
        (_, Some(grammar)) => ("--grammar", grammar),
        _ => return Ok(None),
    };
    let Some(tokenizer) = tokenizer else { bail!("{option} needs a tokenizer, and the file holds none") };
    let inline = option == "--json-schema" && given.trim_start().starts_with('{');
    let text = match inline {
        true => given.clone(),
        false => std::fs::read_to_string(Path::new(given)).with_context(|| format!("cannot read {option} {given}"))?,
    };
    let tokens = GrammarTokens::new(tokenizer, vocab_size, eos_ids)?;
    Ok(Some(if option == "--grammar" { tokens.lark(&text)? } else { tokens.json_schema(&text)? }))
}
