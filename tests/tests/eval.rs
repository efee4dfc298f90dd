//! Evaluations over a dataset on disk: every sample once and in order, whatever the batches; the same numbers as by hand.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use jpeg_encoder::{ColorType, Encoder};
use mae_loader::shard::{Limits, ShardTarget, ShardWriter};
use mae_loader::{Cursor, Dataset, DatasetOptions, LabelSource, Loader, Transform};
use mae_model::{Mae, MaeConfig};
use mae_trainer::eval::features::{Extractor, FeaturePooling, features};
use mae_trainer::eval::loss::masked_loss;
use mae_trainer::eval::reconstruct::reconstruct;
use mae_trainer::eval::{EvalError, StreamOptions};

const SIDE: usize = 16;
const SAMPLES: usize = 23;
const MASK: (f64, u64) = (0.75, 5);

/// Pictures of flat colours with a corner, in shards of 10, with the classes 0, 1, 2 in turn.
fn dataset(folder: &Path, labels: LabelSource) -> Arc<Dataset> {
    let target = ShardTarget::prepare(folder, "part-%06d.tar".parse().unwrap(), true).unwrap();
    let mut writer = ShardWriter::new(
        target,
        Limits {
            max_count: 10,
            ..Limits::default()
        },
    );
    for sample in 0..SAMPLES {
        let rgb: Vec<u8> = (0..SIDE * SIDE)
            .flat_map(|i| {
                let corner = i % SIDE < 4 + sample % 8 && i / SIDE < 6;
                [
                    (sample * 10) as u8,
                    if corner { 220 } else { 40 },
                    (i % 200) as u8,
                ]
            })
            .collect();
        let mut jpeg = vec![];
        Encoder::new(&mut jpeg, 90)
            .encode(&rgb, SIDE as u16, SIDE as u16, ColorType::Rgb)
            .unwrap();
        let class = (sample % 3).to_string();
        writer
            .write(
                &format!("{sample:06}"),
                &[("jpg", &jpeg), ("cls", class.as_bytes())],
            )
            .unwrap();
    }
    writer.finish(None).unwrap();
    let options = DatasetOptions {
        labels,
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::open(&[folder.display().to_string()], &options).unwrap())
}

fn model(seed: u64) -> Mae {
    let config = MaeConfig::named("mae-micro-patch4", (SIDE, SIDE), 3).unwrap();
    Mae::new(config, &Device::Cpu, seed).unwrap()
}

fn batches_of(batch_size: usize) -> StreamOptions {
    StreamOptions {
        batch_size,
        threads: Some(2),
        resize: None,
    }
}

#[test]
fn features_are_each_sample_encoded_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::Cls);
    let encoder = model(1).encoder().unwrap();
    let extractors = [
        Extractor::Encoder(&encoder, FeaturePooling::Mean),
        Extractor::Encoder(&encoder, FeaturePooling::Token),
        Extractor::Pixels,
    ];
    let found = features(&data, &extractors, &batches_of(8)).unwrap();

    // The same by hand, one image at a time.
    let loader = Loader::builder(Arc::clone(&data))
        .image_size(SIDE as u32, SIDE as u32)
        .batch_size(1)
        .transform(Transform::Eval {
            resize: SIDE as u32,
        })
        .build()
        .unwrap();
    let mut workspace = encoder.workspace(1).unwrap();
    let mut sample = 0;
    for batch in loader.batches(Cursor::default()) {
        let batch = batch.unwrap();
        let tokens = encoder
            .encode(batch.pixels(), &mut workspace)
            .unwrap()
            .squeeze(0)
            .unwrap();
        let class = tokens.get(0).unwrap().to_vec1::<f32>().unwrap();
        let mean = tokens
            .narrow(0, 1, 16)
            .unwrap()
            .mean(0)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (expected, found) in [(mean, &found[0]), (class, &found[1])] {
            let row = found.rows().nth(sample).unwrap();
            for (a, b) in expected.iter().zip(row) {
                assert!((a - b).abs() < 1e-5, "sample {sample}: {a} against {b}");
            }
        }
        let pixels: Vec<f32> = batch
            .pixels()
            .iter()
            .map(|&v| f32::from(v) / 255.0)
            .collect();
        assert_eq!(found[2].rows().nth(sample).unwrap(), pixels);
        sample += 1;
    }
    assert_eq!(sample, SAMPLES);
    for features in &found {
        assert_eq!(
            features.labels(),
            (0..SAMPLES as u32).map(|i| i % 3).collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_loss_does_not_depend_on_the_batches() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::None);
    let (first, second) = (model(1), model(2));
    let loss = |batch_size| {
        masked_loss(
            &data,
            &[&first, &second],
            MASK.0,
            MASK.1,
            &batches_of(batch_size),
        )
        .unwrap()
    };
    let (small, whole) = (loss(4), loss(SAMPLES));
    assert_eq!(small[0].count, SAMPLES);
    for (a, b) in small.iter().zip(&whole) {
        assert!((a.mean / b.mean - 1.0).abs() < 1e-5, "{a:?} against {b:?}");
        assert!((a.standard_error / b.standard_error - 1.0).abs() < 1e-4);
    }
    assert_ne!(small[0].mean, small[1].mean);
    let other_masks = masked_loss(&data, &[&first], MASK.0, MASK.1 + 1, &batches_of(4)).unwrap();
    assert_ne!(small[0].mean, other_masks[0].mean);
    assert!(
        masked_loss(&data, &[&first], 1.0, 0, &batches_of(4)).is_err(),
        "nothing would be visible"
    );
}

#[test]
fn reconstructions_are_spread_over_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::None);
    let mae = model(1);
    let pictures =
        |count, stride| reconstruct(&data, &mae, MASK, (count, stride), &batches_of(4)).unwrap();
    let all = pictures(100, 1);
    assert_eq!(all.len(), SAMPLES);
    assert_eq!(
        pictures(3, 7),
        [all[0].clone(), all[7].clone(), all[14].clone()]
    );
    assert_ne!(all[0].masked, all[0].original);
}

#[test]
fn features_need_labels() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::None);
    let encoder = model(1).encoder().unwrap();
    let found = features(
        &data,
        &[Extractor::Encoder(&encoder, FeaturePooling::Mean)],
        &batches_of(8),
    );
    assert!(matches!(found, Err(EvalError::NoLabels)));
}
