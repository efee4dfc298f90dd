//! Masks of any shape and sampling.

use std::sync::Arc;

use mae_loader::{BlockMasks, Cursor, Dataset, Loader, MaskSampling};
use proptest::prelude::*;

use crate::common;
use crate::mutation::fuzz;
use crate::tars::unlabelled;

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
    let sampling = prop_oneof![
        Just(MaskSampling::Random),
        Just(MaskSampling::Grid),
        (0usize..60, 0.0f64..9.0, 0.0f64..9.0).prop_map(|(least, low, high)| {
            let aspect = (low, high);
            MaskSampling::Block(BlockMasks { least, aspect })
        }),
    ];
    let input = (
        (1usize..20, 1usize..20),
        any::<prop::sample::Index>(),
        any::<u64>(),
        1usize..4,
        sampling,
    );
    fuzz(
        "masks",
        200,
        &input,
        |(grid, keep, seed, repeats, sampling)| {
            let patches = grid.0 * grid.1;
            // Of grids few numbers have a meaning.
            let keep = match sampling {
                MaskSampling::Grid => patches / [4, 9, 16, 5][keep.index(4)],
                _ => keep.index(patches + 2),
            };
            let loader = Loader::builder(Arc::clone(&dataset))
                .image_size(4, 4)
                .batch_size(2 * repeats)
                .repeats(repeats)
                .sampled_masks(sampling, grid, keep)
                .seed(seed)
                .threads(1)
                .build();
            let refused = sampling.check(grid, keep).is_err();
            let impossible = keep == 0 || keep > patches;
            prop_assert!(refused || !impossible);
            prop_assert!(impossible || !refused || sampling != MaskSampling::Random);
            if refused {
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
        },
    );
}
