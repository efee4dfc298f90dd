//! Samples that cannot be used: replaced, counted, or the end of the run.

use std::collections::{BTreeSet, HashSet};

use super::*;
use crate::batch::BadReason;

#[test]
fn a_bad_sample_is_replaced_by_the_next_good_one_with_its_own_draws() {
    // The same data with the replacements in place of the bad samples gives the same pixels and masks.
    let mut repaired = fake();
    for (shard, ordinal, good) in [(0, 4, 6), (0, 5, 6), (2, 8, 0)] {
        repaired.shards[shard][ordinal] = repaired.shards[shard][good].clone();
    }
    let expected = all(
        &loader(repaired, |settings| settings.slices.batch = 23),
        Cursor::default(),
    );
    let loader = loader(with_bad(fake()), |settings| settings.slices.batch = 23);
    let mut epochs = 0;
    for (batch, expected) in loader.batches(Cursor::default()).zip(expected) {
        let batch = batch.unwrap();
        assert_eq!(batch.pixels(), expected.pixels);
        assert_eq!(batch.ids_restore(), expected.ids_restore);
        let bad: BTreeSet<_> = batch
            .bad()
            .iter()
            .map(|bad| (bad.sample, bad.replacement))
            .collect();
        assert_eq!(
            bad,
            BTreeSet::from([
                (id(0, 4), id(0, 6)),
                (id(0, 5), id(0, 6)),
                (id(2, 8), id(2, 0))
            ])
        );
        for bad in batch.bad() {
            assert_eq!(batch.samples()[bad.slot], bad.replacement);
            assert_eq!(batch.labels().unwrap()[bad.slot], bad.replacement.ordinal);
        }
        epochs += 1;
    }
    assert_eq!(epochs, 2);
    let stats = loader.stats();
    assert_eq!((stats.samples, stats.bad), (46, 6));
    assert_eq!(
        *loader.named.lock().unwrap(),
        HashSet::from([id(0, 4), id(0, 5), id(2, 8)])
    );
}

#[test]
fn a_missing_label_makes_a_sample_bad() {
    let fake = Fake {
        unlabelled: Some(id(2, 3)),
        ..fake()
    };
    let loader = loader(fake, |settings| settings.slices.batch = 23);
    let batch = loader.batches(Cursor::default()).next().unwrap().unwrap();
    let [bad] = batch.bad() else {
        panic!("{:?}", batch.bad())
    };
    assert_eq!((bad.sample, bad.replacement), (id(2, 3), id(2, 4)));
    assert_eq!(bad.reason, BadReason::Label("no label".to_owned()));
}

#[test]
fn too_many_bad_samples_end_the_run() {
    let loader = loader(with_bad(fake()), |settings| settings.max_bad_fraction = 0.1);
    let results: Vec<_> = loader.batches(Cursor::default()).collect();
    let Some(Err(Error::TooManyBad { bad: 3, worst, .. })) = results.last() else {
        panic!("{results:?}")
    };
    assert_eq!(worst, "0.tar (2), 2.tar (1)");
    assert!(
        results[..results.len() - 1]
            .iter()
            .all(|batch| batch.is_ok())
    );
}

#[test]
fn a_shard_without_a_good_sample_is_an_error() {
    let mut fake = fake();
    fake.shards[1][0] = vec![1, 2, 3];
    let loader = loader(fake, |settings| settings.max_bad_fraction = 1.0);
    let error = loader
        .batches(Cursor::default())
        .find_map(|batch| batch.err())
        .unwrap();
    assert!(
        matches!(&error, Error::NoGoodSample { shard, samples: 1, .. } if shard == "1.tar"),
        "{error}"
    );
}

#[test]
fn an_unreadable_sample_is_an_error_in_its_turn() {
    let slices = |settings: &mut Settings| {
        settings.transform = Transform::Eval { resize: 16 };
        settings.threads = 8;
    };
    let loader = loader(
        Fake {
            unreadable: Some(id(2, 2)),
            ..fake()
        },
        slices,
    );
    let results: Vec<_> = loader.batches(Cursor::default()).collect();
    // Sample 16 of the order is in batch 4.
    assert_eq!(results.len(), 5);
    assert!(results[..4].iter().all(|batch| batch.is_ok()));
    assert!(matches!(results[4], Err(Error::Member { .. })));
}
