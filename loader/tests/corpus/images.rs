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
    cases["cases"].as_array().unwrap().iter().map(case).collect()
}

/// The decoders of this build.
pub(crate) fn decoders(channels: usize) -> Vec<(&'static str, Box<dyn Decoder>)> {
    let mut decoders: Vec<(&str, Box<dyn Decoder>)> =
        vec![("zune", Box::new(ZuneDecoder::new(channels, LIMIT)))];
    #[cfg(feature = "turbo")]
    decoders.push((
        "turbo",
        Box::new(mae_loader::decode::TurboDecoder::new(
            channels,
            LIMIT,
            mae_loader::DecodeQuality::Exact,
        )),
    ));
    decoders
}

#[test]
fn probe() {
    for case in cases() {
        for (name, decoder) in &mut decoders(3) {
            let verdict = if case.bytes.starts_with(&[0xff, 0xd8]) {
                whole(decoder.as_mut(), &case.bytes)
            } else {
                whole(&mut PngDecoder::new(3, LIMIT), &case.bytes)
            };
            let told = match (&verdict, &case.expected) {
                (Err(bad), Expected::Bad(part)) if bad.to_string().contains(part) => {
                    format!("ok: {bad}")
                }
                (Err(bad), _) => format!("WRONG {bad}"),
                (Ok(_), Expected::Bad(_)) => "WRONG decodes".to_owned(),
                (Ok((found, found_size)), Expected::Pixels { pixels, size }) => {
                    if found_size != size {
                        "WRONG size".to_owned()
                    } else {
                        let d = found.iter().zip(pixels).map(|(a, b)| a.abs_diff(*b));
                        let worst = d.clone().max().unwrap();
                        let mean = d.map(f64::from).sum::<f64>() / pixels.len() as f64;
                        format!("mean {mean:.3} worst {worst}")
                    }
                }
            };
            println!("{name:6} {:40} {told}", case.file);
        }
    }
}
