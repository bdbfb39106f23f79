//! The CUDA backend without a GPU: its calls to a device, checked with a device that records them.

use nanoserve_format::{Activation, Encoding, ModelSpec, NsvFile, QkNorm, Rope, RopeScaling, Window};
use nanoserve_runtime::backend::Backend;
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::cpu::{CpuBackend, isa};
use nanoserve_runtime::cuda::CudaBackend;
use nanoserve_runtime::cuda::device::{Launch, Span};
use nanoserve_runtime::cuda::split::Split;
use nanoserve_runtime::diagnose::roofline::Limits;
use nanoserve_runtime::diagnose::verify::trace;
use nanoserve_runtime::engine::Logits;
use nanoserve_runtime::{Engine, GenerateOptions, KvType, Limit, MemoryUse, RuntimeError, SamplingOptions, Wants};
use nanoserve_tests::recorder::{Event, Recorder};
use nanoserve_tests::{changed, random_tensors, write_tensors};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory of a device that is large enough.
const ENOUGH: u64 = 1 << 30;

fn base() -> ModelSpec {
    ModelSpec {
        hidden_size: 64,
        intermediate_size: 96,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        vocab_size: 50,
        context_length: 4096,
        ..ModelSpec::default()
    }
}

fn gemma() -> ModelSpec {
    ModelSpec {
        window: Some(Window { size: 16, layers: vec![0], rope: None }),
        post_norm: true,
        attn_softcap: Some(50.0),
        logit_softcap: Some(30.0),
        attn_scale: Some(0.25),
        embed_scale: 8.0,
        activation: Activation::GeluTanh,
        tied_lm_head: true,
        ..base()
    }
}

fn olmo() -> ModelSpec {
    ModelSpec { pre_norm: false, post_norm: true, qk_norm: QkNorm::Projection, ..base() }
}

fn write(folder: &Path, spec: &ModelSpec, encoding: Encoding) -> PathBuf {
    write_tensors(spec, &random_tensors(spec), encoding, folder)
}

fn open(path: &Path, device: &Recorder) -> Engine<CudaBackend<Recorder>> {
    let file = Arc::new(NsvFile::open(path).unwrap());
    Engine::with_backend(file, CudaBackend::new(device.clone(), 0)).unwrap()
}

/// Names in order, separated by spaces.
fn joined(kernels: &[&str]) -> String {
    kernels.join(" ")
}

/// The kernels of a prompt of `tokens` tokens, those of the token after it, and the calls for the third token.
fn launches(spec: &ModelSpec, encoding: Encoding, tokens: usize) -> (String, String, Vec<Event>) {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), spec, encoding), &device);
    let mut session = engine.session(600, KvType::F16).unwrap();
    device.take();
    session.feed(&vec![1; tokens], tokens).unwrap();
    let prompt = joined(&device.kernels());
    session.feed(&[2], 1).unwrap();
    let token = joined(&device.kernels());
    session.feed(&[3], 1).unwrap();
    assert_eq!(joined(&device.kernels()), token, "captured as it ran");
    session.feed(&[4], 1).unwrap();
    (prompt, token, device.take())
}

#[test]
fn a_token_of_a_llama_is_five_kernels_a_layer_and_then_a_replay() {
    let (prompt, token, third) = launches(&base(), Encoding::F16, 5);
    let layer = "matvec_f16 decode_f16 matvec_f16 matvec_gated_silu_f16 matvec_f16";
    assert_eq!(token, joined(&["embed_f16", layer, layer, "matvec_f16"]));
    // The step and its token are copied to the device, logits come back.
    let sizes: Vec<(&str, u64)> = third.iter().map(what).collect();
    assert_eq!(sizes, [("to", 12), ("replay", 12), ("from", 4 * 50)]);
    let attention = "rope rope kv_store_f16 attention_f16 to_f16 matmul_narrow_f16";
    let mlp = "rms_norm to_f16 matmul_narrow_f16 matmul_narrow_f16 gate_silu to_f16 matmul_narrow_f16";
    let first = joined(&["rms_norm to_f16 matmul_narrow_f16 matmul_narrow_f16 matmul_narrow_f16", attention, mlp]);
    // In the last layer only the last token continues.
    let last = "rms_norm to_f16 matmul_narrow_f16 matmul_narrow_f16 matvec_f16 rope rope kv_store_f16 attention_f16 matvec_f16 \
                matvec_gated_silu_f16 matvec_f16";
    assert_eq!(prompt, joined(&["embed_f16", &first, last, "matvec_f16"]));
}

#[test]
fn gemmas_norms_behind_blocks_are_added_in_one() {
    let (prompt, token, _) = launches(&gemma(), Encoding::Q8, 5);
    let layer = "matvec_q8 decode_f16 matvec_q8 norm_add matvec_gated_gelu_q8 matvec_q8 norm_add";
    assert_eq!(token, joined(&["embed_q8", layer, layer, "matvec_q8 softcap"]));
    let first = "rms_norm to_f16 matmul_narrow_q8 matmul_narrow_q8 matmul_narrow_q8 rope rope kv_store_f16 attention_f16 to_f16 matmul_narrow_q8 norm_add \
                 rms_norm to_f16 matmul_narrow_q8 matmul_narrow_q8 gate_gelu_tanh to_f16 matmul_narrow_q8 norm_add";
    assert!(prompt.starts_with(&joined(&["embed_q8", first])), "{prompt}");
}

#[test]
fn olmos_blocks_read_the_stream_and_norm_whole_rows() {
    let (prompt, token, _) = launches(&olmo(), Encoding::F32, 5);
    let layer = "matvec_f32 rms_norm rms_norm decode_f16 matvec_f32 norm_add matvec_gated_silu_f32 matvec_f32 norm_add";
    assert_eq!(token, joined(&["embed_f32", layer, layer, "matvec_f32"]));
    let first = "matmul_f32 matmul_f32 matmul_f32 rms_norm rms_norm rope rope kv_store_f16 attention_f16 matmul_f32 norm_add \
                 matmul_f32 matmul_f32 gate_silu matmul_f32 norm_add";
    assert!(prompt.starts_with(&joined(&["embed_f32", first])), "{prompt}");
}

#[test]
fn every_other_switch_finds_its_place() {
    let layer = "matvec_f32 decode_f16 matvec_f32 matvec_gated_silu_f32 matvec_f32";
    // Multipliers are arguments of kernels that run anyway, except that of the logits.
    let spec = ModelSpec { residual_scale: 0.22, embed_scale: 12.0, logit_divisor: 8.0, ..base() };
    assert_eq!(launches(&spec, Encoding::F32, 5).1, joined(&["embed_f32", layer, layer, "matvec_f32 scale"]));
    // The decode kernel and the matrix kernels handle norms of heads, biases and layers without RoPE.
    let spec = ModelSpec { qk_norm: QkNorm::Head, qkv_bias: true, no_rope_layers: vec![1], ..base() };
    assert_eq!(launches(&spec, Encoding::F32, 5).1, joined(&["embed_f32", layer, layer, "matvec_f32"]));
}

#[test]
fn a_tap_sees_every_operation_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &base(), Encoding::F16), &device);
    device.take();
    trace(&mut engine, &[1], KvType::F16).unwrap();
    let kernels = device.kernels();
    assert_eq!(kernels[..6], ["embed_f16", "rms_norm", "matvec_f16", "rope", "rope", "decode_f16"]);
    assert!(!joined(&kernels).contains("norm_add"));
}

fn what(event: &Event) -> (&'static str, u64) {
    match event {
        Event::Allocate(bytes) => ("allocate", *bytes),
        Event::Free(bytes) => ("free", *bytes),
        Event::To(span) => ("to", span.bytes),
        Event::From(span) => ("from", span.bytes),
        Event::Begin(_, slot) => ("begin", *slot as u64),
        Event::End(slot) => ("end", *slot as u64),
        Event::Launch(_) => ("launch", 1),
        Event::Capture(_) => ("capture", 1),
        Event::Replay(launches) => ("replay", *launches as u64),
    }
}

#[test]
fn a_ring_is_stored_and_attended_a_few_tokens_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &gemma(), Encoding::F32), &device);
    let mut session = engine.session(2000, KvType::F32).unwrap();
    device.take();
    session.feed(&[1; 600], 600).unwrap();
    let rows: Vec<(&str, String)> = device
        .take()
        .iter()
        .filter_map(|event| match event {
            Event::Launch(Launch { kernel, args, .. })
                if kernel.starts_with("kv_") || kernel.starts_with("attention") =>
            {
                Some((*kernel, format!("{:?}", &args[5..7])))
            }
            _ => None,
        })
        .collect();
    let both = |offset: usize, rows: usize| {
        ["kv_store_f32", "attention_f32"].map(|kernel| (kernel, format!("[Int({offset}), Int({rows})]")))
    };
    let mut expected = [both(0, 256), both(256, 256), both(512, 88)].concat();
    // The second layer sees all positions; only its last token continues.
    expected.push(("kv_store_f32", "[Int(0), Int(600)]".into()));
    expected.push(("attention_f32", "[Int(599), Int(1)]".into()));
    assert_eq!(rows, expected);
}

#[test]
fn weights_go_there_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for tied_lm_head in [false, true] {
        let device = Recorder::new(ENOUGH);
        let spec = ModelSpec { tied_lm_head, ..base() };
        let path = write(folder.path(), &spec, Encoding::Q8);
        let engine = open(&path, &device);
        let file = engine.file();
        let mut events = device.take().into_iter();
        let Some(Event::Allocate(all)) = events.next() else { panic!("one allocation for all weights") };
        let sent: Vec<Span> =
            events.map(|event| if let Event::To(span) = event { span } else { panic!("{event:?}") }).collect();
        let mut ranges: Vec<_> = file.layout().tensors.iter().map(|t| t.range.clone()).collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup();
        assert_eq!(sent.iter().map(|s| s.bytes).sum::<u64>(), ranges.iter().map(|r| r.len() as u64).sum::<u64>());
        assert!(sent.iter().map(|s| s.bytes.next_multiple_of(256)).sum::<u64>() == all, "nothing is left over");
        // Every tensor's bytes are on the device.
        for range in ranges {
            let bytes = &file.bytes()[range];
            assert!(sent.iter().any(|span| device.bytes(*span) == bytes));
        }
        assert!(sent.windows(2).all(|pair| pair[0].address < pair[1].address), "one pass");
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_both_figures() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &base(), Encoding::F32);
    let file = Arc::new(NsvFile::open(&path).unwrap());
    let small = Recorder::new((96 << 20) + 100_000);
    let error = match Engine::with_backend(file, CudaBackend::new(small.clone(), 0)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it fits"),
    };
    assert_eq!(error, "2 layers of 2 on the GPU needs 0.3 MB, this process can get 0.1 MB (what the GPU has free)");
    assert!(small.take().is_empty(), "refused before anything was copied");
    // The weights fit, the context does not.
    let device = Recorder::new(98 << 20);
    let mut engine = open(&path, &device);
    let error = engine.session(4096, KvType::F32).unwrap_err();
    assert!(error.to_string().ends_with("(what the GPU has free)"), "{error}");
    let context = MemoryUse::Context { positions: 4096, element: 4 };
    assert!(matches!(&error, RuntimeError::Memory { what, limit: Limit::Device, .. } if *what == context), "{error}");
}

#[test]
fn all_memory_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &base(), Encoding::F16), &device);
    let weights = device.used();
    let mut after = Vec::new();
    for _ in 0..3 {
        let mut session = engine.session(400, KvType::F16).unwrap();
        session.feed(&[1; 300], 100).unwrap();
        for id in 0..5 {
            session.feed(&[id], 1).unwrap();
        }
        drop(session);
        after.push(device.used());
    }
    assert!(after[0] > weights && after[0] == after[2], "what sessions share stays, and does not grow: {after:?}");
    drop(engine);
    assert_eq!(device.used(), 0);
}

/// A RoPE that depends on the capacity has a table for each capacity; old tables are freed.
#[test]
fn tables_of_angles_do_not_pile_up() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let scaling = RopeScaling::Dynamic { factor: 2.0, original_context: 16 };
    let spec = ModelSpec { rope: Rope { scaling, ..base().rope }, ..base() };
    let mut engine = open(&write(folder.path(), &spec, Encoding::F16), &device);
    let mut used = Vec::new();
    for capacity in 17..57 {
        let mut session = engine.session(capacity, KvType::F16).unwrap();
        session.feed(&[1; 9], 9).unwrap();
        for id in 0..4 {
            session.feed(&[id], 1).unwrap();
        }
        drop(session);
        used.push(device.used());
    }
    assert!(used[4] > used[0], "each length has a table of its own: {used:?}");
    assert_eq!(used[20..], [used[20]; 20]);
}

#[test]
fn a_failing_device_ends_the_step_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &base(), Encoding::F16), &device);
    let mut session = engine.session(400, KvType::F16).unwrap();
    for call in ["allocate", "copy_to", "launch", "copy_from"] {
        device.fail(call);
        let error = session.feed(&[1, 2, 3], 3).unwrap_err().to_string();
        assert_eq!(error, format!("{call} failed on the GPU: as asked"));
        assert_eq!(session.len(), 0, "{call}");
    }
    session.feed(&[1, 2, 3], 3).unwrap();
    assert_eq!(session.len(), 3);
}

#[test]
fn keys_and_values_come_back_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let path = write(folder.path(), &gemma(), Encoding::F16);
    let mut engine = open(&path, &device);
    let file = NsvFile::open(&path).unwrap();
    let kind = engine.backend().kind();
    let kept = folder.path().join("prompt.kv");
    let mut session = engine.session(400, KvType::F16).unwrap();
    session.feed(&[1; 40], 40).unwrap();
    nanoserve_runtime::engine::prompt_cache::save(&session, &kept, KvType::F16, None).unwrap();
    drop(session);
    let read = |kind| nanoserve_runtime::engine::prompt_cache::PromptCache::read(&kept, &file, KvType::F16, kind, None);
    let mut session = engine.session(400, KvType::F16).unwrap();
    read(kind).unwrap().unwrap().restore(&mut session).unwrap();
    assert_eq!(session.len(), 40);
    let error = read(nanoserve_runtime::backend::BackendKind::Cpu).unwrap_err().to_string();
    assert!(error.contains("is of a run on the GPU, this is the CPU"), "{error}");
}

fn split(path: &Path, device: &Recorder, first_layer: usize) -> Engine<Split<Recorder>> {
    let cpu = CpuBackend::new(isa::choose(None).unwrap(), Arc::new(Pool::new(1).unwrap()));
    Engine::with_backend(Arc::new(NsvFile::open(path).unwrap()), Split::new(cpu, device.clone(), first_layer)).unwrap()
}

#[test]
fn the_residual_stream_alone_crosses_once_a_step() {
    let folder = tempfile::tempdir().unwrap();
    for spec in [base(), gemma(), olmo()] {
        let path = write(folder.path(), &spec, Encoding::F16);
        let device = Recorder::new(ENOUGH);
        let mut engine = split(&path, &device, 1);
        let mut session = engine.session(400, KvType::F16).unwrap();
        device.take();
        session.feed(&[1; 7], 7).unwrap();
        let crossed = |events: Vec<Event>| -> Vec<(&'static str, u64)> {
            // Ignores the step, the RoPE tables and zeroed memory.
            let small =
                |event: &Event| matches!(event, Event::To(span) if span.bytes <= 16 || span.bytes == 256 * 8 * 4);
            events.iter().filter(|e| matches!(e, Event::To(_) | Event::From(_)) && !small(e)).map(what).collect()
        };
        assert_eq!(crossed(device.take()), [("to", 7 * 64 * 4), ("from", 50 * 4)]);
        // As long as nothing changes, one token is a graph, too.
        for id in 0..3 {
            session.feed(&[id], 1).unwrap();
        }
        let events = device.take();
        assert!(matches!(events[events.len() - 2], Event::Replay(_)), "{events:?}");
        session.feed(&[3], 1).unwrap();
        assert_eq!(crossed(device.take()), [("to", 64 * 4), ("from", 50 * 4)]);
    }
}

#[test]
fn a_split_model_takes_the_memory_of_its_layers() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &base(), Encoding::F32);
    let used = |first| {
        let device = Recorder::new(ENOUGH);
        let engine = split(&path, &device, first);
        let used = device.used();
        drop(engine);
        assert_eq!(device.used(), 0);
        used
    };
    let file = NsvFile::open(&path).unwrap();
    let bytes = |of: &str| -> u64 {
        let held = file.layout().tensors.iter().filter(|t| t.name.starts_with(of));
        held.map(|t| (t.range.len() as u64).next_multiple_of(256)).sum()
    };
    assert_eq!(used(2), bytes("final_norm") + bytes("lm_head"));
    assert_eq!(used(1), used(2) + bytes("layers.1."));
    assert_eq!(used(0), used(1) + bytes("layers.0.") + bytes("embed"));
    // Keys and values are checked for each side by itself.
    let device = Recorder::new((96 << 20) + used(1) + 100_000);
    let error = split(&path, &device, 1).session(4096, KvType::F32).unwrap_err().to_string();
    assert!(
        error.starts_with("keys and values of the layers on the GPU needs 1.0 MB, this process can get 0.1 MB"),
        "{error}"
    );
}

#[test]
fn a_split_session_comes_back_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let path = write(folder.path(), &base(), Encoding::F16);
    let mut engine = split(&path, &device, 1);
    let (file, kept) = (NsvFile::open(&path).unwrap(), folder.path().join("prompt.kv"));
    let mut session = engine.session(64, KvType::F16).unwrap();
    session.feed(&[1; 40], 40).unwrap();
    nanoserve_runtime::engine::prompt_cache::save(&session, &kept, KvType::F16, None).unwrap();
    assert_eq!(session.truncate(0), 0);
    let kind = session.engine().backend().kind();
    let read = |kind| nanoserve_runtime::engine::prompt_cache::PromptCache::read(&kept, &file, KvType::F16, kind, None);
    read(kind).unwrap().unwrap().restore(&mut session).unwrap();
    assert_eq!(session.len(), 40);
    let error = read(nanoserve_runtime::backend::BackendKind::Cuda(0)).unwrap_err().to_string();
    assert!(error.contains("a run on 1 layers on the CPU and the rest on the GPU, this is the GPU"), "{error}");
}

#[test]
fn the_likeliest_tokens_are_all_that_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &base(), Encoding::F16), &device);
    let mut session = engine.session(64, KvType::F16).unwrap();
    for (top, kernel, bytes) in [(1, "argmax", 8), (40, "top_candidates", 320)] {
        session.feed_for(&[1], 1, Wants::Top(top)).unwrap();
        let events = device.take();
        assert_eq!(events.last().map(what), Some(("from", bytes)));
        let launched = |e: &Event| matches!(e, Event::Launch(launch) if launch.kernel == kernel);
        assert!(launched(&events[events.len() - 2]), "{events:?}");
    }
    // Asking for more than there are gives all.
    session.feed_for(&[1], 1, Wants::Top(200)).unwrap();
    assert_eq!(device.take().last().map(what), Some(("from", 8 * 50)));
}

/// The next token's step starts without waiting for the token. Here the device always returns token 0.
#[test]
fn the_next_step_is_queued_before_a_token_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &base(), Encoding::F16), &device);
    let mut session = engine.session(64, KvType::F16).unwrap();
    session.feed(&[1; 5], 5).unwrap();
    session.feed_ahead(2, true).unwrap();
    device.take();
    let events = |device: &Recorder| -> Vec<(&'static str, u64)> { device.take().iter().map(what).collect() };
    let ahead = |slot| [("replay", 12), ("launch", 1), ("begin", slot)];
    for turn in 0..4 {
        assert_eq!(session.feed_ahead(0, true).unwrap(), Logits::Top(vec![(0, 0.0)]));
        // The step after the awaited one; nothing is allocated, and nothing is copied to the device.
        assert_eq!(events(&device), [&ahead((turn + 1) % 2)[..], &[("end", turn % 2)]].concat(), "{turn}");
        assert_eq!((session.len(), session.ids().len()), (7 + turn as usize, 7 + turn as usize));
    }
    // The last one starts no further step.
    session.feed_ahead(0, false).unwrap();
    assert_eq!(events(&device), [("end", 0)]);
    // A token other than the likeliest runs its own step, which replaces the one started early.
    session.feed_ahead(0, true).unwrap();
    device.take();
    session.feed_ahead(3, false).unwrap();
    assert_eq!(events(&device), [("to", 12), ("replay", 12), ("launch", 1), ("begin", 1), ("end", 1)]);
    assert_eq!(session.ids()[11..], [0, 3]);
    // Anything else that is done discards the step started early.
    session.feed_ahead(0, true).unwrap();
    session.feed(&[0], 1).unwrap();
    assert_eq!((session.len(), session.ids().len()), (15, 15));
    session.feed_ahead(0, true).unwrap();
    assert_eq!(session.truncate(16), 16);
    device.take();
    session.feed_ahead(0, false).unwrap();
    assert!(events(&device).contains(&("replay", 12)));
}

/// The loop over an answer leaves what was begun alone: no step runs twice, and no token goes there.
#[test]
fn a_greedy_answer_runs_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &base(), Encoding::F16), &device);
    let mut session = engine.session(64, KvType::F16).unwrap();
    let sampling = changed!(SamplingOptions { temperature: 0.0, ..SamplingOptions::default() });
    let options =
        changed!(GenerateOptions { max_tokens: Some(6), sampling, hash: false, ..GenerateOptions::default() });
    let ran = session.prompt(&[1; 5], 5, &mut || true).unwrap();
    device.take();
    let made = session.generate_after(&ran, &options, None, &mut |_| true).unwrap();
    assert_eq!(made.ids, [0; 6]);
    let events = device.take();
    // Five steps, the second of which is begun with the first; the last begins none.
    let count = |event: &dyn Fn((&str, u64)) -> bool| events.iter().map(what).filter(|e| event(*e)).count();
    let named = |name| count(&|event| event.0 == name);
    // The first step and its token are sent together; what else is sent zeroes new memory.
    assert_eq!([named("begin"), named("end"), count(&|event| event == ("to", 12))], [5, 5, 1], "{events:?}");
}

#[test]
fn no_step_is_begun_behind_the_context() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &base(), Encoding::F16), &device);
    let mut session = engine.session(8, KvType::F16).unwrap();
    session.feed(&[1; 5], 5).unwrap();
    (0..3).for_each(|_| _ = session.feed_ahead(0, true).unwrap());
    assert_eq!(session.len(), 8);
    assert!(matches!(session.feed_ahead(0, true), Err(RuntimeError::PromptTooLong { got: 1, room: 0, .. })));
}

#[test]
fn a_step_that_was_begun_may_fail() {
    let folder = tempfile::tempdir().unwrap();
    let device = Recorder::new(ENOUGH);
    let mut engine = open(&write(folder.path(), &base(), Encoding::F16), &device);
    let mut session = engine.session(64, KvType::F16).unwrap();
    session.feed(&[1; 5], 5).unwrap();
    (0..3).for_each(|_| _ = session.feed_ahead(0, true).unwrap());
    for call in ["launch", "replay", "begin_copy_from", "end_copy_from"] {
        device.fail(call);
        let error = session.feed_ahead(0, true).unwrap_err().to_string();
        assert_eq!(error, format!("{call} failed on the GPU: as asked"));
        assert_eq!(session.len(), session.ids().len(), "{call}");
        device.take();
        // The step is sent again, because the device's copy is unknown.
        session.feed_ahead(0, true).unwrap();
        assert!(device.take().iter().any(|event| what(event) == ("to", 12)), "{call}");
    }
}

#[test]
fn what_a_gpu_can_do_is_measured() {
    // The measured copy takes a quarter of this.
    let device = Recorder::new(16 << 20);
    let limits = Limits::of_device(&device).unwrap();
    assert!(limits.read_gb_s > 0.0 && limits.tensor_gmac_s.is_some_and(|rate| rate.is_finite()));
    assert!(limits.gmac_s(Encoding::F16) == limits.tensor_gmac_s && limits.gmac_s(Encoding::F32).is_none());
    let launches: Vec<Launch> = device
        .take()
        .into_iter()
        .filter_map(|event| if let Event::Launch(launch) = event { Some(launch) } else { None })
        .collect();
    assert!(launches.len() == 96 && launches.iter().all(|launch| launch.grid == [264, 1, 1]));
    assert_eq!(device.used(), 0);
}
