use super::super::sampler::{Mirostat, Sampler, SamplingOptions};
use super::*;

const BOUNDS: Bounds = Bounds { vocab_size: 24, capacity: 40 };
const PROMPT: [u32; 6] = [1, 2, 3, 1, 2, 3];

/// Stands in for a model: the logits depend on the last token, so the likeliest tokens soon repeat in a cycle.
fn row(history: &[u32]) -> Vec<f32> {
    let last = history[history.len() - 1];
    (0..BOUNDS.vocab_size as u32).map(|id| ((id * 7 + last * 11 + 1) * 2_654_435 % 1000) as f32 / 200.0).collect()
}

fn likeliest(row: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut ranked: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.truncate(k);
    ranked
}

/// How an answer gets the logits that it asked for.
#[derive(Clone, Copy, Debug)]
enum Given {
    Asked,
    WholeRows,
    MoreRows,
}

fn logits(feed: &Feed, given: Given) -> Logits<'static> {
    let first = if matches!(given, Given::MoreRows) { 1 } else { feed.keep };
    match (feed.wants, given) {
        (Wants::Top(k), Given::Asked) => Logits::Top(likeliest(&row(feed.tokens), k)),
        _ => Logits::Rows((first..feed.tokens.len()).flat_map(|last| row(&feed.tokens[..=last])).collect()),
    }
}

fn answer(options: &GenerateOptions) -> Answer {
    Answer::new(&PROMPT, options, None, BOUNDS).expect("options in range")
}

/// Runs one step; false if the answer has ended.
fn step(answer: &mut Answer, given: Given, on_text: &mut dyn FnMut(&str) -> bool) -> bool {
    let Next::Feed(feed) = answer.next_step() else { return false };
    let logits = logits(&feed, given);
    answer.take(logits, on_text).expect("numbers");
    true
}

fn finished(options: &GenerateOptions, given: Given) -> Generation {
    let mut answer = answer(options);
    while step(&mut answer, given, &mut |_| true) {}
    answer.finish(&mut |_| true)
}

fn greedy() -> GenerateOptions {
    let sampling = SamplingOptions { temperature: 0.0, ..SamplingOptions::default() };
    GenerateOptions { max_tokens: Some(30), sampling, ..GenerateOptions::default() }
}

fn samplings() -> Vec<SamplingOptions> {
    let base = SamplingOptions { temperature: 1.0, top_k: 8, top_p: 0.9, seed: 5, ..SamplingOptions::default() };
    vec![
        greedy().sampling,
        base.clone(),
        SamplingOptions { xtc_probability: 0.5, xtc_threshold: 0.05, ..base.clone() },
        SamplingOptions { repeat_penalty: 1.2, dry_multiplier: 0.8, ..base.clone() },
        SamplingOptions { mirostat: Some(Mirostat { tau: 3.0, eta: 0.2 }), ..base },
    ]
}

#[test]
fn it_can_be_kept_and_sent() {
    fn owned<T: Send + 'static>() {}
    owned::<Answer>();
    owned::<super::super::Paused>();
}

/// Compares with the plainest loop there is, however logits are asked for and given.
#[test]
fn the_tokens_are_those_of_a_plain_loop() {
    let mut guessed = [0; 2];
    for sampling in samplings() {
        let mut sampler = Sampler::new(sampling.clone()).expect("options in range");
        let (mut history, mut hash) = (PROMPT.to_vec(), blake3::Hasher::new());
        for _ in 0..30 {
            hash.update(bytemuck::cast_slice(&row(&history)));
            let id = sampler.sample(&row(&history), &history).expect("a token");
            history.push(id);
        }
        for lookup in [0, 1, 5] {
            for hashed in [true, false] {
                for given in [Given::Asked, Given::WholeRows, Given::MoreRows] {
                    let options = GenerateOptions { sampling: sampling.clone(), lookup, hash: hashed, ..greedy() };
                    let made = finished(&options, given);
                    assert_eq!(made.ids, history[PROMPT.len()..], "{given:?} {options:?}");
                    assert_eq!(made.stop_reason, StopReason::Length);
                    let expected = if hashed { hash.finalize().to_hex().to_string() } else { String::new() };
                    assert_eq!(made.logits_hash, expected);
                    assert!(lookup > 0 || made.guessed == [0; 2]);
                    guessed = [0, 1].map(|i| guessed[i] + made.guessed[i]);
                }
            }
        }
    }
    assert!(guessed[1] > 0 && guessed[0] >= guessed[1], "{guessed:?}");
}

#[test]
fn what_it_needs_is_the_same_until_it_is_taken() {
    for lookup in [0, 4] {
        let mut answer = answer(&GenerateOptions { lookup, ..greedy() });
        for steps in 0.. {
            let asked = answer.next_step();
            let Next::Feed(feed) = asked else { break };
            let (tokens, keep) = (feed.tokens.to_vec(), feed.keep);
            assert_eq!((feed.wants == Wants::All, feed.ahead), (tokens.len() > keep + 1, false));
            let Next::Feed(again) = answer.next_step() else { panic!("it had not ended") };
            assert_eq!((again.tokens, again.keep), (&tokens[..], keep));
            // All certain tokens stay, and all but the last of them have run.
            assert!(keep >= PROMPT.len() - 1 + steps && tokens.starts_with(&PROMPT));
            assert!(step(&mut answer, Given::Asked, &mut |_| true));
            assert_eq!(answer.ids()[..keep + 1 - PROMPT.len()], tokens[PROMPT.len()..=keep]);
        }
    }
}

/// The prompt's time is not a token's: the first step after it shows a token's time, and the next one may guess.
#[test]
fn nothing_is_guessed_before_a_step_has_told_its_time() {
    let mut answer = answer(&GenerateOptions { lookup: 4, max_tokens: None, ..greedy() });
    let mut guesses = Vec::new();
    for _ in 0..3 {
        let Next::Feed(feed) = answer.next_step() else { panic!("it had not ended") };
        guesses.push(feed.tokens.len() - feed.keep - 1);
        // The text repeats the prompt.
        let mut rows = Vec::new();
        for last in &feed.tokens[feed.keep..] {
            rows.extend((0..BOUNDS.vocab_size as u32).map(|id| f32::from(u8::from(id == last % 3 + 1))));
        }
        answer.take(Logits::Rows(rows.into()), &mut |_| true).expect("numbers");
    }
    assert_eq!(guesses, [0, 0, 3]);
    assert_eq!(answer.ids(), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_step_ahead_is_for_the_likeliest_token_that_another_follows() {
    let ahead = |options: &GenerateOptions, steps: usize| {
        let mut answer = answer(options);
        for _ in 0..steps {
            step(&mut answer, Given::Asked, &mut |_| true);
        }
        match answer.next_step() {
            Next::Feed(feed) => (feed.wants, feed.ahead),
            Next::Done { .. } => panic!("it had not ended"),
        }
    };
    let greedy = GenerateOptions { hash: false, max_tokens: Some(3), ..greedy() };
    assert_eq!(ahead(&greedy, 0), (Wants::Top(1), true));
    assert_eq!(ahead(&greedy, 1), (Wants::Top(1), true));
    assert_eq!(ahead(&greedy, 2), (Wants::Top(1), false));
    assert_eq!(ahead(&GenerateOptions { lookup: 1, ..greedy.clone() }, 0), (Wants::Top(1), false));
    assert_eq!(ahead(&GenerateOptions { hash: true, ..greedy.clone() }, 0), (Wants::Last, false));
    assert_eq!(ahead(&GenerateOptions { logprobs: Some(0), ..greedy.clone() }, 0), (Wants::Last, false));
    assert_eq!(ahead(&GenerateOptions { sampling: samplings()[1].clone(), ..greedy }, 0), (Wants::Top(8), false));
}

/// Runs to the end, or stops after `texts` texts. Returns the ids, the reason, and what the sequence may keep.
fn ended(options: &GenerateOptions, texts: usize) -> (Vec<u32>, StopReason, usize) {
    let mut answer = answer(options);
    let mut said = 0;
    while step(&mut answer, Given::Asked, &mut |_| {
        said += 1;
        said < texts
    }) {}
    let Next::Done { reason, keep } = answer.next_step() else { panic!("it had ended") };
    let made = answer.finish(&mut |_| true);
    assert_eq!(made.stop_reason, reason);
    (made.ids, reason, keep)
}

#[test]
fn every_end_is_told_with_what_may_be_kept() {
    let whole = finished(&greedy(), Given::Asked).ids;
    for lookup in [0, 5] {
        let options = GenerateOptions { lookup, ..greedy() };
        let most = |max_tokens| GenerateOptions { max_tokens, ..options.clone() };
        assert_eq!(ended(&most(Some(0)), 99), (vec![], StopReason::Length, 6));
        assert_eq!(ended(&most(Some(1)), 99), (whole[..1].to_vec(), StopReason::Length, 6));
        assert_eq!(ended(&most(Some(7)), 99), (whole[..7].to_vec(), StopReason::Length, 12));
        // The last token needs no position of its own.
        let (ids, reason, keep) = ended(&most(None), 99);
        assert_eq!((ids.len(), reason, keep), (35, StopReason::Context, 40));
        assert_eq!(ended(&options, 3), (whole[..3].to_vec(), StopReason::Cancelled, 8));
        let eos_ids = vec![whole[4]];
        let first = whole.iter().position(|id| *id == whole[4]).expect("it is there") + 1;
        let stopping = GenerateOptions { eos_ids, ..options.clone() };
        assert_eq!(ended(&stopping, 99), (whole[..first].to_vec(), StopReason::Eos, 5 + first));
        let (ids, reason, _) = ended(&GenerateOptions { ignore_eos: true, ..stopping }, 99);
        assert_eq!((ids.len(), reason, ids.contains(&whole[4])), (30, StopReason::Length, false));
    }
}

#[test]
fn a_caller_ends_it_once() {
    let mut early = answer(&greedy());
    early.cancel();
    assert_eq!(early.next_step(), Next::Done { reason: StopReason::Cancelled, keep: 6 });
    let mut late = answer(&GenerateOptions { max_tokens: Some(1), ..greedy() });
    assert!(step(&mut late, Given::Asked, &mut |_| true));
    late.cancel();
    assert_eq!(late.finish(&mut |_| true).stop_reason, StopReason::Length);
    let mut under_way = answer(&greedy());
    assert!(step(&mut under_way, Given::Asked, &mut |_| true));
    let made = under_way.finish(&mut |_| true);
    assert_eq!((made.ids.len(), made.stop_reason), (1, StopReason::Cancelled));
    assert!(matches!(Answer::new(&[], &greedy(), None, BOUNDS), Err(RuntimeError::EmptyPrompt)));
}

#[test]
fn the_time_of_a_prompt_is_that_of_its_step() {
    let mut answer = answer(&greedy());
    answer.reused(2);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(matches!(answer.next_step(), Next::Feed(_)));
    std::thread::sleep(std::time::Duration::from_millis(20));
    while step(&mut answer, Given::Asked, &mut |_| true) {}
    let made = answer.finish(&mut |_| true);
    let timings = made.timings;
    assert_eq!(made.reused, 2);
    // Four tokens in 0.02 s and some more; the first token is there 0.04 s after the beginning.
    assert!(timings.prompt_tok_s > 0.0 && timings.prompt_tok_s <= 200.0, "{timings:?}");
    assert!(timings.first_token_s >= 0.04 && timings.generate_tok_s > 0.0, "{timings:?}");
}

#[test]
#[should_panic(expected = "were asked for")]
fn fewer_rows_than_it_asked_for_are_no_logits() {
    let mut answer = answer(&greedy());
    assert!(matches!(answer.next_step(), Next::Feed(_)));
    _ = answer.take(Logits::Rows(vec![0.0; BOUNDS.vocab_size - 1].into()), &mut |_| true);
}
