//! `mae shard`: packs image files into tar shards.

mod format;
mod keys;
mod pack;
mod source;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mae_loader::shard::{Limits, ShardPattern, ShardTarget};

use self::pack::Packing;
use self::source::Skipped;
use crate::units::{parse_bytes, show_bytes, show_count};
use crate::{Outcome, Usage};

/// Pack image files into tar shards that `mae` (and any WebDataset reader) streams
///
/// SRC is one of:
///   a folder of folders   CLASS/NAME.jpg; the folders are the classes, numbered in order of name
///   a folder of images    no labels
///   a text file           a path a line, relative to the file, with an optional label behind a tab
///                         (or behind the last space): a class index, or a class name
///
/// JPEG files are stored byte for byte as .jpg, PNG files as .png, the class index as .cls, the
/// class names in DST/classes.json, and the place of every member in DST/index.json. Other images
/// (WebP, BMP, GIF) are passed over and named, unless --reencode turns them into JPEG. What a file
/// holds is told by its content, not by its name.
///
/// The same SRC and flags give the same bytes, whatever --jobs. Shards get their names when all of
/// them are whole; after an interrupted run, run it again.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ShardArgs {
    /// Folder of images, or text file that lists them
    src: PathBuf,

    /// Folder to write the shards to; created where it is missing
    dst: PathBuf,

    /// Name of the shards, with %d or %06d for their number
    #[arg(long, default_value = "shard-%06d.tar")]
    pattern: ShardPattern,

    /// Most samples in a shard
    #[arg(long, default_value_t = Limits::default().max_count, value_parser = clap::value_parser!(u64).range(1..))]
    max_count: u64,

    /// Bytes of source files after which a shard is full (3e9, 500MB, 2GiB)
    #[arg(long, default_value = "3e9", value_parser = parse_bytes, value_name = "SIZE")]
    max_size: u64,

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

    /// JPEG quality for --reencode
    #[arg(long, default_value_t = 95, requires = "reencode", value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,

    /// Replace finished shards of the same pattern
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(args: ShardArgs) -> Result<Outcome> {
    if !args.src.exists() {
        return Err(Usage(format!("there is no file or folder {}", args.src.display())).into());
    }
    let target = ShardTarget::prepare(&args.dst, args.pattern.clone(), args.overwrite)?;
    let mut found = source::find(&args.src, args.reencode)?;
    if args.shuffle {
        source::shuffle(&mut found.items, args.seed);
    }
    let packing = Packing {
        limits: Limits {
            max_count: args.max_count,
            max_bytes: args.max_size,
        },
        quality: args.reencode.then_some(args.quality),
        jobs: args
            .jobs
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, usize::from),
    };
    let (shards, broken) = pack::pack(&found.items, &packing, &target)?;
    found.skipped.extend(broken);
    report_skipped(&found.skipped);
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
        tracing::warn!("passing over {}: {}", file.path.display(), file.reason);
    }
    for file in skipped.iter().skip(NAMED) {
        tracing::debug!("passing over {}: {}", file.path.display(), file.reason);
    }
    if let Some(more @ 1..) = skipped.len().checked_sub(NAMED) {
        tracing::warn!("passing over {more} more files (--log-level debug names them)");
    }
}
