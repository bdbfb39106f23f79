//! Chat templates rendered as transformers renders them: text, and the error where it raises one.

use nanoserve_runtime::template::{Clock, Template, TemplateError};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::path::{Path, PathBuf};

/// `tests/reference/templates/features.json`.
#[derive(Deserialize)]
struct Features {
    now: String,
    variables: Box<RawValue>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    #[serde(flatten)]
    expected: Expected,
}

/// What transformers made of it: one of the two.
#[derive(Deserialize)]
struct Expected {
    text: Option<String>,
    error: Option<String>,
}

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/templates").join(name)
}

/// An error as Python names it, where there is such a name.
fn python(error: &TemplateError) -> String {
    match error {
        TemplateError::Refused { message } => format!("TemplateError: {message}"),
        TemplateError::Failed { kind, message } => format!("{kind}: {message}"),
        TemplateError::Syntax { cause, .. } => format!("TemplateSyntaxError: {cause}"),
        other => other.to_string(),
    }
}

#[test]
fn every_feature_is_as_in_jinja() {
    let features: Features = serde_json::from_slice(&std::fs::read(reference("features.json")).unwrap()).unwrap();
    let clock: Clock = features.now.parse().unwrap();
    let mut wrong = Vec::new();
    for Case { name, template, expected } in &features.cases {
        let got = Template::new(template).and_then(|t| t.render_json(features.variables.get(), clock));
        let same = match (&got, expected) {
            (Ok(got), Expected { text: Some(text), .. }) => got == text,
            (Err(_), Expected { error: Some(_), .. }) => true,
            _ => false,
        };
        if !same {
            let expected = expected.text.as_ref().or(expected.error.as_ref()).unwrap();
            wrong.push(format!("{name}: {template}\n   got {got:?}\n  want {expected:?}"));
        }
        if let (Err(e), Some(error)) = (&got, &expected.error)
            && python(e) != *error
            && std::env::var_os("SHOW").is_some()
        {
            println!("{name}: {template}\n   got {}\n  want {error}", python(e));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), features.cases.len(), wrong.join("\n"));
}
