//! The user's input: from an editor on a terminal, as plain lines otherwise.

use anyhow::Result;
use rustyline::completion::Completer;
use rustyline::config::{Behavior, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};
use std::io::BufRead;

/// The mark that begins and ends a message of several lines.
const QUOTES: &str = "\"\"\"";

/// Where lines come from.
pub enum Lines {
    /// A terminal, with history; nothing is written to a file.
    Terminal(Box<Editor<Whole, MemHistory>>),
    /// A pipe or a file.
    Plain,
}

/// What was read.
pub enum Line {
    /// A message or a command.
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of the input.
    End,
}

impl Lines {
    pub fn open(terminal: bool) -> Result<Lines> {
        if !terminal {
            return Ok(Lines::Plain);
        }
        let config = Config::builder().auto_add_history(false).behavior(Behavior::Stdio).bracketed_paste(true).build();
        let mut editor = Editor::with_history(config, MemHistory::new())?;
        editor.set_helper(Some(Whole));
        Ok(Lines::Terminal(Box::new(editor)))
    }

    /// Whether there is a terminal, so that the user can be asked.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Lines::Terminal(_))
    }

    /// Reads the next message with all its lines.
    pub fn next(&mut self) -> Result<Line> {
        let text = match self {
            Lines::Terminal(editor) => match editor.readline("> ") {
                Ok(text) => {
                    if !text.trim().is_empty() {
                        editor.add_history_entry(text.as_str())?;
                    }
                    text
                }
                Err(ReadlineError::Interrupted) => return Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => return Ok(Line::End),
                Err(e) => return Err(e.into()),
            },
            Lines::Plain => {
                let mut text = String::new();
                let mut input = std::io::stdin().lock();
                loop {
                    if input.read_line(&mut text)? == 0 {
                        if text.is_empty() {
                            return Ok(Line::End);
                        }
                        break;
                    }
                    let ended = text.strip_suffix('\n').unwrap_or(&text);
                    if is_whole(ended) {
                        text.truncate(ended.len());
                        break;
                    }
                }
                text
            }
        };
        Ok(Line::Text(unfold(&text)))
    }

    /// Asks a question; an empty answer means yes. Asks again after any other text than yes or no, which may be a
    /// message that was typed before the question came. None without a terminal.
    pub fn ask(&mut self, question: &str) -> Result<Option<bool>> {
        let Lines::Terminal(editor) = self else { return Ok(None) };
        loop {
            match editor.readline(question) {
                Ok(answer) => match answer.trim().to_lowercase().as_str() {
                    "" | "y" | "yes" => return Ok(Some(true)),
                    "n" | "no" => return Ok(Some(false)),
                    _ => continue,
                },
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(Some(false)),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Whether a message is complete.
fn is_whole(text: &str) -> bool {
    match text.trim_start().strip_prefix(QUOTES) {
        Some(inside) => inside.contains(QUOTES),
        None => !text.ends_with('\\'),
    }
}

/// The message without the marks that join its lines.
fn unfold(text: &str) -> String {
    match text.trim().strip_prefix(QUOTES) {
        Some(inside) => inside.strip_suffix(QUOTES).unwrap_or(inside).trim_matches('\n').to_string(),
        None => text.replace("\\\n", "\n"),
    }
}

/// Lets the editor read more lines until [`is_whole`] says that the message is complete.
pub struct Whole;

impl Helper for Whole {}
impl Highlighter for Whole {}

impl Completer for Whole {
    type Candidate = String;
}

impl Hinter for Whole {
    type Hint = String;
}

impl Validator for Whole {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if is_whole(context.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

#[cfg(test)]
mod tests {
    use super::{is_whole, unfold};

    #[test]
    fn messages_of_several_lines() {
        for (text, whole, message) in [
            ("one", true, "one"),
            ("one\\", false, "one\\"),
            ("one\\\ntwo", true, "one\ntwo"),
            ("\"\"\"a\nb", false, "a\nb"),
            ("\"\"\"a\nb\"\"\"", true, "a\nb"),
            ("\"\"\"\na\\\n\"\"\"", true, "a\\"),
            ("", true, ""),
        ] {
            assert_eq!((is_whole(text), unfold(text).as_str()), (whole, message), "{text:?}");
        }
    }
}
