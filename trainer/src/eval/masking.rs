//! Which patches an evaluation removes of an image.

use mae_loader::{LoaderBuilder, MaskSampling};
use mae_model::MaeConfig;

use super::error::{EvalError, Result};

/// What is removed of each image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    /// How the patches that stay are chosen.
    pub sampling: MaskSampling,
    /// Share of the patches removed.
    pub ratio: f64,
    /// What masks are drawn from, with the image's place.
    pub seed: u64,
}

impl Masking {
    /// How many patches of an image `config`'s model sees.
    ///
    /// # Errors
    /// Where those would be none or all, or cannot be chosen so.
    pub fn keep(&self, config: &MaeConfig) -> Result<usize> {
        let (patches, keep) = (config.patches(), config.keep(self.ratio));
        if !self.ratio.is_finite() || keep == 0 || keep >= patches {
            return Err(EvalError::MaskRatio {
                ratio: self.ratio,
                patches,
                keep: keep.min(patches),
            });
        }
        let fits = self.sampling.check(config.grid(), keep);
        fits.map_err(|reason| EvalError::MaskSampling { reason })?;
        Ok(keep)
    }

    /// A loader with these masks.
    ///
    /// # Errors
    /// As [`Masking::keep`].
    pub(super) fn of(&self, builder: LoaderBuilder, config: &MaeConfig) -> Result<LoaderBuilder> {
        let keep = self.keep(config)?;
        let builder = builder.sampled_masks(self.sampling, config.grid(), keep);
        Ok(builder.seed(self.seed))
    }
}
