//! Seeded random changes to bytes, like those of a fuzzer.

use crate::random::SplitMix64;

/// Numbers at the limits that readers check.
const EDGES: [u64; 14] =
    [0, 1, 2, 7, 63, 64, 255, 65_535, 65_536, 1 << 28, u32::MAX as u64, 1 << 60, u64::MAX - 63, u64::MAX];

/// Pieces of JSON, and words that readers look for.
const WORDS: [&str; 18] = [
    "null",
    "true",
    "-1",
    "1e999",
    "\"\"",
    "[]",
    "{}",
    "[[[[",
    "\\ud800",
    "\u{FFFD}",
    "F64",
    "BOOL",
    "(?:a+)+",
    "\\s+(?!\\S)",
    "0.5",
    "Replace",
    "Sequence",
    "18446744073709551616",
];

/// Makes a few changes to `bytes`, which may bring in pieces of `other`.
pub fn mutate(random: &mut SplitMix64, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    // Most bugs need a single change.
    let changes = if random.below(2) == 0 { 1 } else { 1 + random.below(8) };
    for _ in 0..changes {
        change(random, &mut out, other);
    }
    out
}

fn change(random: &mut SplitMix64, out: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(out.len() + 1);
    let longest = 1 << random.below(8);
    let len = 1 + random.below(longest);
    let range = at..out.len().min(at + len);
    let edge = EDGES[random.below(EDGES.len())];
    match random.below(12) {
        0 => out.truncate(at),
        1 => _ = out.drain(range),
        2 => {
            let copy = out[range].to_vec();
            out.splice(at..at, copy);
        }
        3 => {
            let from = random.below(other.len() + 1);
            out.splice(at..at, other[from..other.len().min(from + len)].iter().copied());
        }
        4 => replace(out, at, WORDS[random.below(WORDS.len())].as_bytes(), 0),
        5 => {
            // Replaces a number in text.
            let digits = |b: &u8| b.is_ascii_digit();
            if let Some(start) = out[at..].iter().position(digits).map(|n| at + n) {
                let end = out[start..].iter().position(|b| !digits(b)).map_or(out.len(), |n| start + n);
                replace(out, start, edge.to_string().as_bytes(), end - start);
            }
        }
        6 => overwrite(out, at, &edge.to_le_bytes()),
        7 => overwrite(out, at & !3, &(edge as u32).to_le_bytes()),
        8 => overwrite(out, at & !7, &(random.below(1 << 17) as u64 & !63).to_le_bytes()),
        9 => overwrite(out, at, &random.next_u64().to_le_bytes()[..1 + at % 8]),
        _ => {
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

fn replace(out: &mut Vec<u8>, at: usize, with: &[u8], len: usize) {
    out.splice(at..at + len, with.iter().copied());
}

fn overwrite(out: &mut [u8], at: usize, with: &[u8]) {
    for (byte, with) in out.iter_mut().skip(at).zip(with) {
        *byte = *with;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_changes_and_changes_they_are() {
        let bytes: Vec<u8> = (0..=255).chain(*b"{\"a\": 1234}").collect();
        let many = |seed| {
            let mut random = SplitMix64::new(seed);
            (0..1000).map(|_| mutate(&mut random, &bytes, b"other")).collect::<Vec<_>>()
        };
        assert_eq!(many(1), many(1));
        let changed = many(2);
        assert!(changed.iter().filter(|c| **c != bytes).count() > 900);
        assert!(changed.iter().any(|c| c.len() < 200) && changed.iter().any(|c| c.len() > 300));
        mutate(&mut SplitMix64::new(3), b"", b"");
    }
}
