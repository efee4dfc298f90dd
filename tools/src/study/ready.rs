//! The ready-made studies: the paper's comparisons, with what it published.

/// By name, in the order of the paper.
const ALL: &[(&str, &str)] = &[
    ("mask-ratio", include_str!("ready/mask-ratio.toml")),
    ("decoder-depth", include_str!("ready/decoder-depth.toml")),
    ("decoder-width", include_str!("ready/decoder-width.toml")),
    ("mask-token", include_str!("ready/mask-token.toml")),
    ("target", include_str!("ready/target.toml")),
    ("augmentation", include_str!("ready/augmentation.toml")),
    ("mask-sampling", include_str!("ready/mask-sampling.toml")),
    ("schedule", include_str!("ready/schedule.toml")),
    ("model-size", include_str!("ready/model-size.toml")),
    (
        "partial-finetune",
        include_str!("ready/partial-finetune.toml"),
    ),
];

/// The names of all.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// The study of this name.
pub(super) fn text(name: &str) -> Option<&'static str> {
    let mut all = ALL.iter();
    all.find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::definition::{Definition, Metric};
    use crate::study::plan::Plan;

    #[test]
    fn every_one_can_be_begun() {
        for (name, text) in ALL {
            let mut study =
                Definition::parse(text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            study.data = vec!["train.tar".into()];
            study.val_data = vec!["val.tar".into()];
            let plan = Plan::of(&study).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert!(study.variants.len() > 1, "{name}");
            assert_eq!(plan.runs.len(), study.variants.len());
            let published = |metric| {
                study
                    .variants
                    .iter()
                    .any(|v| v.published.of(metric).is_some())
            };
            assert!(published(Metric::Finetune), "{name}");
            assert!(
                !study.source.is_empty() && !study.about.is_empty(),
                "{name}"
            );
        }
    }
}
