//! The conversation with the user: messages, and commands that begin with a slash.

use super::fit::{self, say};
use super::lines::{Line, Lines};
use super::settings::one_of;
use super::turns::{Answered, Chat};
use crate::console;
use anyhow::{Context, Result};
use nanoserve_format::replace;
use nanoserve_runtime::chat::Conversation;
use nanoserve_runtime::{RuntimeError, StopReason};
use std::path::Path;
use std::process::ExitCode;

const COMMANDS: [(&str, &str); 11] = [
    ("/regen", "another answer in place of the last"),
    ("/clear, /reset", "forget the conversation, but for the system message"),
    ("/drop", "forget the oldest turn"),
    ("/system TEXT", "tell the model this before the conversation; alone, shows it; /system - takes it away"),
    ("/read FILE", "put a text file before the next message; /read - puts none"),
    ("/save FILE", "write the conversation as JSON, as --messages reads it"),
    ("/load FILE", "go on from such a file"),
    ("/set NAME VALUE", "temperature, top-k, seed, n, wrap, reasoning and others; alone, lists them"),
    ("/stats [on|off]", "tokens and times of the last turn; on: after each answer"),
    ("/help", "this"),
    ("/exit, /quit", "leave, as Ctrl-D does"),
];

const NOTES: &str = "A message that begins with \"\"\" goes on until the next \"\"\"; a line that ends in \\ goes on in the next. \
                     Ctrl-C stops an answer, what was said of it stays; arrows bring earlier messages back. // begins a \
                     message with a slash.";

/// Reads messages and commands until the end of the input.
pub fn talk(chat: &mut Chat, lines: &mut Lines) -> Result<ExitCode> {
    loop {
        let text = match lines.next()? {
            Line::Text(text) if text.trim().is_empty() => continue,
            Line::Text(text) => text,
            Line::Interrupted => {
                say("Ctrl-D or /quit leaves.");
                continue;
            }
            Line::End => return Ok(ExitCode::SUCCESS),
        };
        match text.strip_prefix('/') {
            Some(rest) if !rest.starts_with('/') => {
                let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                if name == "quit" || name == "exit" {
                    return Ok(ExitCode::SUCCESS);
                }
                if name == "regen" && chat.is_answered() {
                    let before = chat.conversation.clone();
                    chat.forget_answer();
                    if let Some(code) = answer_or_back(chat, lines, before)? {
                        return Ok(code);
                    }
                    continue;
                }
                match command(chat, name, argument.trim()) {
                    Ok(told) => say(told),
                    Err(e) if lines.is_terminal() => say(format_args!("error: {}", console::text(&e))),
                    Err(e) => return Err(e),
                }
            }
            escaped => {
                let said = escaped.unwrap_or(&text);
                let before = chat.conversation.clone();
                chat.say(said);
                if let Some(code) = answer_or_back(chat, lines, before)? {
                    return Ok(code);
                }
            }
        }
    }
}

/// One answer. Where there is none and somebody can go on, the conversation is again what it was before.
fn answer_or_back(chat: &mut Chat, lines: &mut Lines, before: Conversation) -> Result<Option<ExitCode>> {
    match answer(chat, lines) {
        Err(e) if lines.is_terminal() => {
            chat.conversation = before;
            say(format_args!("error: {}", console::text(&e)));
            Ok(None)
        }
        answered => {
            if answered.is_ok() && !chat.is_answered() {
                chat.conversation = before;
            }
            answered
        }
    }
}

/// Gives one answer. Returns an exit code if it is the last one: the output is closed, or Ctrl-C came without a
/// terminal.
fn answer(chat: &mut Chat, lines: &mut Lines) -> Result<Option<ExitCode>> {
    let mut out = std::io::stdout().lock();
    if !lines.is_terminal() {
        return Ok(match chat.answer(&mut out)? {
            Answered::Gone(code) => Some(code),
            Answered::Done(StopReason::Cancelled) => Some(ExitCode::from(130)),
            _ => None,
        });
    }
    loop {
        match chat.try_answer(&mut out)? {
            Answered::Done(_) => return Ok(None),
            Answered::Gone(code) => return Ok(Some(code)),
            Answered::Full { prompt, capacity } => {
                say(format_args!(
                    "The conversation has {prompt} tokens and the context {capacity}: too little is left for an answer."
                ));
                drop(out);
                let yes = lines.ask("Drop the oldest turns? [Y/n] ")?.unwrap_or(false);
                out = std::io::stdout().lock();
                let dropped = if yes { chat.make_room()? } else { 0 };
                if dropped == 0 {
                    let why = if yes { "there is no turn left to drop; " } else { "" };
                    let file = if chat.has_read() { "; /read - leaves the file out" } else { "" };
                    say(format_args!("{why}the message was not sent: /reset, /drop, or {}{file}", chat.remedy()));
                    return Ok(None);
                }
                say(format_args!("[{dropped} turn{} dropped]", if dropped == 1 { "" } else { "s" }));
            }
        }
    }
}

/// Runs a command, and returns the text to show to the user.
fn command(chat: &mut Chat, name: &str, argument: &str) -> Result<String> {
    let file = || match argument {
        "" => Err(anyhow::anyhow!("/{name} needs the name of a file")),
        name => Ok(name),
    };
    Ok(match name {
        "help" | "?" => fit::help(&COMMANDS, NOTES, console::error_columns()),
        "stats" if argument.is_empty() => chat.stats(),
        "stats" => {
            chat.shown.stats = one_of(argument, ["off", "on"])?;
            format!("[{argument}]")
        }
        "set" => chat.set(argument)?,
        "regen" => "there is no answer yet".to_string(),
        "read" if argument == "-" => {
            chat.unread();
            "[no file comes before the next message]".to_string()
        }
        "read" => {
            let path = file()?;
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            format!("[{} characters come before the next message]", chat.read(&text))
        }
        "reset" | "clear" => {
            chat.reset();
            "[the conversation begins anew]".to_string()
        }
        "drop" => match chat.conversation.drop_oldest() {
            true => "[the oldest turn was dropped]".to_string(),
            false => "there is no turn before the last".to_string(),
        },
        "system" => match argument {
            "" => chat.conversation.system().unwrap_or_else(|| "there is no system message".to_string()),
            "-" => {
                chat.set_system(None);
                "[no system message from here on]".to_string()
            }
            text => {
                chat.set_system(Some(text));
                "[the system message holds from the next answer on]".to_string()
            }
        },
        "save" => {
            let path = file()?;
            let text = chat.conversation.to_json() + "\n";
            replace(Path::new(path), text.as_bytes()).map_err(RuntimeError::from)?;
            format!("[{} messages saved to {path}]", chat.conversation.len())
        }
        "load" => {
            let path = file()?;
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            let conversation = chat.template.read(&text).with_context(|| path.to_string())?;
            let count = conversation.len();
            chat.take(conversation);
            format!("[{count} messages loaded from {path}]")
        }
        other => format!("there is no command /{other}; /help lists them, // begins a message with a slash"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_terminal() {
        for columns in [40, 59, 60, 80, 200] {
            let text = fit::help(&COMMANDS, NOTES, Some(columns));
            for line in text.lines() {
                assert!(line.chars().count() <= columns.min(80), "{columns}: {line}");
            }
        }
    }
}
