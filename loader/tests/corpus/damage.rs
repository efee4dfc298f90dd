//! Damage anywhere in a JPEG: cut off, bits flipped, bytes lost.
//!
//! Only the topmost rows are asked for, as by a crop: what lies below counts all the same.

use mae_loader::decode::{BadImage, Decoder, ImageSize, Rect, Wanted};

use super::images::{cases, decoders};

/// One for each way in which coded data may be laid out.
const KINDS: [&str; 6] = [
    "sampling-420.jpg",
    "sampling-444.jpg",
    "gray.jpg",
    "restart-rows.jpg",
    "restart-blocks.jpg",
    "progressive.jpg",
];

fn example(file: &str) -> Vec<u8> {
    let mut cases = cases().into_iter();
    cases.find(|case| case.file == file).unwrap().bytes
}

/// The verdict on an image of which the first rows are wanted.
fn top(decoder: &mut dyn Decoder, bytes: &[u8]) -> Result<Vec<u8>, BadImage> {
    let mut rows = |size: ImageSize| {
        let part = Rect {
            height: size.height.min(8),
            ..Rect::whole(size)
        };
        let size = ImageSize {
            width: part.width,
            height: part.height,
        };
        Ok(Wanted { part, size })
    };
    let region = decoder.decode(bytes, &mut rows)?;
    Ok(region.pixels.to_vec())
}

/// Verdicts on damaged images, by whether they are bad to the first and to the second decoder.
#[derive(Default, Debug)]
struct Verdicts {
    both: u32,
    neither: u32,
    first: u32,
    second: u32,
}

impl Verdicts {
    fn add(&mut self, decoders: &mut [(&str, Box<dyn Decoder>)], bytes: &[u8]) {
        let mut bad = decoders
            .iter_mut()
            .map(|(_, decoder)| top(decoder.as_mut(), bytes).is_err());
        let first = bad.next().unwrap();
        // In a build without turbo there is but one.
        match (first, bad.next().unwrap_or(first)) {
            (true, true) => self.both += 1,
            (false, false) => self.neither += 1,
            (true, false) => self.first += 1,
            (false, true) => self.second += 1,
        }
    }

    fn apart(&self) -> u32 {
        self.first + self.second
    }
}

/// Where the coded data of the first scan start.
fn data_start(bytes: &[u8]) -> usize {
    let at = bytes.windows(2).position(|pair| pair == [0xff, 0xda]);
    at.unwrap() + 2
}

#[test]
fn an_image_cut_anywhere_is_bad() {
    for kind in KINDS {
        let bytes = example(kind);
        for (name, decoder) in &mut decoders(3) {
            assert!(top(decoder.as_mut(), &bytes).is_ok(), "{name}, {kind}");
            for length in 0..bytes.len() {
                let verdict = top(decoder.as_mut(), &bytes[..length]);
                assert!(verdict.is_err(), "{name}, {kind} cut to {length}");
            }
        }
    }
}

/// Cut off, but ended by a marker: only the coded data tell.
#[test]
fn data_that_end_early_are_bad() {
    for kind in KINDS {
        let bytes = example(kind);
        for (name, decoder) in &mut decoders(3) {
            for length in data_start(&bytes)..bytes.len() - 2 {
                let mut ended = bytes[..length].to_vec();
                ended.extend([0xff, 0xd9]);
                let verdict = top(decoder.as_mut(), &ended);
                assert!(verdict.is_err(), "{name}, {kind} ended after {length}");
            }
        }
    }
}

#[test]
fn decoders_agree_on_flipped_bits() {
    for kind in KINDS {
        let bytes = example(kind);
        let start = data_start(&bytes);
        let mut decoders = decoders(3);
        let (mut headers, mut data) = (Verdicts::default(), Verdicts::default());
        for at in 2..bytes.len() {
            for mask in [0x01, 0x10, 0x80, 0x55] {
                let mut damaged = bytes.clone();
                damaged[at] ^= mask;
                let verdicts = if at < start { &mut headers } else { &mut data };
                verdicts.add(&mut decoders, &damaged);
            }
        }
        println!("{kind}: headers {headers:?}; data {data:?}");
        assert!(headers.both > 100 && data.both > 100);
        let (apart, of) = (headers.apart() + data.apart(), 4 * bytes.len() as u32);
        if kind == "progressive.jpg" {
            // How a progressive image's first scan ends, zune does not tell.
            assert!(apart * 33 < of, "{apart} of {of}");
        } else {
            assert_eq!(apart, 0, "{kind}");
        }
    }
}

/// Bytes lost, doubled or overwritten.
#[test]
fn decoders_agree_on_lost_bytes() {
    for kind in KINDS.iter().filter(|kind| **kind != "progressive.jpg") {
        let bytes = example(kind);
        let mut decoders = decoders(3);
        let mut verdicts = Verdicts::default();
        for at in (data_start(&bytes)..bytes.len() - 40).step_by(3) {
            let mut lost = bytes.clone();
            lost.drain(at..at + 7);
            verdicts.add(&mut decoders, &lost);
            let mut doubled = bytes.clone();
            doubled.splice(at..at, bytes[at..at + 20].iter().copied());
            verdicts.add(&mut decoders, &doubled);
            let mut zeros = bytes.clone();
            zeros[at..at + 16].fill(0);
            verdicts.add(&mut decoders, &zeros);
        }
        println!("{kind}: {verdicts:?}");
        assert_eq!(verdicts.apart(), 0, "{kind}: {verdicts:?}");
    }
}
