//! Compares every kind of rotary embedding with transformers' numbers (tests/reference/make_rope.py).

use nanoserve_format::Rope;
use nanoserve_runtime::backend::rope::{RopeTable, frequencies};
use serde::Deserialize;
use std::fs;
use std::path::Path;

#[derive(Deserialize)]
struct Case {
    what: String,
    rope: Rope,
    head_dim: usize,
    length: usize,
    inv_freq: Vec<f64>,
    positions: Vec<usize>,
    cos: Vec<Vec<f64>>,
    sin: Vec<Vec<f64>>,
}

#[test]
fn every_kind_turns_as_in_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/rope.json");
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let got = frequencies(&case.rope, case.head_dim, case.length);
        assert_eq!(got.len(), case.inv_freq.len(), "{}", case.what);
        // The two differ by some units in the last place only if theta itself is computed from powers in f32.
        let mut worst = 0f64;
        for (j, (got, want)) in got.iter().zip(&case.inv_freq).enumerate() {
            let off = (f64::from(*got) - want).abs() / want;
            worst = worst.max(off);
            assert!(off < 3e-7, "{}: pair {j} is {got}, in transformers {want}", case.what);
        }
        let mut table = RopeTable::new(&case.rope, case.head_dim, case.length);
        table.extend(case.length);
        for (i, &position) in case.positions.iter().enumerate() {
            let (cos, sin) = table.at(position);
            for (j, (got, want)) in cos.iter().chain(sin).zip(case.cos[i].iter().chain(&case.sin[i])).enumerate() {
                // An angle's error is the frequency's error times the position.
                let limit = 3e-7 + worst * position as f64 * 1.5;
                assert!((f64::from(*got) - want).abs() <= limit, "{}: {position}, {j}: {got}, {want}", case.what);
            }
        }
        println!("{:<44} frequencies within {worst:.1e}", case.what);
    }
}
