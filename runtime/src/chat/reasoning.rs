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
    /// The bytes at the beginning of what is held that stand in the prompt: they are no part of any piece.
    in_prompt: usize,
}

impl Reasoning {
    /// For the answer to a prompt, which may itself begin the reasoning.
    pub fn after(prompt: &str) -> Reasoning {
        let begun = MARKS.iter().find(|[begin, _]| prompt.trim_end().ends_with(begin));
        let state = begun.map_or(State::Beginning, |[_, end]| State::Within(end));
        Reasoning { state, held: String::new(), in_prompt: 0 }
    }

    /// For the rest of an answer whose beginning, `said`, is at the end of the prompt. It may end within reasoning, whether
    /// the mark is its own or the template's.
    pub fn after_part(prompt: &str, said: &str) -> Reasoning {
        let said = said.trim();
        let Some(at) = prompt.rfind(said).filter(|_| !said.is_empty()) else { return Reasoning::after(prompt) };
        let mut part = Reasoning::after(&prompt[..at]);
        part.push(prompt[at..].trim_end());
        // Where it ends within a mark, the rest of the mark may come.
        part.in_prompt = part.held.len();
        part
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
        let pieces = self.divide(text);
        pieces.into_iter().filter_map(|piece| self.without_prompt(piece)).collect()
    }

    /// A piece without what stands in the prompt; None if nothing is left.
    fn without_prompt(&mut self, mut piece: Piece) -> Option<Piece> {
        let (Piece::Mark(text) | Piece::Thought(text) | Piece::Answer(text)) = &mut piece;
        let known = self.in_prompt.min(text.len());
        text.drain(..known);
        self.in_prompt -= known;
        (!text.is_empty()).then_some(piece)
    }

    fn divide(&mut self, text: &str) -> Vec<Piece> {
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
        self.without_prompt(piece)
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
        parts(Reasoning::after(prompt), pieces)
    }

    fn parts(mut reasoning: Reasoning, pieces: &[&str]) -> [String; 3] {
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
    fn a_part_of_an_answer_may_end_within_reasoning() {
        for (prompt, said, rest, expected) in [
            ("<user>Hi<assistant>", "<think>\nHm", ", so</think>Yes", [", so", "Yes", "</think>"]),
            ("<user>Hi<assistant>", "<think>\n", "Hm</think>Yes", ["Hm", "Yes", "</think>"]),
            ("<user>Hi<assistant><think>\n", "Hm", ", so</think>Yes", [", so", "Yes", "</think>"]),
            ("<user><think><assistant>", "Yes", ", no </think>", ["", ", no </think>", ""]),
            ("<user>Hi<assistant>", "<think>Hm</think>Y", "es <think>", ["", "es <think>", ""]),
            // It ends within a mark.
            ("<user>Hi<assistant>", "<thi", "nk>Hm</think>Yes", ["Hm", "Yes", "nk></think>"]),
            ("<user>Hi<assistant>", "<thi", "s is it", ["", "s is it", ""]),
            ("<user>Hi<assistant>", "<thi", "", ["", "", ""]),
            ("<user>Hi<assistant>", "<think>Hm</th", "ink>Yes", ["", "Yes", "ink>"]),
            ("<user>Hi<assistant>", "<think>Hm</th", "ere>, so", ["ere>, so", "", ""]),
            // The same text, said before by somebody else.
            ("<user><think>Hm<assistant>", "Hm", "<think>, so", ["", "<think>, so", ""]),
            ("<user>Hi<assistant>", "", "<think>Hm</think>Yes", ["Hm", "Yes", "<think></think>"]),
            ("<user>Hi<assistant><think>\n", " ", "Hm</think>Yes", ["Hm", "Yes", "</think>"]),
            // The template has trimmed it.
            ("<user>Hi<assistant>", " <think>Hm \n", "</think>Yes", ["", "Yes", "</think>"]),
        ] {
            let whole = format!("{prompt}{}", said.trim());
            let reasoning = Reasoning::after_part(&whole, said);
            assert_eq!(parts(reasoning, &[rest]), expected, "{prompt} {said} {rest}");
        }
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
