//! Signs a file, in place.

use super::{damage_lines, open};
use crate::console;
use anyhow::Result;
use clap::Args;
use nanoserve_format::{SecretKey, Signature, hex};
use nanoserve_runtime::RuntimeError;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Sign a model file: 128 bytes of it change, and no hash
///
/// Every byte is checked first: a damaged file must not be signed. An existing signature is replaced.
#[derive(Debug, Args)]
pub struct Sign {
    /// The model file
    model: PathBuf,
    /// The Ed25519 private key: PEM as keygen and openssl genpkey write it, or 64 hex digits
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// Print nothing but damage
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Sign) -> Result<ExitCode> {
    console::begin(&a.model);
    let key = SecretKey::read(&a.key)?;
    let file = open(&a.model)?;
    let damage = file.layout().damage(file.bytes());
    if !damage.is_empty() {
        console::tell(format_args!("error: {}: damaged, and not signed", a.model.display()));
        return console::print(damage_lines(&damage), false);
    }
    let (root, old) = (file.layout().root, file.layout().signature);
    drop(file);
    let new = Signature::new(&key, &root);
    new.write(&a.model, &root).map_err(RuntimeError::from).map_err(console::in_file(&a.model))?;
    let replaced = old.map(|s| s.key.to_string());
    let text = match (a.json, a.quiet) {
        (true, _) => {
            let root = hex(&root);
            let report = json!({"file": a.model, "root": root, "signer": new.key.to_string(), "replaced": replaced});
            console::json(&report) + "\n"
        }
        (false, true) => String::new(),
        (false, false) => {
            let replaced = replaced.map(|key| format!("replaced a signature of {key}\n")).unwrap_or_default();
            format!("{replaced}{} is signed by {}, root {}\n", a.model.display(), new.key, hex(&root))
        }
    };
    console::print(&text, true)
}
