//! File systems of a test's own.

use std::process::Command;

/// The command prefix that runs a program in its own mount namespace. If that is not allowed, prints so and returns
/// None.
pub fn namespace() -> Option<[&'static str; 2]> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mounts = |flag: &&str| {
        let mut mount = Command::new("unshare");
        mount.args([flag, "mount", "-t", "tmpfs", "none"]).arg(folder.path());
        mount.output().is_ok_and(|out| out.status.success())
    };
    let flag = ["-m", "-rm"].into_iter().find(mounts);
    if flag.is_none() {
        println!("SKIPPED: this test mounts a file system of its own, which is not allowed here");
    }
    Some(["unshare", flag?])
}
