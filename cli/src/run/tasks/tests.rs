//! Every option with every task, and every pair of options: accepted or refused, as the table says.

use super::*;
use crate::run::Arguments;
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches};

/// A command line for each task that leaves all its choices open.
const LINES: [(Task, &[&str]); 6] = [
    (Complete, &["m.nsv"]),
    (Talk, &["m.nsv", "--chat"]),
    (Answer, &["m.nsv", "--chat", "--single-turn"]),
    (Render, &["m.nsv", "--chat", "--render"]),
    (Score, &["m.nsv", "--perplexity", "f"]),
    (SelfTest, &["m.nsv", "--self-test"]),
];

/// What some options need beside them.
const NEEDED: [(&str, &[&str]); 11] = [
    ("prompt_cache_all", &["--prompt-cache", "f"]),
    ("prompt_cache_ro", &["--prompt-cache", "f"]),
    ("logprobs", &["--json"]),
    ("xtc_threshold", &["--xtc-probability", "1"]),
    ("dry_base", &["--dry-multiplier", "1"]),
    ("dry_allowed_length", &["--dry-multiplier", "1"]),
    ("dry_penalty_last_n", &["--dry-multiplier", "1"]),
    ("dry_sequence_breaker", &["--dry-multiplier", "1"]),
    ("mirostat_lr", &["--mirostat", "2"]),
    ("mirostat_ent", &["--mirostat", "2"]),
    ("kl_divergence", &["--kl-base", "f"]),
];

/// Options of which any two contradict each other.
const ONE_OF: [&[&str]; 8] = [
    &["text", "prompt", "file", "ids", "perplexity", "self_test"],
    &["messages", "text", "prompt", "file"],
    &["messages", "system"],
    &["messages", "system_file"],
    &["system", "system_file"],
    &["json_schema", "grammar"],
    &["prompt_cache_all", "prompt_cache_ro"],
    &["prompt_cache_all", "n_samples"],
];

/// Samplers, in the place of which Mirostat is.
const CHAIN: [&str; 17] = [
    "top_k",
    "top_p",
    "min_p",
    "typical",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "repeat_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breaker",
    "samplers",
];

fn contradict(a: &str, b: &str) -> bool {
    let mirostat = |id: &str| id.starts_with("mirostat");
    let both = |list: &[&str]| list.contains(&a) && list.contains(&b);
    a != b
        && (ONE_OF.iter().any(|list| both(list))
            || (mirostat(a) && CHAIN.contains(&b))
            || (mirostat(b) && CHAIN.contains(&a)))
}

/// The words that give an option.
fn words(option: &Arg) -> Vec<String> {
    let id = option.get_id().as_str();
    let value = match id {
        "device" => "cpu",
        "kv" => "f16",
        "load" => "map",
        "mirostat" => "2",
        "logit_bias" => "5+1",
        "now" => "2026-01-15T12:00:00",
        "samplers" => "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature",
        _ => "1",
    };
    match option.get_long() {
        None => vec![value.to_string()],
        Some(long) if matches!(option.get_action(), ArgAction::SetTrue) => vec![format!("--{long}")],
        Some(long) => vec![format!("--{long}={value}")],
    }
}

/// Whether a line with these options is taken, or what is said.
fn taken(command: &mut Command, line: &[&str], options: &[&Arg]) -> Result<(), String> {
    let mut all: Vec<String> = ["nanoserve-run"].iter().chain(line).map(|word| word.to_string()).collect();
    for option in options {
        let needed = NEEDED.iter().filter(|(id, _)| option.get_id() == id).flat_map(|(_, words)| words.iter());
        let mut more: Vec<String> = needed.map(|word| word.to_string()).collect();
        // Given once, however many need it.
        let name = |word: &String| word.split('=').next().unwrap_or_default().to_string();
        if more.first().is_some_and(|first| all.iter().any(|word| name(word) == *first)) {
            more.clear();
        }
        let own = words(option);
        if own[0].starts_with("--") && all.iter().any(|word| name(word) == name(&own[0])) {
            continue;
        }
        all.extend(more);
        all.extend(own);
    }
    let matches = command.try_get_matches_from_mut(&all).map_err(|e| e.to_string())?;
    check_on(&matches, command, false)?;
    Arguments::from_arg_matches(&matches).map_err(|e| e.to_string())?.sampling.check()
}

fn options(command: &Command) -> Vec<Arg> {
    // What takes the place of the model is of no task: tests/tests/hub.rs has it.
    let meta = ["help", "version", "help_llama", "model", "hf", "yes"];
    command.get_arguments().filter(|option| !meta.contains(&option.get_id().as_str())).cloned().collect()
}

#[test]
fn every_option_with_every_task() {
    let mut command = Arguments::command();
    for option in options(&command) {
        let id = option.get_id().as_str();
        for (task, line) in LINES {
            // These make another task of the line.
            let other = match (id, task) {
                ("chat", Complete) | ("messages", Complete) => Some(Talk),
                ("single_turn", Talk) => Some(Answer),
                ("render", Complete | Talk) => Some(Render),
                ("perplexity", Complete) => Some(Score),
                ("self_test", Complete) => Some(SelfTest),
                _ => None,
            };
            let expected = heeding(id).contains(&other.unwrap_or(task));
            let got = taken(&mut command, line, &[&option]);
            assert_eq!(got.is_ok(), expected, "--{id} with {task:?}: {got:?}");
            if let Err(what) = got {
                let name = option.get_long().map_or("TEXT".to_string(), |long| format!("--{long}"));
                // Or what it needs beside it, which is refused first.
                let beside = NEEDED.iter().filter(|(other, _)| *other == id).any(|(_, words)| what.contains(words[0]));
                assert!(what.contains(&name) || beside || what.contains("required"), "{name} with {task:?}: {what}");
            }
        }
    }
}

#[test]
fn every_pair_of_options() {
    let mut command = Arguments::command();
    let all = options(&command);
    let mut pairs = 0;
    for (at, a) in all.iter().enumerate() {
        for b in &all[at + 1..] {
            let (x, y) = (a.get_id().as_str(), b.get_id().as_str());
            let shared = LINES.iter().find(|(task, _)| heeding(x).contains(task) && heeding(y).contains(task));
            // Without a task that heeds both, no line may take them.
            let lines: Vec<&[&str]> =
                shared.map_or_else(|| LINES.map(|(_, line)| line).to_vec(), |(_, line)| vec![*line]);
            let expected = shared.is_some() && !contradict(x, y);
            for line in lines {
                let got = taken(&mut command, line, &[a, b]);
                assert_eq!(got.is_ok(), expected, "{x} and {y} with {line:?}: {got:?}");
            }
            pairs += 1;
        }
    }
    assert!(pairs > 1000, "{pairs}");
}

#[test]
fn what_the_environment_sets_is_never_refused() {
    // A default stands for the environment, which tests share.
    let mut command = Arguments::command().mut_arg("ctx", |ctx| ctx.default_value("64"));
    let line = ["nanoserve-run", "m.nsv", "--self-test"];
    let matches = command.try_get_matches_from_mut(line).unwrap();
    assert_eq!(matches.value_source("ctx"), Some(ValueSource::DefaultValue));
    check_on(&matches, &command, false).unwrap();
}
