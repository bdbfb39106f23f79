use super::filters::{min_p, top_p};
use super::*;
use nanoserve_format::SplitMix64;

/// Nothing but the draw.
fn plain() -> SamplingOptions {
    SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7, ..SamplingOptions::default() }
}

fn sampler(options: SamplingOptions) -> Sampler {
    Sampler::new(options).expect("options in range")
}

fn greedy_with(penalty: f32, last_n: usize) -> Sampler {
    sampler(SamplingOptions { temperature: 0.0, repeat_penalty: penalty, repeat_last_n: last_n, ..plain() })
}

/// Logits whose softmax is `shares`.
fn logits(shares: &[f64]) -> Vec<f32> {
    shares.iter().map(|p| p.ln() as f32).collect()
}

fn sorted(shares: &[f64]) -> Candidates {
    let mut candidates = Candidates::default();
    candidates.add_all(&logits(shares));
    candidates.rank();
    candidates
}

fn ids(candidates: &Candidates) -> Vec<u32> {
    candidates.list().iter().map(|c| c.id).collect()
}

#[test]
fn defaults_are_in_range_and_others_are_named() {
    assert_eq!(SamplingOptions::default().check(), Ok(()));
    let bad = |field, options: SamplingOptions| match Sampler::new(options).map(|_| ()) {
        Err(SamplingError::Option { field: named, .. }) => assert_eq!(named, field),
        other => panic!("{field}: {other:?}"),
    };
    for value in [-0.1, f32::NAN, f32::INFINITY] {
        bad("temperature", SamplingOptions { temperature: value, ..plain() });
    }
    for value in [-0.1, 1.1, f32::NAN] {
        bad("top_p", SamplingOptions { top_p: value, ..plain() });
        bad("min_p", SamplingOptions { min_p: value, ..plain() });
    }
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        bad("repeat_penalty", SamplingOptions { repeat_penalty: value, ..plain() });
    }
    let error = Sampler::new(SamplingOptions { top_p: 1.5, ..plain() }).expect_err("out of range");
    assert_eq!(error.to_string(), "sampling option top_p is 1.5, expected 0 to 1");
}

#[test]
fn greedy_takes_the_lowest_id_of_equals() {
    let mut sampler = greedy_with(1.0, 64);
    assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, 2.0], &[]), Ok(1));
    assert_eq!(sampler.sample(&[-0.0, 0.0], &[]), Ok(0));
    assert_eq!(sampler.sample(&[0.0, -0.0], &[]), Ok(0));
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -1e30], &[]), Ok(1));
    assert_eq!(sampler.sample(&[f32::MIN, f32::MAX], &[]), Ok(1));
}

#[test]
fn penalty_comes_before_the_greedy_choice() {
    assert_eq!(greedy_with(2.0, 64).sample(&[3.0, 2.0, 1.0], &[0]), Ok(1));
    // Once for each token, however often it was seen: 3 / 2 = 1.5 > 1.4.
    assert_eq!(greedy_with(2.0, 64).sample(&[3.0, 1.4], &[0, 0, 0]), Ok(0));
    // Negative logits are multiplied: -1 * 2 = -2 < -1.5.
    assert_eq!(greedy_with(2.0, 64).sample(&[-1.0, -1.5], &[0]), Ok(1));
    // A penalised zero stays equal to another zero; -inf stays excluded.
    assert_eq!(greedy_with(2.0, 64).sample(&[-0.0, 0.0], &[0, 1]), Ok(0));
    assert_eq!(greedy_with(2.0, 64).sample(&[f32::NEG_INFINITY, -9.0], &[0]), Ok(1));
}

#[test]
fn penalty_looks_back_only_so_far() {
    assert_eq!(greedy_with(2.0, 2).sample(&[3.0, 2.0, 1.0], &[0, 2, 2]), Ok(0));
    assert_eq!(greedy_with(2.0, 3).sample(&[3.0, 2.0, 1.0], &[0, 2, 2]), Ok(1));
    assert_eq!(greedy_with(2.0, 0).sample(&[3.0, 2.0, 1.0], &[0]), Ok(0));
    assert_eq!(greedy_with(2.0, usize::MAX).sample(&[3.0, 2.0, 1.0], &[0, 2, 2]), Ok(1));
}

#[test]
fn unusable_logits_and_ids_are_named() {
    let mut greedy = greedy_with(2.0, 64);
    let mut drawn = sampler(plain());
    for sampler in [&mut greedy, &mut drawn] {
        match sampler.sample(&[0.0, 1.0, f32::NAN, f32::NAN], &[]) {
            Err(SamplingError::Logit { id: 2, got }) => assert!(got.is_nan()),
            other => panic!("{other:?}"),
        }
        let error = SamplingError::Logit { id: 1, got: f32::INFINITY };
        assert_eq!(sampler.sample(&[0.0, f32::INFINITY], &[]), Err(error));
        assert_eq!(sampler.sample(&[], &[]), Err(SamplingError::NoCandidate { got: 0 }));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3], &[]), Err(SamplingError::NoCandidate { got: 3 }));
    }
    assert_eq!(greedy.sample(&[0.0, 1.0], &[2]), Err(SamplingError::History { got: 2, expected: 2 }));
}

#[test]
fn top_p_keeps_the_shortest_sufficient_beginning() {
    let shares = [0.1, 0.5, 0.15, 0.25]; // in order: 1 (0.5), 3 (0.75), 2 (0.9), 0 (1)
    for (p, kept) in [
        (0.0, &[1][..]),
        (0.49, &[1]),
        (0.51, &[1, 3]),
        (0.74, &[1, 3]),
        (0.76, &[1, 3, 2]),
        (0.91, &[1, 3, 2, 0]),
        (1.0, &[1, 3, 2, 0]),
    ] {
        let mut candidates = sorted(&shares);
        top_p(&mut candidates, p);
        assert_eq!(ids(&candidates), kept, "p {p}");
    }
}

#[test]
fn min_p_compares_with_the_largest() {
    let shares = [0.1, 0.5, 0.15, 0.25]; // of the largest: 0.2, 1, 0.3, 0.5
    for (p, kept) in [
        (0.0, &[1, 3, 2, 0][..]),
        (0.19, &[1, 3, 2, 0]),
        (0.21, &[1, 3, 2]),
        (0.31, &[1, 3]),
        (0.51, &[1]),
        (1.0, &[1]),
    ] {
        let mut candidates = sorted(&shares);
        min_p(&mut candidates, p);
        assert_eq!(ids(&candidates), kept, "p {p}");
    }
}

#[test]
fn draw_walks_the_running_sum() {
    let candidates = sorted(&[0.25, 0.5, 0.25]); // in order: 1, 0, 2
    for (unit, id) in [(0.0, 1), (0.49, 1), (0.51, 0), (0.74, 0), (0.76, 2), (1.0, 2)] {
        assert_eq!(draw(&candidates, unit).0, id, "unit {unit}");
    }
    // A candidate too unlikely for f64 is not what rounding falls back to.
    let mut candidates = Candidates::default();
    candidates.add_all(&[f32::NEG_INFINITY, 0.0, -1e6]);
    assert_eq!(draw(&candidates, 1.0), (1, 1.0));
}

#[test]
fn filters_come_before_the_temperature() {
    // At temperature 100 all four are about as likely; top_p 0.7 still keeps only the first two.
    let options = SamplingOptions { temperature: 100.0, top_p: 0.7, ..plain() };
    let mut sampler = sampler(options);
    let logits = logits(&[0.1, 0.5, 0.15, 0.25]);
    let mut counts = [0; 4];
    for _ in 0..1000 {
        counts[sampler.sample(&logits, &[]).expect("a token") as usize] += 1;
    }
    assert_eq!((counts[0], counts[2]), (0, 0));
    assert!(counts[1] > 400 && counts[3] > 400, "{counts:?}");
}

#[test]
fn counts_follow_the_probabilities() {
    let n = 100_000;
    let shares = [0.4, 0.3, 0.2, 0.08, 0.02, 0.0];
    for (temperature, expected) in [(1.0f32, shares), (0.5, shares.map(|p| p * p / 0.2968))] {
        let mut sampler = sampler(SamplingOptions { temperature, ..plain() });
        let mut counts = [0u32; 6];
        for _ in 0..n {
            counts[sampler.sample(&logits(&shares), &[]).expect("a token") as usize] += 1;
        }
        for (count, p) in counts.into_iter().zip(expected) {
            let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
            assert!((f64::from(count) - f64::from(n) * p).abs() <= 4.0 * sigma, "{temperature}: {counts:?}");
        }
    }
}

#[test]
fn a_seed_names_one_sequence() {
    let logits: Vec<f32> = (0..64u32).map(|i| (i * 37 % 64) as f32 / 16.0 - 2.0).collect();
    let run = |seed| {
        let options = SamplingOptions { seed, repeat_penalty: 1.1, ..SamplingOptions::default() };
        let mut sampler = sampler(options);
        let mut history = vec![5];
        for _ in 0..16 {
            history.push(sampler.sample(&logits, &history).expect("a token"));
        }
        history.split_off(1)
    };
    assert_eq!(run(42), run(42));
    assert_ne!(run(42), run(43));
    assert_eq!(run(42), [29, 57, 31, 31, 19, 34, 57, 22, 31, 36, 12, 5, 5, 5, 36, 57]);
}

#[test]
fn the_likeliest_alone_give_the_same_choices() {
    let random = SplitMix64::new(5);
    let logits: Vec<f32> = (0..2000).map(|i| (random.number(i) % 4000) as f32 / 400.0).collect();
    let base = SamplingOptions { top_k: 40, temperature: 0.8, ..SamplingOptions::default() };
    let all = [
        (SamplingOptions { temperature: 0.0, ..base.clone() }, Some(1)),
        (base.clone(), Some(40)),
        (SamplingOptions { top_p: 0.5, min_p: 0.1, typical_p: 0.7, ..base.clone() }, Some(40)),
        (SamplingOptions { xtc_probability: 0.5, xtc_threshold: 0.05, ..base.clone() }, Some(40)),
        (SamplingOptions { temperature: 0.0, xtc_probability: 0.5, xtc_threshold: 0.05, ..base.clone() }, Some(40)),
        (SamplingOptions { top_k: 0, ..base.clone() }, None),
        (SamplingOptions { top_k: 257, ..base.clone() }, None),
        (SamplingOptions { repeat_penalty: 1.1, ..base.clone() }, None),
        (SamplingOptions { logit_bias: vec![(3, 1.0)], ..base.clone() }, None),
        (SamplingOptions { top_n_sigma: 1.0, ..base.clone() }, None),
        (SamplingOptions { mirostat: Some(Mirostat { tau: 5.0, eta: 0.1 }), ..base }, None),
    ];
    let mut ranked: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    for (options, reach) in all {
        let (mut whole, mut part) = (Sampler::new(options.clone()).unwrap(), Sampler::new(options).unwrap());
        assert_eq!(part.reach(256), reach);
        let Some(reach) = reach else { continue };
        for _ in 0..50 {
            assert_eq!(part.sample_top(&ranked[..reach]).unwrap(), whole.sample(&logits, &[]).unwrap());
        }
    }
    let mut greedy = Sampler::new(SamplingOptions { temperature: 0.0, ..SamplingOptions::default() }).unwrap();
    assert!(matches!(greedy.sample_top(&[(7, f32::NAN)]), Err(SamplingError::Logit { id: 7, .. })));
    assert!(matches!(greedy.sample_top(&[(7, f32::NEG_INFINITY)]), Err(SamplingError::NoCandidate { .. })));
}

/// Chains by how many random numbers a token takes: none, the draw's, XTC's, both.
fn chains_by_numbers() -> Vec<(usize, SamplingOptions)> {
    let xtc = SamplingOptions { xtc_probability: 0.5, xtc_threshold: 0.05, ..plain() };
    vec![
        (0, SamplingOptions { temperature: 0.0, ..plain() }),
        (1, plain()),
        (1, SamplingOptions { mirostat: Some(Mirostat { tau: 3.0, eta: 0.2 }), ..plain() }),
        (1, SamplingOptions { temperature: 0.0, ..xtc.clone() }),
        (2, SamplingOptions { top_k: 8, ..xtc }),
    ]
}

#[test]
fn tokens_see_the_numbers_that_they_saw_one_by_one() {
    let logits = logits(&[0.3, 0.25, 0.2, 0.15, 0.1]);
    for (count, options) in chains_by_numbers() {
        let mut sequence = SplitMix64::new(options.seed);
        let mut sampler = sampler(options.clone());
        for token in 0..200 {
            let numbers: Vec<f64> =
                (0..count).map(|_| (sequence.next_u64() >> 11) as f64 / 9_007_199_254_740_992.0).collect();
            let [first, last] = sampler.numbers();
            let seen: Vec<f64> = (0..count as u64).map(|i| sampler.random.unit(first + i)).collect();
            assert_eq!(seen, numbers, "token {token} of {options:?}");
            sampler.distribution(&logits, &[]).expect("candidates");
            let drawn = draw(&sampler.candidates, numbers.last().copied().unwrap_or_default()).0;
            let chosen = sampler.sample(&logits, &[]).expect("a token");
            // XTC takes the first number, and keeps only the last token; the draw takes the last number.
            match (options.xtc_probability > 0.0, options.temperature > 0.0) {
                (true, _) if numbers[0] <= 0.5 => assert_eq!(chosen, 4, "{token}"),
                (_, false) => assert_eq!(chosen, 0, "{token}"),
                (_, true) => {
                    assert_eq!((chosen, sampler.random.unit(last)), (drawn, numbers[count - 1]), "{token}");
                }
            }
        }
    }
}

#[test]
fn a_token_depends_on_its_place_and_not_on_who_chose_those_before() {
    let logits: Vec<f32> = (0..64u32).map(|i| (i * 37 % 64) as f32 / 16.0 - 2.0).collect();
    for (_, options) in chains_by_numbers() {
        let mut whole = sampler(options.clone());
        for place in 0..50 {
            let mut other = sampler(options.clone());
            other.resume(place, whole.mu());
            // Looking at the candidates changes nothing.
            other.distribution(&logits, &[]).expect("candidates");
            let id = whole.sample(&logits, &[]);
            assert_eq!(other.sample(&logits, &[]), id, "place {place} of {options:?}");
            assert_eq!(other.mu(), whole.mu());
        }
    }
}
