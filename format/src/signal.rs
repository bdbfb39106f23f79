//! Turns three signals that end a program without a message into errors. A program opts in.
//!
//! A mapped file that loses its bytes (truncated or rewritten in place, or on a failing disk) raises SIGBUS in the
//! thread that reads them next. That read cannot complete, so its thread cannot go on: after [`install`] the program
//! removes the unfinished file of a [`Writer`](crate::Writer), prints a message and exits with 1, instead of dumping
//! core. A write beyond the file size limit raises SIGXFSZ; with the signal ignored, the write returns an error. A program
//! that aborts, as Rust's runtime does without memory or without stack, raises SIGABRT: it ends in the same way as for lost
//! bytes. In both cases the terminal is left as it was, if [`keep_terminal`] has seen it.
//!
//! The trap: signals belong to the whole process, and a library must not take them. So nothing here happens by itself,
//! and a program that embeds this crate may handle SIGBUS its own way. On systems other than Linux [`install`] does
//! nothing.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tempfile::NamedTempFile;

/// The file that is being written, or was last.
static WRITTEN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Installs all three. If a mapped file loses its bytes, the program prints `message`, one line, on standard error and exits
/// with 1; a write beyond the file size limit is an ordinary error. Only the first call has an effect.
pub fn install(message: &str) {
    #[cfg(target_os = "linux")]
    linux::install(message);
    #[cfg(not(target_os = "linux"))]
    let _ = message;
}

/// Removes the unfinished file of a [`Writer`](crate::Writer) or of [`replace`](crate::replace): for a program that is
/// about to end without an end of its own, because a signal asks for it. A finished file has another name and stays. From
/// then on no file can be begun: a thread that tries waits for the program's end.
pub fn remove_unfinished() {
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = written.take() {
        // A file that is finished is no longer there.
        let _ = std::fs::remove_file(path);
    }
    // Never given back.
    std::mem::forget(written);
}

/// Keeps the modes that the terminal of standard input has now: the handlers after [`install`] set them again before they
/// end the program, end colours, and begin a new line. For a program that is about to change them. Returns whether there is
/// a terminal; elsewhere than on Linux there is none.
pub fn keep_terminal() -> bool {
    #[cfg(target_os = "linux")]
    return linux::keep_terminal();
    #[cfg(not(target_os = "linux"))]
    false
}

/// The terminal is again as it was kept, and handlers leave it alone.
pub fn forget_terminal() {
    #[cfg(target_os = "linux")]
    linux::forget_terminal();
}

/// Whether this process ignores a signal. One that was started by `nohup` ignores SIGHUP, and should go on to.
#[cfg(unix)]
pub fn is_ignored(signal: std::ffi::c_int) -> bool {
    // SAFETY: sigaction is plain data, for which zero is a valid value everywhere.
    let mut action: libc::sigaction = unsafe { std::mem::MaybeUninit::zeroed().assume_init() };
    // SAFETY: no new action is given, so nothing changes; `action` outlives the call, which fills it. A number that is no
    // signal is an error, and leaves it as it is: the default action.
    unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

/// Begins the file to remove when the program ends early: by [`remove_unfinished`], and by the handlers after [`install`].
/// A program that ends meanwhile waits until the file has its name, so that none is missed.
pub(crate) fn unfinished(begin: impl FnOnce() -> std::io::Result<NamedTempFile>) -> std::io::Result<NamedTempFile> {
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    let file = begin()?;
    *written = Some(file.path().to_path_buf());
    #[cfg(target_os = "linux")]
    linux::unfinished(file.path());
    Ok(file)
}

#[cfg(target_os = "linux")]
mod linux {
    use libc::{c_char, c_int, c_void, sigaction, siginfo_t};
    use std::ffi::CString;
    use std::mem::MaybeUninit;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr::null_mut;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

    /// What the handler prints, newline included; prepared here, because a handler must not allocate.
    static MESSAGE: OnceLock<String> = OnceLock::new();

    /// Path of the unfinished file; null when there is none. What it points at is never freed.
    static UNFINISHED: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

    /// Set once a thread has begun to end the program.
    static ENDING: AtomicBool = AtomicBool::new(false);

    /// Modes that the terminal had; null while nobody has changed them. What it points at is never freed.
    static TERMINAL: AtomicPtr<libc::termios> = AtomicPtr::new(null_mut());

    /// What is said of an abort, after what the runtime says.
    const ABORTED: &[u8] =
        b"error: the program cannot go on: most likely the system gives it no more memory (is a limit set, \
        such as ulimit -v?) or no more stack\n";

    /// Ends colours and the marks around what is pasted, and begins a new line.
    const USUAL: &[u8] = b"\x1b[0m\x1b[?2004l\r\n";

    pub fn install(message: &str) {
        if MESSAGE.set(format!("{message}\n")).is_err() {
            return;
        }
        // SAFETY: sigaction is plain data, for which zero is a valid value everywhere: no flags, an empty mask.
        let mut action: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        // On the stack for handlers: of an abort for lack of stack nothing is left of the other one.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        action.sa_sigaction = lost_bytes as *const () as usize;
        // A program in the background is not stopped on its way out.
        // SAFETY: the mask is initialised and outlives the call.
        unsafe { libc::sigaddset(&raw mut action.sa_mask, libc::SIGTTOU) };
        // SAFETY: `action` is initialised and outlives the call; the old action is not requested. The handler has the
        // signature that SA_SIGINFO requires and does only what a handler may, as argued there. It replaces the SIGBUS
        // handler by which Rust's runtime reports stack overflows; on Linux those raise SIGSEGV, so no report is lost.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) };
        action.sa_flags |= libc::SA_RESETHAND;
        action.sa_sigaction = aborted as *const () as usize;
        // SAFETY: as above; nothing else handles SIGABRT.
        unsafe { libc::sigaction(libc::SIGABRT, &raw const action, null_mut()) };
        // SAFETY: ignoring a signal runs no code; writes then return EFBIG, which every caller handles as an error.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    }

    pub fn unfinished(path: &Path) {
        if MESSAGE.get().is_some()
            && let Ok(path) = CString::new(path.as_os_str().as_bytes())
        {
            // The previous path is never freed: the handler may be reading it.
            UNFINISHED.store(path.into_raw(), Ordering::Release);
        }
    }

    pub fn keep_terminal() -> bool {
        let mut modes = Box::new(MaybeUninit::uninit());
        // SAFETY: `modes` is valid for writes of one termios, which the call fills if it returns 0.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, modes.as_mut_ptr()) } != 0 {
            return false;
        }
        // What was kept before is never freed: a handler may be reading it.
        TERMINAL.store(Box::into_raw(modes).cast(), Ordering::Release);
        true
    }

    pub fn forget_terminal() {
        TERMINAL.store(null_mut(), Ordering::Release);
    }

    /// Runs on the thread that touched the lost bytes, at any point of its code: it takes no lock, allocates nothing,
    /// and calls only what POSIX lists as safe in a handler. It does not return to the read that raised the signal.
    extern "C" fn lost_bytes(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
        let code = unsafe { (*info).si_code };
        if code != libc::BUS_ADRERR {
            restore_terminal();
            // A misaligned access, faulty memory, or a signal sent by a process: take the default action.
            // SAFETY: both are async-signal-safe; the signal is blocked here, and ends the process on return.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
            return;
        }
        if ENDING.swap(true, Ordering::AcqRel) {
            loop {
                // SAFETY: async-signal-safe; the thread that came first ends the process.
                unsafe { libc::pause() };
            }
        }
        remove_unfinished();
        restore_terminal();
        if let Some(message) = MESSAGE.get() {
            // SAFETY: `write` is async-signal-safe; the bytes are initialised and live as long as the program. `get` on
            // a OnceLock that was set is one atomic load. If the write fails, nothing can be done.
            unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
        }
        // SAFETY: async-signal-safe, unlike `exit`: no other handler or destructor runs.
        unsafe { libc::_exit(1) };
    }

    /// Runs on the thread that aborts, or that a signal was sent to; as careful as [`lost_bytes`]. The signal's action is the
    /// default one by now, which a signal that another process sent takes.
    extern "C" fn aborted(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
        remove_unfinished();
        restore_terminal();
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, in which a signal sent by `tgkill` has the sender's pid;
        // the calls are async-signal-safe, and the message is a constant.
        unsafe {
            if (*info).si_code == libc::SI_TKILL && (*info).si_pid() == libc::getpid() {
                libc::write(libc::STDERR_FILENO, ABORTED.as_ptr().cast(), ABORTED.len());
                libc::_exit(1);
            }
            // The signal is blocked here, and ends the process on return.
            libc::raise(signal);
        }
    }

    /// For a handler: removes the unfinished file.
    fn remove_unfinished() {
        let file = UNFINISHED.load(Ordering::Acquire);
        if !file.is_null() {
            // SAFETY: `unlink` is async-signal-safe and `file` a C string that is never freed. A finished file cannot
            // be removed: once renamed, it no longer has this path.
            unsafe { libc::unlink(file) };
        }
    }

    /// For a handler: sets the terminal's modes as they were kept, if this program still has the terminal.
    fn restore_terminal() {
        let modes = TERMINAL.swap(null_mut(), Ordering::AcqRel);
        // SAFETY: both are async-signal-safe and take no pointer.
        if modes.is_null() || unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) != libc::getpgrp() } {
            return;
        }
        // SAFETY: `write` and `tcsetattr` are async-signal-safe; the bytes are a constant, and `modes` was filled by
        // `tcgetattr` and is never freed. If the terminal is gone, nothing needs restoring.
        unsafe {
            libc::write(libc::STDOUT_FILENO, USUAL.as_ptr().cast(), USUAL.len());
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, modes);
        }
    }
}
