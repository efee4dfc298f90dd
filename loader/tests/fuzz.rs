//! Whatever comes in, there is an answer: properties of all that reads what others wrote, tried on inputs that were right once and then
//! changed. Some seconds in all; with `MAE_FUZZ_SECONDS=N` each target takes N seconds, on inputs that are new each time.

mod common;
mod mutation;

use std::path::Path;
use std::sync::Arc;

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use mae_loader::decode::{
    BadImage, Decoder, PngDecoder, Rect, Region, Wanted, ZuneDecoder, jpeg_channels,
};
use mae_loader::shard::{BuildOptions, build_index};
use mae_loader::spec::{Place, resolve};
use mae_loader::{Cursor, Dataset, DatasetOptions, ImageSize, LabelSource, Loader};
use proptest::prelude::*;

use mutation::{fuzz, mutated};

/// The most pixels that the decoders here are allowed.
const MAX_PIXELS: u64 = 1 << 16;

/// All kinds that the encoder makes: sampling, restarts, progressive, gray, four components.
fn jpegs() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let samplings = [
        SamplingFactor::F_1_1,
        SamplingFactor::F_2_2,
        SamplingFactor::F_2_1,
        SamplingFactor::F_1_2,
    ];
    for (number, sampling) in samplings.into_iter().enumerate() {
        for progressive in [false, true] {
            for (colour, channels) in [
                (ColorType::Rgb, 3),
                (ColorType::Luma, 1),
                (ColorType::Cmyk, 4),
                (ColorType::CmykAsYcck, 4),
            ] {
                let (width, height) = (19 + number * 8, 35);
                let pixels: Vec<u8> = (0..width * height * channels)
                    .map(|i| {
                        ((i as u32).wrapping_mul(0x9e37_79b9) >> 26) as u8 + (i / 29) as u8 % 128
                    })
                    .collect();
                let mut bytes = Vec::new();
                let mut encoder = Encoder::new(&mut bytes, 80);
                encoder.set_sampling_factor(sampling);
                encoder.set_progressive(progressive);
                if number % 2 == 1 {
                    encoder.set_restart_interval(2);
                }
                encoder
                    .encode(&pixels, width as u16, height as u16, colour)
                    .unwrap();
                all.push(bytes);
            }
        }
    }
    all
}

fn pngs() -> Vec<Vec<u8>> {
    use png::{BitDepth, ColorType};
    let kinds = [
        (ColorType::Rgb, BitDepth::Eight, 3 * 21),
        (ColorType::Rgba, BitDepth::Sixteen, 8 * 21),
        (ColorType::Grayscale, BitDepth::One, 3),
        (ColorType::GrayscaleAlpha, BitDepth::Eight, 2 * 21),
        (ColorType::Indexed, BitDepth::Four, 11),
    ];
    let encode = |(colour, depth, row): (ColorType, BitDepth, usize)| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 21, 9);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette((0..48).collect::<Vec<u8>>());
            encoder.set_trns(vec![9; 16]);
        }
        let data: Vec<u8> = (0..row * 9).map(|i| (i * 7) as u8).collect();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&data).unwrap();
        writer.finish().unwrap();
        bytes
    };
    kinds.into_iter().map(encode).collect()
}

/// Asks for a part of the image, a few pixels large.
fn part(size: ImageSize) -> Wanted {
    let (width, height) = (size.width.div_ceil(3), size.height.div_ceil(2));
    Wanted {
        part: Rect {
            x: size.width - width,
            y: size.height - height,
            width,
            height,
        },
        size: ImageSize {
            width: width.div_ceil(2),
            height: height.div_ceil(3),
        },
    }
}

/// Decodes, and checks what a decoder promises of the region.
fn decode(decoder: &mut dyn Decoder, channels: usize, bytes: &[u8]) -> Result<Vec<u8>, BadImage> {
    let mut asked = None;
    let decoded = decoder.decode(bytes, &mut |size| {
        assert!(asked.is_none(), "asked once");
        assert!(size.width > 0 && size.height > 0);
        asked = Some(size);
        Ok(part(size))
    });
    let Region {
        pixels,
        size,
        channels: found,
        x,
        y,
        scale,
    } = decoded?;
    let image = asked.expect("asked before decoding");
    assert!(u64::from(image.width) * u64::from(image.height) <= MAX_PIXELS);
    assert_eq!(found, channels);
    assert_eq!(
        pixels.len(),
        size.width as usize * size.height as usize * channels
    );
    let wanted = part(image).part;
    assert!(x <= wanted.x && y <= wanted.y);
    assert!(x + size.width * scale >= wanted.x + wanted.width);
    assert!(y + size.height * scale >= wanted.y + wanted.height);
    Ok(pixels.to_vec())
}

/// The answer is the same from a decoder that has seen other images and from a fresh one.
fn decodes_alike(
    used: &mut dyn Decoder,
    fresh: &mut dyn Decoder,
    channels: usize,
    bytes: &[u8],
) -> Result<bool, TestCaseError> {
    let answer = decode(used, channels, bytes);
    prop_assert_eq!(&answer, &decode(fresh, channels, bytes));
    Ok(answer.is_ok())
}

#[test]
fn jpeg_headers() {
    // Only what comes before the coded data, so that each change is to a header; then all of it.
    let heads = jpegs().into_iter().map(|mut bytes| {
        let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]);
        bytes.truncate(scan.unwrap() + 14);
        bytes
    });
    let originals = heads.chain(jpegs()).collect();
    fuzz("JPEG headers", 3000, &mutated(originals), |bytes| {
        if let Ok(channels) = jpeg_channels(&bytes) {
            prop_assert!([1, 3, 4].contains(&channels), "{} channels", channels);
            return Ok(true);
        }
        if bytes.starts_with(&[0xff, 0xd8]) {
            let refused = decode(&mut ZuneDecoder::new(3, MAX_PIXELS), 3, &bytes);
            prop_assert!(refused.is_err(), "the headers are bad, the image is not");
        }
        Ok(false)
    });
}

#[test]
fn zune() {
    let used =
        std::cell::RefCell::new([1, 3].map(|channels| ZuneDecoder::new(channels, MAX_PIXELS)));
    fuzz("zune", 1500, &mutated(jpegs()), |bytes| {
        let mut all_good = true;
        for (decoder, channels) in used.borrow_mut().iter_mut().zip([1, 3]) {
            let mut fresh = ZuneDecoder::new(channels, MAX_PIXELS);
            let good = decodes_alike(decoder, &mut fresh, channels, &bytes)?;
            prop_assert!(!good || jpeg_channels(&bytes).is_ok());
            all_good &= good;
        }
        Ok(all_good)
    });
}

#[cfg(feature = "turbo")]
#[test]
fn turbo() {
    use mae_loader::DecodeQuality;
    use mae_loader::decode::TurboDecoder;

    let make = |channels, quality| TurboDecoder::new(channels, MAX_PIXELS, quality);
    let kinds = [
        (1, DecodeQuality::Exact),
        (3, DecodeQuality::Exact),
        (3, DecodeQuality::Fast),
    ];
    let used = std::cell::RefCell::new(kinds.map(|(channels, quality)| make(channels, quality)));
    fuzz("turbo", 1500, &mutated(jpegs()), |bytes| {
        let mut all_good = true;
        for (decoder, (channels, quality)) in used.borrow_mut().iter_mut().zip(kinds) {
            let good = decodes_alike(decoder, &mut make(channels, quality), channels, &bytes)?;
            prop_assert!(!good || jpeg_channels(&bytes).is_ok());
            all_good &= good;
        }
        Ok(all_good)
    });
}

#[test]
fn png() {
    let used =
        std::cell::RefCell::new([1, 3].map(|channels| PngDecoder::new(channels, MAX_PIXELS)));
    fuzz("png", 1500, &mutated(pngs()), |bytes| {
        let mut all_good = true;
        for (decoder, channels) in used.borrow_mut().iter_mut().zip([1, 3]) {
            let mut fresh = PngDecoder::new(channels, MAX_PIXELS);
            all_good &= decodes_alike(decoder, &mut fresh, channels, &bytes)?;
        }
        Ok(all_good)
    });
}

/// Names that fit a header, that take a GNU long name, and that take a pax header.
fn tars() -> Vec<Vec<u8>> {
    let long = format!("{}/7.cls", "folder/".repeat(30));
    let files = [
        ("1.jpg", 700),
        ("1.cls", 1),
        ("a/2.seg.png", 30),
        ("a/2.JPG", 512),
        (&*long, 0),
    ];
    let write = |header: fn() -> tar::Header, pax: bool| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, size) in files {
            if pax {
                let records = [("path", name.as_bytes()), ("mtime", b"1.5")];
                tar.append_pax_extensions(records).unwrap();
            }
            let mut header = header();
            header.set_size(size);
            header.set_mode(0o644);
            let data = vec![b'3'; size as usize];
            tar.append_data(&mut header, name, &data[..]).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let gnu = write(tar::Header::new_gnu, false);
    let pax = write(tar::Header::new_ustar, true);
    let twice = [&gnu[..], &pax[..]].concat();
    vec![gnu, pax, twice]
}

/// Sums of the headers at multiples of 512 are made right again, where there is anything like a header: else no change to one gets any
/// further than the sum.
fn mend_sums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

/// Reads all that an opened data set says that it has. It may fail, but nothing else.
fn read_all(dataset: &Dataset) {
    let mut buffer = Vec::new();
    for id in dataset.ids() {
        for member in dataset.members(id) {
            if dataset.read_member(id, member, &mut buffer).is_ok() {
                assert_eq!(buffer.len() as u64, member.size);
            }
        }
        let _ = dataset.read_image(id, &mut buffer);
        let _ = dataset.label(id);
    }
}

fn unlabelled() -> DatasetOptions {
    DatasetOptions {
        labels: LabelSource::None,
        ..DatasetOptions::default()
    }
}

/// What is true of every shard that opens: members lie in the tar, in its order, and make samples of differing keys and suffixes.
fn check_table(path: &Path, dataset: &Dataset) -> Result<(), TestCaseError> {
    let length = std::fs::metadata(path).unwrap().len();
    let (mut end, mut last) = (0, None);
    for sample in dataset.table(0).samples() {
        prop_assert!(!sample.members.is_empty() && last != Some(sample.key));
        last = Some(sample.key);
        for (place, member) in sample.members.iter().enumerate() {
            prop_assert!(
                member.offset >= end + 512,
                "{} after {}",
                member.offset,
                end
            );
            end = member.offset + member.size;
            prop_assert!(end <= length);
            prop_assert!(!member.suffix.is_empty());
            let before = &sample.members[..place];
            prop_assert!(before.iter().all(|other| other.suffix != member.suffix));
        }
    }
    Ok(())
}

#[test]
fn tar_scan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let spec = path.display().to_string();
    let input = (mutated(tars()), any::<bool>());
    fuzz("tar scan", 400, &input, |(mut bytes, mend)| {
        if mend {
            mend_sums(&mut bytes);
        }
        let _ = std::fs::remove_file(folder.path().join("index.json"));
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(labelled) = Dataset::open(&[&spec], &DatasetOptions::default()) {
            read_all(&labelled);
        }
        let Ok(scanned) = Dataset::open(&[&spec], &unlabelled()) else {
            return Ok(false);
        };
        check_table(&path, &scanned)?;
        read_all(&scanned);
        // The way through an index and back changes nothing.
        build_index(&[&spec], &BuildOptions::default()).unwrap();
        let indexed = Dataset::open(&[&spec], &unlabelled()).unwrap();
        prop_assert!(indexed.shards()[0].indexed, "{:?}", indexed.shards()[0]);
        prop_assert_eq!(indexed.table(0), scanned.table(0));
        prop_assert_eq!(indexed.digest(), scanned.digest());
        Ok(true)
    });
}

#[test]
fn grouping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let spec = path.display().to_string();
    let word = prop::sample::select(vec![
        "a", "b", ".", ".", "/", "jpg", "JPG", "cls", "__", "é", " ", "\\", "0", "..", "a.jpg",
        "b.jpg", ".png",
    ]);
    let name = prop::collection::vec(word, 1..7).prop_map(|words| words.concat());
    let names = prop::collection::vec(name, 0..12);
    fuzz("grouping", 300, &names, |names| {
        let mut tar = tar::Builder::new(Vec::new());
        for name in &names {
            // The library would refuse names such as `../x`, so they are put in by hand.
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(1);
            header.set_cksum();
            tar.append(&header, &b"1"[..]).unwrap();
        }
        std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
        let dataset = Dataset::open(&[&spec], &unlabelled());
        if let Ok(dataset) = &dataset {
            check_table(&path, dataset)?;
            read_all(dataset);
        }
        Ok(dataset.is_ok())
    });
}

#[test]
fn index() {
    let folder = tempfile::tempdir().unwrap();
    let tar = &tars()[0];
    std::fs::write(folder.path().join("a.tar"), tar).unwrap();
    let all = folder.path().display().to_string();
    build_index(&[&all], &BuildOptions::default()).unwrap();
    let path = folder.path().join("index.json");
    let original = std::fs::read(&path).unwrap();
    let itself = path.display().to_string();
    fuzz("index", 500, &mutated(vec![original]), |bytes| {
        std::fs::write(&path, &bytes).unwrap();
        let mut used = false;
        for spec in [&all, &itself] {
            if let Ok(dataset) = Dataset::open(&[spec], &unlabelled()) {
                used |= dataset.shards().iter().any(|shard| shard.indexed);
                read_all(&dataset);
                for shard in 0..dataset.shards().len() {
                    for sample in dataset.table(shard as u32).samples() {
                        for member in sample.members {
                            prop_assert!(member.offset + member.size <= tar.len() as u64);
                        }
                    }
                }
            }
        }
        Ok(used)
    });
}

#[test]
fn specs() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a-0.tar", "a-1.tar", "a.tar", "sub.tar"] {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    let list = folder.path().join("list.txt");
    let word = prop::sample::select(vec![
        "a-{0..1}.tar",
        "{0,1}",
        "{",
        "{",
        "}",
        "}",
        ",",
        ",",
        "..",
        "..",
        "::",
        "a",
        "z",
        "0",
        "9",
        "-",
        "\\",
        "*",
        "?",
        "[",
        "]",
        "a-",
        ".tar",
        "é",
        " ",
        "$",
        "000",
        "9999999999",
        "18446744073709551616",
        "pipe:",
        "file:",
        "https://host/x",
        "s3://b/x",
        "ftp://h",
        "sub",
        "#",
        "\n",
    ]);
    let text = prop::collection::vec(word, 0..14).prop_map(|words| words.concat());
    fuzz("specs", 2000, &text, |text| {
        let here = format!("{}/{text}", folder.path().display());
        let mut good = false;
        for spec in [&text, &here] {
            if let Ok(set) = resolve(&[spec]) {
                prop_assert!((1..=1_000_000).contains(&set.shards.len()));
                good = true;
            }
        }
        // A command runs from a list under no circumstances.
        std::fs::write(&list, &text).unwrap();
        if let Ok(set) = resolve(&[list.display().to_string()]) {
            let pipe = set
                .shards
                .iter()
                .find(|shard| matches!(shard.place, Place::Pipe(_)));
            prop_assert!(pipe.is_none(), "{:?}", pipe);
        }
        Ok(good)
    });
}

#[test]
fn masks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let image = || common::jpeg((8, 8), |_| {}, |i| i as u8);
    common::tar(
        &path,
        (0..6).map(|number| (format!("{number}.jpg"), image())),
    );
    let dataset = Dataset::open(&[path.display().to_string()], &unlabelled()).unwrap();
    let dataset = Arc::new(dataset);
    let input = (
        1usize..400,
        any::<prop::sample::Index>(),
        any::<u64>(),
        1usize..4,
    );
    fuzz("masks", 200, &input, |(patches, keep, seed, repeats)| {
        let keep = keep.index(patches + 2);
        let loader = Loader::builder(Arc::clone(&dataset))
            .image_size(4, 4)
            .batch_size(2 * repeats)
            .repeats(repeats)
            .masks(patches, keep)
            .seed(seed)
            .threads(1)
            .build();
        if keep == 0 || keep > patches {
            prop_assert!(loader.is_err());
            return Ok(false);
        }
        for batch in loader.unwrap().batches(Cursor::default()) {
            let batch = batch.unwrap();
            prop_assert_eq!(batch.ids_keep().len(), batch.len() * keep);
            prop_assert_eq!(batch.ids_restore().len(), batch.len() * patches);
            let rows = batch.ids_keep().chunks(keep);
            for (kept, restore) in rows.zip(batch.ids_restore().chunks(patches)) {
                prop_assert!(kept.is_sorted_by(|a, b| a < b));
                let mut shuffled = vec![u32::MAX; patches];
                for (patch, &place) in restore.iter().enumerate() {
                    shuffled[place as usize] = patch as u32;
                }
                prop_assert!(!shuffled.contains(&u32::MAX), "not a permutation");
                prop_assert_eq!(&shuffled[..keep], kept);
                prop_assert!(shuffled[keep..].is_sorted_by(|a, b| a < b));
            }
        }
        Ok(true)
    });
}
