//! Writes planned shards, several at a time. Which sample goes to which shard is settled before the first is written,
//! so the number of jobs changes nothing.

use std::fs;
use std::ops::Range;
use std::sync::Mutex;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use mae_loader::shard::{FinishedShard, Limits, ShardTarget};
use rayon::prelude::*;

use super::format::{Format, to_jpeg};
use super::source::{Item, Skipped};
use crate::progress;

/// How to pack.
#[derive(Debug, Clone)]
pub(super) struct Packing {
    pub(super) limits: Limits,
    /// JPEG quality, where formats other than JPEG are to be re-encoded.
    pub(super) quality: Option<u8>,
    pub(super) jobs: usize,
}

/// Writes all items to shards, not yet published. Also gives the images that could not be re-encoded.
pub(super) fn pack(
    items: &[Item],
    packing: &Packing,
    target: &ShardTarget,
) -> Result<(Vec<FinishedShard>, Vec<Skipped>)> {
    let plan = plan(items, packing.limits);
    let bar = progress::bar(items.len() as u64, "images");
    let broken = Mutex::new(Vec::new());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(packing.jobs)
        .build()
        .context("cannot start threads")?;
    let shards: Result<Vec<FinishedShard>> = pool.install(|| {
        let numbered = plan.into_par_iter().enumerate().with_max_len(1);
        numbered
            .map(|(number, range)| {
                write_shard(number, &items[range], packing, target, &broken, &bar)
            })
            .collect()
    });
    bar.finish_and_clear();
    let mut broken = broken.into_inner().unwrap_or_default();
    broken.sort_by(|a: &Skipped, b| a.path.cmp(&b.path));
    Ok((shards?, broken))
}

/// Items of each shard: a shard is full when it has `max_count` items or `max_bytes` of their files.
fn plan(items: &[Item], limits: Limits) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0_u64);
    for (place, item) in items.iter().enumerate() {
        if place > start
            && ((place - start) as u64 >= limits.max_count || bytes >= limits.max_bytes)
        {
            shards.push(start..place);
            (start, bytes) = (place, 0);
        }
        bytes += item.bytes;
    }
    if start < items.len() {
        shards.push(start..items.len());
    }
    shards
}

fn write_shard(
    number: usize,
    items: &[Item],
    packing: &Packing,
    target: &ShardTarget,
    broken: &Mutex<Vec<Skipped>>,
    bar: &ProgressBar,
) -> Result<FinishedShard> {
    let mut shard = target.shard(number as u64)?;
    for item in items {
        let bytes =
            fs::read(&item.path).with_context(|| format!("cannot read {}", item.path.display()))?;
        let label = item.label.map(|label| label.to_string());
        match image(item, bytes, packing.quality) {
            Ok((suffix, bytes)) => {
                let label = label.as_ref().map(|label| ("cls", label.as_bytes()));
                let members: Vec<(&str, &[u8])> = label
                    .into_iter()
                    .chain([(suffix, bytes.as_slice())])
                    .collect();
                shard.write(&item.key, &members)?;
            }
            Err(reason) => {
                let skipped = Skipped {
                    path: item.path.clone(),
                    reason: format!("cannot re-encode: {reason}"),
                };
                broken
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .push(skipped);
            }
        }
        bar.inc(1);
    }
    Ok(shard.finish()?)
}

/// Suffix and bytes under which the image is stored.
fn image(
    item: &Item,
    bytes: Vec<u8>,
    quality: Option<u8>,
) -> Result<(&'static str, Vec<u8>), String> {
    match (item.format.stored_suffix(), quality) {
        (Some(suffix), quality) if item.format == Format::Jpeg || quality.is_none() => {
            Ok((suffix, bytes))
        }
        (_, Some(quality)) => Ok(("jpg", to_jpeg(&bytes, quality)?)),
        (_, None) => Err(format!("{} needs --reencode", item.format.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_fill_by_count_and_by_bytes() {
        let item = |bytes| Item {
            path: "x".into(),
            key: "x".into(),
            format: Format::Jpeg,
            bytes,
            label: None,
        };
        let items: Vec<Item> = [5, 5, 5, 20, 1, 1, 1].map(item).to_vec();
        let plan = |max_count, max_bytes| {
            plan(
                &items,
                Limits {
                    max_count,
                    max_bytes,
                },
            )
        };
        assert_eq!(plan(3, 1000), [0..3, 3..6, 6..7]);
        assert_eq!(plan(100, 10), [0..2, 2..4, 4..7]);
        assert_eq!(plan(100, 1000).as_slice(), std::slice::from_ref(&(0..7)));
        assert_eq!(plan(1, 1).len(), 7);
    }
}
