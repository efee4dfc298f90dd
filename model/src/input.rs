//! A batch for the masked autoencoder: pixels, and which patches are visible.

use candle_core::{Device, Tensor};

use crate::config::MaeConfig;
use crate::feed::HostInput;
use crate::{Error, Result};

/// One batch on the device.
pub struct MaeInput {
    pixels: Tensor,
    ids_keep: Tensor,
    ids_restore: Tensor,
}

impl MaeInput {
    /// pixels `[B, H, W, C]`, visible patches `[B, K]`, and `ids_restore` `[B, L]`: where each patch
    /// stands among the shuffled ones, the visible first.
    ///
    /// # Errors
    /// If lengths do not fit each other and the model, or the ids contradict each other.
    pub fn from_host(
        config: &MaeConfig,
        pixels: &[u8],
        ids_keep: &[u32],
        ids_restore: &[u32],
        device: &Device,
    ) -> Result<Self> {
        let host = HostInput {
            pixels,
            ids_keep,
            ids_restore,
        };
        let [pixels_shape, keep_shape, restore_shape] = Self::check(config, host)?;
        Ok(Self {
            pixels: Tensor::from_slice(pixels, pixels_shape, device)?,
            ids_keep: Tensor::from_slice(ids_keep, keep_shape, device)?,
            ids_restore: Tensor::from_slice(ids_restore, restore_shape, device)?,
        })
    }

    /// Pixels, visible patches and `ids_restore` that are on the device and fit.
    #[cfg(feature = "cuda")]
    pub(crate) fn from_device([pixels, ids_keep, ids_restore]: [Tensor; 3]) -> Self {
        Self {
            pixels,
            ids_keep,
            ids_restore,
        }
    }

    /// The shapes of pixels, `ids_keep` and `ids_restore`, if they fit the model and each other.
    pub(crate) fn check(config: &MaeConfig, host: HostInput<'_>) -> Result<[Vec<usize>; 3]> {
        let HostInput {
            pixels,
            ids_keep,
            ids_restore,
        } = host;
        let ((height, width), channels) = (config.vit.image_size, config.vit.channels);
        let patches = config.patches();
        let batch = pixels.len() / (height * width * channels);
        let keep = ids_keep.len() / batch.max(1);
        let check = |what, expected: Vec<usize>, actual: usize| {
            if expected.iter().product::<usize>() == actual && batch > 0 {
                return Ok(());
            }
            Err(Error::Shape {
                what,
                expected,
                actual: vec![actual],
            })
        };
        check(
            "pixels",
            vec![batch.max(1), height, width, channels],
            pixels.len(),
        )?;
        check("ids_keep", vec![batch, keep.max(1)], ids_keep.len())?;
        check("ids_restore", vec![batch, patches], ids_restore.len())?;
        for (kept, restore) in ids_keep
            .chunks_exact(keep)
            .zip(ids_restore.chunks_exact(patches))
        {
            let agree = kept.iter().enumerate().all(|(i, &id)| {
                restore
                    .get(id as usize)
                    .is_some_and(|&place| place as usize == i)
            });
            let mut seen = vec![false; patches];
            let permutes = restore.iter().all(|&place| {
                seen.get_mut(place as usize)
                    .is_some_and(|seen| !std::mem::replace(seen, true))
            });
            if !(agree && permutes) {
                return Err(Error::Config(
                    "ids_restore is no permutation that puts ids_keep first".into(),
                ));
            }
        }
        Ok([
            vec![batch, height, width, channels],
            vec![batch, keep],
            vec![batch, patches],
        ])
    }

    /// Images in the batch.
    pub fn batch(&self) -> usize {
        self.pixels.dims()[0]
    }

    /// Visible patches of each image.
    pub fn keep(&self) -> usize {
        self.ids_keep.dims()[1]
    }

    /// Bytes `[B, H, W, C]`.
    pub fn pixels(&self) -> &Tensor {
        &self.pixels
    }

    /// `[B, K]`.
    pub fn ids_keep(&self) -> &Tensor {
        &self.ids_keep
    }

    /// `[B, L]`.
    pub fn ids_restore(&self) -> &Tensor {
        &self.ids_restore
    }
}
