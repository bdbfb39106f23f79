//! How many threads, and how work is handed to them.

use crate::error::{Result, RuntimeError};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Physical cores this process may use: one for each core in its affinity mask, and no more than its cgroup's quota.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    physical_cores().map_or(allowed, |n| n.clamp(1, allowed))
}

/// Cores among the processors this process may run on; hyperthreads of one core count once.
#[cfg(target_os = "linux")]
fn physical_cores() -> Option<usize> {
    let mask = rustix::thread::sched_getaffinity(None).ok()?;
    let siblings = |cpu: usize| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    };
    let cores: Option<BTreeSet<String>> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).map(siblings).collect();
    cores.map(|c| c.len()).filter(|&n| n > 0)
}

#[cfg(not(target_os = "linux"))]
fn physical_cores() -> Option<usize> {
    let _: BTreeSet<String>;
    None
}

/// The threads of a backend.
#[derive(Debug)]
pub struct Pool {
    pool: rayon::ThreadPool,
}

impl Pool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(threads: usize) -> Result<Pool> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("nanoserve-{i}"))
            .build()
            .map_err(|e| RuntimeError::Threads { threads, cause: e.to_string() })?;
        Ok(Pool { pool })
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on one of the threads: inside, [`Pool::each`] is cheap.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Calls `work` once for each of `0..n`, in no order; a thread takes the next when it is done with its last, so
    /// that a slow core does not hold the rest.
    pub fn each(&self, n: usize, work: impl Fn(usize) + Sync) {
        if n <= 1 || self.threads() == 1 {
            return (0..n).for_each(work);
        }
        let next = AtomicUsize::new(0);
        self.pool.broadcast(|_| {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    break;
                }
                work(i);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_called_once() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads).unwrap();
            for n in [0, 1, 2, 100] {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.enter(|| {
                    pool.each(n, |i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    })
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&default_threads()));
    }
}
