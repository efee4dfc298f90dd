//! Operations against those of timm and Pillow, of which `tests/reference/augment_pillow.py` has recorded what they make of small images.

use std::path::PathBuf;

use proptest::prelude::*;
use serde::Deserialize;

use super::operation::KINDS;
use super::*;
use crate::decode::{Decoder, PngDecoder, Wanted};
use crate::rng::{Key, Purpose};

#[derive(Deserialize)]
struct Golden {
    fill: [u8; 3],
    images: Vec<ImageCases>,
    arguments: Vec<ArgumentCase>,
}

#[derive(Deserialize)]
struct ImageCases {
    file: String,
    height: u32,
    cases: Vec<(String, Option<f64>)>,
}

#[derive(Deserialize)]
struct ArgumentCase {
    operation: String,
    magnitude: f64,
    negated: bool,
    argument: f64,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/augment")
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

/// The number of timm's operation of a name.
fn kind(name: &str) -> u32 {
    let names = [
        "AutoContrast",
        "Equalize",
        "Invert",
        "Rotate",
        "PosterizeIncreasing",
        "SolarizeIncreasing",
        "SolarizeAdd",
        "ColorIncreasing",
        "ContrastIncreasing",
        "BrightnessIncreasing",
        "SharpnessIncreasing",
        "ShearX",
        "ShearY",
        "TranslateXRel",
        "TranslateYRel",
    ];
    assert_eq!(names.len(), KINDS as usize);
    names.iter().position(|&other| other == name).unwrap() as u32
}

/// The operation of timm's name with an argument.
fn operation(name: &str, argument: Option<f64>) -> Operation {
    let argument = argument.unwrap_or(0.0);
    match Operation::of_kind(kind(name), 0.0, &mut || false) {
        Operation::Rotate(_) => Operation::Rotate(argument),
        Operation::Posterize(_) => Operation::Posterize(argument as u32),
        Operation::Solarize(_) => Operation::Solarize(argument as u32),
        Operation::SolarizeAdd(_) => Operation::SolarizeAdd(argument as u32),
        Operation::Color(_) => Operation::Color(argument),
        Operation::Contrast(_) => Operation::Contrast(argument),
        Operation::Brightness(_) => Operation::Brightness(argument),
        Operation::Sharpness(_) => Operation::Sharpness(argument),
        Operation::ShearX(_) => Operation::ShearX(argument),
        Operation::ShearY(_) => Operation::ShearY(argument),
        Operation::TranslateX(_) => Operation::TranslateX(argument),
        Operation::TranslateY(_) => Operation::TranslateY(argument),
        other => other,
    }
}

#[test]
fn operations_make_pillows_pixels() {
    let golden = golden();
    let mut compared = 0;
    for image in &golden.images {
        let channels = match image.file.as_str() {
            "gray.png" | "column.png" => 1,
            _ => 3,
        };
        let (pixels, tall) = read(&image.file, channels);
        let size = ImageSize {
            width: tall.width,
            height: image.height,
        };
        let mut augmenter = RandAugmenter::new(RandAugment::default(), size, golden.fill);
        let mut tiles = pixels.chunks_exact(size.width as usize * size.height as usize * channels);
        let source = tiles.next().unwrap();
        assert_eq!(tiles.len(), image.cases.len());
        for ((name, argument), expected) in image.cases.iter().zip(tiles) {
            let mut found = source.to_vec();
            augmenter.apply(operation(name, *argument), &mut found, channels);
            let differing = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{}: {name} {argument:?}", image.file);
            compared += 1;
        }
    }
    assert!(compared > 250, "{compared}");
}

/// Pillow 13 has no posterising to nothing; what earlier versions made of it.
#[test]
fn no_bits_are_black() {
    assert!(tables::posterize(0).iter().all(|&value| value == 0));
}

#[test]
fn strengths_are_timms() {
    for case in golden().arguments {
        let level = case.magnitude / 10.0;
        let found = Operation::of_kind(kind(&case.operation), level, &mut || case.negated);
        let (_, found) = found.numbered();
        // Fewer than no bits do as none.
        let expected = match case.operation.as_str() {
            "PosterizeIncreasing" => case.argument.max(0.0),
            _ => case.argument,
        };
        assert!(
            (found - expected).abs() <= 1e-12,
            "{} at {}: {found}, not {expected}",
            case.operation,
            case.magnitude
        );
    }
}

proptest! {
    #[test]
    fn no_image_and_no_strength_is_too_much(
        width in 1u32..40, height in prop_oneof![Just(1u32), 1u32..40], channels in prop_oneof![Just(1usize), Just(3)],
        kind in 0..KINDS, level in prop_oneof![0.0f64..1.0, Just(0.0), Just(10.0)], negated: bool, seed: u8,
    ) {
        let pixels = width as usize * height as usize * channels;
        let mut pixels: Vec<u8> = (0..pixels).map(|i| (i * 37) as u8 ^ seed).collect();
        let size = ImageSize { width, height };
        let mut augmenter = RandAugmenter::new(RandAugment::default(), size, [1, 2, 3]);
        augmenter.apply(Operation::of_kind(kind, level, &mut || negated), &mut pixels, channels);
    }
}

#[test]
fn what_an_image_becomes_depends_on_its_draws_alone() {
    let policy: RandAugment = "rand-m9-n4-p1-mstd0.5-inc1".parse().unwrap();
    let size = ImageSize {
        width: 19,
        height: 14,
    };
    let run = |augmenter: &mut RandAugmenter, place: u64, channels: usize| {
        let key = Key {
            seed: 2,
            epoch: 1,
            place,
            repeat: 0,
        };
        let mut pixels: Vec<u8> = (0..19 * 14 * channels)
            .map(|i| (i * 91 % 253) as u8)
            .collect();
        augmenter.augment(
            &mut Draws::new(Purpose::Augment, key),
            &mut pixels,
            channels,
        );
        pixels
    };
    let new = || RandAugmenter::new(policy, size, [9, 8, 7]);
    let mut used = new();
    for place in 0..40 {
        for channels in [3, 1] {
            let pixels = run(&mut used, place, channels);
            assert_eq!(pixels, run(&mut new(), place, channels));
        }
    }
}
