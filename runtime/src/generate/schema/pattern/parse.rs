//! Reads a pattern of ECMA 262.

/// Ranges of code points, ends included, sorted and apart from each other.
pub type Ranges = Vec<(u32, u32)>;

const LAST: u32 = 0x10_ffff;
const DIGITS: [(u32, u32); 1] = [(0x30, 0x39)];
const WORD: [(u32, u32); 4] = [(0x30, 0x39), (0x41, 0x5a), (0x5f, 0x5f), (0x61, 0x7a)];
/// White space and line ends of ECMA 262: not U+0085, but U+FEFF.
const SPACE: [(u32, u32); 10] = [
    (0x9, 0xd),
    (0x20, 0x20),
    (0xa0, 0xa0),
    (0x1680, 0x1680),
    (0x2000, 0x200a),
    (0x2028, 0x2029),
    (0x202f, 0x202f),
    (0x205f, 0x205f),
    (0x3000, 0x3000),
    (0xfeff, 0xfeff),
];
const LINE_ENDS: [(u32, u32); 3] = [(0xa, 0xa), (0xd, 0xd), (0x2028, 0x2029)];

/// A part of a pattern.
#[derive(Debug)]
pub enum Node {
    Class(Ranges),
    Sequence(Vec<Node>),
    Either(Vec<Node>),
    Repeat { inside: Box<Node>, min: u32, max: Option<u32> },
    Start,
    End,
    Look { negative: bool, inside: Box<Node> },
}

impl Node {
    /// Whether it or a part of it is so.
    pub fn has(&self, so: &dyn Fn(&Node) -> bool) -> bool {
        so(self)
            || match self {
                Node::Sequence(all) | Node::Either(all) => all.iter().any(|n| n.has(so)),
                Node::Repeat { inside, .. } | Node::Look { inside, .. } => inside.has(so),
                _ => false,
            }
    }

    /// 1 if it takes a character at least, else 0.
    pub fn min_width(&self) -> u32 {
        match self {
            Node::Class(_) => 1,
            Node::Sequence(all) => all.iter().map(Node::min_width).max().unwrap_or(0),
            Node::Either(all) => all.iter().map(Node::min_width).min().unwrap_or(0),
            Node::Repeat { inside, min, .. } => inside.min_width().min(*min),
            Node::Start | Node::End | Node::Look { .. } => 0,
        }
    }

    /// Whether it never takes a character.
    pub fn max_is_zero(&self) -> bool {
        match self {
            Node::Class(_) => false,
            Node::Sequence(all) | Node::Either(all) => all.iter().all(Node::max_is_zero),
            Node::Repeat { inside, max, .. } => *max == Some(0) || inside.max_is_zero(),
            Node::Start | Node::End | Node::Look { .. } => true,
        }
    }
}

/// Reads a pattern.
///
/// # Errors
/// A sentence about what is wrong or not supported.
pub fn parse(pattern: &str) -> Result<Node, String> {
    let mut parser = Parser { rest: pattern.chars().collect(), at: 0, depth: 0 };
    let node = parser.either()?;
    match parser.peek() {
        None => Ok(node),
        Some(c) => Err(format!("{c:?} without its beginning")),
    }
}

struct Parser {
    rest: Vec<char>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += c.is_some() as usize;
        c
    }

    fn eat(&mut self, text: &str) -> bool {
        let here = text.chars().enumerate().all(|(i, c)| self.rest.get(self.at + i) == Some(&c));
        self.at += if here { text.chars().count() } else { 0 };
        here
    }

    fn either(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > 100 {
            return Err("its groups are nested too deep".into());
        }
        let mut all = vec![self.sequence()?];
        while self.eat("|") {
            all.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(if all.len() == 1 { all.remove(0) } else { Node::Either(all) })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut all = Vec::new();
        while self.peek().is_some_and(|c| c != '|' && c != ')') {
            let node = self.atom()?;
            all.push(self.repeated(node)?);
        }
        Ok(Node::Sequence(all))
    }

    fn repeated(&mut self, node: Node) -> Result<Node, String> {
        let (min, max, width) = match self.peek() {
            Some('*') => (0, None, 1),
            Some('+') => (1, None, 1),
            Some('?') => (0, Some(1), 1),
            Some('{') => match self.counts()? {
                Some(counts) => counts,
                None => return Ok(node),
            },
            _ => return Ok(node),
        };
        self.at += width;
        // A lazy repetition finds the same strings.
        self.eat("?");
        if matches!(node, Node::Start | Node::End | Node::Look { .. }) {
            return Err("nothing to repeat before a quantifier".into());
        }
        Ok(Node::Repeat { inside: Box::new(node), min, max })
    }

    /// The counts of `{2}`, `{2,}` or `{2,5}` at this place, and how long it is; None if it is only a brace.
    fn counts(&self) -> Result<Option<(u32, Option<u32>, usize)>, String> {
        let text: String = self.rest[self.at + 1..].iter().take_while(|c| **c != '}').collect();
        if self.at + 1 + text.chars().count() >= self.rest.len() {
            return Ok(None);
        }
        let (min, max) = text.split_once(',').map_or((text.as_str(), None), |(min, max)| (min, Some(max)));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if min.is_empty() && max.is_some_and(digits) {
            return Err(format!("'{{,{}}}' means different things in different readers", max.unwrap_or("")));
        }
        if !digits(min) || !max.is_none_or(|m| m.is_empty() || digits(m)) {
            return Ok(None);
        }
        let count = |t: &str| t.parse::<u32>().ok().filter(|n| *n < 1_000_000).ok_or("it repeats too often".to_owned());
        let low = count(min)?;
        let high = match max {
            None => Some(low),
            Some("") => None,
            Some(max) => Some(count(max)?),
        };
        if high.is_some_and(|high| high < low) {
            return Err(format!("the counts {{{text}}} are out of order"));
        }
        Ok(Some((low, high, text.len() + 2)))
    }

    fn atom(&mut self) -> Result<Node, String> {
        Ok(match self.next().expect("a character") {
            '^' => Node::Start,
            '$' => Node::End,
            '.' => Node::Class(negated(&LINE_ENDS)),
            '(' => self.group()?,
            '[' => Node::Class(self.class()?),
            '\\' => Node::Class(self.escape(false)?),
            '*' | '+' | '?' => return Err("nothing to repeat before a quantifier".into()),
            c => Node::Class(vec![(c as u32, c as u32)]),
        })
    }

    fn group(&mut self) -> Result<Node, String> {
        let look = if self.eat("?=") {
            Some(false)
        } else if self.eat("?!") {
            Some(true)
        } else {
            None
        };
        if look.is_none() && !self.eat("?:") && self.eat("?") {
            let name: String = self.rest[self.at..].iter().take_while(|c| **c != '>').collect();
            if name.starts_with("<=") || name.starts_with("<!") {
                return Err("lookbehind '(?<=' is not supported".into());
            }
            let word = |n: &str| !n.is_empty() && n.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
            if !name.strip_prefix('<').is_some_and(word) {
                let shown: String = name.chars().take(2).collect();
                return Err(format!("the group '(?{shown}' is not supported"));
            }
            self.at += name.chars().count() + 1;
        }
        let inside = Box::new(self.either()?);
        if !self.eat(")") {
            return Err("a '(' is not closed".into());
        }
        Ok(match look {
            Some(negative) => Node::Look { negative, inside },
            None => *inside,
        })
    }

    fn class(&mut self) -> Result<Ranges, String> {
        let negate = self.eat("^");
        let mut ranges = Ranges::new();
        loop {
            let first = match self.next() {
                None => return Err("a '[' is not closed".into()),
                Some(']') => break,
                Some('\\') => self.escape(true)?,
                Some(c) => vec![(c as u32, c as u32)],
            };
            let to_end = self.peek() == Some('-') && self.rest.get(self.at + 1).is_some_and(|c| *c != ']');
            if !to_end {
                ranges.extend(first);
                continue;
            }
            self.at += 1;
            let last = match self.next().expect("a character") {
                '\\' => self.escape(true)?,
                c => vec![(c as u32, c as u32)],
            };
            match (single(&first), single(&last)) {
                (Some(first), Some(last)) if first <= last => ranges.push((first, last)),
                (Some(_), Some(_)) => return Err("a range of characters is out of order".into()),
                _ => return Err("a range of characters ends with a set".into()),
            }
        }
        Ok(if negate { negated(&ranges) } else { sorted(ranges) })
    }

    fn escape(&mut self, in_class: bool) -> Result<Ranges, String> {
        let c = self.next().ok_or("it ends with a backslash")?;
        let one = |code: u32| Ok(vec![(code, code)]);
        match c {
            'd' => Ok(DIGITS.to_vec()),
            'D' => Ok(negated(&DIGITS)),
            'w' => Ok(WORD.to_vec()),
            'W' => Ok(negated(&WORD)),
            's' => Ok(SPACE.to_vec()),
            'S' => Ok(negated(&SPACE)),
            'p' | 'P' => self.property(c == 'P'),
            't' => one(0x9),
            'n' => one(0xa),
            'v' => one(0xb),
            'f' => one(0xc),
            'r' => one(0xd),
            'b' if in_class => one(0x8),
            'b' | 'B' => Err(format!(r"the word boundary '\{c}' is not supported")),
            '0' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => one(0),
            '0'..='9' | 'k' => Err("a back reference is not supported".into()),
            'c' => match self.next() {
                Some(letter) if letter.is_ascii_alphabetic() => one(letter as u32 % 32),
                _ => Err(r"'\c' without its letter".into()),
            },
            'x' => self.hex(2).map(|code| vec![(code, code)]),
            'u' => self.unicode().map(|code| vec![(code, code)]),
            c if c.is_ascii_alphanumeric() => Err(format!(r"the escape '\{c}' is not of ECMA 262")),
            c => one(c as u32),
        }
    }

    fn hex(&mut self, digits: usize) -> Result<u32, String> {
        let text: String = self.rest[self.at..].iter().take(digits).collect();
        let good = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
        self.at += digits;
        let code = u32::from_str_radix(&text, 16).ok().filter(|_| good);
        code.ok_or_else(|| format!(r"'\{}' without its {digits} digits", if digits == 2 { 'x' } else { 'u' }))
    }

    fn unicode(&mut self) -> Result<u32, String> {
        if self.eat("{") {
            let text: String = self.rest[self.at..].iter().take_while(|c| **c != '}').collect();
            self.at += text.chars().count() + 1;
            let code = u32::from_str_radix(&text, 16).ok().filter(|code| char::from_u32(*code).is_some());
            return code.ok_or_else(|| format!(r"'\u{{{text}}}' is no character"));
        }
        let high = self.hex(4)?;
        if (0xd800..0xdc00).contains(&high) && self.eat("\\u") {
            let low = self.hex(4)?;
            if (0xdc00..0xe000).contains(&low) {
                return Ok(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            }
        }
        if (0xd800..0xe000).contains(&high) { Err("half of a surrogate pair is no character".into()) } else { Ok(high) }
    }

    /// `\p{...}`. The tables are those of the `regex-syntax` crate.
    fn property(&mut self, negate: bool) -> Result<Ranges, String> {
        let name: String = self.rest[self.at..].iter().take_while(|c| **c != '}').collect();
        if !self.eat("{") {
            return Err(r"'\p' without its {name}".into());
        }
        self.at += name.chars().count();
        let class = regex_syntax::parse(&format!(r"\p{name}}}")).map(|hir| hir.into_kind());
        match class {
            Ok(regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class))) => {
                let ranges: Ranges = class.ranges().iter().map(|r| (r.start() as u32, r.end() as u32)).collect();
                Ok(if negate { negated(&ranges) } else { ranges })
            }
            _ => Err(format!(r"the property '\p{name}}}' is not known")),
        }
    }
}

fn single(ranges: &Ranges) -> Option<u32> {
    match ranges[..] {
        [(first, last)] if first == last => Some(first),
        _ => None,
    }
}

fn sorted(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut apart = Ranges::new();
    for (first, last) in ranges {
        match apart.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => apart.push((first, last)),
        }
    }
    apart
}

fn negated(ranges: &[(u32, u32)]) -> Ranges {
    let mut next = 0;
    let mut others = Ranges::new();
    for (first, last) in sorted(ranges.to_vec()) {
        if first > next {
            others.push((next, first - 1));
        }
        next = last + 1;
    }
    if next <= LAST {
        others.push((next, LAST));
    }
    others
}
