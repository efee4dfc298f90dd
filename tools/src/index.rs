//! `mae index`: writes the index of shards that another tool made.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mae_loader::shard::{BuildOptions, build_index};

use crate::Outcome;
use crate::cli::CacheArgs;
use crate::units::show_count;

/// Write index.json beside tar shards made by other tools
///
/// The index keeps the place and size of every member, so that a dataset opens at once; without one, shards are scanned
/// each time they are opened. It is also a wids index (nsamples, filesize, md5sum) for Python's webdataset. Entries of
/// other shards in the same folder are kept. Compressed shards are inflated into the cache to be read. Shards on servers are
/// indexed into a file of one's own, with --output, to be given in their place (`--data FILE`).
///
/// SPEC is a file, a URL, a folder, a glob ('train-*.tar'), a brace range ('train-{000000..000146}.tar'), or several with `::`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Shards to index
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<String>,

    /// Write one index of all shards here, in place of index.json beside them
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Leave the MD5 sums out, which need all data to be read
    #[arg(long)]
    no_checksums: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

pub(crate) fn run(args: &IndexArgs) -> Result<Outcome> {
    let options = BuildOptions {
        cache_dir: args.cache.cache.clone(),
        cache_bytes: args.cache.cache_size.0,
        checksums: !args.no_checksums,
        output: args.output.clone(),
    };
    let built = build_index(&args.specs, &options)?;
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
