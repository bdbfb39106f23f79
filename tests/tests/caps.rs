//! The memory that readers allocate is bounded by the size of their input: for the committed fuzzing seeds, for changed
//! ones, and for inputs made to take as much as possible.
//!
//! This program has a single test, so that nothing else allocates while it counts.

use nanoserve_converter::from_bytes;
use nanoserve_format::parse;
use nanoserve_tests::SplitMix64;
use nanoserve_tests::counting::{Counting, peak};
use nanoserve_tests::mutate::mutate;
use nanoserve_tests::targets::{PARTS, file, safetensors_model};
use nanoserve_tokenizer::Tokenizer;
use nanoserve_tokenizer::vocab::CompiledVocabulary;
use std::fs;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A reader: its seeds, the bytes it may always allocate, the bytes for each byte of input, and how to call it.
struct Reader {
    name: &'static str,
    always: usize,
    factor: usize,
    rounds: usize,
    read: fn(&[u8]) -> usize,
}

/// The peak number of bytes that `read` allocates.
fn counted<T>(read: impl FnOnce() -> T) -> usize {
    peak(|| drop(read()))
}

const READERS: [Reader; 5] = [
    // Relative to the input, which lacks the zeros that make a file 64 KiB long. JSON values are stored until their
    // kind is known: a number of two bytes takes 32, and twice that while the list grows.
    Reader {
        name: "nsv",
        always: 16 << 10,
        factor: 64,
        rounds: 20_000,
        read: |bytes| file(bytes).map_or(0, |file| counted(|| parse(&file))),
    },
    // Each tensor is also converted to three encodings.
    Reader {
        name: "safetensors",
        always: 256 << 10,
        factor: 32,
        rounds: 10_000,
        read: |bytes| counted(|| from_bytes::safetensors("LlamaForCausalLM", &safetensors_model(), bytes)),
    },
    // An object with one field takes a node with room for eleven.
    Reader {
        name: "config",
        always: 16 << 10,
        factor: 128,
        rounds: 20_000,
        read: |bytes| counted(|| from_bytes::config(bytes)),
    },
    // Tables are read in place.
    Reader {
        name: "vocabulary",
        always: 1 << 10,
        factor: 0,
        rounds: 20_000,
        read: |bytes| counted(|| CompiledVocabulary::open(bytes).map(|_| ())),
    },
    Reader {
        name: "tokenizer",
        always: 1 << 20,
        factor: 128,
        rounds: 2_000,
        read: |bytes| counted(|| Tokenizer::from_json(bytes, None, None).map(|_| ())),
    },
];

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    // Must be aligned like a map: a vector of bytes is aligned only by chance.
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// JSON that takes much memory for its size, alone and as the value of a known field.
fn greedy(name: &str) -> Vec<Vec<u8>> {
    let count = if name == "nsv" { 3_000 } else { 20_000 };
    let rows = ["[0]", "{\"\":0}", "\"\"", "[[[]]]", "{\"a\":{\"b\":[]}}", "0", "1e9"];
    let lists = rows.map(|row| format!("[{}]", vec![row; count].join(",")));
    let head = |json: String| [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    let section = |json: String| {
        let parts = [&[PARTS, 1, 1][..], &(json.len() as u16).to_le_bytes(), json.as_bytes(), &[0; 4]];
        parts.concat()
    };
    let objects = lists.iter().map(|list| match name {
        "nsv" => section(format!("{{\"rope\":{{\"scaling\":{{\"factor\":{list},\"kind\":\"linear\"}}}}}}")),
        "safetensors" => head(format!("{{\"__metadata__\":{list},\"a\":{list}}}")),
        "tokenizer" => {
            format!("{{\"added_tokens\":[],\"model\":{list},\"pre_tokenizer\":{list},\"decoder\":{list}}}").into()
        }
        _ => format!("{{\"hidden_size\":1,\"rope_scaling\":{list}}}").into_bytes(),
    });
    let many = (0..20_000).map(|i| format!("\"{i}\":{{}}")).collect::<Vec<_>>().join(",");
    let many = format!("{{{many}}}");
    let wide = if name == "safetensors" { head(many) } else { many.into_bytes() };
    objects.chain([wide, vec![b'['; 100_000], vec![b'{'; 100_000]]).collect()
}

#[test]
fn readers_allocate_no_more_than_their_bytes_justify() {
    // Panics of the tokenizers library are caught, and their messages are of no interest here.
    std::panic::set_hook(Box::new(|panic| {
        if panic.location().is_none_or(|at| !at.file().contains("tokenizers-")) {
            eprintln!("{panic}");
        }
    }));
    for Reader { name, always, factor, rounds, read } in READERS {
        let seeds = seeds(name);
        // The first call allocates things that are made once and do not depend on the input.
        read(&seeds[0]);
        let mut worst = (0, 0);
        let mut look = |what: &str, bytes: &[u8]| {
            let peak = read(bytes);
            assert!(peak <= always + factor * bytes.len(), "{name}, {what}: {peak} bytes for {}", bytes.len());
            worst = worst.max((peak.saturating_sub(always) / bytes.len().max(1), peak));
        };
        for seed in &seeds {
            look("a seed", seed);
        }
        for bytes in greedy(name) {
            look("a greedy one", &bytes);
        }
        let mut random = SplitMix64::new(2);
        for i in 0..rounds {
            let (a, b) = (random.below(seeds.len()), random.below(seeds.len()));
            look(&format!("change {i}"), &mutate(&mut random, &seeds[a], &seeds[b]));
        }
        println!("{name}: at most {} bytes in use for each byte beyond {always}; {} bytes then", worst.0, worst.1);
    }
}
