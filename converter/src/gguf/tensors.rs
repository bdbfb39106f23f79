//! The tensors of a GGUF file, bound to those of the model. Every one is accounted for.

use crate::error::{Problems, What};
use crate::gguf::architectures::Architecture;
use crate::gguf::container::Tensor;
use crate::gguf::model::Model;
use crate::gguf::rope;
use crate::input::{RowOrder, SourceFile, Stored, Weight};
use crate::leave_out;
use crate::report::Warning;
use nanoserve_format::ModelSpec;
use nanoserve_format::schema::{self, Part};
use std::collections::{BTreeMap, BTreeSet};

/// The embedding.
pub(crate) const EMBED: &str = "token_embd.weight";
/// The head; a model without one is tied.
pub(crate) const HEAD: &str = "output.weight";
/// The last norm.
const NORM: &str = "output_norm.weight";

/// The tensors of all files, by name.
pub(crate) struct Tensors<'f> {
    files: &'f [SourceFile],
    all: BTreeMap<String, (usize, Tensor)>,
    left_out: BTreeSet<String>,
}

/// The name of the bias of a part, whichever tensor it is in.
pub(crate) fn bias(architecture: &Architecture, part: Part, layer: usize) -> String {
    let all = architecture.tensors.iter().flat_map(|group| group.iter());
    let name = all.into_iter().find(|(parts, _)| parts.contains(&part)).map_or("", |(_, name)| name);
    format!("blk.{layer}.{name}.bias")
}

impl<'f> Tensors<'f> {
    /// The tensors of `files`, each with the number of its file. A name that is there twice is noted.
    pub fn new(
        files: &'f [SourceFile],
        each: impl Iterator<Item = (usize, Tensor)>,
        problems: &Problems,
    ) -> Tensors<'f> {
        let mut all: BTreeMap<String, (usize, Tensor)> = BTreeMap::new();
        for (file, tensor) in each {
            let (name, own) = (tensor.name.clone(), &files[file].name);
            if let Some((first, _)) = all.insert(name.clone(), (file, tensor)) {
                problems.tensor(own, name, What::TwoShards { other: files[first].name.clone() });
            }
        }
        Tensors { files, all, left_out: BTreeSet::new() }
    }

    /// The file that messages name for a missing tensor.
    pub fn listing(&self) -> &'f str {
        &self.files[0].name
    }

    /// Leaves out what the user does not want.
    pub fn leave_out(&mut self, patterns: &[String], problems: &Problems, warnings: &mut Vec<Warning>) {
        let listing = (self.listing(), true);
        self.left_out = leave_out::matching(patterns, self.all.keys(), listing, problems, warnings);
        self.all.retain(|name, _| !self.left_out.contains(name));
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// The rows of a matrix.
    pub fn rows(&self, name: &str) -> Option<usize> {
        self.all.get(name).map(|(_, tensor)| tensor.shape[0])
    }

    /// The values of a short vector in f32.
    pub fn vector(&self, name: &str) -> Option<Vec<f32>> {
        /// More than half the width of any head.
        const MOST: usize = 4096;
        let (file, tensor) = self.all.get(name)?;
        let right = tensor.kind.stored() == Some(Stored::F32) && tensor.shape.len() == 1 && tensor.shape[0] <= MOST;
        let bytes = &self.files[*file].bytes[tensor.range.clone()];
        right.then(|| bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// Finds every tensor of the model, by its canonical name.
    pub fn bind(&self, model: &Model, problems: &Problems) -> BTreeMap<String, Weight> {
        let Model { spec, architecture } = model;
        let mut left: BTreeSet<&str> = self.all.keys().map(String::as_str).collect();
        // Read before, with the metadata.
        for factors in [rope::FREQS, rope::SHORT, rope::LONG] {
            if self.vector(factors).is_some() {
                left.remove(factors);
            }
        }
        let (mut bound, mut missing) = (BTreeMap::new(), Vec::new());
        for wanted in table(spec, architecture) {
            let Some((file, tensor)) = self.all.get(&wanted.name) else {
                missing.push(wanted.name);
                continue;
            };
            left.remove(wanted.name.as_str());
            let own = &self.files[*file].name;
            let note = |what| problems.tensor(own, &wanted.name, what);
            let Some(stored) = tensor.kind.stored() else {
                note(What::Dtype { got: tensor.kind.name.to_string() });
                continue;
            };
            if tensor.shape != wanted.shape {
                let expected = format!("{:?}, by the metadata", wanted.shape);
                note(What::Shape { got: tensor.shape.clone(), expected, guess: String::new() });
                continue;
            }
            let values: usize = tensor.shape[1..].iter().product();
            let mut first_row = 0;
            for (canonical, rows, order) in wanted.parts {
                let start = tensor.range.start + stored.bytes(first_row * values);
                let (name, range) = (wanted.name.clone(), start..start + stored.bytes(rows * values));
                let (file, transforms) = (*file, Vec::new());
                bound.insert(canonical, Weight { name, file, range, first_row, stored, order, transforms });
                first_row += rows;
            }
        }
        for name in left {
            problems.tensor(&self.files[self.all[name].0].name, name, What::TensorUnknown);
        }
        for name in missing {
            let what = if self.left_out.contains(&name) { What::TensorLeftOut } else { What::TensorMissing };
            problems.tensor(self.listing(), name, what);
        }
        bound
    }
}

/// A tensor that the file must have.
pub(crate) struct Wanted {
    /// Its name in the file.
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// The model's tensors in it, one after the other, each with its number of rows and their order.
    pub parts: Vec<(String, usize, RowOrder)>,
}

/// Every stored tensor of the model.
pub(crate) fn table(spec: &ModelSpec, architecture: &Architecture) -> Vec<Wanted> {
    let whole = |name: &str, canonical: &str, shape: Vec<usize>| {
        let parts = vec![(canonical.to_string(), shape[0], RowOrder::Same)];
        Wanted { name: name.to_string(), shape, parts }
    };
    let matrix = vec![spec.vocab_size, spec.hidden_size];
    let mut all = vec![whole(EMBED, schema::EMBED, matrix.clone())];
    for layer in 0..spec.n_layers {
        for &(parts, tensor) in architecture.tensors.iter().copied().flatten() {
            let order = |part| match part {
                Part::Q | Part::K if architecture.pairs => RowOrder::Pairs { head_dim: spec.head_dim },
                _ => RowOrder::Same,
            };
            let dims: Vec<Vec<usize>> = parts.iter().map(|part| part.shape(spec, layer).dims()).collect();
            let rows: usize = dims.iter().map(|dims| dims[0]).sum();
            let mut push = |ending: &str, shape: Vec<usize>, name: fn(Part, usize) -> String| {
                let parts = parts.iter().zip(&dims).map(|(&part, dims)| (name(part, layer), dims[0], order(part)));
                all.push(Wanted { name: format!("blk.{layer}.{tensor}.{ending}"), shape, parts: parts.collect() });
            };
            if parts[0].has_bias(spec) {
                push("bias", vec![rows], Part::bias);
            }
            let shape = std::iter::once(rows).chain(dims[0][1..].iter().copied()).collect();
            push("weight", shape, Part::weight);
        }
    }
    all.push(whole(NORM, schema::FINAL_NORM, vec![spec.hidden_size]));
    if !spec.tied_lm_head {
        all.push(whole(HEAD, schema::LM_HEAD, matrix));
    }
    all
}
