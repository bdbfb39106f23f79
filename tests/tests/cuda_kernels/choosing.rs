//! Greedy choice, the next step's token, and a sampler's candidates.

use super::*;

/// Logits with ties: multiples of a quarter with few distinct values, none infinite.
fn logits(random: &mut SplitMix64, n: usize) -> Vec<f32> {
    (0..n).map(|_| (random.bell() * 12.0).round() / 4.0).collect()
}

#[test]
fn greedy() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(41);
    let draw = |random: &mut SplitMix64, n| {
        let x = logits(random, n);
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let want = x.iter().position(|x| *x == largest).unwrap();
        (x, want)
    };
    let mut cases: Vec<(Vec<f32>, usize)> = [1, 2, 255, 1000, 20_000].map(|n| draw(&mut random, n)).into();
    let negative_nan = f32::from_bits(0xffc0_0000);
    cases.push((vec![-0.0, 0.0], 0));
    cases.push((vec![1.0, f32::INFINITY, negative_nan, f32::NAN], 2));
    cases.push((vec![f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY], 2));
    cases.push((vec![f32::NEG_INFINITY; 300], 0));
    for (x, want) in cases {
        let n = x.len();
        let (x_at, scratch, id_at) = (gpu.put(&x), gpu.put(&[0u64; 66]), gpu.put(&[u32::MAX; 2]));
        let args = [at(&x_at), int(n), at(&scratch), at(&id_at)];
        gpu.run("argmax", [64, 1], 256, 80, &[&args[..], &[NULL, NULL]].concat(), &[&scratch, &id_at]);
        let [id, bits] = gpu.get::<u32>(&id_at)[..] else { unreachable!() };
        assert_eq!(id as usize, want, "of {n}");
        let value = f32::from_bits(bits);
        assert!(value == x[want] || value.is_nan() && x[want].is_nan(), "{value}, expected {}", x[want]);
        assert_eq!(gpu.get::<u32>(&scratch)[0], 0, "the counter");
        // The same, with a step that becomes the next one.
        let (step, ids) = (gpu.put(&[40u32, 5]), gpu.put(&[1u32, 2, 3]));
        let args = [&args[..], &[at(&step), at(&ids)]].concat();
        gpu.run("argmax", [64, 1], 256, 80, &args, &[&scratch, &id_at, &step, &ids]);
        assert_eq!(gpu.get::<u32>(&step), [45, 1]);
        assert_eq!(gpu.get::<u32>(&ids), [want as u32, 2, 3]);
    }
}

#[test]
fn candidates() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(42);
    for (n, k, rising) in [
        (1, 1, false),
        (300, 256, false),
        (5000, 40, false),
        (40_000, 256, true),
        (150_000, 7, false),
        (129, 128, true),
    ] {
        let mut x = logits(&mut random, n);
        if rising {
            // Every batch has larger values than the one before, so the last block has all the largest.
            x.iter_mut().enumerate().for_each(|(i, x)| *x = i as f32 * 0.5 - 9.0);
        }
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|a, b| x[*b as usize].total_cmp(&x[*a as usize]).then(a.cmp(b)));
        let (x_at, scratch) = (gpu.put(&x), gpu.put(&vec![0u64; 2 + 128 * k]));
        let (ids, values) = (gpu.put(&vec![u32::MAX; k]), gpu.room(k));
        let args = [at(&x_at), int(n), int(k), at(&scratch), at(&ids), at(&values)];
        gpu.run("top_candidates", [128, 1], 256, 8208, &args, &[&scratch, &ids, &values]);
        assert_eq!(gpu.get::<u32>(&ids), order[..k], "{k} of {n}");
        let want: Vec<f32> = order[..k].iter().map(|id| x[*id as usize]).collect();
        assert_eq!(gpu.get::<f32>(&values), want, "{k} of {n}");
    }
}
