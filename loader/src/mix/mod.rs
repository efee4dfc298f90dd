//! Several data sets in one stream of samples, each with a share of it.
//!
//! What comes when is [`order`]'s subject and how much of each [`quota`]'s; here is what the parts are. A data set by itself is a
//! mixture of one, so that there is one way to read both.

pub(crate) mod order;
pub(crate) mod quota;
mod window;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::order::{MixedOrder, PartOrder};
use self::quota::{Quotas, TooSmall};
use crate::augment::Transform;
use crate::config::bad;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::order::Order;
use crate::pipeline::Samples;
use crate::sample::SampleId;
use crate::source::Ahead;

/// Data sets with their weights, to be drawn from by [`Loader::mixture`](crate::Loader::mixture). Cheap to clone.
///
/// The [`SampleId`]s of a mixture number the shards of all its parts in turn: the first shard of the second part comes after the last
/// of the first. Methods that take one panic, as indexing does, where it is not of this mixture.
#[derive(Clone, Debug)]
pub struct Mixture {
    parts: Arc<[Part]>,
    labels: bool,
}

#[derive(Debug)]
struct Part {
    dataset: Arc<Dataset>,
    weight: f64,
    /// The number of its first shard.
    first_shard: u32,
}

impl Mixture {
    /// Data sets with weights, which count in proportion: 7 and 3 are the same as 0.7 and 0.3.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) where there is none, or a weight is not finite and above 0.
    pub fn new(parts: impl IntoIterator<Item = (Arc<Dataset>, f64)>) -> Result<Self> {
        let mut list = Vec::new();
        let mut first_shard = 0u32;
        for (dataset, weight) in parts {
            if !(weight.is_finite() && weight > 0.0) {
                return bad(
                    "weight",
                    format!("{weight} must be a number above 0; leave out what is not to be drawn"),
                );
            }
            let shards = u32::try_from(dataset.shards().len()).ok();
            let Some(next) = shards.and_then(|shards| first_shard.checked_add(shards)) else {
                return bad("mixture", "has more than 4 billion shards".to_owned());
            };
            list.push(Part {
                dataset,
                weight,
                first_shard,
            });
            first_shard = next;
        }
        match list.first() {
            None => bad("mixture", "has no data set".to_owned()),
            Some(first) => Ok(Mixture {
                labels: list.iter().all(|part| {
                    part.dataset.has_labels() && part.dataset.classes() == first.dataset.classes()
                }),
                parts: list.into(),
            }),
        }
    }

    /// A data set by itself.
    pub(crate) fn of_one(dataset: Arc<Dataset>) -> Self {
        Mixture {
            labels: dataset.has_labels(),
            parts: Arc::new([Part {
                dataset,
                weight: 1.0,
                first_shard: 0,
            }]),
        }
    }

    /// The data sets, in the order given; at least one.
    pub fn datasets(&self) -> impl ExactSizeIterator<Item = &Arc<Dataset>> + '_ {
        self.parts.iter().map(|part| &part.dataset)
    }

    /// Each data set's share of the samples drawn; together 1.
    pub fn shares(&self) -> Vec<f64> {
        let shares = quota::shares(&self.weights());
        let whole: u64 = shares.iter().sum();
        shares
            .into_iter()
            .map(|share| share as f64 / whole as f64)
            .collect()
    }

    /// Samples of all data sets together: how long an epoch is unless told otherwise.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a dataset without samples does not open"
    )]
    pub fn len(&self) -> u64 {
        self.datasets().map(|dataset| dataset.len()).sum()
    }

    /// How many of `samples`, such as the [rows of a batch](crate::HostBatch::samples), are of each data set.
    pub fn count(&self, samples: &[SampleId]) -> Vec<u64> {
        let mut counts = vec![0; self.parts.len()];
        for sample in samples {
            counts[self.part(sample.shard)] += 1;
        }
        counts
    }

    /// Shard and key, for messages.
    pub fn describe(&self, id: SampleId) -> String {
        let (dataset, id) = self.locate(id);
        dataset.describe(id)
    }

    /// The data sets' [digests](Dataset::digest), with `+` between them.
    pub fn digest(&self) -> String {
        let digests: Vec<&str> = self.datasets().map(|dataset| dataset.digest()).collect();
        digests.join("+")
    }

    /// Whether samples have labels: those of all data sets have, and by the same class names, where there are any. Labels that are
    /// plain numbers cannot be compared and are taken as they are.
    pub fn has_labels(&self) -> bool {
        self.labels
    }

    /// The part that holds a shard.
    fn part(&self, shard: u32) -> usize {
        self.parts.partition_point(|part| part.first_shard <= shard) - 1
    }

    /// The data set that holds a sample, and the sample's name there.
    fn locate(&self, id: SampleId) -> (&Dataset, SampleId) {
        let part = &self.parts[self.part(id.shard)];
        let shard = id.shard - part.first_shard;
        (&part.dataset, SampleId { shard, ..id })
    }

    fn weights(&self) -> Vec<f64> {
        self.parts.iter().map(|part| part.weight).collect()
    }

    /// Evaluation takes one data set as it is.
    pub(crate) fn check_use(&self, epoch_samples: Option<u64>, transform: Transform) -> Result<()> {
        if epoch_samples == Some(0) {
            return bad("epoch samples", "must be at least 1".to_owned());
        }
        let as_it_is = self.parts.len() == 1 && epoch_samples.is_none();
        if !as_it_is && matches!(transform, Transform::Eval { .. }) {
            return bad(
                "mixture",
                "evaluation goes through every sample of one data set once; give the data sets one by one, without the samples of \
                 an epoch"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// The order in epochs of `epoch_samples`; `own` makes a part's own order of its counts of samples a shard.
    pub(crate) fn order(
        &self,
        epoch_samples: u64,
        seed: u64,
        mut own: impl FnMut(Vec<u32>) -> Result<Order>,
    ) -> Result<MixedOrder> {
        let quotas = Quotas::new(&self.weights(), epoch_samples).or_else(|small| {
            let part = &self.parts[small.part];
            let name = &part.dataset.shards()[0].name;
            bad("mixture", too_small(small, part.weight, name))
        })?;
        let parts = (0..).zip(self.parts.iter()).map(|(number, part)| {
            let shards = part.dataset.shards();
            let order = own(shards.iter().map(|shard| shard.samples).collect())?;
            Ok(PartOrder::new(order.of_part(number), part.first_shard))
        });
        Ok(MixedOrder::new(parts.collect::<Result<_>>()?, quotas, seed))
    }

    /// What a fingerprint says of the data: digests, shares, and the length of an epoch where it is not the data's own.
    pub(crate) fn fingerprint(&self, epoch_samples: u64) -> String {
        if let ([part], true) = (&self.parts[..], epoch_samples == self.len()) {
            return format!("dataset={}", part.dataset.digest());
        }
        let shares = quota::shares(&self.weights());
        let parts: Vec<String> = self
            .datasets()
            .zip(shares)
            .map(|(dataset, share)| format!("{}@{share}", dataset.digest()))
            .collect();
        format!("dataset={};epoch_samples={epoch_samples}", parts.join("+"))
    }
}

fn too_small(small: TooSmall, weight: f64, name: &str) -> String {
    let remedy = if small.short_epoch {
        "raise it, or the samples of an epoch"
    } else {
        "raise it"
    };
    format!(
        "a weight of {weight} gives the data of {name} less than one of {} samples; {remedy}",
        small.samples
    )
}

impl Samples for Mixture {
    fn shard_len(&self, shard: u32) -> u32 {
        let (dataset, id) = self.locate(SampleId { shard, ordinal: 0 });
        dataset.shard_len(id.shard)
    }

    fn shard_name(&self, shard: u32) -> String {
        let (dataset, id) = self.locate(SampleId { shard, ordinal: 0 });
        dataset.shards()[id.shard as usize].name.clone()
    }

    fn describe(&self, id: SampleId) -> String {
        Mixture::describe(self, id)
    }

    fn read_image(&self, id: SampleId, buffer: &mut Vec<u8>, ahead: &Ahead) -> Result<()> {
        let (dataset, id) = self.locate(id);
        dataset.read_image_ahead(id, buffer, ahead)
    }

    fn largest_image(&self) -> u64 {
        let lengths = self.datasets().map(|dataset| dataset.largest_image());
        lengths.max().unwrap_or(0)
    }

    fn announce(&self, ids: &[SampleId], stop: &Arc<AtomicBool>) -> Vec<Ahead> {
        if let [part] = &*self.parts {
            return part.dataset.announce(ids, stop);
        }
        let mut ahead = vec![Ahead::nothing(stop); ids.len()];
        for (number, part) in self.parts.iter().enumerate() {
            let of_part = (0..ids.len()).filter(|&place| self.part(ids[place].shard) == number);
            let places: Vec<usize> = of_part.collect();
            let own: Vec<SampleId> = places
                .iter()
                .map(|&place| self.locate(ids[place]).1)
                .collect();
            for (place, announced) in places.into_iter().zip(part.dataset.announce(&own, stop)) {
                ahead[place] = announced;
            }
        }
        ahead
    }

    fn label(&self, id: SampleId, ahead: &Ahead) -> Result<Option<u32>> {
        let (dataset, id) = self.locate(id);
        match self.labels {
            true => dataset.label_ahead(id, ahead),
            false => Ok(None),
        }
    }
}
