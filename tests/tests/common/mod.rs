//! A small dataset and a small run of it, for the tests of training.

use std::path::Path;

use jpeg_encoder::{ColorType, Encoder};
use mae_loader::shard::{Limits, ShardTarget, ShardWriter};
use mae_trainer::RawPretrain;

/// Writes `samples` pictures of 20 × 20 pixels (a blob on a ramp, different for each) into `folder` as shards of 10, and
/// returns what names them.
pub(crate) fn shards(folder: &Path, samples: usize) -> String {
    shards_of(folder, samples, picture)
}

/// As [`shards`], of the JPEGs that `picture` makes.
pub(crate) fn shards_of(
    folder: &Path,
    samples: usize,
    picture: impl Fn(usize) -> Vec<u8>,
) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let target = ShardTarget::prepare(folder, "part-%06d.tar".parse().unwrap(), false).unwrap();
    let mut writer = ShardWriter::new(
        target,
        Limits {
            max_count: 10,
            ..Limits::default()
        },
    );
    for sample in 0..samples {
        writer
            .write(&format!("{sample:06}"), &[("jpg", &picture(sample))])
            .unwrap();
    }
    writer.finish(None).unwrap();
    folder.display().to_string()
}

/// Writes `samples` pictures of 20 × 20 pixels into `folder` as shards of 10, with the class that `label` gives each as `.cls`; even
/// classes are blueish, odd ones reddish.
#[allow(dead_code)] // Not every test has labels.
pub(crate) fn labelled_shards(folder: &Path, samples: usize, label: impl Fn(usize) -> usize) {
    std::fs::create_dir_all(folder).unwrap();
    let target = ShardTarget::prepare(folder, "part-%06d.tar".parse().unwrap(), false).unwrap();
    let limits = Limits {
        max_count: 10,
        ..Limits::default()
    };
    let mut writer = ShardWriter::new(target, limits);
    for sample in 0..samples {
        let class = label(sample);
        let rgb: Vec<u8> = (0..400)
            .flat_map(|pixel| {
                let noise = ((pixel * 37 + sample * 101) % 97) as u8;
                match class % 2 {
                    0 => [noise, noise / 2, 150 + noise],
                    _ => [150 + noise, noise / 2, noise],
                }
            })
            .collect();
        let mut jpeg = vec![];
        Encoder::new(&mut jpeg, 95)
            .encode(&rgb, 20, 20, ColorType::Rgb)
            .unwrap();
        let class = class.to_string();
        writer
            .write(
                &format!("{sample:06}"),
                &[("jpg", &jpeg), ("cls", class.as_bytes())],
            )
            .unwrap();
    }
    writer.finish(None).unwrap();
}

fn picture(sample: usize) -> Vec<u8> {
    const SIDE: usize = 20;
    let (x0, y0) = (sample * 7 % SIDE, sample * 11 % SIDE);
    let mut rgb = vec![];
    for y in 0..SIDE {
        for x in 0..SIDE {
            let near = x.abs_diff(x0) + y.abs_diff(y0) < 6;
            let ramp = (x * 12 + sample * 5) % 256;
            rgb.extend(if near {
                [250, (sample * 31 % 256) as u8, 10]
            } else {
                [ramp as u8, (y * 12) as u8, 90]
            });
        }
    }
    let mut jpeg = vec![];
    Encoder::new(&mut jpeg, 95)
        .encode(&rgb, SIDE as u16, SIDE as u16, ColorType::Rgb)
        .unwrap();
    jpeg
}

/// A run of 5 updates an epoch over 40 samples (with 20 batches of 2 and 4 an update), 3 epochs long.
pub(crate) fn small_run(data: &str, output: &Path) -> RawPretrain {
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
