//! The half of the sandbox that knows files: Landlock, since Linux 5.13.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, RestrictSelfAttr, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use std::path::PathBuf;

/// The newest version that is asked for. A system takes what it knows of it.
const NEWEST: ABI = ABI::V6;

/// Gives up to start programs, to use the network, and to write files but in these folders. Returns whether that holds, at
/// least in part.
pub fn give_up(folders: &[PathBuf]) -> bool {
    restrict(folders).is_ok_and(|status| status != RulesetStatus::NotEnforced)
}

fn restrict(folders: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    let reads = AccessFs::ReadFile | AccessFs::ReadDir;
    let all: BitFlags<AccessFs> = AccessFs::from_all(NEWEST) & !reads;
    // What a file takes that is written beside its name and renamed.
    let writes = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::RemoveFile | AccessFs::Truncate;
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?
        .add_rules(path_beneath_rules(folders, writes))?;
    // Where the system can (Linux 7.0), in all threads, not in this one and those that it starts alone.
    Ok(rules.all_threads(true)?.restrict_self()?.ruleset)
}
