//! `"%s and %05.1f" % (a, b)`.

use super::spec::{Spec, real, write_float, write_int, write_str};
use crate::access;
use crate::error::{Outcome, type_error, value_error};
use crate::grow::Text;
use crate::value::{Kind, escaped, index, kind, repr, same_markup, text, type_name};
use minijinja::Value;

/// `format % values`.
pub(crate) fn percent(format: &Value, values: &Value) -> Outcome<Value> {
    let source = text(format)?;
    let mut operands = Operands::new(values)?;
    let (mut out, mut rest) = (Text::new(), source.as_str());
    while let Some((before, after)) = rest.split_once('%') {
        out.push(before)?;
        let mut cursor = Cursor(after);
        let named = match cursor.next_if(|c| c == '(') {
            Some(_) => Some(operands.named(cursor.until(')'))?),
            None => None,
        };
        let spec = read_spec(&mut cursor, &mut operands)?;
        let Some(conversion) = cursor.next_if(|_| true) else { return value_error("incomplete format") };
        rest = cursor.0;
        if conversion == '%' {
            out.push("%")?;
            continue;
        }
        let value = named.map_or_else(|| operands.next(), Ok)?;
        spec.pay()?;
        out.push(&convert(conversion, &value, spec, format.is_safe())?)?;
    }
    out.push(rest)?;
    operands.end()?;
    same_markup(format, out.finish())
}

/// The right side of the `%`: a tuple's items, or one value, which may be a dict.
struct Operands<'v> {
    given: &'v Value,
    left: std::vec::IntoIter<Value>,
    used_names: bool,
}

impl Operands<'_> {
    fn new(given: &Value) -> Outcome<Operands<'_>> {
        let left = if given.is_tuple() { access::items(given)? } else { vec![given.clone()] };
        Ok(Operands { given, left: left.into_iter(), used_names: false })
    }

    fn is_dict(&self) -> bool {
        matches!(kind(self.given), Kind::Dict)
    }

    fn next(&mut self) -> Outcome<Value> {
        self.left.next().map_or_else(|| type_error("not enough arguments for format string"), Ok)
    }

    fn named(&mut self, name: &str) -> Outcome<Value> {
        if !self.is_dict() {
            return type_error("format requires a mapping");
        }
        self.used_names = true;
        access::item(self.given, &Value::from(name))
    }

    /// Refuses values that were not used.
    fn end(mut self) -> Outcome<()> {
        let must_be_used = !self.used_names && (self.given.is_tuple() || !self.is_dict());
        match must_be_used && self.left.next().is_some() {
            true => type_error("not all arguments converted during string formatting"),
            false => Ok(()),
        }
    }
}

/// The text not read yet.
struct Cursor<'s>(&'s str);

impl<'s> Cursor<'s> {
    fn next_if(&mut self, wanted: impl Fn(char) -> bool) -> Option<char> {
        let first = self.0.chars().next().filter(|&c| wanted(c))?;
        self.0 = &self.0[first.len_utf8()..];
        Some(first)
    }

    /// Takes the text before `end`, and skips `end`; takes the whole text if it has no `end`.
    fn until(&mut self, end: char) -> &'s str {
        let (before, after) = self.0.split_once(end).unwrap_or((self.0, ""));
        self.0 = after;
        before
    }
}

/// `[flags][width][.precision][length]`.
fn read_spec(cursor: &mut Cursor, operands: &mut Operands) -> Outcome<Spec> {
    let mut spec = Spec::default();
    while let Some(flag) = cursor.next_if(|c| "-+ #0".contains(c)) {
        match flag {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '#' => spec.alternate = true,
            _ => spec.zero = true,
        }
    }
    spec.width = read_number(cursor, operands)?.unwrap_or(0);
    if cursor.next_if(|c| c == '.').is_some() {
        spec.precision = Some(read_number(cursor, operands)?.unwrap_or(0));
    }
    cursor.next_if(|c| "hlL".contains(c));
    Ok(spec)
}

/// A number in digits, or `*` for the next of the values.
fn read_number(cursor: &mut Cursor, operands: &mut Operands) -> Outcome<Option<usize>> {
    if cursor.next_if(|c| c == '*').is_some() {
        return Ok(usize::try_from(index(&operands.next()?)?).ok());
    }
    let mut number = None;
    while let Some(digit) = cursor.next_if(|c| c.is_ascii_digit()) {
        let digit = digit.to_digit(10).unwrap_or(0) as usize;
        number = Some(number.unwrap_or(0usize).saturating_mul(10).saturating_add(digit));
    }
    Ok(number)
}

/// Writes one value by its conversion, aligned to the right unless a flag says otherwise.
fn convert(conversion: char, value: &Value, spec: Spec, markup: bool) -> Outcome<String> {
    let in_text = || Spec { zero: false, align: spec.align.or(Some('>')), ..spec };
    let in_number = |kind| Spec {
        kind: Some(kind),
        // Zeros fill only the left of the digits.
        zero: spec.zero && spec.align.is_none(),
        ..spec
    };
    match conversion {
        's' if markup => write_str(&escaped(value)?, &in_text()),
        's' => write_str(&text(value)?, &in_text()),
        'r' | 'a' => write_str(&repr(value)?, &in_text()),
        'd' | 'i' | 'u' => match kind(value) {
            Kind::Float(x) => write_int(x.trunc() as i128, &in_number('d')),
            Kind::Int(i) => write_int(i, &in_number('d')),
            Kind::Bool(yes) => write_int(yes.into(), &in_number('d')),
            Kind::Undefined => access::undefined(value),
            _ => {
                let found = type_name(value);
                type_error(format!("%{conversion} format: a real number is required, not {found}"))
            }
        },
        'x' | 'X' | 'o' => match kind(value) {
            Kind::Int(i) => write_int(i, &in_number(conversion)),
            _ => {
                let found = type_name(value);
                type_error(format!("%{conversion} format: an integer is required, not {found}"))
            }
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match real(value) {
            Some(x) => write_float(x, &in_number(conversion)),
            None => type_error(format!("must be real number, not {}", type_name(value))),
        },
        'c' => match kind(value) {
            Kind::Int(i) => match u32::try_from(i).ok().and_then(char::from_u32) {
                Some(c) => write_str(&c.to_string(), &in_text()),
                None => value_error("%c arg not in range(0x110000)"),
            },
            _ => write_str(&text(value)?, &in_text()),
        },
        other => value_error(format!("unsupported format character '{other}' ({:#x})", other as u32)),
    }
}
