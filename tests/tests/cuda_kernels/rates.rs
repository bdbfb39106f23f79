//! The kernel that measures a GPU's rate does exactly the work that is counted.

use super::*;
use half::f16;

/// The two f16 that the kernel makes from a number.
fn some_halves(n: usize) -> [f64; 2] {
    let bits = (n as u32).wrapping_mul(2_654_435_761) & 0x83ff_83ff | 0x3800_3800;
    [bits as u16, (bits >> 16) as u16].map(|half| f16::from_bits(half).to_f64())
}

#[test]
fn chains_of_products() {
    let gpu = gpu!();
    let (mut a, mut d) = ([[0.0; 16]; 16], [[0.0; 8]; 16]);
    for i in 0..4 {
        for lane in 0..32 {
            let (row, column) = (lane / 4 + 8 * (i % 2), lane % 4 * 2 + 8 * (i / 2));
            a[row][column..column + 2].copy_from_slice(&some_halves(4 * lane + i));
        }
    }
    for chain in 0..16 {
        let mut b = [[0.0; 8]; 16];
        for i in 0..2 {
            for lane in 0..32 {
                let halves = some_halves(128 + 64 * chain + 2 * lane + i);
                (0..2).for_each(|e| b[lane % 4 * 2 + 8 * i + e][lane / 4] = halves[e]);
            }
        }
        for (row, sums) in a.iter().zip(&mut d) {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum += row.iter().zip(&b).map(|(a, b)| a * b[column]).sum::<f64>();
            }
        }
    }
    for rounds in [0, 1, 5] {
        let (blocks, size) = (2, 256);
        let sums = gpu.room(blocks * size);
        gpu.run("tensor_rate", [blocks, 1], size, 0, &[int(rounds), at(&sums)], &[&sums]);
        let want: Vec<f64> = (0..blocks * size)
            .map(|thread| {
                let (g, c) = (thread % 32 / 4, thread % 4 * 2);
                rounds as f64 * (d[g][c] + d[g][c + 1] + d[g + 8][c] + d[g + 8][c + 1])
            })
            .collect();
        close("tensor_rate", &gpu.get(&sums), &want, 1e-3, 1e-5);
    }
}
