//! `/set`: what may be changed within a conversation.

use anyhow::{Context, Result, bail};
use nanoserve_runtime::GenerateOptions;
use std::str::FromStr;

/// What is shown, and how.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Whether tokens per second follow each answer.
    pub stats: bool,
    /// Whether words are kept whole at the terminal's edge.
    pub wrap: bool,
    /// Whether reasoning is left out.
    pub hide_reasoning: bool,
}

/// All settings and their values, one a line.
pub fn list(options: &GenerateOptions, shown: &Shown) -> String {
    let s = &options.sampling;
    let most = options.max_tokens.map_or("-1".to_string(), |n| n.to_string());
    let reasoning = if shown.hide_reasoning { "hide" } else { "show" };
    let wrap = if shown.wrap { "on" } else { "off" };
    let all: [(&str, String); 13] = [
        ("temperature", s.temperature.to_string()),
        ("top-k", s.top_k.to_string()),
        ("top-p", s.top_p.to_string()),
        ("min-p", s.min_p.to_string()),
        ("typical", s.typical_p.to_string()),
        ("top-n-sigma", s.top_n_sigma.to_string()),
        ("repeat-penalty", s.repeat_penalty.to_string()),
        ("frequency-penalty", s.frequency_penalty.to_string()),
        ("presence-penalty", s.presence_penalty.to_string()),
        ("seed", s.seed.to_string()),
        ("n", most),
        ("wrap", wrap.to_string()),
        ("reasoning", reasoning.to_string()),
    ];
    all.map(|(name, value)| format!("{name:<18}{value}")).join("\n")
}

/// Changes one. Returns its name as it is listed.
///
/// # Errors
/// When there is no such setting, or it has no such value; nothing has changed then.
pub fn set(name: &str, value: &str, options: &mut GenerateOptions, shown: &mut Shown) -> Result<String> {
    let name = name.trim_start_matches('-').replace('_', "-");
    let mut changed = options.clone();
    let s = &mut changed.sampling;
    match &name[..] {
        "temperature" | "temp" => s.temperature = number(value)?,
        "top-k" => s.top_k = number(value)?,
        "top-p" => s.top_p = number(value)?,
        "min-p" => s.min_p = number(value)?,
        "typical" => s.typical_p = number(value)?,
        "top-n-sigma" => s.top_n_sigma = number(value)?,
        "repeat-penalty" => s.repeat_penalty = number(value)?,
        "frequency-penalty" => s.frequency_penalty = number(value)?,
        "presence-penalty" => s.presence_penalty = number(value)?,
        "seed" => s.seed = number(value)?,
        "n" | "n-predict" if value == "-1" => changed.max_tokens = None,
        "n" | "n-predict" => changed.max_tokens = Some(number(value)?),
        "wrap" => shown.wrap = one_of(value, ["off", "on"])?,
        "reasoning" => shown.hide_reasoning = one_of(value, ["show", "hide"])?,
        other => bail!("there is no setting {other}; /set alone lists them"),
    }
    changed.check()?;
    *options = changed;
    Ok(name)
}

fn number<T: FromStr>(value: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    value.parse().with_context(|| format!("'{value}' is no value for it"))
}

/// Whether a value is the second of two.
pub fn one_of(value: &str, two: [&str; 2]) -> Result<bool> {
    match two.iter().position(|one| *one == value) {
        Some(at) => Ok(at == 1),
        None => bail!("'{value}' is no value for it, expected {} or {}", two[0], two[1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_can_be_set() {
        let mut options = GenerateOptions::default();
        let mut shown = Shown { stats: false, wrap: true, hide_reasoning: false };
        let listed = list(&options, &shown);
        for line in listed.lines() {
            let (name, value) = line.split_once(' ').expect("a name and a value");
            assert_eq!(set(name, value.trim(), &mut options, &mut shown).unwrap(), name);
        }
        assert_eq!(list(&options, &shown), listed, "each was set to what it was");
        for (name, value) in [("temp", "0.5"), ("top_k", "7"), ("-n", "9"), ("wrap", "off"), ("reasoning", "hide")] {
            set(name, value, &mut options, &mut shown).unwrap();
        }
        assert_eq!((options.sampling.temperature, options.sampling.top_k, options.max_tokens), (0.5, 7, Some(9)));
        assert!(!shown.wrap && shown.hide_reasoning);
        let before = list(&options, &shown);
        for (name, value) in [
            ("temperature", "-1"),
            ("top-p", "2"),
            ("top-k", "many"),
            ("n", "-2"),
            ("wrap", "maybe"),
            ("colour", "red"),
        ] {
            assert!(set(name, value, &mut options, &mut shown).is_err(), "{name} {value}");
        }
        assert_eq!(list(&options, &shown), before, "what was refused has changed nothing");
    }
}
