//! `mae eval report`: several checkpoints by several protocols on the same images and masks, as `results.json` and as a page.
//!
//! The numbers are those of the other evaluations with the same settings; what is here is who is measured by what, and how it is told.

mod args;
mod figure;
mod measure;
mod page;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use candle_core::Device;
use mae_trainer::checkpoint::files::commit_file;
use mae_trainer::checkpoint::{load_encoder, load_mae};
use serde_json::{Map, Value, json};

use self::args::Protocol;
pub(super) use self::args::SummaryArgs;
use self::figure::Judged;
use self::measure::Measure;
use super::args::check;
use super::subject::Machine;
use crate::{Outcome, Usage, table};

const RESULTS_FILE: &str = "results.json";
const REPORT_FILE: &str = "report.html";

/// Runs `mae eval report`.
///
/// # Errors
/// Where a checkpoint or the data cannot be read or the folder not be written. Where single measurements fail the others are still
/// reported, and the error says so at the end.
pub(super) fn run(args: &SummaryArgs) -> anyhow::Result<Outcome> {
    // Mistakes come to light before the work, not after it.
    let machine = Machine::open(&args.encode)?;
    let imports = args.imports()?;
    let mut mask_ratio = args.mask_ratio;
    for (checkpoint, options) in args.checkpoints.iter().zip(&imports) {
        let (_, source) = load_encoder(checkpoint, options, &Device::Cpu)?;
        let ratio = *mask_ratio.get_or_insert(source.mask_ratio());
        if !(args.runs(Protocol::Loss) || args.runs(Protocol::Reconstruct)) {
            continue;
        }
        // One without a decoder is no reason to leave the others out.
        if let Ok((mae, source)) = load_mae(checkpoint, options, &Device::Cpu) {
            let masking = args.masking(&source, &mae.config, ratio);
            let fits = check(&masking, &mae.config);
            fits.map_err(|Usage(reason)| Usage(format!("{}: {reason}", checkpoint.display())))?;
        }
    }
    let measure = Measure::open(args, mask_ratio.unwrap_or_default(), &machine)?;
    let folder = &args.output_dir;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;

    let mut judged = vec![];
    for (number, (checkpoint, options)) in args.checkpoints.iter().zip(&imports).enumerate() {
        tracing::info!(
            "{}/{} {}",
            number + 1,
            args.checkpoints.len(),
            checkpoint.display()
        );
        judged.push(measure.trained(checkpoint, options)?);
    }
    let first = args.checkpoints.iter().zip(&imports).next();
    if let Some((first, options)) = first.filter(|_| args.random_weights) {
        tracing::info!("random weights");
        judged.push(measure.untrained(first, options)?);
    }

    let results = json(&measure, &judged);
    let page = page::write(&measure, &judged)?;
    write(
        &folder.join(RESULTS_FILE),
        &serde_json::to_string_pretty(&results)?,
    )?;
    write(&folder.join(REPORT_FILE), &page)?;
    let overview = page::overview(&judged);
    let text = format!(
        "{}\n{}\n",
        table::text(&overview.head, &overview.rows),
        folder.join(REPORT_FILE).display()
    );
    io::stdout().write_all(text.as_bytes())?;
    match judged.iter().map(|judged| judged.failures.len()).sum() {
        0 => Ok(Outcome::Done),
        failed => anyhow::bail!(
            "{failed} of the measurements failed, the others are in {}; the reasons stand there and above",
            folder.display()
        ),
    }
}

/// Everything measured, and how.
fn json(measure: &Measure<'_>, judged: &[Judged]) -> Value {
    let args = measure.args;
    let samples = |protocol: Protocol| {
        let mut figures = judged.iter().flat_map(|judged| &judged.figures);
        figures
            .find(|figure| figure.protocol == protocol)
            .map(|figure| figure.count)
    };
    let labelled = samples(Protocol::Knn).or(samples(Protocol::LinearProbe));
    let shown = judged.iter().map(|judged| &judged.shown);
    let images: Vec<&str> = shown
        .max_by_key(|shown| shown.len())
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|shown| shown.key.as_str())
        .collect();
    let poolings: Map<String, Value> = args
        .judges()
        .map(|(protocol, judge)| {
            let pooling = judge.pooling(&args.labels).to_string();
            (protocol.name().to_owned(), pooling.into())
        })
        .collect();
    let mut settings = json!({
        "mask_ratio": measure.mask_ratio,
        "seed": args.seed,
        "k": args.k,
        "pooling": poolings,
        "label_field": args.labels.label_field.to_string(),
        "confidence": 0.95,
    });
    for (name, value) in args.encode.settings() {
        settings[name] = value;
    }
    json!({
        "evaluation": "report",
        "version": env!("CARGO_PKG_VERSION"),
        "data": args.data.specs,
        "val_data": args.labels.val_data,
        "protocols": args.protocols().collect::<Vec<_>>(),
        "settings": settings,
        "samples": { "loss": samples(Protocol::Loss), "labelled": labelled },
        "images": images,
        "checkpoints": judged.iter().map(Judged::json).collect::<Vec<_>>(),
    })
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    commit_file(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
