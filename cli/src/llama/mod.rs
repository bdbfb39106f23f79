//! llama.cpp's spellings: the words of a command line are put into ours before clap reads them.
//!
//! clap knows no short option of several letters (`-ngl`), so this stands before it. Only whole words count, so a value that is
//! attached (`-n128`) and shorts in one word (`-qe`) reach clap as they are; and nothing behind `--` is touched.

mod table;

use clap::{Arg, ArgAction};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use table::{BENCH, Meaning, RUN, Row};

/// What was said in parts, and becomes one option.
#[derive(Default)]
struct Said {
    model: Option<OsString>,
    layers: Option<String>,
    /// Types of keys and of values.
    types: [Option<String>; 2],
    /// Tokens in a step: the smallest counts.
    batch: Option<String>,
    /// The word that asks for a conversation, and that for none.
    talk: Option<String>,
    plain: Option<String>,
}

/// The words of a command line in our spelling; the arguments of the command begin at `at`.
///
/// # Errors
/// What to use in place of an option that is not there.
pub fn translate(command: &str, line: &[OsString], at: usize) -> Result<Vec<OsString>, String> {
    let table = match command {
        "run" | "chat" => RUN,
        "bench" => BENCH,
        _ => return Ok(line.to_vec()),
    };
    let mut out = line[..at.min(line.len())].to_vec();
    let mut said = Said::default();
    let mut words = line.iter().skip(at);
    while let Some(word) = words.next() {
        if word == "--" {
            out.push(word.clone());
            out.extend(words.cloned());
            break;
        }
        let text = word.to_str().unwrap_or_default();
        let (name, attached) = match text.split_once('=').filter(|(name, _)| name.starts_with("--")) {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (text, None),
        };
        let Some((_, meaning)) = table.iter().find(|(names, _)| names.contains(&name)) else {
            out.push(word.clone());
            continue;
        };
        let mut value = || attached.clone().or_else(|| words.next().cloned()).ok_or(format!("{name} needs a value"));
        let with = |ours: &str, value: OsString| {
            let mut word = OsString::from(format!("{ours}="));
            word.push(value);
            word
        };
        match *meaning {
            Meaning::Model => {
                if said.model.replace(value()?).is_some() {
                    return Err(format!("{name} is given twice"));
                }
            }
            Meaning::Takes(ours) => out.push(with(ours, value()?)),
            Meaning::Is(ours) => out.extend(ours.iter().map(OsString::from)),
            Meaning::Talk(ours) => {
                said.talk = Some(name.to_string());
                out.extend((ours != "--chat").then(|| ours.into()));
            }
            Meaning::TalkTakes(ours) => {
                said.talk = Some(name.to_string());
                out.push(with(ours, value()?));
            }
            Meaning::Plain => said.plain = Some(name.to_string()),
            Meaning::Layers => said.layers = Some(value()?.to_string_lossy().into_owned()),
            Meaning::CacheType => {
                let of_values = name == "-ctv" || name == "--cache-type-v";
                said.types[usize::from(of_values)] = Some(value()?.to_string_lossy().into_owned());
            }
            Meaning::Batch => {
                let value = value()?.to_string_lossy().into_owned();
                let number = |text: &String| text.parse::<u64>().unwrap_or(0);
                said.batch = Some(said.batch.filter(|before| number(before) < number(&value)).unwrap_or(value));
            }
            Meaning::Keep => match value()?.to_str().map(str::parse::<i64>) {
                Some(Ok(-1..)) => {}
                _ => return Err(format!("{name} takes a number of tokens, or -1 for all; all are kept anyway")),
            },
            Meaning::Already(_) => {}
            Meaning::Not(instead) => return Err(format!("{name} is an option of llama.cpp: {instead}")),
        }
    }
    said.add_to(&mut out, at)?;
    Ok(out)
}

impl Said {
    /// Adds what was collected, in front of the command's other arguments.
    fn add_to(self, out: &mut Vec<OsString>, at: usize) -> Result<(), String> {
        let mut front: Vec<OsString> = Vec::new();
        let has = |option: &str| {
            out.iter()
                .filter_map(|word| word.to_str())
                .any(|word| word == option || word.starts_with(&format!("{option}=")))
        };
        if let (Some(plain), true) = (&self.plain, self.talk.is_some() || has("--chat")) {
            return Err(format!("{plain} cannot be used with {}", self.talk.as_deref().unwrap_or("--chat")));
        }
        if self.talk.is_some() && !has("--chat") {
            front.push("--chat".into());
        }
        match self.layers.as_deref() {
            None => {}
            Some("0") if !has("--device") => front.push("--device=cpu".into()),
            Some("auto") if !has("--device") => front.push("--device=auto".into()),
            Some(layers) => {
                if !has("--device") {
                    front.push("--device=cuda".into());
                }
                // As llama.cpp has it, 99 and the like are all there are.
                let all = ["all", "auto", "-1"].contains(&layers) || layers.parse::<u64>().is_ok_and(|n| n >= 99);
                front.extend((!all).then(|| format!("--gpu-layers={layers}").into()));
            }
        }
        match &self.types {
            [None, None] => {}
            [Some(one), Some(other)] if one != other => {
                return Err("keys and values are kept in one type: -ctk and -ctv must be the same".into());
            }
            [Some(one), None] | [None, Some(one)] if one == "f32" => {
                return Err("keys and values are kept in one type: give -ctk f32 and -ctv f32, or --kv f32".into());
            }
            [Some(one), _] | [None, Some(one)] if one == "f16" || one == "f32" => {
                front.push(format!("--kv={one}").into())
            }
            [Some(one), _] | [None, Some(one)] => {
                return Err(format!("keys and values in {one} are not there: --kv f16 or --kv f32"));
            }
        }
        front.extend(self.batch.map(|n| format!("--chunk={n}").into()));
        front.extend(self.model);
        out.splice(at..at, front);
        Ok(())
    }
}

/// The name of the option that lists them.
pub const HELP: &str = "help_llama";

/// The option that lists them, which needs no other.
pub fn help_option() -> Arg {
    let help = "List llama.cpp's options that are understood, and what takes the place of the others";
    Arg::new(HELP).long("help-llama").action(ArgAction::SetTrue).exclusive(true).display_order(1000).help(help)
}

/// Prints what is understood, and ends the program, as clap does for `--help`.
pub fn help() -> ! {
    let mut text = String::from("llama.cpp's options in nanoserve run and chat:\n");
    list(&mut text, RUN);
    text += "\nOptions of the same name and meaning, such as -p, -n, -t, -s, --temp and --top-k, are not listed.\n\n\
             llama-bench's options in nanoserve bench:\n";
    list(&mut text, BENCH);
    // A reader that goes away has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    std::process::exit(0)
}

fn list(text: &mut String, table: &[Row]) {
    for (names, meaning) in table {
        let here = match meaning {
            Meaning::Model => "MODEL, the first argument".to_string(),
            Meaning::Takes(ours) => format!("{ours} X"),
            Meaning::Is(ours) => ours.join(" "),
            Meaning::Talk("--chat") => "--chat".to_string(),
            Meaning::Talk(ours) => format!("--chat {ours}"),
            Meaning::TalkTakes(ours) => format!("--chat {ours} X"),
            Meaning::Plain => "so it is without --chat".to_string(),
            Meaning::Layers => "--device cuda --gpu-layers N; 99 and more are all, 0 is --device cpu".to_string(),
            Meaning::CacheType => "--kv f16 or --kv f32, for keys and values alike".to_string(),
            Meaning::Batch => "--chunk N, the smaller of both".to_string(),
            Meaning::Keep => "so it is anyway: nothing is dropped from the context".to_string(),
            Meaning::Already(why) => format!("so it is anyway: {why}"),
            Meaning::Not(instead) => format!("not there: {instead}"),
        };
        // Memory takes what is written.
        let _ = writeln!(text, "  {}\n      {here}", names.join(", "));
    }
}

#[cfg(test)]
mod tests;
