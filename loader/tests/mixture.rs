//! Several data sets in one stream, through the public face.

use std::path::Path;
use std::sync::Arc;

use mae_loader::shard::{Limits, ShardTarget, ShardWriter};
use mae_loader::{
    Cursor, Dataset, DatasetOptions, Error, HostBatch, Loader, LoaderBuilder, Mixture, Transform,
    Window,
};

/// Shards of 4 samples, plain images of the given red; with a class each where `label` gives one.
fn dataset(
    folder: &Path,
    samples: usize,
    red: u8,
    label: impl Fn(usize) -> Option<&'static str>,
) -> Arc<Dataset> {
    std::fs::create_dir_all(folder).unwrap();
    let target = ShardTarget::prepare(folder, "part-%06d.tar".parse().unwrap(), false).unwrap();
    let limits = Limits {
        max_count: 4,
        ..Limits::default()
    };
    let mut writer = ShardWriter::new(target, limits);
    for number in 0..samples {
        let mut jpeg = Vec::new();
        jpeg_encoder::Encoder::new(&mut jpeg, 95)
            .encode(
                &[red, number as u8 * 5, 90].repeat(24 * 20),
                24,
                20,
                jpeg_encoder::ColorType::Rgb,
            )
            .unwrap();
        let key = format!("{number:04}");
        match label(number) {
            Some(class) => {
                let json = format!("{{\"class\": \"{class}\"}}");
                writer.write(&key, &[("jpg", &jpeg), ("json", json.as_bytes())])
            }
            None => writer.write(&key, &[("jpg", &jpeg)]),
        }
        .unwrap();
    }
    writer.finish(None).unwrap();
    let labels = if label(0).is_some() {
        "json:class"
    } else {
        "none"
    };
    let options = DatasetOptions {
        labels: labels.parse().unwrap(),
        ..DatasetOptions::default()
    };
    Arc::new(Dataset::open(&[folder.display().to_string()], &options).unwrap())
}

/// 23 dark samples and 10 bright ones.
fn parts(folder: &Path) -> [Arc<Dataset>; 2] {
    [
        dataset(&folder.join("dark"), 23, 20, |_| None),
        dataset(&folder.join("bright"), 10, 230, |_| None),
    ]
}

fn mixture(parts: &[Arc<Dataset>; 2], weights: [f64; 2]) -> Mixture {
    Mixture::new(parts.iter().cloned().zip(weights)).unwrap()
}

fn builder(mixture: &Mixture) -> LoaderBuilder {
    Loader::mixture(mixture.clone())
        .image_size(16, 16)
        .batch_size(4)
        .masks(16, 4)
        .epochs(3)
        .epoch_samples(40)
        .threads(2)
}

type Content = (Vec<u8>, Vec<u32>, Vec<mae_loader::SampleId>);

fn content(batch: &HostBatch) -> Content {
    (
        batch.pixels().to_vec(),
        batch.ids_restore().to_vec(),
        batch.samples().to_vec(),
    )
}

fn all(builder: LoaderBuilder, from: Cursor) -> Vec<Content> {
    let loader = builder.build().unwrap();
    let batches = loader.batches(from);
    batches.map(|batch| content(&batch.unwrap())).collect()
}

#[test]
fn shares_and_sources_are_as_counted() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path());
    let mixture = mixture(&parts, [0.7, 0.3]);
    assert_eq!((mixture.len(), mixture.shares()), (33, vec![0.7, 0.3]));
    let loader = builder(&mixture).build().unwrap();
    assert_eq!(
        (loader.steps_per_epoch(), loader.samples_per_epoch()),
        (10, 40)
    );
    let mut counts = vec![[0, 0]; 3];
    for batch in loader.batches(Cursor::default()) {
        let batch = batch.unwrap();
        let epoch = batch.cursor().epoch as usize;
        let [dark, bright] = mixture.count(batch.samples())[..] else {
            panic!("two counts")
        };
        counts[epoch][0] += dark;
        counts[epoch][1] += bright;
        let reds = batch.pixels().chunks(16 * 16 * 3).map(|image| image[0]);
        for (red, sample) in reds.zip(batch.samples()) {
            let expected = if mixture.count(&[*sample]) == [1, 0] {
                ("dark", 20)
            } else {
                ("bright", 230)
            };
            assert!(mixture.describe(*sample).contains(expected.0));
            assert!(red.abs_diff(expected.1) <= 4, "{red} for {expected:?}");
        }
        assert!(batch.labels().is_none());
    }
    assert_eq!(counts, [[28, 12]; 3]);
    // 33 samples in 6 and 3 shards, and a block of 40 places.
    assert_eq!(loader.memory_bound().order, 4 * 33 + 16 * 9 + 8 * 40);
}

#[test]
fn crops_of_one_image_count_each() {
    let folder = tempfile::tempdir().unwrap();
    let mixture = mixture(&parts(folder.path()), [0.7, 0.3]);
    let twice = builder(&mixture).repeats(2).epochs(1).build().unwrap();
    let mut counts = [0, 0];
    for batch in twice.batches(Cursor::default()) {
        let counted = mixture.count(batch.unwrap().samples());
        counts = [counts[0] + counted[0], counts[1] + counted[1]];
    }
    assert_eq!(counts, [56, 24]);
}

#[test]
fn threads_ranks_and_interruptions_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mixture = mixture(&parts(folder.path()), [2.0, 3.0]);
    for window in [Window::All, Window::Shards(1)] {
        let base = || builder(&mixture).window(window).seed(9);
        let whole = all(base(), Cursor::default());
        assert_eq!(whole.len(), 30);
        assert_eq!(all(base().threads(5).prefetch(1), Cursor::default()), whole);
        for (epoch, step) in [(0, 3), (1, 9), (2, 0)] {
            let tail = all(base(), Cursor { epoch, step });
            assert_eq!(tail, whole[(epoch * 10 + step) as usize..]);
        }
        let ranks = [0, 1].map(|rank| all(base().batch_size(2).rank(rank, 2), Cursor::default()));
        for (step, batch) in whole.iter().enumerate() {
            let (first, second) = (&ranks[0][step], &ranks[1][step]);
            assert_eq!([&first.0[..], &second.0[..]].concat(), batch.0);
            assert_eq!([&first.1[..], &second.1[..]].concat(), batch.1);
            assert_eq!([&first.2[..], &second.2[..]].concat(), batch.2);
        }
    }
}

/// An epoch of another length is the same sequence, cut elsewhere: crops and masks change with the place, the samples do not.
#[test]
fn epochs_of_another_length_go_on_in_one_sequence() {
    let folder = tempfile::tempdir().unwrap();
    let [dark, _] = parts(folder.path());
    let samples = |length: u64, epochs| -> Vec<_> {
        let base = Loader::builder(dark.clone())
            .image_size(16, 16)
            .batch_size(1);
        let loader = base.epochs(epochs).epoch_samples(length).build().unwrap();
        let batches = loader.batches(Cursor::default());
        batches
            .map(|batch| batch.unwrap().samples()[0])
            .collect::<Vec<_>>()
    };
    let whole = samples(23, 4);
    assert_eq!(samples(46, 2), whole);
    assert_eq!(samples(4, 23), whole);
}

#[test]
fn labels_mix_where_they_mean_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, label: fn(usize) -> Option<&'static str>| {
        dataset(&folder.path().join(name), 8, 100, label)
    };
    let cats = make("cats", |n| Some(["cat", "dog"][n % 2]));
    let more = make("more", |n| Some(["dog", "cat"][n % 2]));
    let birds = make("birds", |_| Some("bird"));
    let none = make("none", |_| None);
    for (other, mix) in [(more, true), (birds, false), (none, false)] {
        let mixture = Mixture::new([(cats.clone(), 1.0), (other, 1.0)]).unwrap();
        assert_eq!(mixture.has_labels(), mix);
        let loader = builder(&mixture).build().unwrap();
        let batch = loader.batches(Cursor::default()).next().unwrap().unwrap();
        assert_eq!(batch.labels().is_some(), mix);
        for (sample, label) in batch.samples().iter().zip(batch.labels().unwrap_or(&[])) {
            let swapped = u32::from(mixture.count(&[*sample]) == [0, 1]);
            assert_eq!(*label, (sample.ordinal + swapped) % 2);
        }
    }
}

#[test]
fn fingerprints_tell_mixtures_apart() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path());
    let print = |builder: LoaderBuilder| builder.build().unwrap().fingerprint();
    let mixed = |weights| builder(&mixture(&parts, weights));
    let reference = print(mixed([0.7, 0.3]));
    assert_eq!(print(mixed([7.0, 3.0])), reference);
    assert_eq!(print(mixed([0.7, 0.3]).batch_size(2).rank(1, 2)), reference);
    let swapped = [parts[1].clone(), parts[0].clone()];
    for other in [
        mixed([0.6, 0.4]),
        mixed([0.7, 0.3]).epoch_samples(41),
        builder(&mixture(&swapped, [0.3, 0.7])),
    ] {
        assert_ne!(print(other), reference);
    }
    let plain = || {
        Loader::builder(parts[0].clone())
            .image_size(16, 16)
            .batch_size(4)
    };
    assert_eq!(print(plain().epoch_samples(23)), print(plain()));
    assert_ne!(print(plain().epoch_samples(24)), print(plain()));
}

#[test]
fn mixtures_that_cannot_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path());
    let named = |result: Result<(), Error>, setting: &str, part: &str| match result {
        Err(Error::Config {
            setting: found,
            reason,
        }) => {
            assert_eq!(found, setting);
            assert!(reason.contains(part), "{reason}");
        }
        other => panic!("{setting}: {other:?}"),
    };
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mixture = Mixture::new([(parts[0].clone(), weight)]);
        named(mixture.map(drop), "weight", "above 0");
    }
    named(Mixture::new([]).map(drop), "mixture", "no data set");
    let built = |builder: LoaderBuilder| builder.build().map(drop);
    let even = mixture(&parts, [1.0, 1.0]);
    let eval = Transform::Eval { resize: 16 };
    named(
        built(
            Loader::mixture(even.clone())
                .image_size(16, 16)
                .transform(eval),
        ),
        "mixture",
        "one by one",
    );
    let plain = Loader::builder(parts[0].clone()).image_size(16, 16);
    named(
        built(plain.transform(eval).epoch_samples(9)),
        "mixture",
        "one by one",
    );
    named(
        built(builder(&even).epoch_samples(0)),
        "epoch samples",
        "at least 1",
    );
    let rare = builder(&mixture(&parts, [0.99, 0.01])).epoch_samples(80);
    named(built(rare.clone()), "mixture", "bright");
    built(rare.epoch_samples(100)).unwrap();
}
