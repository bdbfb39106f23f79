//! What a model is called on the Hub: `ORG/NAME`, or `ORG/NAME:REVISION`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The branch that is meant where no revision is given.
const MAIN: &str = "main";
/// The most characters of each part of a name, as the Hub has it.
const LONGEST: usize = 96;
/// The most characters of a revision.
const LONGEST_REVISION: usize = 250;

/// A model on the Hub, at a revision: a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `ORG/NAME`; a few old models have no ORG.
    pub repo: String,
    /// The revision, `main` where none was given.
    pub revision: String,
    /// Whether one was given.
    pub is_pinned: bool,
}

/// Why a text is no name of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAName(String);

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Name, NotAName> {
        let (repo, revision) = match text.split_once(':') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        if !repo.split('/').all(is_part) || repo.split('/').count() > 2 {
            let what =
                "expected ORG/NAME or ORG/NAME:REVISION, of letters, digits, '-', '_' and '.', as on the model's page";
            return Err(NotAName(what.into()));
        }
        if let Some(revision) = revision.filter(|revision| !is_revision(revision)) {
            return Err(NotAName(format!("'{revision}' is no branch, tag or commit")));
        }
        let (revision, is_pinned) = (revision.unwrap_or(MAIN).to_string(), revision.is_some());
        Ok(Name { repo: repo.to_string(), revision, is_pinned })
    }
}

impl Name {
    /// The name that a path may be, where nothing is there: `ORG/NAME` with both parts.
    pub fn of_path(path: &Path) -> Option<Name> {
        let name: Name = path.to_str()?.parse().ok()?;
        name.repo.contains('/').then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.is_pinned {
            true => write!(f, "{}:{}", self.repo, self.revision),
            false => write!(f, "{}", self.repo),
        }
    }
}

/// Whether this may be a part of a name. `--` joins the parts in the cache, so that it may be in none.
fn is_part(part: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=LONGEST).contains(&part.len())
        && part.starts_with(word)
        && part.ends_with(word)
        && part.chars().all(|c| word(c) || c == '-' || c == '.')
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether git takes this as a branch, a tag or a commit. It becomes a path in the cache: nothing in it may lead out.
fn is_revision(text: &str) -> bool {
    (1..=LONGEST_REVISION).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_graphic() && !"~^:?*[\\".contains(c))
        && !text.contains("..")
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock"))
}

/// Whether this is a whole commit's hash.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_revision_or_none() {
        let name: Name = "Qwen/Qwen2.5-0.5B".parse().unwrap();
        assert_eq!((name.repo.as_str(), name.revision.as_str()), ("Qwen/Qwen2.5-0.5B", "main"));
        assert_eq!(name.to_string(), "Qwen/Qwen2.5-0.5B");
        let name: Name = "a/b:refs/pr/1".parse().unwrap();
        assert_eq!((name.repo.as_str(), name.revision.as_str()), ("a/b", "refs/pr/1"));
        assert_eq!(name.to_string(), "a/b:refs/pr/1");
        assert_eq!("gpt2".parse::<Name>().unwrap().repo, "gpt2");
    }

    #[test]
    fn what_could_lead_out_of_the_cache_is_no_name() {
        for text in [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/.b",
            "a--b/c",
            "a/b..c",
            "a b/c",
            "a/b\n",
            "~/b",
            "./b",
            "a/b:",
            "a/b:..",
            "a/b:../x",
            "a/b:/x",
            "a/b:x/",
            "a/b:x//y",
            "a/b:.x",
            "a/b:x/.y",
            "a/b:x y",
            "a/b:x:y",
            "a/b:x.lock",
            "a/b:x\\y",
            "\u{e9}/b",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        assert!("a".repeat(97).parse::<Name>().is_err());
    }

    #[test]
    fn a_path_is_a_name_only_where_it_has_two_parts() {
        assert!(Name::of_path(Path::new("a/b")).is_some());
        for path in ["a", "./a/b", "/a/b", "a/b/", "a/b/c", "../a"] {
            assert!(Name::of_path(Path::new(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn commits_are_told_from_branches() {
        assert!(is_commit(&"0a".repeat(20)));
        for text in ["main", "0a", &"0A".repeat(20), &"0g".repeat(20)] {
            assert!(!is_commit(text), "{text}");
        }
    }
}
