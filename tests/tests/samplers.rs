//! Compares each sampler with a plain numpy reimplementation; tests/reference/make_sampling.py made the cases.

use nanoserve_runtime::generate::sampler::{Mirostat, Sampler, SamplingOptions, Step};
use nanoserve_tests::changed;
use serde_json::Value;

fn cases() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/sampling/cases.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() > 50);
    cases
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The options of a case; everything that it does not name is off.
fn options(named: &Value) -> SamplingOptions {
    let mut o =
        changed!(SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingOptions::default() });
    let mut mirostat = Mirostat::default();
    let mut on = false;
    for (key, value) in named.as_object().unwrap() {
        let x = value.as_f64().unwrap_or(0.0) as f32;
        let n = value.as_u64().unwrap_or(0) as usize;
        match key.as_str() {
            "samplers" => o.chain = Step::parse_chain(value.as_str().unwrap()).unwrap(),
            "temperature" => o.temperature = x,
            "top_k" => o.top_k = n,
            "top_p" => o.top_p = x,
            "min_p" => o.min_p = x,
            "typical_p" => o.typical_p = x,
            "top_n_sigma" => o.top_n_sigma = x,
            "xtc_probability" => o.xtc_probability = x,
            "xtc_threshold" => o.xtc_threshold = x,
            "repeat_penalty" => o.repeat_penalty = x,
            "frequency_penalty" => o.frequency_penalty = x,
            "presence_penalty" => o.presence_penalty = x,
            "repeat_last_n" => o.repeat_last_n = n,
            "dry_multiplier" => o.dry_multiplier = x,
            "dry_base" => o.dry_base = x,
            "dry_allowed_length" => o.dry_allowed_length = n,
            "dry_penalty_last_n" => o.dry_penalty_last_n = n,
            "dry_breakers" => o.dry_breakers = value.as_array().unwrap().iter().map(ids).collect(),
            "mirostat" => on = n == 2,
            "mirostat_ent" => mirostat.tau = x,
            "mirostat_lr" => mirostat.eta = x,
            "logit_bias" => {
                let bias = |x: &Value| x.as_f64().map_or(f32::NEG_INFINITY, |x| x as f32);
                let pair = |pair: &Value| (pair[0].as_u64().unwrap() as u32, bias(&pair[1]));
                o.logit_bias = value.as_array().unwrap().iter().map(pair).collect();
            }
            "seed" => o.seed = value.as_u64().unwrap(),
            other => panic!("option {other}"),
        }
    }
    o.mirostat = on.then_some(mirostat);
    o
}

#[test]
fn every_sampler_leaves_what_numpy_leaves() {
    let mut changed = 0;
    for case in cases() {
        let (name, options) = (&case["name"], options(&case["options"]));
        let logits: Vec<f32> = case["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let mut history = ids(&case["history"]);
        let mut sampler = Sampler::new(options.clone()).unwrap();
        if let Some(expected) = case["expected"].as_array() {
            let got = sampler.distribution(&logits, &history).unwrap();
            let order: Vec<u32> = got.iter().map(|(id, _)| *id).collect();
            assert_eq!(order, expected.iter().map(|e| e[0].as_u64().unwrap() as u32).collect::<Vec<_>>(), "{name}");
            for ((id, got), expected) in got.iter().zip(expected) {
                let expected = expected[1].as_f64().unwrap();
                assert!((got - expected).abs() <= 1e-12, "{name}: token {id}: {got}, expected {expected}");
            }
            let sum: f64 = got.iter().map(|(_, p)| p).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{name}: {sum}");
            let mut plain = Sampler::new(self::options(&serde_json::json!({}))).unwrap();
            changed += usize::from(plain.distribution(&logits, &history).unwrap() != got);
            // The chosen token is among the candidates; greedy chooses the first.
            let id = Sampler::new(options.clone()).unwrap().sample(&logits, &history).unwrap();
            assert!(order.contains(&id), "{name}");
        } else {
            for (n, expected) in ids(&case["drawn"]).into_iter().enumerate() {
                let id = sampler.sample(&logits, &history).unwrap();
                assert_eq!(id, expected, "{name}: token {n}");
                history.push(id);
            }
            changed += 1;
        }
    }
    // Only a few cases are meant to change nothing.
    assert!(changed >= 45, "{changed} cases do anything");
}

#[test]
fn the_order_of_the_chain_is_settable() {
    assert_eq!(Step::parse_chain(&Step::names()).unwrap(), SamplingOptions::default().chain);
    assert_eq!(Step::parse_chain("top-k; min_p").unwrap(), [Step::TopK, Step::MinP]);
    let error = Step::parse_chain("top_k;nucleus").unwrap_err().to_string();
    assert!(error.contains("\"nucleus\"") && error.contains(&Step::names()), "{error}");
    let error = Step::parse_chain("top_k;min_p;top_k").unwrap_err().to_string();
    assert!(error.contains("\"top_k\"") && error.contains("twice"), "{error}");
}
