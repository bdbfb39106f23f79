//! Tells a model's reasoning from its answer, in text that arrives in pieces.
//!
//! Models that reason do so first, between two marks: `<think>` and `</think>`, for most. Some templates write the first
//! mark themselves, so that the answer begins within. Marks further on are text: an answer may speak of them.
//!
//! ```
//! use nanoserve_runtime::chat::{Piece, Reasoning};
//!
//! let mut reasoning = Reasoning::after("<assistant>");
//! assert_eq!(reasoning.push("<thi"), []);
//! assert_eq!(reasoning.push("nk>Hm"), [Piece::Mark("<think>".into()), Piece::Thought("Hm".into())]);
//! assert_eq!(reasoning.push("</think>Yes"), [Piece::Mark("</think>".into()), Piece::Answer("Yes".into())]);
//! ```

use nanoserve_tokenizer::Tokenizer;

/// The marks before and behind reasoning, as families of models have them.
const MARKS: [[&str; 2]; 7] = [
    ["<think>", "</think>"],
    ["<thinking>", "</thinking>"],
    ["<thought>", "</thought>"],
    ["<reasoning>", "</reasoning>"],
    ["<seed:think>", "</seed:think>"],
    ["[THINK]", "[/THINK]"],
    ["<|START_THINKING|>", "<|END_THINKING|>"],
];

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A mark before or behind reasoning.
    Mark(String),
    /// Reasoning.
    Thought(String),
    /// The answer itself.
    Answer(String),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing has come but spaces.
    Beginning,
    /// Until this mark.
    Within(&'static str),
    Answering,
}

/// Divides an answer's text.
#[derive(Clone, Debug)]
pub struct Reasoning {
    state: State,
    held: String,
}

impl Reasoning {
    /// For the answer to a prompt, which may itself begin the reasoning.
    pub fn after(prompt: &str) -> Reasoning {
        let begun = MARKS.iter().find(|[begin, _]| prompt.trim_end().ends_with(begin));
        Reasoning { state: begun.map_or(State::Beginning, |[_, end]| State::Within(end)), held: String::new() }
    }

    /// The special tokens that are marks: an answer's text must show them, or they cannot be found.
    pub fn special_marks(tokenizer: &Tokenizer) -> Vec<u32> {
        let ids = MARKS.iter().flatten().filter_map(|mark| super::single(mark, tokenizer));
        ids.filter(|&id| tokenizer.is_special(id)).collect()
    }

    /// Whether the text so far ends within reasoning.
    pub fn is_within(&self) -> bool {
        matches!(self.state, State::Within(_))
    }

    /// Takes the next text and returns what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        loop {
            match self.state {
                State::Beginning => {
                    let begun = self.held.trim_start();
                    let spaces = self.held.len() - begun.len();
                    if let Some([begin, end]) = MARKS.iter().find(|[begin, _]| begun.starts_with(begin)) {
                        self.held.drain(..spaces + begin.len());
                        self.state = State::Within(end);
                        pieces.push(Piece::Mark((*begin).to_string()));
                    } else if MARKS.iter().any(|[begin, _]| begin.starts_with(begun)) {
                        return pieces;
                    } else {
                        self.state = State::Answering;
                    }
                }
                State::Within(end) => {
                    let found = self.held.find(end);
                    let until = found.unwrap_or_else(|| self.held.len() - overlap(&self.held, end));
                    let thought: String = self.held.drain(..until).collect();
                    pieces.extend((!thought.is_empty()).then_some(Piece::Thought(thought)));
                    if found.is_none() {
                        return pieces;
                    }
                    self.held.drain(..end.len());
                    self.state = State::Answering;
                    pieces.push(Piece::Mark(end.to_string()));
                }
                State::Answering => {
                    let rest = std::mem::take(&mut self.held);
                    pieces.extend((!rest.is_empty()).then_some(Piece::Answer(rest)));
                    return pieces;
                }
            }
        }
    }

    /// Ends the text and returns what was held back.
    pub fn finish(&mut self) -> Option<Piece> {
        let rest = std::mem::take(&mut self.held);
        let piece = if self.is_within() { Piece::Thought(rest) } else { Piece::Answer(rest) };
        (piece != Piece::Answer(String::new()) && piece != Piece::Thought(String::new())).then_some(piece)
    }
}

/// How many bytes at the end of a text begin a mark.
fn overlap(text: &str, mark: &str) -> usize {
    (1..mark.len()).rev().find(|&n| text.as_bytes().ends_with(&mark.as_bytes()[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of each kind: thoughts, answer, marks.
    fn divided(prompt: &str, pieces: &[&str]) -> [String; 3] {
        let mut reasoning = Reasoning::after(prompt);
        let mut all: Vec<Piece> = pieces.iter().flat_map(|piece| reasoning.push(piece)).collect();
        all.extend(reasoning.finish());
        let mut texts = [const { String::new() }; 3];
        for piece in all {
            match piece {
                Piece::Thought(text) => texts[0] += &text,
                Piece::Answer(text) => texts[1] += &text,
                Piece::Mark(text) => texts[2] += &text,
            }
        }
        texts
    }

    #[test]
    fn every_cut_gives_the_same_parts() {
        for (prompt, text, expected) in [
            ("", "<think>Hm</think>Yes", ["Hm", "Yes", "<think></think>"]),
            ("", "\n <think>\nHm\n</think>\n\nYes <think>", ["\nHm\n", "\n\nYes <think>", "<think></think>"]),
            ("<assistant><think>\n", "Hm</think>Yes", ["Hm", "Yes", "</think>"]),
            ("", "[THINK]é</[/THI[/THINK]日本", ["é</[/THI", "日本", "[THINK][/THINK]"]),
            ("", "<thinking>x</think>y</thinking>z", ["x</think>y", "z", "<thinking></thinking>"]),
            ("", "No <think>.</think>", ["", "No <think>.</think>", ""]),
            ("", " <thinner", ["", " <thinner", ""]),
            ("", "<thi", ["", "<thi", ""]),
            ("", "<think>never ends</thin", ["never ends</thin", "", "<think>"]),
            ("", "", ["", "", ""]),
        ] {
            let characters: Vec<&str> = text.split("").collect();
            assert_eq!(divided(prompt, &characters), expected, "{text} by characters");
            for cut in (0..=text.len()).filter(|&i| text.is_char_boundary(i)) {
                assert_eq!(divided(prompt, &[&text[..cut], &text[cut..]]), expected, "{text} at {cut}");
            }
        }
    }
}
