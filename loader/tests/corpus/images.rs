//! Images of every kind that a member called `.jpg` may turn out to be.

use std::path::{Path, PathBuf};

use mae_loader::decode::{BadImage, Decoder, ImageSize, PngDecoder, Wanted, ZuneDecoder};

/// Pixels that are allowed: more than any image here has, less than those of the largest claims.
pub(crate) const LIMIT: u64 = 89_000_000;

/// A folder beside the reference scripts.
pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/corpus")
}

/// What stands in `cases.json`.
pub(crate) struct Case {
    pub(crate) file: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expected: Expected,
}

pub(crate) enum Expected {
    /// RGB, as Pillow's.
    Pixels { pixels: Vec<u8>, size: ImageSize },
    /// Refused, for a reason that holds this text.
    Bad(String),
}

/// Pixels and size, or why not.
pub(crate) type Verdict = Result<(Vec<u8>, ImageSize), BadImage>;

pub(crate) fn whole(decoder: &mut dyn Decoder, bytes: &[u8]) -> Verdict {
    let region = decoder.decode(bytes, &mut |size| Ok(Wanted::whole(size)))?;
    Ok((region.pixels.to_vec(), region.size))
}

pub(crate) fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(golden().join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let read = |file: &str| std::fs::read(golden().join(file)).unwrap();
    let case = |case: &serde_json::Value| {
        let file = case["file"].as_str().unwrap();
        let expected = match case["pixels"].as_str() {
            Some(png) => {
                let (pixels, size) = whole(&mut PngDecoder::new(3, LIMIT), &read(png)).unwrap();
                Expected::Pixels { pixels, size }
            }
            None => Expected::Bad(case["bad"].as_str().unwrap().to_owned()),
        };
        Case {
            file: file.to_owned(),
            bytes: read(file),
            expected,
        }
    };
    cases["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(case)
        .collect()
}

/// A decoder and its name.
pub(crate) type Named = (&'static str, Box<dyn Decoder>);

/// The decoders of this build.
pub(crate) fn decoders(channels: usize) -> Vec<Named> {
    let zune: Named = ("zune", Box::new(ZuneDecoder::new(channels, LIMIT)));
    [Some(zune), turbo(channels)]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(feature = "turbo")]
fn turbo(channels: usize) -> Option<Named> {
    let quality = mae_loader::DecodeQuality::Exact;
    let decoder = mae_loader::decode::TurboDecoder::new(channels, LIMIT, quality);
    Some(("turbo", Box::new(decoder)))
}

#[cfg(not(feature = "turbo"))]
fn turbo(_channels: usize) -> Option<Named> {
    None
}

/// How far a decoder's pixels may be from Pillow's: on the mean, and at worst. libjpeg-turbo is what Pillow decodes with.
fn tolerance(decoder: &str, pixels: &[u8]) -> (f64, u8) {
    match decoder {
        "turbo" => (0.01, 1),
        // Rounding of the transform and of interpolated chroma; of a few pixels the mean says little.
        _ if pixels.len() < 3 * 300 => (2.0, 10),
        _ => (0.5, 5),
    }
}

#[test]
fn images_are_those_of_pillow_or_bad_for_the_reason() {
    let cases = cases();
    assert!(cases.len() > 100);
    let mut wrong = Vec::new();
    for case in &cases {
        let file = &case.file;
        let mut decoders = match &case.bytes[..] {
            [0xff, 0xd8, ..] => decoders(3),
            [0x89, b'P', ..] => vec![(
                "png",
                Box::new(PngDecoder::new(3, LIMIT)) as Box<dyn Decoder>,
            )],
            // What is neither does not come to a decoder.
            _ => continue,
        };
        for (name, decoder) in &mut decoders {
            match (whole(decoder.as_mut(), &case.bytes), &case.expected) {
                (Err(bad), Expected::Bad(reason)) if bad.to_string().contains(reason) => {}
                (Ok((found, found_size)), Expected::Pixels { pixels, size }) => {
                    assert_eq!(found_size, *size, "{name}, {file}");
                    let differences = found.iter().zip(pixels).map(|(a, b)| a.abs_diff(*b));
                    let worst = differences.clone().max().unwrap();
                    let mean = differences.map(f64::from).sum::<f64>() / pixels.len() as f64;
                    let allowed = tolerance(name, pixels);
                    if mean > allowed.0 || worst > allowed.1 {
                        wrong.push(format!("{name}, {file}: mean {mean:.3}, worst {worst}"));
                    }
                }
                (Err(bad), _) => wrong.push(format!("{name}, {file}: {bad}")),
                (Ok(_), Expected::Bad(_)) => wrong.push(format!("{name}, {file}: decoded")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What an image looks like does not depend on those before it, good or bad.
#[test]
fn images_leave_nothing_behind() {
    let cases = cases();
    let jpegs: Vec<_> = cases
        .iter()
        .filter(|case| case.bytes.starts_with(&[0xff, 0xd8]))
        .collect();
    for (place, (_, used)) in decoders(3).iter_mut().enumerate() {
        // Forth, and back.
        for case in jpegs.iter().chain(jpegs.iter().rev()) {
            let fresh = &mut decoders(3)[place].1;
            assert_eq!(
                whole(used.as_mut(), &case.bytes),
                whole(fresh.as_mut(), &case.bytes),
                "{}",
                case.file
            );
        }
    }
}
