//! `mae shard`: packs image files, or the samples of other shards, into tar shards.

mod encode;
mod format;
mod keys;
mod listing;
mod pack;
mod parts;
mod ranks;
mod reshard;
mod source;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgGroup, Args};
use mae_loader::shard::{FinishedShard, Limits, Prepared, ShardPattern, ShardTarget};

use self::encode::Encoding;
use self::pack::Packing;
use self::parts::{Found, Packed};
use self::ranks::{Ranks, Stage};
use self::source::Skipped;
use crate::cli::CacheArgs;
use crate::units::{show_bytes, show_count};
use crate::{Outcome, Usage};
use mae_trainer::config::ByteSize;
use mae_trainer::dist::Launch;

/// Pack image files into tar shards that `mae` (and any WebDataset reader) streams
///
/// SRC is one of:
///   a folder of folders   CLASS/NAME.jpg; the folders are the classes, numbered in order of name
///   a folder of images    no labels
///   a text file           a path a line, relative to the file, with an optional label behind a tab
///                         (or behind the last space): a class index, or a class name
///   shards                a tar, a folder of tars, 'train-*.tar', 'train-{000..146}.tar', index.json:
///                         their samples are packed anew, with all of their members
///
/// JPEG files are stored byte for byte as .jpg, PNG files as .png, the class index as .cls, the
/// class names in DST/classes.json, and the place of every member in DST/index.json. Other images
/// (WebP, BMP, GIF) are passed over and named, unless --reencode turns them into JPEG. What a file
/// holds is told by its content, not by its name.
///
/// --short-side 256 --quality 90 makes smaller shards that load faster, at some loss
/// of detail: larger images are resized as by torchvision's Resize(256) and stored as JPEG with halved
/// chroma, as Pillow saves it. Images that are small enough keep their bytes. Images that do not decode
/// are passed over and named. index.json says that the images were prepared.
///
/// The same SRC and flags give the same bytes, whatever --jobs. Shards get their names when all of
/// them are whole; after an interrupted run, run it again.
///
/// Several processes share the work where torchrun --no-python, mpirun or srun starts them, on one
/// machine or several, one a machine as a rule: SRC and DST must be the same files on all of them. Each
/// writes a part of the shards, and rank 0 publishes all, byte for byte those of one process. A rank
/// that fails, or gives no sign of life for 60 s, ends the others, and nothing is published.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, group = ArgGroup::new("encoding").args(["reencode", "short_side"]).multiple(true))]
pub(crate) struct ShardArgs {
    /// Folder of images, text file that lists them, or shards
    src: PathBuf,

    /// Folder to write the shards to; created where it is missing
    dst: PathBuf,

    /// Name of the shards, with %d or %06d for their number
    #[arg(long, default_value = "shard-%06d.tar")]
    pattern: ShardPattern,

    /// Most samples in a shard
    #[arg(long, default_value_t = Limits::default().max_count, value_parser = clap::value_parser!(u64).range(1..))]
    max_count: u64,

    /// Bytes of source files (as they were, where they are re-encoded) after which a shard is full (3e9, 500MB, 2GiB)
    #[arg(long, default_value = "3e9", value_name = "SIZE")]
    max_size: ByteSize,

    /// Store the samples in random order (of use to readers that do not shuffle across shards, as mae does)
    #[arg(long)]
    shuffle: bool,

    /// Seed of that order
    #[arg(long, default_value_t = 0, requires = "shuffle")]
    seed: u64,

    /// Shards written at the same time [default: one a core]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,

    /// Turn PNG, WebP, BMP and GIF images (the first frame) into JPEG
    #[arg(long)]
    reencode: bool,

    /// Resize images whose short side is longer to this many pixels, and store them as JPEG
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=65535))]
    short_side: Option<u32>,

    /// JPEG quality for --reencode and --short-side
    #[arg(long, default_value_t = 95, requires = "encoding", value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,

    /// Replace finished shards of the same pattern
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

pub(crate) fn run(args: ShardArgs) -> Result<Outcome> {
    let ranks = Ranks::meet(&Launch::from_env()?, &args.dst, &args.pattern)?;
    let summary = shard(&args, &ranks);
    let first = ranks.is_first();
    let summary = ranks.leave(summary)?;
    if first {
        io::stdout().lock().write_all(summary.as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// Writes the shards, or this rank's part of them, and sums up what was written by all.
fn shard(args: &ShardArgs, ranks: &Ranks) -> Result<String> {
    let shards = reshard::spec(&args.src);
    if shards.is_none() && !args.src.exists() {
        return Err(Usage(format!("there is no file or folder {}", args.src.display())).into());
    }
    let (dst, pattern) = (&args.dst, args.pattern.clone());
    // Rank 0 clears the folder before the others write to it: they wait for what it found.
    let target = if ranks.is_first() {
        ShardTarget::prepare(dst, pattern, args.overwrite)?
    } else {
        ShardTarget::joined(dst, pattern)
    };
    let packing = args.packing();
    let mut found = find(args, shards, &packing, ranks)?;
    if args.shuffle {
        source::shuffle(&mut found.items, args.seed);
    }
    let (shards, broken) = pack::pack(&found.items, &packing, &target, ranks)?;
    let handed_over: &[FinishedShard] = if ranks.is_first() { &[] } else { &shards };
    let packed = Packed {
        entries: handed_over
            .iter()
            .map(|shard| shard.entry().clone())
            .collect(),
        broken,
    };
    // On other ranks than 0 the closure only keeps this rank's shards until rank 0 has published them.
    ranks.reduce(Stage::Packed, packed, |parts| {
        let (mut shards, mut broken) = (shards, Vec::new());
        for part in parts {
            broken.extend(part.broken);
            let others = part
                .entries
                .into_iter()
                .map(|entry| target.take_over(entry));
            shards.extend(others.collect::<Result<Vec<_>, _>>()?);
        }
        broken.sort_by(|a, b| a.name.cmp(&b.name));
        found.skipped.extend(broken);
        publish(args, target, shards, found)
    })
}

impl ShardArgs {
    fn packing(&self) -> Packing {
        Packing {
            limits: Limits {
                max_count: self.max_count,
                max_bytes: self.max_size.0,
            },
            encoding: Encoding {
                reencode: self.reencode,
                short_side: self.short_side,
                quality: self.quality,
            },
            jobs: self
                .jobs
                .or_else(|| std::thread::available_parallelism().ok())
                .map_or(1, usize::from),
        }
    }
}

/// The samples of the source, the same on all ranks.
fn find(
    args: &ShardArgs,
    shards: Option<&str>,
    packing: &Packing,
    ranks: &Ranks,
) -> Result<source::Found> {
    let agree = |digest, looks| {
        let seed = args.shuffle.then_some(args.seed);
        let part = Found::new(packing.limits, packing.encoding, seed, digest, looks);
        ranks.reduce(Stage::Found, part, Found::together)
    };
    if let Some(spec) = shards {
        let (found, digest) = reshard::find(spec, &args.cache)?;
        agree(digest, Vec::new())?;
        return Ok(found);
    }
    let listed = listing::list(&args.src)?;
    let looks = listed.look(ranks.part(listed.len()))?;
    let looks = agree(listed.digest(), looks)?;
    source::find(&args.src, listed, &looks, args.reencode)
}

/// Publishes all shards, and says what was not packed and what was.
fn publish(
    args: &ShardArgs,
    target: ShardTarget,
    shards: Vec<FinishedShard>,
    found: source::Found,
) -> Result<String> {
    for name in &found.empty_classes {
        tracing::warn!("class `{name}` has no images");
    }
    report_skipped(&found.skipped);
    let prepared = args.short_side.map(|short_side| Prepared {
        short_side,
        quality: args.quality,
    });
    let target = target.prepared(prepared.or(found.prepared));
    let written = target.publish(shards, found.classes.as_deref())?;

    let mut summary = format!(
        "{} in {} ({}) in {}",
        show_count(written.samples, "sample"),
        show_count(written.shards as u64, "shard"),
        show_bytes(written.bytes),
        args.dst.display()
    );
    summary += &match (&found.classes, found.labelled) {
        (Some(classes), _) => format!(", {}\n", show_count(classes.len() as u64, "class")),
        (None, true) => ", labels without names\n".into(),
        (None, false) => ", no labels\n".into(),
    };
    if !found.skipped.is_empty() {
        let files = show_count(found.skipped.len() as u64, "file");
        summary += &format!("{files} passed over\n");
    }
    Ok(summary)
}

/// Names what was passed over: all of it where it is little.
fn report_skipped(skipped: &[Skipped]) {
    const NAMED: usize = 20;
    for file in skipped.iter().take(NAMED) {
        tracing::warn!("passing over {}: {}", file.name, file.reason);
    }
    for file in skipped.iter().skip(NAMED) {
        tracing::debug!("passing over {}: {}", file.name, file.reason);
    }
    if let Some(more @ 1..) = skipped.len().checked_sub(NAMED) {
        tracing::warn!("passing over {more} more files (--log-level debug names them)");
    }
}
