//! Damage anywhere in a JPEG: cut off, bits flipped, bytes lost.
//!
//! Only the topmost rows are asked for, as by a crop: what lies below counts all the same.

use mae_loader::decode::{BadImage, Decoder, ImageSize, Rect, Wanted};

use super::images::{cases, decoders};

/// One for each way in which coded data may be laid out.
const KINDS: [&str; 7] = [
    "sampling-420.jpg",
    "sampling-444.jpg",
    "gray.jpg",
    "restart-rows.jpg",
    "restart-blocks.jpg",
    "scans-each.jpg",
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

/// Verdicts of both decoders on damaged images.
#[derive(Default, Debug)]
struct Counts {
    bad: usize,
    good: usize,
    only_zune: usize,
    only_turbo: usize,
}

impl Counts {
    fn add(&mut self, bad: &[bool]) {
        match bad {
            [true, true] | [true] => self.bad += 1,
            [false, false] | [false] => self.good += 1,
            [zune, _] if *zune => self.only_zune += 1,
            _ => self.only_turbo += 1,
        }
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

#[test]
fn flipped_bits_are_answered_alike() {
    for kind in KINDS {
        let bytes = example(kind);
        let start = data_start(&bytes);
        let mut decoders = decoders(3);
        let (mut headers, mut data, mut ended) =
            (Counts::default(), Counts::default(), Counts::default());
        for at in 2..bytes.len() {
            for mask in [0x01, 0x10, 0x80, 0x55] {
                let mut damaged = bytes.clone();
                damaged[at] ^= mask;
                let verdicts: Vec<_> = decoders
                    .iter_mut()
                    .map(|(_, decoder)| top(decoder.as_mut(), &damaged))
                    .collect();
                let bad: Vec<bool> = verdicts.iter().map(Result::is_err).collect();
                if at < start && bad.iter().any(|b| *b != bad[0]) {
                    println!(
                        "{kind} byte {at} ({:02x}) mask {mask:02x}: {:?}",
                        bytes[at],
                        verdicts
                            .iter()
                            .map(|v| v.as_ref().err().map(ToString::to_string))
                            .collect::<Vec<_>>()
                    );
                }
                if at < start {
                    headers.add(&bad)
                } else {
                    data.add(&bad)
                }
            }
            if at > start {
                let mut damaged = bytes[..at].to_vec();
                damaged.extend([0xff, 0xd9]);
                let bad: Vec<bool> = decoders
                    .iter_mut()
                    .map(|(_, decoder)| top(decoder.as_mut(), &damaged).is_err())
                    .collect();
                ended.add(&bad);
            }
        }
        println!("{kind}: headers {headers:?}; data {data:?}; ended early {ended:?}");
    }
}
