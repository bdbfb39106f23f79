//! How an answer is written: words whole and reasoning dim on a terminal, the plain text elsewhere.

use super::typed::COLOURED;
use super::wrap::Wrap;
use crate::console;
use nanoserve_format::on_screen;
use nanoserve_runtime::chat::{Piece, Reasoning};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;

const DIM: &str = "\x1b[2m";
const USUAL: &str = "\x1b[0m";

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The terminal's columns, where words are to be kept whole.
    pub columns: Option<usize>,
    /// Whether reasoning is dim; its marks are then left out.
    pub dim: bool,
    /// Whether reasoning is left out.
    pub hide_reasoning: bool,
    /// Whether what steers a terminal is shown by its number.
    pub is_terminal: bool,
}

impl Look {
    /// What standard output can take.
    pub fn of_output(wrap: bool, hide_reasoning: bool) -> Look {
        let terminal = io::stdout().is_terminal();
        let columns = console::output_columns().filter(|_| wrap && !console::is_dumb());
        Look { columns, dim: console::colours(terminal), hide_reasoning, is_terminal: terminal }
    }
}

/// One answer on its way out.
pub struct Screen<'o> {
    out: &'o mut dyn Write,
    look: Look,
    reasoning: Reasoning,
    wrap: Wrap,
    /// Whether what is written now is dim.
    is_dim: bool,
    /// Whether something before the answer was left out, a mark or a thought.
    left_out: bool,
    /// Spaces and line ends at the end of a thought, which are written if it goes on.
    spaces: String,
    /// Whether nothing of the answer has come yet.
    is_first: bool,
}

impl<'o> Screen<'o> {
    /// For an answer that is divided like this.
    pub fn new(out: &'o mut dyn Write, reasoning: Reasoning, look: Look) -> Screen<'o> {
        COLOURED.fetch_or(look.dim, Ordering::SeqCst);
        let wrap = Wrap::new(look.columns);
        Screen { out, look, reasoning, wrap, is_dim: false, left_out: false, spaces: String::new(), is_first: true }
    }

    /// Writes the next text.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn push(&mut self, text: &str) -> io::Result<()> {
        for piece in self.reasoning.push(text) {
            self.piece(piece)?;
        }
        self.out.flush()
    }

    /// Writes what was held back, and ends the line.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(piece) = self.reasoning.finish() {
            self.piece(piece)?;
        }
        self.set_dim(false)?;
        writeln!(self.out)?;
        self.out.flush()
    }

    fn piece(&mut self, piece: Piece) -> io::Result<()> {
        let Look { dim, hide_reasoning, .. } = self.look;
        let left_out = matches!(piece, Piece::Mark(_)) && dim || !matches!(piece, Piece::Answer(_)) && hide_reasoning;
        self.left_out |= left_out;
        match piece {
            _ if left_out => Ok(()),
            Piece::Thought(text) if dim => self.thought(&text),
            Piece::Mark(text) | Piece::Thought(text) => self.write(&text),
            Piece::Answer(text) => self.answer(&text),
        }
    }

    /// A dim thought: without the line ends around it.
    fn thought(&mut self, text: &str) -> io::Result<()> {
        let text = std::mem::take(&mut self.spaces) + text;
        let text = if self.is_dim { &text } else { text.trim_start() };
        let end = text.trim_end();
        self.spaces = text[end.len()..].to_string();
        if !end.is_empty() {
            self.set_dim(true)?;
            self.write(end)?;
        }
        Ok(())
    }

    fn answer(&mut self, text: &str) -> io::Result<()> {
        // Line ends between a thought and the answer are ours to write.
        let text = if self.is_first && self.left_out { text.trim_start() } else { text };
        if text.is_empty() {
            return Ok(());
        }
        if self.is_dim {
            self.set_dim(false)?;
            self.write("\n\n")?;
        }
        self.is_first = false;
        self.write(text)
    }

    fn set_dim(&mut self, dim: bool) -> io::Result<()> {
        if self.is_dim == dim {
            return Ok(());
        }
        self.is_dim = dim;
        self.out.write_all(if dim { DIM } else { USUAL }.as_bytes())
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let text = if self.look.is_terminal { on_screen(text) } else { text.into() };
        self.out.write_all(self.wrap.push(&text).as_bytes())
    }
}

/// An answer without its reasoning, as it is given to programs.
pub fn without_reasoning(reasoning: Reasoning, text: &str) -> String {
    let mut out = Vec::new();
    let look = Look { columns: None, dim: false, hide_reasoning: true, is_terminal: false };
    let mut screen = Screen::new(&mut out, reasoning, look);
    // Memory takes all that is written.
    let _ = screen.push(text).and_then(|()| screen.finish());
    out.pop();
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(look: Look, prompt: &str, pieces: &[&str]) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, Reasoning::after(prompt), look);
        pieces.iter().for_each(|piece| screen.push(piece).unwrap());
        screen.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reasoning_stands_apart() {
        let plain = Look { columns: None, dim: false, hide_reasoning: false, is_terminal: false };
        let (dim, hide) = (Look { dim: true, ..plain }, Look { hide_reasoning: true, ..plain });
        let both = Look { dim: true, ..hide };
        let thinking = "<think>\nHm, so.\n\nYes.\n</think>\n\nGood <think>.\n";
        for (look, prompt, text, expected) in [
            (plain, "", thinking, "<think>\nHm, so.\n\nYes.\n</think>\n\nGood <think>.\n\n"),
            (dim, "", thinking, "\x1b[2mHm, so.\n\nYes.\x1b[0m\n\nGood <think>.\n\n"),
            (hide, "", thinking, "Good <think>.\n\n"),
            (both, "", thinking, "Good <think>.\n\n"),
            (dim, "", "<think>\n\n</think>\n\nGood.", "Good.\n"),
            (dim, "<think>\n", "Hm.</think>Good.", "\x1b[2mHm.\x1b[0m\n\nGood.\n"),
            (hide, "<think>\n", "Hm.</think>Good.", "Good.\n"),
            (dim, "", "<think>never ends", "\x1b[2mnever ends\x1b[0m\n"),
            (hide, "", "<think>never ends", "\n"),
            (dim, "", "\n Good.", "\n Good.\n"),
            (hide, "", "\n Good.", "\n Good.\n"),
        ] {
            let characters: Vec<&str> = text.split("").collect();
            assert_eq!(written(look, prompt, &characters), expected, "{look:?} {text:?}");
            assert_eq!(written(look, prompt, &[text]), expected, "{look:?} {text:?} at once");
        }
        assert_eq!(without_reasoning(Reasoning::after(""), thinking), "Good <think>.\n");
    }

    #[test]
    fn an_answer_steers_no_terminal() {
        let plain = Look { columns: None, dim: false, hide_reasoning: false, is_terminal: false };
        let text = "a\x1b]0;t\x07b\r\n\tc\u{202e}";
        assert_eq!(written(plain, "", &[text]), format!("{text}\n"));
        let terminal = Look { is_terminal: true, ..plain };
        assert_eq!(written(terminal, "", &[text]), "a\\u{1b}]0;t\\u{7}b\n\tc\\u{202e}\n");
    }
}
