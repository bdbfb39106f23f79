//! Where a file came from, in the form that `b3sum --check` and `sha256sum --check` read.

use clap::ValueEnum;
use nanoserve_format::{Provenance, SourceFile};

/// What to print of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Listing {
    /// Everything
    All,
    /// The sources' BLAKE3 alone
    B3sum,
    /// Their SHA-256 alone, of a file that was converted with --sha256
    Sha256sum,
}

pub fn text(p: &Provenance, part: Listing) -> String {
    let blake3 = list(p, |s| Some(&s.blake3));
    let sha256 = list(p, |s| s.sha256.as_ref());
    match part {
        Listing::B3sum => return blake3,
        Listing::Sha256sum => return sha256,
        Listing::All => {}
    }
    let unknown = "unknown".to_string();
    let row = |name: &str, value: &Option<String>| format!("{name:<12}{}\n", value.as_ref().unwrap_or(&unknown));
    let mut text = row("made by", &Some(format!("{} {}", p.converter, p.recipe)));
    text += &row("repository", &p.repository);
    text += &row("revision", &p.revision);
    text += &row("licence", &p.license);
    text += &format!("\nBLAKE3 of the sources\n{blake3}");
    if !sha256.is_empty() {
        text += &format!("\nSHA-256 of the sources\n{sha256}");
    }
    for file in &p.license_files {
        // The text comes from somebody else, so control characters for the terminal are removed.
        let shown: String = file.text.chars().filter(|c| !c.is_control() || "\n\t".contains(*c)).collect();
        text += &format!("\n{}\n\n{}\n", file.name.escape_debug(), shown.trim_end());
    }
    text
}

/// A line for each source that has this kind of hash.
fn list(p: &Provenance, hash: fn(&SourceFile) -> Option<&String>) -> String {
    let line = |s: &SourceFile| {
        // b3sum and sha256sum escape these characters, and mark such a line by a backslash in front.
        let name = s.name.replace('\\', "\\\\").replace('\n', "\\n");
        let mark = if name == s.name { "" } else { "\\" };
        Some(format!("{mark}{}  {name}\n", hash(s)?))
    };
    p.sources.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::LicenseFile;

    #[test]
    fn odd_names_are_marked_as_b3sum_does() {
        let source = |name: &str| SourceFile { name: name.into(), blake3: "00".into(), ..SourceFile::default() };
        let p = Provenance { sources: vec![source("a b"), source("c\nd\\e")], ..Provenance::default() };
        assert_eq!(text(&p, Listing::B3sum), "00  a b\n\\00  c\\nd\\\\e\n");
        assert_eq!(text(&p, Listing::Sha256sum), "");
    }

    #[test]
    fn a_licence_steers_no_terminal() {
        let file = LicenseFile { name: "LICENSE".into(), text: "a\x1b[2Jb\n\tc\n\n".into() };
        let p = Provenance { license_files: vec![file], ..Provenance::default() };
        assert!(text(&p, Listing::All).ends_with("\nLICENSE\n\na[2Jb\n\tc\n"));
    }
}
