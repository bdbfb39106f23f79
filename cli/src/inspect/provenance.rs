//! Where a file came from, in the form that `b3sum --check` and `sha256sum --check` read.

use anyhow::{Result, bail};
use clap::ValueEnum;
use nanoserve_format::{Foreign, HASH_BYTES, Provenance, SourceFile, on_screen};

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

/// The most bytes of a licence that are shown: a conversion keeps none that is longer.
const LONGEST_LICENCE: usize = 256 << 10;

/// What a file says of where it came from. All of it is the file's own word.
///
/// # Errors
/// When a source's name or hash can stand in no list for b3sum or sha256sum: it could add lines to the list.
pub fn text(p: &Provenance, part: Listing) -> Result<String> {
    let blake3 = list(p, |s| Some(&s.blake3))?;
    let sha256 = list(p, |s| s.sha256.as_ref())?;
    match part {
        Listing::B3sum => return Ok(blake3),
        Listing::Sha256sum => return Ok(sha256),
        Listing::All => {}
    }
    let row =
        |name: &str, value: &Option<String>| format!("{name:<12}{}\n", Foreign(value.as_deref().unwrap_or("unknown")));
    let mut text = row("made by", &Some(format!("{} {}", p.converter, p.recipe)));
    text += &row("repository", &p.repository);
    text += &row("revision", &p.revision);
    text += &row("licence", &p.license);
    text += &format!("\nBLAKE3 of the sources\n{blake3}");
    if !sha256.is_empty() {
        text += &format!("\nSHA-256 of the sources\n{sha256}");
    }
    for file in &p.license_files {
        let most = LONGEST_LICENCE.min(file.text.len());
        let kept = (0..=most).rev().find(|at| file.text.is_char_boundary(*at)).unwrap_or(0);
        let (shown, left) = file.text.split_at(kept);
        text += &format!("\n{}\n\n", Foreign(&file.name));
        // Set in, so that no line of it looks like one of ours.
        on_screen(shown.trim_end()).lines().for_each(|line| text += &format!("  {line}\n"));
        if !left.is_empty() {
            text += &format!("[{} bytes left out]\n", left.len());
        }
    }
    Ok(text)
}

/// A line for each source that has this kind of hash.
fn list(p: &Provenance, hash: fn(&SourceFile) -> Option<&String>) -> Result<String> {
    let mut list = String::new();
    for source in &p.sources {
        let Some(hash) = hash(source) else { continue };
        if hash.len() != 2 * HASH_BYTES || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            bail!("the hash of source '{}' is none: {}", Foreign(&source.name), Foreign(hash));
        }
        // b3sum and sha256sum escape these characters, and mark such a line by a backslash in front.
        let name = source.name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        let mark = if name == source.name { "" } else { "\\" };
        if name.is_empty() || name.contains('\t') || on_screen(&name) != name {
            bail!("the source '{}' has a name that no list of hashes can hold", Foreign(&source.name));
        }
        list += &format!("{mark}{hash}  {name}\n");
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::LicenseFile;

    fn source(name: &str, blake3: &str) -> Provenance {
        let source = SourceFile { name: name.into(), blake3: blake3.into(), ..SourceFile::default() };
        Provenance { sources: vec![source], ..Provenance::default() }
    }

    #[test]
    fn odd_names_are_marked_as_b3sum_does() {
        let hash = "0f".repeat(32);
        for (name, line) in [("a b", format!("{hash}  a b\n")), ("c\nd\r\\e", format!("\\{hash}  c\\nd\\r\\\\e\n"))] {
            let p = source(name, &hash);
            assert_eq!(text(&p, Listing::B3sum).unwrap(), line);
            assert_eq!(text(&p, Listing::Sha256sum).unwrap(), "");
        }
    }

    #[test]
    fn a_list_is_given_no_further_lines() {
        let hash = "0f".repeat(32);
        let further = format!("{hash}  a\n{hash}");
        for (name, blake3) in [
            ("a", further.as_str()),
            ("a", ""),
            ("a", "0f"),
            ("a", &"é".repeat(32)),
            ("a\u{1b}[2K", &hash),
            ("a\u{202e}", &hash),
            ("", &hash),
        ] {
            for part in [Listing::B3sum, Listing::All] {
                let refused = text(&source(name, blake3), part).unwrap_err().to_string();
                assert!(!refused.contains('\n') && !refused.contains('\u{1b}'), "{refused:?}");
            }
        }
    }

    #[test]
    fn a_licence_steers_no_terminal() {
        let licence = |text: String| LicenseFile { name: "LICENSE\n".into(), text };
        let of = |text: String| Provenance { license_files: vec![licence(text)], ..Provenance::default() };
        let shown = text(&of("a\x1b[2Jb\r\nerror: c\u{202e}\n\td\n\n".into()), Listing::All).unwrap();
        assert!(shown.ends_with("\nLICENSE\\n\n\n  a\\u{1b}[2Jb\n  error: c\\u{202e}\n  \td\n"), "{shown}");
        let shown = text(&of("x".repeat(LONGEST_LICENCE + 3)), Listing::All).unwrap();
        assert!(shown.ends_with("x\n[3 bytes left out]\n"));
    }
}
