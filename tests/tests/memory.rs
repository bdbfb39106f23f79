//! Memory use: a small file that claims huge sizes makes the parser allocate little, and conversions and sessions use
//! no more than they announce.
//!
//! This program has a single test, so that nothing else allocates while it counts.

use nanoserve_format::{Encoding, parse};
use nanoserve_runtime::backend::DEFAULT_CHUNK;
use nanoserve_runtime::engine::admission::sequence_bytes;
use nanoserve_runtime::{Engine, EngineOptions, KvType};
use nanoserve_tests::counting::{Counting, peak};
use nanoserve_tests::{ENCODINGS, SourceType, Tiny, convert_with};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A file of a kilobyte with an arbitrary description and directory, and correct hashes.
fn liar(description: &[u8], directory: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x89NSV\r\n\x1a\n");
    put(8, &[1]);
    put(16, &136u64.to_le_bytes());
    put(24, &1024u64.to_le_bytes());
    put(192, &[2]);
    for (at, kind, offset, body) in [(200, 1, 384usize, description), (264, 2, 896, directory)] {
        put(at, &[kind, 0, 0, 0, 1]);
        put(at + 8, &offset.to_le_bytes());
        put(at + 16, &body.len().to_le_bytes());
        put(at + 32, blake3::hash(body).as_bytes());
        put(offset, body);
    }
    let root = blake3::Hasher::new().update(&file[..32]).update(&file[192..328]).finalize();
    file[32..64].copy_from_slice(root.as_bytes());
    file
}

/// Files that claim more than they hold, each with words of the error.
fn liars() -> Vec<(Vec<u8>, &'static str)> {
    let spec = |size: u64, layers: u64, vocab: u64| {
        let json = json!({
            "hidden_size": size, "intermediate_size": size, "n_layers": layers, "n_heads": 65536, "n_kv_heads": 65536,
            "head_dim": 4096, "vocab_size": vocab, "context_length": size, "norm_eps": 1e-5,
            "rope": {"theta": 1e4, "scaling": {"kind": "default"}},
            "activation": "silu", "qkv_bias": true, "attn_out_bias": true, "mlp_bias": true, "tied_lm_head": false,
        });
        json.to_string().into_bytes()
    };
    let giant = spec(1 << 28, 65536, 1 << 28);
    let count = |n: u32, rest: &[u8]| [&n.to_le_bytes()[..], rest].concat();
    let tensors = 3 + 65536 * 16;
    let rank_255 = [&[5, 0][..], b"embed", &[0, 0, 255]].concat();
    vec![
        (liar(&giant, &count(tensors, &[])), "ends inside"),
        (liar(&giant, &count(u32::MAX, &[])), "entries"),
        (liar(&giant, &count(tensors, &[0xff, 0xff, b'a'])), "ends inside"),
        (liar(&giant, &count(tensors, &rank_255)), "ends inside"),
        (liar(&giant, &count(tensors, &[0; 120])), "ends inside"),
        (liar(&spec(u64::MAX, 1, 1), &count(19, &[])), "hidden_size"),
        (liar(&vec![b'['; 500], &count(0, &[])), "cannot be read"),
    ]
}

#[test]
fn claims_cost_nothing_a_conversion_little_and_a_session_what_was_said() {
    // A first call for what is allocated only once: tables of the hash, the panic machinery.
    parse(&liars()[0].0).unwrap_err();
    for (i, (file, words)) in liars().into_iter().enumerate() {
        let mut message = String::new();
        let bytes = peak(|| message = parse(&file).unwrap_err().to_string());
        assert!(message.contains(words), "liar {i}: {message}");
        assert!(bytes < 16 * 1024, "liar {i}: {bytes} bytes allocated before it said: {message}");
    }

    // The largest tensor has 16 MB as f32: less than twice that is in use, whatever the encoding.
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { vocab: 16384, hidden: 256, intermediate: 512, dtype: SourceType::Bf16, ..Tiny::default() };
    let (source, out) = (folder.path().join("source"), folder.path().join("out.nsv"));
    tiny.write(&source);
    let largest = 4 * tiny.vocab * tiny.hidden;
    for encoding in ENCODINGS {
        let bytes = peak(|| _ = convert_with(&source, encoding, &out, Some(2)));
        println!(
            "{encoding}: {:.1} MB in use for a largest tensor of {:.1} MB",
            bytes as f64 / 1e6,
            largest as f64 / 1e6
        );
        assert!(bytes < 2 * largest, "{encoding}: {bytes} bytes in use, the largest tensor has {largest}");
    }

    // A session that is filled to its last position takes at most what was announced, and most of that.
    let (capacity, ids) = (1024, (0..1024).map(|i| i % 256).collect::<Vec<u32>>());
    Tiny { context: capacity, intermediate: 512, hidden: 256, head_dim: 64, ..Tiny::default() }.write(&source);
    for (encoding, kv_type) in [(Encoding::F32, KvType::F32), (Encoding::Q8, KvType::F16)] {
        convert_with(&source, encoding, &out, None);
        let mut engine = Engine::open(&out, &EngineOptions::default()).unwrap();
        let said = sequence_bytes(engine.file().spec(), capacity, kv_type, DEFAULT_CHUNK) as usize;
        let bytes = peak(|| _ = engine.session(capacity, kv_type).unwrap().feed(&ids, DEFAULT_CHUNK).unwrap());
        println!("{encoding}, kv {}: {bytes} bytes in use, {said} said", kv_type.name());
        assert!(bytes < said + (256 << 10), "{encoding}: {bytes} bytes in use, {said} were said");
        assert!(bytes > said / 2, "{encoding}: {bytes} bytes in use, {said} were said");
    }
}
