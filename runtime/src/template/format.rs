//! Python's two ways of putting values into a text: `"%s" % x` and `"{}".format(x)`.

use super::access;
use super::calls::Args;
use super::error::{Outcome, type_error, value_error};
use super::limits::pay;
use super::value::{Kind, escaped, float_text, kind, repr, same_markup, text, type_name};
use minijinja::Value;

/// How a value is to be written: `[[fill]align][sign][#][0][width][,][.precision][type]`.
#[derive(Clone, Debug, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `of % with`.
pub(super) fn percent(of: &Value, with: &Value) -> Outcome<Value> {
    let format = text(of)?;
    let (tuple, dict) = (with.is_tuple(), matches!(kind(with), Kind::Dict));
    let values = if tuple { access::items(with)? } else { vec![with.clone()] };
    let (mut values, mut used_dict) = (values.into_iter(), false);
    let mut out = String::new();
    let mut rest = format.as_str();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let mut chars = rest[at + 1..].chars().peekable();
        let mut named = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let name: String = chars.by_ref().take_while(|&c| c != ')').collect();
            if !dict {
                return type_error("format requires a mapping");
            }
            used_dict = true;
            named = Some(access::item(with, &Value::from(name))?);
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '#' => spec.alternate = true,
                _ => spec.zero = true,
            }
        }
        let mut number = |chars: &mut std::iter::Peekable<std::str::Chars>| -> Outcome<Option<usize>> {
            if chars.next_if_eq(&'*').is_some() {
                let Some(value) = values.next() else { return type_error("not enough arguments for format string") };
                return Ok(usize::try_from(super::value::index(&value)?).ok());
            }
            let mut found = None;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                let digit = digit.to_digit(10).unwrap_or(0) as usize;
                found = Some(found.unwrap_or(0usize).saturating_mul(10).saturating_add(digit));
            }
            Ok(found)
        };
        spec.width = number(&mut chars)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut chars)?.unwrap_or(0));
        }
        chars.next_if(|c| "hlL".contains(*c));
        let Some(conversion) = chars.next() else { return value_error("incomplete format") };
        rest = &rest[rest.len() - chars.map(char::len_utf8).sum::<usize>()..];
        if conversion == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = named.or_else(|| values.next()) else {
            return type_error("not enough arguments for format string");
        };
        spec.align = spec.align.or(Some(if spec.zero && conversion != 's' { '=' } else { '>' }));
        spec.fill = Some(if spec.align == Some('=') { '0' } else { ' ' });
        pay(spec.width.saturating_add(spec.precision.unwrap_or(0)))?;
        out.push_str(&match conversion {
            's' | 'r' | 'a' => {
                let shown = match conversion {
                    's' if of.is_safe() => escaped(&value)?,
                    's' => text(&value)?,
                    _ => repr(&value)?,
                };
                write_str(&shown, &spec)?
            }
            'd' | 'i' | 'u' => match kind(&value) {
                Kind::Float(x) => write_int(x.trunc() as i128, &Spec { kind: Some('d'), ..spec })?,
                Kind::Int(i) => write_int(i, &Spec { kind: Some('d'), ..spec })?,
                Kind::Bool(yes) => write_int(yes.into(), &Spec { kind: Some('d'), ..spec })?,
                Kind::Undefined => return super::access::undefined(&value),
                _ => {
                    let found = type_name(&value);
                    return type_error(format!("%{conversion} format: a real number is required, not {found}"));
                }
            },
            'x' | 'X' | 'o' => match kind(&value) {
                Kind::Int(i) => write_int(i, &Spec { kind: Some(conversion), ..spec })?,
                _ => {
                    let found = type_name(&value);
                    return type_error(format!("%{conversion} format: an integer is required, not {found}"));
                }
            },
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match real(&value) {
                Some(x) => write_float(x, &Spec { kind: Some(conversion), ..spec })?,
                None => return type_error(format!("must be real number, not {}", type_name(&value))),
            },
            'c' => match kind(&value) {
                Kind::Int(i) => match u32::try_from(i).ok().and_then(char::from_u32) {
                    Some(c) => write_str(&c.to_string(), &spec)?,
                    None => return value_error("%c arg not in range(0x110000)"),
                },
                _ => write_str(&text(&value)?, &spec)?,
            },
            other => return value_error(format!("unsupported format character '{other}' ({:#x})", other as u32)),
        });
    }
    out.push_str(rest);
    if values.next().is_some() && !used_dict && (tuple || !dict) {
        return type_error("not all arguments converted during string formatting");
    }
    pay(out.len())?;
    Ok(same_markup(of, out))
}

/// `of.format(...)`.
pub(super) fn braces(of: &Value, format: &str, args: &Args) -> Outcome<Value> {
    let mut next = 0;
    let out = fill(format, args, &mut next, of.is_safe(), 2)?;
    Ok(same_markup(of, out))
}

fn fill(format: &str, args: &Args, next: &mut usize, markup: bool, depth: usize) -> Outcome<String> {
    if depth == 0 {
        return value_error("Max string recursion exceeded");
    }
    let (mut out, mut rest) = (String::new(), format);
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let mark = &rest[at..=at];
        rest = &rest[at + 1..];
        if rest.starts_with(mark) {
            out.push_str(mark);
            rest = &rest[1..];
            continue;
        }
        if mark == "}" {
            return value_error("Single '}' encountered in format string");
        }
        let mut open = 1;
        let end = rest.char_indices().find(|(_, c)| {
            open += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            open == 0
        });
        let Some((end, _)) = end else { return value_error("expected '}' before end of string") };
        let (field, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (field, conversion) = field.split_once('!').map_or((field, ""), |(f, c)| (f, c));
        let first = field.find(['.', '[']).unwrap_or(field.len());
        let (name, mut path) = field.split_at(first);
        let mut value = if name.is_empty() {
            *next += 1;
            place(args, *next - 1)?
        } else if let Ok(number) = name.parse() {
            place(args, number)?
        } else {
            match args.named(name) {
                Some(value) => value.clone(),
                None => return super::error::raise("KeyError", repr(&Value::from(name))?),
            }
        };
        while !path.is_empty() {
            if let Some(inner) = path.strip_prefix('[') {
                let Some((key, tail)) = inner.split_once(']') else {
                    return value_error("Missing ']' in format string");
                };
                let key = key.parse::<u32>().map_or_else(|_| Value::from(key), Value::from);
                value = access::item(&value, &key)?;
                path = tail;
            } else {
                let inner = &path[1..];
                let end = inner.find(['.', '[']).unwrap_or(inner.len());
                value = access::attribute(&value, &inner[..end])?;
                path = &inner[end..];
            }
        }
        let spec = fill(spec, args, next, false, depth - 1)?;
        value = match conversion {
            "" => value,
            "s" => Value::from(text(&value)?),
            "r" | "a" => Value::from(repr(&value)?),
            other => return value_error(format!("Unknown conversion specifier {other}")),
        };
        let shown = write(&value, &parse_spec(&spec)?)?;
        out.push_str(&if markup && !value.is_safe() { super::value::escape(&shown) } else { shown });
        pay(out.len())?;
    }
    out.push_str(rest);
    Ok(out)
}

fn place(args: &Args, number: usize) -> Outcome<Value> {
    match args.places.get(number) {
        Some(value) => Ok(value.clone()),
        None => super::error::raise(
            "IndexError",
            format!("Replacement index {number} out of range for positional args tuple"),
        ),
    }
}

fn parse_spec(spec: &str) -> Outcome<Spec> {
    let mut out = Spec::default();
    let all: Vec<char> = spec.chars().collect();
    let is_align = |c: Option<&char>| c.copied().filter(|c| "<>=^".contains(*c));
    let mut at = 0;
    if let Some(align) = is_align(all.get(1)) {
        (out.fill, out.align, at) = (Some(all[0]), Some(align), 2);
    } else if let Some(align) = is_align(all.first()) {
        (out.align, at) = (Some(align), 1);
    }
    let mut rest = all[at..].iter().copied().peekable();
    out.sign = rest.next_if(|c| "+- ".contains(*c));
    out.alternate = rest.next_if_eq(&'#').is_some();
    out.zero = rest.next_if_eq(&'0').is_some();
    let number = |rest: &mut std::iter::Peekable<std::iter::Copied<std::slice::Iter<char>>>| {
        let mut found = None;
        while let Some(digit) = rest.next_if(char::is_ascii_digit) {
            let digit = digit.to_digit(10).unwrap_or(0) as usize;
            found = Some(found.unwrap_or(0usize).saturating_mul(10).saturating_add(digit));
        }
        found
    };
    out.width = number(&mut rest).unwrap_or(0);
    out.group = rest.next_if(|c| ",_".contains(*c));
    if rest.next_if_eq(&'.').is_some() {
        out.precision = number(&mut rest);
        if out.precision.is_none() {
            return value_error("Format specifier missing precision");
        }
    }
    out.kind = rest.next();
    if rest.next().is_some() {
        return value_error(format!("Invalid format specifier '{spec}'"));
    }
    pay(out.width.saturating_add(out.precision.unwrap_or(0)))?;
    Ok(out)
}

fn real(value: &Value) -> Option<f64> {
    match kind(value) {
        Kind::Float(x) => Some(x),
        Kind::Int(i) => Some(i as f64),
        Kind::Bool(yes) => Some(f64::from(u8::from(yes))),
        _ => None,
    }
}

fn write(value: &Value, spec: &Spec) -> Outcome<String> {
    let unknown = || {
        let code = spec.kind.unwrap_or(' ');
        value_error(format!("Unknown format code '{code}' for object of type '{}'", type_name(value)))
    };
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
        (Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Bool(_), _) => unknown(),
        _ if spec.kind.is_none() && spec.width == 0 && spec.precision.is_none() => text(value),
        _ => type_error(format!("unsupported format string passed to {}.__format__", type_name(value))),
    }
}

fn write_str(s: &str, spec: &Spec) -> Outcome<String> {
    let shown: String = s.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
    aligned("", &shown, spec, '<')
}

fn write_int(i: i128, spec: &Spec) -> Outcome<String> {
    let magnitude = i.unsigned_abs();
    let (prefix, digits) = match spec.kind {
        Some('x') => ("0x", format!("{magnitude:x}")),
        Some('X') => ("0X", format!("{magnitude:X}")),
        Some('o') => ("0o", format!("{magnitude:o}")),
        Some('b') => ("0b", format!("{magnitude:b}")),
        _ => ("", magnitude.to_string()),
    };
    let digits = "0".repeat(spec.precision.unwrap_or(0).saturating_sub(digits.len())) + &digits;
    let sign = sign_of(i < 0, spec);
    aligned(&(sign.to_string() + if spec.alternate { prefix } else { "" }), &grouped(&digits, spec), spec, '>')
}

fn sign_of(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    }
}

fn grouped(digits: &str, spec: &Spec) -> String {
    let Some(mark) = spec.group else { return digits.to_string() };
    let whole = digits.find(['.', 'e']).unwrap_or(digits.len());
    let every = if matches!(spec.kind, Some('x' | 'X' | 'o' | 'b')) { 4 } else { 3 };
    let mut out = String::new();
    for (at, c) in digits[..whole].chars().enumerate() {
        if at > 0 && (whole - at).is_multiple_of(every) {
            out.push(mark);
        }
        out.push(c);
    }
    out + &digits[whole..]
}

fn write_float(x: f64, spec: &Spec) -> Outcome<String> {
    let magnitude = x.abs();
    let precision = spec.precision.unwrap_or(6);
    let digits = match spec.kind {
        _ if x.is_nan() => "nan".to_string(),
        _ if x.is_infinite() => "inf".to_string(),
        None if spec.precision.is_none() => float_text(magnitude),
        Some('f' | 'F') => fixed(magnitude, precision),
        Some('%') => fixed(magnitude * 100.0, precision) + "%",
        Some('e' | 'E') => exponent(&scientific(magnitude, precision)),
        _ => general(magnitude, precision.max(1), spec),
    };
    let digits = if spec.kind.is_some_and(|c| c.is_ascii_uppercase()) { digits.to_uppercase() } else { digits };
    aligned(sign_of(x.is_sign_negative() && !x.is_nan(), spec), &grouped(&digits, spec), spec, '>')
}

/// The most digits that a double has behind its point, exactly written: those of the smallest one. Rust's formatting takes no
/// more than 65535; what follows are zeros.
const EXACT: usize = 1074;

/// So many digits behind the point.
fn fixed(x: f64, precision: usize) -> String {
    format!("{x:.*}", precision.min(EXACT)) + &"0".repeat(precision.saturating_sub(EXACT))
}

/// The same with one digit before the point and a power, `1.50e5`.
fn scientific(x: f64, precision: usize) -> String {
    let text = format!("{x:.*e}", precision.min(EXACT));
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{digits}{}e{power}", "0".repeat(precision.saturating_sub(EXACT)))
}

/// Rust's `1e5` as Python's `1e+05`.
fn exponent(text: &str) -> String {
    let (digits, power) = text.split_once('e').unwrap_or((text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

/// `%g`: significant digits, no zeros behind the point.
fn general(x: f64, precision: usize, spec: &Spec) -> String {
    let scientific = scientific(x, precision - 1);
    let power: i32 = scientific.split_once('e').map_or(0, |(_, power)| power.parse().unwrap_or(0));
    let last = if spec.kind.is_none() { precision as i32 - 1 } else { precision as i32 };
    let trim = |digits: &str| match digits.contains('.') && !spec.alternate {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => digits.to_string(),
    };
    if power < -4 || power >= last.max(1) {
        let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        return exponent(&format!("{}e{power}", trim(digits)));
    }
    let plain = trim(&fixed(x, usize::try_from(precision as i32 - 1 - power).unwrap_or(0)));
    // Without a type a float stays one to the eye.
    if spec.kind.is_none() && !plain.contains('.') { plain + ".0" } else { plain }
}

fn aligned(sign: &str, digits: &str, spec: &Spec, default: char) -> Outcome<String> {
    let missing = spec.width.saturating_sub(sign.chars().count() + digits.chars().count());
    let (fill, align) = match (spec.align, spec.zero) {
        (Some(align), _) => (spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' }), align),
        (None, true) => ('0', if default == '>' { '=' } else { '<' }),
        (None, false) => (' ', default),
    };
    let pad = |n: usize| fill.to_string().repeat(n);
    Ok(match align {
        '<' => format!("{sign}{digits}{}", pad(missing)),
        '^' => format!("{}{sign}{digits}{}", pad(missing / 2), pad(missing - missing / 2)),
        '=' => format!("{sign}{}{digits}", pad(missing)),
        _ => format!("{}{sign}{digits}", pad(missing)),
    })
}
