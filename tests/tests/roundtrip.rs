//! Whatever is written is read back, and the same input gives the same bytes.

use half::f16;
use nanoserve_format::{
    Activation, Encoding, ModelSpec, NsvFile, QkNorm, Rope, RopeScaling, SectionKind, Shape, Window, q8, schema,
};
use nanoserve_tests::{SplitMix64, Tiny, convert_with, copy_folder, fixture, read_values, write_file};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// A row of a tensor, determined by its name and number: mostly normal values, with some zeros, tiny and large ones.
fn row(name: &str, row: usize, out: &mut [f32]) {
    let seed = name.bytes().fold(row as u64, |h, b| h.wrapping_mul(1_099_511_628_211).wrapping_add(b.into()));
    let mut random = SplitMix64::new(seed);
    let scale = [0.02, 1.0, 1e-7, 300.0][random.below(4)];
    for block in out.chunks_mut(q8::Q8_BLOCK) {
        let zero = random.below(8) == 0;
        block.fill_with(|| if zero || random.below(16) == 0 { 0.0 } else { scale * random.bell() });
    }
}

fn spec() -> impl Strategy<Value = ModelSpec> {
    let width = || prop::sample::select(vec![1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 72, 172]);
    let vocab = prop::sample::select(vec![1, 2, 15, 16, 17, 33, 331]);
    let heads = prop::sample::select(vec![(1, 1), (4, 4), (6, 3), (5, 1)]);
    let head_dim = prop::sample::select(vec![2, 4, 12, 16]);
    let scaling = prop_oneof![
        Just(RopeScaling::Default {}),
        (0.5f64..64.0).prop_map(|factor| RopeScaling::Linear { factor }),
        (1.0f64..64.0, 0.1f64..2.0, 1usize..10_000).prop_map(|(factor, low, original_context)| {
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: low * 4.0, original_context }
        }),
    ];
    let numbers = (1usize..100_000, 0.0f64..0.01, 1.0f64..1e6);
    let switches = any::<[bool; 4]>();
    (width(), width(), 1usize..4, heads, head_dim, vocab, scaling, numbers, switches).prop_map(
        |(hidden, ff, layers, (heads, kv), head_dim, vocab, scaling, (context, eps, theta), [a, b, c, tied])| {
            ModelSpec {
                hidden_size: hidden,
                intermediate_size: ff,
                n_layers: layers,
                n_heads: heads,
                n_kv_heads: kv,
                head_dim,
                vocab_size: vocab,
                context_length: context,
                norm_eps: eps,
                rope: Rope { theta, rotary_dim: None, scaling },
                qkv_bias: a,
                attn_out_bias: b,
                mlp_bias: c,
                tied_lm_head: tied,
                ..ModelSpec::default()
            }
        },
    )
}

/// Descriptions with switches that Llama does not have.
fn other_spec() -> impl Strategy<Value = ModelSpec> {
    let norms = prop::sample::select(vec![(true, false), (true, true), (false, true)]);
    let qk_norm = prop::sample::select(vec![QkNorm::None, QkNorm::Head, QkNorm::Projection]);
    let number = || prop::option::of(0.01f64..100.0);
    let numbers = (number(), number(), number(), 0.1f64..20.0, 0.1f64..2.0, 0.1f64..20.0);
    let (window, gelu, rope) = (prop::option::of((1usize..5000, any::<bool>())), any::<bool>(), 0..4);
    (spec(), norms, qk_norm, numbers, window, gelu, rope, any::<bool>()).prop_map(
        |(spec, (pre_norm, post_norm), qk_norm, numbers, window, gelu, rope, still)| {
            let (attn_scale, attn_softcap, logit_softcap, embed_scale, residual_scale, logit_divisor) = numbers;
            let rotary_dim = (spec.head_dim > 4).then(|| spec.head_dim - 4);
            let pairs = rotary_dim.unwrap_or(spec.head_dim) / 2;
            let (factor, original_context, attention_factor) = (embed_scale + 1.0, 1 + pairs * 7, residual_scale);
            let scaling = match rope {
                0 => spec.rope.scaling.clone(),
                1 => RopeScaling::Yarn {
                    factor,
                    original_context,
                    beta_fast: 32.0,
                    beta_slow: 1.5,
                    truncate: gelu,
                    attention_factor,
                },
                2 if pairs > 1 => RopeScaling::Dynamic { factor, original_context },
                _ => RopeScaling::LongRope {
                    short_factor: (0..pairs).map(|j| 1.0 + j as f64 / 3.0).collect(),
                    long_factor: (0..pairs).map(|j| 1.0 + j as f64).collect(),
                    original_context,
                    attention_factor,
                },
            };
            let rope = Rope { theta: spec.rope.theta + 1.5, rotary_dim, scaling };
            let window = window.map(|(size, own)| Window {
                size,
                layers: (0..spec.n_layers).step_by(2).collect(),
                rope: own.then(|| Rope { rotary_dim: None, scaling: RopeScaling::Default {}, ..rope.clone() }),
            });
            let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
            let no_rope_layers = if still { vec![spec.n_layers - 1] } else { vec![] };
            ModelSpec {
                pre_norm,
                post_norm,
                qk_norm,
                attn_scale,
                attn_softcap,
                logit_softcap,
                embed_scale,
                residual_scale,
                logit_divisor,
                window,
                activation,
                no_rope_layers,
                rope,
                ..spec
            }
        },
    )
}

fn sections() -> impl Strategy<Value = Vec<(SectionKind, Vec<u8>)>> {
    let optional: Vec<SectionKind> =
        SectionKind::ALL.into_iter().filter(|k| !k.required() && *k != SectionKind::Chunks).collect();
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    prop::sample::subsequence(optional.clone(), 0..=optional.len())
        .prop_flat_map(move |kinds| kinds.into_iter().map(|k| (Just(k), bytes())).collect::<Vec<_>>())
}

/// Compares every value of the file with the row it was made from.
fn check_values(file: &NsvFile) {
    for (name, shape) in schema::tensors(file.spec()) {
        let view = file.tensor(&name).unwrap();
        assert_eq!(view.shape, shape, "{name}");
        // The head of a tied model is the embedding.
        let tied = file.spec().tied_lm_head && name == schema::LM_HEAD;
        let made_as = if tied { schema::EMBED } else { &name };
        let cols = *shape.dims().last().unwrap();
        let mut expected = vec![0.0; cols];
        for (r, got) in read_values(view).chunks(cols).enumerate() {
            row(made_as, r, &mut expected);
            for (block, (got, x)) in got.chunks(q8::Q8_BLOCK).zip(expected.chunks(q8::Q8_BLOCK)).enumerate() {
                let scale = q8::scale(x.iter().fold(0.0, |m, x| x.abs().max(m))).unwrap().to_f64();
                let step = view.encoding.steps(&expected).nth(block).unwrap();
                for (got, &x) in got.iter().zip(x) {
                    let right = match (shape, view.encoding) {
                        (Shape::Vector(_), _) | (_, Encoding::F32) => got.to_bits() == x.to_bits(),
                        (_, Encoding::F16) => got.to_bits() == f16::from_f32(x).to_f32().to_bits(),
                        (_, Encoding::Q8) => (f64::from(*got) - f64::from(x)).abs() <= 0.500_001 * scale,
                        (_, Encoding::Codes(_)) => (f64::from(*got) - f64::from(x)).abs() <= 0.5 * step,
                    };
                    assert!(right, "{name} row {r} block {block}: {got} of {x}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_value_and_section_comes_back(
        spec in prop_oneof![spec(), other_spec()],
        encoding in prop::sample::select(Encoding::ALL.to_vec()),
        sections in sections(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.nsv");
        write_file(&path, &spec, encoding, &sections, &row);
        let file = NsvFile::open(&path).unwrap();
        prop_assert_eq!(file.spec(), &spec);
        prop_assert_eq!(file.layout().sections.len(), 2 + sections.len());
        for kind in SectionKind::ALL.into_iter().filter(|k| !k.required() && *k != SectionKind::Chunks) {
            let expected = sections.iter().find(|s| s.0 == kind).map(|s| s.1.as_slice());
            prop_assert_eq!(file.section(kind).unwrap(), expected);
        }
        check_values(&file);
        prop_assert!(file.check().is_empty());
        let bytes: usize = file.layout().tensors.iter().filter(|t| t.alias_of.is_none()).map(|t| t.range.len()).sum();
        prop_assert_eq!(file.layout().weight_bytes(), bytes as u64);
        // Nothing else is left in the folder.
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

/// Runs `work` in a pool of this many threads.
fn on_threads(threads: usize, work: impl FnOnce() + Send) {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work);
}

#[test]
fn the_writer_gives_the_same_bytes_on_any_threads() {
    let spec = ModelSpec {
        hidden_size: 72,
        intermediate_size: 172,
        n_layers: 2,
        n_heads: 6,
        n_kv_heads: 3,
        head_dim: 12,
        vocab_size: 40_001,
        ..ModelSpec::default()
    };
    for encoding in Encoding::CHOICES {
        let mut first = None;
        for threads in [1, 2, 5] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(format!("{threads}.nsv"));
            on_threads(threads, || write_file(&path, &spec, encoding, &[(SectionKind::Tokenizer, vec![7])], &row));
            let bytes = fs::read(&path).unwrap();
            assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{encoding} on {threads} threads");
        }
    }
}

fn same_conversion(source: &Path) {
    for encoding in Encoding::CHOICES {
        let mut first = None;
        for threads in [1, 2, 5] {
            let folder = tempfile::tempdir().unwrap();
            // A folder with another name, whose files were made in another order at another time.
            let copy = folder.path().join(format!("copy-{threads}"));
            copy_folder(source, &copy);
            let out = folder.path().join(format!("out-{threads}.nsv"));
            convert_with(&copy, encoding, &out, Some(threads));
            let bytes = fs::read(&out).unwrap();
            for word in [folder.path().to_str().unwrap(), "copy-"] {
                let found = bytes.windows(word.len()).any(|w| w == word.as_bytes());
                assert!(!found, "{} {encoding}: the file holds a path", source.display());
            }
            let same = *first.get_or_insert_with(|| bytes.clone()) == bytes;
            assert!(same, "{} {encoding} on {threads} threads", source.display());
        }
    }
}

#[test]
fn a_conversion_gives_the_same_bytes_anywhere() {
    same_conversion(&fixture("tied-llama3").path);
    same_conversion(&fixture("sharded").path);
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { vocab: 9001, hidden: 104, intermediate: 172, attention_bias: true, ..Tiny::default() };
    tiny.write(&folder.path().join("tiny"));
    same_conversion(&folder.path().join("tiny"));
}
