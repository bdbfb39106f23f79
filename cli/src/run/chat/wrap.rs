//! Words that stay whole at a terminal's edge, in text that arrives in pieces.
//!
//! A word is shown as it comes. Where it turns out not to fit, it is taken back and written on the next line:
//!
//! ```text
//! |the quick bro    "wn" comes      cursor back by the word's width, clear to the line's end, new line, the word
//! |the quick        |brown
//! ```
//!
//! The last column stays empty, because a cursor behind it is not where it seems to be. Lines of code between ``` are
//! left as they are: what is copied from them must run.

use unicode_width::UnicodeWidthChar;

/// The narrowest terminal whose words are kept whole.
const NARROWEST: usize = 20;

/// Puts line ends into text.
#[derive(Clone, Debug)]
pub struct Wrap {
    /// Columns that may be used; None leaves the text as it is.
    width: Option<usize>,
    column: usize,
    /// The word that the line ends with, and its columns.
    word: (String, usize),
    /// The line so far, until it is known not to be a fence.
    start: Option<String>,
    is_code: bool,
}

impl Wrap {
    /// At the start of a line of a terminal with so many columns; with None nothing is changed.
    pub fn new(columns: Option<usize>) -> Wrap {
        let width = columns.filter(|&n| n >= NARROWEST).map(|n| n - 1);
        Wrap { width, column: 0, word: (String::new(), 0), start: Some(String::new()), is_code: false }
    }

    /// The next text, as it is to be written.
    pub fn push(&mut self, text: &str) -> String {
        let Some(width) = self.width else { return text.to_string() };
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            self.next(c, width, &mut out);
        }
        out
    }

    fn next(&mut self, c: char, width: usize, out: &mut String) {
        if c == '\n' {
            self.line_ends();
            out.push(c);
            return;
        }
        self.look_for_fence(c);
        let columns = c.width().unwrap_or(0);
        if self.is_code || columns == 0 {
            self.column += columns;
            if columns == 0 {
                self.word.0.push(c);
            }
            out.push(c);
        } else if c == ' ' {
            self.word = (String::new(), 0);
            // A space that does not fit is the line's end.
            self.column = if self.column < width { self.column + 1 } else { 0 };
            out.push(if self.column == 0 { '\n' } else { c });
        } else {
            if self.column + columns > width {
                self.new_line(columns, width, out);
            }
            // Between characters of two columns a line may end anywhere.
            match columns {
                1 => self.word = (std::mem::take(&mut self.word.0) + c.encode_utf8(&mut [0; 4]), self.word.1 + 1),
                _ => self.word = (String::new(), 0),
            }
            self.column += columns;
            out.push(c);
        }
    }

    /// Puts the word that has begun on a new line, for the next character has no room. A word as long as a line is left
    /// to the terminal, which breaks it behind its last column.
    fn new_line(&mut self, next: usize, width: usize, out: &mut String) {
        let (word, columns) = &self.word;
        if *columns == self.column {
            if self.column + next > width + 1 {
                (self.column, self.word) = (0, (String::new(), 0));
            }
            return;
        }
        if *columns > 0 {
            out.push_str(&format!("\x1b[{columns}D\x1b[K"));
        }
        out.push('\n');
        out.push_str(word);
        self.column = *columns;
    }

    fn line_ends(&mut self) {
        (self.column, self.word, self.start) = (0, (String::new(), 0), Some(String::new()));
    }

    /// A line that begins with ``` begins or ends code.
    fn look_for_fence(&mut self, c: char) {
        let Some(start) = &mut self.start else { return };
        start.push(c);
        match start.trim_start() {
            "```" => {
                self.is_code = !self.is_code;
                self.start = None;
            }
            begun if "```".starts_with(begun) => {}
            _ => self.start = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Wrap;

    /// The lines that a terminal of so many columns gets.
    fn shown(columns: usize, pieces: &[&str]) -> Vec<String> {
        let mut wrap = Wrap::new(Some(columns));
        let out: String = pieces.iter().map(|piece| wrap.push(piece)).collect();
        let mut lines = vec![String::new()];
        let mut rest = out.as_str();
        while let Some(c) = rest.chars().next() {
            let line = lines.last_mut().unwrap();
            if let Some(back) = rest.strip_prefix("\x1b[") {
                let (count, behind) = back.split_once('D').unwrap();
                (0..count.parse().unwrap()).for_each(|_| _ = line.pop());
                rest = behind.strip_prefix("\x1b[K").unwrap();
                continue;
            }
            match c {
                '\n' => lines.push(String::new()),
                c => line.push(c),
            }
            rest = &rest[c.len_utf8()..];
        }
        lines
    }

    #[test]
    fn every_cut_shows_the_same_lines() {
        let text = "The quick brown fox jumps over the lazy dog, and it said: é日本語日本語日本語日本語.\n\n- a list's item\n  \
                    with two lines that are long enough\nhttps://a.very/long/address?that=fits&nowhere=at all";
        let expected = [
            "The quick brown fox",
            "jumps over the lazy",
            "dog, and it said:",
            "é日本語日本語日本語",
            "日本語.",
            "",
            "- a list's item",
            "  with two lines",
            "that are long",
            "enough",
            "https://a.very/long/address?that=fits&nowhere=at all",
        ];
        let trimmed =
            |lines: Vec<String>| -> Vec<String> { lines.iter().map(|line| line.trim_end().to_string()).collect() };
        let characters: Vec<&str> = text.split("").collect();
        assert_eq!(trimmed(shown(20, &characters)), expected);
        for cut in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
            assert_eq!(trimmed(shown(20, &[&text[..cut], &text[cut..]])), expected, "at {cut}");
        }
    }

    #[test]
    fn code_and_narrow_terminals_are_left_alone() {
        let code = "```sh\necho one two three four five six seven\n```\nand then words again that are wrapped";
        let lines = shown(20, &[code]);
        assert_eq!(lines[1], "echo one two three four five six seven");
        assert_eq!(lines[3].trim_end(), "and then words");
        let long = "words ".repeat(20);
        assert_eq!(shown(10, &[&long]), [long.as_str()]);
        assert_eq!(Wrap::new(None).push(&long), long);
    }
}
