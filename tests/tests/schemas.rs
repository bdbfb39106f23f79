//! Schemas are exact: whatever their masks let through validates, and every value at a bound can come out.

use nanoserve_format::Encoding;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::generate::grammar::{Grammar, GrammarTokens};
use nanoserve_tests::schema::validate;
use nanoserve_tests::{SplitMix64, engine, fixture};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// A small vocabulary, without its model.
struct Vocabulary {
    tokens: GrammarTokens,
    bytes: Vec<Vec<u8>>,
    end: u32,
}

fn vocabulary() -> &'static Vocabulary {
    static MADE: OnceLock<Vocabulary> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = fixture("tied-llama3").convert(Encoding::Q8, folder.path());
        let engine = engine(&path, isa::available().pop().unwrap(), 1);
        let tokenizer = engine.tokenizer().unwrap();
        let size = engine.file().spec().vocab_size;
        let ends = engine.file().generation().unwrap().eos_ids;
        let tokens = GrammarTokens::new(&tokenizer, size, &ends).unwrap();
        Vocabulary { tokens, bytes: tokenizer.token_bytes(size).unwrap(), end: ends[0] }
    })
}

impl Vocabulary {
    fn grammar(&self, schema: &str) -> Grammar {
        self.tokens.json_schema(schema).unwrap_or_else(|e| panic!("{schema}: {e}"))
    }

    /// The tokens that a grammar allows next.
    fn allowed(&self, grammar: &mut Grammar) -> Vec<u32> {
        let mut logits = vec![0.0; self.bytes.len()];
        grammar.mask(&mut logits).unwrap();
        (0..).zip(&logits).filter(|(_, logit)| **logit == 0.0).map(|(id, _)| id).collect()
    }

    /// Whether the masks allow a text, byte for byte, and its end.
    fn lets_through(&self, grammar: &Grammar, text: &str) -> bool {
        let mut grammar = grammar.clone();
        for (at, byte) in text.bytes().enumerate() {
            let id = (0..).zip(&self.bytes).find(|(_, bytes)| **bytes == [byte]).expect("a token for each byte").0;
            if !self.allowed(&mut grammar).contains(&id) {
                return false;
            }
            if grammar.push(id).unwrap() {
                return at + 1 == text.len();
            }
        }
        self.allowed(&mut grammar).contains(&self.end)
    }

    /// Tokens at random out of all that are allowed, to the end; None if there is none soon.
    fn walk(&self, grammar: &Grammar, random: &mut SplitMix64) -> Option<String> {
        const LONGEST: usize = 160;
        let mut grammar = grammar.clone();
        let mut text = Vec::new();
        for _ in 0..LONGEST {
            let allowed = self.allowed(&mut grammar);
            assert!(!allowed.is_empty(), "a dead end behind {:?}", String::from_utf8_lossy(&text));
            let id = allowed[(random.next_u64() % allowed.len() as u64) as usize];
            if id == self.end {
                return Some(String::from_utf8(text).unwrap());
            }
            text.extend(&self.bytes[id as usize]);
            if grammar.push(id).unwrap() {
                return Some(String::from_utf8(text).unwrap());
            }
        }
        None
    }
}

/// Schemas at random, of everything that is supported.
struct Schemas(SplitMix64);

impl Schemas {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn bound(&mut self) -> Value {
        self.one(&[
            json!(0),
            json!(1),
            json!(-1),
            json!(7),
            json!(-40),
            json!(150),
            json!(99.5),
            json!(0.5),
            json!(-2.25),
            json!(1e3),
            json!(2147483647),
            json!(i64::MAX),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(9007199254740993u64),
            json!(0.001),
        ])
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => json!(true),
            2 | 3 => self.bound(),
            4 | 5 => self.one(&[json!("red"), json!(""), json!("a\"b\\c\n"), json!("größer 👍"), json!("\u{1}\u{7f}")]),
            6 => (0..self.below(3)).map(|_| self.value(depth - 1)).collect(),
            _ => (0..self.below(3)).map(|i| (format!("k{i}"), self.value(depth - 1))).collect(),
        }
    }

    fn schema(&mut self, depth: usize) -> Value {
        let mut all = json!({});
        let kinds = if depth == 0 { 7 } else { 13 };
        match self.below(kinds) {
            0 | 1 => {
                all["type"] = self.one(&[json!("integer"), json!("number"), json!(["integer", "null"])]);
                let low = self.one(&["minimum", "exclusiveMinimum"]);
                let high = self.one(&["maximum", "exclusiveMaximum"]);
                for key in [low, high] {
                    if self.below(3) > 0 {
                        all[key] = self.bound();
                    }
                }
                if self.below(4) == 0 {
                    // The validator sees integers of 64 bits and 12 digits behind a point.
                    (all["minimum"], all["maximum"]) = (json!(-1000), json!(1000));
                    all["multipleOf"] = self.one(&[json!(1), json!(3), json!(7), json!(0.5), json!(0.01), json!(1.25)]);
                }
            }
            2 => {
                all = json!({"type": "string", "maxLength": self.below(9)});
                if self.below(2) == 0 {
                    all["minLength"] = json!(self.below(4));
                }
            }
            3 => {
                let pattern = self.one(&[
                    "^[^\"]{0,4}$",
                    r"^\d+$",
                    r"^\w{1,5}$",
                    r"^\s?a$",
                    "^(a|b)*$",
                    "^(?=.*x)[a-z]{1,4}$",
                    "^(?!ab)[ab]{2}$",
                    "^a|^b$",
                    "^.?$",
                ]);
                all = json!({"type": "string", "pattern": pattern});
                if self.below(3) == 0 {
                    all["maxLength"] = json!(3);
                }
            }
            4 => all = json!({"type": "string", "format": self.one(&["date", "ipv4", "uuid"])}),
            5 => all = json!({"const": self.value(2)}),
            6 => all = json!({"enum": [self.value(1), self.value(2), self.value(0)]}),
            7 | 8 => {
                all = json!({"type": "array", "maxItems": self.below(4)});
                if self.below(2) == 0 {
                    all["prefixItems"] = json!([self.schema(depth - 1), self.schema(depth - 1)]);
                }
                all["items"] = if self.below(4) == 0 { json!(false) } else { self.schema(depth - 1) };
                if self.below(2) == 0 {
                    all["minItems"] = json!(self.below(3));
                }
            }
            9 | 10 => {
                all = json!({"type": "object", "properties": {"a": self.schema(depth - 1), "b\"ß": self.schema(depth - 1)}});
                all["additionalProperties"] = if self.below(2) == 0 { json!(false) } else { self.schema(0) };
                if self.below(2) == 0 {
                    all["required"] = json!(["a"]);
                }
                if self.below(3) == 0 {
                    all["patternProperties"] = json!({"^[ac]": self.schema(0), "c$": self.schema(0)});
                }
                if self.below(3) == 0 {
                    all["propertyNames"] = json!({"maxLength": 3});
                }
                if self.below(3) == 0 {
                    all["maxProperties"] = json!(self.below(3));
                    all["minProperties"] = json!(self.below(2));
                }
            }
            11 => {
                let key = self.one(&["anyOf", "oneOf", "anyOf"]);
                all = json!({key: [self.schema(depth - 1), self.schema(depth - 1), {"$ref": "#/$defs/leaf"}]});
            }
            _ => {
                all = json!({"allOf": [self.schema(depth - 1), self.one(&[json!({"minimum": -9}), json!({"maxLength": 3}),
                json!({"type": ["array", "object", "integer"]}), json!({"$ref": "#/$defs/leaf"})])]})
            }
        }
        all
    }
}

#[test]
fn whatever_comes_out_validates() {
    let vocabulary = vocabulary();
    let mut schemas = Schemas(SplitMix64::new(20));
    let (mut used, mut refused, mut ended, mut walked) = (0, 0, 0, 0);
    while used < 150 {
        let mut schema = schemas.schema(2);
        schema["$defs"] =
            json!({"leaf": {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 5, "maximum": 12}]}});
        let Ok(grammar) = vocabulary.tokens.json_schema(&schema.to_string()) else {
            refused += 1;
            continue;
        };
        used += 1;
        for _ in 0..5 {
            walked += 1;
            let Some(text) = vocabulary.walk(&grammar, &mut schemas.0) else { continue };
            ended += 1;
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{schema}: {text:?}: {e}"));
            validate(&schema, &value).unwrap_or_else(|e| panic!("{schema}: {text}: {e}"));
        }
    }
    // Some have no valid value, or two options of a oneOf that overlap.
    assert!(refused < used, "{refused} of {} refused", refused + used);
    assert!(ended * 2 > walked, "{ended} of {walked} ended");
}

/// Schemas with texts that must come out, and texts that must not.
#[test]
fn bounds_can_come_out_and_what_is_beyond_cannot() {
    let vocabulary = vocabulary();
    let cases: Vec<(&str, Vec<&str>, Vec<&str>)> = vec![
        // Numbers.
        (
            r#"{"type": "integer", "minimum": -5, "maximum": 150}"#,
            vec!["-5", "0", "150"],
            vec!["-6", "151", "1.0", "-0", "01"],
        ),
        (r#"{"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}"#, vec!["1", "9"], vec!["0", "10"]),
        (r#"{"type": "integer", "minimum": 0, "exclusiveMinimum": true}"#, vec!["1"], vec!["0"]),
        (r#"{"type": "integer", "minimum": 0.5, "maximum": 2.5}"#, vec!["1", "2"], vec!["0", "3"]),
        (
            r#"{"type": "integer", "minimum": -9223372036854775808, "maximum": 9223372036854775807}"#,
            vec!["-9223372036854775808", "9223372036854775807", "0"],
            vec!["-9223372036854775809", "9223372036854775808"],
        ),
        (
            r#"{"type": "integer", "minimum": 0, "maximum": 18446744073709551615}"#,
            vec!["0", "18446744073709551615"],
            vec!["-1", "18446744073709551616"],
        ),
        (
            r#"{"type": "integer", "minimum": 9007199254740993, "maximum": 9007199254740995}"#,
            vec!["9007199254740993", "9007199254740994", "9007199254740995"],
            vec!["9007199254740992", "9007199254740996"],
        ),
        (
            r#"{"type": "integer", "maximum": 340282366920938463463374607431768211455}"#,
            vec!["340282366920938463463374607431768211455"],
            vec!["340282366920938463463374607431768211456"],
        ),
        (r#"{"type": "integer", "format": "int32"}"#, vec!["-2147483648", "2147483647"], vec!["2147483648"]),
        (
            r#"{"type": "integer", "format": "uint64"}"#,
            vec!["18446744073709551615"],
            vec!["-1", "18446744073709551616"],
        ),
        (
            r#"{"type": "number", "minimum": 0.1, "maximum": 2.5}"#,
            vec!["0.1", "0.10", "1", "2.5", "2.50", "2"],
            vec!["0.09", "0", "2.51", "2.500001", "3"],
        ),
        (
            r#"{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}"#,
            vec!["0.001", "0.999999", "0.5"],
            vec!["0", "0.0", "1", "1.0", "0.99999999999999999999999"],
        ),
        (
            r#"{"type": "number", "minimum": -1.5e2, "maximum": -1e-2}"#,
            vec!["-150", "-150.0", "-0.01", "-1"],
            vec!["-150.01", "-151", "-0.009", "0"],
        ),
        (r#"{"type": "number"}"#, vec!["-0", "1e5", "1.5E-30", "2.25e+299"], vec!["1e999", "1.", ".5", "+1"]),
        (r#"{"type": "number", "multipleOf": 0.01}"#, vec!["0.07", "19.99", "3", "-1.1"], vec!["0.001", "0.105"]),
        (
            r#"{"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 30}"#,
            vec!["14", "21", "28"],
            vec!["7", "15", "35"],
        ),
        // Constants and lists.
        (
            r#"{"enum": [1234567890123456789, 9007199254740993, 18446744073709551616]}"#,
            vec!["1234567890123456789", "9007199254740993", "18446744073709551616"],
            vec!["1234567890123456788", "9007199254740992", "18446744073709551617"],
        ),
        (r#"{"const": 1.0}"#, vec!["1", "1.0"], vec!["1.1", "2", "true"]),
        (r#"{"const": 1, "type": "integer"}"#, vec!["1"], vec!["0"]),
        (r#"{"enum": [0.1, -0.0, 1e3]}"#, vec!["0.1", "0", "1000", "1000.0"], vec!["0.11", "100", "1"]),
        (r#"{"const": "a\"b\\c\n\u00e9/"}"#, vec![r#""a\"b\\c\né/""#], vec![r#""a""#]),
        (r#"{"const": {"a": [1, {"b": null}], "": ""}}"#, vec![r#"{"a":[1,{"b":null}],"":""}"#], vec!["{}"]),
        (r#"{"enum": [[], {}, [[1]], true]}"#, vec!["[]", "{}", "[[1]]", "true"], vec!["[1]", "false"]),
        (
            r#"{"enum": ["a", "bb", 3, null], "type": "string", "minLength": 2}"#,
            vec![r#""bb""#],
            vec![r#""a""#, "3", "null"],
        ),
        (r#"{"enum": [1, 2, 3], "minimum": 2}"#, vec!["2", "3"], vec!["1"]),
        // Strings.
        (
            r#"{"type": "string", "minLength": 2, "maxLength": 3}"#,
            vec![r#""ab""#, r#""👍👍👍""#, r#""\"\n\\""#, "\"\u{7f}\u{7f}\""],
            vec![r#""a""#, r#""👍👍👍👍""#, r#""abcd""#],
        ),
        (r#"{"type": "string", "pattern": "^[^\"]*$"}"#, vec![r#""a""#, r#""\\""#], vec![r#""\"""#]),
        (
            r#"{"type": "string", "pattern": "^\\s$"}"#,
            vec!["\"\u{feff}\"", "\"\u{a0}\"", r#""\n""#],
            vec!["\"\u{85}\"", r#""a""#],
        ),
        (r#"{"type": "string", "pattern": "b$"}"#, vec![r#""ab""#], vec![r#""b\n""#, r#""ba""#]),
        (r#"{"type": "string", "format": "date"}"#, vec![r#""2024-02-29""#], vec![r#""2023-02-29""#]),
        // Objects.
        (
            r#"{"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": {"type": "null"}}"#,
            vec!["{}", r#"{"a":1}"#, r#"{"a":1,"b":null}"#, r#"{"b": null}"#],
            vec![r#"{"a":null}"#, r#"{"\u0061":null}"#, r#"{"b":1}"#],
        ),
        (
            r#"{"type": "object", "required": ["x"], "additionalProperties": {"const": 1}}"#,
            vec![r#"{"x":1,"y":1}"#],
            vec!["{}", r#"{"y":1}"#],
        ),
        (
            r#"{"type": "object", "propertyNames": {"pattern": "^[a-c]$"}, "additionalProperties": {"const": 0}}"#,
            vec![r#"{"a":0}"#, "{}"],
            vec![r#"{"d":0}"#],
        ),
        (
            r#"{"type": "object", "patternProperties": {"^a": {"minimum": 3}, "b$": {"maximum": 5, "type": "integer"}},
            "additionalProperties": false}"#,
            vec![r#"{"ab":3}"#, r#"{"ab":5}"#, r#"{"b":-1}"#],
            vec![r#"{"ab":2}"#, r#"{"ab":6}"#, r#"{"c":1}"#],
        ),
        (
            r#"{"type": "object", "properties": {"a": true, "b": true, "c": true}, "additionalProperties": false,
            "minProperties": 2, "maxProperties": 2}"#,
            vec![r#"{"a":1,"c":1}"#, r#"{"b":0,"c":0}"#],
            vec![r#"{"a":1}"#, r#"{"a":1,"b":1,"c":1}"#, "{}"],
        ),
        (
            r#"{"type": "object", "properties": {"a": false}, "additionalProperties": {"const": 1}}"#,
            vec![r#"{"b":1}"#],
            vec![r#"{"a":1}"#],
        ),
        // Arrays.
        (
            r#"{"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 40}"#,
            vec!["[1,1]"],
            vec!["[1]", "[]"],
        ),
        (
            r#"{"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": false}"#,
            vec!["[]", "[1]", "[1,2]"],
            vec!["[2]", "[1,2,3]"],
        ),
        (
            r#"{"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}, "minItems": 1}"#,
            vec!["[1]", "[1,2,2]"],
            vec!["[]", "[1,1]"],
        ),
        // Combinations.
        (
            r#"{"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 2}]}"#,
            vec!["1", "2.5", "-7"],
            vec!["3", "2.0", "1.5"],
        ),
        (
            r#"{"oneOf": [{"type": "string", "pattern": "a"}, {"type": "string", "maxLength": 2}]}"#,
            vec![r#""bb""#, r#""bab""#],
            vec![r#""ab""#, r#""bbb""#],
        ),
        (
            r#"{"oneOf": [{"properties": {"t": {"const": "a"}}, "required": ["t"], "type": "object", "additionalProperties": false},
            {"properties": {"t": {"const": "b"}, "n": {"const": 1}}, "required": ["t"], "type": "object", "additionalProperties": false}]}"#,
            vec![r#"{"t":"a"}"#, r#"{"t":"b","n":1}"#],
            vec![r#"{"t":"a","n":1}"#],
        ),
        (
            r#"{"allOf": [{"type": "integer", "minimum": 10}, {"maximum": 20}, {"multipleOf": 5}]}"#,
            vec!["10", "15", "20"],
            vec!["5", "11", "25"],
        ),
        (r#"{"anyOf": [{"const": 1}, {"type": "null"}], "type": ["integer", "string"]}"#, vec!["1"], vec!["null", "2"]),
        (
            r##"{"$ref": "#/$defs/a%20b", "$defs": {"a b": {"type": "array", "items": {"$ref": "#/$defs/a%20b"}}}}"##,
            vec!["[]", "[[],[[]]]"],
            vec!["[1]"],
        ),
        (
            r##"{"$id": "https://e.org/s", "$ref": "other#x", "$defs": {"o": {"$id": "other", "$defs": {"x": {"$anchor": "x", "const": 5}}}}}"##,
            vec!["5"],
            vec!["4"],
        ),
        ("{}", vec!["null", "[1,{\"a\":\"b\"}]", "-0.5e3"], vec!["nul", "{a:1}"]),
    ];
    for (schema, yes, no) in cases {
        let grammar = vocabulary.grammar(schema);
        for (texts, inside) in [(yes, true), (no, false)] {
            for text in texts {
                assert_eq!(vocabulary.lets_through(&grammar, text), inside, "{schema}: {text}");
            }
        }
    }
    let long = vocabulary.grammar(r#"{"type": "array", "items": {"const": 1}, "minItems": 19, "maxItems": 40}"#);
    for n in 17..43 {
        let text = format!("[{}]", vec!["1"; n].join(","));
        assert_eq!(vocabulary.lets_through(&long, &text), (19..=40).contains(&n), "{n}");
    }
}

#[test]
fn what_cannot_be_exact_is_refused_with_its_place() {
    let vocabulary = vocabulary();
    for (schema, place, words) in [
        (r#"{"type": "string", "pattern": "\\bcat"}"#, "#/pattern", r"\b"),
        (
            r#"{"properties": {"a/b": {"type": "string", "pattern": "(a)\\1"}}}"#,
            "#/properties/a~1b/pattern",
            "back reference",
        ),
        (r#"{"type": "string", "format": "iri"}"#, "#/format", "iri"),
        (r#"{"items": {"minimum": "3"}}"#, "#/items/minimum", "number"),
        (r#"{"minLength": -1}"#, "#/minLength", "whole number"),
        (r#"{"type": "integer", "multipleOf": 0}"#, "#/multipleOf", "above 0"),
        (r#"{"type": "number", "multipleOf": 1e-12}"#, "#/multipleOf", "digits"),
        (r#"{"oneOf": [{"type": "object"}, {"required": ["a"]}]}"#, "#/oneOf", "two options"),
        (r#"{"oneOf": [{"type": "array"}, {"type": "array", "maxItems": 3}]}"#, "#/oneOf", "two options"),
        (r#"{"type": "object", "minProperties": 2}"#, "#/minProperties", "counted"),
        (r##"{"allOf": [{"$ref": "#"}]}"##, "#", "itself"),
        (r##"{"anyOf": [{"$ref": "#/nothing"}]}"##, "#/anyOf/0/$ref", "nothing"),
        (r#"{"type": "integer", "minimum": 3, "maximum": 2}"#, "#", "no value"),
        (r##"{"type": "array", "items": {"$ref": "#"}, "minItems": 1}"##, "#", "no value"),
        (r#"{"enum": []}"#, "#/enum", "type"),
        ("false", "#", "no value"),
        ("[]", "#", "an object"),
    ] {
        let error = vocabulary.tokens.json_schema(schema).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("at {place}:")) && error.contains(words), "{schema}: {error}");
    }
    let error = vocabulary.tokens.json_schema(r#"{"minimum": 1e999}"#).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("1e999") && error.contains("digits"), "{error}");
}
