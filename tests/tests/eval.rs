//! Evaluations over a dataset on disk: every sample once and in order, whatever the batches; the same numbers as by hand.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use mae_loader::{
    BlockMasks, Cursor, Dataset, DatasetOptions, LabelSource, Loader, MaskSampling, Transform,
};
use mae_model::{Mae, MaeConfig};
use mae_tests::{Sample, jpeg};
use mae_trainer::eval::classes::labels;
use mae_trainer::eval::features::{Extractor, FeaturePooling, features};
use mae_trainer::eval::linear_probe::{ProbeReport, Progress, Recipe, linear_probe};
use mae_trainer::eval::loss::masked_loss;
use mae_trainer::eval::reconstruct::{Choice, Chosen, Shown, reconstruct};
use mae_trainer::eval::{EvalError, Masking, StreamOptions};
use mae_trainer::picture::Visible;

const SIDE: usize = 16;
const SAMPLES: usize = 23;
const MASKING: Masking = Masking {
    sampling: MaskSampling::Random,
    ratio: 0.75,
    seed: 5,
};

/// Pictures of flat colours with a corner, in shards of 10, with the classes 0, 1, 2 in turn.
fn dataset(folder: &Path, labels: LabelSource) -> Arc<Dataset> {
    labelled(folder, labels, |sample| (sample % 3).to_string())
}

/// The same with other labels.
fn labelled(folder: &Path, labels: LabelSource, label: impl Fn(usize) -> String) -> Arc<Dataset> {
    let spec = mae_tests::write(folder, SAMPLES, |sample| Sample {
        jpeg: jpeg(SIDE, SIDE, |x, y| {
            let corner = x < 4 + sample % 8 && y < 6;
            [
                (sample * 10) as u8,
                if corner { 220 } else { 40 },
                ((y * SIDE + x) % 200) as u8,
            ]
        }),
        class: Some(label(sample)),
    });
    let options = DatasetOptions {
        labels,
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::open(&[spec], &options).unwrap())
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
    let mut seen = 0;
    let found = features(&data, &extractors, &batches_of(8), &mut |n| seen += n).unwrap();
    assert_eq!(seen, SAMPLES);

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
            &MASKING,
            &batches_of(batch_size),
            &mut |_| (),
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
    let of_first =
        |masking: Masking| masked_loss(&data, &[&first], &masking, &batches_of(4), &mut |_| ());
    let blocks = MaskSampling::Block(BlockMasks::proportional(16));
    for other in [
        Masking { seed: 6, ..MASKING },
        Masking {
            sampling: MaskSampling::Grid,
            ..MASKING
        },
        Masking {
            sampling: blocks,
            ..MASKING
        },
    ] {
        assert_ne!(small[0].mean, of_first(other).unwrap()[0].mean, "{other:?}");
    }
    let nothing = Masking {
        ratio: 1.0,
        ..MASKING
    };
    assert!(of_first(nothing).is_err(), "nothing would be visible");
}

/// The images that `choice` picks, reconstructed at `ratio`.
fn shown(data: &Arc<Dataset>, choice: Choice, ratio: f64) -> Vec<Shown> {
    shown_under(data, choice, &Masking { ratio, ..MASKING })
}

/// The images that `choice` picks, reconstructed.
fn shown_under(data: &Arc<Dataset>, choice: Choice, masking: &Masking) -> Vec<Shown> {
    let (images, visible) = (choice.of(data).unwrap(), Visible::Pasted);
    reconstruct(data, &model(1), &images, masking, visible, &batches_of(4)).unwrap()
}

#[test]
fn images_are_chosen_at_distances_at_random_or_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::None);
    let all = shown(&data, Choice::Spread(100), MASKING.ratio);
    assert_eq!(all.len(), SAMPLES);
    assert_ne!(all[0].pictures.masked, all[0].pictures.original);
    assert_eq!(
        shown(&data, Choice::Spread(3), MASKING.ratio),
        [all[0].clone(), all[7].clone(), all[14].clone()]
    );
    // Masks hang on the place, not on what else is chosen.
    let third = data.describe(data.ids().nth(3).unwrap());
    let keys = Choice::Keys(vec!["000019".into(), third]);
    let named = shown(&data, keys, MASKING.ratio);
    assert_eq!(named, [all[19].clone(), all[3].clone()]);
    let random = |seed| shown(&data, Choice::Random { count: 5, seed }, MASKING.ratio);
    assert_eq!(random(1).len(), 5);
    assert_eq!(random(1), random(1));
    assert_ne!(random(1), random(2));
    for key in ["000023", "part-000001.tar: 000003"] {
        let unknown = Choice::Keys(vec![key.into()]).of(&data).unwrap_err();
        assert!(unknown.to_string().contains(key), "{unknown}");
    }
}

#[test]
fn masks_are_those_of_the_loss_and_grow_with_the_ratio() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::None);
    let [less, more] = [0.5, MASKING.ratio].map(|ratio| {
        let shown = shown(&data, Choice::Spread(SAMPLES), ratio);
        shown.iter().map(removed).collect::<Vec<_>>()
    });
    let visible = visible_by_loader(&data, MaskSampling::Random);
    for (sample, (less, more)) in less.iter().zip(&more).enumerate() {
        for patch in 0..16 {
            assert_eq!(!more[patch], visible[sample].contains(&(patch as u32)));
            assert!(more[patch] || !less[patch], "sample {sample}, {patch}");
        }
    }
    let blocks = MaskSampling::Block(BlockMasks::proportional(16));
    for sampling in [blocks, MaskSampling::Grid] {
        let masking = Masking {
            sampling,
            ..MASKING
        };
        let shown = shown_under(&data, Choice::Spread(SAMPLES), &masking);
        let visible = visible_by_loader(&data, sampling);
        for (shown, visible) in shown.iter().zip(&visible) {
            for (patch, removed) in removed(shown).into_iter().enumerate() {
                assert_eq!(!removed, visible.contains(&(patch as u32)), "{sampling}");
            }
        }
    }
}

/// Which of the 16 patches are grey in the masked picture.
fn removed(shown: &Shown) -> [bool; 16] {
    std::array::from_fn(|patch| {
        let corner = (patch / 4 * 4 * SIDE + patch % 4 * 4) * 3;
        shown.pictures.masked.rgb()[corner..corner + 12] == [128; 12]
    })
}

/// The patches of each sample that a loader keeps under the same ratio and seed.
fn visible_by_loader(data: &Arc<Dataset>, sampling: MaskSampling) -> Vec<Vec<u32>> {
    let of_the_loss = Loader::builder(Arc::clone(data))
        .image_size(SIDE as u32, SIDE as u32)
        .batch_size(SAMPLES)
        .transform(Transform::Eval {
            resize: SIDE as u32,
        })
        .sampled_masks(sampling, (4, 4), 4)
        .seed(MASKING.seed)
        .build()
        .unwrap();
    let batch = of_the_loss
        .batches(Cursor::default())
        .next()
        .unwrap()
        .unwrap();
    batch.ids_keep().chunks(4).map(<[u32]>::to_vec).collect()
}

#[test]
fn an_image_chosen_by_name_must_be_readable() {
    let folder = tempfile::tempdir().unwrap();
    let spec = mae_tests::write(folder.path(), 2, |sample| Sample {
        jpeg: match sample {
            0 => b"no image".to_vec(),
            _ => jpeg(SIDE, SIDE, |_, _| [90; 3]),
        },
        class: None,
    });
    let data = Arc::new(Dataset::open(&[spec], &DatasetOptions::default()).unwrap());
    let replaced = shown(&data, Choice::Spread(1), MASKING.ratio);
    assert_eq!(replaced[0].key, "000001");
    let pictures = |images: &[Chosen], masking: &Masking| {
        let visible = Visible::Pasted;
        reconstruct(&data, &model(1), images, masking, visible, &batches_of(4))
    };
    let named = Choice::Keys(vec!["000000".into()]).of(&data).unwrap();
    let error = pictures(&named, &MASKING).unwrap_err();
    assert!(
        matches!(&error, EvalError::Unreadable { sample, .. } if sample.ends_with(": 000000")),
        "{error}"
    );
    for ratio in [0.0, 0.99, 1.0, -1.0, f64::NAN] {
        let error = pictures(&[], &Masking { ratio, ..MASKING }).unwrap_err();
        assert!(matches!(error, EvalError::MaskRatio { .. }), "{error}");
    }
    let half = Masking {
        sampling: MaskSampling::Grid,
        ratio: 0.5,
        ..MASKING
    };
    let error = pictures(&[], &half).unwrap_err().to_string();
    assert!(error.contains("0.75"), "{error}");
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
        &mut |_| (),
    );
    assert!(matches!(found, Err(EvalError::NoLabels)));
    assert!(matches!(labels(&data), Err(EvalError::NoLabels)));
}

#[test]
fn features_that_are_not_finite_name_their_sample() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::Cls);
    let mut mae = model(1);
    let mut weights = mae.state_dict().unwrap();
    weights.get_mut("norm.bias").unwrap().data[7] = f32::NAN;
    mae.load_state_dict(&weights).unwrap();
    let encoder = mae.encoder().unwrap();
    let extractors = [Extractor::Encoder(&encoder, FeaturePooling::Token)];
    let error = features(&data, &extractors, &batches_of(8), &mut |_| ()).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("feature 7 of") && said.contains("part-000000.tar: 000000"),
        "{said}"
    );
}

#[test]
fn labels_come_in_order_and_a_bad_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::Cls);
    let expected: Vec<u32> = (0..SAMPLES as u32).map(|i| i % 3).collect();
    assert_eq!(labels(&data).unwrap(), expected);
    for (bad, part) in [("3", "class 3"), ("cat", "`cat` is not a class index")] {
        let folder = tempfile::tempdir().unwrap();
        labelled(folder.path(), LabelSource::Cls, |sample| match sample {
            14 => bad.to_owned(),
            sample => (sample % 3).to_string(),
        });
        let names = folder.path().join("classes.json");
        std::fs::write(names, r#"["a", "b", "c"]"#).unwrap();
        let specs = [folder.path().display().to_string()];
        let data = Dataset::open(&specs, &DatasetOptions::default()).unwrap();
        let said = labels(&data).unwrap_err().to_string();
        assert!(
            said.contains("part-000001.tar: 000014")
                && said.contains(part)
                && said.contains("--label-field"),
            "{said}"
        );
    }
}

/// The recipe on this data with the micro model, in batches of any size.
fn probe(data: &Arc<Dataset>, recipe: &Recipe, options: &StreamOptions) -> (ProbeReport, usize) {
    let encoder = model(1).encoder().unwrap();
    let extractors = [Extractor::Encoder(&encoder, FeaturePooling::Mean)];
    let mut images = 0;
    let mut epochs = vec![];
    let reports = linear_probe(
        (data, data),
        &extractors,
        3,
        recipe,
        options,
        &mut |progress| match progress {
            Progress::Images(n) => images += n,
            Progress::Epoch(epoch, reports) => epochs.push((epoch, reports.to_vec())),
        },
    );
    let reports = reports.unwrap();
    assert_eq!(
        epochs.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(),
        (1..=recipe.epochs).collect::<Vec<_>>()
    );
    assert_eq!(epochs.last().unwrap().1, reports);
    let tops = epochs.iter().map(|(_, reports)| reports[0].accuracy.top1);
    assert_eq!(reports[0].best.top1, tops.fold(0.0, f64::max));
    (reports[0], images)
}

#[test]
fn the_recipe_learns_and_encodes_what_it_says_whatever_the_chunks() {
    let folder = tempfile::tempdir().unwrap();
    // The amount of red tells the classes apart.
    let data = labelled(folder.path(), LabelSource::Cls, |sample| {
        (sample / 8).to_string()
    });
    let recipe = Recipe {
        epochs: 60,
        warmup_epochs: 5.0,
        batch_size: 7,
        blr: 100.0,
        seed: 3,
    };
    let (report, images) = probe(&data, &recipe, &batches_of(5));
    // Batches of 7 of 23 samples: three an epoch, the rest opens the next one.
    let plan = recipe.plan(SAMPLES as u64).unwrap();
    assert_eq!(plan.steps_per_epoch, 3);
    assert_eq!(images, SAMPLES + 60 * 21);
    assert!(report.train_loss < 1.0, "{report:?}");
    assert!(report.accuracy.top1 > 0.6, "{report:?}");
    for chunk in [1, 64] {
        let (other, _) = probe(&data, &recipe, &batches_of(chunk));
        assert!(
            (other.train_loss / report.train_loss - 1.0).abs() < 1e-3,
            "{other:?}"
        );
    }
}

#[test]
fn a_batch_larger_than_the_data_is_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), LabelSource::Cls);
    let recipe = Recipe {
        epochs: 2,
        warmup_epochs: 0.0,
        batch_size: 16_384,
        blr: 0.1,
        seed: 0,
    };
    let (report, images) = probe(&data, &recipe, &batches_of(8));
    assert_eq!((images, report.accuracy.count), (3 * SAMPLES, SAMPLES));
}
