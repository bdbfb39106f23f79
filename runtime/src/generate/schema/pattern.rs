//! `pattern`, as ECMA 262 has it with the flag `u`, as a set of strings.
//!
//! A pattern is looked for anywhere in a string. What follows a place is passed along while the parts before it are
//! translated, from the last to the first, so that `$` and `(?=...)` can say something about the whole rest:
//!
//! ```text
//! rest($, R)      = R if R may be empty, else nothing        rest(x|y, R)    = rest(x, R) | rest(y, R)
//! rest((?=x), R)  = R & rest(x, anything)                    rest(a, R)      = a R
//! ```
//!
//! `\b`, back references, lookbehind and `^` behind something that may be empty are refused by name.

mod parse;

use super::strings::{self, Language};
use parse::Node;

/// The strings in which a pattern is found.
///
/// # Errors
/// A sentence when the pattern is wrong, or has something that cannot be held to exactly.
pub fn language(pattern: &str) -> Result<Language, String> {
    let node = parse::parse(pattern)?;
    let mut translation = Translation { steps: 0 };
    if !node.has(&|n| matches!(n, Node::Start)) {
        let found = translation.rest(&node, strings::any(), Before::Something)?;
        return Ok(Language::Concat(vec![strings::any(), found]));
    }
    let at_start = translation.rest(&node, strings::any(), Before::Nothing)?;
    let later = translation.rest(&node, strings::any(), Before::Something)?;
    Ok(Language::Or(vec![at_start, Language::Concat(vec![strings::length(1, None), later])]))
}

/// What stands before a place, back to the start of the string.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Something,
    Unknown,
}

struct Translation {
    steps: usize,
}

impl Translation {
    /// The texts that may stand from here to the end of the string, when `then` may stand behind the node.
    fn rest(&mut self, node: &Node, then: Language, before: Before) -> Result<Language, String> {
        /// What follows is copied into every alternative.
        const MAX_STEPS: usize = 2000;
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err("it has too many alternatives around ^, $ or (?=".into());
        }
        if !node.has(&|n| matches!(n, Node::Start | Node::End | Node::Look { .. })) {
            return Ok(Language::Concat(vec![plain(node), then]));
        }
        match node {
            Node::Start => match before {
                Before::Nothing => Ok(then),
                Before::Something => Ok(Language::NoMatch),
                Before::Unknown => Err("^ behind something that may be empty".into()),
            },
            Node::End => Ok(Language::And(vec![Language::EmptyString, then])),
            Node::Look { negative, inside } => {
                let ahead = self.rest(inside, strings::any(), before)?;
                Ok(Language::And(vec![if *negative { strings::not(ahead) } else { ahead }, then]))
            }
            Node::Either(all) => {
                let all = all.iter().map(|n| self.rest(n, then.clone(), before)).collect::<Result<_, _>>()?;
                Ok(Language::Or(all))
            }
            Node::Sequence(all) => {
                let mut places = Vec::with_capacity(all.len());
                let mut here = before;
                for node in all {
                    places.push(here);
                    here = match (here, node.min_width(), node.max_is_zero()) {
                        (_, 1.., _) | (Before::Something, ..) => Before::Something,
                        (here, _, true) => here,
                        _ => Before::Unknown,
                    };
                }
                let mut then = then;
                for (node, before) in all.iter().zip(places).rev() {
                    then = self.rest(node, then, before)?;
                }
                Ok(then)
            }
            Node::Repeat { inside, min, max } => match (min, max) {
                (_, Some(0)) => Ok(then),
                (1, Some(1)) => self.rest(inside, then, before),
                (0, Some(1)) => Ok(Language::Or(vec![then.clone(), self.rest(inside, then, before)?])),
                _ => Err("^, $ or (?= inside of something repeated".into()),
            },
            Node::Class(_) => unreachable!("a class has no assertion inside"),
        }
    }
}

/// The language of a node without assertions.
fn plain(node: &Node) -> Language {
    match node {
        Node::Class(ranges) => strings::class(ranges),
        Node::Sequence(all) => Language::Concat(all.iter().map(plain).collect()),
        Node::Either(all) => Language::Or(all.iter().map(plain).collect()),
        Node::Repeat { inside, min, max } => Language::Repeat(Box::new(plain(inside)), *min, max.unwrap_or(u32::MAX)),
        Node::Start | Node::End | Node::Look { .. } => unreachable!("assertions are translated with what follows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_as_ecma_says() {
        for (pattern, yes, no) in [
            ("b", vec!["b", "abc", "\nb\n"], vec!["", "a"]),
            ("^b", vec!["b", "bc"], vec!["ab", "a\nb"]),
            ("b$", vec!["b", "ab"], vec!["ba", "b\n"]),
            ("^$", vec![""], vec!["a", "\n"]),
            ("^a|b$", vec!["ax", "xb"], vec!["xa", "bx"]),
            ("^(a|b$)", vec!["ac", "b"], vec!["bc"]),
            ("^(?:a$|b)c?", vec!["a", "b", "bc", "bx"], vec!["ac"]),
            (r"^\d+$", vec!["0", "99"], vec!["٣", "1a", ""]),
            (r"^\w$", vec!["a", "_", "9"], vec!["é", "-"]),
            (r"^\W$", vec!["é", "-", "\""], vec!["a"]),
            (
                r"^\s$",
                vec![" ", "\n", "\u{b}", "\u{a0}", "\u{feff}", "\u{2028}", "\u{3000}"],
                vec!["\u{85}", "\u{200b}", "a"],
            ),
            (r"^\S$", vec!["\u{85}", "a"], vec!["\u{feff}", " "]),
            (r"^[\s\d]$", vec!["\u{feff}", "1"], vec!["a"]),
            (r"^[^\s]$", vec!["a"], vec!["\u{2029}"]),
            ("^.$", vec!["a", "\u{85}", "\"", "😀"], vec!["\n", "\r", "\u{2028}", "ab"]),
            ("^[^\"]*$", vec!["", "a\\"], vec!["\"", "a\"b"]),
            (r"^\u00e9\x41\cJ\t\0\u{1F600}\ud83d\ude00$", vec!["éA\n\t\0😀😀"], vec!["éA"]),
            (r"^[\u0000-\u001f\\\]\-\b]$", vec!["\0", "\\", "]", "-", "\u{8}"], vec!["a", " "]),
            (r"^\p{Lu}\P{L}$", vec!["É1"], vec!["é1", "ÉÉ"]),
            (r"^\p{Script=Greek}+$", vec!["αβ"], vec!["ab"]),
            ("^a{2}b{1,}c{0,2}d*?e+?$", vec!["aabe", "aabbccdde"], vec!["abe", "aabccce"]),
            (r"^(?=.*[A-Z])(?=.*\d).{4,}$", vec!["abC1", "1xxD"], vec!["abcd", "aB1", "ABCD"]),
            ("^(?!.*--)[a-z-]+$", vec!["a-b"], vec!["a--b"]),
            ("^(?!0000)[0-9]{4}$", vec!["0001"], vec!["0000"]),
            ("^(?<year>\\d{2})(?:a|)$", vec!["12", "12a"], vec!["1"]),
            (r"^\/\.\@\{\}\-$", vec!["/.@{}-"], vec!["x"]),
            ("^x{$", vec!["x{"], vec!["x"]),
            ("[]", vec![], vec!["", "a"]),
            ("^[^]$", vec!["\n", "a"], vec![""]),
            ("a^b", vec![], vec!["ab", "b"]),
        ] {
            let language = language(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            for (texts, inside) in [(&yes, true), (&no, false)] {
                for text in texts {
                    assert_eq!(strings::contains(&language, text), Some(inside), "{pattern} on {text:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_exact_is_refused_by_name() {
        for (pattern, words) in [
            (r"\bcat", r"\b"),
            (r"cat\B", r"\B"),
            (r"(a)\1", "back reference"),
            (r"(?<n>a)\k<n>", "back reference"),
            ("(?<=a)b", "lookbehind"),
            ("(?<!a)b", "lookbehind"),
            ("(?i)a", "(?i"),
            ("a?^b", "may be empty"),
            ("(a$|b)*", "repeated"),
            ("(", "not closed"),
            ("a)", "')'"),
            ("[a", "not closed"),
            ("[b-a]", "order"),
            ("*a", "nothing to repeat"),
            ("a**", "nothing to repeat"),
            ("a{3,2}", "order"),
            ("a{,2}", "{,"),
            (r"\Aa", r"\A"),
            (r"a\", "ends with"),
            (r"\p{Nonsense}", "Nonsense"),
            (r"\ud83d", "surrogate"),
            (r"\u12", r"\u"),
        ] {
            let error = language(pattern).map(|_| ()).unwrap_err();
            assert!(error.contains(words), "{pattern}: {error}");
        }
    }
}
