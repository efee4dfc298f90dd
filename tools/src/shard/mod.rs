//! `mae shard`: packs image files, or the samples of other shards, into tar shards.

mod encode;
mod format;
mod keys;
mod pack;
mod reshard;
mod source;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgGroup, Args};
use mae_loader::shard::{Limits, Prepared, ShardPattern, ShardTarget};

use self::encode::Encoding;
use self::pack::Packing;
use self::source::Skipped;
use crate::cli::CacheArgs;
use crate::units::{show_bytes, show_count};
use crate::{Outcome, Usage};
use mae_trainer::config::ByteSize;

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
    let shards = reshard::spec(&args.src);
    if shards.is_none() && !args.src.exists() {
        return Err(Usage(format!("there is no file or folder {}", args.src.display())).into());
    }
    let target = ShardTarget::prepare(&args.dst, args.pattern.clone(), args.overwrite)?;
    let mut found = match shards {
        Some(spec) => reshard::find(spec, &args.cache)?,
        None => source::find(&args.src, args.reencode)?,
    };
    if args.shuffle {
        source::shuffle(&mut found.items, args.seed);
    }
    let packing = Packing {
        limits: Limits {
            max_count: args.max_count,
            max_bytes: args.max_size.0,
        },
        encoding: Encoding {
            reencode: args.reencode,
            short_side: args.short_side,
            quality: args.quality,
        },
        jobs: args
            .jobs
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, usize::from),
    };
    let (shards, broken) = pack::pack(&found.items, &packing, &target)?;
    found.skipped.extend(broken);
    report_skipped(&found.skipped);
    let prepared = args.short_side.map(|short_side| Prepared {
        short_side,
        quality: args.quality,
    });
    let target = target.prepared(prepared.or(found.prepared));
    let written = target.publish(shards, found.classes.as_deref())?;

    let mut out = io::stdout().lock();
    write!(
        out,
        "{} in {} ({}) in {}",
        show_count(written.samples, "sample"),
        show_count(written.shards as u64, "shard"),
        show_bytes(written.bytes),
        args.dst.display()
    )?;
    match (&found.classes, found.labelled) {
        (Some(classes), _) => writeln!(out, ", {}", show_count(classes.len() as u64, "class"))?,
        (None, true) => writeln!(out, ", labels without names")?,
        (None, false) => writeln!(out, ", no labels")?,
    }
    if !found.skipped.is_empty() {
        let files = show_count(found.skipped.len() as u64, "file");
        writeln!(out, "{files} passed over")?;
    }
    Ok(Outcome::Done)
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
