//! How one value is written: `[[fill]align][sign][#][0][width][,][.precision][type]`.

use crate::error::{Outcome, type_error, value_error};
use crate::grow::room;
use crate::limits::pay;
use crate::value::{Kind, float_text, kind, text, type_name};
use minijinja::Value;
use minijinja::formatting::{FormatStyle, format as engine_format};

/// The parts of a format.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spec {
    pub fill: Option<char>,
    /// `<`, `>`, `^`, or `=`: fill between the sign and the digits.
    pub align: Option<char>,
    pub sign: Option<char>,
    pub alternate: bool,
    pub zero: bool,
    /// In characters.
    pub width: usize,
    pub group: Option<char>,
    pub precision: Option<usize>,
    pub kind: Option<char>,
}

impl Spec {
    /// Reads the format behind the colon of a field.
    pub fn parse(source: &str) -> Outcome<Spec> {
        let mut out = Spec::default();
        let mut chars = source.chars().peekable();
        let is_align = |c: &char| "<>=^".contains(*c);
        if let Some(align) = source.chars().nth(1).filter(is_align) {
            out.fill = chars.next();
            chars.next();
            out.align = Some(align);
        } else {
            out.align = chars.next_if(is_align);
        }
        out.sign = chars.next_if(|c| "+- ".contains(*c));
        out.alternate = chars.next_if_eq(&'#').is_some();
        out.zero = chars.next_if_eq(&'0').is_some();
        let number = |chars: &mut std::iter::Peekable<std::str::Chars>| {
            let mut number = None;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                let digit = digit.to_digit(10).unwrap_or(0) as usize;
                number = Some(number.unwrap_or(0usize).saturating_mul(10).saturating_add(digit));
            }
            number
        };
        out.width = number(&mut chars).unwrap_or(0);
        out.group = chars.next_if(|c| ",_".contains(*c));
        if chars.next_if_eq(&'.').is_some() {
            out.precision = number(&mut chars);
            if out.precision.is_none() {
                return value_error("Format specifier missing precision");
            }
        }
        out.kind = chars.next();
        if chars.next().is_some() {
            return value_error(format!("Invalid format specifier '{source}'"));
        }
        out.pay()?;
        Ok(out)
    }

    /// Pays for what fills a value up to its width and precision: characters of up to four bytes, in some copies.
    pub fn pay(&self) -> Outcome<()> {
        let bytes = self.width.saturating_add(self.precision.unwrap_or(0)).saturating_mul(8);
        pay(bytes)?;
        room(bytes.saturating_mul(2))
    }
}

/// A value as a float, if it is a number.
pub(super) fn real(value: &Value) -> Option<f64> {
    match kind(value) {
        Kind::Float(x) => Some(x),
        Kind::Int(i) => Some(i as f64),
        Kind::Bool(yes) => Some(f64::from(u8::from(yes))),
        _ => None,
    }
}

/// A value as `str.format` writes it.
pub(super) fn write(value: &Value, spec: &Spec) -> Outcome<String> {
    match (kind(value), spec.kind) {
        (Kind::Str(s), None | Some('s')) => write_str(s, spec),
        (Kind::Bool(_), None) => write_str(&text(value)?, spec),
        (Kind::Int(i), None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b')) => write_int(i, spec),
        (Kind::Bool(yes), Some('d' | 'n' | 'x' | 'X' | 'o' | 'b')) => write_int(yes.into(), spec),
        (Kind::Int(i), Some('c')) => match u32::try_from(i).ok().and_then(char::from_u32) {
            Some(c) => write_str(&c.to_string(), spec),
            None => value_error("%c arg not in range(0x110000)"),
        },
        (Kind::Float(_), None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%'))
        | (Kind::Int(_) | Kind::Bool(_), Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
            write_float(real(value).unwrap_or(f64::NAN), spec)
        }
        (Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Bool(_), code) => value_error(format!(
            "Unknown format code '{}' for object of type '{}'",
            code.unwrap_or(' '),
            type_name(value)
        )),
        _ if spec.kind.is_none() && spec.width == 0 && spec.precision.is_none() => text(value),
        _ => type_error(format!("unsupported format string passed to {}.__format__", type_name(value))),
    }
}

/// A text, cut to the precision.
pub(super) fn write_str(s: &str, spec: &Spec) -> Outcome<String> {
    // The text is copied twice, and grows by doubling.
    pay(s.len().saturating_mul(2))?;
    room(s.len().saturating_mul(6))?;
    let shown: String = s.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
    Ok(aligned("", &shown, spec, '<'))
}

/// A whole number with at least as many digits as the precision says.
pub(super) fn write_int(i: i128, spec: &Spec) -> Outcome<String> {
    let kind = spec.kind.filter(|c| "xXob".contains(*c));
    let prefix = match kind.filter(|_| spec.alternate) {
        Some('x') => "0x",
        Some('X') => "0X",
        Some('o') => "0o",
        Some(_) => "0b",
        None => "",
    };
    if let (Some(code), Some(',')) = (kind, spec.group) {
        return value_error(format!("Cannot specify ',' with '{code}'."));
    }
    let head = sign(i < 0, spec).to_string() + prefix;
    let digits = digits(Value::from(i.unsigned_abs()), spec, head.len(), None, kind.unwrap_or('d'))?;
    let zeros = "0".repeat(spec.precision.unwrap_or(0).saturating_sub(digits.len()));
    Ok(aligned(&head, &(zeros + &digits), spec, '>'))
}

/// A float. It has as many digits behind the point as the precision says, else six.
pub(super) fn write_float(x: f64, spec: &Spec) -> Outcome<String> {
    let code = spec.kind.filter(|&code| code != 'n').unwrap_or('g');
    let (percent, precision) = (code == '%', spec.precision.unwrap_or(6));
    let magnitude = if percent { x.abs() * 100.0 } else { x.abs() };
    let head = sign(x.is_sign_negative() && !x.is_nan(), spec);
    let taken = head.len() + usize::from(percent);
    let shown = match code.to_ascii_lowercase() {
        _ if !magnitude.is_finite() => digits(Value::from(magnitude), spec, taken, None, 'f')?,
        'f' | '%' => float_digits(magnitude, spec, taken, precision, 'f')?,
        'e' => float_digits(magnitude, spec, taken, precision, 'e')?,
        _ if spec.kind.is_none() && spec.precision.is_none() => float_text(magnitude),
        _ => general(magnitude, precision.max(1), spec)?,
    };
    let shown = if code.is_ascii_uppercase() { shown.to_uppercase() } else { shown };
    Ok(aligned(head, &(shown + if percent { "%" } else { "" }), spec, '>'))
}

/// `%g`: significant digits, no trailing zeros behind the point. Without a type, a float keeps its point, as in `10.0`.
/// The engine has another bound for the exponent than Python, and writes 0 without a point.
fn general(x: f64, precision: usize, spec: &Spec) -> Outcome<String> {
    let trim = |digits: &str| match digits.contains('.') && !spec.alternate {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => digits.to_string(),
    };
    let plain = Spec { group: spec.group, alternate: spec.alternate, ..Spec::default() };
    let scientific = float_digits(x, &plain, 0, precision - 1, 'e')?;
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    let last = if spec.kind.is_none() { precision as i32 - 1 } else { precision as i32 };
    if power < -4 || power >= last.max(1) {
        return Ok(format!("{}e{exponent}", trim(digits)));
    }
    let fraction = usize::try_from(precision as i32 - 1 - power).unwrap_or(0);
    let fixed = trim(&float_digits(x, &plain, 0, fraction, 'f')?);
    Ok(if spec.kind.is_none() && !fixed.contains('.') { fixed + ".0" } else { fixed })
}

/// The most digits behind the point of an exactly written double: those of the smallest one. Any further digits are
/// zeros. The engine panics over more than 65534 in front of an exponent.
const EXACT: usize = 1074;

/// The digits of a finite float, `precision` of them behind the point, for the types `f` and `e`.
fn float_digits(x: f64, spec: &Spec, taken: usize, precision: usize, kind: char) -> Outcome<String> {
    let zeros = precision.saturating_sub(EXACT);
    let mut shown = digits(Value::from(x), spec, taken.saturating_add(zeros), Some(precision.min(EXACT)), kind)?;
    let end = shown.find('e').unwrap_or(shown.len());
    shown.insert_str(end, &"0".repeat(zeros));
    Ok(shown)
}

/// The digits of a number that is not negative. Zeros that fill the width, of which `taken` is used already, are digits
/// too: they are grouped as well.
fn digits(value: Value, spec: &Spec, taken: usize, precision: Option<usize>, kind: char) -> Outcome<String> {
    let zeros = match spec.zero && spec.align.is_none() {
        true => format!("0{}", spec.width.saturating_sub(taken)),
        false => String::new(),
    };
    let group = spec.group.map(String::from).unwrap_or_default();
    let (alternate, fraction) = match precision {
        Some(precision) => (if spec.alternate { "#" } else { "" }, format!(".{precision}")),
        None => ("", String::new()),
    };
    engine_digits(&format!("{{:{alternate}{zeros}{group}{fraction}{kind}}}"), value)
}

fn engine_digits(pattern: &str, value: Value) -> Outcome<String> {
    engine_format(FormatStyle::StrFormat, pattern, &[value]).or_else(|e| value_error(e.detail().unwrap_or_default()))
}

/// The text of a number's sign.
fn sign(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    }
}

/// A head, such as a sign, and a body, filled up to the width.
fn aligned(head: &str, body: &str, spec: &Spec, default: char) -> String {
    let missing = spec.width.saturating_sub(head.chars().count() + body.chars().count());
    let (fill, align) = match (spec.align, spec.zero) {
        (Some(align), _) => (spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' }), align),
        (None, true) => ('0', if default == '>' { '=' } else { '<' }),
        (None, false) => (' ', default),
    };
    let pad = |n: usize| fill.to_string().repeat(n);
    match align {
        '<' => format!("{head}{body}{}", pad(missing)),
        '^' => format!("{}{head}{body}{}", pad(missing / 2), pad(missing - missing / 2)),
        '=' => format!("{head}{}{body}", pad(missing)),
        _ => format!("{}{head}{body}", pad(missing)),
    }
}
