//! Whether there are too many bad samples.

use std::collections::BTreeMap;

use crate::batch::BadSample;
use crate::error::{Error, Result};

/// Samples over which the share of bad ones is judged at least, where an epoch has as many.
const JUDGED_OVER: u64 = 1000;

/// How many shards an error names.
const SHARDS_NAMED: usize = 5;

/// Counts bad samples in order of hand-over.
#[derive(Debug)]
pub(super) struct Verdict {
    limit: f64,
    judged_over: u64,
    handed_over: u64,
    bad: u64,
    by_shard: BTreeMap<u32, u64>,
}

impl Verdict {
    /// Allows a share of `limit` over 1,000 samples, or over an epoch's `samples_per_epoch` where they are fewer.
    pub(super) fn new(limit: f64, samples_per_epoch: u64) -> Self {
        let judged_over = JUDGED_OVER.min(samples_per_epoch);
        Verdict {
            limit,
            judged_over,
            handed_over: 0,
            bad: 0,
            by_shard: BTreeMap::new(),
        }
    }

    /// Counts a batch and judges all so far. `name` gives a shard's name.
    ///
    /// A share that is exceeded even if all of the first 1,000 samples still to come are good is exceeded now.
    pub(super) fn add(
        &mut self,
        samples: u64,
        bad: &[BadSample],
        name: impl Fn(u32) -> String,
    ) -> Result<()> {
        self.handed_over += samples;
        self.bad += bad.len() as u64;
        for bad in bad {
            *self.by_shard.entry(bad.sample.shard).or_default() += 1;
        }
        let judged = self.handed_over.max(self.judged_over);
        if self.bad as f64 <= self.limit * judged as f64 {
            return Ok(());
        }
        let mut worst: Vec<(u32, u64)> = self
            .by_shard
            .iter()
            .map(|(&shard, &bad)| (shard, bad))
            .collect();
        worst.sort_by_key(|&(shard, bad)| (std::cmp::Reverse(bad), shard));
        let mut names: Vec<String> = worst
            .iter()
            .take(SHARDS_NAMED)
            .map(|&(shard, bad)| format!("{} ({bad})", name(shard)))
            .collect();
        if worst.len() > SHARDS_NAMED {
            names.push(format!("{} more", worst.len() - SHARDS_NAMED));
        }
        Err(Error::TooManyBad {
            bad: self.bad,
            seen: self.handed_over,
            limit: self.limit,
            worst: names.join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BadReason;
    use crate::decode::BadImage;
    use crate::sample::SampleId;

    fn bad(shards: &[u32]) -> Vec<BadSample> {
        let sample = |shard| SampleId { shard, ordinal: 0 };
        shards
            .iter()
            .map(|&shard| BadSample {
                slot: 0,
                sample: sample(shard),
                replacement: sample(shard),
                reason: BadReason::Image(BadImage::Truncated),
            })
            .collect()
    }

    fn name(shard: u32) -> String {
        format!("s{shard}.tar")
    }

    #[test]
    fn a_share_within_the_limit_passes() {
        let mut verdict = Verdict::new(0.01, 1 << 20);
        for _ in 0..10 {
            verdict.add(100, &bad(&[0]), name).unwrap();
        }
        verdict.add(100, &bad(&[0]), name).unwrap();
        verdict.add(99, &bad(&[0]), name).unwrap_err();
    }

    #[test]
    fn the_first_thousand_are_judged_as_one() {
        let mut verdict = Verdict::new(0.01, 1 << 20);
        verdict.add(10, &bad(&[0; 10]), name).unwrap();
        assert!(verdict.add(10, &bad(&[0]), name).is_err());
    }

    #[test]
    fn a_small_data_set_is_judged_over_an_epoch() {
        assert!(Verdict::new(0.01, 50).add(10, &bad(&[0]), name).is_err());
        assert!(Verdict::new(0.02, 50).add(10, &bad(&[0]), name).is_ok());
        assert!(Verdict::new(0.0, 50).add(10, &[], name).is_ok());
        assert!(Verdict::new(1.0, 4).add(4, &bad(&[0; 4]), name).is_ok());
    }

    #[test]
    fn the_error_names_the_worst_shards_first() {
        let mut verdict = Verdict::new(0.0, 10);
        let error = verdict
            .add(10, &bad(&[3, 1, 1, 2, 4, 5, 6]), name)
            .unwrap_err();
        let Error::TooManyBad {
            bad: 7,
            seen: 10,
            worst,
            ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(
            worst,
            "s1.tar (2), s2.tar (1), s3.tar (1), s4.tar (1), s5.tar (1), 1 more"
        );
    }
}
