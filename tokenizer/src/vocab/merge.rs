//! Merges symbols by rank.
//!
//! ```text
//! while some neighbours can be merged
//!     merge the two of lowest rank; of several such pairs, the first
//! ```
//!
//! A few symbols are searched again each time. Many are kept in a linked list with a heap of pairs, so that the time
//! for n symbols grows as n log n: in the text family a whole text is one sequence of symbols.

use super::CompiledVocabulary;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Number of symbols up to which searching is faster than a heap.
const FEW: usize = 40;

/// The end of the list.
const END: usize = usize::MAX;

/// Buffers for merging, kept from one sequence to the next.
#[derive(Default)]
pub(super) struct Scratch {
    /// Rank and new id of each symbol with the next.
    pairs: Vec<Option<(u32, u32)>>,
    list: Vec<Symbol>,
    /// Rank, place of the left symbol, new id; lowest first.
    heap: BinaryHeap<Reverse<(u32, usize, u32)>>,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: usize,
    next: usize,
    /// It was merged into the one before it.
    gone: bool,
}

impl CompiledVocabulary<'_> {
    /// Merges symbols until nothing can be merged, and adds what is left to `out`.
    pub(super) fn merge(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if symbols.len() <= FEW {
            self.merge_few(symbols, &mut scratch.pairs);
            out.extend_from_slice(symbols);
        } else {
            self.merge_many(symbols, scratch, out);
        }
    }

    pub(super) fn merge_few(&self, symbols: &mut Vec<u32>, pairs: &mut Vec<Option<(u32, u32)>>) {
        pairs.clear();
        pairs.extend(symbols.windows(2).map(|pair| self.merge_of(pair[0], pair[1])));
        loop {
            let ranked = pairs.iter().enumerate().filter_map(|(at, pair)| pair.map(|(rank, id)| (rank, at, id)));
            let Some((_, at, id)) = ranked.min() else { return };
            symbols[at] = id;
            symbols.remove(at + 1);
            pairs.remove(at);
            if at > 0 {
                pairs[at - 1] = self.merge_of(symbols[at - 1], id);
            }
            if at < pairs.len() {
                pairs[at] = self.merge_of(id, symbols[at + 1]);
            }
        }
    }

    pub(super) fn merge_many(&self, symbols: &[u32], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { list, heap, .. } = scratch;
        list.clear();
        heap.clear();
        let last = symbols.len() - 1;
        list.extend(symbols.iter().enumerate().map(|(at, &id)| Symbol {
            id,
            previous: at.checked_sub(1).unwrap_or(END),
            next: if at == last { END } else { at + 1 },
            gone: false,
        }));
        for (at, pair) in symbols.windows(2).enumerate() {
            if let Some((rank, id)) = self.merge_of(pair[0], pair[1]) {
                heap.push(Reverse((rank, at, id)));
            }
        }
        while let Some(Reverse((_, at, new))) = heap.pop() {
            let left = list[at];
            if left.gone || left.next == END {
                continue;
            }
            let right = list[left.next];
            // The pair may have changed since it was put on the heap.
            if self.merge_of(left.id, right.id).is_none_or(|(_, id)| id != new) {
                continue;
            }
            list[left.next].gone = true;
            list[at] = Symbol { id: new, next: right.next, ..left };
            if right.next != END {
                list[right.next].previous = at;
                if let Some((rank, id)) = self.merge_of(new, list[right.next].id) {
                    heap.push(Reverse((rank, at, id)));
                }
            }
            if left.previous != END
                && let Some((rank, id)) = self.merge_of(list[left.previous].id, new)
            {
                heap.push(Reverse((rank, left.previous, id)));
            }
        }
        out.extend(list.iter().filter(|symbol| !symbol.gone).map(|symbol| symbol.id));
    }
}
