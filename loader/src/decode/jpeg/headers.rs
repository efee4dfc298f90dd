//! Frame and scan headers: what they say, whether they can be so, and whether they follow on each other.

use super::tables::Tables;
use super::{COEFFICIENTS, corrupt, unsupported};
use crate::decode::{BadImage, ImageSize};

/// Blocks that the unit of an interleaved scan may hold.
const BLOCKS_IN_UNIT: u32 = 10;

/// What the frame header says, and what scans have added to it.
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
    /// Its quantization table.
    quantization: usize,
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
                quantization: usize::from(fields[2]),
                missing: [None; COEFFICIENTS],
            })
            .collect();
        let factors = components.iter().flat_map(|c| [c.across, c.down]);
        if !factors.clone().all(|factor| (1..=4).contains(&factor)) {
            return Err(corrupt("sampling factors that cannot be"));
        }
        if factors.clone().any(|factor| factor == 3) {
            // Not decoded by zune-jpeg 0.5.
            return Err(unsupported("a sampling factor of 3"));
        }
        let frame = Frame {
            size,
            components,
            progressive: marker == 0xc2,
        };
        let luma = &frame.components[0];
        if count > 1 && (luma.across, luma.down) != frame.most() {
            // Decoded wrongly by zune-jpeg 0.5.
            return Err(unsupported("brightness sampled more coarsely than colour"));
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
    pub(super) fn read_scan(&mut self, segment: &[u8], tables: &Tables) -> Result<u32, BadImage> {
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
            let quantization = self.components[place].quantization;
            tables.check(quantization, fields[1], self.progressive, range)?;
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
            if places.len() != self.components.len() {
                // Decoded wrongly by zune-jpeg 0.5, which leaves a scan as soon as it sees the next, lines too early.
                return Err(unsupported("sequential JPEG of several scans"));
            }
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

    /// Whether all has been coded, down to the last bit. Of a progressive image that is cut off between two scans, and ended there, decoders
    /// make a blurred one.
    pub(super) fn check_complete(&self) -> Result<(), BadImage> {
        let mut coefficients = self.components.iter().flat_map(|c| c.missing);
        if coefficients.all(|missing| missing == Some(0)) {
            Ok(())
        } else {
            Err(corrupt("the image ends before its data"))
        }
    }
}
