//! libjpeg-turbo's regions, scales and fast decoding against whole images decoded and resized, over real photographs.
#![cfg(feature = "turbo")]

use std::path::PathBuf;

use mae_loader::augment::Resizer;
use mae_loader::decode::{Decoder, ImageSize, Rect, TurboDecoder, Wanted, ZuneDecoder};
use mae_loader::{Dataset, DatasetOptions, DecodeQuality, SampleId};

const SIDE: u32 = 224;
const LIMIT: u64 = 1 << 26;

fn photographs() -> Option<Dataset> {
    let Some(root) = std::env::var_os("MAE_TEST_DATA") else {
        println!("skipped: MAE_TEST_DATA is not set");
        return None;
    };
    let spec = PathBuf::from(root).join("imagenet-sample");
    Some(Dataset::open(&[spec.to_str().unwrap()], &DatasetOptions::default()).unwrap())
}

/// How often values differ by so many levels.
struct Differences {
    counts: [u64; 256],
}

impl Differences {
    fn new() -> Self {
        Differences { counts: [0; 256] }
    }

    fn add(&mut self, a: &[u8], b: &[u8]) {
        assert_eq!(a.len(), b.len());
        for (&a, &b) in a.iter().zip(b) {
            self.counts[usize::from(a.abs_diff(b))] += 1;
        }
    }

    fn mean(&self) -> f64 {
        let total: u64 = self.counts.iter().sum();
        let sum: u64 = (0..)
            .zip(&self.counts)
            .map(|(level, count)| level * count)
            .sum();
        sum as f64 / total as f64
    }

    /// The level that all but a thousandth stay at or below.
    fn permille(&self) -> usize {
        let total: u64 = self.counts.iter().sum();
        let mut seen = 0;
        self.counts
            .iter()
            .position(|count| {
                seen += count;
                seen as f64 >= 0.999 * total as f64
            })
            .unwrap()
    }

    fn worst(&self) -> usize {
        self.counts.iter().rposition(|&count| count > 0).unwrap()
    }
}

/// Three parts of an image: most of it, about a half, about a fifth of its area, at places that change with `number`.
fn parts(size: ImageSize, number: u32) -> [Rect; 3] {
    [0.95f64, 0.7, 0.45].map(|share| {
        let length = |side: u32| ((f64::from(side) * share) as u32).max(1);
        let (width, height) = (length(size.width), length(size.height));
        Rect {
            x: number.wrapping_mul(7919) % (size.width - width + 1),
            y: number.wrapping_mul(104_729) % (size.height - height + 1),
            width,
            height,
        }
    })
}

/// `part` resized to a sample, decoded as if `least` pixels of it were enough.
fn sample(
    decoder: &mut dyn Decoder,
    resizer: &mut Resizer,
    bytes: &[u8],
    part: Rect,
    least: ImageSize,
) -> (Vec<u8>, u32) {
    let side = ImageSize {
        width: SIDE,
        height: SIDE,
    };
    let region = decoder
        .decode(bytes, &mut |_| Ok(Wanted { part, size: least }))
        .unwrap();
    let mut out = vec![0; (SIDE * SIDE * 3) as usize];
    resizer.resize(&region, part, side, &mut out).unwrap();
    (out, region.scale)
}

#[test]
fn regions_scales_and_fast_decoding_stay_near_whole_images() {
    let Some(dataset) = photographs() else {
        return;
    };
    let mut resizer = Resizer::new();
    let mut zune = ZuneDecoder::new(3, LIMIT);
    let mut exact = TurboDecoder::new(3, LIMIT, DecodeQuality::Exact);
    let mut fast = TurboDecoder::new(3, LIMIT, DecodeQuality::Fast);
    let (mut zune_whole, mut at_one, mut scaled, mut quick, mut quick_scaled) = (
        Differences::new(),
        Differences::new(),
        Differences::new(),
        Differences::new(),
        Differences::new(),
    );
    let mut bytes = Vec::new();
    let ids: Vec<SampleId> = dataset.ids().collect();
    for (number, &id) in (0..).zip(&ids) {
        dataset.read_image(id, &mut bytes).unwrap();
        let mut size = None;
        let _ = exact.decode(&bytes, &mut |image| {
            size = Some(image);
            Err(mae_loader::decode::BadImage::Truncated)
        });
        let size = size.unwrap();
        let whole = Rect {
            x: 0,
            y: 0,
            width: size.width,
            height: size.height,
        };
        let all = exact
            .decode(&bytes, &mut |_| Ok(Wanted { part: whole, size }))
            .unwrap();
        let pixels = all.pixels.to_vec();
        let all = mae_loader::decode::Region {
            pixels: &pixels,
            ..all
        };
        for part in parts(size, number) {
            let own = ImageSize {
                width: part.width,
                height: part.height,
            };
            let target = ImageSize {
                width: SIDE,
                height: SIDE,
            };
            // The reference: the whole image decoded, then this part of it resized.
            let mut full = vec![0; (SIDE * SIDE * 3) as usize];
            resizer.resize(&all, part, target, &mut full).unwrap();
            let (one, scale) = sample(&mut exact, &mut resizer, &bytes, part, own);
            assert_eq!(scale, 1);
            at_one.add(&full, &one);
            let (other, _) = sample(&mut zune, &mut resizer, &bytes, part, own);
            zune_whole.add(&full, &other);
            let (rough, _) = sample(&mut fast, &mut resizer, &bytes, part, own);
            quick.add(&full, &rough);
            let (small, scale) = sample(&mut exact, &mut resizer, &bytes, part, target);
            if scale > 1 {
                scaled.add(&full, &small);
                let (small, _) = sample(&mut fast, &mut resizer, &bytes, part, target);
                quick_scaled.add(&full, &small);
            }
        }
    }
    for (name, differences) in [
        ("turbo, region at scale 1", &at_one),
        ("zune, whole image", &zune_whole),
        ("turbo, where it scales", &scaled),
        ("turbo, fast, scale 1", &quick),
        ("turbo, fast, where it scales", &quick_scaled),
    ] {
        println!(
            "{name}: mean {:.4} level, 99.9th percentile {}, worst {}",
            differences.mean(),
            differences.permille(),
            differences.worst()
        );
    }
    assert_eq!(at_one.worst(), 0, "a region is cut from the whole image");
    assert!(zune_whole.mean() <= 0.5);
    assert!(scaled.mean() < 3.0 && quick.mean() < 3.0 && quick_scaled.mean() < 4.0);
}

/// The same samples are bad to both decoders: each photograph with one stretch of its data overwritten.
#[test]
fn decoders_agree_on_what_is_bad() {
    let Some(dataset) = photographs() else {
        return;
    };
    let mut zune = ZuneDecoder::new(3, LIMIT);
    let mut turbo = TurboDecoder::new(3, LIMIT, DecodeQuality::Exact);
    let mut bytes = Vec::new();
    let (mut both, mut only_zune, mut only_turbo, mut neither) = (0, 0, 0, 0);
    for (number, id) in (0usize..).zip(dataset.ids()) {
        dataset.read_image(id, &mut bytes).unwrap();
        let start = bytes.len() / 8 + number * 7919 % (bytes.len() * 3 / 4);
        match number % 3 {
            0 => bytes[start] ^= 0x10,
            1 => bytes[start..start + 16].fill(0),
            _ => {
                bytes.drain(start..start + 40);
            }
        }
        // Only a corner is wanted: what is wrong elsewhere counts all the same.
        let mut corner = |size: ImageSize| {
            let part = Rect {
                x: 0,
                y: 0,
                width: size.width.min(32),
                height: size.height.min(32),
            };
            let size = ImageSize {
                width: part.width,
                height: part.height,
            };
            Ok(Wanted { part, size })
        };
        let verdicts = (
            zune.decode(&bytes, &mut corner).is_err(),
            turbo.decode(&bytes, &mut corner).is_err(),
        );
        match verdicts {
            (true, true) => both += 1,
            (true, false) => only_zune += 1,
            (false, true) => only_turbo += 1,
            (false, false) => neither += 1,
        }
    }
    println!(
        "bad to both {both}, to zune only {only_zune}, to turbo only {only_turbo}, to neither {neither}"
    );
    // Of how a progressive image's first scan ends, zune tells nothing.
    let (apart, all) = (
        only_zune + only_turbo,
        both + only_zune + only_turbo + neither,
    );
    assert!(apart * 100 <= all, "{apart} of {all}");
}
