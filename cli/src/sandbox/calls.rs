//! The half of the sandbox that knows system calls: seccomp, in every thread of the process.
//!
//! A call that is not listed fails with EPERM. One that is newer than this list fails with ENOSYS, as on a system that does
//! not have it, so that a C library takes the older one. So does clone3, whose flags a filter cannot see: clone shows them.

use libc::{SYS_clone, SYS_clone3, SYS_fcntl};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads, sock_filter,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Made<T> = Result<T, BackendError>;

/// Calls that may have any arguments, on every architecture: memory, threads, waiting, clocks, and files that are open or are
/// only looked at.
#[rustfmt::skip]
const ALWAYS: &[i64] = &[
    // memory
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_mincore, libc::SYS_mlock, libc::SYS_mlock2,
    libc::SYS_munlock, libc::SYS_msync, libc::SYS_get_mempolicy,
    // threads and their end
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_set_tid_address,
    libc::SYS_gettid, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity, libc::SYS_getcpu,
    libc::SYS_membarrier, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_restart_syscall,
    // signals
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigsuspend, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait, libc::SYS_sigaltstack,
    // waiting
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_eventfd2,
    libc::SYS_pipe2, libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_clock_gettime, libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    // what is open
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2,
    libc::SYS_close, libc::SYS_lseek, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_getdents64,
    libc::SYS_fadvise64, libc::SYS_readahead, libc::SYS_flock, libc::SYS_recvfrom, libc::SYS_shutdown,
    // what is only looked at
    libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_getcwd,
    // about this process and the machine
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpgid, libc::SYS_getsid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getrandom, libc::SYS_getrusage, libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_times,
];

/// The same under the names that x86-64 kept from before the others had new ones.
#[rustfmt::skip]
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[i64] = &[
    libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_wait, libc::SYS_pipe, libc::SYS_pause, libc::SYS_time, libc::SYS_dup2,
    libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_getdents, libc::SYS_getpgrp,
    libc::SYS_arch_prctl, libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[i64] = &[];

/// What a file takes that is written beside its name and renamed. Landlock says where.
#[rustfmt::skip]
const WRITING: &[i64] = &[
    libc::SYS_openat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_unlinkat, libc::SYS_ftruncate, libc::SYS_fallocate,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_fchmod, libc::SYS_pwrite64,
];
#[cfg(target_arch = "x86_64")]
const WRITING_HERE: &[i64] = &[libc::SYS_open, libc::SYS_rename, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const WRITING_HERE: &[i64] = &[];

/// What makes a file of an open call.
const MAKING: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u64;

/// The calls on terminals that an editor makes: modes and size. Not those that type on the user's behalf.
const TERMINAL: [u64; 13] = [
    0x5401,
    0x5402,
    0x5403,
    0x5404, // TCGETS, TCSETS, TCSETSW, TCSETSF
    0x802c_542a,
    0x402c_542b,
    0x402c_542c,
    0x402c_542d, // the same with 2 at their end
    0x5413,
    0x540f, // TIOCGWINSZ, TIOCGPGRP
    0x5421,
    0x5451,
    0x541b, // FIONBIO, FIOCLEX, FIONREAD
];

/// A call on an open file that chooses the signal its owner gets; libc has no name for it.
const F_SETSIG: i32 = 10;

/// The newest call that the lists above were made with the knowledge of.
const NEWEST: u32 = 462;

/// Gives up every call that is not listed. With `writes`, files may be made. Returns whether that holds.
pub fn give_up(writes: bool) -> bool {
    filter(writes).is_ok_and(|filter| apply_filter_all_threads(&filter).is_ok())
}

fn filter(writes: bool) -> Made<BpfProgram> {
    let target: TargetArch = std::env::consts::ARCH.try_into()?;
    let errno = |code: i32| SeccompAction::Errno(code as u32);
    let filter = SeccompFilter::new(rules(writes)?, errno(libc::EPERM), SeccompAction::Allow, target)?;
    let listed: BpfProgram = filter.try_into()?;
    // Jumps are relative, so this may stand before it. First word of what a filter sees: the call's number.
    let newer = [
        sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 },
        sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 1, jf: 0, k: SYS_clone3 as u32 },
        sock_filter { code: (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16, jt: 0, jf: 1, k: NEWEST },
        sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        },
    ];
    Ok([&newer[..], &listed].concat())
}

fn rules(writes: bool) -> Made<Rules> {
    let mut rules: Rules = ALWAYS.iter().chain(ALWAYS_HERE).map(|&call| (call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    let number = |signal: i32| signal as u64;
    // Threads, not processes.
    rules.insert(SYS_clone, vec![all(vec![masked(0, libc::CLONE_THREAD as u64, libc::CLONE_THREAD as u64)?])?]);
    // Signals to itself; Ctrl-Z stops all that the terminal's command line started. An abort has no number of a process.
    rules.insert(libc::SYS_tgkill, vec![all(vec![equal(0, own)?])?]);
    rules.insert(
        libc::SYS_kill,
        vec![all(vec![equal(0, own)?])?, all(vec![equal(0, 0)?, equal(1, number(libc::SIGTSTP))?])?],
    );
    let raised =
        [libc::SIGABRT, libc::SIGBUS, libc::SIGTSTP].map(|signal| equal(1, number(signal)).and_then(|c| all(vec![c])));
    rules.insert(libc::SYS_tkill, raised.into_iter().collect::<Made<_>>()?);
    // No memory whose bytes can be run.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![all(vec![masked(2, libc::PROT_EXEC as u64, 0)?])?]);
    }
    // Limits are read, not set.
    rules.insert(libc::SYS_prlimit64, vec![all(vec![wide(2, 0)?])?]);
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA, libc::PR_GET_DUMPABLE];
    rules
        .insert(libc::SYS_prctl, names.into_iter().map(|what| all(vec![equal(0, what as u64)?])).collect::<Made<_>>()?);
    rules.insert(libc::SYS_ioctl, TERMINAL.into_iter().map(|what| all(vec![equal(1, what)?])).collect::<Made<_>>()?);
    // An open file has no owner that signals are sent to.
    let owned = [libc::F_SETOWN, F_SETSIG].map(|what| unequal(1, what as u64));
    rules.insert(SYS_fcntl, vec![all(owned.into_iter().collect::<Made<_>>()?)?]);
    // How a handler of signals wakes a thread: a pair of sockets without names, and bytes to no other address.
    rules.insert(libc::SYS_socketpair, vec![all(vec![equal(0, libc::AF_UNIX as u64)?])?]);
    rules.insert(libc::SYS_sendto, vec![all(vec![wide(4, 0)?])?]);
    if writes {
        rules.extend(WRITING.iter().chain(WRITING_HERE).map(|&call| (call, Vec::new())));
    } else {
        rules.insert(libc::SYS_openat, vec![all(vec![masked(2, MAKING, 0)?])?]);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, vec![all(vec![masked(1, MAKING, 0)?])?]);
    }
    Ok(rules)
}

/// A rule that holds where all conditions do.
fn all(conditions: Vec<SeccompCondition>) -> Made<SeccompRule> {
    SeccompRule::new(conditions)
}

fn equal(argument: u8, value: u64) -> Made<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn unequal(argument: u8, value: u64) -> Made<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

/// An address, whose upper half counts too.
fn wide(argument: u8, value: u64) -> Made<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Made<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}
