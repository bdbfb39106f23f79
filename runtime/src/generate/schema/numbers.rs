//! Sets of numbers, as regular expressions over how they are written.
//!
//! llguidance takes bounds and constants through 64-bit floats and allows no exponent anywhere: integers beyond 2^53 come
//! out wrong. Here bounds are exact decimals. What is written as an integer and what is written with a point are two
//! sets: readers keep the first exactly and round the second ([`float_limit`]). Where no bound is asked for, an exponent
//! may be written too, and everything that comes out is finite as a 64-bit float.

use super::decimal::{Decimal, Limit, MAX_DIGITS, Number, float_limit};
use super::strings::Language;

/// A number other than 0 has a digit that is not 0 among so many behind its point.
const NEAREST: usize = 300;
/// llguidance's arithmetic for `multipleOf` overflows beyond these.
const MAX_DIVISOR: u32 = 100_000_000;
const MAX_SCALE: usize = 8;

/// A set of numbers: those written as integers, and those written with a point. Neither has an exponent or `-0`.
#[derive(Clone, Debug)]
pub struct Numbers {
    pub whole: Language,
    pub pointed: Language,
}

/// One thing that is asked of numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    AtLeast(Number),
    Above(Number),
    AtMost(Number),
    Below(Number),
    MultipleOf(Number),
    OneOf(Vec<Number>),
    Integer,
}

/// Every number, in every form.
pub fn any() -> Language {
    regex(format!(
        r"-?(0|[1-9][0-9]{{0,{}}})(\.[0-9]+)?|-?(0|[1-9][0-9]{{0,8}})(\.[0-9]+)?[eE](\+?([0-9]{{1,2}}|[12][0-9]{{2}})|-[0-9]{{1,3}})",
        MAX_DIGITS - 1
    ))
}

/// Every integer.
pub fn any_integer() -> Language {
    regex(format!("-?(0|[1-9][0-9]{{0,{}}})", MAX_DIGITS - 1))
}

/// All that fulfil some constraints.
///
/// With `widen`, a set that has at least these: numbers that readers disagree about are in it, and integers written with
/// a point. It is what must be taken away to leave only numbers that surely do not fulfil them.
///
/// # Errors
/// The constraint that cannot be held to, and why.
pub fn numbers(constraints: &[Constraint], widen: bool) -> Result<Numbers, String> {
    let mut all = every();
    for constraint in constraints {
        let set = one(constraint, widen)?;
        all = both(all, set);
    }
    Ok(all)
}

/// The numbers of one set that are not in another.
pub fn without(set: Numbers, other: Numbers) -> Numbers {
    let cut = |a, b| Language::And(vec![a, Language::Not(Box::new(b))]);
    Numbers { whole: cut(set.whole, other.whole), pointed: cut(set.pointed, other.pointed) }
}

/// All numbers without an exponent.
pub fn every() -> Numbers {
    let tail = MAX_DIGITS - 1;
    Numbers {
        whole: regex(format!("0|-?[1-9][0-9]{{0,{tail}}}")),
        pointed: regex(format!(r"(0|-?[1-9][0-9]{{0,{tail}}})\.[0-9]+|-0\.[0-9]{{0,{NEAREST}}}[1-9][0-9]*")),
    }
}

fn both(a: Numbers, b: Numbers) -> Numbers {
    Numbers { whole: Language::And(vec![a.whole, b.whole]), pointed: Language::And(vec![a.pointed, b.pointed]) }
}

fn one(constraint: &Constraint, widen: bool) -> Result<Numbers, String> {
    Ok(match constraint {
        Constraint::AtLeast(bound) => from(bound, true, widen).joined(),
        Constraint::Above(bound) => from(bound, false, widen).joined(),
        Constraint::AtMost(bound) => from(&opposite(bound), true, widen).turned().joined(),
        Constraint::Below(bound) => from(&opposite(bound), false, widen).turned().joined(),
        Constraint::MultipleOf(step) => multiples(step)?,
        Constraint::Integer => {
            let pointed = if widen { regex(r"-?[0-9]+\.0+".into()) } else { Language::NoMatch };
            Numbers { whole: every().whole, pointed }
        }
        Constraint::OneOf(values) => {
            let (mut whole, mut pointed) = (Vec::new(), Vec::new());
            for value in values {
                let exact = &value.exact;
                let sign = if exact.negative { "-" } else { "" };
                if exact.is_whole() && (widen || value.as_read() == *exact) {
                    whole.push(Language::Literal(format!("{sign}{}", exact.whole)));
                }
                if widen || value.is_float || Decimal::of(exact.nearest()) == *exact {
                    let zeros = if exact.is_whole() { "0+" } else { "0*" };
                    pointed.push(regex(format!(r"{sign}{}\.{}{zeros}", exact.whole, exact.places)));
                }
            }
            Numbers { whole: Language::Or(whole), pointed: Language::Or(pointed) }
        }
    })
}

fn opposite(number: &Number) -> Number {
    let mut turned = number.clone();
    turned.exact.negative = !turned.exact.negative && !turned.exact.is_zero();
    turned
}

/// A set of numbers by their sign; the magnitudes are above 0.
struct Sides {
    below: Numbers,
    zero_whole: bool,
    zero_pointed: bool,
    above: Numbers,
}

impl Sides {
    /// The same numbers with the sign turned.
    fn turned(self) -> Sides {
        Sides { below: self.above, above: self.below, ..self }
    }

    fn joined(self) -> Numbers {
        let join = |below, zero: Option<&str>, above| {
            let below = Language::Concat(vec![Language::Byte(b'-'), below]);
            Language::Or([below, above].into_iter().chain(zero.map(|z| regex(z.into()))).collect())
        };
        Numbers {
            whole: join(self.below.whole, self.zero_whole.then_some("0"), self.above.whole),
            pointed: join(self.below.pointed, self.zero_pointed.then_some(r"0\.0+"), self.above.pointed),
        }
    }
}

/// Numbers from a bound up.
fn from(bound: &Number, inclusive: bool, widen: bool) -> Sides {
    // Written as integers: compared exactly, and with the bound as it is read.
    let first = |bound: &Decimal| if inclusive || !bound.is_whole() { bound.ceil() } else { bound.plus_one() };
    let (exact, read) = (first(&bound.exact), first(&bound.as_read()));
    let whole = if widen { exact.min(read) } else { exact.max(read) };
    let none = || Numbers { whole: Language::NoMatch, pointed: Language::NoMatch };
    let zero_whole = whole.negative || whole.is_zero();
    let mut sides = Sides { below: none(), zero_whole, zero_pointed: false, above: none() };
    sides.above.whole = if zero_whole { whole_from("1") } else { whole_from(&whole.whole) };
    if whole.negative {
        sides.below.whole = whole_up_to(&whole.whole);
    }
    if let Some(Limit { at, inclusive }) = float_limit(bound, inclusive, widen) {
        sides.zero_pointed = at.negative || (at.is_zero() && inclusive);
        sides.above.pointed = match at.negative || at.is_zero() {
            true => above_zero(),
            false => pointed_from(&at, inclusive),
        };
        if at.negative {
            sides.below.pointed = Language::And(vec![above_zero(), pointed_up_to(&at, inclusive)]);
        }
    }
    sides
}

fn regex(text: String) -> Language {
    Language::Regex(text)
}

/// Digits from `low` to `high`, then `rest` more of any.
fn digit(low: u8, high: u8, rest: usize) -> Option<Language> {
    (low <= high).then(|| regex(format!("[{}-{}][0-9]{{{rest}}}", low as char, high as char)))
}

/// Integers from one above 0 up.
fn whole_from(low: &str) -> Language {
    let digits = low.as_bytes();
    let mut same_length = Language::EmptyString;
    for (i, d) in digits.iter().enumerate().rev() {
        let equal = Language::Concat(vec![Language::Byte(*d), same_length]);
        same_length = match digit(d + 1, b'9', digits.len() - i - 1) {
            Some(above) => Language::Or(vec![equal, above]),
            None => equal,
        };
    }
    if digits.len() >= MAX_DIGITS {
        return same_length;
    }
    let longer = regex(format!("[1-9][0-9]{{{},{}}}", digits.len(), MAX_DIGITS - 1));
    Language::Or(vec![same_length, longer])
}

/// Integers above 0, up to one of them.
fn whole_up_to(high: &str) -> Language {
    let digits = high.as_bytes();
    let mut same_length = Language::EmptyString;
    for (i, d) in digits.iter().enumerate().rev() {
        let equal = Language::Concat(vec![Language::Byte(*d), same_length]);
        let lowest = if i == 0 { b'1' } else { b'0' };
        same_length = match digit(lowest, d - 1, digits.len() - i - 1) {
            Some(below) => Language::Or(vec![equal, below]),
            None => equal,
        };
    }
    if digits.len() == 1 {
        return same_length;
    }
    let shorter = regex(format!("[1-9][0-9]{{0,{}}}", digits.len() - 2));
    Language::Or(vec![same_length, shorter])
}

/// Numbers with a point above 0.
fn above_zero() -> Language {
    regex(format!(r"[1-9][0-9]{{0,{}}}\.[0-9]+|0\.[0-9]{{0,{NEAREST}}}[1-9][0-9]*", MAX_DIGITS - 1))
}

/// Numbers with a point from one above 0 up.
fn pointed_from(low: &Decimal, inclusive: bool) -> Language {
    // Digits behind the point that are not below (or are above) those of the bound.
    let mut places = regex(if inclusive { "[0-9]*" } else { "[0-9]*[1-9][0-9]*" }.into());
    if low.is_whole() && inclusive {
        places = regex("[0-9]+".into());
    }
    for d in low.places.bytes().rev() {
        let equal = Language::Concat(vec![Language::Byte(d), places]);
        places = match digit(d + 1, b'9', 0) {
            Some(above) => Language::Or(vec![equal, Language::Concat(vec![above, regex("[0-9]*".into())])]),
            None => equal,
        };
    }
    let same_whole = Language::Concat(vec![Language::Literal(format!("{}.", low.whole)), places]);
    let next = Decimal { places: String::new(), ..low.clone() }.plus_one();
    if next.whole.len() > MAX_DIGITS {
        return same_whole;
    }
    Language::Or(vec![same_whole, Language::Concat(vec![whole_from(&next.whole), regex(r"\.[0-9]+".into())])])
}

/// Numbers with a point that are not negative, up to one above 0 (its sign does not count).
fn pointed_up_to(high: &Decimal, inclusive: bool) -> Language {
    let mut places = if inclusive { regex("0*".into()) } else { Language::NoMatch };
    if high.is_whole() {
        places = if inclusive { regex("0+".into()) } else { Language::NoMatch };
    }
    for (i, d) in high.places.bytes().enumerate().rev() {
        let mut all = vec![Language::Concat(vec![Language::Byte(d), places])];
        all.extend(digit(b'0', d - 1, 0).map(|below| Language::Concat(vec![below, regex("[0-9]*".into())])));
        if i > 0 {
            all.push(Language::EmptyString);
        }
        places = Language::Or(all);
    }
    let mut all = vec![Language::Concat(vec![Language::Literal(format!("{}.", high.whole)), places])];
    if high.whole != "0" {
        let before = Decimal { negative: false, whole: high.whole.clone(), places: String::new() }.minus_one();
        let mut wholes = vec![Language::Byte(b'0')];
        if before.whole != "0" {
            wholes.push(whole_up_to(&before.whole));
        }
        all.push(Language::Concat(vec![Language::Or(wholes), regex(r"\.[0-9]+".into())]));
    }
    Language::Or(all)
}

/// Multiples of a step.
///
/// With the step `d` times 10^-s, a number with `k` places is a multiple if its digits, read as one integer, are a
/// multiple of `d / gcd(d, 10^(s-k))`. llguidance checks that for digits with exactly `k` places.
fn multiples(step: &Number) -> Result<Numbers, String> {
    let exact = step.exact.magnitude();
    let scale = exact.places.len();
    let digits = format!("{}{}", exact.whole, exact.places);
    let divisor = digits.parse::<u32>().ok().filter(|d| *d <= MAX_DIVISOR && scale <= MAX_SCALE);
    let Some(divisor) = divisor else {
        return Err(format!("steps have at most {MAX_SCALE} digits behind the point, and 8 in all"));
    };
    if divisor == 0 || step.exact.negative {
        return Err("a step is above 0".into());
    }
    let of_places = |places: usize| {
        let divisor = divisor / gcd(divisor, 10u32.pow((scale - places) as u32));
        let sign = regex("-?".into());
        if places == 0 {
            return Language::Concat(vec![sign, Language::MultipleOf(divisor, 0)]);
        }
        let form = regex(format!(r"[0-9]+\.[0-9]{{{places}}}"));
        let multiple = Language::And(vec![form, Language::MultipleOf(divisor, places as u32)]);
        Language::Concat(vec![sign, multiple])
    };
    let mut pointed = vec![Language::Concat(vec![of_places(0), regex(r"\.0+".into())])];
    pointed.extend((1..=scale).map(|places| Language::Concat(vec![of_places(places), regex("0*".into())])));
    Ok(Numbers { whole: of_places(0), pointed: Language::Or(pointed) })
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llguidance::derivre::{Regex, RegexBuilder};
    use std::cell::RefCell;

    /// Both forms of a set, compiled.
    struct Compiled(RefCell<Regex>, RefCell<Regex>);

    fn compiled(set: &Numbers) -> Compiled {
        let compile = |set: &Language| {
            let mut builder = RegexBuilder::new();
            let made = builder.mk(set).unwrap();
            RefCell::new(builder.into_regex_limited(made, 1_000_000).unwrap())
        };
        Compiled(compile(&set.whole), compile(&set.pointed))
    }

    fn holds(set: &Compiled, text: &str) -> bool {
        if text.contains('.') { set.1.borrow_mut().is_match(text) } else { set.0.borrow_mut().is_match(text) }
    }

    fn set(constraint: Constraint, widen: bool) -> Compiled {
        compiled(&numbers(&[constraint], widen).unwrap())
    }

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    /// Every bound, against every number, in exact decimals.
    #[test]
    fn bounds_are_exact() {
        let numbers_of_all_kinds = [
            "-1000",
            "-101",
            "-100.01",
            "-100",
            "-99.99",
            "-10",
            "-9",
            "-1.5",
            "-1",
            "-0.5",
            "-0.05",
            "0",
            "0.05",
            "0.1",
            "0.5",
            "0.51",
            "1",
            "1.05",
            "1.5",
            "9",
            "9.9",
            "10",
            "10.5",
            "11",
            "99",
            "99.99",
            "100",
            "101",
            "110",
            "999",
            "1000",
            "2147483647",
            "9007199254740992",
            "9007199254740993",
            "18446744073709551615",
            "1000000000000000000000000000000",
            "1.5e20",
        ];
        let exact: Vec<(Number, String)> = numbers_of_all_kinds
            .iter()
            .map(|text| {
                let n = number(text);
                let (sign, point) =
                    (if n.exact.negative { "-" } else { "" }, if n.exact.is_whole() { "" } else { "." });
                let text = format!("{sign}{}{point}{}", n.exact.whole, n.exact.places);
                (n, text)
            })
            .collect();
        for (bound, _) in &exact {
            for (kind, holds_for) in [
                (Constraint::AtLeast(bound.clone()), [false, true, true]),
                (Constraint::Above(bound.clone()), [false, false, true]),
                (Constraint::AtMost(bound.clone()), [true, true, false]),
                (Constraint::Below(bound.clone()), [true, false, false]),
            ] {
                let set = set(kind.clone(), false);
                for (n, text) in &exact {
                    let want = holds_for[(n.exact.cmp(&bound.exact) as i8 + 1) as usize];
                    assert_eq!(holds(&set, text), want, "{kind:?} {text}");
                    // With zeros behind a point it is the same number, unless a reader rounds it.
                    if n.exact.nearest().abs() < 1e15 {
                        let pointed = if text.contains('.') { format!("{text}00") } else { format!("{text}.0") };
                        assert_eq!(holds(&set, &pointed), want, "{kind:?} {pointed}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_readers_round_is_left_out() {
        let above = set(Constraint::Above(number("2.25")), false);
        assert!(!holds(&above, "2.25") && !holds(&above, "2.25000000000000000001"));
        assert!(holds(&above, "2.2500000000000004") && holds(&above, "3"));
        let odd = set(Constraint::AtLeast(number("9007199254740993")), false);
        assert!(
            holds(&odd, "9007199254740993") && !holds(&odd, "9007199254740993.0") && holds(&odd, "9007199254740994.0")
        );
        let one = set(Constraint::OneOf(vec![number("9007199254740993")]), false);
        assert!(holds(&one, "9007199254740993") && !holds(&one, "9007199254740993.0"));
        let wide = set(Constraint::OneOf(vec![number("9007199254740993")]), true);
        assert!(holds(&wide, "9007199254740993.0"));
        let positive = set(Constraint::Above(number("0")), false);
        assert!(!holds(&positive, "0") && !holds(&positive, "0.000") && holds(&positive, "0.0001"));
        let all = compiled(&every());
        let tiny = format!("0.{}1", "0".repeat(330));
        assert!(!holds(&positive, &tiny) && !holds(&all, "-0") && !holds(&all, "-0.0"));
    }

    #[test]
    fn constants_have_every_form_without_exponent() {
        let set = set(Constraint::OneOf(["1.0", "0.50", "-0", "12e1"].map(number).to_vec()), false);
        for text in ["1", "1.0", "1.000", "0.5", "0.500", "0", "0.0", "120", "120.0"] {
            assert!(holds(&set, text), "{text}");
        }
        for text in ["1.01", "0.51", "-0", "-1", "12", "10"] {
            assert!(!holds(&set, text), "{text}");
        }
    }

    #[test]
    fn multiples_are_exact() {
        for (step, yes, no) in [
            ("7", vec!["0", "7", "-21", "700000007", "14.0", "-14.00"], vec!["1", "7.5", "8"]),
            ("0.25", vec!["1", "1.5", "1.50", "-0.25", "0.75", "10.250"], vec!["1.1", "0.251", "0.3"]),
            ("0.01", vec!["0.07", "1.1", "5", "19.99", "0.3"], vec!["0.001", "19.999"]),
            ("2.5", vec!["5", "2.5", "7.50", "-10"], vec!["1", "2", "2.4", "3.5"]),
            ("100", vec!["100", "0", "300"], vec!["110", "1"]),
            ("1e2", vec!["100"], vec!["50"]),
            ("1e-8", vec!["0.00000001", "3"], vec!["0.000000001"]),
        ] {
            let set = set(Constraint::MultipleOf(number(step)), false);
            for (texts, inside) in [(&yes, true), (&no, false)] {
                for text in texts {
                    assert_eq!(holds(&set, text), inside, "{step}: {text}");
                }
            }
        }
        for step in ["0", "-1", "1e-9", "123456789012", "0.1234567890123"] {
            assert!(numbers(&[Constraint::MultipleOf(number(step))], false).is_err(), "{step}");
        }
    }
}
