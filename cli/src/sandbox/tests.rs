use super::*;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

/// Tells [`inside`] what to try: the folder that is asked for, or `-`, and one that is not.
const SCENE: &str = "NANOSERVE_TEST_SANDBOX";

/// Starts [`inside`] in a process of its own, since what it gives up does not come back.
fn tried(asked: bool) {
    let (mine, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(others.path().join("kept"), "kept").unwrap();
    let first = if asked { mine.path().display().to_string() } else { "-".to_string() };
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::tests::inside", "--ignored", "--nocapture", "--test-threads=1"])
        .env(SCENE, format!("{first}:{}", others.path().display()))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && told.contains("1 passed"), "{told}");
    assert_eq!(fs::read(others.path().join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(others.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(mine.path()).unwrap().count(), usize::from(asked), "the one file that was asked for");
}

#[test]
fn what_was_given_up_fails_and_what_is_needed_works() {
    tried(true);
}

#[test]
fn without_a_file_that_is_asked_for_none_is_written() {
    tried(false);
}

fn denied<T>(what: &str, tried: io::Result<T>) {
    let kind = tried.map_err(|e| e.kind()).err();
    assert_eq!(kind, Some(ErrorKind::PermissionDenied), "{what}");
}

/// A system call by its number, for those that no library makes. Zeros stand in for what it would take.
#[allow(unsafe_code)]
fn called(number: i64, first: usize, second: usize) -> io::Result<i64> {
    // SAFETY: every call that the tests make by this is refused before the system looks at its arguments, or has no pointer
    // among those that are given; where a refusal fails to come, the null pointers are refused.
    match unsafe { libc::syscall(number, first, second, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done),
    }
}

/// No program starts and nothing is reached; in every thread.
fn nothing_leaves() {
    denied("a program", Command::new("true").spawn());
    denied("a program in this one's place", Err::<(), _>(Command::new("true").exec()));
    denied("a connection", TcpStream::connect("127.0.0.1:9"));
    denied("a port", TcpListener::bind("127.0.0.1:0"));
    denied("a datagram", UdpSocket::bind("127.0.0.1:0"));
    denied("a socket with a name", UnixListener::bind("/tmp/nanoserve-test-socket"));
    denied("somebody's socket", UnixStream::connect("/run/none"));
    for (what, number, first, second) in [
        ("a process", libc::SYS_clone, libc::SIGCHLD as usize, 0),
        ("a signal to its parent", libc::SYS_kill, std::os::unix::process::parent_id() as usize, 0),
        ("keys typed for the user", libc::SYS_ioctl, 0, libc::TIOCSTI as usize),
        ("a file in memory", libc::SYS_memfd_create, 0, 0),
        ("another process", libc::SYS_ptrace, libc::PTRACE_ATTACH as usize, 1),
        ("its memory", libc::SYS_process_vm_readv, 1, 0),
        ("a ring of calls", libc::SYS_io_uring_setup, 1, 0),
        ("code in the kernel", libc::SYS_bpf, 0, 0),
        ("page faults", libc::SYS_userfaultfd, 0, 0),
        ("counters", libc::SYS_perf_event_open, 0, 0),
        ("a key ring", libc::SYS_keyctl, 0, 0),
        ("another root", libc::SYS_chroot, 0, 0),
        ("a mount", libc::SYS_mount, 0, 0),
        ("a namespace", libc::SYS_unshare, 0, 0),
        ("another user", libc::SYS_setuid, 0, 0),
        ("more of a limit", libc::SYS_setrlimit, 0, 0),
    ] {
        denied(what, called(number, first, second));
    }
    let absent = |number| called(number, 0, 0).map_err(|e| e.raw_os_error()).err().flatten();
    assert_eq!(absent(libc::SYS_clone3), Some(libc::ENOSYS), "a library falls back on clone");
    assert_eq!(absent(5000), Some(libc::ENOSYS), "a call of years to come");
}

fn memory_is_not_run() {
    let map = memmap2::MmapOptions::new().len(4096).map_anon().unwrap();
    denied("memory that is run", map.make_exec());
}

#[test]
#[ignore = "gives up what this process can do: the tests above start it in a process of its own"]
fn inside() {
    let scene = std::env::var(SCENE).expect("the tests above set it");
    let (asked, others) = scene.split_once(':').unwrap();
    let others = Path::new(others);
    let folders: Vec<PathBuf> = if asked == "-" { Vec::new() } else { vec![asked.into()] };
    // A thread that is there before.
    let (go, wait) = mpsc::channel();
    let before = thread::spawn(move || {
        wait.recv().unwrap();
        nothing_leaves();
    });
    let held = enter(&folders);
    if held.name() != "on" {
        println!("this system has no whole sandbox: {}", held.name());
    }
    if !held.calls {
        return;
    }
    nothing_leaves();
    go.send(()).unwrap();
    before.join().unwrap();
    thread::spawn(nothing_leaves).join().unwrap();
    memory_is_not_run();
    let kept = others.join("kept");
    if held.files || folders.is_empty() {
        denied("a new file", File::create(others.join("new")));
        denied("more bytes", OpenOptions::new().append(true).open(&kept));
        denied("other bytes", OpenOptions::new().write(true).open(&kept));
        denied("no bytes", File::create(&kept));
        denied("no file", fs::remove_file(&kept));
        denied("another name", fs::rename(&kept, others.join("other")));
        assert!(held.keeps(&others.join("new")));
    }
    denied("a folder", fs::create_dir(others.join("folder")));
    denied("a link", std::os::unix::fs::symlink("/", others.join("link")));
    denied("a second name", fs::hard_link(&kept, others.join("second")));
    denied("other rights", fs::set_permissions(&kept, fs::metadata(&kept).unwrap().permissions()));
    for folder in &folders {
        let name = folder.join("asked");
        nanoserve_format::replace(&name, b"old").unwrap();
        nanoserve_format::replace(&name, b"new").unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"new");
        assert!(!held.keeps(&name));
        denied("a folder where files are asked for", fs::create_dir(folder.join("folder")));
        denied("a link there", std::os::unix::fs::symlink("/", folder.join("link")));
    }
    // What the program goes on to do.
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    let (mut a, mut b) = UnixStream::pair().unwrap();
    a.write_all(b"woken").unwrap();
    let mut bytes = [0; 5];
    b.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"woken");
    thread::sleep(std::time::Duration::from_millis(1));
    drop(memmap2::MmapMut::map_anon(1 << 20).unwrap());
}
