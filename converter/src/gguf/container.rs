//! The container of GGUF files: header, metadata and the places of tensors, read from bytes that nobody vouches for.
//!
//! [`Header::parse`] checks everything before it returns anything: afterwards each range lies inside the file. It copies
//! names only, so its memory is bounded by the file's own size and by [`MOST_KEYS`] and [`MOST_TENSORS`]. It knows no
//! model: what the keys mean is for its caller.

use crate::gguf::kinds::{Scalar, TensorKind};
use std::collections::HashSet;
use std::ops::Range;

/// The most keys of metadata that are read.
const MOST_KEYS: u64 = 1 << 16;
/// The most tensors that are read.
const MOST_TENSORS: u64 = 1 << 17;
/// The longest name of a tensor, in bytes.
const LONGEST_NAME: usize = 63;
/// The longest key, in bytes.
const LONGEST_KEY: usize = 65_535;
/// The most dimensions of a tensor.
const MOST_DIMS: u32 = 4;
/// Where a tensor begins, unless the metadata says otherwise: at a multiple of this.
pub(super) const ALIGNMENT: usize = 32;
/// The largest alignment that is read.
const MOST_ALIGNMENT: usize = 1 << 20;
/// The number of the type of texts.
pub(super) const TEXT: u32 = 8;
/// The number of the type of arrays.
pub(super) const ARRAY: u32 = 9;

/// Why bytes are no GGUF file that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GgufError {
    /// The file does not begin as one.
    #[error("does not begin with GGUF")]
    Magic,
    /// Another version of the container.
    #[error("is GGUF version {0}, expected 2 or 3")]
    Version(u32),
    /// Its numbers are stored the other way round.
    #[error("is a big-endian GGUF file, expected little-endian")]
    BigEndian,
    /// The file ends inside something.
    #[error("ends at byte {len}, inside of {what} at byte {at}")]
    Short {
        /// What is cut.
        what: &'static str,
        /// Where it begins.
        at: usize,
        /// Bytes of the file.
        len: usize,
    },
    /// A count beyond what is read.
    #[error("claims {got} {what}, expected at most {most}")]
    Count {
        /// Of what.
        what: &'static str,
        /// The count.
        got: u64,
        /// The most that are read.
        most: u64,
    },
    /// A text that is not UTF-8, empty where it must not be, or too long.
    #[error("the {what} at byte {at} is {fault}")]
    Text {
        /// What it is.
        what: &'static str,
        /// Where it begins.
        at: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A key or a tensor that is there twice.
    #[error("the {what} {name:?} is there twice")]
    Twice {
        /// A key or a tensor.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A key of an unknown type, or an array of arrays.
    #[error("the key {key:?} has type {got}, {}", if *in_array { "which no array may hold" } else { "which is unknown" })]
    KeyType {
        /// The key.
        key: String,
        /// The number of its type.
        got: u32,
        /// Whether it is the type of an array's elements.
        in_array: bool,
    },
    /// A truth value that is neither.
    #[error("the key {key:?} holds the truth value {got}, expected 0 or 1")]
    Bool {
        /// The key.
        key: String,
        /// The byte.
        got: u8,
    },
    /// An alignment that cannot be.
    #[error("general.alignment is {got}, expected a u32 that is a power of two, at most 1048576")]
    Alignment {
        /// What it is.
        got: String,
    },
    /// A tensor's type is unknown.
    #[error("tensor {tensor:?} has type {got}, which is not known")]
    TensorType {
        /// Its name.
        tensor: String,
        /// The number of its type.
        got: u32,
    },
    /// A tensor's dimensions cannot be.
    #[error("tensor {tensor:?}: {fault}")]
    Dims {
        /// Its name.
        tensor: String,
        /// What is wrong with them.
        fault: String,
    },
    /// A tensor does not begin where the one before it ends.
    #[error("tensor {tensor:?} begins at byte {got} of the data, expected {expected}")]
    Offset {
        /// Its name.
        tensor: String,
        /// Where it begins by the file.
        got: u64,
        /// Where it should.
        expected: u64,
    },
    /// The data ends beyond the file, or the file beyond the data.
    #[error("has {got} bytes, expected {expected}: it is cut, or something was added")]
    Length {
        /// Bytes of the file.
        got: usize,
        /// Where the last tensor ends.
        expected: usize,
    },
}

/// A value of the metadata. Texts and arrays stay in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// An unsigned number.
    Unsigned(u64),
    /// A signed number.
    Signed(i64),
    /// A number of floating point.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text in UTF-8: its bytes in the file.
    Text(Range<usize>),
    /// Values of one size: their bytes in the file.
    Array(Scalar, Range<usize>),
    /// Texts in UTF-8: how many, and their bytes in the file, a u64 of length before each.
    Texts(usize, Range<usize>),
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first, as everywhere else in nanoserve; the file has them the other way round.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub kind: TensorKind,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// What a file says before its tensors' data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    /// The version of the container.
    pub version: u32,
    /// The metadata, in the file's order.
    pub keys: Vec<(String, Value)>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<Tensor>,
}

impl Header {
    /// Reads the header of a whole file.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
        let mut input = Cursor { bytes, at: 0 };
        if !bytes.starts_with(b"GGUF") {
            return Err(GgufError::Magic);
        }
        input.at = 4;
        let version = input.u32("the version")?;
        if version != 0 && version & 0xffff == 0 {
            return Err(GgufError::BigEndian);
        }
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensors = input.count("tensors", MOST_TENSORS)?;
        let count = input.count("keys", MOST_KEYS)?;
        let (mut keys, mut seen) = (Vec::new(), HashSet::new());
        for _ in 0..count {
            let key = input.name("key", LONGEST_KEY)?;
            let value = input.value(&key)?;
            if !seen.insert(key.clone()) {
                return Err(GgufError::Twice { what: "key", name: key });
            }
            keys.push((key, value));
        }
        let mut header = Header { version, keys, tensors: Vec::new() };
        let alignment = header.alignment()?;
        let (mut seen, mut end) = (HashSet::new(), 0usize);
        for _ in 0..tensors {
            let tensor = input.tensor(end)?;
            if !seen.insert(tensor.name.clone()) {
                return Err(GgufError::Twice { what: "tensor", name: tensor.name });
            }
            let padded = tensor.range.end.checked_next_multiple_of(alignment);
            end = padded.ok_or_else(|| too_large(&tensor.name))?;
            header.tensors.push(tensor);
        }
        // The ranges are relative to the data until here.
        let start = input.at.next_multiple_of(alignment);
        let last = header.tensors.last().map_or(0, |tensor| tensor.range.end);
        let (Some(least), Some(most)) = (start.checked_add(last), start.checked_add(end)) else {
            return Err(GgufError::Length { got: bytes.len(), expected: usize::MAX });
        };
        // A file without tensors may end without padding, and the last tensor too.
        let least = if header.tensors.is_empty() { input.at } else { least };
        if !(least..=most).contains(&bytes.len()) {
            return Err(GgufError::Length { got: bytes.len(), expected: most });
        }
        for tensor in &mut header.tensors {
            tensor.range = tensor.range.start + start..tensor.range.end + start;
        }
        Ok(header)
    }

    /// The value of a key; None if there is no such key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn alignment(&self) -> Result<usize, GgufError> {
        match self.get("general.alignment") {
            None => Ok(ALIGNMENT),
            Some(&Value::Unsigned(n)) if n.is_power_of_two() && n <= MOST_ALIGNMENT as u64 => Ok(n as usize),
            Some(Value::Unsigned(n)) => Err(GgufError::Alignment { got: n.to_string() }),
            Some(_) => Err(GgufError::Alignment { got: "of another type".to_string() }),
        }
    }
}

fn too_large(tensor: &str) -> GgufError {
    GgufError::Dims { tensor: tensor.to_string(), fault: "its size does not fit 64 bits".to_string() }
}

/// The rest of the file.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn take(&mut self, len: u64, what: &'static str) -> Result<&'b [u8], GgufError> {
        let short = GgufError::Short { what, at: self.at, len: self.bytes.len() };
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len)).ok_or(short)?;
        self.at += taken.len();
        Ok(taken)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.take(4, what).map(|b| unsigned(b) as u32)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.take(8, what).map(unsigned)
    }

    fn count(&mut self, what: &'static str, most: u64) -> Result<u64, GgufError> {
        let got = self.u64(what)?;
        if got <= most { Ok(got) } else { Err(GgufError::Count { what, got, most }) }
    }

    /// A text's range in the file.
    fn text(&mut self, what: &'static str) -> Result<(&'b str, Range<usize>), GgufError> {
        let len = self.u64(what)?;
        let at = self.at;
        let text = str::from_utf8(self.take(len, what)?);
        let text = text.map_err(|_| GgufError::Text { what, at, fault: "not valid UTF-8" })?;
        Ok((text, at..self.at))
    }

    fn name(&mut self, what: &'static str, longest: usize) -> Result<String, GgufError> {
        let (text, range) = self.text(what)?;
        let fault = match text.len() {
            0 => "empty",
            len if len > longest => "too long",
            _ => return Ok(text.to_string()),
        };
        Err(GgufError::Text { what, at: range.start, fault })
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32("the type of a key")?;
        if kind == TEXT {
            return self.text("text").map(|(_, range)| Value::Text(range));
        }
        if kind == ARRAY {
            return self.array(key);
        }
        let unknown = || GgufError::KeyType { key: key.to_string(), got: kind, in_array: false };
        let scalar = Scalar::of(kind).ok_or_else(unknown)?;
        let bytes = self.take(scalar.bytes() as u64, "a value")?;
        let bits = unsigned(bytes);
        let unused = 64 - 8 * bytes.len() as u32;
        Ok(match scalar {
            Scalar::Unsigned(_) => Value::Unsigned(bits),
            Scalar::Signed(_) => Value::Signed(((bits << unused) as i64) >> unused),
            Scalar::Float(4) => Value::Float(f64::from(f32::from_bits(bits as u32))),
            Scalar::Float(_) => Value::Float(f64::from_bits(bits)),
            Scalar::Bool => {
                truths(key, bytes)?;
                Value::Bool(bits == 1)
            }
        })
    }

    fn array(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32("the type of an array")?;
        let count = self.u64("the length of an array")?;
        let start = self.at;
        if kind == TEXT {
            // Each text takes at least its length's 8 bytes, so the file's end bounds this loop.
            for _ in 0..count {
                self.text("text")?;
            }
            return Ok(Value::Texts(count as usize, start..self.at));
        }
        let scalar = Scalar::of(kind);
        let scalar = scalar.ok_or_else(|| GgufError::KeyType { key: key.to_string(), got: kind, in_array: true })?;
        let len = count.saturating_mul(scalar.bytes() as u64);
        let bytes = self.take(len, "an array")?;
        if scalar == Scalar::Bool {
            truths(key, bytes)?;
        }
        Ok(Value::Array(scalar, start..self.at))
    }

    /// The next tensor's description, which must begin at byte `expected` of the data. Its range is within the data.
    fn tensor(&mut self, expected: usize) -> Result<Tensor, GgufError> {
        let name = self.name("name of a tensor", LONGEST_NAME)?;
        let fault = |fault: String| GgufError::Dims { tensor: name.clone(), fault };
        let dims = self.u32("the dimensions of a tensor")?;
        if !(1..=MOST_DIMS).contains(&dims) {
            return Err(fault(format!("it has {dims} dimensions, expected 1 to {MOST_DIMS}")));
        }
        let (mut shape, mut elements) = (Vec::new(), 1usize);
        for _ in 0..dims {
            let dim = self.u64("a dimension")?;
            if dim == 0 {
                return Err(fault("a dimension is 0".to_string()));
            }
            let dim = usize::try_from(dim).map_err(|_| too_large(&name))?;
            elements = elements.checked_mul(dim).ok_or_else(|| too_large(&name))?;
            shape.push(dim);
        }
        let id = self.u32("the type of a tensor")?;
        let kind = TensorKind::of(id).ok_or_else(|| GgufError::TensorType { tensor: name.clone(), got: id })?;
        if !shape[0].is_multiple_of(kind.values) {
            let (row, block) = (shape[0], kind.values);
            return Err(fault(format!("its rows have {row} values, {} needs a multiple of {block}", kind.name)));
        }
        shape.reverse();
        let offset = self.u64("the offset of a tensor")?;
        if offset != expected as u64 {
            return Err(GgufError::Offset { tensor: name, got: offset, expected: expected as u64 });
        }
        let bytes = (elements / kind.values).checked_mul(kind.bytes);
        let end = bytes.and_then(|n| n.checked_add(expected)).ok_or_else(|| too_large(&name))?;
        Ok(Tensor { name, shape, kind, range: expected..end })
    }
}

fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

fn truths(key: &str, bytes: &[u8]) -> Result<(), GgufError> {
    match bytes.iter().find(|&&b| b > 1) {
        Some(&got) => Err(GgufError::Bool { key: key.to_string(), got }),
        None => Ok(()),
    }
}
