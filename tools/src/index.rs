//! `mae index`: writes the index of shards that another tool made.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use mae_loader::shard::build_index;

use crate::Outcome;
use crate::cli::CacheArgs;
use crate::units::show_count;

/// Write index.json beside tar shards made by other tools
///
/// The index keeps the place and size of every member, so that a dataset opens at once; without one, shards are scanned
/// each time they are opened. It is also a wids index (nsamples, filesize, md5sum) for Python's webdataset. Entries of
/// other shards in the same folder are kept. Gzip-compressed shards are inflated into the cache to be read.
///
/// SPEC is a file, a folder, a glob ('train-*.tar'), a brace range ('train-{000000..000146}.tar'), or several with `::`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Shards to index
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<String>,

    /// Leave the MD5 sums out, which need all data to be read
    #[arg(long)]
    no_checksums: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

pub(crate) fn run(args: &IndexArgs) -> Result<Outcome> {
    let cache = &args.cache;
    let built = build_index(
        &args.specs,
        cache.cache_dir.as_deref(),
        cache.cache_bytes,
        !args.no_checksums,
    )?;
    let mut out = io::stdout().lock();
    for index in built {
        writeln!(
            out,
            "{}: {}, {}",
            index.path.display(),
            show_count(index.shards as u64, "shard"),
            show_count(index.samples, "sample")
        )?;
    }
    Ok(Outcome::Done)
}
