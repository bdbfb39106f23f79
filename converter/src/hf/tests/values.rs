//! The right bytes under the right name, and the same bytes always.

use super::*;
use crate::Warning;
use nanoserve_format::{NsvFile, Recipe, Role, SectionKind, Shape, panel, q8};
use safetensors::SafeTensors;

/// The key of a canonical name, spelled out again: independent of the table under test.
fn key(name: &str) -> String {
    let name = match name {
        "embed.weight" => return "model.embed_tokens.weight".into(),
        "final_norm.weight" => return "model.norm.weight".into(),
        "lm_head.weight" => return name.into(),
        _ => format!("model.{name}"),
    };
    [
        ("attn_norm", "input_layernorm"),
        ("mlp_norm", "post_attention_layernorm"),
        (".attn.q.", ".self_attn.q_proj."),
        (".attn.k.", ".self_attn.k_proj."),
        (".attn.v.", ".self_attn.v_proj."),
        (".attn.o.", ".self_attn.o_proj."),
        (".mlp.gate.", ".mlp.gate_proj."),
        (".mlp.up.", ".mlp.up_proj."),
        (".mlp.down.", ".mlp.down_proj."),
    ]
    .iter()
    .fold(name, |name, (ours, theirs)| name.replace(ours, theirs))
}

fn source_values(bytes: &[u8], key: &str) -> Vec<f32> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensor = file.tensor(key).unwrap();
    let data = tensor.data();
    match tensor.dtype() {
        safetensors::Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        safetensors::Dtype::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        safetensors::Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_value_comes_back_under_its_name() {
    for dtype in ["F32", "F16", "BF16"] {
        for biases in [false, true] {
            let fixture = Fixture::new(dtype, biases);
            let source = safetensors(&fixture.tensors);
            fixture.write();
            for encoding in Encoding::CHOICES {
                let report = fixture.convert(encoding).unwrap();
                let file = NsvFile::open(fixture.output()).unwrap();
                assert!(file.check().is_empty());
                assert_eq!(file.layout().tensors.len(), if biases { 35 } else { 21 });
                let rounds = !matches!(encoding, Encoding::F32 | Encoding::F16);
                assert_eq!(report.worst_snr.is_some(), rounds, "{encoding}");
                for entry in &file.layout().tensors {
                    let want = source_values(&source, &key(&entry.name));
                    let view = file.tensor(&entry.name).unwrap();
                    let mut got = vec![f32::NAN; want.len()];
                    let cols = match view.shape {
                        Shape::Vector(len) => {
                            got.copy_from_slice(bytemuck::cast_slice(view.bytes));
                            assert_eq!(got, want, "{}", entry.name);
                            assert_eq!(len, want.len());
                            continue;
                        }
                        Shape::Matrix(_, cols) => cols,
                    };
                    panel::unpack_rows(encoding, cols, view.bytes, 0, &mut got);
                    for (want, got) in want.chunks(cols).zip(got.chunks(cols)) {
                        for ((want, got), step) in want.chunks(32).zip(got.chunks(32)).zip(encoding.steps(want)) {
                            let absmax = want.iter().fold(0f32, |m, x| m.max(x.abs()));
                            let half = match encoding {
                                Encoding::F32 | Encoding::F16 => 0.0,
                                Encoding::Q8 => q8::scale(absmax).unwrap().to_f32() / 2.0,
                                Encoding::Codes(_) => step as f32 / 2.0,
                            };
                            for (w, g) in want.iter().zip(got) {
                                assert!((w - g).abs() <= half * 1.00001, "{} {encoding}: {w} {g}", entry.name);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn unaligned_data_is_read_too() {
    let fixture = Fixture::new("F16", false);
    fixture.write().convert(Encoding::F32).unwrap();
    let weights = || {
        let file = NsvFile::open(fixture.output()).unwrap();
        let tensors = &file.layout().tensors;
        file.bytes()[tensors[0].range.start..tensors.last().unwrap().range.end].to_vec()
    };
    let want = weights();
    let file = safetensors(&fixture.tensors);
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = std::str::from_utf8(header).unwrap();
    for spaces in ["", " "] {
        fixture.put("model.safetensors", container(&format!("{header}{spaces}"), data));
        fixture.convert(Encoding::F32).unwrap();
        // Provenance differs, the weights do not.
        assert!(weights() == want);
    }
}

#[test]
fn the_bytes_depend_on_nothing_else() {
    let one = Fixture::plain();
    let write = |fixture: &Fixture| {
        fixture.write().put("tokenizer_config.json", r#"{"add_bos_token": true, "chat_template": "{{ x }}"}"#);
    };
    write(&one);
    let other = Fixture::plain();
    write(&other);
    for encoding in Encoding::CHOICES {
        let mut all = Vec::new();
        for (fixture, threads) in [(&one, 1), (&one, 2), (&one, 5), (&other, 3)] {
            let options = Options { threads: Some(threads), ..fixture.options(encoding) };
            let report = convert(&options, &(), &AtomicBool::new(false)).unwrap();
            let bytes = fs::read(fixture.output()).unwrap();
            assert_eq!(bytes.len() as u64, report.bytes);
            all.push((bytes, report.root, report.worst_snr));
        }
        assert!(all.windows(2).all(|w| w[0] == w[1]), "{encoding}");
    }
}

#[test]
fn each_role_gets_its_encoding_and_the_file_says_so() {
    let fixture = Fixture::plain();
    let recipe = Recipe::uniform(Encoding::Q8).with(Role::Head, Encoding::F16).with(Role::Up, Encoding::F32);
    let options = Options { dtype: recipe.into(), ..fixture.write().options(Encoding::Q8) };
    convert(&options, &(), &AtomicBool::new(false)).unwrap();
    let file = NsvFile::open(fixture.output()).unwrap();
    assert_eq!(file.layout().recipe(), recipe);
    assert_eq!(file.provenance().unwrap().recipe, "--dtype q8,up=f32,head=f16");
    for entry in &file.layout().tensors {
        let expected = Role::of(&entry.name).map_or(Encoding::F32, |role| recipe.encoding(role));
        assert_eq!(entry.encoding, expected, "{}", entry.name);
    }
    // The encodings to compare with are read from the file, not from these options.
    let comparison = crate::compare(&fixture.options(Encoding::F32), &(), &AtomicBool::new(false)).unwrap();
    assert!(comparison.differences.is_empty(), "{comparison:?}");
}

#[test]
fn shards_and_a_missing_prefix_change_no_weight() {
    let mut fixture = Fixture::plain();
    fixture.write().convert(Encoding::Q8).unwrap();
    let whole = NsvFile::open(fixture.output()).unwrap();
    let check = |fixture: &Fixture| {
        fixture.convert(Encoding::Q8).unwrap();
        let file = NsvFile::open(fixture.output()).unwrap();
        for entry in &whole.layout().tensors {
            assert_eq!(whole.tensor(&entry.name).unwrap().bytes, file.tensor(&entry.name).unwrap().bytes);
        }
        file.provenance().unwrap().sources.into_iter().map(|s| s.name).collect::<Vec<_>>()
    };
    fs::remove_file(fixture.dir.path().join("model.safetensors")).unwrap();
    let sources = check(fixture.write_shards(|_, _| {}));
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    assert_eq!(sources, ["config.json", one, two, "model.safetensors.index.json"]);
    for tensor in &mut fixture.tensors {
        tensor.key = tensor.key.trim_start_matches("model.").to_string();
    }
    // The whole file is read, the index beside it is ignored.
    assert_eq!(check(fixture.write()), ["config.json", "model.safetensors"]);
    assert!(
        fixture.convert(Encoding::Q8).unwrap().warnings.contains(&Warning::IndexIgnored { read: "model.safetensors" })
    );
}

#[test]
fn tied_heads() {
    let mut fixture = Fixture::plain();
    fixture.config["tie_word_embeddings"] = json!(true);
    let tied = |fixture: &Fixture| {
        let report = fixture.write().convert(Encoding::Q8).unwrap();
        let file = NsvFile::open(fixture.output()).unwrap();
        let alias = file.layout().tensor("lm_head.weight").unwrap().alias_of.is_some();
        assert_eq!(alias, file.spec().tied_lm_head);
        (alias, report.warnings.iter().any(|w| matches!(w, Warning::HeadKept { head, .. } if head == "lm_head.weight")))
    };
    assert_eq!(tied(&fixture), (false, true), "another head is kept");
    let bytes = fixture.tensor("model.embed_tokens.weight").bytes.clone();
    fixture.tensor("lm_head.weight").bytes = bytes;
    assert_eq!(tied(&fixture), (true, false), "an equal one is not stored");
    fixture.tensors.retain(|t| t.key != "lm_head.weight");
    assert_eq!(tied(&fixture), (true, false), "and none is needed");
}

/// A tokenizer of a kind that no compiled form is for: the file has its tokenizer.json, and the conversion says of which kind it
/// is.
#[test]
fn a_tokenizer_without_a_compiled_form_is_kept_and_named() {
    let words = r#""vocab":{"a":0,"b":36}"#;
    for (model, name, more) in [
        (format!(r#"{{"type":"WordLevel",{words},"unk_token":"a"}}"#), "WordLevel", ""),
        (
            format!(
                r###"{{"type":"WordPiece",{words},"unk_token":"a","continuing_subword_prefix":"##","max_input_chars_per_word":9}}"###
            ),
            "WordPiece",
            "",
        ),
        (r#"{"type":"Unigram","unk_id":0,"vocab":[["a",0.0],["b",-1.0]],"byte_fallback":false}"#.into(), "Unigram", ""),
        (
            format!(r#"{{"type":"BPE",{words},"merges":[]}}"#),
            "BPE with steps of another kind",
            r#","pre_tokenizer":{"type":"BertPreTokenizer"}"#,
        ),
    ] {
        let fixture = Fixture::plain();
        let tokenizer = format!(r#"{{"version":"1.0","model":{model}{more}}}"#);
        fixture.put("tokenizer.json", &tokenizer);
        fixture.write();
        let warnings = fixture.convert(Encoding::Q8).unwrap().warnings;
        assert_eq!(warnings, [Warning::NotCompiled { model: name }], "{tokenizer}");
        let told = warnings[0].to_string();
        assert!(told.contains(name) && told.contains("tokenizer-json cannot encode text"), "{told}");
        let file = NsvFile::open(fixture.output()).unwrap();
        assert_eq!(file.section(SectionKind::Tokenizer).unwrap(), Some(tokenizer.as_bytes()));
        assert_eq!(file.section(SectionKind::Vocabulary).unwrap(), None);
    }
}

#[test]
fn what_stands_beside_the_weights() {
    let fixture = Fixture::plain();
    let convert = || {
        let report = fixture.convert(Encoding::Q8).unwrap();
        (NsvFile::open(fixture.output()).unwrap(), report.warnings)
    };
    fixture.write();
    let (file, warnings) = convert();
    assert_eq!(warnings, [Warning::NoTokenizer { missing: "tokenizer.json", hint: "" }]);
    let generation = file.generation().unwrap();
    assert_eq!((generation.bos_id, generation.eos_ids, generation.temperature), (Some(1), vec![2], None));

    let tokenizer = r#"{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0,"b":36},"unk_token":"a"}}"#;
    fixture.put("tokenizer.json", tokenizer);
    fixture.put(
        "generation_config.json",
        r#"{"eos_token_id":[3,4,3],"do_sample":true,"temperature":0.6,"top_p":0.9,
        "top_k":50,"min_p":0.05,"repetition_penalty":1.1}"#,
    );
    let several = r#"[{"name":"tool","template":"T"},{"name":"default","template":"D"}]"#;
    fixture.put("tokenizer_config.json", format!(r#"{{"add_bos_token":false,"chat_template":{several}}}"#));
    let (file, warnings) = convert();
    assert_eq!(warnings, [Warning::NotCompiled { model: "WordLevel" }]);
    let g = file.generation().unwrap();
    assert_eq!((g.bos_id, g.add_bos, g.eos_ids), (Some(1), Some(false), vec![3, 4]));
    assert_eq!(g.turn_end_ids, [2], "config.json's");
    assert_eq!((g.temperature, g.top_p, g.top_k), (Some(0.6), Some(0.9), Some(50)));
    assert_eq!((g.min_p, g.repeat_penalty), (Some(0.05), Some(1.1)));
    assert_eq!(file.section(SectionKind::Tokenizer).unwrap(), Some(tokenizer.as_bytes()));
    assert_eq!(file.section(SectionKind::ChatTemplate).unwrap(), Some("D".as_bytes()));
    let provenance = file.provenance().unwrap();
    assert_eq!(provenance.recipe, "--dtype q8");
    let names: Vec<_> = provenance.sources.iter().map(|s| s.name.as_str()).collect();
    let all = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names, all);
    assert_eq!(provenance.sources[3].blake3, blake3::hash(tokenizer.as_bytes()).to_hex().to_string());

    fixture.put("chat_template.jinja", "J").put("generation_config.json", r#"{"do_sample":false,"temperature":0.6}"#);
    let (file, _) = convert();
    assert_eq!(file.section(SectionKind::ChatTemplate).unwrap(), Some("J".as_bytes()));
    assert_eq!(file.generation().unwrap().temperature, Some(0.0));
}

#[test]
fn a_dry_run_tells_the_same_and_leaves_nothing() {
    let fixture = Fixture::plain();
    fixture.write();
    let options = Options { dry_run: true, ..fixture.options(Encoding::Q8) };
    let dry = convert(&options, &(), &AtomicBool::new(false)).unwrap();
    assert_eq!(fs::read_dir(fixture.dir.path()).unwrap().count(), 2);
    let wet = fixture.convert(Encoding::Q8).unwrap();
    assert_eq!((dry.bytes, dry.tensors, dry.worst_snr, dry.root), (wet.bytes, wet.tensors, wet.worst_snr, None));
}
