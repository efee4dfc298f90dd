//! A tokenizer's dimensions.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The dimensions of a [`Tokenizer`](super::Tokenizer): one token a patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerConfig {
    /// Height and width in pixels; the patch size must divide both.
    pub image_size: (usize, usize),
    /// Channels of the image (3 for RGB).
    pub channels: usize,
    /// Side of the square patch that a token stands for, in pixels.
    pub patch_size: usize,
    /// Number of codes, `V`.
    pub vocabulary: usize,
    /// Channels of every convolution inside.
    pub hidden: usize,
    /// Residual blocks of the encoder, and as many of the decoder.
    pub blocks: usize,
}

impl TokenizerConfig {
    /// Rows and columns of the grid of patches.
    pub fn grid(&self) -> (usize, usize) {
        (
            self.image_size.0 / self.patch_size,
            self.image_size.1 / self.patch_size,
        )
    }

    /// Tokens of an image, `L`.
    pub fn patches(&self) -> usize {
        self.grid().0 * self.grid().1
    }

    /// Stride of the first convolution, and how many convolutions of stride 2 follow: their product is the patch size. The stride is
    /// the patch size halved while that leaves at least 4.
    pub fn strides(&self) -> (usize, usize) {
        let (mut stem, mut stages) = (self.patch_size, 0);
        while stem.is_multiple_of(2) && stem / 2 >= 4 {
            (stem, stages) = (stem / 2, stages + 1);
        }
        (stem, stages)
    }

    /// Checks that the dimensions describe a tokenizer.
    ///
    /// # Errors
    /// Names the first dimension that does not fit, and what would.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::Config(message));
        let (height, width) = self.image_size;
        for (what, value) in [
            ("the image's height", height),
            ("the image's width", width),
            ("the patch size", self.patch_size),
            ("the hidden width", self.hidden),
        ] {
            if value == 0 {
                return wrong(format!("{what} of a tokenizer must be at least 1"));
            }
        }
        if !matches!(self.channels, 1 | 3) {
            return wrong(format!(
                "images have 3 channels (RGB) or 1 (gray), not {}",
                self.channels
            ));
        }
        if !height.is_multiple_of(self.patch_size) || !width.is_multiple_of(self.patch_size) {
            return wrong(format!(
                "a patch size of {} does not divide images of {height} x {width} pixels",
                self.patch_size
            ));
        }
        if self.vocabulary < 2 {
            return wrong(format!(
                "a vocabulary of {} says nothing of an image; it takes 2 codes at least",
                self.vocabulary
            ));
        }
        Ok(())
    }
}
