//! One buffer written by several threads, each in its own disjoint parts.

use super::pool::Pool;
use std::marker::PhantomData;
use std::ops::Range;

/// An operation on rows with fewer values than this is not worth waking another thread.
const SERIAL_VALUES: usize = 1 << 15;

/// A slice whose parts are handed out to threads; each thread asks only for its own.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` is a `&mut [T]` in disguise: it has exclusive access to the slice for 'a. So it may be shared
// with other threads if `T` may be sent to them. Callers of `part` must see to it that two threads never hold the same
// element.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above; sending the exclusive access to another thread is the same as sending the slice.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes over a slice.
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), lent: PhantomData }
    }

    /// `len` elements from `first` on.
    ///
    /// # Safety
    /// - No other part that overlaps this one is alive, in any thread.
    ///
    /// # Panics
    /// When the part reaches beyond the slice.
    #[allow(clippy::mut_from_ref, reason = "handing out parts of one slice is what this type is for")]
    pub unsafe fn part(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.len && len <= self.len - first);
        // SAFETY: the assertion keeps the part inside the slice, which lives for 'a and is borrowed exclusively by
        // self; the caller promises that no overlapping part is alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

/// Calls `work` with disjoint ranges that together cover `0..rows`, on several threads if there is enough to do. `cost`
/// is the number of values that the work on one row touches.
pub fn each_range(pool: &Pool, rows: usize, cost: usize, work: impl Fn(Range<usize>) + Sync) {
    let threads = pool.threads();
    if threads == 1 || rows * cost < SERIAL_VALUES {
        return work(0..rows);
    }
    let step = rows.div_ceil(4 * threads);
    pool.each(rows.div_ceil(step), |i| work(i * step..((i + 1) * step).min(rows)));
}

/// Calls `work(row, values)` for each row of `data`, which is `width` values long.
pub fn each_row<T: Send>(pool: &Pool, data: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let rows = data.len() / width;
    let data = Disjoint::new(data);
    each_range(pool, rows, width, |range| {
        for row in range {
            // SAFETY: ranges do not overlap, so no other thread has this row, and this one has it once.
            work(row, unsafe { data.part(row * width, width) });
        }
    });
}

/// Calls `work(row, a's values, b's values)` for each row of two buffers with the same number of rows. `cost` is the
/// number of values that the work on one row touches.
pub fn each_row_of_two<A: Send, B: Send>(
    pool: &Pool,
    (a, a_width): (&mut [A], usize),
    (b, b_width): (&mut [B], usize),
    cost: usize,
    work: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let rows = a.len() / a_width;
    assert_eq!(rows, b.len() / b_width);
    let (a, b) = (Disjoint::new(a), Disjoint::new(b));
    each_range(pool, rows, cost, |range| {
        for row in range {
            // SAFETY: ranges do not overlap, so no other thread has this row, and this one has it once.
            let (a, b) = unsafe { (a.part(row * a_width, a_width), b.part(row * b_width, b_width)) };
            work(row, a, b);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_seen_once() {
        let pool = Pool::new(3).expect("three threads");
        for (rows, width) in [(1, 5), (7, 3), (300, 200)] {
            let (mut a, mut b) = (vec![0u32; rows * width], vec![0u32; rows]);
            each_row_of_two(&pool, (&mut a, width), (&mut b, 1), width, |row, a, b| {
                a.iter_mut().for_each(|x| *x += row as u32);
                b[0] += 1;
            });
            each_row(&pool, &mut a, width, |_, a| a.iter_mut().for_each(|x| *x += 1));
            assert!(a.iter().enumerate().all(|(i, &x)| x as usize == i / width + 1));
            assert!(b.iter().all(|&x| x == 1));
        }
    }
}
