//! Files written by version 0.1.0 in format 1.0 stay readable and give the same bits.

use nanoserve_format::{NsvFile, SectionKind};
use nanoserve_tests::nanoserve;
use std::path::PathBuf;

/// A file, its root, the hash of the logits of `--ids 1,5,9 -n 4 --temperature 0`, and its sections besides
/// description, directory, generation and provenance.
const FILES: [(&str, &str, &str, &[SectionKind]); 4] = [
    (
        "q8.nsv",
        "f63d6856e656a9a7682159e61792721ff4f12b55e0e70acc93a1360b52ad4391",
        "2271b1aecf59054d7fd26eb405b030609d9254897ef145eac669cbcf8881198c",
        &[
            SectionKind::Tokenizer,
            SectionKind::ChatTemplate,
            SectionKind::Vocabulary,
            SectionKind::Golden,
            SectionKind::Reference,
            SectionKind::TokenizerVectors,
        ],
    ),
    (
        "f16.nsv",
        "5c72c2881f67ffb99a961766bf35098a587c13e5ba372095f8d36e2794743a96",
        "94719f28870d2615521a13ea2eaff44edf0a9ccf3b99c56b63fa6a3174499dfa",
        &[
            SectionKind::Tokenizer,
            SectionKind::ChatTemplate,
            SectionKind::Vocabulary,
            SectionKind::Golden,
            SectionKind::TokenizerVectors,
        ],
    ),
    (
        "f32.nsv",
        "a37ddb3fab6eedab5ccd26e2db7db727f7b3d0303bed367a10735147fb51126f",
        "623790f22c7b2be83d97e544cca8337023fd2c42cf1e587c32f84bd9a8774c74",
        &[],
    ),
    (
        "chunks.nsv",
        "523ba0805d311a058b729caf08376d8e5bf2fdf6d99c7947aa15b3bf6d24db8f",
        "4884b78122155fa936eb80a7f4f8e17a9878e41b40dff88b08cb357d30fc106b",
        &[SectionKind::Chunks, SectionKind::Golden],
    ),
];

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "format-1.0", name].iter().collect()
}

#[test]
fn they_are_whole_and_hold_what_they_held() {
    for (name, root, _, sections) in FILES {
        let file = NsvFile::open(path(name)).unwrap();
        assert_eq!(blake3::Hash::from(file.layout().root).to_hex().as_str(), root, "{name}");
        assert_eq!(file.check(), [], "{name}");
        for kind in SectionKind::ALL {
            let always = [SectionKind::Spec, SectionKind::Directory, SectionKind::Generation, SectionKind::Provenance];
            let expected = sections.contains(&kind) || always.contains(&kind);
            assert_eq!(file.section(kind).unwrap().is_some(), expected, "{name}: {kind:?}");
        }
    }
}

#[test]
fn they_run_to_the_same_bits() {
    for (name, _, hash, sections) in FILES {
        let file = path(name);
        let file = file.to_str().unwrap();
        let prompt = ["--ids", "1,5,9", "-n", "4", "--temperature", "0", "--ignore-eos", "--kv", "f32", "--json"];
        let run = nanoserve("run", [&[file][..], &prompt].concat()).expect(0);
        assert_eq!(run.json()["logits_hash"], hash, "{name}");
        if sections.contains(&SectionKind::Golden) {
            let shown = nanoserve("run", [file, "--self-test"]).expect(0).stdout;
            let tokenizer = sections.contains(&SectionKind::TokenizerVectors);
            assert_eq!(shown.contains("PASS  tokenizer"), tokenizer, "{name}: {shown}");
            assert_eq!(shown.contains("reference reference.safetensors"), name == "q8.nsv", "{shown}");
        }
    }
}

#[test]
fn the_signature_still_holds() {
    let (file, key) = (path("f16.nsv"), path("signer.pub.pem"));
    let run = |file: &str| nanoserve("run", [file, "--require-signer", key.to_str().unwrap(), "-p", "a", "-n", "1"]);
    run(file.to_str().unwrap()).expect(0);
    let unsigned = run(path("q8.nsv").to_str().unwrap()).expect(2);
    assert!(unsigned.stderr.contains("sign"), "{}", unsigned.stderr);
}
