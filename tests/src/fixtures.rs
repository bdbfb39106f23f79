//! The reference fixtures, and helpers to convert and open a model.

use crate::changed;
use nanoserve_converter::{Options, Report};
use nanoserve_format::{Codes, Encoding};
use nanoserve_runtime::cpu::CpuBackend;
use nanoserve_runtime::cpu::isa::{self, Kernels};
use nanoserve_runtime::diagnose::verify::Reference;
use nanoserve_runtime::{Engine, EngineOptions};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// An encoding for each kind of matrix kernel: floats, halves, bytes, codes.
pub const ENCODINGS: [Encoding; 4] = [Encoding::F32, Encoding::F16, Encoding::Q8, Encoding::Codes(Codes::Q4)];

/// Those of [`ENCODINGS`] that GPUs have kernels for, and whose rounding is so small that bisect finds the tests' faults.
pub const FINE_ENCODINGS: [Encoding; 3] = [Encoding::F32, Encoding::F16, Encoding::Q8];

/// A checkpoint with the results that transformers computes from it.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Its folder's name.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
}

impl Fixture {
    /// The results of transformers.
    pub fn reference(&self) -> Reference {
        Reference::read(&self.reference_path()).unwrap()
    }

    /// The path of its reference file.
    pub fn reference_path(&self) -> PathBuf {
        self.path.join("reference.safetensors")
    }

    /// Converts it into `folder`.
    pub fn convert(&self, encoding: Encoding, folder: &Path) -> PathBuf {
        let out = folder.join(format!("{}-{encoding}.nsv", self.name));
        convert(&self.path, encoding, &out);
        out
    }
}

/// Every folder of `tests/reference` that holds a reference, sorted by name.
pub fn fixtures() -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference");
    let mut all: Vec<Fixture> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("reference.safetensors").exists())
        .map(|entry| Fixture { name: entry.file_name().into_string().unwrap(), path: entry.path() })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The fixture with this name.
///
/// # Panics
/// When there is none.
pub fn fixture(name: &str) -> Fixture {
    fixtures().into_iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no fixture {name}"))
}

/// Converts a valid checkpoint.
pub fn convert(source: &Path, encoding: Encoding, output: &Path) -> Report {
    convert_with(source, encoding, output, None)
}

/// Like [`convert`], on this many threads.
///
/// # Panics
/// When the conversion fails.
pub fn convert_with(source: &Path, encoding: Encoding, output: &Path, threads: Option<usize>) -> Report {
    let mut options = Options::new(source, output, encoding);
    options.threads = threads;
    let converted = nanoserve_converter::convert(&options, &(), &AtomicBool::new(false));
    converted.unwrap_or_else(|e| panic!("{}: {e}", source.display()))
}

/// Copies the files of a folder into another, which is created.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// An engine for a file, with these kernels and this many threads.
///
/// # Panics
/// When it does not open.
pub fn engine(path: &Path, kernels: &'static Kernels, threads: usize) -> Engine<CpuBackend> {
    let isa = Some(kernels.name.to_string());
    let options = changed!(EngineOptions { threads: Some(threads), isa, ..EngineOptions::default() });
    Engine::open(path, &options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Calls `work` with the kernels of every instruction set that this machine can run, the scalar ones first.
pub fn for_each_isa(mut work: impl FnMut(&'static Kernels)) {
    let all = isa::available();
    assert_eq!(all[0].name, "scalar");
    all.into_iter().for_each(&mut work);
}
