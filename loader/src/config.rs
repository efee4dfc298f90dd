//! What a loader is asked for: the builder's raw settings first, one validated [`Settings`] after.

mod checks;
mod fingerprint;

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::augment::Transform;
use crate::batch::{BatchShape, MemorySource};
use crate::decode::{AnyDecoder, DecodeQuality, Decoder, DecoderKind, ImageSize};
use crate::error::{Error, Result};
use crate::mask::{MaskSampler, MaskSampling};
use crate::mix::Mixture;
use crate::mix::order::MixedOrder;
use crate::order::{Order, Slices, Window};
use crate::pipeline::{Loader, Samples};

/// The most pixels that an image may have unless told otherwise: Pillow's own limit before it warns of a decompression bomb.
const MAX_PIXELS: u64 = 89_478_485;

/// Masks that keep `keep` of the patches of a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MaskShape {
    pub(crate) sampling: MaskSampling,
    /// Rows and columns of patches.
    pub(crate) grid: (usize, usize),
    pub(crate) keep: usize,
}

impl MaskShape {
    pub(crate) fn patches(&self) -> usize {
        self.grid.0 * self.grid.1
    }
}

/// A loader's settings, checked and complete.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) size: ImageSize,
    pub(crate) channels: usize,
    pub(crate) transform: Transform,
    pub(crate) masks: Option<MaskSampler>,
    /// The probability with which a box of a sample is erased.
    pub(crate) erasing: Option<f64>,
    /// Crops and masks of each image.
    pub(crate) repeats: usize,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    pub(crate) epochs: u64,
    pub(crate) prefetch: usize,
    pub(crate) max_bad_fraction: f64,
    pub(crate) max_pixels: u64,
    /// Resolved: never `Auto`.
    pub(crate) decoder: DecoderKind,
    pub(crate) quality: DecodeQuality,
    pub(crate) slices: Slices,
    pub(crate) labels: bool,
    /// Where the memory of batches comes from.
    pub(crate) memory: MemorySource,
}

impl Settings {
    pub(crate) fn batch_shape(&self) -> BatchShape {
        let (keep, patches) = self.masks.as_ref().map_or((0, 0), MaskSampler::shape);
        BatchShape {
            slots: self.slices.batch as usize,
            repeats: self.repeats,
            image: self.size.width as usize * self.size.height as usize * self.channels,
            keep,
            patches,
            erase: if self.erasing.is_some() { 4 } else { 0 },
            labels: self.labels,
        }
    }

    pub(crate) fn decoder(&self) -> AnyDecoder {
        AnyDecoder::new(self.decoder, self.quality, self.channels, self.max_pixels)
    }

    /// The epoch that draws are keyed by: evaluation sees the same crops and masks in every epoch.
    pub(crate) fn draw_epoch(&self, epoch: u64) -> u64 {
        match self.transform {
            Transform::Train { .. } => epoch,
            Transform::Eval { .. } => 0,
        }
    }
}

/// Settings of a [`Loader`]; made by [`Loader::builder`] and [`Loader::mixture`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct LoaderBuilder {
    data: Mixture,
    epoch_samples: Option<u64>,
    size: ImageSize,
    channels: usize,
    batch: usize,
    transform: Transform,
    masks: Option<MaskShape>,
    erasing: Option<f64>,
    repeats: usize,
    seed: u64,
    threads: usize,
    epochs: u64,
    rank: usize,
    world: usize,
    window: Window,
    prefetch: usize,
    max_bad_fraction: f64,
    max_pixels: u64,
    decoder: DecoderKind,
    quality: DecodeQuality,
    drop_last: Option<bool>,
    #[cfg(feature = "cuda")]
    page_locked: Option<usize>,
}

impl LoaderBuilder {
    pub(crate) fn new(data: Mixture) -> Self {
        LoaderBuilder {
            data,
            epoch_samples: None,
            size: ImageSize {
                width: 224,
                height: 224,
            },
            channels: 3,
            batch: 64,
            transform: Transform::default(),
            masks: None,
            erasing: None,
            repeats: 1,
            seed: 0,
            threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            epochs: 1,
            rank: 0,
            world: 1,
            window: Window::Auto,
            prefetch: 2,
            max_bad_fraction: 0.01,
            max_pixels: MAX_PIXELS,
            decoder: DecoderKind::default(),
            quality: DecodeQuality::default(),
            drop_last: None,
            #[cfg(feature = "cuda")]
            page_locked: None,
        }
    }

    /// Rows and columns of a sample. Default: 224 × 224.
    pub fn image_size(mut self, height: u32, width: u32) -> Self {
        self.size = ImageSize { width, height };
        self
    }

    /// 3 for RGB (the default; gray images are copied into all three), 1 for gray (colour images become their luma).
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// Rows in a batch of this rank: samples, times [`repeats`](Self::repeats). Default: 64.
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.batch = rows;
        self
    }

    /// How an image becomes a sample. Default: [`Transform::default`].
    ///
    /// Training transforms come in shuffled order, evaluation in the data set's own order.
    pub fn transform(mut self, transform: Transform) -> Self {
        self.transform = transform;
        self
    }

    /// Draw a mask for each sample that keeps `keep` of `patches` patches, any of them: [`MaskSampling::Random`], which does not ask
    /// where they lie. Default: no masks.
    ///
    /// In evaluation the mask depends on seed and place alone, so that it is the same in every epoch.
    pub fn masks(self, patches: usize, keep: usize) -> Self {
        self.sampled_masks(MaskSampling::Random, (1, patches), keep)
    }

    /// Draw a mask for each sample that keeps `keep` of the patches of a grid of (rows, columns), numbered row by row, by `sampling`.
    /// Otherwise as [`masks`](Self::masks).
    pub fn sampled_masks(
        mut self,
        sampling: MaskSampling,
        grid: (usize, usize),
        keep: usize,
    ) -> Self {
        self.masks = Some(MaskShape {
            sampling,
            grid,
            keep,
        });
        self
    }

    /// Draw a box to erase of each sample with this probability: timm's `RandomErasing`, one box, as in the fine-tuning recipe with
    /// 0.25. Default: none are drawn.
    ///
    /// What is put into the boxes are floats, so that it is left to whoever takes the batches: see
    /// [`erase_boxes`](crate::HostBatch::erase_boxes). For training only.
    pub fn erasing(mut self, probability: f64) -> Self {
        self.erasing = Some(probability);
        self
    }

    /// Crop each decoded image this many times, each crop with a mask of its own. Default: 1.
    ///
    /// A batch keeps its size, which must be a multiple of it: it holds fewer images, the crops of each as neighbouring rows (see
    /// [`HostBatch`](crate::HostBatch)), and an epoch has as many times more batches. Reading and decoding, most of the work, are
    /// shared (repeated sampling, Hoffer et al. 2020).
    pub fn repeats(mut self, crops: usize) -> Self {
        self.repeats = crops;
        self
    }

    /// What order, crops, flips and masks are drawn from. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Worker threads, which read, decode and resize. Default: one for each core. The batches do not depend on it.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Epochs after which the batches end, counted from the very first epoch also where iteration starts later. Default: 1.
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.epochs = epochs;
        self
    }

    /// Samples in an epoch. Default: as many as the data have, all data sets of a mixture together.
    ///
    /// Of other lengths, epochs follow each other in one shuffled sequence: the data are gone through whole before any sample
    /// comes again, and an epoch may end in the middle of that. For training only.
    pub fn epoch_samples(mut self, samples: u64) -> Self {
        self.epoch_samples = Some(samples);
        self
    }

    /// This process is rank `rank` of `world`, and reads its slice of every global batch of `world × batch_size` samples.
    /// Default: rank 0 of 1.
    pub fn rank(mut self, rank: usize, world: usize) -> Self {
        self.rank = rank;
        self.world = world;
        self
    }

    /// How far the shuffle reaches. Default: [`Window::Auto`].
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// Batches in preparation while another one is used, at least 1. Default: 2. Each takes the memory of a batch.
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.prefetch = batches;
        self
    }

    /// The share of samples that may be bad. Default: 0.01.
    ///
    /// Bad samples are replaced by the next good one of their shard. Their share is judged over 1,000 samples handed over, or an
    /// epoch where that is shorter: iteration ends with an error as soon as more are bad than may be among the samples so far, or
    /// among these first ones.
    pub fn max_bad_fraction(mut self, fraction: f64) -> Self {
        self.max_bad_fraction = fraction;
        self
    }

    /// The most pixels that an image may have; larger ones are bad. Default: 89,478,485. A worker's memory grows with it.
    pub fn max_pixels(mut self, pixels: u64) -> Self {
        self.max_pixels = pixels;
        self
    }

    /// What decodes JPEG. Default: libjpeg-turbo where it is built in (feature `turbo`), zune-jpeg elsewhere.
    ///
    /// Their pixels differ in the last bits, so the decoder is part of the [fingerprint](Loader::fingerprint). Both refuse what an
    /// image's markers show to be bad; of damage within its coded data libjpeg-turbo notices more.
    pub fn decoder(mut self, decoder: DecoderKind) -> Self {
        self.decoder = decoder;
        self
    }

    /// Exact decoding, the default, or faster. Other than exact is an error with zune.
    pub fn decode_quality(mut self, quality: DecodeQuality) -> Self {
        self.quality = quality;
        self
    }

    /// Whether to leave out the last global batch of an epoch where it is not full. Default: yes for training, no for evaluation.
    ///
    /// Where it is kept, its samples are dealt out evenly among the ranks, in order; every rank gets a batch, which may be empty if
    /// fewer samples than ranks are left.
    pub fn drop_last(mut self, drop: bool) -> Self {
        self.drop_last = Some(drop);
        self
    }

    /// Keep batches in page-locked memory of the NVIDIA GPU of this number, which it copies from while the processor does something
    /// else. Memory so locked cannot be paged out. Default: ordinary memory.
    #[cfg(feature = "cuda")]
    pub fn page_locked(mut self, gpu: usize) -> Self {
        self.page_locked = Some(gpu);
        self
    }

    /// Checks the settings and makes the loader.
    ///
    /// # Errors
    /// [`Error::Config`], which names the setting and what to do about it.
    pub fn build(mut self) -> Result<Loader> {
        if let Transform::Train(_) = self.transform {
            self.window = self.data.window(self.window);
        }
        let settings = self.resolve(self.epoch_samples.unwrap_or_else(|| self.data.len()))?;
        let order = self.order(&settings)?;
        let fingerprint = self.fingerprint(&settings);
        let for_decoders = settings.clone();
        let decoders = Arc::new(move || Box::new(for_decoders.decoder()) as Box<dyn Decoder>);
        Ok(Loader::new(
            Arc::new(self.data) as Arc<dyn Samples>,
            order,
            settings,
            decoders,
            fingerprint,
        ))
    }

    /// The order of the samples: shuffled for training, the data set's own for evaluation.
    fn order(&self, settings: &Settings) -> Result<MixedOrder> {
        let seed = settings.seed;
        self.data.order(settings.slices.samples, seed, |counts| {
            match self.transform {
                Transform::Train { .. } => {
                    let order = Order::shuffled(counts, seed, self.window);
                    checks::check_window(&order, self.window)?;
                    Ok(order)
                }
                Transform::Eval { .. } => Ok(Order::sequential(counts)),
            }
        })
    }

    /// The settings for epochs of `samples` samples.
    fn resolve(&self, samples: u64) -> Result<Settings> {
        if self.size.width == 0
            || self.size.height == 0
            || self.size.width.max(self.size.height) > 1 << 14
        {
            return bad(
                "image size",
                format!(
                    "{}×{} is not within 1 to 16,384",
                    self.size.height, self.size.width
                ),
            );
        }
        if self.channels != 1 && self.channels != 3 {
            return bad(
                "channels",
                format!("{} is neither 1 (gray) nor 3 (RGB)", self.channels),
            );
        }
        if self.batch == 0 {
            return bad("batch size", "must be at least 1".to_owned());
        }
        if self.repeats == 0 || !self.batch.is_multiple_of(self.repeats) {
            return bad(
                "repeats",
                format!(
                    "{} crops of an image do not fill a batch of {}; choose a batch size that is a multiple of them",
                    self.repeats, self.batch
                ),
            );
        }
        if self.threads == 0 || self.threads > 4096 {
            return bad(
                "threads",
                format!("{} is not within 1 to 4,096", self.threads),
            );
        }
        if self.prefetch == 0 {
            return bad("prefetch", "must be at least 1".to_owned());
        }
        if self.world == 0 || self.rank >= self.world {
            return bad(
                "rank",
                format!(
                    "rank {} of {} does not exist; ranks count from 0",
                    self.rank, self.world
                ),
            );
        }
        if !(0.0..=1.0).contains(&self.max_bad_fraction) {
            return bad(
                "max bad fraction",
                format!("{} is not within 0 to 1", self.max_bad_fraction),
            );
        }
        let sampler = |masks: MaskShape| MaskSampler::new(masks.sampling, masks.grid, masks.keep);
        let masks = self.masks.map(sampler).transpose()?;
        self.check_transform()?;
        self.check_erasing()?;
        let decoder = match self.decoder.resolve(self.quality) {
            Ok(decoder) => decoder,
            Err(reason) => return bad("decoder", reason),
        };
        self.data.check_use(self.epoch_samples, self.transform)?;
        let train = matches!(self.transform, Transform::Train { .. });
        let slices = Slices {
            samples,
            batch: (self.batch / self.repeats) as u64,
            rank: self.rank as u64,
            world: self.world as u64,
            drop_last: self.drop_last.unwrap_or(train),
        };
        if slices.steps() == 0 {
            return bad(
                "batch size",
                format!(
                    "an epoch has {samples} samples, fewer than one global batch of {} × {} ranks; choose a smaller batch or \
                     keep the last batch",
                    self.batch / self.repeats,
                    self.world
                ),
            );
        }
        Ok(Settings {
            size: self.size,
            channels: self.channels,
            transform: self.transform,
            masks,
            erasing: self.erasing,
            repeats: self.repeats,
            seed: self.seed,
            threads: self.threads,
            epochs: self.epochs,
            prefetch: self.prefetch,
            max_bad_fraction: self.max_bad_fraction,
            max_pixels: self.max_pixels,
            decoder,
            quality: self.quality,
            slices,
            labels: self.data.has_labels(),
            memory: MemorySource {
                #[cfg(feature = "cuda")]
                gpu: self.page_locked.map(crate::batch::Gpu::new).transpose()?,
            },
        })
    }
}

pub(crate) fn bad<T>(setting: &'static str, reason: String) -> Result<T> {
    Err(Error::Config { setting, reason })
}
