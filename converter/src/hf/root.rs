//! The one way by which a file of a checkpoint folder is opened.
//!
//! A folder may come from anywhere, so a name in it may be anything: a named pipe would wait for ever, a device would
//! be read until memory ends, and a link could lead to a file that nobody wanted in a model. So a file is opened without
//! waiting, must be a regular file, and lies inside the folder or in the blobs of the hub's cache that the folder is a
//! snapshot of. Where the system has openat2, it follows links for us and stops at the first that leaves the folder.

use super::refused::Refused;
use crate::files::kind_name;
use rustix::fs::{Dir, Mode, OFlags, open};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Reading, without waiting for the other end of a pipe and without becoming a terminal's process.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// How often a name is looked up while somebody renames folders above it.
#[cfg(target_os = "linux")]
const TRIES: usize = 16;

/// A folder whose files are opened.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no openat2"))]
    fd: OwnedFd,
    /// The folders that a link may lead to, by their real paths: this one and the blobs of its cache.
    inside: Vec<PathBuf>,
    /// Whether openat2 is asked first.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no openat2"))]
    beneath: bool,
}

impl Root {
    /// The folder at `path`, which may be a link itself: the user gave it.
    pub fn open(path: &Path) -> io::Result<Root> {
        let fd = open(path, READ | OFlags::DIRECTORY, Mode::empty())?;
        let inside = super::refused::inside(path)?;
        Ok(Root { path: path.to_path_buf(), fd, inside, beneath: true })
    }

    /// A regular file of the folder, open for reading.
    pub fn file(&self, name: impl AsRef<Path>) -> Result<File, Refused> {
        let name = name.as_ref();
        let file = File::from(self.find(name, OFlags::empty())?);
        let kind = file.metadata().map_err(Refused::System)?.file_type();
        if kind.is_file() { Ok(file) } else { Err(Refused::Kind(kind_name(kind))) }
    }

    /// The names in a folder of the folder, in order; none where there is no folder of that name.
    pub fn names(&self, folder: impl AsRef<Path>) -> Result<Vec<String>, Refused> {
        let fd = match self.find(folder.as_ref(), OFlags::DIRECTORY) {
            Err(Refused::Absent) => return Ok(Vec::new()),
            found => found?,
        };
        let entries = Dir::new(fd).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().to_str().ok().map(str::to_string)).collect();
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }

    fn find(&self, name: &Path, more: OFlags) -> Result<OwnedFd, Refused> {
        let found = match self.beneath(name, more) {
            // A link leads out, perhaps to where it may; or there is no openat2.
            Err(Errno::XDEV | Errno::NOSYS | Errno::PERM) => return self.by_path(name, more),
            found => found,
        };
        found.map_err(|e| self.refused(name, e))
    }

    #[cfg(target_os = "linux")]
    fn beneath(&self, name: &Path, more: OFlags) -> Result<OwnedFd, Errno> {
        use rustix::fs::{ResolveFlags, openat2};
        if !self.beneath {
            return Err(Errno::NOSYS);
        }
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = (0..TRIES).map(|_| openat2(&self.fd, name, READ | more, Mode::empty(), how));
        tries.find(|found| !matches!(found, Err(Errno::AGAIN))).unwrap_or(Err(Errno::AGAIN))
    }

    #[cfg(not(target_os = "linux"))]
    fn beneath(&self, _: &Path, _: OFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::NOSYS)
    }

    /// Follows all links first, and then opens what they lead to, if it is inside and is no link by now.
    fn by_path(&self, name: &Path, more: OFlags) -> Result<OwnedFd, Refused> {
        let path = self.path.join(name);
        let real =
            fs::canonicalize(&path).map_err(|e| self.refused(name, Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        if !self.inside.iter().any(|folder| real.starts_with(folder)) {
            return Err(Refused::Outside(fs::read_link(&path).unwrap_or(real)));
        }
        open(&real, READ | OFlags::NOFOLLOW | more, Mode::empty()).map_err(|e| self.refused(name, e))
    }

    /// Why a name was not opened, in our words.
    fn refused(&self, name: &Path, error: Errno) -> Refused {
        let path = self.path.join(name);
        match error {
            Errno::NOENT => fs::read_link(path).map_or(Refused::Absent, Refused::Dangling),
            // A file stands where the name has a folder.
            Errno::NOTDIR => Refused::Absent,
            // Sockets, and devices that are not there, cannot be opened at all.
            Errno::NXIO | Errno::NODEV => Refused::Kind("a socket or a device"),
            error => Refused::System(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf::root_elsewhere;
    use rustix::fs::{CWD, FileType, mknodat};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    /// What opening a name comes to, in a word or two.
    fn outcome(opened: Result<File, Refused>) -> String {
        match opened {
            Ok(file) => io::read_to_string(file).unwrap(),
            Err(Refused::Absent) => "absent".into(),
            Err(Refused::Dangling(to)) => format!("dangling {}", to.display()),
            Err(Refused::Outside(to)) => format!("outside {}", to.display()),
            // Only where it was not opened is it known to be no device.
            Err(Refused::Kind("a socket")) => "a socket or a device".into(),
            Err(Refused::Kind(kind)) => kind.into(),
            Err(Refused::System(e)) => format!("{:?}", e.kind()),
        }
    }

    /// Asserts the outcome of every name, by openat2, by paths alone, and as it is done where this is no Unix.
    fn assert_outcomes(folder: &Path, expected: &[(&str, &str)]) {
        for beneath in [true, false] {
            let root = Root { beneath, ..Root::open(folder).unwrap() };
            for (name, outcome_) in expected {
                assert_eq!(outcome(root.file(name)), *outcome_, "{name}, openat2 {beneath}");
            }
        }
        let root = root_elsewhere::Root::open(folder).unwrap();
        for (name, outcome_) in expected {
            assert_eq!(outcome(root.file(name)), *outcome_, "{name}, elsewhere");
        }
    }

    #[test]
    fn regular_files_inside_the_folder_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, private) = (dir.path().join("model"), dir.path().join("private"));
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("file"), "here").unwrap();
        fs::write(&private, "nobody's business").unwrap();
        let at = |name: &str| folder.join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (name, to) in [
            ("link", "file"),
            ("link-of-link", "sub/../link"),
            ("to-pipe", "pipe"),
            ("relative", "../private"),
            ("device", "/dev/zero"),
            ("process", "/proc/self/fd/0"),
            ("dangling", "../blobs/none"),
            ("near", "none"),
            ("loop", "loop"),
            ("folder", "../model/sub"),
        ] {
            symlink(to, at(name)).unwrap();
        }
        symlink(&private, at("absolute")).unwrap();
        symlink(at("file"), at("absolute-inside")).unwrap();
        symlink("..", at("sub/up")).unwrap();
        let absolute = format!("outside {}", private.display());
        assert_outcomes(
            &folder,
            &[
                ("file", "here"),
                ("link", "here"),
                ("link-of-link", "here"),
                ("absolute-inside", "here"),
                ("sub/up/file", "here"),
                ("pipe", "a named pipe"),
                ("to-pipe", "a named pipe"),
                ("socket", "a socket or a device"),
                ("sub", "a folder"),
                ("folder", "a folder"),
                ("device", "outside /dev/zero"),
                ("relative", "outside ../private"),
                ("absolute", &absolute),
                ("dangling", "dangling ../blobs/none"),
                ("near", "dangling none"),
                ("none", "absent"),
                ("file/none", "absent"),
                ("none/none", "absent"),
            ],
        );
        let root = Root::open(&folder).unwrap();
        assert!(matches!(root.file("loop"), Err(Refused::System(_))));
        assert!(matches!(root.file("process"), Err(Refused::Outside(_) | Refused::System(_))));
        let elsewhere = root_elsewhere::Root::open(&folder).unwrap();
        assert!(matches!(elsewhere.file("loop"), Err(Refused::System(_))));
        for (name, names) in [("sub", &["up"][..]), ("file", &[]), ("none", &[])] {
            assert_eq!(root.names(name).unwrap(), names, "{name}");
            assert_eq!(elsewhere.names(name).unwrap(), names, "{name}, elsewhere");
        }
    }

    #[test]
    fn a_snapshot_may_lead_to_the_blobs_of_its_cache() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("models--org--name");
        let snapshot = cache.join("snapshots/0123");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(cache.join("blobs")).unwrap();
        fs::write(cache.join("blobs/abc"), "blob").unwrap();
        fs::write(cache.join("refs"), "no blob").unwrap();
        for (name, to) in [("a", "../../blobs/abc"), ("gone", "../../blobs/def"), ("refs", "../../refs")] {
            symlink(to, snapshot.join(name)).unwrap();
        }
        symlink(cache.join("blobs/abc"), snapshot.join("absolute")).unwrap();
        symlink(&snapshot, dir.path().join("given")).unwrap();
        for folder in [snapshot, dir.path().join("given")] {
            assert_outcomes(
                &folder,
                &[
                    ("a", "blob"),
                    ("absolute", "blob"),
                    ("gone", "dangling ../../blobs/def"),
                    ("refs", "outside ../../refs"),
                ],
            );
        }
    }
}
