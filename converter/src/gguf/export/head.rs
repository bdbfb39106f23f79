//! The bytes in front of a GGUF file's data: metadata, and the places of tensors. container.rs reads them.

use crate::gguf::container::{ALIGNMENT, ARRAY, TEXT};
use crate::gguf::kinds::TensorKind;

/// The version of the container.
const VERSION: u32 = 3;
/// Numbers of types of values.
const I32: u32 = 5;
const U32: u32 = 4;
const F32: u32 = 6;
const BOOL: u32 = 7;

/// A value of the metadata.
#[derive(Clone, Debug)]
pub(super) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// Keys with their values, in the file's order.
pub(super) type Keys = Vec<(String, Meta)>;

/// A tensor's name, its shape (outermost first), and how its values are stored.
pub(super) struct Place {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: TensorKind,
}

impl Place {
    /// Bytes of its values. The last dimension is a multiple of the values of a block.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() / self.kind.values * self.kind.bytes
    }

    /// Its bytes, and zeros up to where the next begins.
    pub fn padded(&self) -> usize {
        self.bytes().next_multiple_of(ALIGNMENT)
    }
}

/// The bytes of a file up to the first tensor's values.
pub(super) fn head(keys: &Keys, places: &[Place]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    count(&mut out, places.len());
    count(&mut out, keys.len());
    for (key, value) in keys {
        text(&mut out, key);
        put(&mut out, value);
    }
    let mut offset = 0;
    for place in places {
        text(&mut out, &place.name);
        out.extend((place.shape.len() as u32).to_le_bytes());
        for &dim in place.shape.iter().rev() {
            count(&mut out, dim);
        }
        out.extend(place.kind.id.to_le_bytes());
        count(&mut out, offset);
        offset += place.padded();
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

fn count(out: &mut Vec<u8>, n: usize) {
    out.extend((n as u64).to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    count(out, text.len());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Meta) {
    let mut kind = |kind: u32| out.extend(kind.to_le_bytes());
    match value {
        Meta::U32(n) => {
            kind(U32);
            out.extend(n.to_le_bytes());
        }
        Meta::F32(x) => {
            kind(F32);
            out.extend(x.to_le_bytes());
        }
        Meta::Bool(on) => {
            kind(BOOL);
            out.push(u8::from(*on));
        }
        Meta::Text(value) => {
            kind(TEXT);
            text(out, value);
        }
        Meta::Texts(all) => {
            kind(ARRAY);
            kind(TEXT);
            count(out, all.len());
            all.iter().for_each(|one| text(out, one));
        }
        Meta::I32s(all) => {
            kind(ARRAY);
            kind(I32);
            count(out, all.len());
            out.extend(all.iter().flat_map(|n| n.to_le_bytes()));
        }
        Meta::F32s(all) => {
            kind(ARRAY);
            kind(F32);
            count(out, all.len());
            out.extend(all.iter().flat_map(|x| x.to_le_bytes()));
        }
    }
}
