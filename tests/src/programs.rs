//! Runs the built programs as a user does.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

/// The path of a program, built with the same profile as the calling test.
///
/// Cargo builds a package's programs only for that package's own tests, so the first call builds them. If they are up
/// to date, that takes a fraction of a second; and no test runs an outdated program.
///
/// # Panics
/// When the build fails.
pub fn program(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    // TARGET/PROFILE/deps/this-test
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).expect("a test lies two folders deep");
    BUILT.call_once(|| {
        let name = profile.file_name().and_then(OsStr::to_str).expect("a profile has a name");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--workspace", "--bins", "--profile"])
            .arg(if name == "debug" { "dev" } else { name })
            .arg("--target-dir")
            .arg(profile.parent().expect("a profile is in a folder"))
            .current_dir(root())
            .status()
            .unwrap();
        assert!(built.success(), "the programs do not build");
    });
    profile.join(name)
}

/// The folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in the workspace")
}

/// The output of a program.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its exit code; None if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Run {
    /// Returns itself if the exit code is the expected one.
    ///
    /// # Panics
    /// When it is another; the message has the whole output.
    #[track_caller]
    pub fn expect(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Standard output as one JSON value.
    ///
    /// # Panics
    /// When it is not valid JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

/// A program with its arguments and no standard input.
pub fn command<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program(name));
    // What a shell sets for the programs, or for tests, is not the tests' business.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"NANOSERVE_")) {
        command.env_remove(name);
    }
    // What a program keeps for its user.
    command.env("XDG_CACHE_HOME", program(name).with_file_name("cache-of-tests"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `nanoserve-NAME` with these arguments.
///
/// # Panics
/// When it cannot be started.
pub fn nanoserve<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Run {
    let out = command(&format!("nanoserve-{name}"), args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("programs print UTF-8");
    Run { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}
