//! Answers as state machines: many at once on one engine, and one that stops here and goes on there.

use nanoserve_format::Encoding;
use nanoserve_runtime::backend::KvType;
use nanoserve_runtime::cpu::CpuBackend;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::generate::grammar::GrammarTokens;
use nanoserve_runtime::generate::sampler::Mirostat;
use nanoserve_runtime::generate::{Bounds, Next, Paused};
use nanoserve_runtime::{
    Answer, Engine, GenerateOptions, Generation, SamplingOptions, Sequence, Span, StopReason, Tokenizer,
};
use nanoserve_tests::{SplitMix64, changed, convert, engine};
use std::path::{Path, PathBuf};

/// Positions of a sequence.
const CAPACITY: usize = 96;

/// The demo model in a folder of its own.
fn demo() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.nsv");
    convert(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo"), Encoding::Q8, &path);
    (folder, path)
}

fn open(path: &Path, threads: usize) -> Engine<CpuBackend> {
    engine(path, isa::available().pop().unwrap(), threads)
}

/// An answer with its sequence, and the text that it gave out.
struct Run {
    answer: Answer,
    sequence: Sequence<CpuBackend>,
    text: String,
}

impl Run {
    fn new(engine: &mut Engine<CpuBackend>, answer: Answer) -> Run {
        Run { answer, sequence: engine.sequence(CAPACITY, KvType::F16).unwrap(), text: String::new() }
    }

    fn is_done(&mut self) -> bool {
        matches!(self.answer.next_step(), Next::Done { .. })
    }

    /// What it needs next, as a span; None where it has ended.
    fn span(&mut self) -> Option<Span<'_, CpuBackend>> {
        let Next::Feed(feed) = self.answer.next_step() else { return None };
        let held = self.sequence.truncate(feed.keep);
        Some(Span::new(&mut self.sequence, &feed.tokens[held..], feed.wants))
    }

    fn finish(mut self) -> (Generation, String) {
        let text = &mut self.text;
        let made = self.answer.finish(&mut |rest| {
            text.push_str(rest);
            true
        });
        (made, self.text)
    }
}

/// Runs one step of all of them together; those that have ended are left out.
fn step(engine: &mut Engine<CpuBackend>, runs: &mut [&mut Run]) {
    let mut open: Vec<&mut &mut Run> = runs.iter_mut().filter_map(|run| (!run.is_done()).then_some(run)).collect();
    let mut spans: Vec<Span<CpuBackend>> = open.iter_mut().filter_map(|run| run.span()).collect();
    let all = engine.step(&mut spans).unwrap();
    for (Run { answer, text, .. }, logits) in open.into_iter().zip(all) {
        let mut on_text = |new: &str| {
            text.push_str(new);
            true
        };
        answer.take(logits, &mut on_text).unwrap();
    }
}

/// Named options: every part of an answer that remembers something.
fn kinds(tokenizer: &Tokenizer, vocab_size: usize) -> Vec<(&'static str, GenerateOptions)> {
    let sampling =
        changed!(SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 9, ..Default::default() });
    let greedy = changed!(SamplingOptions { temperature: 0.0, ..sampling.clone() });
    let plain =
        changed!(GenerateOptions { max_tokens: Some(20), sampling: sampling.clone(), ..GenerateOptions::default() });
    let with = |sampling| changed!(GenerateOptions { sampling, ..plain.clone() });
    let tokens = GrammarTokens::new(tokenizer, vocab_size, &[]).unwrap();
    let lark = |text: &str| changed!(GenerateOptions { grammar: Some(tokens.lark(text).unwrap()), ..plain.clone() });
    vec![
        ("greedy", with(greedy.clone())),
        ("top-k, top-p", with(changed!(SamplingOptions { top_k: 30, top_p: 0.9, ..sampling.clone() }))),
        ("xtc", with(changed!(SamplingOptions { xtc_probability: 0.5, xtc_threshold: 0.02, ..sampling.clone() }))),
        ("greedy xtc", with(changed!(SamplingOptions { xtc_probability: 0.5, xtc_threshold: 0.02, ..greedy.clone() }))),
        (
            "mirostat",
            with(changed!(SamplingOptions { mirostat: Some(Mirostat { tau: 3.0, eta: 0.3 }), ..sampling.clone() })),
        ),
        (
            "dry, penalties",
            with(changed!(SamplingOptions {
                dry_multiplier: 0.8,
                repeat_penalty: 1.2,
                frequency_penalty: 0.1,
                ..greedy.clone()
            })),
        ),
        ("grammar", lark("start: /[A-Z][a-z]+( [a-z]+){2}/ \", \" /[0-9]{3}/")),
        ("inside characters", lark("start: \"größer 日本語 👍\"")),
        ("log-probabilities", changed!(GenerateOptions { logprobs: Some(2), ..plain.clone() })),
        ("lookup", changed!(GenerateOptions { lookup: 6, ..with(greedy) })),
        ("no tokens", changed!(GenerateOptions { max_tokens: Some(0), ..plain.clone() })),
        ("context", changed!(GenerateOptions { max_tokens: None, ..plain.clone() })),
    ]
}

/// What must not differ.
fn outcome(made: &Generation) -> (&[u32], &str, StopReason, &[nanoserve_runtime::generate::logprobs::TokenLogprobs]) {
    (&made.ids, &made.text, made.stop_reason, &made.logprobs)
}

fn bounds(engine: &Engine<CpuBackend>) -> Bounds {
    Bounds { vocab_size: engine.file().spec().vocab_size, capacity: CAPACITY }
}

/// A stop text that begins in the middle of a token, holds all of the next, and ends in the middle of a third.
fn spanning_stop(pieces: &[String]) -> String {
    let long = |piece: &String| piece.chars().count() > 1;
    let middle = (5..pieces.len() - 1).find(|&i| long(&pieces[i - 1]) && long(&pieces[i + 1])).expect("long tokens");
    let [before, after] = [&pieces[middle - 1], &pieces[middle + 1]];
    format!("{}{}{}", before.chars().last().unwrap(), pieces[middle], after.chars().next().unwrap())
}

#[test]
fn an_answer_goes_on_elsewhere_from_every_position() {
    let (_folder, path) = demo();
    let (mut here, mut there) = (open(&path, 2), open(&path, 1));
    let tokenizer = here.tokenizer().unwrap();
    let bounds = bounds(&here);
    let prompt = tokenizer.encode(&"ROMEO:\nThe harbour lies as quiet as a church.\n".repeat(2), true).unwrap();
    let mut kinds = kinds(&tokenizer, bounds.vocab_size);

    let mut pieces = Vec::new();
    let mut session = here.session(CAPACITY, KvType::F16).unwrap();
    session
        .generate(&prompt, &kinds[1].1, Some(&tokenizer), &mut |text| {
            pieces.push(text.to_owned());
            true
        })
        .unwrap();
    drop(session);
    // The prompt's steps say nothing.
    pieces.retain(|piece| !piece.is_empty());
    kinds.push(("stop", changed!(GenerateOptions { stops: vec![spanning_stop(&pieces)], ..kinds[1].1.clone() })));

    let (mut held, mut torn) = (0, 0);
    for (name, options) in kinds {
        let mut session = here.session(CAPACITY, KvType::F16).unwrap();
        let whole = session.generate(&prompt, &options, Some(&tokenizer), &mut |_| true).unwrap();
        drop(session);
        if name == "stop" {
            assert_eq!(whole.stop_reason, StopReason::Stop, "{:?}", whole.text);
        }
        // What it is at each position, and the text that was out by then.
        let mut run = Run::new(&mut here, Answer::new(&prompt, &options, Some(&tokenizer), bounds).unwrap());
        let mut paused: Vec<(Paused, String)> = vec![(run.answer.pause(), String::new())];
        while !run.is_done() {
            // Asked for, and not yet taken: nothing of the step is in it.
            let mut before = run.answer.pause();
            before.spent = paused[paused.len() - 1].0.spent;
            assert_eq!(before, paused[paused.len() - 1].0, "{name}");
            step(&mut here, &mut [&mut run]);
            paused.push((run.answer.pause(), run.text.clone()));
        }
        let (stepped, _) = run.finish();
        assert_eq!(outcome(&stepped), outcome(&whole), "{name}");
        assert_eq!(stepped.logits_hash, whole.logits_hash, "{name}");
        assert!(paused.len() > whole.ids.len() || name == "lookup" || name == "no tokens", "{name}: every position");

        for (paused, before) in paused {
            let at = format!("{name} at {}", paused.ids.len());
            let answer = Answer::resume(&prompt, &options, Some(&tokenizer), bounds, &paused).unwrap();
            assert_eq!((answer.ids(), answer.text()), (&paused.ids[..], &before[..]), "{at}");
            let all = tokenizer.decode(&paused.ids, true).unwrap();
            torn += usize::from(all.ends_with('\u{fffd}'));
            held += usize::from(name == "stop" && all.len() > before.len());
            let mut run = Run::new(&mut there, answer);
            while !run.is_done() {
                step(&mut there, &mut [&mut run]);
            }
            let (made, after) = run.finish();
            assert_eq!(outcome(&made), outcome(&whole), "{at}");
            assert_eq!(before + &after, whole.text, "{at}");
            let hash = if paused.ids.is_empty() { &whole.logits_hash[..] } else { "" };
            assert_eq!(made.logits_hash, hash, "{at}");
            let first = paused.spent.first_token_s;
            assert!(first.is_none_or(|first| made.timings.first_token_s == first), "{at}");
        }
    }
    assert!(held >= 2, "a stop text began before {held} of the cuts");
    assert!(torn >= 4, "{torn} cuts inside a character");
}

#[test]
fn answers_side_by_side_are_those_alone() {
    let (_folder, path) = demo();
    let mut engine = open(&path, 2);
    let tokenizer = engine.tokenizer().unwrap();
    let bounds = bounds(&engine);
    let kinds = kinds(&tokenizer, bounds.vocab_size);
    let prompts = ["ROMEO:\nThe harbour", "JULIET:", "The sea is, the sea is, the sea is,"]
        .map(|text| tokenizer.encode(text, true).unwrap());
    let tasks: Vec<(&[u32], &GenerateOptions)> =
        kinds.iter().enumerate().map(|(i, (_, options))| (&prompts[i % 3][..], options)).collect();
    let alone: Vec<Generation> = tasks
        .iter()
        .map(|(prompt, options)| {
            let mut session = engine.session(CAPACITY, KvType::F16).unwrap();
            session.generate(prompt, options, Some(&tokenizer), &mut |_| true).unwrap()
        })
        .collect();
    for seed in 0..4 {
        let mut random = SplitMix64::new(seed);
        let new = |(prompt, options): &(&[u32], &GenerateOptions)| {
            let answer = Answer::new(prompt, options, Some(&tokenizer), bounds).unwrap();
            Run::new(&mut engine, answer)
        };
        let mut runs: Vec<(usize, Run)> = tasks.iter().map(new).enumerate().collect();
        let mut steps = 0;
        while !runs.is_empty() {
            // Any order; of the even seeds one in turn, of the others some together.
            for i in (1..runs.len()).rev() {
                runs.swap(i, random.below(i + 1));
            }
            let together = if seed % 2 == 0 { 1 } else { 1 + random.below(runs.len()) };
            step(&mut engine, &mut runs[..together].iter_mut().map(|(_, run)| run).collect::<Vec<_>>());
            steps += 1;
            let (done, open): (Vec<_>, Vec<_>) =
                runs.into_iter().map(|(task, mut run)| (run.is_done(), (task, run))).partition(|(done, _)| *done);
            runs = open.into_iter().map(|(_, run)| run).collect();
            for (_, (task, run)) in done {
                let (made, text) = run.finish();
                let name = format!("{} seed {seed}", kinds[task].0);
                assert_eq!(outcome(&made), outcome(&alone[task]), "{name}");
                assert_eq!(
                    (made.logits_hash, text),
                    (alone[task].logits_hash.clone(), alone[task].text.clone()),
                    "{name}"
                );
            }
        }
        assert!(steps > 60, "{steps} steps");
    }
}
