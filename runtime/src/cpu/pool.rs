//! Fork and join in a fraction of a microsecond: the caller works too, and helpers spin briefly before they sleep.
//!
//! A token passes through about a hundred parallel regions that take from a few to a few hundred microseconds. Measured
//! on two cores, an empty region costs 18.7 us when it enters a rayon pool from outside, 4.1 us inside one, and 0.22 us
//! here (benches/kernels.rs).
//!
//! ```text
//! caller                                   helper
//!   write the job; state = open              wait for a new generation: spin, then sleep
//!   generation += 1; wake sleepers           state += one active; was it open?
//!   take pieces until none is left             yes: take pieces until none is left
//!   state = closed                           state -= one active
//!   wait until none is active
//! ```
//!
//! A late helper finds the job closed and does nothing. So if another process occupies its core, that does not delay a
//! region that the other threads have finished.
//!
//! Each thread has its own share of the pieces, the same in every region with that many pieces. It takes from other
//! shares only after finishing its own. So what a thread wrote in one region is often in its own cache in the next.

use crate::error::{Result, RuntimeError};
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, Thread};

/// Iterations of the waiting loop before a helper sleeps: some tens of microseconds, longer than the gap between
/// regions.
const SPINS: usize = if cfg!(miri) { 10 } else { 4000 };

/// The bit of the state that says that helpers may enter the job.
const OPEN: usize = 1;
/// What one active helper adds to the state.
const ACTIVE: usize = 2;

/// The work of a region: called with each piece's number.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// The threads of a backend: the caller and helpers.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held by the caller during a region, so that regions run one at a time.
    caller: Mutex<()>,
}

struct Shared {
    generation: AtomicUsize,
    state: AtomicUsize,
    job: UnsafeCell<Job>,
    /// `[threads]`: the next piece to take from each thread's share. The caller is thread 0.
    next: Vec<Next>,
    stop: AtomicBool,
    panicked: AtomicBool,
    sleeping: Vec<AtomicBool>,
}

/// The next piece of a share. It has the pair of cache lines that a core fetches together to itself.
#[repr(align(128))]
struct Next(AtomicUsize);

/// A region: its work, with the lifetime erased, and its pieces.
#[derive(Clone, Copy)]
struct Job {
    work: Option<Work<'static>>,
    pieces: usize,
}

// SAFETY: `job` is the only field that is not Sync by itself. It is written by the caller alone, while `state` is
// closed and no helper is active, and read by helpers that have entered while it was open; see `each` and `help`.
unsafe impl Sync for Shared {}
// SAFETY: the work a job points to is Sync, so it may be called from any thread.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} helpers", self.sleeping.len())
    }
}

impl Pool {
    /// Starts `threads - 1` helpers.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(threads: usize) -> Result<Pool> {
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            state: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { work: None, pieces: 0 }),
            next: (0..threads.max(1)).map(|_| Next(AtomicUsize::new(0))).collect(),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            sleeping: (1..threads).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut pool = Pool { shared, helpers: Vec::new(), caller: Mutex::new(()) };
        for i in 0..threads.saturating_sub(1) {
            let shared = pool.shared.clone();
            let helper = thread::Builder::new().name(format!("nanoserve-{}", i + 1)).spawn(move || shared.help(i));
            pool.helpers.push(helper.map_err(|e| RuntimeError::Threads { threads, cause: e.to_string() })?);
        }
        Ok(pool)
    }

    /// Number of threads, including the caller.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work` once for each of `0..pieces`, in no particular order. A thread's share is a run of neighbouring
    /// pieces. A thread that has finished its own share takes from the others, so that a slow core does not hold up the
    /// rest. Must not be called from inside `work`.
    ///
    /// # Panics
    /// When `work` panics, in any thread.
    pub fn each(&self, pieces: usize, work: impl Fn(usize) + Sync) {
        if pieces <= 1 || self.helpers.is_empty() {
            return (0..pieces).for_each(work);
        }
        let one_at_a_time = self.caller.lock().unwrap_or_else(|e| e.into_inner());
        let shared = &*self.shared;
        let work: Work = &work;
        // SAFETY: only the lifetime changes. Only helpers that are active in this job use the reference. `Region` is
        // dropped before `work`; it closes the job and waits until no helper is active.
        let work: Work<'static> = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        // SAFETY: the previous region closed the job and waited until no helper was active. A helper that enters now
        // finds it closed and does not read it. The mutex keeps other callers out.
        unsafe { *shared.job.get() = Job { work: Some(work), pieces } };
        // A region that the caller left by a panic of its own did not look at it.
        shared.panicked.store(false, Ordering::Relaxed);
        for (share, next) in shared.next.iter().enumerate() {
            next.0.store(shared.share(share, pieces).start, Ordering::Relaxed);
        }
        shared.state.fetch_or(OPEN, Ordering::Release);
        shared.generation.fetch_add(1, Ordering::SeqCst);
        let region = Region { shared, _one_at_a_time: one_at_a_time };
        for (sleeping, helper) in shared.sleeping.iter().zip(&self.helpers) {
            if sleeping.load(Ordering::SeqCst) {
                Thread::unpark(helper.thread());
            }
        }
        shared.take_pieces(Job { work: Some(work), pieces }, 0);
        drop(region);
        if shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a piece of work panicked in another thread; its message is above");
        }
    }
}

/// An open job. Dropping it, also by a panic, closes the job and waits until no helper is in it.
struct Region<'p> {
    shared: &'p Shared,
    _one_at_a_time: MutexGuard<'p, ()>,
}

impl Drop for Region<'_> {
    fn drop(&mut self) {
        self.shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.shared.state.load(Ordering::Acquire) >= ACTIVE {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                // Something else occupies the helper's core: yield so that the helper can finish.
                thread::yield_now();
            }
        }
    }
}

impl Shared {
    /// The pieces of a thread's share.
    fn share(&self, thread: usize, pieces: usize) -> Range<usize> {
        let threads = self.next.len();
        thread * pieces / threads..(thread + 1) * pieces / threads
    }

    /// Takes the pieces of the share of `thread`, then what is left of the other shares.
    fn take_pieces(&self, job: Job, thread: usize) {
        let Some(work) = job.work else { return };
        for share in (thread..self.next.len()).chain(0..thread) {
            let (next, end) = (&self.next[share].0, self.share(share, job.pieces).end);
            // Load before fetch_add: if nothing is left, the cache line stays shared.
            while next.load(Ordering::Relaxed) < end {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece < end {
                    work(piece);
                }
            }
        }
    }

    /// A helper's main loop.
    fn help(&self, index: usize) {
        let mut seen = 0;
        while !self.stop.load(Ordering::Acquire) {
            let generation = self.wait(index, seen);
            if generation == seen {
                continue;
            }
            seen = generation;
            if self.state.fetch_add(ACTIVE, Ordering::AcqRel) & OPEN != 0 {
                // SAFETY: the job was open when this helper became active, so it had been written before. The caller
                // does not write the next one while a helper is active.
                let job = unsafe { *self.job.get() };
                let work = std::panic::AssertUnwindSafe(|| self.take_pieces(job, index + 1));
                if std::panic::catch_unwind(work).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.state.fetch_sub(ACTIVE, Ordering::Release);
        }
    }

    /// Waits until the generation is not `seen` or the pool stops, and returns the generation.
    fn wait(&self, index: usize, seen: usize) -> usize {
        for _ in 0..SPINS {
            let generation = self.generation.load(Ordering::Acquire);
            if generation != seen {
                return generation;
            }
            std::hint::spin_loop();
        }
        // This thread sets its flag, then checks the generation; the caller counts the generation, then checks the
        // flag. So at least one of the two sees the other.
        self.sleeping[index].store(true, Ordering::SeqCst);
        while self.generation.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        self.sleeping[index].store(false, Ordering::SeqCst);
        self.generation.load(Ordering::Acquire)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches its panics, so the result says nothing.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_called_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for round in 0..if cfg!(miri) { 8 } else { 300 } {
                let n = [0, 1, 2, 100][round % 4];
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.each(n, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn helpers_wake_from_sleep() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..3 {
            while !pool.shared.sleeping.iter().all(|s| s.load(Ordering::SeqCst)) {
                thread::yield_now();
            }
            // The two pieces wait for each other: a single thread would never finish.
            let met = AtomicUsize::new(0);
            pool.each(2, |_| {
                met.fetch_add(1, Ordering::SeqCst);
                while met.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_thread_begins_with_its_own_share() {
        let pool = Pool::new(2).unwrap();
        let caller = thread::current().id();
        for _ in 0..10 {
            // Neither piece ends before the other has begun, so each thread runs one: its own.
            let met = AtomicUsize::new(0);
            pool.each(2, |piece| {
                met.fetch_add(1, Ordering::SeqCst);
                while met.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
                assert_eq!(thread::current().id() == caller, piece == 0);
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        for piece in [0, 63] {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.each(64, |i| assert_ne!(i, piece, "on purpose"));
            }));
            assert!(result.is_err());
            let sum = AtomicUsize::new(0);
            pool.each(10, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    /// A panic of the caller hides that of a helper. The next region is not blamed for it.
    #[test]
    fn after_two_panics_at_once_the_next_region_runs() {
        let pool = Pool::new(2).unwrap();
        let both = std::sync::Barrier::new(2);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.each(2, |_| {
                both.wait();
                panic!("on purpose");
            });
        }));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        pool.each(10, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn callers_take_turns() {
        const ROUNDS: usize = if cfg!(miri) { 5 } else { 100 };
        let pool = Pool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..ROUNDS {
                        pool.each(8, |i| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * ROUNDS * 28);
    }
}
