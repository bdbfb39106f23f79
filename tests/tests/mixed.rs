//! Files whose matrices have several encodings: written, read, and run on every backend.

use nanoserve_format::{Encoding, ModelSpec, NsvFile, PANEL_ROWS, Recipe, Role, Shape, panel, schema};
use nanoserve_runtime::Engine;
use nanoserve_runtime::KvType;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::cuda::CudaBackend;
use nanoserve_runtime::diagnose::{bisect, selftest, verify};
use nanoserve_tests::emulator::Emulator;
use nanoserve_tests::{Tensors, decoded_f32, engine, for_each_isa, max_abs_diff, random_tensors, write_tensors};
use std::path::Path;
use std::sync::Arc;

/// Number of tokens: more than one tile, with a remainder for each tile size.
const TOKENS: usize = 29;

/// Two superblocks and a remainder of columns; three panels and a remainder of rows.
fn spec() -> ModelSpec {
    ModelSpec {
        hidden_size: 136,
        intermediate_size: 200,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 14,
        vocab_size: 90,
        context_length: 64,
        qkv_bias: true,
        mlp_bias: true,
        ..ModelSpec::default()
    }
}

/// Recipes with common mixes, and one in which no two roles that share an input share an encoding.
fn recipes() -> [Recipe; 3] {
    let [f32, f16, q8] = [Encoding::F32, Encoding::F16, Encoding::Q8];
    let common = Recipe::uniform(q8).with(Role::Embedding, f16).with(Role::Head, f16);
    let every = Recipe::uniform(f16).with(Role::Q, q8).with(Role::V, f32).with(Role::Gate, q8).with(Role::Down, q8);
    let other = Recipe::uniform(q8).with(Role::K, f16).with(Role::O, f16).with(Role::Up, f32).with(Role::Head, f32);
    [common, every, other]
}

fn ids() -> Vec<u32> {
    (0..TOKENS as u32).map(|i| i * 37 % 90).collect()
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

/// Calls `see` with a model of each recipe, in a folder of its own.
fn each_recipe(see: impl Fn(Recipe, &Path, &Tensors)) {
    let (spec, folder) = (spec(), tempfile::tempdir().unwrap());
    let tensors = random_tensors(&spec);
    for recipe in recipes() {
        see(recipe, &write_tensors(&spec, &tensors, recipe, folder.path()), &tensors);
    }
}

#[test]
fn every_matrix_has_the_encoding_of_its_role() {
    each_recipe(|recipe, path, tensors| {
        let file = NsvFile::open(path).unwrap();
        assert!(file.check().is_empty());
        assert_eq!(file.layout().recipe(), recipe);
        let used: Vec<Encoding> = file.layout().encodings().iter().collect();
        assert!(used.len() > 1 && used.iter().all(|e| Role::ALL.iter().any(|r| recipe.encoding(*r) == *e)), "{used:?}");
        for (name, shape) in schema::tensors(file.spec()) {
            let view = file.tensor(&name).unwrap();
            let Shape::Matrix(_, cols) = shape else {
                assert_eq!(view.encoding, Encoding::F32, "{name}");
                continue;
            };
            assert_eq!(view.encoding, recipe.encoding(Role::of(&name).unwrap()), "{name}");
            // The first panel must be these rows in this encoding.
            let mut expected = vec![0; view.encoding.panel_bytes(cols).unwrap()];
            panel::pack(view.encoding, cols, &tensors[&name][..PANEL_ROWS * cols], &mut expected).unwrap();
            assert!(view.bytes[..expected.len()] == expected, "{name}");
        }
    });
}

/// The head of a tied model is its embedding, whatever a recipe says.
#[test]
fn a_tied_head_has_the_embeddings_encoding() {
    let (spec, folder) = (ModelSpec { tied_lm_head: true, ..spec() }, tempfile::tempdir().unwrap());
    let recipe = Recipe::uniform(Encoding::Q8).with(Role::Embedding, Encoding::F16).with(Role::Head, Encoding::F32);
    let path = write_tensors(&spec, &random_tensors(&spec), recipe, folder.path());
    let file = NsvFile::open(path).unwrap();
    assert_eq!(file.layout().recipe(), recipe.with(Role::Head, Encoding::F16));
    assert_eq!(file.layout().encodings().to_string(), "f16+q8");
}

/// One step, chunks and single tokens, on every instruction set and some numbers of threads, give the bits of the
/// scalar kernels. These are close to those of the same weights in f32, so no matrix was read in another's encoding.
#[test]
fn every_instruction_set_computes_the_same_bits() {
    each_recipe(|recipe, path, _| {
        let (ids, decoded) = (ids(), path.with_extension("decoded.nsv"));
        decoded_f32(path, &decoded);
        let logits = |path: &Path, kernels, threads| {
            let mut engine = engine(path, kernels, threads);
            verify::trace(&mut engine, &ids, KvType::F16).unwrap().pop().unwrap().1
        };
        let plain = isa::available()[0];
        let (expected, exact) = (logits(path, plain, 1), logits(&decoded, plain, 1));
        // Only the rounding of activations to bytes differs. A wrong matrix would change logits by 1 or more.
        let (off, largest) = (max_abs_diff(&expected, &exact), exact.iter().fold(0f32, |m, x| m.max(x.abs())));
        assert!(off > 0.0 && off < 0.05 * f64::from(largest), "{recipe}: {off} of {largest}");
        for_each_isa(|kernels| {
            for threads in [1, 3] {
                let what = format!("{recipe}, {}, {threads} threads", kernels.name);
                assert_eq!(bits(&logits(path, kernels, threads)), bits(&expected), "{what}");
                let mut engine = engine(path, kernels, threads);
                let mut session = engine.session(ids.len(), KvType::F16).unwrap();
                for chunk in [1, 5] {
                    assert_eq!(session.truncate(0), 0);
                    for (i, part) in ids.chunks(chunk).enumerate() {
                        let last = i * chunk + part.len() - 1;
                        let got = session.feed(part, chunk).unwrap();
                        assert_eq!(
                            bits(&got),
                            bits(&expected[last * 90..(last + 1) * 90]),
                            "{what}, chunks of {chunk}"
                        );
                    }
                }
            }
        });
    });
}

/// On emulated CUDA kernels, results are within the tolerance of the loosest encoding. Without g++, says so and skips.
#[test]
fn emulated_kernels_agree_with_the_cpu() {
    each_recipe(|recipe, path, _| {
        let (ids, file) = (ids(), Arc::new(NsvFile::open(path).unwrap()));
        let mut cpu = engine(path, isa::choose(None).unwrap(), 1);
        let expected = cpu.session(64, KvType::F32).unwrap().feed_all(&ids).unwrap();
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let encodings = file.layout().encodings();
        let allowed = encodings.iter().map(|e| selftest::device_tolerance(e, KvType::F32)).fold(0.0, f64::max);
        let allowed = allowed * f64::from(largest);
        for fused in [true, false] {
            let Some(device) = Emulator::new() else { return };
            let backend = CudaBackend::new(device, 0);
            let backend = if fused { backend } else { backend.unfused() };
            let mut gpu = Engine::with_backend(file.clone(), backend).unwrap();
            let mut session = gpu.session(64, KvType::F32).unwrap();
            let mut got = session.feed_all(&ids[..20]).unwrap();
            got.extend(ids[20..].iter().flat_map(|&id| session.feed(&[id], 1).unwrap()));
            let off = max_abs_diff(&got, &expected);
            println!("{recipe}, fused {fused}: off by {off:.2e} of {largest:.2e}");
            assert!(off <= allowed, "{recipe}: off by {off:e}, allowed {allowed:e}");
        }
    });
}

/// A broken kernel is found through the one role that runs it.
#[test]
fn a_broken_kernel_of_one_role_is_found() {
    let (spec, folder) = (spec(), tempfile::tempdir().unwrap());
    let recipe = Recipe::uniform(Encoding::F32).with(Role::Up, Encoding::F16);
    let file = Arc::new(NsvFile::open(write_tensors(&spec, &random_tensors(&spec), recipe, folder.path())).unwrap());
    let pool = Arc::new(Pool::new(1).unwrap());
    let mut kernels = *isa::choose(None).unwrap();
    assert_eq!(bisect::kernels(&file, &pool, &[&kernels], KvType::F32, &ids()).unwrap(), []);
    kernels.matrix_f16.run = isa::MatrixRun::Float(|panels, x, out| {
        let isa::MatrixRun::Float(run) = isa::choose(None).unwrap().matrix_f16.run else { panic!() };
        run(panels, x, out);
        out[..x.tokens].iter_mut().for_each(|row| row[3] = f32::from_bits(row[3].to_bits() ^ 1));
    });
    let found = bisect::kernels(&file, &pool, &[&kernels], KvType::F32, &ids()).unwrap();
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((found.blame.as_str(), found.component.as_str()), ("matrix_f16", "layers.0.mlp.up"));
}
