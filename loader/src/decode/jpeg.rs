//! What the markers of a JPEG say, read before any decoder sees it.
//!
//! Decoders differ in what they forgive. The verdict on a whole member is made here, once, as far as markers and headers can tell: cut
//! off, unsupported, headers that contradict each other, restart markers that are missing or out of order, or a variant that is known to
//! be decoded wrongly. The coded data between markers are not looked into.

mod headers;
mod tables;

use self::headers::Frame;
use self::tables::Tables;
use super::{BadImage, ImageSize};

/// Coefficients of a block.
const COEFFICIENTS: usize = 64;

/// What is needed of the headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JpegHeader {
    pub(super) size: ImageSize,
    /// 1 for gray, 3 for colour.
    pub(super) components: u8,
    pub(super) progressive: bool,
    /// Where the coded data of the first scan start.
    pub(super) data: usize,
}

/// Reads the markers of a whole JPEG, up to the end of its first image.
pub(super) fn inspect(bytes: &[u8]) -> Result<JpegHeader, BadImage> {
    let mut frame: Option<Frame> = None;
    let mut tables = Tables::default();
    let mut restart_interval = 0;
    let mut first_data = None;
    let mut position = 2;
    loop {
        let marker = next_marker(bytes, &mut position)?;
        match marker {
            0xd9 => break,
            0xd8 => return Err(corrupt("another image starts inside")),
            0xc0..=0xc7 | 0xc9..=0xcf | 0xda..=0xdd | 0xe0..=0xef | 0xfe => {}
            _ => {
                return Err(corrupt(&format!(
                    "a marker 0x{marker:02X} where none belongs"
                )));
            }
        }
        let segment = segment(bytes, &mut position)?;
        match marker {
            // All start-of-frame markers; the gaps are DHT, JPG and DAC.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                if frame.is_some() {
                    return Err(unsupported("more than one frame"));
                }
                frame = Some(Frame::read(marker, segment)?);
            }
            0xc4 => tables.read_huffman(segment)?,
            0xdb => tables.read_quantization(segment)?,
            0xdd => {
                let &[high, low] = segment else {
                    return Err(corrupt("a restart interval of another length"));
                };
                restart_interval = u32::from(u16::from_be_bytes([high, low]));
            }
            0xda => {
                let frame = frame
                    .as_mut()
                    .ok_or_else(|| corrupt("no frame header before the data"))?;
                let units = frame.read_scan(segment, &tables)?;
                let data = skip_data(bytes, position)?;
                check_restarts(&data, units, restart_interval)?;
                if frame.progressive && data.restarts > 0 {
                    // Decoded wrongly by zune-jpeg 0.5 (zune-image issue 359).
                    return Err(unsupported("progressive JPEG with restart markers"));
                }
                first_data.get_or_insert(position);
                position = data.end;
            }
            _ => {}
        }
    }
    let (Some(frame), Some(data)) = (frame, first_data) else {
        return Err(corrupt("the image ends before its data"));
    };
    frame.check_complete()?;
    Ok(JpegHeader {
        size: frame.size,
        components: frame.components(),
        progressive: frame.progressive,
        data,
    })
}

/// The next marker's code; `position` is moved to just after it.
fn next_marker(bytes: &[u8], position: &mut usize) -> Result<u8, BadImage> {
    if *bytes.get(*position).ok_or(BadImage::Truncated)? != 0xff {
        return Err(corrupt("stray bytes between segments"));
    }
    loop {
        *position += 1;
        // Any number of 0xFF bytes may stand before a marker's code.
        match *bytes.get(*position).ok_or(BadImage::Truncated)? {
            0xff => {}
            0 => return Err(corrupt("stray bytes between segments")),
            code => {
                *position += 1;
                return Ok(code);
            }
        }
    }
}

/// A segment's content; `position` is moved from its length to just after it.
fn segment<'a>(bytes: &'a [u8], position: &mut usize) -> Result<&'a [u8], BadImage> {
    let length = match bytes.get(*position..*position + 2) {
        Some(length) => usize::from(u16::from_be_bytes([length[0], length[1]])),
        None => return Err(BadImage::Truncated),
    };
    if length < 2 {
        return Err(corrupt("a segment shorter than its length field"));
    }
    let segment = bytes
        .get(*position + 2..*position + length)
        .ok_or(BadImage::Truncated)?;
    *position += length;
    Ok(segment)
}

/// Coded data, as far as markers tell.
struct Data {
    /// Where the marker stands that ends them.
    end: usize,
    /// Restart markers in them.
    restarts: usize,
    /// Whether these are numbered as they should be.
    in_order: bool,
}

/// Looks for the end of the coded data from `position` on.
fn skip_data(bytes: &[u8], mut position: usize) -> Result<Data, BadImage> {
    let (mut restarts, mut in_order) = (0, true);
    loop {
        let data = bytes.get(position..).ok_or(BadImage::Truncated)?;
        position += memchr::memchr(0xff, data).ok_or(BadImage::Truncated)?;
        // In coded data a byte of 0xFF is always followed by 0.
        match *bytes.get(position + 1).ok_or(BadImage::Truncated)? {
            0 => position += 2,
            0xff => position += 1,
            code @ 0xd0..=0xd7 => {
                in_order &= usize::from(code - 0xd0) == restarts % 8;
                restarts += 1;
                position += 2;
            }
            _ => {
                return Ok(Data {
                    end: position,
                    restarts,
                    in_order,
                });
            }
        }
    }
}

/// Whether the restart markers of a scan of `units` units are those that `interval` asks for.
fn check_restarts(data: &Data, units: u32, interval: u32) -> Result<(), BadImage> {
    let expected = match interval {
        0 => 0,
        interval => units.div_ceil(interval) as usize - 1,
    };
    // Some encoders put one at the end of the data, too.
    let after_last = interval > 0 && data.restarts == expected + 1;
    if data.restarts != expected && !after_last {
        return Err(corrupt(&format!(
            "{} restart markers where there should be {expected}",
            data.restarts
        )));
    }
    if !data.in_order {
        return Err(corrupt("restart markers out of order"));
    }
    Ok(())
}

fn corrupt(reason: &str) -> BadImage {
    BadImage::Corrupt {
        reason: reason.to_owned(),
    }
}

fn unsupported(what: &str) -> BadImage {
    BadImage::Unsupported {
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests;
