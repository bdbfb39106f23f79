//! Folders as people have them: what transformers loads is loaded, with a warning; the rest gets a sentence of its own.

use super::*;
use crate::{Warning, compare};
use nanoserve_format::NsvFile;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

const INDEX: &str = "model.safetensors.index.json";
const TWO: &str = "model-00002-of-00002.safetensors";

/// The bytes of every tensor of the file that a fixture becomes.
fn weights(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    let file = NsvFile::open(fixture.output()).unwrap();
    let tensors = file.layout().tensors.iter().filter(|t| t.alias_of.is_none());
    tensors.map(|t| (t.name.clone(), file.tensor(&t.name).unwrap().bytes.to_vec())).collect()
}

/// The tensors that a plain fixture becomes.
fn plain_weights() -> BTreeMap<String, Vec<u8>> {
    let fixture = Fixture::plain();
    fixture.write().convert(Encoding::F32).unwrap();
    weights(&fixture)
}

/// Converts, asserts that the weights are those of a plain fixture, and returns the warnings but for the tokenizer's.
fn same_weights(fixture: &Fixture) -> Vec<Warning> {
    let mut warnings = fixture.convert(Encoding::F32).unwrap().warnings;
    assert!(weights(fixture) == plain_weights());
    warnings.retain(|w| !matches!(w, Warning::NoTokenizer { .. }));
    warnings
}

fn renamed(name: impl Fn(&str) -> String) -> Fixture {
    let mut fixture = Fixture::plain();
    fixture.tensors.iter_mut().for_each(|t| t.key = name(&t.key));
    fixture.write();
    fixture
}

/// What a folder without anything else is refused with, and its hint.
fn sentence(fixture: &Fixture) -> (String, String) {
    let Err(ConvertError::Problems(mut all)) = fixture.convert(Encoding::Q8) else { panic!("it converts") };
    assert_eq!(all.len(), 1, "{all:#?}");
    let problem = all.remove(0);
    (format!("{}: {}", problem.file, problem.what), problem.hint.unwrap_or_default())
}

#[test]
fn numbers_that_only_python_writes() {
    let fixture = Fixture::plain();
    let text = |more: &str| fixture.config.to_string().replacen('{', &format!("{{{more}"), 1);
    fixture.write();
    for unread in ["NaN", "-Infinity", "[0.0, Infinity]", "1e999", "\"\\ud800\"", r#"{"__float__": "Infinity"}"#] {
        fixture.put("config.json", text(&format!("\"unread\": {unread},")));
        fixture.put("generation_config.json", format!("{{\"unread\": {unread}}}"));
        fixture.put("tokenizer_config.json", format!("{{\"model_max_length\": {unread}}}"));
        assert_eq!(same_weights(&fixture), [], "{unread}");
    }
    // A field that is read needs a number.
    for (field, value) in [("rms_norm_eps", "NaN"), ("rope_theta", "Infinity"), ("clip_qkv", "Infinity")] {
        fixture.put("config.json", text(&format!("\"{field}\": {value},")));
        let (said, _) = sentence(&fixture);
        assert!(said.contains(field) && said.contains(value), "{said}");
    }
}

#[test]
fn a_doubled_prefix_is_read_as_transformers_reads_it() {
    let first = "model.lm_head.weight".to_string();
    let fixture = renamed(|key| format!("model.{key}"));
    assert_eq!(same_weights(&fixture), [Warning::PrefixTwice { prefix: "model.", count: 21, first }]);
    // Each key by itself: some with the prefix twice, some without it.
    let fixture = renamed(|key| match key {
        "lm_head.weight" | "model.norm.weight" => format!("model.{key}"),
        key if key.contains("layers.0") => key.replace("model.", ""),
        key => key.to_string(),
    });
    let first = "model.lm_head.weight".to_string();
    assert_eq!(same_weights(&fixture), [Warning::PrefixTwice { prefix: "model.", count: 2, first }]);
    // Two tensors for one place: nobody knows which is meant.
    let mut fixture = Fixture::plain();
    fixture.tensors.push(raw("model.model.norm.weight", "F32", &[72]));
    let (place, what) = fixture.write().problem();
    assert!(place.ends_with("model.model.norm.weight") && matches!(what, What::TensorUnknown), "{what:?}");
}

#[test]
fn what_training_tools_add_to_names_is_one_line() {
    for (part, by) in [
        ("_orig_mod.", "torch.compile"),
        ("module.", "DataParallel"),
        ("base_model.model.", "PEFT"),
        ("pretrained_model.", "TRL"),
    ] {
        let (said, hint) = sentence(&renamed(|key| format!("{part}{key}")));
        assert!(said.contains(&format!("21 tensors hold '{part}', as {by}")), "{said}");
        assert!(hint.contains("save_pretrained"), "{hint}");
    }
    let inside = renamed(|key| key.replace("layers.1.", "layers.1._fsdp_wrapped_module."));
    let (said, _) = sentence(&inside);
    assert!(said.contains("9 tensors hold '_fsdp_wrapped_module.', as FSDP"), "{said}");
    let (said, hint) = sentence(&renamed(|key| format!("llm.{key}")));
    assert!(said.contains("21 tensors hold 'llm.', and") && hint.contains("part of another"), "{said}: {hint}");
}

#[test]
fn heads_and_scales_that_no_model_needs_are_ignored() {
    let mut fixture = Fixture::plain();
    let scale = "model.layers.0.self_attn.k_scale";
    for key in [scale, "model.layers.1.self_attn.v_proj.v_scale", "v_head.summary.weight", "score.weight"] {
        fixture.tensors.push(raw(key, "F32", &[1]));
    }
    let said: Vec<String> = same_weights(fixture.write()).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "2 tensors ignored, of another head than the class in config.json has: score.weight, ...".to_string(),
            format!("2 tensors ignored, the scales of an 8-bit KV cache, which this one is not: {scale}, ..."),
        ]
    );
}

#[test]
fn f64_is_rounded() {
    let mut fixture = Fixture::new("F64", false);
    fixture.write();
    let first = "lm_head.weight".to_string();
    assert_eq!(same_weights(&fixture), [Warning::Rounded { count: 21, first }]);
    let norm = "model.norm.weight";
    let set = |fixture: &mut Fixture, x: f64| {
        fixture.tensor(norm).bytes[16..24].copy_from_slice(&x.to_le_bytes());
        fixture.write();
    };
    // Rounded to the nearest, half-way to even; the last finite one still fits.
    for (x, rounded) in [(0.1, 0.1f32), (1.0 + 2f64.powi(-24), 1.0), (3.402_823_466_385_288_6e38, f32::MAX)] {
        set(&mut fixture, x);
        fixture.convert(Encoding::F32).unwrap();
        assert_eq!(weights(&fixture)["final_norm.weight"][8..12], rounded.to_le_bytes(), "{x}");
    }
    fs::remove_file(fixture.output()).unwrap();
    for x in [1e300, -1e39] {
        set(&mut fixture, x);
        let (_, what) = fixture.problem();
        assert!(
            matches!(&what, What::BeyondF32 { index, value, count: 1 } if index == &[2] && *value == x),
            "{what:?}"
        );
    }
    set(&mut fixture, f64::NAN);
    assert!(matches!(fixture.problem().1, What::NotFinite { count: 1, .. }));
}

#[test]
fn an_index_is_only_a_list_of_shards() {
    const GHOST: &str = "model.ghost.weight";
    const NORM: &str = "model.norm.weight";
    let ghost: fn(&mut serde_json::Map<String, Value>) = |map| _ = map.insert(GHOST.into(), json!(TWO));
    for (change, odd) in [
        (ghost, GHOST),
        (|map| _ = map.remove(NORM), NORM),
        (|map| map[NORM] = json!("model-00001-of-00002.safetensors"), NORM),
    ] {
        let fixture = Fixture::plain();
        fixture.write_shards(|index, _| change(index["weight_map"].as_object_mut().unwrap()));
        assert_eq!(same_weights(&fixture), [Warning::IndexDiffers { count: 1, first: odd.into() }]);
    }
    // The same name with the same file, twice.
    let fixture = Fixture::plain();
    fixture.write_shards(|_, _| {});
    let index = fs::read_to_string(fixture.dir.path().join(INDEX)).unwrap();
    fixture.put(INDEX, index.replace("\"weight_map\":{", &format!("\"weight_map\":{{\"{NORM}\":\"{TWO}\",")));
    assert_eq!(same_weights(&fixture), []);
}

#[test]
fn what_the_user_leaves_out() {
    let mut fixture = Fixture::plain();
    for key in ["model.layers.0.extra.weight", "model.layers.1.extra.weight", "other"] {
        fixture.tensors.push(raw(key, "F32", &[3]));
    }
    fixture.write();
    let with = |patterns: &[&str]| {
        let leave_out = patterns.iter().map(ToString::to_string).collect();
        Options { leave_out, ..fixture.options(Encoding::F32) }
    };
    let convert = |patterns: &[&str]| convert(&with(patterns), &(), &AtomicBool::new(false));
    let kinds = |patterns: &[&str]| -> Vec<String> {
        let Err(ConvertError::Problems(all)) = convert(patterns) else { panic!("{patterns:?} convert") };
        all.iter().map(|p| format!("{} {}", p.tensor.clone().unwrap_or_default(), p.what)).collect()
    };
    let report = convert(&["*.extra.*", "o?her"]).unwrap();
    let left = Warning::LeftOutAsked { count: 3, first: "model.layers.0.extra.weight".into() };
    assert!(report.warnings.contains(&left), "{:?}", report.warnings);
    assert!(weights(&fixture) == plain_weights());
    // What was asked for is a part of the recipe, and a comparison needs it too.
    let recipe = NsvFile::open(fixture.output()).unwrap().provenance().unwrap().recipe;
    assert_eq!(recipe, "--dtype f32 --leave-out '*.extra.*' --leave-out 'o?her'");
    let found = compare(&with(&["*.extra.*", "o?her"]), &(), &AtomicBool::new(false)).unwrap();
    assert_eq!(found.differences, []);

    assert_eq!(kinds(&["*.extra.*"]), ["other is no tensor of this model"]);
    assert_eq!(kinds(&["*.extra.*", "other", "extra"]), [r#" no tensor's name matches the pattern "extra""#]);
    let wrong = kinds(&["*.extra.*", "other", "[a"]);
    assert!(wrong.len() == 1 && wrong[0].starts_with(r#" the pattern "[a" is wrong: "#), "{wrong:?}");
    // Never silently.
    let needed = "model.norm.weight is left out, and the model needs it";
    assert_eq!(kinds(&["*.extra.*", "other", "model.norm*"]), [needed]);
    assert_eq!(kinds(&["*"]).len(), 21);
}

#[test]
fn adapters_are_refused_with_the_way_to_merge_them() {
    let config = r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": Infinity}"#;
    let fixture = Fixture::plain();
    fixture.write().put("adapter_model.safetensors", "x").put("adapter_config.json", config);
    let (said, hint) = sentence(&fixture);
    assert_eq!(said, r#"adapter_config.json: is an adapter ("LORA") of "org/base""#);
    assert!(hint.contains("merge_and_unload()") && hint.contains("without it"), "{hint}");
    fs::remove_file(fixture.dir.path().join("adapter_config.json")).unwrap();
    assert_eq!(sentence(&fixture).0, "adapter_model.safetensors: is an adapter");
    // Alone.
    let fixture = Fixture::plain();
    fixture.put("adapter_model.safetensors", "x").put("adapter_config.json", config);
    let all: Vec<String> = fixture.problems(Encoding::Q8).into_iter().map(|(place, _)| place).collect();
    assert_eq!(all, ["adapter_config.json"]);
    // Within the model.
    let mut fixture = renamed(|key| match key.strip_suffix(".self_attn.q_proj.weight") {
        Some(layer) => format!("base_model.model.{layer}.self_attn.q_proj.base_layer.weight"),
        None => format!("base_model.model.{key}"),
    });
    fixture.tensors.push(raw("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "F32", &[2]));
    let said: Vec<String> = fixture.write().problems(Encoding::Q8).iter().map(|(_, what)| what.to_string()).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("1 tensors of an adapter") && said[1].contains("'base_model.model.', as PEFT"),
        "{said:?}"
    );
}

/// Puts something at a path.
type Make<'a> = Box<dyn Fn(&std::path::Path) + 'a>;

#[test]
fn what_stands_in_the_place_of_a_file_gets_its_own_sentence() {
    let names = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ];
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "{}").unwrap();
    let kinds: [(&str, Make); 7] = [
        (
            "is a named pipe, expected a file",
            Box::new(|path| {
                mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            }),
        ),
        ("is a folder, expected a file", Box::new(|path| fs::create_dir(path).unwrap())),
        (
            r#"is a link to "../blobs/none", which is not there"#,
            Box::new(|path| symlink("../blobs/none", path).unwrap()),
        ),
        (
            r#"is a link to "/dev/zero", which is outside of the folder"#,
            Box::new(|path| symlink("/dev/zero", path).unwrap()),
        ),
        ("which is outside of the folder", Box::new(|path| symlink(outside.path(), path).unwrap())),
        (
            "is a socket or a device, expected a file",
            Box::new(|path| {
                std::os::unix::net::UnixListener::bind(path).unwrap();
            }),
        ),
        ("is empty", Box::new(|path| fs::write(path, "").unwrap())),
    ];
    for name in names {
        for (expected, make) in &kinds {
            let fixture = Fixture::plain();
            fixture.write();
            let path = fixture.dir.path().join(name);
            let _ = fs::remove_file(&path);
            make(&path);
            if *expected == "is empty" && name.ends_with("jinja") {
                // A template may say nothing.
                fixture.convert(Encoding::Q8).unwrap();
                continue;
            }
            let (said, _) = sentence(&fixture);
            assert!(said.starts_with(name) && said.contains(expected), "{said}, expected {expected}");
        }
    }
    // A file that only grows is read to its bound, not to the end.
    let fixture = Fixture::plain();
    fixture.write();
    for (name, most) in [("config.json", 16u64 << 20), ("chat_template.jinja", 4 << 20)] {
        let file = fs::File::create(fixture.dir.path().join(name)).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(sentence(&fixture).0, format!("{name}: has more than {most} bytes"));
        fixture.write();
    }
}

#[test]
fn caches_of_a_hub() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("hub/models--org--name");
    let (old, new) = (model.join("snapshots/aaaa"), model.join("snapshots/bbbb"));
    for folder in [&old, &new, &model.join("blobs"), &model.join("refs")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(model.join("refs/main"), "aaaa").unwrap();
    let fixture = Fixture::plain();
    fixture.write();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture.dir.path().join(name), model.join("blobs").join(name)).unwrap();
        symlink(format!("../../blobs/{name}"), new.join(name)).unwrap();
    }
    let from = |source: &std::path::Path| {
        convert(&Options { source: source.into(), ..fixture.options(Encoding::F32) }, &(), &AtomicBool::new(false))
    };
    let hint = |source: &std::path::Path| match from(source) {
        Err(ConvertError::Problems(all)) if all.len() == 1 => all[0].hint.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(hint(&model), format!("give {}", old.display()), "what main is at");
    assert_eq!(hint(&model.join("snapshots")), format!("give {}", new.display()));
    assert_eq!(hint(&dir.path().join("hub")), format!("give one of them, such as {}", new.display()));
    from(&new).unwrap();
    assert!(weights(&fixture) == plain_weights());
    fs::remove_file(model.join("blobs/model.safetensors")).unwrap();
    let Err(ConvertError::Problems(all)) = from(&new) else { panic!() };
    assert!(matches!(&all[..], [p] if matches!(p.what, What::DanglingLink { .. })), "{all:?}");
}

#[test]
fn nothing_private_goes_into_the_file() {
    let private = tempfile::NamedTempFile::new().unwrap();
    fs::write(private.path(), "---\nlicense: my-secret\n---\n").unwrap();
    let fixture = Fixture::plain();
    fixture.write();
    let path = |name: &str| fixture.dir.path().join(name);
    for name in ["LICENSE", "README.md", "NOTICE.txt"] {
        symlink(private.path(), path(name)).unwrap();
    }
    symlink("/dev/zero", path("COPYING")).unwrap();
    mknodat(CWD, path("USE_POLICY.md"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    fs::create_dir(path("LICENSES")).unwrap();
    fixture.put("text", "Do what you want.");
    symlink("text", path("LICENCE")).unwrap();
    let report = fixture.convert(Encoding::Q8).unwrap();
    let not_kept: Vec<&str> = report
        .warnings
        .iter()
        .filter_map(|w| if let Warning::LicenceNotKept { name, .. } = w { Some(name.as_str()) } else { None })
        .collect();
    assert_eq!(not_kept, ["COPYING", "LICENSE", "NOTICE.txt", "USE_POLICY.md"]);
    let bytes = fs::read(fixture.output()).unwrap();
    assert!(!bytes.windows(9).any(|w| w == b"my-secret"));
    let provenance = NsvFile::open(fixture.output()).unwrap().provenance().unwrap();
    let kept: Vec<_> = provenance.license_files.iter().map(|f| (f.name.as_str(), f.text.as_str())).collect();
    assert_eq!((kept, provenance.license), (vec![("LICENCE", "Do what you want.")], None));
}

#[test]
fn templates_of_a_folder_elsewhere_are_not_read() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("rag.jinja"), "{{ secret }}").unwrap();
    let fixture = Fixture::plain();
    fixture.write();
    symlink(outside.path(), fixture.dir.path().join("additional_chat_templates")).unwrap();
    let (said, _) = sentence(&fixture);
    assert!(said.starts_with("additional_chat_templates: is a link to") && said.contains("outside"), "{said}");
}

#[test]
fn a_file_of_another_model_is_told_by_its_fields() {
    let fixture = Fixture::plain();
    fixture.write().convert(Encoding::Q8).unwrap();
    let mut other = Fixture::new("BF16", true);
    other.config["rope_theta"] = json!(5e5);
    let options = Options { output: fixture.output(), ..other.write().options(Encoding::Q8) };
    let found = compare(&options, &(), &AtomicBool::new(false)).unwrap();
    assert_eq!(found.differences.len(), 1);
    assert_eq!(
        (found.differences[0].what.as_str(), found.differences[0].how.as_str()),
        (
            "description",
            "the file is of another model than the sources: attn_out_bias is false and not true, mlp_bias is false and not \
             true, qkv_bias is false and not true, rope.theta is 10000.0 and not 500000.0"
        )
    );
}

#[test]
fn what_a_conversion_reads_is_what_it_says_of_names() {
    let fixture = Fixture::plain();
    fixture.write();
    for name in ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json"] {
        fixture.put(name, "{}");
    }
    fixture.put("tokenizer.json", r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#);
    fixture.put("chat_template.jinja", "{{ messages }}");
    fs::create_dir(fixture.dir.path().join("additional_chat_templates")).unwrap();
    fixture.put("additional_chat_templates/tool_use.jinja", "{{ tools }}");
    fixture.put("LICENSE", "Do what you want.");
    fixture.put("notes.txt", "Read by nobody.");
    fixture.convert(Encoding::F32).unwrap();
    let provenance = NsvFile::open(fixture.output()).unwrap().provenance().unwrap();
    let licences = provenance.license_files.into_iter().map(|file| file.name);
    let names: Vec<String> = provenance.sources.into_iter().map(|file| file.name).chain(licences).collect();
    let small = names.iter().filter(|name| !name.ends_with(".safetensors"));
    assert!(small.clone().count() >= 9 && small.clone().all(|name| crate::reads(name)), "{names:?}");
    for name in [
        "notes.txt",
        "model.safetensors",
        "onnx/config.json",
        "license/x.md",
        "LICENSE/../../x.md",
        "additional_chat_templates/a/b.jinja",
        "additional_chat_templates/../x.jinja",
        "additional_chat_templates.jinja",
    ] {
        assert!(!crate::reads(name), "{name}");
    }
}
