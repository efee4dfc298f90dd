//! What a resumed run may change: nothing that enters the arithmetic or the order of samples.

use std::fmt;

use super::PretrainConfig;
use crate::error::{Error, Result};

/// A setting that two configurations disagree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting's name: the TOML key, and the flag with `_` for `-`.
    pub field: String,
    /// Its value in the checkpoint.
    pub saved: String,
    /// Its value in this run.
    pub given: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: the checkpoint has {}, this run {}",
            self.field, self.saved, self.given
        )
    }
}

/// Settings of any run that change speed, place or what is written, but no number of the training. The data's place is among
/// them: what it holds is compared by its digest, and its weights by themselves.
pub(crate) const ALWAYS_FREE: &[&str] = &[
    "data",
    "val_data",
    "output_dir",
    "resume",
    "hang_timeout",
    "threads",
    "device",
    "activation_checkpointing",
    "model", // Its dimensions are compared one by one.
    "max_bad_fraction",
    "prefetch",
    "cache",
    "cache_size",
    "keep_last",
    "log_every",
    "eval_every",
    "prometheus",
];

/// Those that pre-training alone has.
const FREE: &[&str] = &[
    "batch_size", // What is compared is the images of an update.
    "accum_iter",
    "shard_optimizer",
    "max_rollbacks",
    "cuda_graphs",
    "max_steps",
    "window", // What it came to is in the loader's fingerprint.
    "checkpoint_every",
    "keep_every",
    "picture_every",
    "tokenizer", // Its weights are compared, where it is there.
];

/// The settings in which `given` and `saved` differ, but for those in `free` and [`ALWAYS_FREE`].
pub(crate) fn differences<C: serde::Serialize>(
    given: &C,
    saved: &C,
    free: &[&str],
) -> Vec<Difference> {
    let fields = |config: &C| match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (given, saved) = (fields(given), fields(saved));
    let show =
        |value: Option<&serde_json::Value>| value.map_or("none".to_owned(), ToString::to_string);
    let is_free = |name: &str| ALWAYS_FREE.contains(&name) || free.contains(&name);
    let mut names: Vec<&String> = given.keys().chain(saved.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| !is_free(name) && given.get(*name) != saved.get(*name))
        .map(|name| Difference {
            field: name.clone(),
            saved: show(saved.get(name)),
            given: show(given.get(name)),
        })
        .collect()
}

/// The difference in the images of an update, of each run its batch size, batches an update and processes, if there is one. How they are
/// cut up may change.
pub(crate) fn other_images(given: [usize; 3], saved: [usize; 3]) -> Option<Difference> {
    let images = |run: [usize; 3]| run.iter().product::<usize>();
    let show = |run: [usize; 3]| {
        let [batch, accum, processes] = run;
        let images = images(run);
        format!("{images} (batch_size {batch} × accum_iter {accum} × {processes} processes)")
    };
    (images(given) != images(saved)).then(|| Difference {
        field: "images of an update".to_owned(),
        saved: show(saved),
        given: show(given),
    })
}

/// A check sum of the settings that enter the training, for processes to compare.
pub(crate) fn fingerprint<C: serde::Serialize>(config: &C, free: &[&str]) -> Result<String> {
    let unwritable = |error: serde_json::Error| Error::Config(error.to_string());
    let mut settings = serde_json::to_value(config).map_err(unwritable)?;
    if let Some(map) = settings.as_object_mut() {
        map.retain(|name, _| {
            // Free on a resume, but not among those that train together.
            let shared = [
                "batch_size",
                "accum_iter",
                "max_steps",
                "shard_optimizer",
                "max_rollbacks",
                "checkpoint_every",
                "log_every",
                "eval_every",
            ];
            shared.contains(&name.as_str())
                || !(ALWAYS_FREE.contains(&name.as_str()) || free.contains(&name.as_str()))
        });
    }
    const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    Ok(format!(
        "{:08x}",
        CRC.checksum(settings.to_string().as_bytes())
    ))
}

impl PretrainConfig {
    /// See [`fingerprint`].
    pub(crate) fn fingerprint(&self) -> Result<String> {
        fingerprint(self, FREE)
    }

    /// The settings of `self` (this run) that make it another run than `saved_config` (the checkpoint's), which so many processes
    /// trained.
    pub fn differences(&self, saved_config: &PretrainConfig, processes: usize) -> Vec<Difference> {
        let mut differences = differences(self, saved_config, FREE);
        differences.extend(self.other_shares(saved_config));
        differences.extend(other_images(
            [self.batch_size, self.accum_iter, self.launch.world],
            [saved_config.batch_size, saved_config.accum_iter, processes],
        ));
        differences
    }

    /// The difference in the shares of the data sets, if there is one.
    fn other_shares(&self, saved: &PretrainConfig) -> Option<Difference> {
        let shares = |config: &PretrainConfig| {
            let shares = config.sources().map_or(vec![], |sources| sources.shares());
            let shares = shares.iter().map(|share| format!("{share:.6}"));
            shares.collect::<Vec<_>>().join(", ")
        };
        let (saved, given) = (shares(saved), shares(self));
        (saved != given).then(|| Difference {
            field: "shares of the data".to_owned(),
            saved,
            given,
        })
    }
}

#[cfg(test)]
mod tests {
    use mae_model::TokenizerConfig;

    use super::*;
    use crate::config::{RawPretrain, TargetKind};

    fn config(change: RawPretrain) -> PretrainConfig {
        let base = RawPretrain {
            data: Some(vec!["a.tar".into()]),
            output_dir: Some("out".into()),
            model: Some("mae-tiny-patch4".into()),
            ..Default::default()
        };
        PretrainConfig::resolve(change.over(base).unwrap()).unwrap()
    }

    #[test]
    fn free_settings_may_change() {
        let saved = config(RawPretrain::default());
        let given = config(RawPretrain {
            data: Some(vec!["b.tar".into()]),
            output_dir: Some("elsewhere".into()),
            threads: Some(7),
            log_every: Some(1),
            prometheus: Some("9400".parse().unwrap()),
            max_steps: Some(3),
            ..Default::default()
        });
        assert_eq!(given.differences(&saved, 1), vec![]);
    }

    #[test]
    fn others_are_named_with_both_values() {
        let saved = config(RawPretrain::default());
        let given = config(RawPretrain {
            seed: Some(5),
            clip_grad: Some(1.5),
            encoder_mask_tokens: Some(true),
            depth: Some(3),
            ..Default::default()
        });
        let text: Vec<String> = given
            .differences(&saved, 1)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            text,
            [
                "clip_grad: the checkpoint has none, this run 1.5",
                "depth: the checkpoint has 6, this run 3",
                "encoder_mask_tokens: the checkpoint has false, this run true",
                "seed: the checkpoint has 0, this run 5",
            ]
        );
    }

    #[test]
    fn targets_are_compared() {
        let saved = config(RawPretrain::default());
        let given = config(RawPretrain {
            target: Some(TargetKind::Pca),
            ..Default::default()
        });
        let fields: Vec<String> = given
            .differences(&saved, 1)
            .into_iter()
            .map(|difference| difference.field)
            .collect();
        assert_eq!(fields, ["pca_components", "pca_images", "target"]);
    }

    #[test]
    fn weights_are_compared_as_shares() {
        let with = |data: &[&str]| {
            config(RawPretrain {
                data: Some(data.iter().map(|value| (*value).to_owned()).collect()),
                ..Default::default()
            })
        };
        let saved = with(&["a@0.7", "b@0.3"]);
        assert_eq!(with(&["c@7", "d@3"]).differences(&saved, 1), vec![]);
        assert_eq!(with(&["a@2"]).differences(&with(&["a", "b"]), 1), vec![]);
        let text = with(&["a@0.5", "b@0.5"]).differences(&saved, 1)[0].to_string();
        assert!(
            text.contains("0.700000, 0.300000, this run 0.500000"),
            "{text}"
        );
        assert_eq!(with(&["a", "b"]).differences(&saved, 1).len(), 1);
    }

    /// A name in the list that no field has would be a setting silently compared.
    #[test]
    fn every_free_setting_exists() {
        let all = config(RawPretrain {
            max_steps: Some(1),
            cache: Some("c".into()),
            checkpoint_every: Some(1),
            keep_every: Some(1),
            prometheus: Some("9400".parse().unwrap()),
            target: Some(TargetKind::Tokens),
            tokenizer: Some("t".into()),
            tokenizer_config: Some(TokenizerConfig {
                image_size: (32, 32),
                channels: 3,
                patch_size: 4,
                vocabulary: 8,
                hidden: 8,
                blocks: 1,
            }),
            ..Default::default()
        });
        let fields = serde_json::to_value(&all).unwrap();
        for name in ALWAYS_FREE.iter().chain(FREE) {
            assert!(fields.get(*name).is_some(), "{name}");
        }
    }
}
