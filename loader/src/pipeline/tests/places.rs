//! Which samples are in which batch: cursors, ranks, epochs, and what their masks hang on.

use std::collections::HashSet;

use super::*;

#[test]
fn any_cursor_goes_on_with_the_same_batches() {
    let whole = all(&loader(with_bad(fake()), |_| {}), Cursor::default());
    for (done, batch) in whole.iter().enumerate() {
        let loader = loader(with_bad(fake()), |settings| settings.threads = 3);
        assert_eq!(all(&loader, batch.cursor), whole[done..]);
        // The same place, counted on from the first epoch.
        assert_eq!(
            all(
                &loader,
                Cursor {
                    epoch: 0,
                    step: done as u64
                }
            ),
            whole[done..]
        );
    }
}

#[test]
fn cursors_count_batches_and_next_cursors_lead_on() {
    let loader = loader(fake(), |_| {});
    let mut expected = Cursor::default();
    for batch in loader.batches(expected) {
        let batch = batch.unwrap();
        assert_eq!(batch.cursor(), expected);
        expected = batch.next_cursor();
    }
    assert_eq!(expected, Cursor { epoch: 2, step: 0 });
    assert!(loader.batches(expected).next().is_none());
}

#[test]
fn an_epoch_has_every_sample_once_and_the_next_one_another_order() {
    let batches = all(
        &loader(fake(), |settings| settings.slices.batch = 23),
        Cursor::default(),
    );
    let [first, second] = &batches[..] else {
        panic!("{} batches", batches.len())
    };
    for batch in [first, second] {
        assert_eq!(batch.samples.iter().collect::<HashSet<_>>().len(), 23);
    }
    assert_ne!(first.samples, second.samples);
    assert_ne!(first.ids_keep, second.ids_keep);
    let labels: Vec<u32> = first.samples.iter().map(|sample| sample.ordinal).collect();
    assert_eq!(first.labels, labels);
}

#[test]
fn ranks_share_the_batches_of_one_rank() {
    for drop_last in [true, false] {
        let slices = |batch, rank, world| Slices {
            samples: 23,
            batch,
            rank,
            world,
            drop_last,
        };
        let whole = all(
            &loader(with_bad(fake()), |settings| {
                settings.slices = slices(6, 0, 1)
            }),
            Cursor::default(),
        );
        let ranks: Vec<_> = (0..3)
            .map(|rank| {
                all(
                    &loader(with_bad(fake()), |settings| {
                        settings.slices = slices(2, rank, 3)
                    }),
                    Cursor::default(),
                )
            })
            .collect();
        for (step, batch) in whole.iter().enumerate() {
            let joined = ranks.iter().map(|batches| &batches[step]);
            assert_eq!(
                batch.pixels,
                joined
                    .clone()
                    .flat_map(|batch| batch.pixels.clone())
                    .collect::<Vec<_>>()
            );
            assert_eq!(
                batch.ids_restore,
                joined
                    .clone()
                    .flat_map(|batch| batch.ids_restore.clone())
                    .collect::<Vec<_>>()
            );
            assert_eq!(
                batch.samples,
                joined
                    .flat_map(|batch| batch.samples.clone())
                    .collect::<Vec<_>>()
            );
        }
        assert!(ranks.iter().all(|batches| batches.len() == whole.len()));
    }
}

#[test]
fn evaluation_is_in_order_keeps_the_rest_and_repeats_itself() {
    let batches = all(
        &loader(fake(), |settings| {
            settings.transform = Transform::Eval { resize: 16 };
            settings.slices.drop_last = false;
        }),
        Cursor::default(),
    );
    assert_eq!(
        batches
            .iter()
            .map(|batch| batch.samples.len())
            .collect::<Vec<_>>(),
        [4, 4, 4, 4, 4, 3].repeat(2)
    );
    let samples: Vec<SampleId> = batches[..6]
        .iter()
        .flat_map(|batch| batch.samples.clone())
        .collect();
    let expected: Vec<SampleId> = [13, 1, 9]
        .iter()
        .zip(0..)
        .flat_map(|(&count, shard)| (0..count).map(move |o| id(shard, o)))
        .collect();
    assert_eq!(samples, expected);
    for (first, second) in batches[..6].iter().zip(&batches[6..]) {
        assert_eq!(
            (&first.pixels, &first.ids_keep),
            (&second.pixels, &second.ids_keep)
        );
    }
}

#[test]
fn a_rank_may_get_an_empty_last_batch() {
    let batches = |rank| {
        let slices = Slices {
            samples: 23,
            batch: 2,
            rank,
            world: 11,
            drop_last: false,
        };
        all(
            &loader(fake(), |settings| settings.slices = slices),
            Cursor::default(),
        )
    };
    let lengths = |rank| {
        batches(rank)
            .iter()
            .map(|batch| batch.samples.len())
            .collect::<Vec<_>>()
    };
    assert_eq!(lengths(0), [2, 0, 2, 0]);
    assert_eq!(lengths(10), [2, 1, 2, 1]);
}

#[test]
fn masks_do_not_depend_on_images() {
    let batches = all(&loader(fake(), |_| {}), Cursor::default());
    let mut other = fake();
    other
        .shards
        .iter_mut()
        .flatten()
        .for_each(|bytes| *bytes = jpeg(64, 40, &picture(64, 40, 3), |_| {}));
    let others = all(&loader(other, |_| {}), Cursor::default());
    for (batch, other) in batches.iter().zip(&others) {
        assert_eq!(
            (&batch.ids_keep, &batch.ids_restore),
            (&other.ids_keep, &other.ids_restore)
        );
        assert_ne!(batch.pixels, other.pixels);
    }
}
