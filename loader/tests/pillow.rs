//! The loader's resize against Pillow's bicubic filter: on the same pixels, and on JPEGs that each decodes for itself.
//! `tests/reference/resize_pillow.py` made the images.

use std::path::{Path, PathBuf};

use mae_loader::augment::Resizer;
use mae_loader::decode::{Decoder, ImageSize, PngDecoder, Rect, Region, Wanted, ZuneDecoder};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/resize")
}

/// Pixels, width and height.
fn read(file: &str, channels: usize) -> (Vec<u8>, ImageSize) {
    let bytes = std::fs::read(golden().join(file)).unwrap();
    let mut decoder: Box<dyn Decoder> = if file.ends_with(".jpg") {
        Box::new(ZuneDecoder::new(channels, 1 << 20))
    } else {
        Box::new(PngDecoder::new(channels, 1 << 20))
    };
    let whole = |size: ImageSize| Ok(Wanted::whole(size));
    let region = decoder.decode(&bytes, &mut { whole }).unwrap();
    (region.pixels.to_vec(), region.size)
}

#[test]
fn resize_agrees_with_pillow() {
    let text = std::fs::read_to_string(golden().join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    let jpegs = cases
        .iter()
        .filter(|case| case["image"].as_str().unwrap().ends_with(".jpg"));
    assert!(jpegs.clone().count() >= 10 && cases.len() - jpegs.count() >= 10);
    for case in cases {
        let number = |key: &str, at: usize| case[key][at].as_u64().unwrap() as u32;
        let name = case["image"].as_str().unwrap();
        let channels = if name.contains("gray") { 1 } else { 3 };
        let (pixels, size) = read(name, channels);
        let region = Region {
            pixels: &pixels,
            size,
            channels,
            x: 0,
            y: 0,
            scale: 1,
        };
        let part = Rect {
            x: number("part", 0),
            y: number("part", 1),
            width: number("part", 2),
            height: number("part", 3),
        };
        let size = ImageSize {
            width: number("size", 0),
            height: number("size", 1),
        };
        let (expected, expected_size) = read(case["resized"].as_str().unwrap(), channels);
        assert_eq!(expected_size, size);
        let mut found = vec![0; expected.len()];
        Resizer::new()
            .resize(&region, part, size, &mut found)
            .unwrap();
        let differences = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        let worst = differences.clone().max().unwrap();
        let mean = differences.map(f64::from).sum::<f64>() / expected.len() as f64;
        println!("{}: mean {mean:.3}, worst {worst}", case["resized"]);
        assert!(
            mean <= 1.0 && worst <= 3,
            "{}: mean {mean}, worst {worst}",
            case["resized"]
        );
    }
}
