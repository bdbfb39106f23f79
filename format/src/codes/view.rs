//! Reading and writing the blocks of a panel, one row at a time. Kernels read whole lines instead.

use super::{BLOCK, FRONT, Form, HEAD_FRONT, LINE, Scales, Span, Sub};
use crate::encoding::PANEL_ROWS;
use half::f16;

/// The scale of each half of a block, and its minimum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockScales {
    /// For columns 0..16 and 16..32.
    pub scales: [f32; 2],
    /// None if the form has no minima.
    pub min: Option<f32>,
}

/// A panel to read.
#[derive(Clone, Copy, Debug)]
pub struct PanelRef<'p> {
    form: &'static Form,
    bytes: &'p [u8],
}

/// A panel to write. Numbers of a row are written in any order; what is never written stays as it was.
#[derive(Debug)]
pub struct PanelMut<'p> {
    form: &'static Form,
    bytes: &'p mut [u8],
}

impl Form {
    /// Where a block's unit begins, and the block's number in it.
    fn unit(&self, block: usize) -> (usize, usize) {
        let (unit, block) = (block / self.unit_blocks(), block % self.unit_blocks());
        (self.front_bytes() + unit * self.unit_bytes(), block)
    }

    /// Where a block's codes begin.
    fn codes_at(&self, block: usize) -> usize {
        let (at, block) = self.unit(block);
        at + self.head_bytes() + block * self.block_bytes()
    }

    /// Where the nested scales of a block begin.
    fn sub_at(&self, block: usize) -> usize {
        let (at, block) = self.unit(block);
        let front = match self.scales {
            Scales::Nested(Span::Columns256, _) => HEAD_FRONT,
            Scales::Nested(Span::Row, _) | Scales::Flat(_) => 0,
        };
        at + front + block * self.sub_bytes()
    }
}

impl<'p> PanelRef<'p> {
    /// A panel of [`Form::panel_bytes`] bytes.
    pub fn new(form: &'static Form, bytes: &'p [u8]) -> Self {
        PanelRef { form, bytes }
    }

    fn f16(&self, at: usize) -> f32 {
        f16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32()
    }

    fn f32(&self, at: usize) -> f32 {
        f32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    /// The codes of a row's block.
    pub fn codes(&self, row: usize, block: usize) -> [u8; BLOCK] {
        let block = &self.bytes[self.form.codes_at(block)..][..self.form.block_bytes()];
        std::array::from_fn(|column| {
            let (group, at) = (column / 4, 4 * row + column % 4);
            let low = block[group / 2 * LINE + at] >> (4 * (group % 2)) & 15;
            let high = match self.form.bits {
                4 => 0,
                5 => block[4 * LINE + at] >> group & 1,
                _ => block[(4 + group / 4) * LINE + at] >> (2 * (group % 4)) & 3,
            };
            low | high << 4
        })
    }

    /// The scales of a row's block.
    pub fn scales(&self, row: usize, block: usize) -> BlockScales {
        let form = self.form;
        let (unit, index) = form.unit(block);
        let (span, sub) = match form.scales {
            Scales::Flat(minima) => {
                let at = unit + 2 * (index * PANEL_ROWS + row);
                let scale = self.f16(at);
                let min = minima.then(|| self.f16(at + 2 * form.unit_blocks() * PANEL_ROWS));
                return BlockScales { scales: [scale; 2], min };
            }
            Scales::Nested(span, sub) => (span, sub),
        };
        let [scale, min] = match span {
            Span::Row => [self.f32(4 * row), self.f32(FRONT / 2 + 4 * row)],
            Span::Columns256 => [self.f16(unit + 2 * row), self.f16(unit + HEAD_FRONT / 2 + 2 * row)],
        };
        let at = form.sub_at(block) + row;
        match sub {
            Sub::Unsigned => BlockScales {
                scales: [scale * f32::from(self.bytes[at]); 2],
                min: Some(-(min * f32::from(self.bytes[at + PANEL_ROWS]))),
            },
            Sub::Signed(columns) => {
                let second = at + (BLOCK / columns - 1) * PANEL_ROWS;
                let scales = [at, second].map(|at| scale * f32::from(self.bytes[at] as i8));
                BlockScales { scales, min: None }
            }
        }
    }
}

impl<'p> PanelMut<'p> {
    /// A panel of [`Form::panel_bytes`] bytes.
    pub fn new(form: &'static Form, bytes: &'p mut [u8]) -> Self {
        PanelMut { form, bytes }
    }

    /// Writes the codes of a block, column after column.
    #[inline(always)]
    pub fn set_codes(&mut self, block: usize, codes: &[[u8; PANEL_ROWS]; BLOCK]) {
        let at = self.form.codes_at(block);
        let lines = self.bytes[at..][..self.form.block_bytes()].as_chunks_mut::<LINE>().0;
        let (low, planes) = lines.split_at_mut(4);
        for (line, out) in low.iter_mut().enumerate() {
            let mut words = [0u32; PANEL_ROWS];
            for (column, codes) in codes[8 * line..][..8].iter().enumerate() {
                for r in 0..PANEL_ROWS {
                    words[r] |= (u32::from(codes[r]) & 15) << (8 * (column % 4) + 4 * (column / 4));
                }
            }
            put(&words, out);
        }
        // Groups that share a plane, and bits of each.
        let (groups, bits) = if self.form.bits == 5 { (8, 1) } else { (4, 2) };
        for (plane, out) in planes.iter_mut().enumerate() {
            let mut words = [0u32; PANEL_ROWS];
            for (column, codes) in codes[4 * groups * plane..][..4 * groups].iter().enumerate() {
                for r in 0..PANEL_ROWS {
                    words[r] |= (u32::from(codes[r]) >> 4) << (8 * (column % 4) + bits * (column / 4));
                }
            }
            put(&words, out);
        }
    }

    /// Writes the f16 scales of a block, and its minima if the form has minima.
    ///
    /// # Panics
    /// When the form's scales are nested.
    pub fn set_flat(&mut self, block: usize, scales: &[f16; PANEL_ROWS], minima: &[f16; PANEL_ROWS]) {
        let Scales::Flat(has_minima) = self.form.scales else { panic!("the scales of this form are nested") };
        let (unit, index) = self.form.unit(block);
        self.set_f16(unit + 2 * index * PANEL_ROWS, scales);
        if has_minima {
            self.set_f16(unit + 2 * (self.form.unit_blocks() + index) * PANEL_ROWS, minima);
        }
    }

    fn set_f16(&mut self, at: usize, values: &[f16; PANEL_ROWS]) {
        for (value, out) in values.iter().zip(self.bytes[at..].as_chunks_mut::<2>().0) {
            *out = value.to_le_bytes();
        }
    }

    /// Writes the scales and the minima that the bytes of the rows' blocks multiply: of the whole rows, or of the 256
    /// columns that the block belongs to, where both must be f16. The minima are used negated.
    ///
    /// # Panics
    /// When the form's scales are flat.
    pub fn set_span(&mut self, block: usize, scales: &[f32; PANEL_ROWS], minima: &[f32; PANEL_ROWS]) {
        let Scales::Nested(span, _) = self.form.scales else { panic!("the scales of this form are flat") };
        let (unit, _) = self.form.unit(block);
        match span {
            Span::Row => {
                let values = scales.iter().chain(minima);
                for (value, out) in values.zip(self.bytes[..FRONT].as_chunks_mut::<4>().0) {
                    *out = value.to_le_bytes();
                }
            }
            Span::Columns256 => {
                self.set_f16(unit, &scales.map(f16::from_f32));
                self.set_f16(unit + HEAD_FRONT / 2, &minima.map(f16::from_f32));
            }
        }
    }

    /// Writes the two bytes of the rows' blocks: unsigned, scale and minimum; signed, the scales of the halves. Where a
    /// block has one signed scale, the second byte is not used.
    ///
    /// # Panics
    /// When the form's scales are flat.
    pub fn set_sub(&mut self, block: usize, bytes: [&[u8; PANEL_ROWS]; 2]) {
        assert!(matches!(self.form.scales, Scales::Nested(..)), "the scales of this form are flat");
        let at = self.form.sub_at(block);
        for (bytes, out) in bytes.iter().zip(self.bytes[at..][..self.form.sub_bytes()].as_chunks_mut().0) {
            *out = **bytes;
        }
    }
}

/// Writes the words of 16 rows.
#[inline(always)]
fn put(words: &[u32; PANEL_ROWS], out: &mut [u8; LINE]) {
    for (word, out) in words.iter().zip(out.as_chunks_mut::<4>().0) {
        *out = word.to_le_bytes();
    }
}

/// Decodes one row of a panel, `[cols]`: one rounding with a minimum, and one without, both the same as GGUF's own.
pub(super) fn unpack_row(form: &'static Form, panel: &[u8], row: usize, out: &mut [f32]) {
    let panel = PanelRef::new(form, panel);
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let BlockScales { scales, min } = panel.scales(row, block);
        for (column, (out, code)) in out.iter_mut().zip(panel.codes(row, block)).enumerate() {
            let (scale, value) = (scales[column / (BLOCK / 2)], form.value(code) as f32);
            *out = match min {
                Some(min) => scale.mul_add(value, min),
                None => scale * value,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SplitMix64;
    use crate::codes::Codes;

    /// Everything that is written is read again, from its own place.
    #[test]
    fn what_is_written_is_read() {
        let mut random = SplitMix64::new(1);
        for codes in Codes::ALL {
            let form = codes.form();
            let blocks = 2 * form.unit_blocks();
            let mut bytes = vec![0; form.panel_bytes(blocks * BLOCK).unwrap()];
            let mut panel = PanelMut::new(form, &mut bytes);
            let mut written = Vec::new();
            let number = |row: usize, block: usize| (1 + row * blocks + block) as f32;
            for block in 0..blocks {
                let mut own = [[0u8; PANEL_ROWS]; BLOCK];
                own.as_flattened_mut().fill_with(|| random.next_u64() as u8 & form.largest_code());
                panel.set_codes(block, &own);
                let mut sub = [[0u8; PANEL_ROWS]; 2];
                sub.as_flattened_mut().fill_with(|| random.next_u64() as u8);
                let rows: [usize; PANEL_ROWS] = std::array::from_fn(|row| row);
                let first = if let Scales::Nested(Span::Columns256, _) = form.scales { block / 8 } else { 0 };
                let (d, dmin) = (rows.map(|r| (r * 4 + first + 1) as f32), rows.map(|r| (r + first + 3) as f32));
                // Each block's scales are numbers of their own.
                if let Scales::Flat(_) = form.scales {
                    let scales = rows.map(|row| f16::from_f32(number(row, block)));
                    let minima = rows.map(|row| f16::from_f32(-2.0 * number(row, block)));
                    panel.set_flat(block, &scales, &minima);
                } else {
                    panel.set_span(block, &d, &dmin);
                    panel.set_sub(block, sub.each_ref());
                }
                for row in rows {
                    let [a, b] = sub.map(|bytes| bytes[row]);
                    let expected = match form.scales {
                        Scales::Flat(minima) => {
                            let number = number(row, block);
                            BlockScales { scales: [number; 2], min: minima.then_some(-2.0 * number) }
                        }
                        Scales::Nested(_, Sub::Unsigned) => {
                            BlockScales { scales: [d[row] * f32::from(a); 2], min: Some(-(dmin[row] * f32::from(b))) }
                        }
                        Scales::Nested(_, Sub::Signed(columns)) => {
                            let b = if columns == BLOCK { a } else { b };
                            BlockScales { scales: [a, b].map(|x| d[row] * f32::from(x as i8)), min: None }
                        }
                    };
                    written.push((row, block, own.map(|codes| codes[row]), expected));
                }
            }
            let panel = PanelRef::new(form, &bytes);
            for (row, block, own, expected) in written {
                assert_eq!(panel.codes(row, block), own, "{codes:?}: row {row}, block {block}");
                assert_eq!(panel.scales(row, block), expected, "{codes:?}: row {row}, block {block}");
            }
        }
    }

    /// A number in one row.
    fn only<T: Copy + Default>(row: usize, value: T) -> [T; PANEL_ROWS] {
        let mut rows = [T::default(); PANEL_ROWS];
        rows[row] = value;
        rows
    }

    /// The places that docs/nsv.md gives.
    #[test]
    fn the_layout_is_the_documented_one() {
        // q4: row 3, column 37 is block 1, group 1, byte 1: line 0, high half.
        let form = Codes::Q4.form();
        let mut bytes = vec![0; form.panel_bytes(64).unwrap()];
        assert_eq!(bytes.len(), 128 + 64 + 2 * 256);
        let mut panel = PanelMut::new(form, &mut bytes);
        let mut codes = [[0; PANEL_ROWS]; BLOCK];
        codes[5][3] = 9;
        panel.set_codes(1, &codes);
        panel.set_sub(1, [&only(3, 7), &only(3, 8)]);
        panel.set_span(1, &only(3, 2.0), &only(3, 4.0));
        let written: Vec<_> = bytes.iter().enumerate().filter(|(_, b)| **b != 0).collect();
        assert_eq!(
            written,
            [(15, &64), (64 + 14, &128), (64 + 15, &64), (128 + 35, &7), (128 + 51, &8), (192 + 256 + 13, &0x90)]
        );
        // q6_k: row 2, column 256 + 20 is unit 1, block 0, group 5, byte 0: low bits in line 2, high half; high bits in
        // line 4 + 1, bits 2 and 3.
        let form = Codes::Q6K.form();
        let mut bytes = vec![0; form.panel_bytes(512).unwrap()];
        assert_eq!(bytes.len(), 2 * (320 + 8 * 384));
        let mut panel = PanelMut::new(form, &mut bytes);
        let mut codes = [[0; PANEL_ROWS]; BLOCK];
        codes[20][2] = 0x35;
        panel.set_codes(8, &codes);
        panel.set_sub(8, [&only(2, 1), &only(2, 2)]);
        let unit = 320 + 8 * 384;
        let written: Vec<_> = bytes.iter().enumerate().filter(|(_, b)| **b != 0).collect();
        let codes = unit + 320;
        assert_eq!(
            written,
            [(unit + 64 + 2, &1), (unit + 64 + 18, &2), (codes + 2 * 64 + 8, &0x50), (codes + 5 * 64 + 8, &0x0c)]
        );
    }
}
