//! What every program says and how it ends: standard error, standard output, exit codes.

use crate::hints;
use crate::hub::HubError;
use crate::trust::Damaged;
use anyhow::Result;
use nanoserve_converter::ConvertError;
use nanoserve_format::{ErrorKind, Foreign, FormatError, KeyError, RepairError, json_text, on_screen};
use nanoserve_runtime::RuntimeError;
use nanoserve_template::TemplateError;
use std::borrow::Cow;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use terminal_size::terminal_size_of;

/// The machine failed, or a check found a fault.
pub const FAILED: u8 = 1;
/// The input or the command line is wrong.
pub const WRONG: u8 = 2;
/// Stopped by Ctrl-C: 128 plus the signal's number.
pub const INTERRUPTED: u8 = 130;

/// A failure of the machine that no library's error type describes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MachineFailed(pub String);

/// Prepares a program for mapping a model: if the file loses bytes while it is mapped, the program ends with a message.
pub fn begin(model: &Path) {
    nanoserve_format::signal::install(&format!(
        "error: {}: bytes of the mapped file are gone (SIGBUS): was it truncated or overwritten while it was in use, or \
         did its disk fail?",
        model.display()
    ));
}

/// The most problems of a checkpoint that are told one by one.
const MOST_PROBLEMS: usize = 100;

/// Prints a line on standard error. A closed standard error is ignored. Characters that steer a terminal are never sent: a
/// caller who forgot that a name is somebody else's does no harm.
pub fn tell(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", on_screen(&text.to_string()));
}

/// The same, dim where standard error shows colours: what stands beside an answer.
pub fn tell_dim(text: impl Display) {
    let text = text.to_string();
    let text = on_screen(&text);
    let mut err = std::io::stderr();
    let _ = match colours(err.is_terminal()) {
        true => writeln!(err, "\x1b[2m{text}\x1b[0m"),
        false => writeln!(err, "{text}"),
    };
}

/// A text for standard output that the program did not make, such as an answer: on a terminal without the characters that
/// steer it, else as it is.
pub fn answered(text: &str) -> Cow<'_, str> {
    if std::io::stdout().is_terminal() { on_screen(text) } else { text.into() }
}

/// A value as JSON on one line, its texts whole and with every character escaped that steers a terminal.
pub fn json(value: &impl serde::Serialize) -> String {
    json_text(serde_json::to_string(value).expect("what is reported is plain data"))
}

/// A number of bytes as people say it.
pub fn size(bytes: impl Into<u128>) -> String {
    let bytes = bytes.into();
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.2} {unit}") }
}

/// Whether a terminal can only print: it cannot take back a line, and shows no colours.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Whether colours may be sent to a stream, given whether it is a terminal.
pub fn colours(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_dumb()
}

/// The columns of the terminal that answers go to; None if that is no terminal, or does not know.
pub fn output_columns() -> Option<usize> {
    terminal_size_of(std::io::stdout()).map(|(width, _)| width.0.into())
}

/// The columns of the terminal that messages go to; None if that is no terminal, or does not know.
pub fn error_columns() -> Option<usize> {
    terminal_size_of(std::io::stderr()).map(|(width, _)| width.0.into())
}

/// Adds the file's name to an error about its contents. Errors of the system name the file already.
pub fn in_file(path: &Path) -> impl Fn(RuntimeError) -> anyhow::Error {
    move |e| match &e {
        RuntimeError::Format(f) if !matches!(f, FormatError::Io { .. }) => {
            let text = format!("{}: {f}", path.display());
            anyhow::Error::new(e).context(text)
        }
        _ => e.into(),
    }
}

/// The exit code of a program. Errors are printed on standard error.
pub fn exit(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            say(&error);
            ExitCode::from(code(&error))
        }
    }
}

fn say(error: &anyhow::Error) {
    let Some(ConvertError::Problems(all)) = error.downcast_ref() else {
        return tell(format_args!("error: {}", text(error)));
    };
    all.iter().take(MOST_PROBLEMS).for_each(|problem| tell(format_args!("error: {}", hints::problem(problem))));
    if all.len() > MOST_PROBLEMS {
        tell(format_args!("error: and {} more", all.len() - MOST_PROBLEMS));
    }
    if all.len() > 1 {
        tell(format_args!("{} problems; nothing was written", all.len()));
    }
}

/// An error's text, and what the user can do about it.
pub fn text(error: &anyhow::Error) -> String {
    // Our own errors name their cause, so the outermost text is enough. What they quote is somebody else's; the hint is ours.
    let said = error.to_string();
    if let Some(convert) = error.downcast_ref::<ConvertError>() {
        format!("{}{}", Foreign(&said), hints::convert(convert))
    } else if let Some(runtime) = error.downcast_ref::<RuntimeError>() {
        format!("{}{}", Foreign(&said), hints::runtime(runtime))
    } else {
        chain(error)
    }
}

/// An error and what caused it, from the outside in. One that has said its cause's text already does not say it again.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match Foreign(&cause.to_string()).to_string() {
        cause if text.is_empty() => cause,
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

/// The exit code of an error: 1 if a check or the machine failed, 2 if the input is wrong.
fn code(error: &anyhow::Error) -> u8 {
    match kind(error) {
        ErrorKind::Input => WRONG,
        ErrorKind::Cancelled => INTERRUPTED,
        _ => FAILED,
    }
}

/// The kind of the outermost error that has one; what has none is about the input.
fn kind(error: &anyhow::Error) -> ErrorKind {
    error.chain().find_map(kind_of).unwrap_or(ErrorKind::Input)
}

fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    if let Some(ConvertError::LastStep(cause)) = error.downcast_ref() {
        let is_reference = cause.downcast_ref().is_some_and(of_reference);
        return Some(if is_reference { ErrorKind::Input } else { ErrorKind::Machine });
    }
    let kind = error.downcast_ref().map(ConvertError::kind);
    let kind = kind.or_else(|| error.downcast_ref().map(RuntimeError::kind));
    let kind = kind.or_else(|| error.downcast_ref().map(FormatError::kind));
    let kind = kind.or_else(|| error.downcast_ref().map(KeyError::kind));
    let kind = kind.or_else(|| error.downcast_ref().map(RepairError::kind));
    let kind = kind.or_else(|| error.downcast_ref().map(HubError::kind));
    let kind = kind.or_else(|| error.downcast_ref().map(ErrorKind::of_io));
    let failed = error.is::<Damaged>()
        || error.is::<MachineFailed>()
        || matches!(error.downcast_ref(), Some(TemplateError::Thread { .. }));
    kind.or(failed.then_some(ErrorKind::Machine))
}

/// Whether the error says that the reference does not fit the model. A conversion's last step finds this.
fn of_reference(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Reference { .. } | RuntimeError::TokenId { .. })
}

/// Prints a program's whole result on standard output. The exit code is 0 if `good`, else 1.
///
/// # Errors
/// As [`broken_pipe`].
pub fn print(text: impl Display, good: bool) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{}", answered(&text.to_string())).and_then(|()| out.flush()) {
        Ok(()) if good => Ok(ExitCode::SUCCESS),
        Ok(()) => Ok(ExitCode::FAILURE),
        Err(e) => broken_pipe(e),
    }
}

/// A closed pipe is no error: the reader has read enough. Any other failed write is the machine's fault.
pub fn broken_pipe(e: std::io::Error) -> Result<ExitCode> {
    if e.kind() == std::io::ErrorKind::BrokenPipe {
        return Ok(ExitCode::SUCCESS);
    }
    tell(format_args!("error: cannot write to standard output: {e}"));
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};
    use nanoserve_format::SecretKey;

    #[test]
    fn sizes_are_read_at_a_glance() {
        assert_eq!([0u64, 999, 1000, 2_471_645_608].map(size), ["0 bytes", "999 bytes", "1.00 kB", "2.47 GB"]);
    }

    /// Each program ends with this code, whatever part of it met the error.
    #[test]
    fn what_the_machine_refuses_exits_with_1_and_a_wrong_name_with_2() {
        use nanoserve_format::FileAction;
        use nanoserve_runtime::PromptCacheError;
        use rustix::io::Errno;
        use std::io::Error;
        let errors = |io: &dyn Fn() -> Error| -> Vec<anyhow::Error> {
            let path = || "a".into();
            let format = |action| FormatError::Io { path: path(), action, source: io() };
            vec![
                io().into(),
                anyhow::Error::new(io()).context("cannot read the prompt file"),
                format(FileAction::Open).into(),
                format(FileAction::Read).into(),
                RuntimeError::from(format(FileAction::Open)).into(),
                anyhow::Error::new(RuntimeError::from(format(FileAction::Open))).context("a"),
                RuntimeError::from(PromptCacheError::Read { path: path(), source: io() }).into(),
                KeyError::Read { path: path(), source: io() }.into(),
                RepairError::Format(format(FileAction::Open)).into(),
                ConvertError::Compared { file: "a".into(), source: format(FileAction::Open) }.into(),
            ]
        };
        #[cfg(unix)]
        for number in [
            Errno::NOMEM,
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::FBIG,
            Errno::ROFS,
            Errno::IO,
            Errno::MFILE,
            Errno::NFILE,
            Errno::AGAIN,
            Errno::STALE,
            Errno::TIMEDOUT,
        ] {
            for error in errors(&|| Error::from(number)) {
                assert_eq!(code(&error), FAILED, "{error:?}");
            }
        }
        #[cfg(unix)]
        for number in [Errno::NOENT, Errno::ACCESS, Errno::PERM, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP, Errno::NXIO]
        {
            for error in errors(&|| Error::from(number)) {
                assert_eq!(code(&error), WRONG, "{error:?}");
            }
        }
        for error in errors(&|| Error::other("it is no regular file")) {
            assert_eq!(code(&error), WRONG, "{error:?}");
        }
        assert_eq!(code(&anyhow!("no library knows this")), WRONG);
        assert_eq!(code(&anyhow!(MachineFailed("no threads".into())).context("a")), FAILED);
    }

    #[test]
    fn no_cause_is_said_twice() {
        let there = tempfile::NamedTempFile::new().unwrap();
        let path = there.path().display().to_string();
        let error = SecretKey::generate().unwrap().write_new(there.path()).unwrap_err();
        assert_eq!(text(&error.into()), format!("cannot write the key {path}: File exists (os error 17)"));
        let read = std::fs::read("/no/such/file").context("cannot read the prompt").unwrap_err();
        assert_eq!(text(&read), "cannot read the prompt: No such file or directory (os error 2)");
        assert_eq!(text(&anyhow!("c").context("b: c").context("a")), "a: b: c");
    }
}
