//! Which options mean something for what a command line asks for. Any other is refused, never ignored.
//!
//! What the environment sets is a default for every program that takes it, and is never refused.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use std::io::IsTerminal;

/// What a command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Continue a text.
    Complete,
    /// A conversation that goes on.
    Talk,
    /// The answer to a conversation.
    Answer,
    /// Print a prompt.
    Render,
    /// Score a text.
    Score,
    /// Replay golden vectors.
    SelfTest,
}

use Task::{Answer, Complete, Render, Score, SelfTest, Talk};

const ALL: &[Task] = &[Complete, Talk, Answer, Render, Score, SelfTest];
const RUNS: &[Task] = &[Complete, Talk, Answer, Score];
const WRITES: &[Task] = &[Complete, Talk, Answer];
const PROMPTS: &[Task] = &[Complete, Talk, Answer, Render];
const TALKS: &[Task] = &[Talk, Answer, Render];

/// Every option, and the tasks that heed it.
const HEEDED: [(&[Task], &[&str]); 13] = [
    (
        ALL,
        &[
            "model",
            "hf",
            "yes",
            "cache_dir",
            "quiet",
            "json",
            "help_llama",
            "threads",
            "isa",
            "load",
            "lock",
            "check",
            "require_signer",
            "no_sandbox",
        ],
    ),
    (ALL, &["device", "gpu_layers", "overlap"]),
    (RUNS, &["ctx", "chunk", "kv"]),
    (PROMPTS, &["text", "prompt", "file", "escape"]),
    (&[Complete], &["ids"]),
    (&[Score], &["perplexity", "chunks", "kl_base", "kl_divergence"]),
    (&[SelfTest], &["self_test"]),
    (TALKS, &["chat", "system", "system_file", "messages", "now", "chat_template", "chat_template_kwargs"]),
    (&[Render], &["render"]),
    (&[Answer], &["single_turn"]),
    (&[Talk, Answer], &["hide_reasoning"]),
    (&[Complete, Answer], &["n_samples"]),
    (
        WRITES,
        &[
            "prompt_cache",
            "prompt_cache_all",
            "prompt_cache_ro",
            "n_predict",
            "stop",
            "special",
            "ignore_eos",
            "json_schema",
            "grammar",
            "logprobs",
            "lookup",
            "temperature",
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
            "mirostat",
            "mirostat_lr",
            "mirostat_ent",
            "logit_bias",
            "samplers",
            "seed",
        ],
    ),
];

/// The tasks that heed an option.
fn heeding(id: &str) -> &'static [Task] {
    let row = HEEDED.iter().find(|(_, ids)| ids.contains(&id));
    row.unwrap_or_else(|| panic!("run/tasks.rs must say which tasks heed {id}")).0
}

impl Task {
    /// What a command line asks for, on a terminal or not.
    fn of(matches: &ArgMatches, terminal: bool) -> Task {
        let flag = |id| matches.get_flag(id);
        let given = |id| matches.contains_id(id);
        let prompt = ["text", "prompt", "file", "ids"].into_iter().any(given);
        match () {
            () if flag("self_test") => SelfTest,
            () if given("perplexity") => Score,
            () if flag("render") => Render,
            () if given("messages") && !flag("chat") || flag("single_turn") => Answer,
            () if flag("chat") || (!prompt && terminal) => Talk,
            () => Complete,
        }
    }

    /// Why an option cannot be heeded.
    fn refusal(self, option: &str, heeding: &[Task]) -> String {
        let with = match self {
            Complete if heeding.contains(&Answer) => {
                return format!("'{option}' needs a conversation: give --chat, or --messages FILE");
            }
            Complete if heeding == [Score] => return format!("'{option}' needs --perplexity FILE"),
            Complete => "a text to continue",
            Talk if heeding.contains(&Answer) => {
                return format!("'{option}' cannot be used with a conversation that goes on: give --single-turn too");
            }
            Talk => "a conversation",
            Answer => "the answer to a conversation",
            Render => "--render",
            Score => "--perplexity",
            SelfTest => "--self-test",
        };
        format!("'{option}' cannot be used with {with}")
    }
}

/// Refuses options that what is asked for does not heed.
///
/// # Errors
/// The first such option, and why.
pub fn check(matches: &ArgMatches, command: &Command) -> Result<(), String> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    check_on(matches, command, terminal)
}

fn check_on(matches: &ArgMatches, command: &Command, terminal: bool) -> Result<(), String> {
    let task = Task::of(matches, terminal);
    let options = command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str()));
    for option in options {
        let id = option.get_id().as_str();
        if matches.value_source(id) == Some(ValueSource::CommandLine) && !heeding(id).contains(&task) {
            return Err(task.refusal(&option.to_string(), heeding(id)));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "tasks/tests.rs"]
mod tests;
