//! `nanoserve completions SHELL`: scripts that let a shell complete commands and options by the Tab key.

use crate::console;
use crate::programs::{self, Program};
use clap::{Command, Parser};
use clap_complete::{Shell, generate};
use std::io::Write;
use std::process::ExitCode;

const EXAMPLES: &str = "\
For this session and, in the file that each begins with, for every one:
  bash:  source <(nanoserve completions bash)       ~/.bashrc
  zsh:   source <(nanoserve completions zsh)        ~/.zshrc, after compinit
  fish:  nanoserve completions fish | source        ~/.config/fish/config.fish

They are for nanoserve and for nanoserve-run and its like.";

/// Print a shell's completions of all commands and options
#[derive(Debug, Parser)]
#[command(name = "nanoserve-completions", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The shell
    shell: Name,
}

/// A shell by its name.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Name {
    Bash,
    Zsh,
    Fish,
}

impl Program for Arguments {
    fn start(self, _: &mut Command) -> ExitCode {
        let shell = match self.shell {
            Name::Bash => Shell::Bash,
            Name::Zsh => Shell::Zsh,
            Name::Fish => Shell::Fish,
        };
        let written = std::io::stdout().write_all(&script(shell));
        written.map_or_else(|e| console::exit(console::broken_pipe(e)), |()| ExitCode::SUCCESS)
    }
}

/// The completions of `nanoserve` and of each program that is one command.
fn script(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    generate(shell, &mut programs::nanoserve(), "nanoserve", &mut text);
    for entry in programs::ENTRIES.iter().filter(|entry| entry.has_program) {
        let mut command = (entry.command)();
        let name = command.get_name().to_string();
        generate(shell, &mut command, name, &mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::script;
    use clap_complete::Shell;

    #[test]
    fn each_shell_completes_each_program() {
        for (shell, how) in [(Shell::Bash, "default "), (Shell::Zsh, "compdef "), (Shell::Fish, "complete -c ")] {
            let text = String::from_utf8(script(shell)).unwrap();
            for program in ["nanoserve", "nanoserve-convert", "nanoserve-run", "nanoserve-inspect", "nanoserve-bench"] {
                let line = format!("{how}{program}");
                assert!(
                    text.lines().any(|l| l.trim_end().ends_with(&line) || l.contains(&format!("{line} "))),
                    "{shell} {program}"
                );
            }
            assert!(text.contains("chat") && text.contains("keygen") && text.contains("top-n-sigma"), "{shell}");
        }
    }
}
