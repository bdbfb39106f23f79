//! Tensors that the user does not want, by patterns of their names.

use crate::error::{Problems, What};
use crate::report::Warning;
use glob::Pattern;
use std::collections::BTreeSet;

/// The names that match one of the patterns. Each pattern must match one, where all names are known (`whole`). Problems
/// are noted for the file `listing`.
pub(crate) fn matching<'n>(
    patterns: &[String],
    names: impl Iterator<Item = &'n String> + Clone,
    (listing, whole): (&str, bool),
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = BTreeSet::new();
    for pattern in patterns {
        let glob = match Pattern::new(pattern) {
            Ok(glob) => glob,
            Err(e) => {
                let (pattern, cause) = (pattern.clone(), e.msg.to_string());
                problems.file(listing, What::Pattern { pattern, cause });
                continue;
            }
        };
        let before = all.len();
        all.extend(names.clone().filter(|name| glob.matches(name)).cloned());
        // Where a file is not read, nobody knows what is in it.
        if all.len() == before && whole && !all.iter().any(|name| glob.matches(name)) {
            problems.file(listing, What::PatternMatchesNothing { pattern: pattern.clone() });
        }
    }
    if let Some(first) = all.first() {
        warnings.push(Warning::LeftOutAsked { count: all.len(), first: first.clone() });
    }
    all
}
