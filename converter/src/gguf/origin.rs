//! Where a GGUF file says it comes from.

use crate::gguf::keys::Keys;
use crate::report::Warning;
use nanoserve_format::Provenance;

/// The most bytes of a text that is kept.
const LONGEST: usize = 200;
/// Words in a name that say that the weights had been rounded before they were rounded for this file.
const ROUNDED: [&str; 7] = ["awq", "gptq", "bnb", "int4", "w4a16", "4bit", "8bit"];

/// The part of the record that the file itself gives.
pub(crate) fn read(keys: &Keys, warnings: &mut Vec<Warning>) -> Provenance {
    let text = |key: &str| keys.text(key).filter(|text| !text.is_empty() && text.len() <= LONGEST).map(str::to_string);
    let name = text("general.name");
    let rounded = ["general.name", "general.finetune"].into_iter().filter_map(text).find(|text| {
        let text = text.to_lowercase();
        text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| ROUNDED.contains(&word))
    });
    if let Some(said) = rounded {
        warnings.push(Warning::RoundedTwice { said });
    }
    let url = ["general.source.url", "general.repo_url", "general.source.repo_url", "general.base_model.0.repo_url"];
    let url = url.into_iter().find_map(text);
    Provenance {
        repository: url.as_deref().and_then(repository),
        license: text("general.license"),
        name,
        source_url: url,
        quantized_by: text("general.quantized_by"),
        ..Provenance::default()
    }
}

/// The `org/name` of a model's address on the Hugging Face Hub.
fn repository(url: &str) -> Option<String> {
    let path = url.strip_prefix("https://huggingface.co/")?;
    let mut parts = path.split('/');
    let (org, name) = (parts.next()?, parts.next()?);
    (!org.is_empty() && !name.is_empty()).then(|| format!("{org}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_address_names_a_repository() {
        assert_eq!(repository("https://huggingface.co/org/name").as_deref(), Some("org/name"));
        assert_eq!(repository("https://huggingface.co/org/name/tree/main").as_deref(), Some("org/name"));
        for other in ["https://huggingface.co/org", "https://huggingface.co//name", "https://example.org/a/b", ""] {
            assert_eq!(repository(other), None, "{other}");
        }
    }
}
