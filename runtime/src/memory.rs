//! Whether there is memory enough, asked before any work starts.
//!
//! Linux promises more memory than it has, and kills a process that takes it at its word: a cache that is too large is
//! given all the same, and the end comes in the middle of a text. So what is needed at most is compared with the least of
//!
//! ```text
//! the machine      MemAvailable + SwapFree                        /proc/meminfo
//! control groups   limit - use + file pages + swap                this process's, and every one above it
//! ulimit -v, -d    limit - use                                    /proc/self/limits
//! ```
//!
//! Only what cannot be given is refused, not what would be slow. Where none of these is told (not Linux), nothing is.

use crate::backend::{KvShape, KvType};
use crate::error::{Result, RuntimeError};
use crate::forward::Rows;
use nanoserve_format::{FormatError, ModelSpec};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What ends the memory that a process can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// What the machine has free.
    Machine,
    /// What the control group, or one above it, may still take.
    ControlGroup,
    /// The limit on address space.
    AddressSpace,
    /// The limit on data.
    Data,
    /// What the GPU has free.
    Device,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Limit::Machine => "what the machine has free",
            Limit::ControlGroup => "the limit of its control group",
            Limit::AddressSpace => "the limit on address space, ulimit -v",
            Limit::Data => "the limit on data, ulimit -d",
            Limit::Device => "what the GPU has free",
        })
    }
}

/// Memory that a process can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// What ends them there.
    pub limit: Limit,
}

impl Room {
    /// Of this process at this moment; None where the system does not say.
    pub fn now() -> Option<Room> {
        Room::below(Path::new("/"))
    }

    /// As a system says whose files are below `root`.
    fn below(root: &Path) -> Option<Room> {
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
        let all = machine.into_iter().chain(groups).chain(ulimits.into_iter().flatten());
        all.min_by_key(|(bytes, _)| *bytes).map(|(bytes, limit)| Room { bytes, limit })
    }
}

/// A limit of this process by its name in /proc/self/limits; None where there is none, or nobody who says so.
pub(crate) fn ulimit(name: &str) -> Option<u64> {
    ulimit_of(&read(Path::new("/proc/self/limits")), name)
}

fn ulimit_of(limits: &str, name: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number behind a key, first in its line.
fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    number(text, key)?.checked_mul(1024)
}

/// What each control group with a limit may still take, of either version: limit, use, and pages of files, which are
/// given back when they are wanted.
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
            // In a container the path may be of the world outside; the mount itself is then the group.
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

/// Bytes that a session takes at most: its cache, its table of angles, and a step of `chunk` tokens.
pub fn session_bytes(spec: &ModelSpec, capacity: usize, kv_type: KvType, chunk: usize) -> u128 {
    let cache = KvShape::new(spec, capacity, kv_type).bytes();
    // Cosines and sines in f32, in vectors that double: for a moment the old one beside one of twice its length.
    let local = spec.window.as_ref().and_then(|window| window.rope.as_ref());
    let ropes = std::iter::once(&spec.rope).chain(local);
    let widths: u128 = ropes.map(|rope| rope.rotary_dim(spec.head_dim) as u128).sum();
    let angles = 3 * 4 * capacity as u128 * widths;
    cache + angles + step_bytes(spec, capacity.min(chunk), Rows::Last)
}

/// Bytes that a step of so many tokens takes at most: the forward pass's buffers, a matrix's input and the logits.
pub fn step_bytes(spec: &ModelSpec, tokens: usize, rows: Rows) -> u128 {
    let [hidden, q, kv, intermediate] =
        [spec.hidden_size, spec.q_size(), spec.kv_size(), spec.intermediate_size].map(|n| n as u128);
    let buffers = 3 * hidden + 2 * q + 2 * kv + intermediate;
    let input = hidden.max(q).max(intermediate);
    let logits = if rows == Rows::All { tokens as u128 } else { 1 };
    // Logits twice: the caller gets its own.
    4 * (tokens as u128 * (buffers + input) + 2 * logits * spec.vocab_size as u128)
}

/// Ok where a session of so many positions can get what it takes.
pub(crate) fn admit_session(
    spec: &ModelSpec,
    capacity: usize,
    kv_type: KvType,
    chunk: usize,
    room: Option<Room>,
) -> Result<()> {
    // More positions than the model has is an error of its own.
    if capacity > spec.context_length {
        return Ok(());
    }
    let what = || format!("a context of {capacity} positions, keys and values in {},", kv_type.name());
    let advice = match kv_type {
        KvType::F32 => "give a smaller --ctx, or --kv f16",
        KvType::F16 => "give a smaller --ctx",
    };
    admit(session_bytes(spec, capacity, kv_type, chunk), room, what, advice)
}

/// Ok where a step of so many tokens can get what it takes.
pub(crate) fn admit_step(spec: &ModelSpec, tokens: usize, rows: Rows, room: Option<Room>) -> Result<()> {
    let advice = if rows == Rows::All { "give fewer tokens" } else { "give a smaller --chunk" };
    admit(step_bytes(spec, tokens, rows), room, || format!("a step of {tokens} tokens"), advice)
}

/// Ok where a file can be copied into memory.
pub(crate) fn admit_copy(path: &Path) -> Result<()> {
    let failed = |source| FormatError::Io { path: path.to_path_buf(), action: "open", source };
    let need = fs::metadata(path).map_err(failed)?.len();
    admit(need.into(), Room::now(), || format!("a copy of {}", path.display()), "give --load map")
}

/// Ok where so many bytes can be had.
pub(crate) fn admit(need: u128, room: Option<Room>, what: impl FnOnce() -> String, advice: &'static str) -> Result<()> {
    match room {
        Some(Room { bytes: room, limit }) if need > room.into() => {
            Err(RuntimeError::Memory { what: what(), need: saturated(need), room, limit, advice })
        }
        _ => Ok(()),
    }
}

/// As 64 bits hold it.
pub(crate) fn saturated(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Bytes as people say them.
pub(crate) struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            u64::MAX => write!(f, "more than 18 EB"),
            bytes if bytes < 1_000_000_000 => write!(f, "{:.1} MB", bytes as f64 / 1e6),
            bytes => write!(f, "{:.2} GB", bytes as f64 / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::DEFAULT_CHUNK;
    use tempfile::TempDir;

    /// A system of these files.
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
        Room::below(system(files).path()).map(|room| (room.bytes, room.limit))
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:  9000 kB\nMemFree: 10 kB\nMemAvailable:    4000 kB\nSwapFree:   1000 kB\n");

    #[test]
    fn the_machine_has_what_is_available_and_its_swap() {
        assert_eq!(room(&[MEMINFO]), Some((5000 * 1024, Limit::Machine)));
        assert_eq!(room(&[]), None);
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
        // The group above has less to give; one without limit has no say.
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
            let room = Room::now().unwrap();
            assert!((1 << 20..1 << 50).contains(&room.bytes), "{room:?}");
        }
    }

    #[test]
    fn a_refusal_has_both_figures_and_says_what_to_do() {
        let spec = ModelSpec {
            hidden_size: 2048,
            intermediate_size: 8192,
            n_layers: 16,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 64,
            vocab_size: 128_256,
            context_length: 1 << 28,
            ..ModelSpec::default()
        };
        let room = Room { bytes: 2_500_000_000, limit: Limit::Machine };
        admit_session(&spec, 16, KvType::F16, DEFAULT_CHUNK, Some(room)).unwrap();
        admit_session(&spec, 1 << 28, KvType::F16, DEFAULT_CHUNK, None).unwrap();
        let error = admit_session(&spec, 1 << 20, KvType::F32, DEFAULT_CHUNK, Some(room)).unwrap_err();
        // 68.7 GB of keys and values, 0.8 of angles, and a step.
        assert_eq!(
            error.to_string(),
            "a context of 1048576 positions, keys and values in f32, needs 69.55 GB, this process can get 2.50 GB (what \
             the machine has free): give a smaller --ctx, or --kv f16"
        );
        assert!(admit_step(&spec, 1 << 24, Rows::Last, Some(room)).unwrap_err().to_string().contains("--chunk"));
    }

    #[test]
    fn no_numbers_of_a_model_overflow() {
        let (most, wide) = (1 << 28, 1 << 16);
        let spec = ModelSpec {
            hidden_size: most,
            intermediate_size: most,
            n_layers: wide,
            n_heads: wide,
            n_kv_heads: wide,
            head_dim: 1 << 12,
            vocab_size: most,
            context_length: most,
            ..ModelSpec::default()
        };
        spec.check().unwrap();
        let error = admit_session(
            &spec,
            most,
            KvType::F32,
            DEFAULT_CHUNK,
            Some(Room { bytes: u64::MAX, limit: Limit::Machine }),
        );
        let error = error.unwrap_err();
        assert!(matches!(error, RuntimeError::Memory { need: u64::MAX, .. }), "{error}");
        assert!(error.to_string().contains("more than 18 EB"), "{error}");
    }
}
