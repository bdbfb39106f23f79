//! How many threads this process should use.

#[cfg(target_os = "linux")]
use std::collections::BTreeSet;

/// Physical cores this process may use: one for each core in its affinity mask, and no more than its cgroup's quota.
///
/// On processors with cores of unequal speed, as most ARM processors are, all cores count: a thread takes its next
/// piece of work when it is done with the last, so a slow core takes fewer pieces and delays the others by one piece at
/// most.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    physical_cores().map_or(allowed, |n| n.clamp(1, allowed))
}

/// Number of physical cores that this process may run on; hyperthreads of one core count once.
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
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_at_least_one_core() {
        assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&default_threads()));
    }
}
