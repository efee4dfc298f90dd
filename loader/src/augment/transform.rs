//! What is asked for: how images become samples.

use serde::{Deserialize, Serialize};

use super::{CropRule, RandAugment};

/// How an image becomes a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Transform {
    /// For training: a part at the sample's size, mirrored at random.
    Train(TrainTransform),
    /// For evaluation: the short side resized to `resize` pixels, then the centre cut out (torchvision's `Resize` and `CenterCrop`).
    Eval {
        /// Short side after resizing. At the image's own size nothing is resampled.
        resize: u32,
    },
}

impl Transform {
    /// The short side that whole images are resized to; `None` where a part of random size is cut out first.
    pub(crate) fn resize(&self) -> Option<u32> {
        match *self {
            Transform::Eval { resize } => Some(resize),
            Transform::Train(train) => match train.crop {
                CropRule::Fixed { resize } | CropRule::Centre { resize } => Some(resize),
                CropRule::Retry | CropRule::Clamp => None,
            },
        }
    }
}

impl Default for Transform {
    /// Training as [`TrainTransform::default`].
    fn default() -> Self {
        Transform::Train(TrainTransform::default())
    }
}

/// How training makes samples of images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainTransform {
    /// Least and greatest share of the image's area, where the part is drawn by area ([`CropRule::Retry`], [`CropRule::Clamp`]).
    pub scale: (f64, f64),
    /// Least and greatest width / height, there too.
    pub ratio: (f64, f64),
    /// Which part of the image it is.
    #[serde(default)]
    pub crop: CropRule,
    /// Mirror left and right in half of all cases.
    pub flip: bool,
    /// Random operations on the pixels of the sample, after the flip.
    #[serde(default)]
    pub augment: Option<RandAugment>,
    /// The colour of what such an operation moves in from outside; of gray samples its luma.
    #[serde(default = "imagenet_mean")]
    pub fill: [u8; 3],
    /// Colour jitter of this strength V, 0 to 10, after those operations; 0 is none. Brightness, contrast and saturation are each
    /// changed by a factor from [max(0, 1 − V), 1 + V], in random order: timm's single number for torchvision's `ColorJitter`, without hue.
    /// Gray samples have no saturation to change.
    #[serde(default)]
    pub color_jitter: f64,
}

impl TrainTransform {
    /// The greatest strength of colour jitter. torchvision has no bound; here a percentage is noticed.
    pub const MAX_COLOR_JITTER: f64 = 10.0;
}

/// The mean colour of ImageNet.
fn imagenet_mean() -> [u8; 3] {
    [124, 116, 104]
}

impl Default for TrainTransform {
    /// The MAE recipe: scale 0.2–1, ratio 3/4–4/3, torchvision's crop, flip. The colour is ImageNet's mean, as timm's.
    fn default() -> Self {
        TrainTransform {
            scale: (0.2, 1.0),
            ratio: (3.0 / 4.0, 4.0 / 3.0),
            crop: CropRule::default(),
            flip: true,
            augment: None,
            fill: imagenet_mean(),
            color_jitter: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_written_by_earlier_versions_are_read() {
        let text = r#"{"Train":{"scale":[0.2,1.0],"ratio":[0.75,1.25],"flip":false}}"#;
        let train = TrainTransform {
            ratio: (0.75, 1.25),
            flip: false,
            ..TrainTransform::default()
        };
        assert_eq!(
            serde_json::from_str::<Transform>(text).unwrap(),
            Transform::Train(train)
        );
    }
}
