//! Runs a program on its own terminal: a pty whose other end is the test's.

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long to wait for an expected output: machines are slow at times.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program, its terminal, and its output.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    ours: File,
    theirs: File,
    output: Receiver<Vec<u8>>,
    /// All output, and how much of it earlier calls have consumed.
    seen: (String, usize),
    /// The same with its escape sequences.
    raw: String,
}

impl Terminal {
    /// Starts a program on a terminal with this many columns.
    ///
    /// # Panics
    /// When there is no terminal available.
    pub fn start(command: Command, columns: u16) -> Terminal {
        Terminal::start_as(command, columns, "xterm")
    }

    /// As [`Terminal::start`], on a terminal of this kind.
    ///
    /// # Panics
    /// As there.
    pub fn start_as(mut command: Command, columns: u16, term: &str) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a pty");
        let name = ptsname(&ours, Vec::new()).expect("a pty has a name");
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits() as i32);
            options.open(OsStr::from_bytes(name.to_bytes())).expect("the pty's other end")
        };
        let theirs = open();
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&theirs, size).expect("a size");
        command.stdin(open()).stdout(open()).stderr(open()).env("TERM", term);
        own_terminal(&mut command);
        let child = command.spawn().expect("the program starts");
        let ours = File::from(ours);
        let (send, output) = channel();
        let mut reader = ours.try_clone().expect("another handle");
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { child, ours, theirs, output, seen: (String::new(), 0), raw: String::new() }
    }

    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Types these keys.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn send(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until this text appears after the last expected one. Returns the output up to it, without escape
    /// sequences.
    ///
    /// # Panics
    /// When it does not appear in time.
    pub fn expect(&mut self, text: &str) -> String {
        self.expect_one(&[text])
    }

    /// Like [`Terminal::expect`], for the first of several texts.
    ///
    /// # Panics
    /// When none of them appears in time.
    pub fn expect_one(&mut self, texts: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let (all, from) = &self.seen;
            let ends = texts.iter().filter_map(|text| all[*from..].find(text).map(|at| at + text.len()));
            if let Some(len) = ends.min() {
                let until = from + len;
                let came = all[*from..until].to_string();
                self.seen.1 = until;
                return came;
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    self.raw += &text;
                    self.seen.0 += &plain(&text);
                }
                Err(e) => panic!("{e}: no {texts:?} in {:?}", &self.seen.0[self.seen.1..]),
            }
        }
    }

    /// All output so far.
    pub fn all(&self) -> &str {
        &self.seen.0
    }

    /// All output so far with its escape sequences.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// True if the terminal echoes and is in line mode, as a shell expects.
    ///
    /// # Panics
    /// When its state cannot be read.
    pub fn is_sane(&self) -> bool {
        let modes = tcgetattr(&self.theirs).expect("a terminal").local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(Instant::now() < end, "the program does not end: {:?}", self.seen.0);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Text without escape sequences and carriage returns.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                if chars.next() == Some('[') {
                    let _ = chars.by_ref().find(|c| ('@'..='~').contains(c));
                }
            }
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

/// Makes the program the leader of a session whose terminal is its standard input, so that Ctrl-C reaches it.
fn own_terminal(command: &mut Command) {
    let act = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called. `act` makes two system calls
    // through rustix, which neither allocates nor takes a lock; its errors are numbers.
    unsafe { command.pre_exec(act) };
}
