//! Quantization and Huffman tables: whether they can be, and whether a scan has those that it needs.
//!
//! They must stand in the image itself. libjpeg keeps tables from one image to the next, so that what an image looks like could depend on
//! the one before.

use super::{COEFFICIENTS, corrupt};
use crate::decode::BadImage;

/// Tables seen so far, by their numbers.
#[derive(Default)]
pub(super) struct Tables {
    quantization: [bool; 4],
    /// Huffman tables of the first coefficient, and of the others.
    huffman: [[bool; 4]; 2],
}

impl Tables {
    /// Reads a segment of Huffman tables. Each must be a code in which no symbol is written with ones only.
    pub(super) fn read_huffman(&mut self, mut segment: &[u8]) -> Result<(), BadImage> {
        while !segment.is_empty() {
            let cut_off = || corrupt("a Huffman table that is cut off");
            let (head, rest) = segment.split_at_checked(17).ok_or_else(cut_off)?;
            let mut free: i32 = 1;
            let mut count = 0;
            for &of_length in &head[1..] {
                free = 2 * free - i32::from(of_length);
                count += usize::from(of_length);
                if of_length > 0 && free < 1 {
                    return Err(corrupt("a Huffman table that is no code"));
                }
            }
            let (symbols, rest) = rest.split_at_checked(count).ok_or_else(cut_off)?;
            let (class, number) = (usize::from(head[0] >> 4), usize::from(head[0] & 15));
            let too_long = class == 0 && symbols.iter().any(|&bits| bits > 15);
            let known = self
                .huffman
                .get_mut(class)
                .and_then(|of| of.get_mut(number));
            let known = known
                .filter(|_| symbols.len() <= 256 && !too_long)
                .ok_or_else(|| corrupt("a Huffman table that cannot be"))?;
            *known = true;
            segment = rest;
        }
        Ok(())
    }

    /// Reads a segment of quantization tables.
    pub(super) fn read_quantization(&mut self, mut segment: &[u8]) -> Result<(), BadImage> {
        while let Some((&head, rest)) = segment.split_first() {
            let bytes = usize::from(head >> 4) + 1;
            let known = self.quantization.get_mut(usize::from(head & 15));
            let known = known
                .filter(|_| bytes <= 2)
                .ok_or_else(|| corrupt("a quantization table that cannot be"))?;
            *known = true;
            segment = rest
                .get(COEFFICIENTS * bytes..)
                .ok_or_else(|| corrupt("a quantization table that is cut off"))?;
        }
        Ok(())
    }

    /// Whether there are the tables that a component needs in a scan: `huffman` numbers both of them, `range` says what the scan codes.
    pub(super) fn check(
        &self,
        quantization: usize,
        huffman: u8,
        progressive: bool,
        range: &[u8],
    ) -> Result<(), BadImage> {
        let (first, high) = (range[0], range[2] >> 4);
        let has =
            |class: usize, number: u8| self.huffman[class].get(usize::from(number)) == Some(&true);
        // The first coefficient is refined bit by bit, without a code.
        let needs_first = !progressive || first == 0 && high == 0;
        let needs_others = !progressive || first > 0;
        let complete = self.quantization.get(quantization) == Some(&true)
            && (!needs_first || has(0, huffman >> 4))
            && (!needs_others || has(1, huffman & 15));
        if complete {
            Ok(())
        } else {
            Err(corrupt("a table is missing"))
        }
    }
}
