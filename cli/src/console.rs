//! What every program says and how it ends: standard error, standard output, exit codes.

use crate::trust::Damaged;
use anyhow::Result;
use nanoserve_converter::ConvertError;
use nanoserve_format::{FormatError, KeyError};
use nanoserve_runtime::DeviceError;
use nanoserve_runtime::RuntimeError;
use nanoserve_template::TemplateError;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

/// The machine failed, or what was checked is not as it should be.
pub const FAILED: u8 = 1;
/// The input or the command line is wrong.
pub const WRONG: u8 = 2;
/// Stopped by Ctrl-C: 128 and the signal's number.
pub const INTERRUPTED: u8 = 130;

/// What the machine failed at, where no library says so by its error's type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MachineFailed(pub String);

/// What a program does before it maps a model: should the file lose its bytes meanwhile, that ends in words as well.
pub fn begin(model: &Path) {
    nanoserve_format::signal::install(&format!(
        "error: {}: bytes of the mapped file are gone (SIGBUS): was it truncated or overwritten while it was in use, or \
         did its disk fail?",
        model.display()
    ));
}

/// Tells on standard error; when nobody listens there any more, there is nobody to tell.
pub fn tell(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says which file a bad file's error is about; errors of the system say it themselves.
pub fn in_file(path: &Path) -> impl Fn(RuntimeError) -> anyhow::Error {
    move |e| match &e {
        RuntimeError::Format(f) if !matches!(f, FormatError::Io { .. }) => {
            let text = format!("{}: {f}", path.display());
            anyhow::Error::new(e).context(text)
        }
        _ => e.into(),
    }
}

/// The exit code of a program; errors are told on standard error.
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
    match error.downcast_ref() {
        Some(ConvertError::Problems(all)) => {
            all.iter().for_each(|problem| tell(format_args!("error: {problem}")));
            if all.len() > 1 {
                tell(format_args!("{} problems; nothing was written", all.len()));
            }
        }
        // Ours say what caused them: the outermost text is enough.
        Some(other) => tell(format_args!("error: {other}")),
        None if error.is::<RuntimeError>() => tell(format_args!("error: {error}")),
        None => tell(format_args!("error: {error:#}")),
    }
    if let Some(ConvertError::Write(FormatError::Io { source, .. })) = error.downcast_ref()
        && let Some(hint) = hint(source.kind())
    {
        tell(format_args!("  hint: {hint}"));
    }
}

/// What to do about a file that cannot be written.
fn hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("--dry-run says how much room the file takes"),
        ErrorKind::FileTooLarge => Some("a limit on the size of files is set (ulimit -f), or the file system has one"),
        _ => None,
    }
}

fn code(error: &anyhow::Error) -> u8 {
    let reference = |e: &RuntimeError| matches!(e, RuntimeError::Reference { .. } | RuntimeError::TokenId { .. });
    let runtime = |e: &RuntimeError| {
        matches!(e, RuntimeError::Threads { .. } | RuntimeError::Allocation { .. })
            || matches!(e, RuntimeError::Device(DeviceError::Call { .. } | DeviceError::LeftOut { .. }))
            || matches!(e, RuntimeError::Format(FormatError::Io { action, .. }) if *action != "open")
    };
    let convert = |e: &ConvertError| match e {
        ConvertError::Problems(_) | ConvertError::Compared { .. } => WRONG,
        ConvertError::LastStep(e) if e.downcast_ref().is_some_and(reference) => WRONG,
        ConvertError::Cancelled => INTERRUPTED,
        _ => FAILED,
    };
    let key = |e: &KeyError| match e {
        KeyError::Write { source, .. } => !matches!(source.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound),
        other => matches!(other, KeyError::Random(_)),
    };
    let thread = |e: &TemplateError| matches!(e, TemplateError::Thread { .. });
    if let Some(error) = error.downcast_ref() {
        return convert(error);
    }
    let failed = error.is::<Damaged>()
        || error.is::<MachineFailed>()
        || error.downcast_ref().is_some_and(thread)
        || error.downcast_ref().is_some_and(runtime)
        || error.downcast_ref().is_some_and(key);
    if failed { FAILED } else { WRONG }
}

/// Whoever read our output went away: no fault of ours; any other failed write is the machine's.
pub fn broken_pipe(e: std::io::Error) -> Result<ExitCode> {
    if e.kind() == std::io::ErrorKind::BrokenPipe {
        return Ok(ExitCode::SUCCESS);
    }
    tell(format_args!("error: cannot write to standard output: {e}"));
    Ok(ExitCode::FAILURE)
}
