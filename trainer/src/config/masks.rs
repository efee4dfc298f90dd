//! Which patches are removed: the settings of the sampling, checked together.

use mae_loader::{BlockMasks, LoaderBuilder, MaskSampling};

use super::common::invalid;
use super::{MaskSamplingKind, PretrainConfig};
use crate::error::{Error, Result};

/// Two numbers, if any are given.
pub(super) fn aspect(given: Option<Vec<f64>>) -> Result<Option<[f64; 2]>> {
    let pair = |given| {
        <[f64; 2]>::try_from(given).map_err(|_| {
            Error::Config("--mask-block-aspect takes two numbers, such as 0.3,3.33".into())
        })
    };
    given.map(pair).transpose()
}

impl MaskSamplingKind {
    /// This sampling with its usual settings for images of so many patches.
    pub fn usual(self, patches: usize) -> MaskSampling {
        match self {
            Self::Random => MaskSampling::Random,
            Self::Block => MaskSampling::Block(BlockMasks::proportional(patches)),
            Self::Grid => MaskSampling::Grid,
        }
    }
}

impl PretrainConfig {
    /// How the patches that stay visible are chosen.
    pub fn mask_sampling(&self) -> MaskSampling {
        match self.mask_sampling.usual(self.mae().patches()) {
            MaskSampling::Block(usual) => MaskSampling::Block(BlockMasks {
                least: self.mask_block_min.unwrap_or(usual.least),
                aspect: self.mask_block_aspect.map_or(usual.aspect, Into::into),
            }),
            other => other,
        }
    }

    /// That it has a meaning for the model and the mask ratio.
    pub(super) fn check_masks(&self) -> Result<()> {
        let of_blocks = [
            ("--mask-block-min", self.mask_block_min.is_some()),
            ("--mask-block-aspect", self.mask_block_aspect.is_some()),
        ];
        for (flag, given) in of_blocks {
            if given && self.mask_sampling != MaskSamplingKind::Block {
                return invalid(format!(
                    "{flag} is for --mask-sampling block; leave one of them out"
                ));
            }
        }
        let fits = self.mask_sampling().check(self.mae().grid(), self.keep());
        fits.or_else(|reason| invalid(format!("--mask-sampling: {reason}")))
    }

    /// A loader with the masks of this run.
    pub(crate) fn with_masks(&self, builder: LoaderBuilder) -> LoaderBuilder {
        builder.sampled_masks(self.mask_sampling(), self.mae().grid(), self.keep())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawPretrain;

    fn resolved(change: RawPretrain) -> Result<PretrainConfig> {
        PretrainConfig::resolve(RawPretrain {
            data: Some(vec!["a.tar".into()]),
            output_dir: Some("out".into()),
            model: Some("mae-tiny-patch4".into()),
            ..change
        })
    }

    fn of(sampling: MaskSamplingKind) -> RawPretrain {
        RawPretrain {
            mask_sampling: Some(sampling),
            ..RawPretrain::default()
        }
    }

    #[test]
    fn each_sampling_has_its_defaults() {
        let sampling = |raw| resolved(raw).unwrap().mask_sampling();
        assert_eq!(sampling(RawPretrain::default()), MaskSampling::Random);
        assert_eq!(sampling(of(MaskSamplingKind::Grid)), MaskSampling::Grid);
        // 64 patches.
        let usual = BlockMasks::proportional(64);
        assert_eq!(
            sampling(of(MaskSamplingKind::Block)),
            MaskSampling::Block(usual)
        );
        let own = RawPretrain {
            mask_block_min: Some(2),
            mask_block_aspect: Some(vec![0.5, 2.0]),
            ..of(MaskSamplingKind::Block)
        };
        let expected = BlockMasks {
            least: 2,
            aspect: (0.5, 2.0),
        };
        assert_eq!(sampling(own), MaskSampling::Block(expected));
    }

    #[test]
    fn settings_from_before_there_was_a_choice_are_of_random_masks() {
        let config = resolved(of(MaskSamplingKind::Grid)).unwrap();
        let mut older = serde_json::to_value(&config).unwrap();
        let key = older.as_object_mut().unwrap().remove("mask_sampling");
        assert_eq!(key.unwrap(), "grid");
        let older: PretrainConfig = serde_json::from_value(older).unwrap();
        assert_eq!(older.mask_sampling(), MaskSampling::Random);
    }

    #[test]
    fn what_has_no_meaning_is_named() {
        let refused = |raw| resolved(raw).unwrap_err().to_string();
        let grid = RawPretrain {
            mask_ratio: Some(0.5),
            ..of(MaskSamplingKind::Grid)
        };
        assert!(refused(grid).contains("0.75"));
        let stray = RawPretrain {
            mask_block_min: Some(2),
            ..RawPretrain::default()
        };
        assert!(refused(stray).contains("--mask-block-min"));
        let large = RawPretrain {
            mask_block_min: Some(65),
            ..of(MaskSamplingKind::Block)
        };
        assert!(refused(large).contains("65"));
        let one = RawPretrain {
            mask_block_aspect: Some(vec![0.5]),
            ..of(MaskSamplingKind::Block)
        };
        assert!(refused(one).contains("--mask-block-aspect"));
    }
}
