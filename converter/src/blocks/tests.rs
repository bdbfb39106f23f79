//! Blocks against the values that gguf-py reads from them, and panels against blocks.

use super::*;
use nanoserve_format::{PANEL_ROWS, SplitMix64, panel};

/// Name, blocks and values of each type, made by tests/reference/make_gguf_blocks.py.
fn reference() -> Vec<(Blocks, &'static [u8], Vec<f32>)> {
    let mut rest: &[u8] = include_bytes!("reference.bin");
    let mut take = |n: usize| rest.split_off(..n).unwrap();
    let mut all = Vec::new();
    for kind in Blocks::ALL {
        let len = take(1)[0].into();
        assert_eq!(take(len), kind.name().as_bytes());
        let count =
            |take: &mut dyn FnMut(usize) -> &'static [u8]| u32::from_le_bytes(take(4).try_into().unwrap()) as usize;
        let bytes = count(&mut take);
        let blocks = take(bytes);
        let values = count(&mut take);
        let values = take(4 * values).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        all.push((kind, blocks, values));
    }
    assert!(rest.is_empty());
    all
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn values_are_those_of_gguf_py() {
    for (kind, blocks, expected) in reference() {
        let mut values = vec![f32::NAN; expected.len()];
        kind.widen(blocks, &mut values);
        assert_eq!(bits(&values), bits(&expected), "{}", kind.name());
    }
}

/// Random bytes, but for scales that are finite.
fn random_row(kind: Blocks, cols: usize, random: &mut SplitMix64) -> Vec<u8> {
    let mut row = vec![0; cols / kind.values() * kind.bytes()];
    row.fill_with(|| random.next_u64() as u8);
    let at: &[usize] = match kind {
        Blocks::Q4_0 | Blocks::Q5_0 | Blocks::Q8_0 | Blocks::Iq4Nl | Blocks::Iq4Xs => &[0],
        Blocks::Q4_1 | Blocks::Q5_1 | Blocks::Q4K | Blocks::Q5K => &[0, 2],
        Blocks::Q2K => &[80, 82],
        Blocks::Q3K => &[108],
        Blocks::Q6K => &[208],
        Blocks::Tq1_0 => &[52],
        Blocks::Tq2_0 => &[64],
        Blocks::Mxfp4 => &[],
    };
    for block in row.chunks_exact_mut(kind.bytes()) {
        for &at in at {
            // Not the exponent of infinities and NaNs.
            block[at + 1] &= 0xbb;
        }
        match kind {
            Blocks::Q8_0 => block[2..].iter_mut().for_each(|b| *b = (*b as i8).max(-127) as u8),
            Blocks::Mxfp4 => block[0] = 104 + block[0] % 40,
            _ => {}
        }
    }
    row
}

/// A row of a panel has the values of the blocks that it carries, also where rows are missing.
#[test]
fn panels_carry_every_value() {
    let mut random = SplitMix64::new(1);
    for kind in Blocks::ALL {
        let Some(encoding) = kind.carrier() else { continue };
        for (rows, cols) in [(PANEL_ROWS, 512), (3, 256), (1, 1024)] {
            let source: Vec<Vec<u8>> = (0..rows).map(|_| random_row(kind, cols, &mut random)).collect();
            assert!(source.iter().all(|row| fits(kind, row)));
            let mut out = vec![0xff; encoding.panel_bytes(cols).unwrap()];
            carry(kind, encoding, cols, source.iter().map(Vec::as_slice), &mut out).unwrap();
            let (mut got, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
            for row in 0..PANEL_ROWS {
                panel::unpack_row(encoding, &out, row, &mut got);
                match source.get(row) {
                    Some(source) => kind.widen(source, &mut expected),
                    None => expected.fill(0.0),
                }
                assert_eq!(got, expected, "{} row {row}", kind.name());
            }
        }
    }
}

#[test]
fn columns_need_no_multiple_of_two_parts() {
    let mut random = SplitMix64::new(2);
    for kind in Blocks::ALL.into_iter().filter(|kind| kind.values() == PART) {
        let (cols, encoding) = (96, kind.carrier().unwrap());
        let source = random_row(kind, cols, &mut random);
        let mut out = vec![0xff; encoding.panel_bytes(cols).unwrap()];
        carry(kind, encoding, cols, std::iter::once(source.as_slice()), &mut out).unwrap();
        let (mut got, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
        panel::unpack_row(encoding, &out, 0, &mut got);
        kind.widen(&source, &mut expected);
        assert_eq!(got, expected, "{}", kind.name());
    }
}

/// The one byte that our kernels refuse, powers of two that f16 lacks, and scales that are not finite.
#[test]
fn what_does_not_fit_is_found() {
    let unfit = |kind: Blocks, block: &[u8]| {
        let encoding = kind.carrier().unwrap();
        let mut out = vec![0; encoding.panel_bytes(kind.values()).unwrap()];
        let carried = carry(kind, encoding, kind.values(), std::iter::once(block), &mut out);
        (fits(kind, block), carried.is_ok())
    };
    let mut block = vec![0; 34];
    assert_eq!(unfit(Blocks::Q8_0, &block), (true, true));
    block[20] = 0x80;
    assert_eq!(unfit(Blocks::Q8_0, &block), (false, false));
    for (e, fine) in [(103, false), (104, true), (143, true), (144, false), (0, false), (255, false)] {
        let mut block = vec![0x11; 17];
        block[0] = e;
        assert_eq!(unfit(Blocks::Mxfp4, &block), (fine, fine), "2^({e} - 128)");
        // Zeros have no scale.
        block[1..].fill(0x80);
        assert_eq!(unfit(Blocks::Mxfp4, &block), (true, true));
    }
    let infinite = [0x00, 0x7c];
    for (kind, at) in [(Blocks::Q4_1, 0), (Blocks::Q4_1, 2), (Blocks::Q4K, 0), (Blocks::Q4K, 2), (Blocks::Q6K, 208)] {
        let mut block = vec![0; kind.bytes()];
        block[at..at + 2].copy_from_slice(&infinite);
        assert!(!unfit(kind, &block).1, "{}", kind.name());
    }
}
