//! How much memory a loader takes at most: a sum that its settings give.

use crate::augment::Transform;
use crate::config::Settings;

/// A thread's stack, as far as it is used, and what the allocator keeps for it.
const THREAD_BYTES: u64 = 2 << 20;

/// Rows of an image at most, by JPEG's header.
const MAX_ROWS: u64 = 65_535;

/// An upper bound on a loader's memory, in bytes, while batches are made: see [`Loader::memory_bound`](super::Loader::memory_bound).
///
/// ```text
/// batches  = (prefetch + 1) × (rows × (H × W × C + 4 × (K + L + E + 1) + 8))
/// threads  = threads × (2 MiB + 3 × largest encoded image + P × (2 × C + 6) + max(W, R) × C × min(P, 65,535) + S + A)
/// order    = 4 × samples of the largest window + 16 × shards, summed over data sets; where several are mixed, + 8 × 65,536
/// ```
///
/// with rows of `H × W` pixels and `C` channels, masks of `K` visible among `L` patches, `E` being 4 with boxes to erase and else 0, `A` being
/// `4 × H × W + 32 × C × max(H, W)` with random augmentation and else 0, `R` the short side that whole images are resized to and `S` the
/// resized image, `C × P`, where a fixed or centre crop is cut out of it or in evaluation, and both else 0, and images of at most `P` ([`max_pixels`](crate::LoaderBuilder::max_pixels)) pixels. A progressive JPEG keeps the 16-bit coefficients of three components
/// while it is decoded: `6 × P`. Not in it: the index of the data set, and batches that the caller holds beyond one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBound {
    /// Batches in preparation, and the one in use.
    pub batches: u64,
    /// What the worker threads need for the largest image that is allowed.
    pub threads: u64,
    /// The shuffled order.
    pub order: u64,
}

impl MemoryBound {
    /// `largest` is the longest encoded image; `order` what the order takes.
    pub(super) fn new(settings: &Settings, largest: u64, order: u64) -> Self {
        let shape = settings.batch_shape();
        let rows = (shape.slots * shape.repeats) as u64;
        let row = (shape.image + 4 * (shape.keep + shape.patches + shape.erase + 1) + 8) as u64;
        let channels = settings.channels as u64;
        let pixels = settings.max_pixels;
        let augment = match settings.transform {
            Transform::Train(train) if train.augment.is_some() => {
                let (width, height) = (settings.size.width, settings.size.height);
                4 * u64::from(width) * u64::from(height)
                    + 32 * channels * u64::from(width.max(height))
            }
            _ => 0,
        };
        // Columns of the target, rows of the source. Where all of the image is resized, columns × rows is its short side after × its long
        // side before.
        let resize = settings.transform.resize();
        let columns = settings.size.width.max(resize.unwrap_or(0));
        let between = u64::from(columns) * channels * pixels.min(MAX_ROWS);
        let resized = resize.map_or(0, |_| channels.saturating_mul(pixels));
        // zune copies an encoded image, to at most twice its length.
        let image = largest
            .saturating_mul(3)
            .saturating_add(pixels.saturating_mul(2 * channels + 6))
            .saturating_add(between)
            .saturating_add(resized)
            .saturating_add(augment);
        MemoryBound {
            batches: (settings.prefetch as u64 + 1) * rows * row,
            threads: (settings.threads as u64).saturating_mul(THREAD_BYTES.saturating_add(image)),
            order,
        }
    }

    /// The whole sum.
    pub fn total(&self) -> u64 {
        self.batches
            .saturating_add(self.threads)
            .saturating_add(self.order)
    }
}
