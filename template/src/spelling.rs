//! Rewrites a template's text for the engine: line ends, the `generation` tag, and escapes in strings.

/// Where the scan is.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Text,
    /// Between `{%` or `{{` and its end.
    Code(&'static str),
}

/// The same template with line ends as `\n`, `generation` as a scope of its own, and in strings only those escapes that
/// the engine reads as Python does.
pub(crate) fn respell_template(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut at) = (source.as_str(), At::Text);
    while let Some(c) = rest.chars().next() {
        let mut take = c.len_utf8();
        match at {
            At::Text if rest.starts_with("{#") => take = rest.find("#}").map_or(rest.len(), |end| end + 2),
            At::Text if rest.starts_with("{{") => (at, take) = (At::Code("}}"), 2),
            At::Text if rest.starts_with("{%") => match tag(rest) {
                Some(("raw", _)) => take = end_of_raw(rest),
                Some((word @ ("generation" | "endgeneration"), after)) => {
                    out.push_str(&rest[..after - word.len()]);
                    out.push_str(if word == "generation" { "with" } else { "endwith" });
                    rest = &rest[after..];
                    at = At::Code("%}");
                    continue;
                }
                _ => (at, take) = (At::Code("%}"), 2),
            },
            At::Text => take = rest.find("{").filter(|&n| n > 0).unwrap_or(if c == '{' { 1 } else { rest.len() }),
            At::Code(end) if rest.starts_with(end) => (at, take) = (At::Text, 2),
            At::Code(_) if c == '"' || c == '\'' => {
                take = string_length(rest, c);
                let literal = &rest[..take];
                if literal.contains('\\') && literal.len() > 1 && literal.ends_with(c) {
                    out.push(c);
                    respell_literal(&literal[1..take - 1], &mut out);
                    out.push(c);
                    rest = &rest[take..];
                    continue;
                }
            }
            // Balanced, for `{{ {'a': {}} }}`: this is how the engine finds the end of code.
            At::Code("}}") if c == '{' => {
                take = braces(rest);
                let inner = spell_code(&rest[..take]);
                out.push_str(&inner);
                rest = &rest[take..];
                continue;
            }
            At::Code(_) => {}
        }
        out.push_str(&rest[..take]);
        rest = &rest[take..];
    }
    out
}

/// Code within braces of its own: only its strings are respelled.
fn spell_code(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let take = if c == '"' || c == '\'' { string_length(rest, c) } else { c.len_utf8() };
        let literal = &rest[..take];
        if take > 1 && literal.contains('\\') && literal.ends_with(c) {
            out.push(c);
            respell_literal(&literal[1..take - 1], &mut out);
            out.push(c);
        } else {
            out.push_str(literal);
        }
        rest = &rest[take..];
    }
    out
}

/// The length of the text from a `{` to its `}`, both included.
fn braces(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' | '\'' => {
                at += string_length(&text[at..], c);
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            break;
        }
    }
    at
}

/// The first word of a tag, and where it ends.
fn tag(text: &str) -> Option<(&str, usize)> {
    let inner = text[2..].trim_start_matches(['-', '+']).trim_start();
    let start = text.len() - inner.len();
    let length = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inner.len());
    (length > 0).then(|| (&inner[..length], start + length))
}

/// Where a raw block ends, including its last tag.
fn end_of_raw(text: &str) -> usize {
    let mut at = 2;
    while let Some(next) = text[at..].find("{%") {
        at += next;
        if let Some(("endraw", after)) = tag(&text[at..]) {
            return text[at + after..].find("%}").map_or(text.len(), |end| at + after + end + 2);
        }
        at += 2;
    }
    text.len()
}

/// The length of the string literal that begins here, or of the whole rest if it does not end.
fn string_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A literal's inside with Python's escapes resolved, and only the necessary ones written again.
fn respell_literal(inside: &str, out: &mut String) {
    let mut chars = inside.chars();
    let mut put = |c: char| match c {
        '\\' => out.push_str("\\\\"),
        '"' => out.push_str("\\\""),
        '\'' => out.push_str("\\'"),
        _ => out.push(c),
    };
    while let Some(c) = chars.next() {
        if c != '\\' {
            put(c);
            continue;
        }
        let rest = chars.as_str();
        let hex = |digits: usize| {
            let text = rest.get(1..1 + digits).filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u32::from_str_radix(text, 16).ok().map(|code| (code, digits))
        };
        let Some(next) = chars.next() else { break };
        match next {
            '\n' => {}
            '\\' | '\'' | '"' => put(next),
            'a' => put('\x07'),
            'b' => put('\x08'),
            'f' => put('\x0c'),
            'n' => put('\n'),
            'r' => put('\r'),
            't' => put('\t'),
            'v' => put('\x0b'),
            '0'..='7' => {
                let digits = rest.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                put(u32::from_str_radix(&rest[..digits], 8).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'));
                chars = rest[digits..].chars();
            }
            'x' | 'u' | 'U' => match hex(match next {
                'x' => 2,
                'u' => 4,
                _ => 8,
            }) {
                Some((high @ 0xd800..0xdc00, 4)) if rest[5..].starts_with("\\u") => {
                    let low = rest.get(7..11).and_then(|t| u32::from_str_radix(t, 16).ok()).unwrap_or(0);
                    let pair = char::decode_utf16([high as u16, low as u16]).next();
                    put(pair.and_then(Result::ok).unwrap_or('\u{fffd}'));
                    chars = rest.get(11..).unwrap_or_default().chars();
                }
                Some((code, digits)) => {
                    put(char::from_u32(code).unwrap_or('\u{fffd}'));
                    chars = rest[1 + digits..].chars();
                }
                // Left as it is: the engine reports what is wrong with it.
                None => {
                    out.push('\\');
                    out.push(next);
                    return out.push_str(chars.as_str());
                }
            },
            other => {
                put('\\');
                put(other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::respell_template;

    #[test]
    fn only_what_differs_is_spelt_anew() {
        let same = [
            "a {{ b }} {% if c %}d{% endif %}",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{% endraw %}",
            "{",
        ];
        for text in same {
            assert_eq!(respell_template(text), text);
        }
        assert_eq!(respell_template("{%- generation -%}x{% endgeneration %}"), "{%- with -%}x{% endwith %}");
        assert_eq!(respell_template("{{ '{% generation %}' }}"), "{{ '{% generation %}' }}");
        assert_eq!(respell_template("a\r\nb\rc"), "a\nb\nc");
        assert_eq!(respell_template(r#"{{ "\/\d\x41\u00e9\U0001F600\101\"" }}"#), "{{ \"\\\\/\\\\dAé😀A\\\"\" }}");
        assert_eq!(respell_template(r#"{{ {'a': '\/}}', 'b': {}} }}\/"#), r#"{{ {'a': '\\/}}', 'b': {}} }}\/"#);
        assert_eq!(respell_template(r#"{{ "\ud83d\ude00" }}"#), "{{ \"😀\" }}");
        assert_eq!(respell_template(r#"{{ "\xg" }}"#), r#"{{ "\xg" }}"#);
    }

    #[test]
    fn what_does_not_end_is_kept() {
        for text in ["{{ 'a", "{% raw %} {{", "{# x", "{% generation", "{{ {", "{{ '\\", "{{ '\\u12", "{{ { '"] {
            assert!(!respell_template(text).is_empty());
        }
    }
}
