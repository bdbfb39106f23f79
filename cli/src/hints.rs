//! What a user can do about an error. The libraries report what happened, as data; only this module knows which option
//! helps.

use crate::sandbox;
use clap::Command;
use nanoserve_converter::{ConvertError, Problem, Warning, What};
use nanoserve_format::{FileAction, FormatError};
use nanoserve_runtime::{DeviceError, MemoryUse, PromptCacheError, RuntimeError, TokenizerError};
use std::io::ErrorKind;
use std::sync::OnceLock;

/// Long options of the program that runs: a hint names no other.
static OPTIONS: OnceLock<Vec<String>> = OnceLock::new();

/// Says which program runs.
pub fn begin(program: &Command) {
    let options = program.get_arguments().filter_map(|option| option.get_long().map(String::from));
    // A process is one program: there is no second.
    let _ = OPTIONS.set(options.collect());
}

fn takes(option: &str) -> bool {
    OPTIONS.get().is_none_or(|options| options.iter().any(|one| one == option))
}

/// What to add to an error of the runtime; empty if no option helps.
pub fn runtime(error: &RuntimeError) -> String {
    let hint = match error {
        RuntimeError::PromptTooLong { got, most, .. } if got > most => {
            return format!(": shorten it: the model has {most} positions");
        }
        RuntimeError::PromptTooLong { .. } => "shorten it, or give a larger --ctx",
        RuntimeError::TextTooShort { .. } => "give a longer text, or another --ctx",
        RuntimeError::Tokenizer(TokenizerError::NotCompiled) => {
            "convert the model again with `nanoserve convert`, or give token ids with --ids"
        }
        RuntimeError::TokenId { .. } => {
            "the text has a token that the model has no row for, or the ids are of another model"
        }
        RuntimeError::NoTokenizer => "give token ids with --ids, or convert again with a tokenizer.json in the folder",
        RuntimeError::PromptCache(PromptCacheError::TooLong { .. }) => "give a larger --ctx",
        RuntimeError::Device(DeviceError::Missing { remedy: Some(_), .. }) => {
            return ", or run with --device cpu".into();
        }
        RuntimeError::Device(DeviceError::Missing { .. } | DeviceError::NotBuilt | DeviceError::Encoding { .. }) => {
            "run with --device cpu"
        }
        RuntimeError::Format(FormatError::Io { action: FileAction::Open, source, .. })
            if source.kind() == ErrorKind::IsADirectory =>
        {
            "a model is one file, which `nanoserve convert FOLDER model.nsv` makes"
        }
        RuntimeError::Format(FormatError::Io { path, action: FileAction::Create | FileAction::RenameTo, source })
            if source.kind() == ErrorKind::PermissionDenied && sandbox::held().keeps(path) =>
        {
            "files are made in the folder that the program was started in, and in those below it; with --no-sandbox everywhere"
        }
        RuntimeError::Memory { what, .. } => {
            let advice = memory(what, &takes);
            return if advice.is_empty() { String::new() } else { format!(": give {}", advice.join(", or ")) };
        }
        _ => return String::new(),
    };
    format!(": {hint}")
}

/// What needs less memory, of what a program takes.
fn memory(what: &MemoryUse, takes: &dyn Fn(&str) -> bool) -> Vec<&'static str> {
    let context =
        if takes("ctx") { ("ctx", "a smaller --ctx") } else { ("n-gen", "a smaller --prompt, --n-gen or --depth") };
    let all = match what {
        MemoryUse::Context { element: 4.., .. } => vec![context, ("kv", "--kv f16")],
        MemoryUse::Context { .. } => vec![context],
        MemoryUse::Step { all_logits: true, .. } => vec![("ids", "fewer tokens")],
        MemoryUse::Step { .. } => vec![("chunk", "a smaller --chunk")],
        MemoryUse::Copy { .. } => vec![("load", "--load map")],
        MemoryUse::CacheOnCpu => vec![context, ("gpu-layers", "more --gpu-layers")],
        MemoryUse::CacheOnGpu => vec![context, ("gpu-layers", "fewer --gpu-layers")],
        MemoryUse::WeightsOnGpu { .. } => vec![("gpu-layers", "fewer --gpu-layers"), ("device", "--device cpu")],
        _ => Vec::new(),
    };
    all.into_iter().filter(|(option, _)| takes(option)).map(|(_, advice)| advice).collect()
}

/// What to add to an error of a conversion; empty if no option helps.
pub fn convert(error: &ConvertError) -> &'static str {
    let ConvertError::Write(FormatError::Io { source, .. }) = error else { return "" };
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "\n  hint: --dry-run says how much room the file takes",
        ErrorKind::FileTooLarge => {
            "\n  hint: a limit on the size of files is set (ulimit -f), or the file system has one"
        }
        _ => "",
    }
}

/// A problem of a checkpoint with the converter's own hint, and with the option that helps.
pub fn problem(problem: &Problem) -> String {
    let hint = match problem.what {
        What::Architecture { .. } => {
            "\n  hint: nanoserve-convert --list shows what is supported, with some models of each class"
        }
        What::Quantized { .. } => "; --dtype q8 quantizes it",
        What::NotCarried { .. } => "\n  hint: --dtype q8 rounds it once more, and everything else with it",
        What::OutOfRange { .. } => "\n  hint: --dtype f32 keeps every value",
        What::OutputForeign => "\n  hint: --force replaces it",
        What::TensorUnknown => "; --leave-out PATTERN leaves out what the model does not need",
        What::TensorLeftOut => "\n  hint: give a --leave-out that does not match it",
        What::PatternMatchesNothing { .. } => {
            "\n  hint: --leave-out takes a tensor's whole name, with * for any characters; in quotes, for the shell"
        }
        _ => "",
    };
    format!("{problem}{hint}")
}

/// A warning of a conversion, with the option that running the file will need.
pub fn warning(warning: &Warning) -> String {
    let hint = match warning {
        Warning::NoTokenizer { .. } => " (nanoserve-run --ids)",
        Warning::NoDefaultTemplate { .. } => " (nanoserve-run --chat-template)",
        _ => "",
    };
    format!("{warning}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Error;
    use nanoserve_converter::{Options, convert as converted};
    use nanoserve_format::Encoding;
    use nanoserve_runtime::Limit;
    use std::sync::atomic::AtomicBool;

    /// What a user reads after `error: `.
    fn told(error: impl Into<Error>) -> String {
        crate::console::text(&error.into())
    }

    #[test]
    fn errors_of_the_runtime_name_the_option_that_helps() {
        let memory = |what| RuntimeError::Memory { what, need: 3_000_000, room: 2_000_000, limit: Limit::Machine };
        let missing = |remedy| DeviceError::Missing { cause: "no driver".into(), remedy };
        for (error, words) in [
            (
                RuntimeError::PromptTooLong { got: 7, room: 6, most: 7 },
                "the prompt has 7 tokens, the context has room for 6: shorten it, or give a larger --ctx",
            ),
            (
                RuntimeError::PromptTooLong { got: 8, room: 6, most: 7 },
                "the prompt has 8 tokens, the context has room for 6: shorten it: the model has 7 positions",
            ),
            (
                RuntimeError::TextTooShort { got: 3, ctx: 9 },
                "the text has 3 tokens, windows of 9 need at least that many, and at least 4: give a longer text, or another \
                 --ctx",
            ),
            (
                RuntimeError::NoTokenizer,
                "the file holds no tokenizer: give token ids with --ids, or convert again with a tokenizer.json in the folder",
            ),
            (
                PromptCacheError::TooLong { path: "a.kv".into(), got: 9, room: 8 }.into(),
                "the prompt cache a.kv holds 9 tokens, the context has room for 8: give a larger --ctx",
            ),
            (
                DeviceError::NotBuilt.into(),
                "this program was built without CUDA (cargo feature 'cuda'): run with --device cpu",
            ),
            (missing(None).into(), "CUDA cannot be used: no driver: run with --device cpu"),
            (
                missing(Some("install one")).into(),
                "CUDA cannot be used: no driver: install one, or run with --device cpu",
            ),
            (
                memory(MemoryUse::Context { positions: 5, element: 4 }),
                "a context of 5 positions, keys and values in f32, needs 3.0 MB, this process can get 2.0 MB (what the machine \
                 has free): give a smaller --ctx, or --kv f16",
            ),
            (
                memory(MemoryUse::Copy { path: "a.nsv".into() }),
                "a copy of a.nsv needs 3.0 MB, this process can get 2.0 MB (what the machine has free): give --load map",
            ),
            (RuntimeError::EmptyPrompt, "the prompt is empty: nothing to continue"),
        ] {
            assert_eq!(told(error), words);
        }
        for (what, hint) in [
            (MemoryUse::Context { positions: 5, element: 2 }, "give a smaller --ctx"),
            (MemoryUse::Step { tokens: 5, all_logits: false }, "give a smaller --chunk"),
            (MemoryUse::Step { tokens: 5, all_logits: true }, "give fewer tokens"),
            (MemoryUse::CacheOnCpu, "give a smaller --ctx, or more --gpu-layers"),
            (MemoryUse::CacheOnGpu, "give a smaller --ctx, or fewer --gpu-layers"),
            (MemoryUse::WeightsOnGpu { layers: 1, of: 2 }, "give fewer --gpu-layers, or --device cpu"),
        ] {
            assert!(told(memory(what)).ends_with(&format!("): {hint}")), "{hint}");
        }
    }

    #[test]
    fn a_hint_names_options_that_the_program_has() {
        for entry in crate::programs::ENTRIES {
            let command = (entry.command)();
            let has = |option: &str| command.get_arguments().any(|one| one.get_long() == Some(option));
            for what in [
                MemoryUse::Context { positions: 5, element: 4 },
                MemoryUse::Context { positions: 5, element: 2 },
                MemoryUse::Step { tokens: 5, all_logits: false },
                MemoryUse::Copy { path: "a.nsv".into() },
                MemoryUse::CacheOnCpu,
                MemoryUse::CacheOnGpu,
                MemoryUse::WeightsOnGpu { layers: 1, of: 2 },
            ] {
                let advice = super::memory(&what, &has).join(" ");
                for word in advice.split([' ', ',']).filter_map(|word| word.strip_prefix("--")) {
                    assert!(has(word), "{} has no --{word}", entry.name);
                }
            }
        }
        let bench = (crate::programs::ENTRIES.iter().find(|entry| entry.name == "bench").unwrap().command)();
        let has = |option: &str| bench.get_arguments().any(|one| one.get_long() == Some(option));
        let context = MemoryUse::Context { positions: 5, element: 4 };
        assert_eq!(super::memory(&context, &has), ["a smaller --prompt, --n-gen or --depth", "--kv f16"]);
    }

    #[test]
    fn a_full_disk_has_a_hint_of_its_own() {
        let full = |kind: ErrorKind| {
            let (path, source) = ("out.nsv".into(), kind.into());
            ConvertError::Write(FormatError::Io { path, action: FileAction::Write, source })
        };
        let text = told(full(ErrorKind::StorageFull));
        assert!(text.starts_with("out.nsv: cannot write: "), "{text}");
        assert!(text.ends_with("\n  hint: --dry-run says how much room the file takes"), "{text}");
        assert!(told(full(ErrorKind::FileTooLarge)).contains("(ulimit -f)"));
        assert!(!told(full(ErrorKind::BrokenPipe)).contains("hint"));
    }

    #[test]
    fn problems_of_a_checkpoint_keep_their_hints() {
        let folder = tempfile::tempdir().unwrap();
        let problems = |config: &str| -> Vec<String> {
            std::fs::write(folder.path().join("config.json"), config).unwrap();
            let options = Options::new(folder.path(), folder.path().join("out.nsv"), Encoding::Q8);
            match converted(&options, &(), &AtomicBool::new(false)) {
                Err(ConvertError::Problems(all)) => all.iter().map(problem).collect(),
                _ => panic!("{config} is no model"),
            }
        };
        let unknown = problems(r#"{"architectures": ["NoSuchModel"], "model_type": "none"}"#).join("\n");
        let hint = "\n  hint: nanoserve-convert --list shows what is supported, with some models of each class";
        assert!(unknown.contains("NoSuchModel") && unknown.contains(hint), "{unknown}");
        let config = r#"{"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "gptq"}}"#;
        let quantized = problems(config).join("\n");
        let hint = "\n  hint: convert the original checkpoint; --dtype q8 quantizes it";
        assert!(quantized.contains("gptq") && quantized.contains(hint), "{quantized}");
    }
}
