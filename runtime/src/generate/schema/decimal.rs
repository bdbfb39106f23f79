//! Numbers of a schema, exactly: decimals of any size, and what becomes of them where a reader rounds to 64-bit floats.

use std::cmp::Ordering;

/// No number of a schema or an answer has more digits before its point: the largest 64-bit float has 309.
pub const MAX_DIGITS: usize = 308;
/// Nor more digits behind it, in a schema.
const MAX_PLACES: usize = 400;

/// An exact decimal: a sign, and digits without leading zeros before the point and without trailing zeros behind it.
/// Zero is not negative, and its digits before the point are "0".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    pub negative: bool,
    pub whole: String,
    pub places: String,
}

impl Decimal {
    fn new(negative: bool, whole: &str, places: &str) -> Decimal {
        let whole = whole.trim_start_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole }.to_owned();
        let places = places.trim_end_matches('0').to_owned();
        let negative = negative && !(whole == "0" && places.is_empty());
        Decimal { negative, whole, places }
    }

    /// What a 64-bit float is, exactly. It must be finite.
    pub fn of(x: f64) -> Decimal {
        let text = format!("{:.1080}", x.abs());
        let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
        Decimal::new(x < 0.0, whole, places)
    }

    /// The nearest 64-bit float; infinite beyond the largest.
    pub fn nearest(&self) -> f64 {
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{}.{}", self.whole, if self.places.is_empty() { "0" } else { &self.places })
            .parse()
            .unwrap_or(0.0)
    }

    pub fn is_whole(&self) -> bool {
        self.places.is_empty()
    }

    pub fn is_zero(&self) -> bool {
        self.whole == "0" && self.places.is_empty()
    }

    /// Without the sign.
    pub fn magnitude(&self) -> Decimal {
        Decimal { negative: false, ..self.clone() }
    }

    /// The smallest whole number that is not below it.
    pub fn ceil(&self) -> Decimal {
        let cut = Decimal::new(self.negative, &self.whole, "");
        if self.is_whole() || self.negative { cut } else { cut.plus_one() }
    }

    /// One more; of a whole number.
    pub fn plus_one(&self) -> Decimal {
        match self.negative {
            false => Decimal::new(false, &add(&self.whole, "1"), ""),
            true => Decimal::new(true, &subtract_one(&self.whole), ""),
        }
    }

    /// One less; of a whole number.
    pub fn minus_one(&self) -> Decimal {
        match self.negative {
            true => Decimal::new(true, &add(&self.whole, "1"), ""),
            false if self.whole == "0" => Decimal::new(true, "1", ""),
            false => Decimal::new(false, &subtract_one(&self.whole), ""),
        }
    }

    /// Half of the sum of two numbers of one sign.
    fn middle(&self, other: &Decimal) -> Decimal {
        let places = self.places.len().max(other.places.len());
        let digits = |d: &Decimal| format!("{}{:0<places$}", d.whole, d.places);
        // Half of a number is five times it with the point one further left.
        let sum = add(&digits(self), &digits(other));
        let twice = add(&sum, &sum);
        let five = add(&add(&twice, &twice), &sum);
        let five = format!("{five:0>width$}", width = places + 2);
        let (whole, behind) = five.split_at(five.len() - places - 1);
        Decimal::new(self.negative || other.negative, whole, behind)
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        let magnitudes =
            (self.whole.len(), &self.whole, &self.places).cmp(&(other.whole.len(), &other.whole, &other.places));
        match (self.negative, other.negative) {
            (false, false) => magnitudes,
            (true, true) => magnitudes.reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

/// The sum of two numbers in digits.
fn add(a: &str, b: &str) -> String {
    let width = a.len().max(b.len());
    let (a, b) = (format!("{a:0>width$}"), format!("{b:0>width$}"));
    let mut carry = 0;
    let mut digits: Vec<u8> = Vec::with_capacity(width + 1);
    for (x, y) in a.bytes().rev().zip(b.bytes().rev()) {
        let sum = x - b'0' + (y - b'0') + carry;
        digits.push(b'0' + sum % 10);
        carry = sum / 10;
    }
    digits.push(b'0' + carry);
    digits.iter().rev().map(|d| *d as char).collect()
}

/// One less than a number in digits that is not zero.
fn subtract_one(a: &str) -> String {
    let mut digits = a.as_bytes().to_vec();
    for digit in digits.iter_mut().rev() {
        if *digit == b'0' {
            *digit = b'9';
        } else {
            *digit -= 1;
            break;
        }
    }
    digits.iter().map(|d| *d as char).collect()
}

/// A number of a schema as it is written. Readers take `1` as an integer of any size and `1.0` as a 64-bit float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// Its value, exactly.
    pub exact: Decimal,
    /// Written with a point or an exponent.
    pub is_float: bool,
}

impl Number {
    /// Reads a number of JSON.
    ///
    /// # Errors
    /// A sentence when it has more digits than can be used.
    pub fn parse(text: &str) -> Result<Number, String> {
        let too_long = || format!("the number {:.40} has too many digits", text);
        let negative = text.starts_with('-');
        let (mantissa, exponent) = match text.trim_start_matches('-').split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().map_err(|_| too_long())?),
            None => (text.trim_start_matches('-'), 0),
        };
        let (whole, places) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{places}");
        let is_float = text.contains(['.', 'e', 'E']);
        if digits.bytes().all(|d| d == b'0') {
            return Ok(Number { exact: Decimal::new(false, "", ""), is_float });
        }
        let point = whole.len() as i64 + exponent;
        let limit = (MAX_DIGITS + MAX_PLACES) as i64;
        if point < -limit || point > digits.len() as i64 + limit {
            return Err(too_long());
        }
        let exact = if point <= 0 {
            Decimal::new(negative, "", &format!("{}{digits}", "0".repeat(-point as usize)))
        } else {
            let point = point as usize;
            let digits = format!("{digits:0<point$}");
            Decimal::new(negative, &digits[..point], &digits[point..])
        };
        if exact.whole.len() > MAX_DIGITS || exact.places.len() > MAX_PLACES {
            return Err(too_long());
        }
        Ok(Number { exact, is_float })
    }

    /// A whole number in this program.
    pub fn whole(value: i128) -> Number {
        Number { exact: Decimal::new(value < 0, &value.unsigned_abs().to_string(), ""), is_float: false }
    }

    /// What a reader with 64-bit floats makes of it: a float if it is written as one, else the integer.
    pub fn as_read(&self) -> Decimal {
        if self.is_float { Decimal::of(self.exact.nearest()) } else { self.exact.clone() }
    }

    pub fn count(&self) -> Option<usize> {
        (self.exact.is_whole() && !self.exact.negative).then(|| self.exact.whole.parse().ok())?
    }
}

/// A limit for numbers written with a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub at: Decimal,
    pub inclusive: bool,
}

/// The lowest numbers written with a point that are above a bound, both exactly and when a reader has rounded them to
/// 64-bit floats. None if there are none. The mirror image of an upper bound is a lower bound with the sign turned.
///
/// A reader sees a number only as its nearest float, so `2.2500000000000000001` is not above an exclusive 2.25: the
/// limit is the middle between 2.25 and the next float. With `widen`, numbers count that are above it either way.
pub fn float_limit(bound: &Number, inclusive: bool, widen: bool) -> Option<Limit> {
    let exact = Limit { at: bound.exact.clone(), inclusive };
    let read = bound.as_read();
    if read.is_zero() && !inclusive {
        // Nearer to 0 than `numbers::NEAREST` there is nothing.
        return Some(exact);
    }
    // The first float that passes as it is read.
    let mut first = read.nearest();
    while first.is_finite() && (Decimal::of(first) < read || (!inclusive && Decimal::of(first) == read)) {
        first = first.next_up();
    }
    let below = first.next_down();
    if !first.is_finite() || !below.is_finite() {
        return widen.then_some(exact);
    }
    let (above, below) = (Decimal::of(first), Decimal::of(below));
    let rounded = Limit { at: above.middle(&below), inclusive: false };
    let exact_is_higher = (&exact.at, !exact.inclusive) >= (&rounded.at, !rounded.inclusive);
    Some(if exact_is_higher != widen { exact } else { rounded })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    fn shown(d: &Decimal) -> String {
        format!("{}{}.{}", if d.negative { "-" } else { "" }, d.whole, d.places)
    }

    #[test]
    fn numbers_are_read_exactly() {
        for (text, want) in [
            ("0", "0."),
            ("-0.0", "0."),
            ("1.50", "1.5"),
            ("-12e3", "-12000."),
            ("1.25e1", "12.5"),
            ("1.25E+1", "12.5"),
            ("125e-2", "1.25"),
            ("5e-3", "0.005"),
            ("18446744073709551616", "18446744073709551616."),
            ("0e999999", "0."),
        ] {
            assert_eq!(shown(&number(text).exact), want, "{text}");
        }
        for text in ["1e400", "1e99999999999999999999", "1e-5000"] {
            assert!(Number::parse(text).unwrap_err().contains("digits"), "{text}");
        }
        assert_eq!(number("3").count(), Some(3));
        assert_eq!(number("3.0").count(), Some(3));
        assert_eq!(number("-3").count(), None);
        assert_eq!(number("3.5").count(), None);
    }

    #[test]
    fn decimals_compare_and_round() {
        let sorted = ["-10", "-9.5", "-9", "0", "0.05", "0.5", "0.51", "1", "9", "10"].map(|t| number(t).exact);
        assert!(sorted.windows(2).all(|w| w[0] < w[1]));
        for (text, ceil) in [("1.5", "2."), ("-1.5", "-1."), ("-0.5", "0."), ("7", "7.")] {
            assert_eq!(shown(&number(text).exact.ceil()), ceil);
        }
        assert_eq!(shown(&number("999").exact.plus_one()), "1000.");
        assert_eq!(shown(&number("0").exact.minus_one()), "-1.");
        assert_eq!(shown(&number("1000").exact.minus_one()), "999.");
        assert_eq!(shown(&number("1.5").exact.middle(&number("2").exact)), "1.75");
        assert_eq!(Decimal::of(0.1).nearest(), 0.1);
        assert!(shown(&Decimal::of(0.1)).starts_with("0.1000000000000000055"));
    }

    #[test]
    fn limits_are_where_floats_change() {
        // An inclusive bound is itself; an exclusive one is the middle to the next float.
        assert_eq!(
            float_limit(&number("0.1"), true, false).unwrap(),
            Limit { at: number("0.1").exact, inclusive: true }
        );
        let above = float_limit(&number("2.25"), false, false).unwrap();
        assert_eq!(above.at, Decimal::of(2.25).middle(&Decimal::of(2.25f64.next_up())));
        assert!(!above.inclusive);
        // 9007199254740993 is no float: what is written with a point rounds to one beside it.
        let odd = float_limit(&number("9007199254740993"), true, false).unwrap();
        assert_eq!((shown(&odd.at), odd.inclusive), ("9007199254740993.".into(), false));
        assert!(float_limit(&number("9007199254740993"), true, true).unwrap().inclusive);
    }
}
