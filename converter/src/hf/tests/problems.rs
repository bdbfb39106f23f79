//! One bad folder for each kind of problem.

use super::*;
use crate::Warning;
use rustix::fs::FileType;

const Q: &str = "model.layers.1.self_attn.q_proj.weight";
const K: &str = "model.layers.0.self_attn.k_proj.weight";
const NORM: &str = "model.norm.weight";
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn at(file: &str, tensor: &str) -> String {
    format!("{file}/{tensor}")
}

macro_rules! assert_problem {
    ($fixture:expr, $place:expr, $what:pat $(if $guard:expr)?) => {
        let (place, what) = $fixture.problem();
        assert_eq!(place, $place, "{what}");
        assert!(matches!(&what, $what $(if $guard)?), "{what:?}");
    };
}

#[test]
fn sources_that_are_no_checkpoint() {
    let fixture = Fixture::plain();
    fixture.write().put("model.gguf", "GGUF");
    let result = |source: PathBuf| {
        let options = Options { source, ..fixture.options(Encoding::Q8) };
        let Err(ConvertError::Problems(mut all)) = convert(&options, &(), &AtomicBool::new(false)) else { panic!() };
        assert_eq!(all.len(), 1);
        all.remove(0).what
    };
    let path = |name: &str| fixture.dir.path().join(name);
    assert!(matches!(result(path("none")), What::NotAFolder { got: "not there" }));
    assert!(matches!(result(path("none/none")), What::NotAFolder { got: "not there" }));
    for name in ["model.safetensors", "config.json"] {
        let what = result(path(name));
        assert!(matches!(&what, What::FileOfFolder { folder } if folder == fixture.dir.path()), "{what:?}");
    }
    fs::write(path("notes.txt"), "x").unwrap();
    assert!(matches!(result(path("notes.txt")), What::NotAFolder { got: "a file" }));
    assert!(matches!(result("/dev/null".into()), What::NotAFolder { got: "a device" }));
    assert!(matches!(result("no-such-org/no-such-model".into()), What::HubName { .. }));
    std::os::unix::fs::symlink("../gone", path("link")).unwrap();
    assert!(matches!(result(path("link")), What::DanglingLink { target } if target.as_os_str() == "../gone"));
    // It begins as a GGUF file, so it is read as one.
    assert!(matches!(result(path("model.gguf")), What::Header { .. }));
}

#[test]
fn missing_and_foreign_files() {
    let fixture = Fixture::plain();
    fixture.put("model.safetensors", safetensors(&fixture.tensors));
    assert_problem!(fixture, "config.json", What::FileMissing { .. });
    for name in ["pytorch_model.bin", "llama.gguf", "consolidated.00.pth"] {
        let fixture = Fixture::plain();
        fixture.put("config.json", fixture.config.to_string()).put(name, "x");
        assert_problem!(fixture, name, What::Foreign { .. });
    }
    let fixture = Fixture::plain();
    fixture.put("config.json", fixture.config.to_string()).put(ONE, "x");
    assert_problem!(fixture, "model.safetensors", What::FileMissing { found } if found.contains(ONE));
    let fixture = Fixture::plain();
    fixture.write();
    fs::create_dir(fixture.dir.path().join("tokenizer.json")).unwrap();
    assert_problem!(fixture, "tokenizer.json", What::NotAFile { got: "a folder" });
}

#[test]
fn outputs_that_cannot_be() {
    let fixture = Fixture::plain();
    fixture.write();
    let what = |output: &str| {
        let options = Options { output: fixture.dir.path().join(output), ..fixture.options(Encoding::Q8) };
        let Err(ConvertError::Problems(mut all)) = convert(&options, &(), &AtomicBool::new(false)) else { panic!() };
        assert_eq!(all.len(), 1);
        all.remove(0).what
    };
    assert!(matches!(what("none/out.nsv"), What::OutputPlace { .. }));
    assert!(matches!(what("config.json/out.nsv"), What::OutputPlace { .. }));
    assert!(matches!(what("."), What::OutputPlace { .. }));
    let there = fixture.dir.path().join("thesis.txt");
    fs::write(&there, "all that I have").unwrap();
    assert!(matches!(what("thesis.txt"), What::OutputForeign));
    rustix::fs::mknodat(rustix::fs::CWD, fixture.dir.path().join("pipe"), FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(what("pipe"), What::OutputPlace { got } if got == "it names a named pipe"));
    fs::hard_link(fixture.dir.path().join("model.safetensors"), fixture.dir.path().join("link.nsv")).unwrap();
    for name in ["model.safetensors", "link.nsv"] {
        assert!(matches!(what(name), What::OutputIsSource { source_file } if source_file == "model.safetensors"));
    }
    // Only who asks for it loses a file; an empty one, as mktemp makes it, is no loss.
    assert_eq!(fs::read_to_string(&there).unwrap(), "all that I have");
    let options = Options { output: there, force: true, ..fixture.options(Encoding::Q8) };
    convert(&options, &(), &AtomicBool::new(false)).unwrap();
    convert(&Options { force: false, ..options }, &(), &AtomicBool::new(false)).unwrap();
    fixture.put("empty", "");
    let options = Options { output: fixture.dir.path().join("empty"), ..fixture.options(Encoding::Q8) };
    convert(&options, &(), &AtomicBool::new(false)).unwrap();
}

#[test]
fn json_that_is_none() {
    for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let fixture = Fixture::plain();
        fixture.write().put(name, "{\"a\": ");
        assert_problem!(fixture, name, What::Json { .. });
    }
    let fixture = Fixture::plain();
    fixture.write_shards(|_, _| {}).put("model.safetensors.index.json", "[]");
    assert_problem!(fixture, "model.safetensors.index.json", What::Json { .. });
}

/// A fixture whose weights are these bytes.
fn weights(bytes: impl AsRef<[u8]>) -> Fixture {
    let fixture = Fixture::plain();
    fixture.write().put("model.safetensors", bytes);
    fixture
}

#[test]
fn shards_that_lie() {
    let file = "model.safetensors";
    let whole = safetensors(&Fixture::plain().tensors);
    assert_problem!(weights(&whole[..whole.len() - 1]), file, What::ShardLength { got, expected } if got + 1 == *expected);
    assert_problem!(weights([&whole[..], b"x"].concat()), file, What::ShardLength { got, expected } if *got == expected + 1);
    assert_problem!(weights(&whole[..7]), file, What::ShardLength { got: 7, expected: 8 });
    assert_problem!(weights(""), file, What::Empty);
    assert_problem!(weights(&whole[..100]), file, What::HeaderLength { room: 92, .. });
    assert_problem!(weights([0xff; 64]), file, What::HeaderLength { got: u64::MAX, room: 56 });
    assert_problem!(weights("version https://git-lfs.github.com/spec/v1\n"), file, What::LfsPointer);
    assert_problem!(weights(container("{\"a\": 1}", b"")), file, What::Header { .. });
    assert_problem!(weights(container("not json", b"")), file, What::Header { .. });
    // Only the safetensors crate refuses these.
    let header = r#"{"__metadata__":{"a":1},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert_problem!(weights(container(header, &[0; 4])), file, What::Header { .. });
}

#[test]
fn headers_that_lie_about_a_tensor() {
    let problem_of = |entries: &str, bytes: usize| weights(container(entries, &vec![0; bytes])).problem();
    let tensor = |key: &str, dtype: &str, shape: &str, from: usize, to: usize| {
        format!(r#""{key}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    // Such a header lacks nearly all tensors, but a broken shard does not report any as missing.
    let unknown = |all: Vec<(String, What)>| -> Vec<(String, What)> {
        all.into_iter().filter(|(_, what)| !matches!(what, What::TensorUnknown)).collect()
    };
    let lie = |entries: String, bytes: usize| {
        let mut all = unknown(weights(container(&format!("{{{entries}}}"), &vec![0; bytes])).problems(Encoding::F32));
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).1
    };
    let overlap = [tensor("a", "F32", "[2]", 0, 8), tensor("b", "F32", "[2]", 4, 12)].join(",");
    assert!(matches!(lie(overlap, 12), What::Offsets { got: 4, expected: 8 }));
    let gap = [tensor("a", "F32", "[2]", 0, 8), tensor("b", "F32", "[2]", 12, 20)].join(",");
    assert!(matches!(lie(gap, 20), What::Offsets { got: 12, expected: 8 }));
    assert!(matches!(lie(tensor("a", "F32", "[2]", 0, 4), 4), What::TensorBytes { got: 4, .. }));
    let huge = format!("[{0},{0},{0}]", 1u64 << 40);
    assert!(matches!(lie(tensor("a", "F32", &huge, 0, 4), 4), What::TensorBytes { .. }));
    let twice = [tensor("a", "F32", "[1]", 0, 4), tensor("a", "F32", "[1]", 4, 8)].join(",");
    assert!(matches!(
        weights(container(&format!("{{{twice}}}"), &[0; 8])).problems(Encoding::F32)[0].1,
        What::DuplicateKey
    ));
    assert!(matches!(lie(tensor("a", "F4_E9", "[1]", 0, 4), 4), What::Dtype { .. }));
    let (place, what) = problem_of("{\"a\":{}}", 0);
    assert!(place == "model.safetensors" && matches!(what, What::Header { .. }));
}

#[test]
fn an_index_that_lies() {
    let fixture = Fixture::plain();
    fixture.write_shards(|_, _| {});
    fs::remove_file(fixture.dir.path().join(TWO)).unwrap();
    assert_problem!(fixture, TWO, What::ShardMissing);

    let fixture = Fixture::plain();
    fixture.write_shards(|_, shards| shards[1].retain(|t| t.key != NORM));
    assert_problem!(fixture, at("model.safetensors.index.json", NORM), What::TensorMissing);

    let fixture = Fixture::plain();
    let copy = raw(K, "BF16", &[10, 72]);
    fixture.write_shards(|_, shards| shards[1].push(copy));
    assert_problem!(fixture, at(TWO, K), What::TwoShards { other } if other == ONE);

    let fixture = Fixture::plain();
    fixture.write_shards(|index, _| index["weight_map"][NORM] = json!("../../etc/passwd"));
    let all = fixture.problems(Encoding::F32);
    assert!(matches!(&all[0].1, What::Field { field, .. } if field == "weight_map"), "{all:?}");

    let fixture = Fixture::plain();
    fixture.write_shards(|_, _| {});
    let index = fs::read_to_string(fixture.dir.path().join("model.safetensors.index.json")).unwrap();
    let index = index.replace("\"weight_map\":{", &format!("\"weight_map\":{{\"{NORM}\":\"{ONE}\","));
    fixture.put("model.safetensors.index.json", index);
    assert_problem!(fixture, at("model.safetensors.index.json", NORM), What::DuplicateKey);
}

#[test]
fn tensors_that_do_not_fit_the_model() {
    let file = "model.safetensors";
    let mut fixture = Fixture::plain();
    fixture.tensors.retain(|t| t.key != K);
    assert_problem!(fixture.write(), at(file, K), What::TensorMissing);

    let mut fixture = Fixture::plain();
    fixture.tensors.retain(|t| t.key != "lm_head.weight");
    assert_problem!(fixture.write(), at(file, "lm_head.weight"), What::HeadMissing { .. });

    let mut fixture = Fixture::plain();
    fixture.tensors.push(raw("model.layers.0.self_attn.q_norm.weight", "F32", &[10]));
    assert_problem!(fixture.write(), at(file, "model.layers.0.self_attn.q_norm.weight"), What::TensorUnknown);

    let mut fixture = Fixture::plain();
    fixture.tensors.push(raw("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[5]));
    assert_eq!(fixture.write().convert(Encoding::F32).unwrap().warnings.len(), 2);

    let mut fixture = Fixture::plain();
    *fixture.tensor(NORM) = Raw { key: NORM.into(), dtype: "I16", shape: vec![72], bytes: vec![0; 144] };
    assert_problem!(fixture.write(), at(file, NORM), What::Dtype { got } if got == "I16");

    for shape in [vec![], vec![1, 72], vec![71]] {
        let mut fixture = Fixture::plain();
        *fixture.tensor(NORM) = raw(NORM, "F32", &shape);
        assert_problem!(fixture.write(), at(file, NORM), What::Shape { got, .. } if *got == shape);
    }
}

#[test]
fn a_wrong_head_count_says_so() {
    let mut fixture = Fixture::plain();
    fixture.config["num_key_value_heads"] = json!(3);
    let all = fixture.write().problems(Encoding::Q8);
    assert_eq!(all.len(), 4, "k and v of both layers");
    let text = all[0].1.to_string();
    assert_eq!(text, "has shape [10, 72], expected [num_key_value_heads 3 x head_dim 10 = 30, hidden_size 72]");
    let hint = all[0].1.hint().unwrap();
    assert!(hint.contains("1 heads of 10") && hint.contains("num_key_value_heads"), "{hint}");
}

#[test]
fn a_great_many_missing_layers_are_one_problem() {
    let mut fixture = Fixture::plain();
    fixture.config["num_hidden_layers"] = json!(1 << 16);
    assert_problem!(fixture.write(), "config.json", What::Field { field, got, .. } if field == "num_hidden_layers" && got == "65536");
}

#[test]
fn quantized_checkpoints() {
    for key in ["model.layers.0.mlp.up_proj.qweight", "model.layers.0.mlp.up_proj.weight.absmax"] {
        let mut fixture = Fixture::plain();
        fixture.tensors.push(raw(key, "F32", &[4]));
        assert_problem!(fixture.write(), "model.safetensors", What::Quantized { .. });
    }
    let mut fixture = Fixture::plain();
    *fixture.tensor(NORM) = Raw { key: NORM.into(), dtype: "F8_E4M3", shape: vec![72], bytes: vec![0; 72] };
    assert_problem!(fixture.write(), "model.safetensors", What::Quantized { method } if method == "fp8");
}

#[test]
fn all_bad_values_of_all_tensors() {
    let mut fixture = Fixture::new("F32", false);
    let mut set = |key: &str, index: usize, x: f32| {
        fixture.tensor(key).bytes[4 * index..4 * index + 4].copy_from_slice(&x.to_le_bytes());
    };
    set(K, 72 + 3, f32::NAN);
    set(K, 9 * 72, f32::INFINITY);
    set(Q, 17 * 72 + 40, 1e30);
    set(NORM, 7, f32::NEG_INFINITY);
    fixture.write();
    let all = fixture.problems(Encoding::F32);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(matches!(&all[0], (place, What::NotFinite { index, count: 2, .. })
        if *place == at("model.safetensors", K) && index == &[1, 3]));
    assert!(matches!(&all[1].1, What::NotFinite { index, value: f32::NEG_INFINITY, .. } if index == &[7]));
    for (encoding, col) in [(Encoding::F16, 40), (Encoding::Q8, 32)] {
        let all = fixture.problems(encoding);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(matches!(&all[1], (place, What::OutOfRange { row: 17, col: c, value: 1e30, .. })
            if *place == at("model.safetensors", Q) && *c == col));
    }
}

#[test]
fn tokenizers_and_token_ids() {
    let fixture = Fixture::plain();
    fixture.write().put("tokenizer.json", "{}");
    assert_problem!(fixture, "tokenizer.json", What::Tokenizer { .. });
    let tokenizer = r#"{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0,"b":37},"unk_token":"a"}}"#;
    fixture.put("tokenizer.json", tokenizer);
    assert_problem!(fixture, "tokenizer.json", What::TokenId { got: 37, vocab_size: 37, .. });
    // One that is beyond, although its file lists it among the added tokens, too.
    let tokenizer = r#"{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0,"b":37,"c":38},"unk_token":"a"},
        "added_tokens":[{"id":38,"content":"c","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,
        "special":true}]}"#;
    fixture.put("tokenizer.json", tokenizer);
    assert_problem!(fixture, "tokenizer.json", What::TokenId { got: 37, vocab_size: 37, .. });
    for (file, content) in [
        ("added_tokens.json", r#"{"<x>": "1"}"#),
        ("added_tokens.json", "[]"),
        ("special_tokens_map.json", "3"),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": []}"#),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": {"content": "<x>"}}}"#),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"7": {"special": true}}}"#),
    ] {
        let fixture = Fixture::plain();
        let good = r#"{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0,"b":36},"unk_token":"a"}}"#;
        fixture.write().put("tokenizer.json", good).put(file, content);
        assert_problem!(fixture, file, What::Field { .. } | What::Json { .. });
    }
    let fixture = Fixture::plain();
    fixture.write().put("generation_config.json", r#"{"eos_token_id": [2, 99]}"#);
    assert_problem!(fixture, "generation_config.json", What::TokenId { got: 99, .. });
    for (field, value) in [("top_p", "1.5"), ("temperature", "-1"), ("eos_token_id", "-1"), ("top_k", "\"x\"")] {
        fixture.put("generation_config.json", format!("{{\"{field}\": {value}}}"));
        assert_problem!(fixture, "generation_config.json", What::Field { field: f, .. } if f == field);
    }
    let fixture = Fixture::plain();
    fixture.write().put("chat_template.jinja", [0xff, 0xfe]);
    assert_problem!(fixture, "chat_template.jinja", What::Field { .. });
}

/// Nothing makes such a token but its own spelling, so the model is of use without its row.
#[test]
fn added_tokens_behind_the_last_row_are_warned_about() {
    let vocab: serde_json::Map<String, Value> = (0..37).map(|i| (format!("t{i}"), json!(i))).collect();
    for (special, count) in [(false, 1), (true, 1), (true, 3)] {
        let token = |id: usize| {
            json!({"id": id, "content": format!("<image {id}>"), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special})
        };
        let tokenizer = json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"},
            "added_tokens": (37..37 + count).map(token).collect::<Vec<_>>()});
        let fixture = Fixture::plain();
        fixture.write().put("tokenizer.json", tokenizer.to_string());
        let warnings = fixture.convert(Encoding::F32).unwrap().warnings;
        let first = "<image 37>".to_string();
        assert!(warnings.contains(&Warning::TokensWithoutRow { count, first, id: 37, vocab_size: 37 }), "{warnings:?}");
    }
}

#[test]
fn problems_of_every_step_come_together() {
    let mut fixture = Fixture::plain();
    fixture.tensors.retain(|t| t.key != K);
    fixture.write().put("tokenizer.json", "{}").put("generation_config.json", r#"{"top_p": 7}"#);
    let places: Vec<_> = fixture.problems(Encoding::Q8).into_iter().map(|(place, _)| place).collect();
    assert_eq!(places, [&at("model.safetensors", K), "tokenizer.json", "generation_config.json"]);
    let Err(error) = fixture.convert(Encoding::Q8) else { panic!() };
    assert_eq!(error.to_string().matches("hint:").count(), 1);
}
