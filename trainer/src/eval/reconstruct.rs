//! Reconstructions of some of a dataset's images, for people to look at.
//!
//! Each image is found by its place, so that a few of a large dataset cost no more than a few of a small one. Masks are those of
//! [`masked_loss`](super::loss::masked_loss) by the same [`Masking`]; of two ratios of random masks the higher one's visible patches
//! are among the lower one's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mae_loader::{Cursor, Dataset, Loader, SampleId, Transform};
use mae_model::{Activations, Mae, MaeInput};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::error::{EvalError, Result};
use super::masking::Masking;
use super::stream::StreamOptions;
use crate::config::eval_resize;
use crate::picture::{Reconstruction, Visible};

/// How images are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This many at equal distances: of every class where the dataset is sorted by class.
    Spread(usize),
    /// This many at random, drawn from `seed`, in the dataset's order.
    Random {
        /// How many.
        count: usize,
        /// What they are drawn from.
        seed: u64,
    },
    /// These, in this order: each a sample's key, or `SHARD: KEY` where several shards have it.
    Keys(Vec<String>),
}

/// An image of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    place: u64,
    id: SampleId,
    /// No other image will do.
    named: bool,
}

/// An image's reconstruction and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The sample's key.
    pub key: String,
    /// The image masked, reconstructed and as it was.
    pub pictures: Reconstruction,
}

impl Choice {
    /// The images chosen of `dataset`; all of them where fewer are there than are asked for.
    ///
    /// # Errors
    /// Where a key names no sample or more than one.
    pub fn of(&self, dataset: &Dataset) -> Result<Vec<Chosen>> {
        let total = dataset.len();
        let places: BTreeSet<u64> = match self {
            Self::Keys(keys) => return named(dataset, keys),
            Self::Spread(count) => {
                let stride = (total / (*count).max(1) as u64).max(1);
                let places = (0..total).step_by(stride as usize);
                places.take(*count).collect()
            }
            Self::Random { count, seed } => subset(total, *count as u64, *seed),
        };
        let chosen = (0..).zip(dataset.ids());
        let chosen = chosen.filter(|(place, _)| places.contains(place));
        Ok(chosen
            .map(|(place, id)| Chosen {
                place,
                id,
                named: false,
            })
            .collect())
    }
}

/// `count` of the numbers below `total`, every selection as likely (Floyd's algorithm).
fn subset(total: u64, count: u64, seed: u64) -> BTreeSet<u64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut subset = BTreeSet::new();
    for last in total.saturating_sub(count)..total {
        let drawn = (u128::from(rng.next_u64()) * u128::from(last + 1)) >> 64;
        if !subset.insert(drawn as u64) {
            subset.insert(last);
        }
    }
    subset
}

/// The samples that `keys` name, in that order.
fn named(dataset: &Dataset, keys: &[String]) -> Result<Vec<Chosen>> {
    let mut found: HashMap<&str, Vec<Chosen>> =
        keys.iter().map(|key| (key.as_str(), vec![])).collect();
    for (place, id) in (0..).zip(dataset.ids()) {
        let chosen = Chosen {
            place,
            id,
            named: true,
        };
        let whole = dataset.describe(id);
        for name in [dataset.key(id), &whole] {
            if let Some(samples) = found.get_mut(name) {
                samples.push(chosen);
            }
        }
    }
    let one = |key: &String| match found.get(key.as_str()).map(Vec::as_slice) {
        None | Some([]) => Err(EvalError::UnknownImage {
            key: key.clone(),
            samples: dataset.len(),
            first: dataset
                .ids()
                .next()
                .map_or(String::new(), |id| dataset.key(id).to_owned()),
        }),
        Some([only]) => Ok(*only),
        Some(several) => Err(EvalError::AmbiguousImage {
            key: key.clone(),
            choices: several
                .iter()
                .take(4)
                .map(|chosen| dataset.describe(chosen.id))
                .collect(),
        }),
    };
    keys.iter().map(one).collect()
}

/// Masks and reconstructs each of `images`; `visible` says what visible patches look like. Where an image cannot be decoded the next good one of its shard stands in its place, as in
/// training, unless it was chosen by its key.
///
/// # Errors
/// Where the data cannot be read, an image chosen by its key cannot be decoded, or the masks do not fit the model.
pub fn reconstruct(
    dataset: &Arc<Dataset>,
    mae: &Mae,
    images: &[Chosen],
    masking: &Masking,
    visible: Visible,
    options: &StreamOptions,
) -> Result<Vec<Shown>> {
    let config = &mae.config;
    let (height, width) = config.vit.image_size;
    let keep = masking.keep(config)?;
    let builder = Loader::builder(Arc::clone(dataset))
        .image_size(height as u32, width as u32)
        .channels(config.vit.channels)
        // A step is a place.
        .batch_size(1)
        .threads(1)
        .prefetch(1)
        .transform(Transform::Eval {
            resize: options
                .resize
                .unwrap_or_else(|| eval_resize(config.vit.image_size)),
        })
        .max_bad_fraction(1.0);
    let loader = masking.of(builder, config)?.build()?;
    let mut workspace = mae.workspace(1, keep, Activations::Recompute)?;
    let mut shown = Vec::with_capacity(images.len());
    for image in images {
        let at = Cursor {
            epoch: 0,
            step: image.place,
        };
        let Some(batch) = loader.batches(at).next().transpose()? else {
            continue;
        };
        if let Some(bad) = batch.bad().first().filter(|_| image.named) {
            return Err(EvalError::Unreadable {
                sample: dataset.describe(bad.sample),
                reason: bad.reason.to_string(),
            });
        }
        let (ids_keep, ids_restore) = (batch.ids_keep(), batch.ids_restore());
        let pixels = batch.pixels();
        let input = MaeInput::from_host(config, pixels, ids_keep, ids_restore, mae.device())?;
        let predicted = mae.predict(&input, &mut workspace)?;
        let on_device = (input.pixels(), input.ids_restore());
        let paste = visible == Visible::Pasted;
        let predicted = mae.picture(on_device, predicted, keep, paste)?;
        let id = batch.samples().first().copied().unwrap_or(image.id);
        shown.push(Shown {
            key: dataset.key(id).to_owned(),
            pictures: Reconstruction::new(config, pixels, ids_restore, keep, &predicted, visible),
        });
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_of_their_size_and_every_number_is_as_likely() {
        assert_eq!(
            subset(5, 5, 1).into_iter().collect::<Vec<_>>(),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(subset(3, 8, 1).len(), 3);
        let mut counts = [0u32; 10];
        for seed in 0..4000 {
            let subset = subset(10, 3, seed);
            assert_eq!(subset.len(), 3);
            subset.iter().for_each(|&n| counts[n as usize] += 1);
        }
        // 1200 expected of each; a standard deviation is 29.
        assert!(counts.iter().all(|&n| n.abs_diff(1200) < 150), "{counts:?}");
    }
}
