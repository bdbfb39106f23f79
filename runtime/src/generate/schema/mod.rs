//! JSON schemas as grammars, exactly: what comes out validates, and every value can come out in one form at least, or the
//! schema is refused with the place of what cannot be held to.
//!
//! ```text
//! text -> json      numbers as they are written (decimal)
//!      -> document  keywords, their form, $ref
//!      -> branch    choices taken apart: sets of parts without a choice
//!      -> shape     a graph: what each set allows, by type (scalars: numbers, strings, pattern, formats)
//!      -> emit      llguidance's grammar, its parser and its masks
//! ```
//!
//! llguidance has a compiler of schemas of its own, which is not used. It takes numbers through 64-bit floats (integers
//! beyond 2^53 come out wrong, bounds beyond 2^63 are lost), reads `pattern` as Rust's regular expressions (`\s`), lets
//! `\"` through for `[^"]`, lets a listed name come back as `"\u0061"` beside its own rule, allows February 29 in every
//! year, and refuses overlapping `patternProperties` and most of `oneOf`.
//!
//! What is not exact, on purpose: members come in the order of the schema; a name that no property lists may come twice,
//! as JSON allows (readers take the last); integers are written without a point.

mod branch;
mod decimal;
mod document;
mod emit;
mod formats;
mod json;
mod numbers;
mod pattern;
mod scalars;
mod shape;
mod strings;

use crate::error::GrammarError;
use document::Document;
use json::Json;
use llguidance::api::GrammarInit;
use shape::Graph;

/// Why a schema cannot be used, and the place in it, a JSON pointer behind `#`.
#[derive(Debug)]
struct Refusal {
    place: String,
    cause: String,
}

impl Refusal {
    fn new(place: &str, cause: impl Into<String>) -> Refusal {
        Refusal { place: place.into(), cause: cause.into() }
    }
}

impl From<Refusal> for GrammarError {
    fn from(refusal: Refusal) -> GrammarError {
        GrammarError::Schema { place: refusal.place, cause: refusal.cause }
    }
}

/// The grammar of the values that are valid for a schema. `whitespace` may stand between the parts of JSON.
///
/// # Errors
/// When the text is no JSON or no schema, has a keyword that cannot be held to exactly, or no value is valid.
pub fn compile(text: &str, whitespace: &str) -> Result<GrammarInit, GrammarError> {
    let json = Json::parse(text).map_err(|cause| GrammarError::Json { cause })?;
    let document = Document::new(&json)?;
    if !document.unknown.is_empty() {
        return Err(GrammarError::Keywords { found: document.unknown, supported: document::supported() });
    }
    let graph = Graph::new(&document, &json)?;
    if !graph.nodes[0].possible {
        return Err(Refusal::new("#", "no value is valid for it").into());
    }
    Ok(emit::grammar(&graph, whitespace)?)
}
