//! Tests what a conversion records about where its sources came from.

use super::Fixture;
use crate::{Options, Warning, convert};
use nanoserve_format::{Encoding, NsvFile, Provenance};
use std::fs;
use std::sync::atomic::AtomicBool;

const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

fn provenance(fixture: &Fixture) -> Provenance {
    fixture.write().convert(Encoding::Q8).unwrap();
    NsvFile::open(fixture.output()).unwrap().provenance().unwrap()
}

/// What a download leaves beside a file.
fn downloaded(fixture: &Fixture, name: &str, revision: &str) {
    let folder = fixture.dir.path().join(".cache/huggingface/download");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{name}.metadata")), format!("{revision}\netag\n1700000000.5\n")).unwrap();
}

#[test]
fn where_the_sources_came_from() {
    let mut fixture = Fixture::plain();
    let nothing = provenance(&fixture);
    assert_eq!((nothing.repository, nothing.revision, nothing.license), (None, None, None));
    assert_eq!(nothing.license_files, []);

    fixture.config["_name_or_path"] = "org/name".into();
    assert_eq!(provenance(&fixture).repository.as_deref(), Some("org/name"));
    for odd in [serde_json::json!("/home/me/org/name"), serde_json::json!(7)] {
        fixture.config["_name_or_path"] = odd;
        assert_eq!(provenance(&fixture).repository, None);
    }

    // The revision is known only if it is known for every source.
    downloaded(&fixture, "config.json", REVISION);
    assert_eq!(provenance(&fixture).revision, None);
    downloaded(&fixture, "model.safetensors", REVISION);
    assert_eq!(provenance(&fixture).revision.as_deref(), Some(REVISION));
    downloaded(&fixture, "config.json", &REVISION.replace('0', "f"));
    assert_eq!(provenance(&fixture).revision, None);
    downloaded(&fixture, "config.json", "/home/me");
    assert_eq!(provenance(&fixture).revision, None);
}

#[test]
fn licences_are_kept_whole() {
    let fixture = Fixture::plain();
    fixture.put("README.md", "---\nlicense: llama3.2\n---\n# A model\n");
    fixture.put("USE_POLICY.md", "Be good.").put("LICENSE.txt", "Do what you want.\n").put("other.txt", "no licence");
    let p = provenance(&fixture);
    assert_eq!(p.license.as_deref(), Some("llama3.2"));
    let files: Vec<_> = p.license_files.iter().map(|f| (f.name.as_str(), f.text.as_str())).collect();
    assert_eq!(files, [("LICENSE.txt", "Do what you want.\n"), ("USE_POLICY.md", "Be good.")]);
    // Licences are not recorded as sources.
    assert_eq!(p.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["config.json", "model.safetensors"]);

    fixture.put("LICENSE.txt", "x".repeat((256 << 10) + 1));
    let report = fixture.convert(Encoding::Q8).unwrap();
    assert!(report.warnings.contains(&Warning::LongLicence { name: "LICENSE.txt".into(), most: 256 << 10 }));
    let p = NsvFile::open(fixture.output()).unwrap().provenance().unwrap();
    assert_eq!(p.license_files.len(), 1);
}

#[test]
fn sha_256_where_it_is_asked_for() {
    let fixture = Fixture::plain();
    let p = provenance(&fixture);
    assert!(p.sources.iter().all(|s| s.sha256.is_none()) && p.recipe == "--dtype q8");
    let options = Options { sha256: true, ..fixture.options(Encoding::Q8) };
    convert(&options, &(), &AtomicBool::new(false)).unwrap();
    let with = NsvFile::open(fixture.output()).unwrap().provenance().unwrap();
    assert_eq!(with.recipe, "--dtype q8 --sha256");
    for (s, plain) in with.sources.iter().zip(p.sources) {
        let bytes = fs::read(fixture.dir.path().join(&s.name)).unwrap();
        assert_eq!((s.bytes, &s.blake3), (bytes.len() as u64, &plain.blake3));
        assert_eq!(s.blake3, blake3::hash(&bytes).to_hex().to_string());
        assert_eq!(s.sha256.as_ref().map(String::len), Some(64));
    }
}
