//! `format` of strings, as patterns of ECMA 262; and of integers, as bounds.

use super::decimal::Number;
use super::numbers::Constraint;
use super::pattern;
use super::strings::Language;

/// The formats of strings that are held to, for messages.
pub const NAMES: &str = "date, time, date-time, duration, email, hostname, ipv4, ipv6, uri, uuid, json-pointer";

const IPV4: &str = r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)";
const DATE: &str = concat!(
    r"(?!0000)(?:\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))",
    // February has 29 days when the year is a multiple of 4, but not of 100, or of 400.
    r"|(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)",
);
/// Without leap seconds: which minutes have one depends on the date and the zone.
const TIME: &str = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)";
const LABEL: &str = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
const ATOM: &str = r"[a-zA-Z0-9!#$%&'*+\-/=?^_`{|}~]+";
/// A character of a path, of RFC 3986.
const PCHAR: &str = r"(?:[a-zA-Z0-9\-._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})";

/// The strings of a format; None if it is not known.
pub fn language(name: &str) -> Option<Language> {
    let host = format!(r"(?=.{{1,253}}$){LABEL}(?:\.{LABEL})*");
    let patterns = match name {
        "date" => vec![DATE.to_owned()],
        "time" => vec![TIME.to_owned()],
        "date-time" => vec![format!("{DATE}T{TIME}")],
        "duration" => vec![
            r"P(?=.)(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)?(?:T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S))?|P\d+W".into(),
        ],
        "email" => vec![format!(r"(?=[^@]{{1,64}}@)(?=.{{3,254}}$){ATOM}(?:\.{ATOM})*@{LABEL}(?:\.{LABEL})*")],
        "hostname" => vec![host],
        "ipv4" => vec![IPV4.to_owned()],
        "ipv6" => ipv6(),
        "uri" => uri(),
        "uuid" => vec!["[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".into()],
        "json-pointer" => vec![r"(?:\/(?:[^~\/]|~[01])*)*".into()],
        _ => return None,
    };
    let anchored = patterns.iter().map(|p| pattern::language(&format!("^(?:{p})$")).expect("a pattern of ours"));
    Some(Language::Or(anchored.collect()))
}

fn ipv6() -> Vec<String> {
    let (group, last) = ("[0-9a-fA-F]{1,4}", format!("(?:[0-9a-fA-F]{{1,4}}:[0-9a-fA-F]{{1,4}}|{IPV4})"));
    let mut forms = vec![format!("(?:{group}:){{6}}{last}")];
    for before in 0..=7 {
        // With "::" in it: so many groups before, and at most so many behind that one at least is left out.
        let front = if before == 0 { String::new() } else { format!("{group}(?::{group}){{{}}}", before - 1) };
        let behind = 7 - before;
        let plain = if behind == 0 { String::new() } else { format!("(?:{group}(?::{group}){{0,{}}})?", behind - 1) };
        forms.push(format!("{front}::{plain}"));
        if behind >= 2 {
            forms.push(format!("{front}::(?:{group}:){{0,{}}}{IPV4}", behind - 2));
        }
    }
    forms
}

fn uri() -> Vec<String> {
    let v6 = ipv6().join("|");
    let user = r"(?:[a-zA-Z0-9\-._~!$&'()*+,;=:]|%[0-9a-fA-F]{2})*@";
    let name = r"(?:[a-zA-Z0-9\-._~!$&'()*+,;=]|%[0-9a-fA-F]{2})*";
    let host = format!(r"(?:\[(?:{v6}|v[0-9a-fA-F]+\.[a-zA-Z0-9\-._~!$&'()*+,;=:]+)\]|{name})");
    let authority = format!(r"\/\/(?:{user})?{host}(?::\d*)?(?:\/{PCHAR}*)*");
    let path = format!(r"\/?{PCHAR}+(?:\/{PCHAR}*)*|\/?");
    let more = format!(r"(?:{PCHAR}|[\/?])*");
    vec![format!(r"[a-zA-Z][a-zA-Z0-9+.\-]*:(?:{authority}|{path})(?:\?{more})?(?:#{more})?")]
}

/// The bounds of a format of integers, as schema writers for programming languages use them.
pub fn bounds(name: &str) -> Option<[Constraint; 2]> {
    let (signed, bits) = match name {
        "int8" => (true, 8),
        "int16" => (true, 16),
        "int32" => (true, 32),
        "int64" | "int" => (true, 64),
        "uint8" => (false, 8),
        "uint16" => (false, 16),
        "uint32" => (false, 32),
        "uint64" | "uint" => (false, 64),
        _ => return None,
    };
    let (low, high) =
        if signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    Some([Constraint::AtLeast(Number::whole(low)), Constraint::AtMost(Number::whole(high))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::schema::strings;

    #[test]
    fn formats_are_those_of_their_standards() {
        for (name, yes, no) in [
            (
                "date",
                vec!["2024-02-29", "2000-02-29", "1999-12-31"],
                vec!["2023-02-29", "1900-02-29", "2024-04-31", "0000-01-01", "24-01-01"],
            ),
            ("time", vec!["23:59:59Z", "00:00:00.125+01:30"], vec!["24:00:00Z", "12:00:00", "12:60:00Z"]),
            (
                "date-time",
                vec!["2024-02-29T00:00:00Z"],
                vec!["2023-02-29T00:00:00Z", "2024-02-29 00:00:00Z", "2024-02-29"],
            ),
            ("duration", vec!["P1D", "PT5M", "P1Y2M3DT4H5M6S", "P3W"], vec!["P", "PT", "1D", "P1S", "P1W1D", "P1YT"]),
            ("email", vec!["a.b+c@example.org"], vec!["a@", "@b", "a b@c", "a..b@c"]),
            ("hostname", vec!["a", "a-b.example"], vec!["-a", "a-", "a..b", "", "a_b"]),
            ("ipv4", vec!["0.0.0.0", "255.249.199.9"], vec!["256.0.0.0", "1.2.3", "01.2.3.4"]),
            (
                "ipv6",
                vec![
                    "::",
                    "::1",
                    "1::",
                    "1:2:3:4:5:6:7:8",
                    "::ffff:1.2.3.4",
                    "1:2:3:4:5:6:7::",
                    "::2:3:4:5:6:7:8",
                    "1::8",
                ],
                vec![":", "1:2:3:4:5:6:7", "1::2::3", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "12345::"],
            ),
            (
                "uri",
                vec!["http://a.b/c?d#e", "urn:x:y", "mailto:a@b", "http://[::1]:80/", "file:///x"],
                vec!["a", "//a", "http://a b", "http://[1]/", "1a:b"],
            ),
            ("uuid", vec!["123e4567-e89b-12d3-a456-426614174000"], vec!["123e4567e89b12d3a456426614174000"]),
            ("json-pointer", vec!["", "/a~1b/~0", "/\"/\\"], vec!["a", "/~2"]),
        ] {
            let set = language(name).unwrap();
            for (texts, inside) in [(&yes, true), (&no, false)] {
                for text in texts {
                    assert_eq!(strings::contains(&set, text), Some(inside), "{name} {text:?}");
                }
            }
            assert!(NAMES.split(", ").any(|n| n == name));
        }
        let long = format!("{0}.{0}.{0}.{0}", "a".repeat(63));
        assert_eq!(strings::contains(&language("hostname").unwrap(), &long[..253]), Some(true));
        assert_eq!(strings::contains(&language("hostname").unwrap(), &long[..254]), Some(false));
        assert!(language("iri").is_none());
    }
}
