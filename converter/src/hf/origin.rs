//! Where a checkpoint says it comes from, and under which licence. Only what is inside the folder counts, never its
//! path: the same files in another folder give the same answer.

use crate::error::{Problems, What};
use crate::hf::checkpoint::Folder;
use crate::hf::config::Config;
use crate::hf::folder::is_repository;
use crate::hf::refused::Refused;
use crate::report::Warning;
use nanoserve_format::{LicenseFile, Provenance};

/// What a download leaves beside each file of the folder: a revision, a hash and a time, a line each.
const DOWNLOADS: &str = ".cache/huggingface/download";
pub(crate) const CARD: &str = "README.md";
/// The most bytes of a model card up to the end of its description.
const LONGEST_HEAD: u64 = 64 << 10;
/// The most bytes of a licence, which is kept whole or not at all.
const LONGEST_LICENCE: u64 = 256 << 10;
/// The most bytes of a name.
const LONGEST_NAME: usize = 200;
/// The beginnings of licences' file names, and their endings if they have one.
const LICENCES: [&str; 5] = ["license", "licence", "copying", "notice", "use_policy"];
const ENDINGS: [&str; 2] = ["txt", "md"];

/// The part of the record that does not depend on this conversion. `sources` are the names of the files it is made
/// from.
pub(crate) fn read<'a>(
    folder: &Folder,
    config: Option<&Config>,
    sources: impl Iterator<Item = &'a str>,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> Provenance {
    let name = config.and_then(|c| c.fields(problems).get("_name_or_path")?.as_str().map(str::to_string));
    Provenance {
        repository: name.filter(|name| is_repository(name)),
        revision: revision(folder, sources),
        license: peek(folder, CARD, LONGEST_HEAD).and_then(|card| card_license(&card)),
        license_files: licences(folder, problems, warnings),
        ..Provenance::default()
    }
}

/// The beginning of a file that is not recorded as a source.
fn peek(folder: &Folder, name: &str, longest: u64) -> Option<String> {
    folder.peek(name, longest).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The revision at which every source was downloaded; None if it is not known to be the same.
fn revision<'a>(folder: &Folder, sources: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut only = None;
    for name in sources {
        let metadata = peek(folder, &format!("{DOWNLOADS}/{name}.metadata"), 4096)?;
        let revision = metadata.lines().next()?.trim().to_string();
        let right = (7..=64).contains(&revision.len()) && revision.chars().all(|c| c.is_ascii_hexdigit());
        if !right || *only.get_or_insert_with(|| revision.clone()) != revision {
            return None;
        }
    }
    only
}

/// The licence's name in a model card: `license: NAME`, or a list of them, between the two `---` at its top.
fn card_license(card: &str) -> Option<String> {
    let mut lines = card.lines();
    lines.next().filter(|l| l.trim_end() == "---")?;
    let (head, _) = card.split_once('\n')?.1.split_once("\n---")?;
    let plain = |value: &str| value.trim().trim_matches(['"', '\'']).to_string();
    let mut fields = head.lines().skip_while(|line| !line.starts_with("license:"));
    let value = plain(fields.next()?.strip_prefix("license:")?);
    let items = fields.map_while(|line| line.trim_start().strip_prefix("- ")).map(plain);
    let value = if value.is_empty() { items.collect::<Vec<_>>().join(", ") } else { value };
    (1..=LONGEST_NAME).contains(&value.len()).then_some(value)
}

/// The licences in the folder, by name. They go into the file that is shipped: a link to another place is not followed.
fn licences(folder: &Folder, problems: &Problems, warnings: &mut Vec<Warning>) -> Vec<LicenseFile> {
    let mut all = Vec::new();
    for name in folder.names_in(".", problems).into_iter().filter(|name| is_licence(name)) {
        match folder.peek(&name, LONGEST_LICENCE + 1) {
            Ok(text) if text.len() as u64 > LONGEST_LICENCE => {
                warnings.push(Warning::LongLicence { name, most: LONGEST_LICENCE });
            }
            Ok(text) => all.push(LicenseFile { name, text: String::from_utf8_lossy(&text).into_owned() }),
            Err(Refused::Kind("a folder")) => {}
            Err(refused) => warnings.push(Warning::LicenceNotKept { name, why: What::from(refused).to_string() }),
        }
    }
    all
}

/// Whether a file is a licence, by its name.
pub(crate) fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let (stem, ending) = name.split_once('.').unwrap_or((&name, "txt"));
    LICENCES.iter().any(|l| stem.starts_with(l)) && ENDINGS.contains(&ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_names_its_licence() {
        for (card, expected) in [
            ("---\nlicense: apache-2.0\n---\n# A model", Some("apache-2.0")),
            ("---\r\nlanguage: en\r\nlicense: 'mit'\r\n---\r\n", Some("mit")),
            ("---\nlicense:\n- mit\n- apache-2.0\ntags:\n- x\n---\n", Some("mit, apache-2.0")),
            ("---\nlicense_name: a\nother:\n  license: b\n---\n", None),
            ("---\nlicense:\n---\n", None),
            ("license: mit\n", None),
            ("---\ntags: x\n---\nlicense: mit\n---\n", None),
            ("---\nlicense: mit\n", None),
            ("", None),
        ] {
            assert_eq!(card_license(card).as_deref(), expected, "{card}");
        }
    }

    #[test]
    fn licences_have_many_names() {
        for name in
            ["LICENSE", "LICENSE.txt", "License.md", "LICENCE", "COPYING", "NOTICE.txt", "USE_POLICY.md", "LICENSE-MIT"]
        {
            assert!(is_licence(name), "{name}");
        }
        for name in ["README.md", "license.py", "config.json", "MY_LICENSE", "LICENSE.txt.bak"] {
            assert!(!is_licence(name), "{name}");
        }
    }
}
