//! Batches while the caller has them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::channel::Sender;

use super::{BadSample, Buffers, Finished};
use crate::order::Cursor;
use crate::sample::SampleId;

/// A batch of samples in host memory: `B` images of `H × W` pixels and `C` channels, with masks of `K` visible among `L` patches
/// where the loader draws them.
///
/// Where the loader crops each image K times ([`repeats`](crate::LoaderBuilder::repeats)), the K rows of a sample are neighbours:
/// row `K × i + r` holds crop and mask number `r` of the batch's sample number `i`.
///
/// It is lent, not given: dropping it returns the memory to the loader, which fills it anew.
pub struct HostBatch {
    /// Present until dropped.
    buffers: Option<Buffers>,
    length: usize,
    cursor: Cursor,
    next: Cursor,
    bad: Vec<BadSample>,
    home: Sender<Buffers>,
    lent: Arc<AtomicUsize>,
}

impl HostBatch {
    fn buffers(&self) -> &Buffers {
        self.buffers
            .as_ref()
            .expect("a batch keeps its buffers until it is dropped")
    }

    /// Rows in this batch, `B`: the loader's batch size, or fewer in the last batch of an epoch where it is kept.
    pub fn len(&self) -> usize {
        self.length * self.buffers().shape.repeats
    }

    /// Whether there is no sample at all, as may happen to a rank in the last batch of an epoch (see
    /// [`drop_last`](crate::LoaderBuilder::drop_last)).
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Pixels, `[B, H, W, C]`, 0–255.
    pub fn pixels(&self) -> &[u8] {
        let buffers = self.buffers();
        &buffers.pixels[..self.len() * buffers.shape.image]
    }

    /// Visible patches of each sample, `[B, K]`, ascending. Empty without masks.
    pub fn ids_keep(&self) -> &[u32] {
        let buffers = self.buffers();
        &buffers.ids_keep[..self.len() * buffers.shape.keep]
    }

    /// For each patch its position in [visible patches, removed patches], both ascending: `[B, L]`. Empty without masks.
    pub fn ids_restore(&self) -> &[u32] {
        let buffers = self.buffers();
        &buffers.ids_restore[..self.len() * buffers.shape.patches]
    }

    /// The box to erase of each sample, `[B, 4]`: top, left, height, width in pixels of the sample, zeros where nothing is erased.
    /// Empty unless asked for by [`erasing`](crate::LoaderBuilder::erasing). The pixels here are still there.
    pub fn erase_boxes(&self) -> &[u32] {
        let buffers = self.buffers();
        &buffers.erase_boxes[..self.len() * buffers.shape.erase]
    }

    /// Class index of each row, `[B]`, where the data set has labels.
    pub fn labels(&self) -> Option<&[u32]> {
        let buffers = self.buffers();
        buffers.shape.labels.then(|| &buffers.labels[..self.len()])
    }

    /// Which sample is in each row, `[B]`; replacements of bad samples by their own names.
    pub fn samples(&self) -> &[SampleId] {
        &self.buffers().samples[..self.len()]
    }

    /// This batch's own position: its epoch and its number in the epoch.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The position after this batch: what to save, once the batch has been used, in order to go on with the next one later.
    pub fn next_cursor(&self) -> Cursor {
        self.next
    }

    /// The slots whose own samples could not be used, in order.
    pub fn bad(&self) -> &[BadSample] {
        &self.bad
    }
}

impl Drop for HostBatch {
    fn drop(&mut self) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
        if let Some(buffers) = self.buffers.take() {
            // Nobody at home: the loader's iterator is gone, and the memory goes with it.
            let _ = self.home.send(buffers);
        }
    }
}

impl fmt::Debug for HostBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBatch")
            .field("len", &self.len())
            .field("cursor", &self.cursor)
            .field("samples", &self.samples())
            .field("bad", &self.bad)
            .finish_non_exhaustive()
    }
}

impl Finished {
    /// Lends the batch out; `home` gets the memory back, `lent` counts batches that are out.
    pub(crate) fn lend(
        self,
        next: Cursor,
        home: Sender<Buffers>,
        lent: Arc<AtomicUsize>,
    ) -> HostBatch {
        lent.fetch_add(1, Ordering::Relaxed);
        let Finished {
            cursor,
            length,
            buffers,
            bad,
            ..
        } = self;
        HostBatch {
            buffers: Some(buffers),
            length,
            cursor,
            next,
            bad,
            home,
            lent,
        }
    }
}
