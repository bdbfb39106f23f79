//! A file in parts, assembled according to docs/nsv.md without the format crate, with functions that correct its hashes
//! after a change.

/// Bytes of the preamble.
pub const PREAMBLE: usize = 192;
/// Offset of the tensors in files with small sections.
pub const DATA: usize = 65536;

/// Four bytes as a number.
pub fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

/// Eight bytes as a number.
pub fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

/// Overwrites the bytes at `at`.
pub fn put(b: &mut [u8], at: usize, value: &[u8]) {
    b[at..at + value.len()].copy_from_slice(value);
}

/// A section: kind, flags, bytes.
pub type Section = (u32, u32, Vec<u8>);

/// The writer leaves room for this many entries in the section table.
const ENTRIES: usize = 12;

/// A file in parts: its sections, and its tensors, which begin at byte 65536.
#[derive(Clone, Debug)]
pub struct Parts {
    /// In the file's order.
    pub sections: Vec<Section>,
    /// The tensors.
    pub data: Vec<u8>,
}

impl Parts {
    /// Splits a valid file.
    pub fn split(file: &[u8]) -> Parts {
        let entry = |i: usize| {
            let e = &file[PREAMBLE + 8 + 64 * i..];
            let (offset, len) = (u64_at(e, 8) as usize, u64_at(e, 16) as usize);
            (u32_at(e, 0), u32_at(e, 4), file[offset..offset + len].to_vec())
        };
        let count = u32_at(file, PREAMBLE) as usize;
        let offset = |i: usize| u64_at(&file[PREAMBLE + 8 + 64 * i..], 8) as usize;
        let end = (0..count).map(offset).find(|&at| at >= DATA).unwrap_or(file.len());
        Parts { sections: (0..count).map(entry).collect(), data: file[DATA..end].to_vec() }
    }

    /// Assembles the file, with correct hashes and root.
    ///
    /// # Panics
    /// When the sections go beyond byte 65536.
    pub fn file(&self) -> Vec<u8> {
        let table_bytes = 8 + 64 * self.sections.len();
        let mut out = vec![0; PREAMBLE + 8 + 64 * self.sections.len().max(ENTRIES)];
        put(&mut out, 0, b"\x89NSV\r\n\x1a\n");
        put(&mut out, 8, &1u16.to_le_bytes());
        put(&mut out, 16, &(table_bytes as u64).to_le_bytes());
        put(&mut out, PREAMBLE, &(self.sections.len() as u32).to_le_bytes());
        // Sections that a reader must know come before the tensors, the others after them.
        let before = self.sections.iter().take_while(|s| s.0 <= 2).count();
        for (i, (kind, flags, body)) in self.sections.iter().enumerate() {
            if i == before {
                self.put_data(&mut out);
            }
            out.resize(out.len().next_multiple_of(64), 0);
            let (at, offset) = (PREAMBLE + 8 + 64 * i, out.len() as u64);
            put(&mut out, at, &kind.to_le_bytes());
            put(&mut out, at + 4, &flags.to_le_bytes());
            put(&mut out, at + 8, &offset.to_le_bytes());
            put(&mut out, at + 16, &(body.len() as u64).to_le_bytes());
            put(&mut out, at + 32, blake3::hash(body).as_bytes());
            out.extend(body);
        }
        if before == self.sections.len() {
            self.put_data(&mut out);
        }
        let len = out.len() as u64;
        put(&mut out, 24, &len.to_le_bytes());
        reroot(&mut out);
        out
    }

    fn put_data(&self, out: &mut Vec<u8>) {
        assert!(out.len() <= DATA);
        out.resize(DATA, 0);
        out.extend(&self.data);
    }

    /// The bytes of a section.
    ///
    /// # Panics
    /// When there is no section of that kind.
    pub fn body(&mut self, kind: u32) -> &mut Vec<u8> {
        &mut self.sections.iter_mut().find(|s| s.0 == kind).unwrap().2
    }

    /// The file with a change to the JSON of its description.
    pub fn with_spec(&self, change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let mut parts = self.clone();
        let mut json = serde_json::from_slice(parts.body(1)).unwrap();
        change(&mut json);
        *parts.body(1) = json.to_string().into_bytes();
        parts.file()
    }

    /// The file with changed bytes and a corrected root.
    pub fn with_bytes(&self, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut file = self.file();
        change(&mut file);
        reroot(&mut file);
        file
    }
}

/// Corrects the root if the section table is inside the file.
pub fn reroot(file: &mut [u8]) {
    if file.len() < PREAMBLE {
        return;
    }
    let table_bytes = u64_at(file, 16);
    if table_bytes <= (file.len() - PREAMBLE) as u64 {
        let table = &file[PREAMBLE..PREAMBLE + table_bytes as usize];
        let root = blake3::Hasher::new().update(&file[..32]).update(table).finalize();
        put(file, 32, root.as_bytes());
    }
}

/// Corrects the hashes of all sections that are inside the file, then the root, like an attacker would.
pub fn rehash(file: &mut [u8]) {
    let count = if file.len() < PREAMBLE + 8 { 0 } else { u32_at(file, PREAMBLE) as usize };
    let entries = file.len().saturating_sub(PREAMBLE + 8) / 64;
    for i in 0..count.min(entries) {
        let at = PREAMBLE + 8 + 64 * i;
        let (offset, len) = (u64_at(file, at + 8), u64_at(file, at + 16));
        if let Some(end) = offset.checked_add(len).filter(|&end| end <= file.len() as u64) {
            let hash = blake3::hash(&file[offset as usize..end as usize]);
            put(file, at + 32, hash.as_bytes());
        }
    }
    reroot(file);
}
