//! How images become samples: the settings of crop and colour jitter, filled in and checked together.

use std::fmt;
use std::str::FromStr;

use mae_loader::{CropRule, TrainTransform};
use serde::{Deserialize, Serialize};

use super::common::{self, invalid};
use super::{InputSize, PretrainConfig, RawPretrain};
use crate::error::Result;

/// The reference code's share of the image, least and greatest.
const CROP_SCALE: [f64; 2] = [0.2, 1.0];

/// The greatest short side that the loader resizes to.
const MAX_RESIZE: u32 = 1 << 14;

/// Which part of an image is used (paper, table 1e).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropKind {
    /// One of random area and ratio, resized to the input's size ("random size").
    #[default]
    Random,
    /// One of the input's size at a random place of the image, which is resized before ("fixed size").
    Fixed,
    /// The one in the middle of it (without flips, "none").
    Centre,
}

impl FromStr for CropKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            "fixed" => Ok(Self::Fixed),
            "centre" => Ok(Self::Centre),
            _ => Err(format!("`{text}` is neither random, fixed nor centre")),
        }
    }
}

impl fmt::Display for CropKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Fixed => "fixed",
            Self::Centre => "centre",
        })
    }
}

/// The settings of the crop, resolved.
pub(super) struct CropSettings {
    pub(super) kind: CropKind,
    /// Of a random crop alone.
    pub(super) scale: Option<[f64; 2]>,
    /// Of the others alone.
    pub(super) resize: Option<u32>,
}

impl CropSettings {
    /// Those of `raw`, for inputs of a size.
    ///
    /// # Errors
    /// Names the flag that has no meaning.
    pub(super) fn resolve(raw: &RawPretrain, input: InputSize) -> Result<Self> {
        let kind = raw.crop.unwrap_or_default();
        if kind == CropKind::Random {
            if raw.resize.is_some() {
                return invalid(
                    "--resize is for --crop fixed or centre, and the crop is random; leave it out or choose one of them",
                );
            }
            return Ok(Self {
                kind,
                scale: Some(common::crop_scale(raw.crop_scale.clone(), CROP_SCALE)?),
                resize: None,
            });
        }
        if raw.crop_scale.is_some() {
            return invalid(format!(
                "--crop-scale is for --crop random, and the crop is {kind}; leave one of them out"
            ));
        }
        Ok(Self {
            kind,
            scale: None,
            resize: Some(raw.resize.unwrap_or_else(|| usual_resize(input))),
        })
    }
}

/// A side with evaluation's margin around it: 256 for 224, as in the reference code.
pub(super) fn with_margin(side: usize) -> usize {
    (side * 8).div_ceil(7)
}

/// The short side to which images are resized where none is given. By the input's longer side, so that it fits into a square image.
fn usual_resize(input: InputSize) -> u32 {
    with_margin(input.height.max(input.width)) as u32
}

impl PretrainConfig {
    /// That crop and colour jitter are possible.
    pub(super) fn check_augmentation(&self) -> Result<()> {
        if let Some(scale) = self.crop_scale {
            common::check_crop_scale(scale)?;
        }
        let least = self.input_size.height.max(self.input_size.width) as u32;
        let misfit = |resize: &u32| !(least..=MAX_RESIZE).contains(resize);
        if let Some(resize) = self.resize.filter(misfit) {
            return invalid(format!(
                "--resize {resize}: of images with this short side, inputs of {} are cut out; give {least} to {MAX_RESIZE}",
                self.input_size
            ));
        }
        if !(0.0..=TrainTransform::MAX_COLOR_JITTER).contains(&self.color_jitter) {
            return invalid(format!(
                "--color-jitter {} is not a strength from 0, none, to {}; 0.4 is a usual one",
                self.color_jitter,
                TrainTransform::MAX_COLOR_JITTER
            ));
        }
        Ok(())
    }

    /// How images become samples.
    pub(crate) fn train_transform(&self) -> TrainTransform {
        let resize = || self.resize.unwrap_or_else(|| usual_resize(self.input_size));
        TrainTransform {
            scale: self.crop_scale.unwrap_or(CROP_SCALE).into(),
            crop: match self.crop {
                CropKind::Random => CropRule::Retry,
                CropKind::Fixed => CropRule::Fixed { resize: resize() },
                CropKind::Centre => CropRule::Centre { resize: resize() },
            },
            flip: self.flip,
            color_jitter: self.color_jitter,
            ..TrainTransform::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(change: RawPretrain) -> Result<PretrainConfig> {
        PretrainConfig::resolve(RawPretrain {
            data: Some(vec!["a.tar".into()]),
            output_dir: Some("out".into()),
            model: Some("mae-tiny-patch4".into()),
            ..change
        })
    }

    fn of(crop: CropKind) -> RawPretrain {
        RawPretrain {
            crop: Some(crop),
            ..RawPretrain::default()
        }
    }

    fn sized(height: usize, width: usize, crop: CropKind) -> RawPretrain {
        RawPretrain {
            input_size: Some(InputSize { height, width }),
            ..of(crop)
        }
    }

    #[test]
    fn each_crop_has_its_defaults() {
        let transform = |raw| resolved(raw).unwrap().train_transform();
        let usual = TrainTransform::default();
        assert_eq!(transform(RawPretrain::default()), usual);
        assert_eq!(transform(of(CropKind::Random)), usual);
        for (height, width, resize) in [(224, 224, 256), (32, 32, 37), (96, 160, 183)] {
            let fixed = transform(sized(height, width, CropKind::Fixed));
            assert_eq!(fixed.crop, CropRule::Fixed { resize });
            let centre = transform(sized(height, width, CropKind::Centre));
            assert_eq!(centre.crop, CropRule::Centre { resize });
        }
        let own = RawPretrain {
            resize: Some(32),
            flip: Some(false),
            color_jitter: Some(0.4),
            ..of(CropKind::Centre)
        };
        let own = transform(own);
        assert_eq!(own.crop, CropRule::Centre { resize: 32 });
        assert_eq!((own.flip, own.color_jitter), (false, 0.4));
    }

    #[test]
    fn what_has_no_meaning_is_named() {
        let refused = |raw, parts: [&str; 2]| {
            let error = resolved(raw).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        for kind in [CropKind::Fixed, CropKind::Centre] {
            let scaled = RawPretrain {
                crop_scale: Some(vec![0.2, 1.0]),
                ..of(kind)
            };
            refused(scaled, ["--crop-scale", &kind.to_string()]);
            for resize in [0, 31, MAX_RESIZE + 1] {
                let raw = RawPretrain {
                    resize: Some(resize),
                    ..of(kind)
                };
                refused(raw, ["--resize", "32 to 16384"]);
            }
            let wide = RawPretrain {
                resize: Some(159),
                ..sized(96, 160, kind)
            };
            refused(wide, ["--resize 159", "96x160"]);
        }
        let stray = RawPretrain {
            resize: Some(256),
            ..RawPretrain::default()
        };
        refused(stray, ["--resize", "--crop fixed or centre"]);
        for strength in [-0.1, f64::NAN, f64::INFINITY, 10.1, 40.0] {
            let raw = RawPretrain {
                color_jitter: Some(strength),
                ..RawPretrain::default()
            };
            refused(raw, ["--color-jitter", "0.4"]);
        }
        assert!("center".parse::<CropKind>().unwrap_err().contains("centre"));
    }

    #[test]
    fn settings_come_back_from_their_file() {
        for raw in [
            RawPretrain::default(),
            of(CropKind::Centre),
            RawPretrain {
                resize: Some(50),
                color_jitter: Some(0.4),
                flip: Some(false),
                ..of(CropKind::Fixed)
            },
        ] {
            let config = resolved(raw).unwrap();
            let text = config.to_toml().unwrap();
            let again: RawPretrain = toml::from_str(&text).unwrap();
            assert_eq!(PretrainConfig::resolve(again).unwrap(), config);
            assert_eq!(toml::from_str::<PretrainConfig>(&text).unwrap(), config);
        }
    }

    /// Runs of before there were crops to choose from.
    #[test]
    fn settings_without_these_are_what_they_were() {
        let config = resolved(RawPretrain::default()).unwrap();
        let text = config.to_toml().unwrap();
        let own = |line: &&str| {
            !["crop = ", "color_jitter = "]
                .iter()
                .any(|key| line.starts_with(key))
        };
        let earlier = text.lines().filter(own).collect::<Vec<_>>().join("\n");
        assert_eq!(text.lines().count(), earlier.lines().count() + 2);
        assert!(earlier.contains("crop_scale = [0.2, 1.0]"), "{earlier}");
        let saved: PretrainConfig = toml::from_str(&earlier).unwrap();
        assert_eq!(saved, config);
        assert_eq!(
            PretrainConfig::resolve(toml::from_str(&earlier).unwrap()).unwrap(),
            config
        );
        let other = resolved(of(CropKind::Centre)).unwrap();
        let differing: Vec<String> = other
            .differences(&saved, 1)
            .into_iter()
            .map(|difference| difference.field)
            .collect();
        assert_eq!(differing, ["crop", "crop_scale", "resize"]);
    }

    #[test]
    fn a_crop_takes_the_place_of_the_files() {
        let saved = |raw| -> RawPretrain {
            toml::from_str(&resolved(raw).unwrap().to_toml().unwrap()).unwrap()
        };
        let over = |crop, base| PretrainConfig::resolve(of(crop).over(base).unwrap()).unwrap();
        let fixed = over(CropKind::Fixed, saved(RawPretrain::default()));
        assert_eq!((fixed.crop_scale, fixed.resize), (None, Some(37)));
        let random = over(CropKind::Random, saved(of(CropKind::Fixed)));
        assert_eq!((random.crop_scale, random.resize), (Some(CROP_SCALE), None));
        let mut base = saved(of(CropKind::Fixed));
        base.resize = Some(40);
        assert_eq!(over(CropKind::Centre, base).resize, Some(40));
    }
}
