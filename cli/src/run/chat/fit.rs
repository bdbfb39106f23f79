//! What the program itself says in a conversation, broken between words where the terminal ends.

use crate::console;
use std::fmt::Display;
use unicode_width::UnicodeWidthStr;

/// The width of a text that goes to no terminal.
const USUAL: usize = 80;
/// Below this width a command's meaning stands under it, not beside it.
const NARROW: usize = 60;
/// Where a meaning begins beside its command.
const MEANING: usize = 17;
/// What stands between parts that may come on different lines.
const BAR: &str = " | ";

/// Says something to the user, on standard error. To a terminal no word is broken.
pub fn say(text: impl Display) {
    match console::error_columns() {
        Some(columns) => console::tell(fit(&text.to_string(), columns)),
        None => console::tell(text),
    }
}

/// A text whose lines have at most so many columns, as far as its words allow: broken between parts if it has any, else
/// between words.
pub fn fit(text: &str, columns: usize) -> String {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        if line.width() <= columns {
            lines.push(line.to_string());
            continue;
        }
        for part in join(line.split(BAR), BAR, columns) {
            lines.extend(join(part.split(' '), " ", columns));
        }
    }
    lines.join("\n")
}

/// Puts pieces together until a line is full.
fn join<'p>(pieces: impl Iterator<Item = &'p str>, between: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.width() + between.width() + piece.width() <= columns => {
                line.push_str(between);
                line.push_str(piece);
            }
            _ => lines.push(piece.to_string()),
        }
    }
    lines
}

/// A list of commands and what each does, with notes under it.
pub fn help(commands: &[(&str, &str)], notes: &str, columns: Option<usize>) -> String {
    let columns = columns.unwrap_or(USUAL).min(USUAL);
    let narrow = columns < NARROW;
    let indent = if narrow { 4 } else { MEANING };
    let mut text = String::new();
    for (command, meaning) in commands {
        let lines = fit(meaning, columns.saturating_sub(indent));
        let lines = lines.replace('\n', &format!("\n{:indent$}", ""));
        text += &match narrow {
            true => format!("{command}\n{:indent$}{lines}\n", ""),
            false => format!("{command:<indent$}{lines}\n"),
        };
    }
    text + &fit(notes, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_parts_then_between_words() {
        let banner = "demo.nsv | 135 M weights in q8, 148 MB | context 4096 of 8192 | CPU, avx512, 2 threads";
        assert_eq!(fit(banner, 90), banner);
        assert_eq!(
            fit(banner, 80),
            "demo.nsv | 135 M weights in q8, 148 MB | context 4096 of 8192\nCPU, avx512, 2 threads"
        );
        assert_eq!(
            fit(banner, 25),
            "demo.nsv\n135 M weights in q8, 148\nMB\ncontext 4096 of 8192\nCPU, avx512, 2 threads"
        );
        assert_eq!(fit("one two\n\n  three", 7), "one two\n\n  three");
        assert_eq!(fit("in /a/very/long/path it is", 8), "in\n/a/very/long/path\nit is");
        assert_eq!(fit("日本 日本", 4), "日本\n日本");
    }

    #[test]
    fn help_stands_beside_or_under_its_commands() {
        let commands = [("/one", "does the first of all things"), ("/two", "more")];
        assert_eq!(
            help(&commands, "Notes.", None),
            format!("{:17}{}\n{:17}more\nNotes.", "/one", commands[0].1, "/two")
        );
        assert_eq!(
            help(&commands, "Notes of it.", 24.into()),
            "/one\n    does the first of\n    all things\n/two\n    more\nNotes of it."
        );
    }
}
