//! A continued session: tokens that the cache already holds do not run again, and the bits are the same.

use nanoserve_format::Encoding;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::{GenerateOptions, Generation, KvType, SamplingOptions};
use nanoserve_tests::{changed, engine, fixture};

fn options(temperature: f32) -> GenerateOptions {
    let sampling = changed!(SamplingOptions { temperature, seed: 5, ..SamplingOptions::default() });
    changed!(GenerateOptions { max_tokens: Some(6), sampling, chunk: 7, ..GenerateOptions::default() })
}

/// The parts of a generation that do not depend on earlier contents of the session.
fn outcome(g: &Generation) -> (&[u32], &str) {
    (&g.ids, &g.logits_hash)
}

#[test]
fn a_shared_beginning_runs_once_at_every_cut() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = fixture("tied-llama3");
    let ids = fixture.reference().input_ids;
    for (encoding, kv) in [(Encoding::Q8, KvType::F16), (Encoding::F32, KvType::F32)] {
        let path = fixture.convert(encoding, folder.path());
        let mut engine = engine(&path, isa::available().pop().unwrap(), 2);
        for temperature in [0.0, 0.8] {
            let options = options(temperature);
            let fresh = {
                let mut session = engine.session(ids.len() + 8, kv).unwrap();
                session.generate(&ids, &options, None, &mut |_| true).unwrap()
            };
            assert_eq!(fresh.reused, 0);
            let mut session = engine.session(ids.len() + 8, kv).unwrap();
            for cut in 0..=ids.len() {
                // A text that differs from `cut` on, and is longer than the prompt by what is generated.
                let other = |id: &u32| if *id == 7 { 8 } else { 7 };
                let before: Vec<u32> = ids[..cut].iter().copied().chain(ids[cut..].iter().map(other)).collect();
                session.generate(&before, &options, None, &mut |_| true).unwrap();
                assert_eq!(session.ids()[..cut], ids[..cut]);
                let again = session.generate(&ids, &options, None, &mut |_| true).unwrap();
                assert_eq!(outcome(&again), outcome(&fresh), "{encoding} cut {cut}");
                assert_eq!(again.reused, cut.min(ids.len() - 1), "{encoding} cut {cut}");
                // The last chosen token has not run.
                assert_eq!(session.ids(), [&ids[..], &again.ids[..again.ids.len() - 1]].concat());
            }
            // The answer as the beginning of the next turn, and a prompt shorter than what the session holds.
            let turn = [&ids[..], &fresh.ids].concat();
            let one = changed!(GenerateOptions { max_tokens: Some(1), ..options.clone() });
            let next = session.generate(&turn, &one, None, &mut |_| true).unwrap();
            assert_eq!(next.reused, turn.len() - 1);
            let short = session.generate(&ids[..9], &options, None, &mut |_| true).unwrap();
            assert_eq!(short.reused, 8);
            _ = session.truncate(0);
            let plain = session.generate(&ids[..9], &options, None, &mut |_| true).unwrap();
            assert_eq!((plain.reused, outcome(&plain)), (0, outcome(&short)), "{encoding}");
        }
    }
}

#[test]
fn what_was_cut_off_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = fixture("tied-llama3");
    let ids = fixture.reference().input_ids;
    let path = fixture.convert(Encoding::Q8, folder.path());
    let mut engine = engine(&path, isa::available().pop().unwrap(), 1);
    let mut session = engine.session(ids.len() + 8, KvType::F16).unwrap();
    // Cancelled after two steps of 7 tokens.
    let mut steps = 0;
    let stopped = session.generate(&ids, &options(0.0), None, &mut |_| {
        steps += 1;
        steps <= 2
    });
    assert!(stopped.unwrap().ids.is_empty());
    assert_eq!(session.ids(), &ids[..14]);
    let resumed = session.generate(&ids, &options(0.0), None, &mut |_| true).unwrap();
    assert_eq!(resumed.reused, 14);
    _ = session.truncate(3);
    assert_eq!(session.ids(), &ids[..3]);
    // A refused prompt leaves in the cache what it shares with it.
    assert!(session.generate(&[ids[0], ids[1], u32::MAX], &options(0.0), None, &mut |_| true).is_err());
    assert_eq!(session.ids(), &ids[..2]);
    let again = session.generate(&ids, &options(0.0), None, &mut |_| true).unwrap();
    assert_eq!((again.reused, outcome(&again)), (2, outcome(&resumed)));
}
