//! Kernels with one broken lane are found, named, and told apart.

use super::{Mutant, pool};
use nanoserve_format::{Activation, Encoding, ModelSpec, NsvFile, Window};
use nanoserve_runtime::KvType;
use nanoserve_runtime::cpu::isa::{
    self, AttendJob, BytesTile, FloatTile, Kernels, MatrixKernel, MatrixRun, MatrixTile,
};
use nanoserve_runtime::diagnose::bisect::{self, At, Finding};
use nanoserve_tests::{ENCODINGS, random_tensors, write_tensors};
use std::sync::Arc;

/// The table to break: the fastest, or the scalar one if the machine has no other.
fn fast() -> &'static Kernels {
    isa::choose(None).unwrap()
}

fn touch(x: &mut f32) {
    *x = f32::from_bits(x.to_bits() ^ 1);
}

/// Runs a kernel that takes bytes.
fn in_bytes(kernel: &MatrixKernel, panels: [&[u8]; 2], x: BytesTile, out: &mut MatrixTile) {
    let MatrixRun::Bytes32(run) = kernel.run else { panic!("{kernel:?} takes floats") };
    run(panels, x, out);
}

/// Runs a kernel that takes floats.
fn in_floats(kernel: &MatrixKernel, panels: [&[u8]; 2], x: FloatTile, out: &mut MatrixTile) {
    let MatrixRun::Float(run) = kernel.run else { panic!("{kernel:?} takes bytes") };
    run(panels, x, out);
}

fn attend_and_touch(kernel: fn(AttendJob), job: AttendJob) {
    let AttendJob { out, head_dim, .. } = job;
    kernel(AttendJob { out: &mut *out, ..job });
    touch(&mut out[head_dim - 1]);
}

/// A kernel's name, a function that breaks one lane of it in the last bit, the component that first shows it, and a
/// row.
type Broken = (&'static str, fn(&mut Kernels), &'static str, usize);

/// Broken kernels for a model in q8 with keys and values in f16.
const BROKEN_Q8: [Broken; 7] = [
    (
        "rms_norm",
        |k| {
            k.rms_norm = |x, w, eps, out| {
                (fast().rms_norm)(x, w, eps, out);
                touch(&mut out[7]);
            }
        },
        "layers.0.attn_norm",
        7,
    ),
    (
        "quantize",
        |k| {
            k.quantize = |x, bytes, scales| {
                (fast().quantize)(x, bytes, scales);
                bytes[3] ^= 1;
            }
        },
        "layers.0.attn.q_plain",
        0,
    ),
    (
        "matrix_q8",
        |k| {
            k.matrix_q8.run = MatrixRun::Bytes32(|panels, x, out| {
                in_bytes(&fast().matrix_q8, panels, x, out);
                out[..x.tokens].iter_mut().for_each(|row| touch(&mut row[21]));
            })
        },
        "layers.0.attn.q_plain",
        // Of 64 rows, the first and the third panel form a pair: this is lane 5 of the second one of the pair.
        37,
    ),
    (
        "rope",
        |k| {
            k.rope = |head, cos, sin| {
                (fast().rope)(head, cos, sin);
                touch(&mut head[2]);
            }
        },
        "layers.0.attn.q",
        2,
    ),
    ("attend_f16", |k| k.attend_f16 = |job| attend_and_touch(fast().attend_f16, job), "layers.0.attn.mix", 15),
    (
        "add",
        |k| {
            k.add = |x, y| {
                (fast().add)(x, y);
                touch(&mut x[4]);
            }
        },
        "layers.0.mid",
        4,
    ),
    (
        "silu_mul",
        |k| {
            k.silu_mul = |gate, up| {
                (fast().silu_mul)(gate, up);
                touch(&mut gate[9]);
            }
        },
        "layers.0.mlp.gated",
        9,
    ),
];

const BROKEN_F16: [Broken; 1] = [(
    "matrix_f16",
    |k| {
        k.matrix_f16.run = MatrixRun::Float(|panels, x, out| {
            in_floats(&fast().matrix_f16, panels, x, out);
            out[..x.tokens].iter_mut().for_each(|row| touch(&mut row[0]));
        })
    },
    "layers.0.attn.q_plain",
    0,
)];

const BROKEN_F32: [Broken; 2] = [
    (
        "matrix_f32",
        |k| {
            k.matrix_f32.run = MatrixRun::Float(|panels, x, out| {
                in_floats(&fast().matrix_f32, panels, x, out);
                out[..x.tokens].iter_mut().for_each(|row| touch(&mut row[31]));
            })
        },
        "layers.0.attn.q_plain",
        47,
    ),
    ("attend_f32", |k| k.attend_f32 = |job| attend_and_touch(fast().attend_f32, job), "layers.0.attn.mix", 15),
];

/// Broken kernels for models with other switches.
const BROKEN_OTHERS: [Broken; 3] = [
    (
        "scale",
        |k| {
            k.scale = |x, factor| {
                (fast().scale)(x, factor);
                touch(&mut x[8]);
            }
        },
        "embed",
        8,
    ),
    (
        "gelu_mul",
        |k| {
            k.gelu_mul = |gate, up| {
                (fast().gelu_mul)(gate, up);
                touch(&mut gate[5]);
            }
        },
        "layers.0.mlp.gated",
        5,
    ),
    (
        "softcap",
        |k| {
            k.softcap = |x, cap| {
                (fast().softcap)(x, cap);
                touch(&mut x[90]);
            }
        },
        "logits",
        90,
    ),
];

#[test]
fn a_broken_lane_of_what_other_models_need() {
    let spec = ModelSpec {
        activation: Activation::GeluTanh,
        embed_scale: 3.5,
        logit_softcap: Some(20.0),
        window: Some(Window { size: 9, layers: vec![0], rope: None }),
        ..super::switches::base()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = write_tensors(&spec, &random_tensors(&spec), Encoding::Q8, folder.path());
    let file = Arc::new(NsvFile::open(path).unwrap());
    let ids = bisect::some_ids(&spec);
    assert_eq!(bisect::kernels(&file, &pool(), &isa::available(), KvType::F16, &ids).unwrap(), []);
    for (name, break_it, component, row) in BROKEN_OTHERS {
        let mut kernels = *fast();
        break_it(&mut kernels);
        let found = bisect::kernels(&file, &pool(), &[&kernels], KvType::F16, &ids).unwrap();
        let [f] = found.as_slice() else { panic!("{name}: {found:?}") };
        assert_eq!((f.blame.as_str(), f.component.as_str(), f.at.unwrap().row), (name, component, row));
    }
}

/// The findings with these kernels in a file with this encoding.
fn searched(encoding: Encoding, kv: KvType, kernels: &Kernels) -> Vec<Finding> {
    let mutant = Mutant::of("untied-mha");
    let file = Arc::new(NsvFile::open(mutant.path(encoding)).unwrap());
    let found = bisect::kernels(&file, &pool(), &[kernels], kv, &mutant.reference.input_ids[..36]).unwrap();
    found.iter().for_each(|f| println!("{encoding}: {f:?}"));
    found
}

#[test]
fn a_broken_lane() {
    for (encoding, kv, all) in [
        (Encoding::Q8, KvType::F16, &BROKEN_Q8[..]),
        (Encoding::F16, KvType::F16, &BROKEN_F16),
        (Encoding::F32, KvType::F32, &BROKEN_F32),
    ] {
        for (name, break_it, component, row) in all {
            let mut kernels = *fast();
            break_it(&mut kernels);
            let found = searched(encoding, kv, &kernels);
            let [f] = found.as_slice() else { panic!("{name}: {found:?}") };
            assert_eq!((f.blame.as_str(), f.component.as_str()), (*name, *component));
            // A wrong byte of an activation changes every row, by a bit or not at all.
            assert!(f.at == Some(At { position: 0, row: *row }) || *name == "quantize", "{name}: {f:?}");
            let path = format!("{}, the prompt whole, cache {}", fast().name, kv.name());
            assert_eq!(f.path.as_deref(), Some(path.as_str()), "{name}");
            if name.starts_with("matrix") {
                assert!(f.what.ends_with(&format!("lane {}", row % 16)), "{}", f.what);
            }
        }
    }
}

#[test]
fn several_broken_kernels_are_all_found() {
    let mut kernels = *fast();
    BROKEN_Q8.iter().for_each(|(_, break_it, ..)| break_it(&mut kernels));
    let blamed: Vec<String> = searched(Encoding::Q8, KvType::F16, &kernels).into_iter().map(|f| f.blame).collect();
    assert_eq!(blamed, BROKEN_Q8.map(|(name, ..)| name));
}

/// 36 tokens are whole tiles for every instruction set: a tile of one token occurs only token by token.
#[test]
fn a_kernel_for_one_token() {
    let mut kernels = *fast();
    kernels.matrix_q8.run = MatrixRun::Bytes32(|panels, x, out| {
        in_bytes(&fast().matrix_q8, panels, x, out);
        if x.tokens == 1 {
            touch(&mut out[0][6]);
        }
    });
    let found = searched(Encoding::Q8, KvType::F32, &kernels);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].blame.as_str(), found[0].component.as_str()), ("matrix_q8", "layers.0.attn.q_plain"));
    let path = format!("{}, token by token, cache f32", fast().name);
    assert_eq!((found[0].path.as_deref(), found[0].at), (Some(path.as_str()), Some(At { position: 0, row: 6 })));
}

#[test]
fn sound_kernels_are_blamed_for_nothing() {
    for name in ["untied-mha", "biases", "odd-sizes", "head-dim"] {
        let mutant = Mutant::of(name);
        for encoding in ENCODINGS {
            let file = Arc::new(NsvFile::open(mutant.path(encoding)).unwrap());
            for (_, kv) in KvType::ALL {
                let ids = bisect::some_ids(file.spec());
                assert!(ids.len() > 50);
                assert_eq!(bisect::kernels(&file, &pool(), &isa::available(), kv, &ids).unwrap(), [], "{name}");
            }
        }
    }
}
