//! Command lines in llama.cpp's spelling.

use super::table::{BENCH, Meaning, RUN};
use super::translate;
use std::ffi::OsString;

fn ours(command: &str, line: &str) -> Result<String, String> {
    let words: Vec<OsString> =
        ["nanoserve", command].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
    let out = translate(command, &words, 2)?;
    let words: Vec<String> = out[2..].iter().map(|word| word.to_str().unwrap().to_string()).collect();
    Ok(words.join(" "))
}

#[test]
fn the_same_meaning_in_our_words() {
    for (theirs, here) in [
        ("-m a.nsv -p x", "a.nsv -p x"),
        ("-c 99 --model=a.nsv -n -1", "a.nsv --ctx=99 -n -1"),
        ("a.nsv -b 512 -ub 64 -s -1", "--chunk=64 a.nsv -s -1"),
        ("a.nsv --ubatch-size=64 --batch-size=512", "--chunk=64 a.nsv"),
        ("a.nsv -ngl 99", "--device=cuda a.nsv"),
        ("a.nsv -ngl 12", "--device=cuda --gpu-layers=12 a.nsv"),
        ("a.nsv -ngl 0", "--device=cpu a.nsv"),
        ("a.nsv -ngl auto", "--device=auto a.nsv"),
        ("a.nsv -ngl 5 --device cuda", "--gpu-layers=5 a.nsv --device cuda"),
        ("a.nsv -ctk f16 -ctv f16", "--kv=f16 a.nsv"),
        ("a.nsv --mlock --no-mmap", "a.nsv --lock --load huge"),
        ("a.nsv -sys Be -st -p x", "--chat a.nsv --system=Be --single-turn -p x"),
        ("a.nsv -cnv --chat -sysf f", "a.nsv --chat --system-file=f"),
        ("a.nsv -no-cnv --no-display-prompt --keep -1 --jinja", "a.nsv"),
        ("a.nsv -r -END- -jf s.json", "a.nsv --stop=-END- --json-schema=s.json"),
        // Not llama.cpp's: attached values, shorts in one word, and all behind --.
        ("a.nsv -n-1 -n128 -qe -t4 -p=-c -lq", "a.nsv -n-1 -n128 -qe -t4 -p=-c -lq"),
        ("-q -- a.nsv -ngl", "-q -- a.nsv -ngl"),
    ] {
        assert_eq!(ours("run", theirs).as_deref(), Ok(here), "{theirs}");
    }
    assert_eq!(
        ours("bench", "-m a.nsv -ngl 99 -r 3 -p 1,2 --n-depth 4").as_deref(),
        Ok("--device=cuda a.nsv -r 3 -p 1,2 --depth=4")
    );
    assert_eq!(ours("inspect", "-m a.nsv -ngl 3").as_deref(), Ok("-m a.nsv -ngl 3"));
}

#[test]
fn what_has_no_counterpart_is_refused_with_a_hint() {
    for (theirs, word) in [
        ("a.nsv -fa on", "leave it away"),
        ("a.nsv --flash-attn=on", "leave it away"),
        ("a.nsv -tb 4", "-t N"),
        ("a.nsv -ctk q8_0", "--kv f16"),
        ("a.nsv -ctk f16 -ctv f32", "the same"),
        ("a.nsv -ctv f32", "--kv f32"),
        ("a.nsv -no-cnv -st", "-st"),
        ("a.nsv --chat -no-cnv", "--chat"),
        ("a.nsv --keep many", "--keep"),
        ("a.nsv -c", "-c needs a value"),
        ("-m a.nsv -m b.nsv", "twice"),
    ] {
        let refused = ours("run", theirs).unwrap_err();
        assert!(refused.contains(word), "{theirs}: {refused}");
    }
}

#[test]
fn tables_name_options_that_exist_and_hide_none_of_ours() {
    for (name, table) in [("run", RUN), ("bench", BENCH)] {
        let entry = crate::programs::ENTRIES.iter().find(|entry| entry.name == name).unwrap();
        let command = (entry.command)();
        let long = |word: &str| match word.strip_prefix("--") {
            Some(word) => command.get_arguments().any(|option| option.get_long() == Some(word)),
            None => false,
        };
        let mut seen = std::collections::BTreeSet::new();
        for (names, meaning) in table {
            for theirs in *names {
                assert!(seen.insert(theirs), "{theirs} is there twice");
                assert!(!long(theirs), "{theirs} is an option of ours");
                let short = theirs
                    .strip_prefix('-')
                    .filter(|rest| rest.chars().count() == 1)
                    .and_then(|rest| rest.chars().next());
                let taken = command.get_arguments().any(|option| option.get_short() == short && short.is_some());
                let same = matches!(meaning, Meaning::Takes(_) | Meaning::Batch);
                assert!(!taken || same, "{theirs} is an option of ours");
            }
            let named: Vec<&str> = match meaning {
                Meaning::Takes(ours) | Meaning::Talk(ours) | Meaning::TalkTakes(ours) => vec![ours],
                Meaning::Is(ours) => vec![ours[0]],
                Meaning::Not(hint) => {
                    hint.split([' ', ':', ',']).filter(|word| word.starts_with("--") && word.len() > 3).collect()
                }
                _ => Vec::new(),
            };
            for ours in named {
                assert!(long(ours), "{names:?}: there is no {ours}");
            }
        }
    }
}
