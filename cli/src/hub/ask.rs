//! Asks before much is done: a download, a removal.

use super::error::HubError;
use crate::console::tell;
use std::io::{IsTerminal, Write, stderr, stdin};

/// What is done where only Enter is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usual {
    /// It.
    Yes,
    /// Nothing.
    No,
}

/// Whether somebody can be asked.
pub fn is_somebody_there() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// Goes on where the answer to a question is yes.
///
/// # Errors
/// [`HubError::Declined`] where it is no, or there is no answer.
pub fn ask(question: &str, usual: Usual) -> Result<(), HubError> {
    let choice = if usual == Usual::Yes { "[Y/n]" } else { "[y/N]" };
    // A closed standard error cannot be a terminal.
    let _ = write!(stderr(), "{question} {choice} ");
    let mut answer = String::new();
    if stdin().read_line(&mut answer).unwrap_or(0) == 0 {
        tell("");
    }
    let is_yes = match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => true,
        "" => usual == Usual::Yes && answer.ends_with('\n'),
        _ => false,
    };
    if is_yes { Ok(()) } else { Err(HubError::Declined) }
}
