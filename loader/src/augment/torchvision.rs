//! The paper's other crops and colour jitter against torchvision's on Pillow's images, of which `tests/reference/augment_torchvision.py` has
//! recorded what they make of small ones.

use std::path::PathBuf;

use serde::Deserialize;

use super::jitter::{self, Change};
use super::*;
use crate::decode::{Decoder, PngDecoder};

#[derive(Deserialize)]
struct Golden {
    cuts: Vec<CutCase>,
    orders: Vec<[usize; 3]>,
    jitters: Vec<JitterImage>,
}

/// Sizes and places are height or row first.
#[derive(Deserialize)]
struct CutCase {
    image: String,
    resize: u32,
    size: (u32, u32),
    resized: (u32, u32),
    kind: String,
    start: (u32, u32),
    file: String,
}

#[derive(Deserialize)]
struct JitterImage {
    file: String,
    height: u32,
    /// The order of brightness, contrast and saturation, and their factors.
    cases: Vec<([usize; 3], [f64; 3])>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/ablation")
}

fn golden() -> Golden {
    let text = std::fs::read_to_string(folder().join("cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Pixels and size.
fn read(file: &str, channels: usize) -> (Vec<u8>, ImageSize) {
    let bytes = std::fs::read(folder().join(file)).unwrap();
    let mut whole = |size| Ok(Wanted::whole(size));
    let mut decoder = PngDecoder::new(channels, 1 << 20);
    let region = decoder.decode(&bytes, &mut whole).unwrap();
    (region.pixels.to_vec(), region.size)
}

fn channels(file: &str) -> usize {
    if file.contains("gray") { 1 } else { 3 }
}

fn at(place: u64) -> Key {
    Key {
        seed: 0,
        epoch: 0,
        place,
        repeat: 0,
    }
}

#[test]
fn cuts_are_torchvisions() {
    let cuts = golden().cuts;
    assert!(cuts.len() >= 16);
    for case in cuts {
        let size = ImageSize {
            width: case.size.1,
            height: case.size.0,
        };
        let resize = case.resize;
        let crop = match case.kind.as_str() {
            "centre" => CropRule::Centre { resize },
            _ => CropRule::Fixed { resize },
        };
        let train = TrainTransform {
            crop,
            flip: false,
            ..TrainTransform::default()
        };
        let channels = channels(&case.image);
        let (pixels, image) = read(&case.image, channels);
        let mut augmenter = Augmenter::new(Transform::Train(train), size, 1 << 20);
        let mut draws = Draws::new(Purpose::Crop, at(0));
        let mut plan = augmenter.plan(image, &mut draws).unwrap();
        assert_eq!((plan.resized.height, plan.resized.width), case.resized);
        let start = (case.start.1, case.start.0);
        if case.kind == "centre" {
            assert_eq!(plan.offset, start, "{}", case.file);
        }
        plan.offset = start;
        let region = Region {
            pixels: &pixels,
            size: image,
            channels,
            x: 0,
            y: 0,
            scale: 1,
        };
        let (expected, expected_size) = read(&case.file, channels);
        assert_eq!(expected_size, size);
        let mut found = vec![0; expected.len()];
        augmenter.apply(&region, &plan, at(0), &mut found).unwrap();
        let differences = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        let worst = differences.clone().max().unwrap();
        let mean = differences.map(f64::from).sum::<f64>() / expected.len() as f64;
        println!("{}: mean {mean:.3}, worst {worst}", case.file);
        assert!(
            mean <= 1.0 && worst <= 3,
            "{}: mean {mean}, worst {worst}",
            case.file
        );
        // Where nothing is resampled, no value differs.
        assert!(plan.resized != image || worst == 0, "{}", case.file);
    }
}

#[test]
fn the_centre_is_evaluations() {
    let (pixels, image) = read("cut-wide.png", 3);
    let size = ImageSize {
        width: 32,
        height: 32,
    };
    let region = Region {
        pixels: &pixels,
        size: image,
        channels: 3,
        x: 0,
        y: 0,
        scale: 1,
    };
    let run = |transform| {
        let mut augmenter = Augmenter::new(transform, size, 1 << 20);
        let plan = augmenter.plan(image, &mut Draws::new(Purpose::Crop, at(3)));
        let mut out = vec![0; 32 * 32 * 3];
        augmenter
            .apply(&region, &plan.unwrap(), at(3), &mut out)
            .unwrap();
        out
    };
    let train = TrainTransform {
        crop: CropRule::Centre { resize: 37 },
        flip: false,
        ..TrainTransform::default()
    };
    let evaluated = run(Transform::Eval { resize: 37 });
    assert_eq!(run(Transform::Train(train)), evaluated);
    let mut mirrored = evaluated;
    flip_rows(&mut mirrored, 32, 3);
    let flipping = TrainTransform {
        flip: true,
        ..train
    };
    // At this place the coin says so.
    assert_eq!(run(Transform::Train(flipping)), mirrored);
}

#[test]
fn jitter_makes_pillows_pixels() {
    let golden = golden();
    assert_eq!(golden.orders.len(), 6);
    let mut compared = 0;
    for image in &golden.jitters {
        let channels = channels(&image.file);
        let (pixels, tall) = read(&image.file, channels);
        let mut tiles = pixels.chunks_exact(tall.width as usize * image.height as usize * channels);
        let source = tiles.next().unwrap();
        assert_eq!(tiles.len(), image.cases.len());
        for ((order, [brightness, contrast, saturation]), expected) in image.cases.iter().zip(tiles)
        {
            let changes = [
                Change::Brightness(*brightness),
                Change::Contrast(*contrast),
                Change::Saturation(*saturation),
            ];
            let mut found = source.to_vec();
            jitter::apply(order.map(|number| changes[number]), &mut found, channels);
            let differing = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{}: {order:?}, {changes:?}", image.file);
            compared += 1;
        }
    }
    assert!(compared >= 140, "{compared}");
}
