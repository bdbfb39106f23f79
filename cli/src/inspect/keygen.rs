//! Makes a new pair of keys.

use crate::console;
use anyhow::Result;
use clap::Args;
use nanoserve_format::SecretKey;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a key to sign with: KEY.pem, for your eyes alone, and KEY.pub.pem to give away
///
/// An existing file is never overwritten. openssl genpkey -algorithm ed25519 makes as good a key.
#[derive(Debug, Args)]
pub struct Keygen {
    /// The private key's file
    #[arg(value_name = "KEY.pem")]
    key: PathBuf,
    /// Print the public key's 64 hex digits, nothing else
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Keygen) -> Result<ExitCode> {
    let key = SecretKey::generate()?;
    let (public, path) = (key.public().to_string(), key.write_new(&a.key)?);
    let text = match (a.json, a.quiet) {
        (true, _) => console::json(&json!({"key": a.key, "public_key": path, "public": public})),
        (false, true) => public,
        (false, false) => format!("private key {}\npublic key  {}\n{public}", a.key.display(), path.display()),
    };
    console::print(&(text + "\n"), true)
}
