//! Writes planned shards, several at a time, and several images of each. Which sample goes to which shard is settled
//! before the first is written, so the number of jobs changes nothing, nor does that of ranks.

use std::fs;
use std::ops::Range;
use std::sync::Mutex;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use mae_loader::shard::{FinishedShard, Limits, ShardTarget};
use rayon::prelude::*;

use super::encode::{Encoding, ImageEncoder};
use super::format::Format;
use super::ranks::Ranks;
use super::source::{Item, Origin, Skipped};
use crate::progress;

/// Samples of a shard that are in memory at a time.
const CHUNK: usize = 64;

/// How to pack.
#[derive(Debug, Clone)]
pub(super) struct Packing {
    pub(super) limits: Limits,
    pub(super) encoding: Encoding,
    pub(super) jobs: usize,
}

/// Writes this rank's part of the shards of all items, not yet published. Also gives the images that could not be encoded.
pub(super) fn pack(
    items: &[Item],
    packing: &Packing,
    target: &ShardTarget,
    ranks: &Ranks,
) -> Result<(Vec<FinishedShard>, Vec<Skipped>)> {
    let plan: Vec<_> = plan(items, packing.limits)
        .into_iter()
        .enumerate()
        .collect();
    ranks.say_if_idle(plan.len());
    let plan: Vec<_> = plan
        .into_iter()
        .filter(|(number, _)| ranks.writes(*number))
        .collect();
    let images: usize = plan.iter().map(|(_, range)| range.len()).sum();
    let packer = Packer {
        packing,
        target,
        ranks,
        broken: Mutex::new(Vec::new()),
        bar: if ranks.is_first() {
            progress::bar(images as u64, "images")
        } else {
            ProgressBar::hidden()
        },
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(packing.jobs)
        .build()
        .context("cannot start threads")?;
    let shards: Result<Vec<FinishedShard>> = pool.install(|| {
        plan.into_par_iter()
            .with_max_len(1)
            .map(|(number, range)| packer.shard(number, &items[range]))
            .collect()
    });
    packer.bar.finish_and_clear();
    let broken = packer.broken.into_inner().unwrap_or_default();
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

/// What the writers of all shards share.
struct Packer<'a> {
    packing: &'a Packing,
    target: &'a ShardTarget,
    ranks: &'a Ranks,
    broken: Mutex<Vec<Skipped>>,
    bar: ProgressBar,
}

/// Suffixes and bytes of a sample's members.
type Members = Vec<(String, Vec<u8>)>;

impl Packer<'_> {
    fn shard(&self, number: usize, items: &[Item]) -> Result<FinishedShard> {
        let mut shard = self.target.shard(number as u64)?;
        for chunk in items.chunks(CHUNK) {
            self.ranks.check()?;
            let samples: Result<Vec<_>> = chunk
                .par_iter()
                .map_init(
                    || ImageEncoder::new(self.packing.encoding),
                    |encoder, item| Self::members(item, encoder),
                )
                .collect();
            for (item, members) in chunk.iter().zip(samples?) {
                match members {
                    Ok(members) => {
                        let members: Vec<(&str, &[u8])> = members
                            .iter()
                            .map(|(suffix, bytes)| (suffix.as_str(), bytes.as_slice()))
                            .collect();
                        shard.write(&item.key, &members)?;
                    }
                    Err(reason) => {
                        self.broken
                            .lock()
                            .unwrap_or_else(|e| e.into_inner())
                            .push(Skipped {
                                name: item.origin.to_string(),
                                reason,
                            })
                    }
                }
            }
            self.bar.inc(chunk.len() as u64);
            self.ranks.count(chunk.len() as u64);
        }
        Ok(shard.finish()?)
    }

    /// What is stored of an item; the inner error is why its image cannot be.
    fn members(item: &Item, encoder: &mut ImageEncoder) -> Result<Result<Members, String>> {
        let (mut members, suffix, bytes) = match &item.origin {
            Origin::File { path, label } => {
                let bytes =
                    fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let label = label.map(|label| ("cls".to_owned(), label.to_string().into_bytes()));
                (Members::from_iter(label), None, bytes)
            }
            Origin::Sample(shards, id) => {
                let image = shards.image_member(*id);
                let mut members = Members::new();
                for member in shards.members(*id).iter().filter(|member| *member != image) {
                    let mut bytes = Vec::new();
                    shards.read_member(*id, member, &mut bytes)?;
                    members.push((member.suffix.to_string(), bytes));
                }
                let mut bytes = Vec::new();
                shards.read_image(*id, &mut bytes)?;
                (members, Some(&*image.suffix), bytes)
            }
        };
        let Some(format) = Format::of(&bytes) else {
            return Ok(Err("not an image of a known format".into()));
        };
        let encoded = encoder
            .encode(&bytes, format)
            .map_err(|reason| format!("cannot re-encode: {reason}"));
        Ok(encoded.map(|encoded| {
            // A sample that was in a shard keeps its suffixes, but for a PNG's that it is no more.
            let stored = format.stored_suffix().unwrap_or("jpg");
            let suffix = match (&encoded, suffix) {
                (Some(_), None | Some("png")) => "jpg",
                (_, Some(kept)) => kept,
                (None, None) => stored,
            };
            members.push((suffix.to_owned(), encoded.unwrap_or(bytes)));
            members
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_fill_by_count_and_by_bytes() {
        let item = |bytes| Item {
            origin: Origin::File {
                path: "x".into(),
                label: None,
            },
            key: "x".into(),
            bytes,
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
