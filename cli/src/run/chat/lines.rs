//! The user's input: from an editor on a terminal, as plain lines otherwise.

use crate::console;
use anyhow::Result;
use rustyline::completion::Completer;
use rustyline::config::{Behavior, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};
use std::borrow::Cow;
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
        editor.set_helper(Some(Whole { colours: console::colours(true) }));
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
                let Some(text) = read_message(&mut std::io::stdin().lock())? else { return Ok(Line::End) };
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

/// Reads a message: its lines, without the end of the last. The lines of Windows end in two characters.
fn read_message(input: &mut impl BufRead) -> Result<Option<String>> {
    let mut text = String::new();
    loop {
        let start = text.len();
        if input.read_line(&mut text)? == 0 {
            // What was open ends with the input.
            let ended = text.strip_suffix('\n').unwrap_or(&text).len();
            text.truncate(ended);
            return Ok((!text.is_empty()).then_some(text));
        }
        let line = &text[start..];
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        text.truncate(start + line.len());
        if is_whole(&text) {
            return Ok(Some(text));
        }
        text.push('\n');
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
pub struct Whole {
    colours: bool,
}

impl Helper for Whole {}

impl Highlighter for Whole {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        match self.colours {
            true => Cow::Owned(format!("\x1b[1;32m{prompt}\x1b[0m")),
            false => Cow::Borrowed(prompt),
        }
    }
}

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
    use super::{is_whole, read_message, unfold};

    #[test]
    fn lines_of_every_system_are_messages() {
        for end in ["\n", "\r\n"] {
            let text = ["one", "two\\", "lines", "", "\"\"\"three", "", "lines\"\"\"", "\"\"\"a\\", "\"\"\"", "last\\"]
                .join(end);
            for last in ["", end] {
                let mut input = std::io::Cursor::new(format!("{text}{last}"));
                let mut all = Vec::new();
                while let Some(message) = read_message(&mut input).unwrap() {
                    all.push(unfold(&message));
                }
                assert_eq!(all, ["one", "two\nlines", "", "three\n\nlines", "a\\", "last\\"], "{end:?} {last:?}");
            }
        }
    }

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
