//! What the tests of training and evaluation share: small data sets on disk, and a small run over one.
//!
//! Beside it, this package holds the tests that cross the crates' borders (`tests/`), the scripts that make their golden numbers
//! (`reference/`) and the checks against peers (`peers/`).

use std::path::Path;

use jpeg_encoder::{ColorType, Encoder};
use mae_loader::shard::{Limits, ShardTarget, ShardWriter};
use mae_trainer::RawPretrain;

/// What a sample of a data set is made of.
pub struct Sample {
    /// The image.
    pub jpeg: Vec<u8>,
    /// The content of its `.cls`, if it has one.
    pub class: Option<String>,
}

/// Writes `samples` samples with keys of six digits into `folder` as shards of 10, and returns what names them.
pub fn write(folder: &Path, samples: usize, sample: impl Fn(usize) -> Sample) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let target = ShardTarget::prepare(folder, "part-%06d.tar".parse().unwrap(), false).unwrap();
    let limits = Limits {
        max_count: 10,
        ..Limits::default()
    };
    let mut writer = ShardWriter::new(target, limits);
    for number in 0..samples {
        let Sample { jpeg, class } = sample(number);
        let mut members = vec![("jpg", jpeg.as_slice())];
        if let Some(class) = &class {
            members.push(("cls", class.as_bytes()));
        }
        writer.write(&format!("{number:06}"), &members).unwrap();
    }
    writer.finish(None).unwrap();
    folder.display().to_string()
}

/// A JPEG of quality 95 whose pixels are those that `pixel` gives for column and row.
pub fn jpeg(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height)
        .flat_map(|i| pixel(i % width, i / width))
        .collect();
    let mut jpeg = vec![];
    Encoder::new(&mut jpeg, 95)
        .encode(&pixels, width as u16, height as u16, ColorType::Rgb)
        .unwrap();
    jpeg
}

/// As [`write()`], pictures of 20 × 20 pixels: a blob on a ramp, different for each.
pub fn shards(folder: &Path, samples: usize) -> String {
    let picture = |sample: usize| {
        let (x0, y0) = (sample * 7 % 20, sample * 11 % 20);
        jpeg(20, 20, |x, y| {
            if x.abs_diff(x0) + y.abs_diff(y0) < 6 {
                [250, (sample * 31 % 256) as u8, 10]
            } else {
                let ramp = (x * 12 + sample * 5) % 256;
                [ramp as u8, (y * 12) as u8, 90]
            }
        })
    };
    write(folder, samples, |sample| Sample {
        jpeg: picture(sample),
        class: None,
    })
}

/// As [`write()`], pictures of 20 × 20 pixels with the class that `label` gives each; even classes are blueish, odd ones reddish.
pub fn labelled_shards(folder: &Path, samples: usize, label: impl Fn(usize) -> usize) -> String {
    write(folder, samples, |sample| {
        let class = label(sample);
        let jpeg = jpeg(20, 20, |x, y| {
            let noise = (((y * 20 + x) * 37 + sample * 101) % 97) as u8;
            match class % 2 {
                0 => [noise, noise / 2, 150 + noise],
                _ => [150 + noise, noise / 2, noise],
            }
        });
        Sample {
            jpeg,
            class: Some(class.to_string()),
        }
    })
}

/// A run of 5 updates an epoch over 40 samples (with 20 batches of 2 and 4 an update), 3 epochs long.
pub fn small_run(data: &str, output: &Path) -> RawPretrain {
    RawPretrain {
        data: Some(vec![data.to_owned()]),
        output_dir: Some(output.to_owned()),
        model: Some("mae-micro-patch4".to_owned()),
        input_size: Some("16".parse().unwrap()),
        dim: Some(24),
        depth: Some(2),
        heads: Some(2),
        decoder_dim: Some(16),
        decoder_depth: Some(1),
        decoder_heads: Some(2),
        batch_size: Some(2),
        accum_iter: Some(4),
        epochs: Some(3),
        warmup_epochs: Some(1.0),
        lr: Some(2e-3),
        clip_grad: Some(0.5),
        seed: Some(7),
        threads: Some(2),
        log_every: Some(1),
        picture_every: Some(0),
        ..Default::default()
    }
}
