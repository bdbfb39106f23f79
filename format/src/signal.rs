//! Two signals that would end a program without a word, turned into errors: for programs, by their own choice.
//!
//! A mapped file that loses its bytes (truncated or written anew in place, on a disk that fails) raises SIGBUS in whatever
//! thread reads them next. There is nothing to read and nobody to return to: after [`install`] the program takes away the
//! unfinished file of a [`Writer`](crate::Writer), says what happened and exits with 1, instead of dumping core. A write
//! beyond the limit on a file's size raises SIGXFSZ; ignored, it fails with an error like any other write.
//!
//! The trap: signals belong to the whole process. A library must not take them, so nothing here happens by itself, and
//! a program that embeds this crate may handle SIGBUS in its own way. Linux alone has it; elsewhere [`install`] does nothing.

use std::path::Path;

/// Makes a mapped file that loses its bytes end the program with `message`, one line, on standard error and exit code 1,
/// and a file that grows beyond the limit on its size an ordinary error. The first call counts.
pub fn install(message: &str) {
    #[cfg(target_os = "linux")]
    linux::install(message);
    #[cfg(not(target_os = "linux"))]
    let _ = message;
}

/// Names the file that is to go when the program ends so. Without [`install`] that is nobody's business.
pub(crate) fn unfinished(path: &Path) {
    #[cfg(target_os = "linux")]
    linux::unfinished(path);
    #[cfg(not(target_os = "linux"))]
    let _ = path;
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

    /// What the handler says, newline included; made beforehand, because a handler must not allocate.
    static MESSAGE: OnceLock<String> = OnceLock::new();

    /// Path of the unfinished file; null when there is none. What it points at is never freed.
    static UNFINISHED: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

    /// Some thread is ending the program already.
    static ENDING: AtomicBool = AtomicBool::new(false);

    pub fn install(message: &str) {
        if MESSAGE.set(format!("{message}\n")).is_err() {
            return;
        }
        // SAFETY: sigaction is plain data, for which zero is a valid value everywhere: no flags, an empty mask.
        let mut action: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = lost_bytes as *const () as usize;
        // SAFETY: `action` is initialised and outlives the call; nobody asks for the old one. The handler has the
        // signature that SA_SIGINFO calls for, and does only what a handler may, see there. The handler that Rust's
        // runtime had for SIGBUS tells of stack overflows, which on Linux raise SIGSEGV: none is missed.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) };
        // SAFETY: ignoring a signal runs no code; writes then return EFBIG, which every caller handles as an error.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    }

    pub fn unfinished(path: &Path) {
        if MESSAGE.get().is_some()
            && let Ok(path) = CString::new(path.as_os_str().as_bytes())
        {
            // The path of before stays in memory: the handler may just be reading it.
            UNFINISHED.store(path.into_raw(), Ordering::Release);
        }
    }

    /// Runs on whichever thread touched the lost bytes, in the midst of anything: it takes no lock, allocates nothing, and
    /// calls only what POSIX lists as safe in a handler. It does not return to the read that raised the signal.
    extern "C" fn lost_bytes(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
        let code = unsafe { (*info).si_code };
        if code != libc::BUS_ADRERR {
            // A misaligned access, a fault of the machine's memory, or somebody's kill: not ours to explain.
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
        let file = UNFINISHED.load(Ordering::Acquire);
        if !file.is_null() {
            // SAFETY: `unlink` is async-signal-safe and `file` a C string that is never freed. A file that got its
            // name meanwhile is no longer under this one, so that a finished file cannot be lost.
            unsafe { libc::unlink(file) };
        }
        if let Some(message) = MESSAGE.get() {
            // SAFETY: `write` is async-signal-safe; the bytes are initialised and live as long as the program. `get` on a
            // OnceLock that was set is one atomic load. There is nobody to tell when it fails.
            unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
        }
        // SAFETY: async-signal-safe, unlike `exit`: no other handler or destructor runs.
        unsafe { libc::_exit(1) };
    }
}
