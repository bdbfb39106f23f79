//! Checks splitting expressions before they are compiled.
//!
//! An engine tries one path after another, and an expression can be written so that trying all of them never ends. So
//! quantifiers may not be nested, lookarounds must be bounded, and back references are refused: the steps between two
//! failures then grow no faster than the text. And where an engine goes back, it may not run over the text again each time:
//! after a repetition without bounds, no other one may follow a look around or be possessive.
//!
//! Tokenizers write their expressions for Oniguruma, and the runtime has another engine, without C. What the two take
//! differently is refused too ([`check_exact`]). The expressions of published tokenizers pass both.

use super::{MAX_PATTERN, VocabularyError};

/// The most quantifiers of an expression: about four times those of the longest in use.
const MAX_QUANTIFIERS: usize = 64;

/// The largest count of `{n,m}`.
const MAX_COUNT: u32 = 256;

/// The most groups within groups.
const MAX_DEPTH: usize = 32;

/// Checks that an expression is of a form that cannot keep the engine busy without end.
///
/// # Errors
/// What is refused, and where.
pub fn check_expression(pattern: &str) -> Result<(), VocabularyError> {
    let refused = |at: usize, what: &str| VocabularyError::Pattern { cause: format!("at byte {at}: {what}") };
    if pattern.len() > MAX_PATTERN {
        return Err(refused(MAX_PATTERN, "it is longer than 4096 bytes"));
    }
    Form { rest: pattern, quantifiers: 0, path: Path::default() }
        .alternatives(0, false)
        .and_then(
            |(_, form)| if form.rest.is_empty() { Ok(()) } else { Err((form.rest, "a group that was not opened")) },
        )
        .map_err(|(rest, what)| refused(pattern.len() - rest.len(), what))
}

/// Properties that both engines know, and give to the same characters; tests/tests/expressions.rs looks at all of them.
pub const PROPERTIES: [&str; 47] = [
    "L",
    "Lu",
    "Ll",
    "Lt",
    "Lm",
    "Lo",
    "M",
    "Mn",
    "Mc",
    "Me",
    "N",
    "Nd",
    "Nl",
    "No",
    "P",
    "Pc",
    "Pd",
    "Ps",
    "Pe",
    "Pi",
    "Pf",
    "Po",
    "S",
    "Sm",
    "Sc",
    "Sk",
    "So",
    "Z",
    "Zs",
    "Zl",
    "Zp",
    "C",
    "Cc",
    "Cf",
    "Co",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Thai",
    "Cyrillic",
    "Latin",
    "Greek",
    "Arabic",
    "Hebrew",
    "Devanagari",
    "Armenian",
];

/// Pairs of letters for which there is one character, such as ß or ﬁ: Oniguruma matches that too where case is ignored.
const FOLDED: [&str; 5] = ["ss", "ff", "fi", "fl", "st"];

/// Checks that an expression is allowed ([`check_expression`]) and matches in the runtime exactly what it does in
/// Oniguruma.
///
/// # Errors
/// What is refused, and where.
pub fn check_exact(pattern: &str) -> Result<(), VocabularyError> {
    check_expression(pattern)?;
    let refused =
        |at: usize| VocabularyError::Pattern { cause: format!("at byte {at}: engines take this in different ways") };
    // Groups that are open, and whether case is ignored in each.
    let (mut folds, mut class, mut run) = (vec![false], 0, String::new());
    let mut rest = pattern.char_indices();
    while let Some((at, c)) = rest.next() {
        let ahead = &pattern[at..];
        let folding = folds.last() == Some(&true);
        if folding && !"(?:)".contains(c) {
            run.push(c.to_ascii_lowercase());
            if !c.is_ascii() || FOLDED.iter().any(|pair| run.ends_with(pair)) {
                return Err(refused(at));
            }
        }
        match c {
            '\\' => match rest.next() {
                Some((_, 'p' | 'P')) => {
                    let name = ahead[2..].trim_start_matches(['{', '^']);
                    let name = name.split('}').next().unwrap_or_default();
                    if !PROPERTIES.contains(&name) || ahead[2..].starts_with("{^") {
                        return Err(refused(at));
                    }
                }
                Some((_, 'w' | 'W' | 'b' | 'B' | 'A' | 'z' | 'Z' | '<' | '>' | 'v')) | None => return Err(refused(at)),
                Some((_, c)) if !c.is_ascii() => return Err(refused(at)),
                _ => {}
            },
            '[' => class += 1,
            ']' if class > 0 => class -= 1,
            '(' if class == 0 => {
                let ignore = if ahead.starts_with("(?i:") { true } else { folding && !ahead.starts_with("(?-i:") };
                folds.push(ignore);
            }
            ')' if class == 0 => _ = folds.pop(),
            '^' | '$' if class == 0 => return Err(refused(at)),
            '{' if class == 0 && ahead.starts_with("{,") => return Err(refused(at)),
            _ if class > 0 && ["&&", "--", "~~"].iter().any(|two| ahead.starts_with(two)) => return Err(refused(at)),
            _ => {}
        }
    }
    Ok(())
}

/// The part of an expression that is not yet read.
#[derive(Clone, Copy)]
struct Form<'p> {
    rest: &'p str,
    quantifiers: usize,
    path: Path,
}

/// What a match may have passed on its way to a place.
#[derive(Clone, Copy, Default)]
struct Path {
    /// A repetition without bounds, into which the engine may go back.
    endless: bool,
    /// After it, a place that the engine tries by itself: a look around or a possessive repetition.
    barred: bool,
}

impl Path {
    fn or(self, other: Path) -> Path {
        Path { endless: self.endless || other.endless, barred: self.barred || other.barred }
    }
}

/// The rest of the expression where it is refused, and why.
type Refused<'p> = (&'p str, &'static str);

impl<'p> Form<'p> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn skip(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Reads to the end of the group or expression; returns whether anything in it repeats. `around`: within a
    /// lookaround.
    fn alternatives(mut self, depth: usize, around: bool) -> Result<(bool, Self), Refused<'p>> {
        let mut repeats = false;
        // What may have been passed before the group, and at the end of an alternative.
        let (before, mut passed) = (self.path, Path::default());
        loop {
            let at = self.rest;
            let Some(c) = self.next() else { return Ok((repeats, self.passed(passed))) };
            let mut inner = false;
            match c {
                ')' => return Ok((repeats, Form { rest: at, ..self }.passed(passed))),
                '|' => {
                    passed = passed.or(self.path);
                    self.path = before;
                    continue;
                }
                '^' | '$' => continue,
                '*' | '+' | '?' | '{' => return Err((at, "a quantifier of nothing")),
                '(' if depth == MAX_DEPTH => return Err((at, "groups 32 deep")),
                '(' => (inner, self) = self.group(at, depth, around)?,
                '[' => self = self.class(at, 0)?,
                '\\' => self.escape(at)?,
                _ => {}
            }
            let at = self.rest;
            let Some((least, most, possessive)) = self.quantifier()? else {
                repeats |= inner;
                continue;
            };
            let endless = most.is_none();
            if endless && self.path.endless && (possessive || self.path.barred) {
                return Err((at, "a repetition without bounds that an earlier one may start again and again"));
            }
            self.path.barred |= possessive && self.path.endless;
            self.path.endless |= endless && !possessive;
            self.quantifiers += 1;
            if self.quantifiers > MAX_QUANTIFIERS {
                return Err((at, "more than 64 quantifiers"));
            } else if inner && most != Some(1) {
                return Err((at, "a quantifier around a quantifier"));
            } else if around && most.is_none() {
                return Err((at, "a look around without bounds"));
            } else if least.max(most.unwrap_or(0)) > MAX_COUNT {
                return Err((at, "a count above 256"));
            }
            repeats = true;
        }
    }

    /// The form with what other alternatives may have passed.
    fn passed(mut self, other: Path) -> Self {
        self.path = self.path.or(other);
        self
    }

    fn group(mut self, at: &'p str, depth: usize, around: bool) -> Result<(bool, Self), Refused<'p>> {
        let looks = ["?=", "?!", "?<=", "?<!"].iter().any(|kind| self.skip(kind));
        if !looks && !["?:", "?i:", "?-i:"].iter().any(|kind| self.skip(kind)) && self.rest.starts_with(['?', '*']) {
            return Err((at, "a group of another kind than (?:, (?i:, (?=, (?!, (?<=, (?<!"));
        }
        let (repeats, mut form) = self.alternatives(depth + 1, around || looks)?;
        form.path.barred |= looks && form.path.endless;
        if form.skip(")") { Ok((repeats, form)) } else { Err((at, "a group without an end")) }
    }

    /// Reads the rest of a character class.
    fn class(mut self, at: &'p str, depth: usize) -> Result<Self, Refused<'p>> {
        self.skip("^");
        // Engines disagree about what these mean.
        if depth == MAX_DEPTH || self.rest.starts_with([']', ':']) {
            return Err((at, "a class that begins with ] or :"));
        }
        loop {
            let at = self.rest;
            match self.next() {
                Some(']') => return Ok(self),
                Some('[') => self = self.class(at, depth + 1)?,
                Some('\\') => self.escape(at)?,
                Some(_) => {}
                None => return Err((at, "a class without an end")),
            }
        }
    }

    /// Reads what follows a backslash: a character class, a position, or a character that is special without it.
    fn escape(&mut self, at: &'p str) -> Result<(), Refused<'p>> {
        match self.next() {
            Some('p' | 'P') => {
                let name = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let Some((_, rest)) =
                    name.filter(|(name, _)| name.chars().all(|c| c.is_alphanumeric() || "^_".contains(c)))
                else {
                    return Err((at, "a property without a name"));
                };
                self.rest = rest;
                Ok(())
            }
            Some(
                's' | 'S' | 'd' | 'D' | 'w' | 'W' | 'h' | 'H' | 'r' | 'n' | 't' | 'f' | 'v' | 'b' | 'B' | 'A' | 'z'
                | 'Z',
            ) => Ok(()),
            Some('x' | 'u') => {
                let digits = self.rest.strip_prefix('{').unwrap_or(self.rest);
                let all = digits.len() - digits.trim_start_matches(|c: char| c.is_ascii_hexdigit()).len();
                let braces = digits.len() < self.rest.len();
                let taken = if braces { all + 2 } else { all.min(if at.starts_with("\\x") { 2 } else { 4 }) };
                if all == 0 || braces && !digits[all..].starts_with('}') {
                    return Err((at, "a code without digits"));
                }
                self.rest = &self.rest[taken..];
                Ok(())
            }
            Some(c) if !c.is_alphanumeric() => Ok(()),
            _ => Err((at, "a reference, or an escape that is not known here")),
        }
    }

    /// Reads a quantifier: the least and the most repetitions, and whether it keeps what it took; None if there is none.
    fn quantifier(&mut self) -> Result<Option<(u32, Option<u32>, bool)>, Refused<'p>> {
        let at = self.rest;
        let bounds = if self.skip("*") || self.skip("+") {
            (0, None)
        } else if self.skip("?") {
            (0, Some(1))
        } else if self.skip("{") {
            let wrong = (at, "braces that are no count");
            let (inside, rest) = self.rest.split_once('}').ok_or(wrong)?;
            self.rest = rest;
            let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
            match inside.split_once(',') {
                None => number(inside).map(|n| (n, Some(n))),
                Some((least, "")) => number(least).map(|n| (n, None)),
                Some(("", most)) => number(most).map(|n| (0, Some(n))),
                Some((least, most)) => number(least).zip(number(most).map(Some)),
            }
            .ok_or(wrong)?
        } else {
            return Ok(None);
        };
        // Lazy or possessive.
        let possessive = !self.skip("?") && !at.starts_with('{') && self.skip("+");
        if self.rest.starts_with(['*', '+', '?', '{']) {
            return Err((self.rest, "a quantifier of a quantifier"));
        }
        Ok(Some((bounds.0, bounds.1, possessive)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use fancy_regex::Regex;

    /// Of Llama 3, Qwen 2, GPT-2, GPT-4o and Bloom.
    pub const PUBLISHED: [&str; 5] = [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
    ];

    #[test]
    fn what_is_in_use_passes() {
        for pattern in PUBLISHED {
            check_exact(pattern).unwrap();
            Regex::new(pattern).unwrap();
        }
        for pattern in [
            r"(?:\r\n|\r|\n)+",
            r"[\u4e00-\u9fff]+",
            r"\x{3000}?\x41",
            r"b?+c{2,}?",
            r"a*+b*+c*",
            r"a*|b*+c",
            r"\s*[\r\n]+(?!x)",
            r"(\p{^L})",
            "",
        ] {
            check_expression(pattern).unwrap();
        }
    }

    #[test]
    fn what_engines_take_differently_is_refused() {
        for pattern in [
            r"\w+",
            r"[\W]",
            r"a\b",
            r"^a",
            r"a$",
            r"\Aa",
            r"a\Z",
            r"a\z",
            r"a{,3}",
            r"[a-z&&b]",
            r"[a--b]",
            r"(?i:ß)",
            r"(?i:ss)",
            r"(?i:a(?:Fi))",
            r"(?i:s(?:s))",
            r"\p{Alpha}",
            r"\p{^L}",
            r"\<",
            r"[\v]",
        ] {
            assert!(check_expression(pattern).is_ok(), "{pattern}");
            assert!(check_exact(pattern).is_err(), "{pattern}");
        }
        for pattern in [r"[^\s]+\r?\n", r"(?i:'s|(?-i:ss)|'ll)ss", r"[\^$]\$\^", r"(?:ß|ss)[日\-]", r"a{2,}[{,]"] {
            check_exact(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        }
    }

    #[test]
    fn what_could_run_without_end_is_refused() {
        for (pattern, what) in [
            (r"(?:a+)+", "around a quantifier"),
            (r"(?:a{2}|b){3}", "around a quantifier"),
            (r"(?:(?:a?)?)*", "around a quantifier"),
            (r"(?=(?:(?=(?:(?=a*).)*).)*)", "a look around without bounds"),
            (r"(?<!x+)y", "a look around without bounds"),
            (r"a*a*+b", "an earlier one"),
            (r"a*(?!x)a*b", "an earlier one"),
            (r"(?:x|a*)(?!x)(?:y|a+)b", "an earlier one"),
            (r"(?:a*|x)a?+[ab]{2,}c", "an earlier one"),
            (r"a*(?:b|(?=c)|d)a*", "an earlier one"),
            (r"(a)\1", "a reference"),
            (r"(?<x>a\g<x>?)", "another kind"),
            (r"(?~a)", "another kind"),
            (r"(?>a)", "another kind"),
            (r"(*FAIL)", "another kind"),
            (r"a{1000}", "a count above"),
            (r"a{300,}", "a count above"),
            (r"a{2}{3}", "of a quantifier"),
            (r"a{1,3}+", "of a quantifier"),
            (r"a{x}", "no count"),
            (r"a{+1}", "no count"),
            (r"(?:a", "without an end"),
            (r"[a", "without an end"),
            (r"a)", "not opened"),
            (r"[]a]", "a class that"),
            (r"[[:alpha:]]", "a class that"),
            (r"\p{L", "a property"),
            (r"\x", "a code"),
            (r"*", "of nothing"),
            (r"\", "an escape"),
        ] {
            let error = check_expression(pattern).expect_err(pattern).to_string();
            assert!(error.contains(what), "{pattern}: {error}");
        }
        assert!(check_expression(&"(".repeat(MAX_PATTERN)).is_err());
        assert!(check_expression(&"[".repeat(MAX_PATTERN)).is_err());
        assert!(check_expression(&"a?".repeat(65)).is_err());
        assert!(check_expression(&"a".repeat(MAX_PATTERN + 1)).is_err());
    }
}
