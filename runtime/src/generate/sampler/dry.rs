//! DRY, "Don't Repeat Yourself" (p-e-w 2024): a token that would continue a repeated sequence becomes less likely, the
//! more so the longer the sequence.
//!
//! ```text
//! window    the last tokens
//! limit     the number of tokens at the window's end that have no sequence breaker
//! n(t)      the length of the longest end of the window, at most limit, that occurs earlier with t behind it
//! logit(t) -= multiplier * base^(n(t) - allowed_length)          where n(t) >= allowed_length and t is no breaker
//! ```
//!
//! A breaker is a text, such as a line end. One token can contain it, or one token can end in its beginning and others
//! continue it: [`breakers`] finds these sequences of tokens.

use super::candidates::Candidates;
use super::options::SamplingOptions;
use crate::error::SamplingError;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// ln of the largest f32. The exponent is cut to the largest whole number whose penalty f32 can hold.
const LN_F32_MAX: f64 = 88.722_839_1;

/// A breaker is cut to this many tokens and bytes.
const MAX_BREAKER: (usize, usize) = (20, 40);

/// The most ids in all sequences of breakers together. Published vocabularies give some thousand; one that is made for it, and a
/// long breaker, would give a hundred million.
const MOST_IDS: usize = 1 << 20;

/// The penalty on the logit of each token that would continue a repetition, by id. The breakers of the options are in order.
pub(super) fn penalties(history: &[u32], options: &SamplingOptions) -> BTreeMap<u32, f64> {
    let allowed = options.dry_allowed_length;
    let window = super::penalties::last(history, options.dry_penalty_last_n);
    // The window from its end backwards.
    let back: Vec<u32> = window.iter().rev().copied().collect();
    let limit = limit(&back, &options.dry_breakers);
    let mut longest = BTreeMap::new();
    if back.len() <= allowed || limit < allowed {
        return longest;
    }
    for (at, repeated) in common_beginnings(&back).into_iter().enumerate().skip(1) {
        let repeated = repeated.min(limit);
        if repeated >= allowed {
            // back[at..] begins like back, the window's end, and back[at - 1] is the token that came after it.
            let so_far = longest.entry(back[at - 1]).or_insert(0.0);
            *so_far = (repeated as f64).max(*so_far);
        }
    }
    // A breaker ends a repetition, so it gets no penalty.
    longest.retain(|token, _| beginning_with(&options.dry_breakers, *token).first().is_none_or(|one| one.len() > 1));
    let base = f64::from(options.dry_base);
    let most = if base > 1.000_001 { (LN_F32_MAX / libm::log(base)).floor() } else { f64::INFINITY };
    for amount in longest.values_mut() {
        let exponent = (*amount - allowed as f64).min(most);
        *amount = f64::from(options.dry_multiplier) * libm::pow(base, exponent);
    }
    longest
}

/// Subtracts the penalties from the logits.
pub(super) fn apply(candidates: &mut Candidates, penalties: &BTreeMap<u32, f64>) {
    let ids: Vec<u32> = penalties.keys().copied().collect();
    candidates.change(&ids, |id, logit| logit - penalties[&id]);
}

/// The breakers that begin with a token, of breakers in order.
fn beginning_with(breakers: &[Vec<u32>], head: u32) -> &[Vec<u32>] {
    let start = breakers.partition_point(|breaker| breaker.first() < Some(&head));
    let count = breakers[start..].partition_point(|breaker| breaker.first() == Some(&head));
    &breakers[start..start + count]
}

/// How many tokens come after the last breaker, of breakers in order.
fn limit(back: &[u32], breakers: &[Vec<u32>]) -> usize {
    // The length of the longest breaker whose first token is at `at`, without that token. The rest is nearer to the
    // end.
    let rest_of_breaker = |at: usize| {
        let tails = beginning_with(breakers, back[at]).iter().map(|breaker| &breaker[1..]);
        let fits = |tail: &[u32]| tail.len() <= at && tail.iter().zip(back[..at].iter().rev()).all(|(a, b)| a == b);
        tails.filter(|tail| fits(tail)).map(<[u32]>::len).max()
    };
    (0..back.len()).find_map(|at| rest_of_breaker(at).map(|rest| at - rest)).unwrap_or(back.len())
}

/// For each place of `text`, how many tokens from there on equal those of its beginning: the Z function, in linear
/// time.
fn common_beginnings(text: &[u32]) -> Vec<usize> {
    let mut z = vec![0; text.len()];
    // The match that reaches furthest, as a range.
    let (mut start, mut end) = (0, 0);
    for i in 1..text.len() {
        let mut n = if i < end { z[i - start].min(end - i) } else { 0 };
        while i + n < text.len() && text[n] == text[i + n] {
            n += 1;
        }
        if i + n > end {
            (start, end) = (i, i + n);
        }
        z[i] = n;
    }
    z
}

/// The sequences of tokens that contain a breaker: each token that contains it whole; and each token that ends in a
/// beginning of it, with the tokens of the rest. `tokens` gives every token's bytes, `encode` the ids of a text.
///
/// # Errors
/// Those of `encode`, and when the sequences have more ids than any that a vocabulary in use gives.
pub fn breakers<'t, E: From<SamplingError>>(
    texts: &[String],
    tokens: impl Iterator<Item = (u32, &'t [u8])> + Clone,
    encode: impl Fn(&str) -> Result<Vec<u32>, E>,
) -> Result<Vec<Vec<u32>>, E> {
    let (mut all, mut room) = (Vec::new(), MOST_IDS);
    // Paid before it grows.
    let mut pay = |ids: usize| {
        room = room.checked_sub(ids).ok_or(SamplingError::Breakers { most: MOST_IDS })?;
        Ok::<(), SamplingError>(())
    };
    for text in texts {
        let cut = (0..=MAX_BREAKER.1.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let text = &text[..cut];
        // Each rest is encoded once.
        let mut rests: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (id, bytes) in tokens.clone() {
            if bytes.windows(text.len().max(1)).any(|part| part == text.as_bytes()) {
                pay(1)?;
                all.push(vec![id]);
                continue;
            }
            for taken in (1..text.len()).filter(|&i| text.is_char_boundary(i)) {
                if bytes.ends_with(&text.as_bytes()[..taken]) {
                    let rest = match rests.entry(taken) {
                        Entry::Occupied(encoded) => encoded.into_mut(),
                        Entry::Vacant(new) => new.insert(encode(&text[taken..])?),
                    };
                    rest.truncate(MAX_BREAKER.0);
                    pay(1 + rest.len())?;
                    all.push([&[id], &rest[..]].concat());
                }
            }
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::SplitMix64;

    #[test]
    fn common_beginnings_are_those_of_the_definition() {
        let mut random = SplitMix64::new(5);
        for length in 0..60 {
            let text: Vec<u32> = (0..length).map(|_| (random.next_u64() % 2) as u32).collect();
            let plain = |i: usize| text.iter().zip(&text[i..]).take_while(|(a, b)| a == b).count();
            let z = common_beginnings(&text);
            assert!((1..text.len()).all(|i| z[i] == plain(i)), "{text:?}: {z:?}");
        }
    }

    #[test]
    fn what_continues_a_repetition_is_penalised() {
        let options = |allowed| SamplingOptions {
            dry_multiplier: 1.0,
            dry_base: 2.0,
            dry_allowed_length: allowed,
            ..SamplingOptions::default()
        };
        // 1 2 3 came before 4 and, with one more, before 5; the end is 9 1 2 3.
        let history = [1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3];
        assert_eq!(penalties(&history, &options(2)), BTreeMap::from([(4, 2.0), (5, 4.0)]));
        assert_eq!(penalties(&history, &options(4)), BTreeMap::from([(5, 1.0)]));
        assert_eq!(penalties(&history, &options(5)), BTreeMap::new());
        // A repetition does not extend across the breaker, 1.
        let broken = SamplingOptions { dry_breakers: vec![vec![1]], ..options(2) };
        assert_eq!(penalties(&history, &broken), BTreeMap::from([(4, 1.0), (5, 1.0)]));
        let longer = SamplingOptions { dry_breakers: vec![vec![1, 2]], ..options(1) };
        assert_eq!(penalties(&history, &longer), BTreeMap::from([(4, 1.0), (5, 1.0)]));
        let unlike = SamplingOptions { dry_breakers: vec![vec![1, 3]], ..options(4) };
        assert_eq!(penalties(&history, &unlike), BTreeMap::from([(5, 1.0)]));
        // A token that would continue a repetition gets no penalty if it is a breaker itself.
        let ends = SamplingOptions { dry_breakers: vec![vec![4]], ..options(2) };
        assert_eq!(penalties(&history, &ends), BTreeMap::from([(5, 4.0)]));
        // The window does not reach back to the first.
        let short = SamplingOptions { dry_penalty_last_n: 8, ..options(2) };
        assert_eq!(penalties(&history, &short), BTreeMap::from([(5, 2.0)]));
    }

    #[test]
    fn breakers_in_order_are_found_by_their_first_token() {
        let mut random = SplitMix64::new(9);
        let mut below = |n: u64| (random.next_u64() % n) as u32;
        for _ in 0..500 {
            let mut breakers: Vec<Vec<u32>> =
                (0..below(9)).map(|_| (0..1 + below(3)).map(|_| below(4)).collect()).collect();
            breakers.sort();
            let back: Vec<u32> = (0..below(12)).map(|_| below(4)).collect();
            // By the definition: the last place at which a breaker lies whole.
            let whole = |start: usize, breaker: &Vec<u32>| {
                breaker.len() <= start + 1 && breaker.iter().zip(back[..=start].iter().rev()).all(|(a, b)| a == b)
            };
            let after = |start: usize| {
                breakers.iter().filter(|breaker| whole(start, breaker)).map(|breaker| start + 1 - breaker.len()).min()
            };
            let expected = (0..back.len()).find_map(after).unwrap_or(back.len());
            assert_eq!(limit(&back, &breakers), expected, "{back:?} {breakers:?}");
            for head in 0..4 {
                let plain: Vec<_> = breakers.iter().filter(|breaker| breaker[0] == head).cloned().collect();
                assert_eq!(beginning_with(&breakers, head), plain);
            }
        }
    }

    /// A vocabulary of which every token ends in most beginnings of the breaker: what it gives is bounded, and each rest is
    /// encoded once.
    #[test]
    fn a_vocabulary_that_is_made_for_it_ends_in_an_error() {
        let text = "\n".repeat(40);
        let word = [b'\n'; 39];
        let encoded = std::cell::Cell::new(0);
        let encode = |text: &str| {
            encoded.set(encoded.get() + 1);
            Ok::<_, SamplingError>(text.bytes().map(u32::from).collect())
        };
        let given = |count: u32| breakers(std::slice::from_ref(&text), (0..count).map(|id| (id, &word[..])), encode);
        // 39 beginnings a token, each with at most 20 ids behind it.
        assert_eq!(given(1000).unwrap().len(), 39_000 - 19 * 1000, "those that were cut to 20 are equal");
        assert_eq!(encoded.get(), 39);
        assert_eq!(given(100_000), Err(SamplingError::Breakers { most: MOST_IDS }));
        assert_eq!(encoded.get(), 2 * 39);
    }

    #[test]
    fn breakers_are_found_in_tokens_and_across_them() {
        let tokens: [&[u8]; 6] = [b"a", b"\n", b".\n", b"x\n\n", b"User", b"\nUs"];
        let encode = |text: &str| Ok::<_, SamplingError>(text.bytes().map(u32::from).collect());
        let ids = || (0u32..).zip(tokens);
        assert_eq!(breakers(&["\n".into()], ids(), encode), Ok(vec![vec![1], vec![2], vec![3], vec![5]]));
        let two = breakers(&["\n\nU".into()], ids(), encode).unwrap();
        let rest = |id: u32, text: &str| [&[id][..], &encode(text).unwrap()].concat();
        // A token that ends in two of the beginnings is there twice.
        assert_eq!(two, [rest(1, "\nU"), rest(2, "\nU"), rest(3, "\nU"), rest(3, "U")]);
    }
}
