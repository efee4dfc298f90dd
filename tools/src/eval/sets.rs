//! The images that features are learnt from and judged on.

use std::sync::Arc;

use mae_loader::{Dataset, LabelSource};
use mae_trainer::eval::classes::labels;
use mae_trainer::eval::features::{Extractor, features};
use mae_trainer::eval::{Classes, Features};

use super::args::{EncodeArgs, LabelArgs};
use super::{images, open};
use crate::Usage;

/// Without a test set, every this many-th sample of the data is held out.
const HELD_OUT_EVERY: usize = 5;

/// A train and a test set whose labels suit each other.
pub(super) struct Sets {
    pub(super) train: Arc<Dataset>,
    /// `None` where every fifth sample of the train set is held out.
    pub(super) test: Option<Arc<Dataset>>,
    pub(super) classes: Classes,
    /// Samples to learn from, without those held out.
    pub(super) train_samples: usize,
}

impl Sets {
    /// Opens train and test shards and looks through their labels.
    ///
    /// # Errors
    /// Where they cannot be read, have no labels, or labels that do not suit each other.
    pub(super) fn open(
        evaluation: &str,
        data: &[String],
        args: &LabelArgs,
        encode: &EncodeArgs,
    ) -> anyhow::Result<Self> {
        if args.label_field == LabelSource::None {
            return Err(Usage(format!(
                "{evaluation} needs labels: --label-field cannot be none"
            ))
            .into());
        }
        let open = |specs: &[String], classes: Option<Vec<String>>| {
            open(&encode.cache, specs, args.label_field.clone(), classes)
        };
        let train = open(data, None)?;
        let names = train.classes().map(<[String]>::to_vec);
        let test = match args.val_data.as_slice() {
            [] => None,
            specs => Some(open(specs, names.clone())?),
        };
        let (of_train, of_test) = match &test {
            Some(test) => (labels(&train)?, labels(test)?),
            None => split(&labels(&train)?),
        };
        let classes = Classes::survey(&of_train, &of_test, names.as_deref())?;
        if let Some(warning) = classes.warning(names.as_deref()) {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            train,
            test,
            classes,
            train_samples: of_train.len(),
        })
    }

    /// Train and test features by each of `extractors`, in their order.
    ///
    /// # Errors
    /// Where an image cannot be read or a feature is not finite.
    pub(super) fn features(
        &self,
        extractors: &[Extractor<'_>],
        encode: &EncodeArgs,
    ) -> anyhow::Result<Vec<(Features, Features)>> {
        let test = self.test.as_ref();
        let bar = images(self.train.len() + test.map_or(0, |test| test.len()));
        let of = |set: &Arc<Dataset>| {
            features(set, extractors, &encode.stream(), &mut |images| {
                bar.inc(images as u64);
            })
        };
        let encoded = of(&self.train).and_then(|train| Ok((train, test.map(of).transpose()?)));
        bar.finish_and_clear();
        Ok(match encoded? {
            (train, Some(test)) => train.into_iter().zip(test).collect(),
            (train, None) => train.iter().map(|all| all.split(held_out)).collect(),
        })
    }
}

/// Whether the sample of this number is held out, where there is no test set.
fn held_out(index: usize) -> bool {
    index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
}

fn split(labels: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let part = |of_test: bool| {
        let numbered = labels.iter().enumerate();
        let part = numbered.filter(|&(index, _)| held_out(index) == of_test);
        part.map(|(_, &label)| label).collect()
    };
    (part(false), part(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fifth_sample_is_held_out() {
        let labels: Vec<u32> = (0..12).collect();
        let (train, test) = split(&labels);
        assert_eq!(train, [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]);
        assert_eq!(test, [4, 9]);
    }
}
