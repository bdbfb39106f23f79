//! Options from the environment, `NANOSERVE_CTX` for `--ctx` and so on, as containers set them.
//!
//! clap reads them; `--help` names each beside its option, and what the command line says comes first.

use crate::{console, programs};
use clap::error::{ContextKind, ContextValue};
use std::collections::BTreeSet;
use std::ffi::OsString;

const PREFIX: &str = "NANOSERVE_";

/// Every variable that some command reads.
pub fn names() -> BTreeSet<OsString> {
    let commands = programs::ENTRIES.iter().map(|entry| (entry.command)());
    let of = |command: clap::Command| {
        command.get_arguments().filter_map(|option| option.get_env()).map(OsString::from).collect()
    };
    commands.flat_map::<Vec<OsString>, _>(of).collect()
}

/// Says which variables look like ours and are not.
pub fn tell_unknown(known: &BTreeSet<OsString>) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) && !known.contains(&name) {
            let name = name.display();
            console::tell(format_args!(
                "warning: {name} is set, and no option is read from it: see [env: ...] in --help"
            ));
        }
    }
}

/// The variable that a refused value came from.
pub fn behind(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (option, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    programs::ENTRIES.iter().find_map(|entry| {
        let mut command = (entry.command)();
        // An option can be named only then.
        command.build();
        let name = command.get_arguments().find(|one| one.to_string() == option)?.get_env()?;
        let set = std::env::var_os(name).is_some_and(|set| set == value);
        set.then(|| format!("the environment sets {} to '{value}'", name.display()))
    })
}
