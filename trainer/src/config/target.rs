//! What is predicted of a removed patch: the settings of the target, filled in and checked together.

use std::path::{Path, PathBuf};

use candle_core::Device;
use mae_model::{Target, TokenizerConfig};

use super::common::invalid;
use super::{RawPretrain, TargetKind};
use crate::error::{Error, Result};
use crate::tokenizer;

/// Images that a basis is fitted on, where there are as many.
const PCA_IMAGES: u64 = 10_000;

/// The settings of the target, resolved.
pub(super) struct TargetSettings {
    pub(super) kind: TargetKind,
    pub(super) components: Option<usize>,
    pub(super) images: Option<u64>,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) tokenizer_config: Option<TokenizerConfig>,
}

impl TargetSettings {
    /// Those of `raw`, for patches of so many numbers.
    ///
    /// # Errors
    /// Names the flag that has no meaning, or is missing; and where the tokenizer cannot be read.
    pub(super) fn resolve(raw: &RawPretrain, patch_len: usize) -> Result<Self> {
        let kind = raw.target.unwrap_or_default();
        let given = |flags: &[(&'static str, bool)]| {
            let given = flags.iter().find(|(_, given)| *given);
            given.map(|(flag, _)| *flag)
        };
        let of_pca = given(&[
            ("--pca-components", raw.pca_components.is_some()),
            ("--pca-images", raw.pca_images.is_some()),
        ]);
        let of_tokens = given(&[
            ("--tokenizer", raw.tokenizer.is_some()),
            ("tokenizer_config", raw.tokenizer_config.is_some()),
        ]);
        let strangers = [(of_pca, TargetKind::Pca), (of_tokens, TargetKind::Tokens)];
        for (flag, own) in strangers {
            if let Some(flag) = flag.filter(|_| kind != own) {
                return invalid(format!(
                    "{flag} is for --target {own}, and the target is {kind}; leave one of them out"
                ));
            }
        }
        if kind != TargetKind::Pixels && raw.norm_pix_loss == Some(true) {
            return invalid(format!(
                "--norm-pix-loss normalises pixels, and the target is {kind}; leave one of them out"
            ));
        }
        let none = Self {
            kind,
            components: None,
            images: None,
            tokenizer: None,
            tokenizer_config: None,
        };
        Ok(match kind {
            TargetKind::Pixels => none,
            TargetKind::Pca => {
                let components = raw.pca_components.unwrap_or((patch_len / 8).max(1));
                if !(1..=patch_len).contains(&components) {
                    return invalid(format!(
                        "--pca-components {components}: a patch has {patch_len} numbers, so there are 1 to {patch_len} components"
                    ));
                }
                let images = raw.pca_images.unwrap_or(PCA_IMAGES);
                if images == 0 {
                    return invalid("--pca-images must be at least 1");
                }
                Self {
                    components: Some(components),
                    images: Some(images),
                    ..none
                }
            }
            TargetKind::Tokens => {
                let path = raw.tokenizer.clone().ok_or_else(|| {
                    Error::Config(
                        "--target tokens needs --tokenizer DIR, a folder that `mae tokenizer train` made".into(),
                    )
                })?;
                // A run's own configuration says what its tokenizer is, so that the folder may be gone.
                let config = match &raw.tokenizer_config {
                    Some(config) => config.clone(),
                    None => read(&path)?,
                };
                Self {
                    tokenizer: Some(path),
                    tokenizer_config: Some(config),
                    ..none
                }
            }
        })
    }
}

fn read(path: &Path) -> Result<TokenizerConfig> {
    Ok(tokenizer::load(path, &Device::Cpu)?.config().clone())
}

impl super::PretrainConfig {
    /// What the model predicts.
    pub(super) fn model_target(&self) -> Target {
        match (self.target, self.pca_components, &self.tokenizer_config) {
            (TargetKind::Pca, Some(components), _) => Target::Pca { components },
            (TargetKind::Tokens, _, Some(tokenizer)) => Target::Tokens {
                tokenizer: tokenizer.clone(),
            },
            _ => Target::Pixels,
        }
    }
}

#[cfg(test)]
mod tests {
    use mae_model::Tokenizer;

    use super::*;
    use crate::PretrainConfig;

    fn raw(target: TargetKind) -> RawPretrain {
        RawPretrain {
            data: Some(vec!["a.tar".into()]),
            output_dir: Some("out".into()),
            model: Some("mae-tiny-patch4".into()),
            target: Some(target),
            ..Default::default()
        }
    }

    fn message(raw: RawPretrain) -> String {
        PretrainConfig::resolve(raw).unwrap_err().to_string()
    }

    fn tokenizer_config() -> TokenizerConfig {
        TokenizerConfig {
            image_size: (32, 32),
            channels: 3,
            patch_size: 4,
            vocabulary: 64,
            hidden: 8,
            blocks: 1,
        }
    }

    #[test]
    fn an_eighth_of_a_patchs_numbers_are_kept() {
        let config = PretrainConfig::resolve(raw(TargetKind::Pca)).unwrap();
        assert_eq!(config.mae().target, Target::Pca { components: 6 });
        assert_eq!(config.pca_images, Some(10_000));
        let base = RawPretrain {
            model: Some("mae-base-patch16".into()),
            ..raw(TargetKind::Pca)
        };
        // As in the paper.
        let config = PretrainConfig::resolve(base).unwrap();
        assert_eq!(config.pca_components, Some(96));
    }

    #[test]
    fn what_was_resolved_resolves_to_itself_without_the_tokenizers_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer");
        let tokenizer = Tokenizer::new(tokenizer_config(), &Device::Cpu, 0).unwrap();
        tokenizer::save(&path, &tokenizer).unwrap();
        let with_tokens = RawPretrain {
            tokenizer: Some(path.clone()),
            ..raw(TargetKind::Tokens)
        };
        for raw in [raw(TargetKind::Pixels), raw(TargetKind::Pca), with_tokens] {
            let config = PretrainConfig::resolve(raw).unwrap();
            std::fs::remove_dir_all(&path).ok();
            let file = folder.path().join("config.toml");
            std::fs::write(&file, config.to_toml().unwrap()).unwrap();
            let again = RawPretrain::from_toml_file(&file).unwrap();
            assert_eq!(PretrainConfig::resolve(again).unwrap(), config);
            tokenizer::save(&path, &tokenizer).unwrap();
        }
    }

    #[test]
    fn meaningless_combinations_are_errors() {
        use TargetKind::{Pca, Pixels, Tokens};
        let components = |target, n| RawPretrain {
            pca_components: Some(n),
            ..raw(target)
        };
        assert!(message(components(Pixels, 4)).contains("--pca-components is for --target pca"));
        assert!(message(components(Pca, 49)).contains("1 to 48"));
        assert!(message(components(Pca, 0)).contains("1 to 48"));
        let images = RawPretrain {
            pca_images: Some(0),
            ..raw(Pca)
        };
        assert!(message(images).contains("--pca-images must be at least 1"));
        for target in [Pca, Tokens] {
            let normalised = RawPretrain {
                norm_pix_loss: Some(true),
                ..raw(target)
            };
            assert!(message(normalised).contains("--norm-pix-loss normalises pixels"));
        }
        assert!(message(raw(Tokens)).contains("needs --tokenizer DIR"));
        let tokenizer = |target| RawPretrain {
            tokenizer: Some("nowhere".into()),
            ..raw(target)
        };
        assert!(message(tokenizer(Pixels)).contains("--tokenizer is for --target tokens"));
        assert!(message(tokenizer(Tokens)).contains("nowhere"));
        let graphs = RawPretrain {
            tokenizer_config: Some(tokenizer_config()),
            cuda_graphs: Some(true),
            device: Some("cuda".parse().unwrap()),
            ..tokenizer(Tokens)
        };
        assert!(message(graphs).contains("--cuda-graphs"));
        for change in [
            RawPretrain {
                channels: Some(1),
                ..raw(Tokens)
            },
            RawPretrain {
                patch_size: Some(8),
                ..raw(Tokens)
            },
            RawPretrain {
                input_size: Some("64".parse().unwrap()),
                ..raw(Tokens)
            },
        ] {
            let text = message(RawPretrain {
                tokenizer: Some("somewhere".into()),
                tokenizer_config: Some(tokenizer_config()),
                ..change
            });
            assert!(text.contains("the tokenizer has 64 tokens"), "{text}");
        }
    }

    #[test]
    fn another_tokenizer_by_a_flag_is_not_described_by_the_file() {
        let file = RawPretrain {
            tokenizer: Some("a".into()),
            tokenizer_config: Some(tokenizer_config()),
            ..raw(TargetKind::Tokens)
        };
        let flag = RawPretrain {
            tokenizer: Some("b".into()),
            ..Default::default()
        };
        assert_eq!(flag.over(file).unwrap().tokenizer_config, None);
    }
}
