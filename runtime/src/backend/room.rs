//! Checks, before any work starts, whether there is enough memory.
//!
//! Linux hands out more memory than it has and kills a process that then uses it. A KV cache that is too large would be
//! allocated without complaint, and the process would die in the middle of a text. So the most that is needed is
//! compared with the smallest of
//!
//! ```text
//! the machine      MemAvailable + SwapFree                        /proc/meminfo
//! control groups   limit - use + file pages + swap                this process's group, and every one above it
//! ulimit -v, -d    limit - use                                    /proc/self/limits
//! ```
//!
//! Only what cannot fit is refused, not what would be slow. If none of these is known (not on Linux), nothing is
//! refused.

use crate::error::{Limit, MemoryUse, Result, RuntimeError};
use std::fs;
use std::path::{Path, PathBuf};

/// Memory that a process can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Which limit is the tightest.
    pub limit: Limit,
}

impl Room {
    /// Memory that this process can get now, minus `promised`, the bytes already promised but not touched yet. None if
    /// the system does not report it.
    pub fn now(promised: u64) -> Option<Room> {
        Room::below(Path::new("/"), promised)
    }

    /// Like [`Room::now`], for a system whose `/proc` and `/sys` are below `root`.
    fn below(root: &Path, promised: u64) -> Option<Room> {
        let memory = read(&root.join("proc/meminfo"));
        let swap = kilobytes(&memory, "SwapFree:").unwrap_or(0);
        let machine = kilobytes(&memory, "MemAvailable:").map(|free| (free.saturating_add(swap), Limit::Machine));
        let groups = control_groups(root, swap).into_iter().map(|room| (room, Limit::ControlGroup));
        let (limits, status) = (read(&root.join("proc/self/limits")), read(&root.join("proc/self/status")));
        let ulimit = |name, used, limit| {
            let used = kilobytes(&status, used).unwrap_or(0);
            ulimit_of(&limits, name).map(|most| (most.saturating_sub(used), limit))
        };
        let ulimits = [
            ulimit("Max address space", "VmSize:", Limit::AddressSpace),
            ulimit("Max data size", "VmData:", Limit::Data),
        ];
        // A process's limits count memory once it is mapped, the others only once it is touched.
        let touched = machine.into_iter().chain(groups).map(|(bytes, limit)| (bytes.saturating_sub(promised), limit));
        let all = touched.chain(ulimits.into_iter().flatten());
        all.min_by_key(|(bytes, _)| *bytes).map(|(bytes, limit)| Room { bytes, limit })
    }
}

/// A limit of this process by its name in /proc/self/limits. None if it is unlimited or unknown.
pub(crate) fn ulimit(name: &str) -> Option<u64> {
    ulimit_of(&read(Path::new("/proc/self/limits")), name)
}

fn ulimit_of(limits: &str, name: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number after `key`, which begins a line.
fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    number(text, key)?.checked_mul(1024)
}

/// The memory that each control group with a limit (version 1 or 2) can still take: limit minus use. File pages do not
/// count as use, because the system reclaims them on demand.
fn control_groups(root: &Path, swap: u64) -> Vec<u64> {
    let mut rooms = Vec::new();
    for line in read(&root.join("proc/self/cgroup")).lines() {
        // ID:CONTROLLERS:PATH; version 2 names no controllers.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mounts, files, cached, no_swap): (&[&str], [&str; 2], &[&str], _) = match controllers {
            "" => (
                &["", "unified"],
                ["memory.max", "memory.current"],
                &["inactive_file ", "active_file "],
                "memory.swap.max",
            ),
            _ if controllers.split(',').any(|c| c == "memory") => (
                &["memory"],
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
                &["total_inactive_file ", "total_active_file "],
                "",
            ),
            _ => continue,
        };
        for mount in mounts.iter().map(|m| root.join("sys/fs/cgroup").join(m)) {
            // In a container the path may be that of the host; then the mount itself is the group.
            let own: PathBuf = mount.join(path.trim_start_matches('/'));
            for group in own.ancestors().take_while(|group| group.starts_with(&mount)) {
                let value = |name: &str| read(&group.join(name)).trim().parse::<u64>().ok();
                let [Some(most), Some(used)] = files.map(value) else { continue };
                let stat = read(&group.join("memory.stat"));
                let cached: u64 = cached.iter().filter_map(|key| number(&stat, key)).sum();
                let swap = swap.min(value(no_swap).unwrap_or(u64::MAX));
                rooms.push(most.saturating_sub(used.saturating_sub(cached)).saturating_add(swap));
            }
        }
    }
    rooms
}

/// Ok if `need` bytes fit into `room`, or if `room` is unknown.
pub(crate) fn admit(need: u128, room: Option<Room>, what: impl FnOnce() -> MemoryUse) -> Result<()> {
    match room {
        Some(Room { bytes: room, limit }) if need > room.into() => {
            Err(RuntimeError::Memory { what: what(), need: saturated(need), room, limit })
        }
        _ => Ok(()),
    }
}

/// Converts to u64, saturating.
pub(crate) fn saturated(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A temporary root directory with these files.
    fn system(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn room(files: &[(&str, &str)]) -> Option<(u64, Limit)> {
        Room::below(system(files).path(), 0).map(|room| (room.bytes, room.limit))
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:  9000 kB\nMemFree: 10 kB\nMemAvailable:    4000 kB\nSwapFree:   1000 kB\n");

    #[test]
    fn the_machine_has_what_is_available_and_its_swap() {
        assert_eq!(room(&[MEMINFO]), Some((5000 * 1024, Limit::Machine)));
        assert_eq!(room(&[]), None);
        // Promised memory is not free, although the system reports it as free.
        let less = |promised| Room::below(system(&[MEMINFO]).path(), promised).map(|room| room.bytes);
        assert_eq!((less(1024), less(u64::MAX)), (Some(4999 * 1024), Some(0)));
    }

    #[test]
    fn a_group_of_version_2_gives_its_files_back() {
        let group = "sys/fs/cgroup/a/b";
        let stat = "anon 600000\ninactive_file 100000\nactive_file 50000\ntotal_active_file 9\n";
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            (&format!("{group}/memory.max"), "1000000\n"),
            (&format!("{group}/memory.current"), "800000\n"),
            (&format!("{group}/memory.stat"), stat),
            (&format!("{group}/memory.swap.max"), "0\n"),
        ];
        assert_eq!(room(&files), Some((350_000, Limit::ControlGroup)));
        // The parent group has less left; a group without a limit does not count.
        let above = [("sys/fs/cgroup/a/memory.max", "900000"), ("sys/fs/cgroup/a/memory.current", "850000")];
        let none = [("sys/fs/cgroup/a/memory.swap.max", "0"), ("sys/fs/cgroup/memory.max", "max")];
        assert_eq!(room(&[&files[..], &above, &none].concat()), Some((50_000, Limit::ControlGroup)));
    }

    #[test]
    fn a_group_of_version_1_also_where_the_path_is_of_the_world_outside() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/docker/0123\n3:cpu,cpuacct:/\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "2500000"),
            ("sys/fs/cgroup/memory/memory.stat", "active_file 7\ntotal_inactive_file 1000\ntotal_active_file 500\n"),
        ];
        assert_eq!(room(&files), Some((501_500 + 1000 * 1024, Limit::ControlGroup)));
    }

    #[test]
    fn limits_of_the_process_count_what_it_has() {
        let limits = |space: &str, data: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max data size             {data}              unlimited            bytes\n\
                 Max address space         {space}             unlimited            bytes\n"
            )
        };
        let with = |space: &str, data: &str| {
            let limits = limits(space, data);
            room(&[MEMINFO, ("proc/self/limits", &limits), ("proc/self/status", "VmSize:  500 kB\nVmData:  100 kB\n")])
        };
        assert_eq!(with("unlimited", "unlimited"), Some((5000 * 1024, Limit::Machine)));
        assert_eq!(with("1024000", "unlimited"), Some((500 * 1024, Limit::AddressSpace)));
        assert_eq!(with("1024000", "204800"), Some((100 * 1024, Limit::Data)));
        assert_eq!(with("1000", "unlimited"), Some((0, Limit::AddressSpace)));
    }

    #[test]
    fn here_there_is_something_and_not_everything() {
        if cfg!(target_os = "linux") {
            let room = Room::now(0).unwrap();
            assert!((1 << 20..1 << 50).contains(&room.bytes), "{room:?}");
        }
    }
}
