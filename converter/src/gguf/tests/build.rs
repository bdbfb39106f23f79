//! Builds GGUF files, right and wrong ones.

/// A text with its length.
pub fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

/// A key of the metadata, of a type by number.
pub fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(name)[..], &kind.to_le_bytes(), value].concat()
}

/// The description of a tensor: dimensions fastest first, type by number, place in the data.
pub fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes = dims.iter().flat_map(|d| d.to_le_bytes()).collect::<Vec<u8>>();
    let count = (dims.len() as u32).to_le_bytes();
    [&text(name)[..], &count, &dims_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// The value of a key that is a list.
pub fn array(kind: u32, count: u64, values: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), values].concat()
}

/// A file of these parts with `data` bytes after the header's padding to 32.
pub fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let counts = [(tensors.len() as u64).to_le_bytes(), (keys.len() as u64).to_le_bytes()].concat();
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes()[..], &counts, &keys.concat(), &tensors.concat()].concat();
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}
