//! What the markers of a JPEG say, read before any decoder sees it.
//!
//! Decoders differ in what they forgive. The verdict on a whole member is made here, once, as far as markers can tell: cut off,
//! unsupported, or a variant that is known to be decoded wrongly. Entropy-coded data are not looked into.

use super::{BadImage, ImageSize};

/// What is needed of the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JpegHeader {
    pub(super) size: ImageSize,
    /// 1 for gray, 3 for colour.
    pub(super) components: u8,
}

/// Reads the markers of a whole JPEG.
pub(super) fn inspect(bytes: &[u8]) -> Result<JpegHeader, BadImage> {
    let mut frame = None;
    let mut position = 2;
    loop {
        let marker = next_marker(bytes, &mut position)?;
        match marker {
            0xd8 | 0x01 | 0xd0..=0xd7 => continue,
            0xd9 => return Err(corrupt("the image ends before its data")),
            _ => {}
        }
        let length = match bytes.get(position..position + 2) {
            Some(length) => usize::from(u16::from_be_bytes([length[0], length[1]])),
            None => return Err(BadImage::Truncated),
        };
        if length < 2 {
            return Err(corrupt("a segment shorter than its length field"));
        }
        let segment = bytes
            .get(position + 2..position + length)
            .ok_or(BadImage::Truncated)?;
        position += length;
        match marker {
            // All start-of-frame markers; the gaps are DHT, JPG and DAC.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                if frame.is_some() {
                    return Err(unsupported("more than one frame"));
                }
                frame = Some(read_frame(marker, segment)?);
            }
            0xda => break,
            _ => {}
        }
    }
    let frame = frame.ok_or_else(|| corrupt("no frame header before the data"))?;
    let data = &bytes[position..];
    // A 0xFF byte of entropy-coded data is always followed by 0 or a restart number, so this pair can only be the end marker.
    let Some(end) = data.windows(2).rposition(|pair| pair == [0xff, 0xd9]) else {
        return Err(BadImage::Truncated);
    };
    if frame.progressive
        && data[..end]
            .windows(2)
            .any(|pair| pair[0] == 0xff && (0xd0..=0xd7).contains(&pair[1]))
    {
        // Decoded wrongly by zune-jpeg 0.5 (zune-image issue 359).
        return Err(unsupported("progressive JPEG with restart markers"));
    }
    Ok(JpegHeader {
        size: frame.size,
        components: frame.components,
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

struct Frame {
    size: ImageSize,
    components: u8,
    progressive: bool,
}

fn read_frame(marker: u8, segment: &[u8]) -> Result<Frame, BadImage> {
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
        components,
        ..,
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
    match components {
        1 | 3 => {}
        // Photographs of four components have their colours inverted or not, which no marker tells for sure; zune-jpeg 0.5 inverts
        // YCCK (zune-image issue 442).
        4 => return Err(unsupported("CMYK or YCCK colours")),
        other => return Err(unsupported(&format!("JPEG of {other} components"))),
    }
    Ok(Frame {
        size,
        components,
        progressive: marker == 0xc2,
    })
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
mod tests {
    use super::super::testing::{jpeg, picture};
    use super::*;

    fn example() -> Vec<u8> {
        jpeg(40, 24, &picture(40, 24, 1), |_| {})
    }

    /// Where the frame header's marker stands.
    fn frame_at(bytes: &[u8]) -> usize {
        bytes
            .windows(2)
            .position(|pair| pair[0] == 0xff && (0xc0..=0xc2).contains(&pair[1]))
            .unwrap()
    }

    #[test]
    fn size_is_read() {
        assert_eq!(
            inspect(&example()).unwrap().size,
            ImageSize {
                width: 40,
                height: 24
            }
        );
    }

    #[test]
    fn any_cut_is_noticed() {
        let bytes = example();
        for length in 2..bytes.len() {
            assert_eq!(
                inspect(&bytes[..length]).unwrap_err(),
                BadImage::Truncated,
                "cut to {length}"
            );
        }
    }

    #[test]
    fn bytes_after_the_end_are_allowed() {
        let mut bytes = example();
        bytes.extend(b"trailing");
        assert!(inspect(&bytes).is_ok());
    }

    #[test]
    fn unsupported_kinds_are_named() {
        let mut bytes = example();
        let frame = frame_at(&bytes);
        for (code, word) in [
            (0xc3, "lossless"),
            (0xc9, "arithmetic"),
            (0xc5, "hierarchical"),
        ] {
            bytes[frame + 1] = code;
            assert!(inspect(&bytes).unwrap_err().to_string().contains(word));
        }
        bytes[frame + 1] = 0xc0;
        for (at, value, word) in [
            (4, 12, "12 bits"),
            (9, 4, "CMYK"),
            (9, 2, "2 components"),
            (6, 0, "after the data"),
        ] {
            let kept = bytes[frame + at];
            bytes[frame + at] = value;
            assert!(
                inspect(&bytes).unwrap_err().to_string().contains(word),
                "{word}"
            );
            bytes[frame + at] = kept;
        }
        assert!(inspect(&bytes).is_ok());
    }

    #[test]
    fn progressive_with_restarts_is_refused_and_each_alone_is_not() {
        let pixels = picture(40, 24, 1);
        assert!(inspect(&jpeg(40, 24, &pixels, |encoder| encoder.set_progressive(true))).is_ok());
        assert!(inspect(&jpeg(40, 24, &pixels, |encoder| encoder.set_restart_interval(2))).is_ok());
        let both = jpeg(40, 24, &pixels, |encoder| {
            encoder.set_progressive(true);
            encoder.set_restart_interval(2);
        });
        assert!(inspect(&both).unwrap_err().to_string().contains("restart"));
    }

    #[test]
    fn stray_bytes_are_corrupt() {
        let mut bytes = example();
        bytes.insert(2, 7);
        assert!(matches!(inspect(&bytes), Err(BadImage::Corrupt { .. })));
    }
}
