//! Frame, scan and table headers: what they say, and whether they can be so.

use super::{corrupt, unsupported};
use crate::decode::{BadImage, ImageSize};

/// Blocks that the unit of an interleaved scan may hold.
const BLOCKS_IN_UNIT: u32 = 10;

/// Coefficients of a block.
const COEFFICIENTS: usize = 64;

/// What the frame header says.
pub(super) struct Frame {
    pub(super) size: ImageSize,
    pub(super) progressive: bool,
    components: Vec<Component>,
}

/// One component of a frame.
struct Component {
    id: u8,
    /// Sampling factors, 1 to 4.
    across: u32,
    down: u32,
    /// How many of the lowest bits of each coefficient are still to come; none where all are.
    missing: [Option<u8>; COEFFICIENTS],
}

impl Frame {
    /// Reads the segment of a start-of-frame marker.
    pub(super) fn read(marker: u8, segment: &[u8]) -> Result<Self, BadImage> {
        match marker {
            0xc0..=0xc2 => {}
            0xc3 => return Err(unsupported("lossless JPEG")),
            0xc9..=0xcb | 0xcd..=0xcf => return Err(unsupported("arithmetic coding")),
            _ => return Err(unsupported("hierarchical JPEG")),
        }
        let &[
            precision,
            height_high,
            height_low,
            width_high,
            width_low,
            count,
            ref components @ ..,
        ] = segment
        else {
            return Err(corrupt("short frame header"));
        };
        let size = ImageSize {
            width: u32::from(u16::from_be_bytes([width_high, width_low])),
            height: u32::from(u16::from_be_bytes([height_high, height_low])),
        };
        if precision != 8 {
            return Err(unsupported(&format!("JPEG of {precision} bits a sample")));
        }
        if size.width == 0 {
            return Err(corrupt("no columns"));
        }
        if size.height == 0 {
            return Err(unsupported("a height that comes after the data"));
        }
        match count {
            1 | 3 => {}
            // Photographs of four components have their colours inverted or not, which no marker tells for sure; zune-jpeg 0.5 inverts
            // YCCK (zune-image issue 442).
            4 => return Err(unsupported("CMYK or YCCK colours")),
            other => return Err(unsupported(&format!("JPEG of {other} components"))),
        }
        if components.len() != 3 * usize::from(count) {
            return Err(corrupt("a frame header of another length"));
        }
        let components: Vec<Component> = components
            .chunks_exact(3)
            .map(|fields| Component {
                id: fields[0],
                across: u32::from(fields[1] >> 4),
                down: u32::from(fields[1] & 15),
                missing: [None; COEFFICIENTS],
            })
            .collect();
        let possible = |factor: u32| (1..=4).contains(&factor);
        if !components
            .iter()
            .all(|component| possible(component.across) && possible(component.down))
        {
            return Err(corrupt("sampling factors that cannot be"));
        }
        let frame = Frame {
            size,
            components,
            progressive: marker == 0xc2,
        };
        let (across, down) = frame.most();
        let whole = |component: &Component| {
            across.is_multiple_of(component.across) && down.is_multiple_of(component.down)
        };
        if !frame.components.iter().all(whole) {
            return Err(unsupported(
                "components whose sizes are no multiples of each other",
            ));
        }
        Ok(frame)
    }

    /// The largest sampling factors across and down.
    fn most(&self) -> (u32, u32) {
        self.components.iter().fold((1, 1), |(across, down), c| {
            (across.max(c.across), down.max(c.down))
        })
    }

    /// 1 for gray, 3 for colour.
    pub(super) fn components(&self) -> u8 {
        self.components.len() as u8
    }

    /// Reads the segment of a start-of-scan marker, and returns how many units the scan has: blocks of one component, or groups of blocks
    /// of several.
    pub(super) fn read_scan(&mut self, segment: &[u8]) -> Result<u32, BadImage> {
        let other_length = || corrupt("a scan header of another length");
        let (&count, rest) = segment.split_first().ok_or_else(other_length)?;
        if rest.len() != 2 * usize::from(count) + 3 {
            return Err(other_length());
        }
        let (chosen, range) = rest.split_at(2 * usize::from(count));
        let mut places: Vec<usize> = Vec::with_capacity(self.components.len());
        for fields in chosen.chunks_exact(2) {
            let place = self.components.iter().position(|c| c.id == fields[0]);
            let place = place
                .filter(|place| !places.contains(place))
                .ok_or_else(|| corrupt("a scan of components that the frame does not have"))?;
            if fields[1] >> 4 > 3 || fields[1] & 15 > 3 {
                return Err(corrupt("a coding table that cannot be"));
            }
            places.push(place);
        }
        self.code(&places, range)?;
        let (width, height) = (self.size.width, self.size.height);
        let (across, down) = self.most();
        match places[..] {
            [] => Err(corrupt("a scan without components")),
            [place] => {
                let component = &self.components[place];
                let columns = (width * component.across).div_ceil(across).div_ceil(8);
                Ok(columns * (height * component.down).div_ceil(down).div_ceil(8))
            }
            _ => {
                let components = places.iter().map(|&place| &self.components[place]);
                let blocks: u32 = components.map(|c| c.across * c.down).sum();
                if blocks > BLOCKS_IN_UNIT {
                    return Err(corrupt("too many blocks in a unit"));
                }
                Ok(width.div_ceil(8 * across) * height.div_ceil(8 * down))
            }
        }
    }

    /// Notes what a scan codes of these components, where that follows on what has been coded: a sequential frame codes each of them once,
    /// a progressive one adds to them bit by bit.
    fn code(&mut self, places: &[usize], range: &[u8]) -> Result<(), BadImage> {
        let cannot_be = || corrupt("a scan that does not follow on those before it");
        let (first, last) = (usize::from(range[0]), usize::from(range[1]));
        let (high, low) = (range[2] >> 4, range[2] & 15);
        let possible = if !self.progressive {
            (first, last, high, low) == (0, COEFFICIENTS - 1, 0, 0)
        } else if first == 0 {
            last == 0
        } else {
            first <= last && last < COEFFICIENTS && places.len() == 1
        };
        if !possible || low > 13 {
            return Err(cannot_be());
        }
        for &place in places {
            let missing = &mut self.components[place].missing;
            if first > 0 && missing[0].is_none() {
                return Err(cannot_be());
            }
            for coefficient in &mut missing[first..=last] {
                let follows = match *coefficient {
                    None => high == 0,
                    Some(missing) => missing > 0 && high == missing && low == missing - 1,
                };
                if !follows {
                    return Err(cannot_be());
                }
                *coefficient = Some(low);
            }
        }
        Ok(())
    }

    /// Whether there are data of each component.
    pub(super) fn check_complete(&self) -> Result<(), BadImage> {
        if self.components.iter().all(|c| c.missing[0].is_some()) {
            Ok(())
        } else {
            Err(corrupt("the image ends before its data"))
        }
    }
}


/// Whether the tables of a segment are Huffman codes: prefixes, none of which consists of ones only.
pub(super) fn check_huffman(mut segment: &[u8]) -> Result<(), BadImage> {
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
        let (class, place) = (head[0] >> 4, head[0] & 15);
        let too_long = class == 0 && symbols.iter().any(|&bits| bits > 15);
        if class > 1 || place > 3 || symbols.len() > 256 || too_long {
            return Err(corrupt("a Huffman table that cannot be"));
        }
        segment = rest;
    }
    Ok(())
}

/// Whether a segment holds whole quantization tables.
pub(super) fn check_quantization(mut segment: &[u8]) -> Result<(), BadImage> {
    while let Some((&head, rest)) = segment.split_first() {
        let (bytes, place) = (head >> 4, head & 15);
        if bytes > 1 || place > 3 {
            return Err(corrupt("a quantization table that cannot be"));
        }
        let length = COEFFICIENTS * (usize::from(bytes) + 1);
        segment = rest
            .get(length..)
            .ok_or_else(|| corrupt("a quantization table that is cut off"))?;
    }
    Ok(())
}
