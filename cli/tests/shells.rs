//! What `nanoserve` makes for a shell and for `man`.

use std::process::{Command, Output};

const NANOSERVE: &str = env!("CARGO_BIN_EXE_nanoserve");

fn run(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(NANOSERVE).args(arguments).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("programs print UTF-8")
}

#[test]
fn bash_takes_the_completions() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions.bash");
    std::fs::write(&script, run(&["completions", "bash"])).unwrap();
    let bash = |arguments: &[&str]| {
        let output = Command::new("bash").args(["--norc", "--noprofile"]).args(arguments).arg(&script).output();
        let Output { status, stdout, stderr } = output.expect("this test needs bash");
        assert!(status.success() && stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    };
    assert_eq!(bash(&["-n"]), "");
    let names = bash(&["-c", "source $0 && complete -p"]);
    for name in ["", "-convert", "-run", "-inspect", "-verify", "-bench"] {
        assert!(names.lines().any(|line| line.ends_with(&format!(" nanoserve{name}"))), "{name}: {names}");
    }
    // What the Tab key would offer.
    let offered = |words: &str| {
        let call = "COMP_WORDS=(WORDS) && COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) && FUNCTION nanoserve \
                    \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\" && echo \"${COMPREPLY[@]}\"";
        bash(&[
            "-c",
            &format!("source $0 && {}", call.replace("WORDS)", &format!("{words})")).replace("FUNCTION", "_nanoserve")),
        ])
    };
    assert_eq!(offered("nanoserve ins").trim(), "inspect");
    assert_eq!(offered("nanoserve run --top-").trim(), "--top-k --top-p --top-n-sigma");
    assert_eq!(offered("nanoserve inspect key").trim(), "keygen");
}

#[test]
fn every_page_names_every_option_of_its_help() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("man/man1");
    run(&["man", "--dir", dir.to_str().unwrap()]);
    let mut options = 0;
    for path in [
        &[][..],
        &["convert"],
        &["run"],
        &["chat"],
        &["inspect"],
        &["inspect", "sign"],
        &["inspect", "keygen"],
        &["inspect", "repair"],
        &["verify"],
        &["bench"],
        &["export"],
        &["pull"],
        &["list"],
        &["rm"],
        &["bundle"],
        &["completions"],
        &["man"],
    ] {
        let name = [&["nanoserve"], path].concat().join("-");
        let page = std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
        assert_eq!(page, run(&[&["man"], path].concat()));
        let text = page.replace("\\-", "-").replace("\\fR", "").replace("\\fB", "");
        assert!(text.contains(".SH NAME") && text.contains(&format!("{name} - ")), "{text}");
        for line in run(&[path, &["--help"]].concat()).lines().map(str::trim_start).filter(|l| l.starts_with('-')) {
            for option in line.split([' ', ',', '=', '[']).take_while(|word| word.starts_with('-') || word.is_empty()) {
                assert!(text.contains(option), "{name} does not name {option}");
                options += usize::from(option.starts_with("--"));
            }
        }
    }
    assert!(options > 100, "{options}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 17);
}
