//! `mae demo`: the whole path on a dataset that it draws itself. Makes shards, streams them, pre-trains, evaluates, and writes a page.
//! Every step uses what the other subcommands use; nothing is specific to the demo but its pictures.

mod dataset;
mod page;
mod recipe;
mod results;
mod rng;
mod scene;
mod shapes;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use candle_core::Device;
use clap::Args;
use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::checkpoint::load_mae;
use mae_trainer::eval::Masking;
use mae_trainer::metrics::log;
use mae_trainer::output::log_path;

use self::page::Story;
use self::recipe::Recipe;
use crate::run::{Progress, stop_on_signals};
use crate::{Outcome, Usage, table};

/// Reconstructions on the page.
const PICTURED: usize = 12;
const RECIPE_FILE: &str = "demo.json";
const RESULTS_FILE: &str = "results.json";
const REPORT_FILE: &str = "report.html";

/// Make a dataset, pre-train a small model on it, evaluate it and write a report
///
/// Draws some thousand pictures of textured shapes, writes them as shards, trains a masked autoencoder on them without labels,
/// and compares its features with those of the same network before training and with raw pixels. Takes under five minutes on
/// two cores. Interrupted, the same command goes on where it stopped.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder for the dataset (data/), the run (run/), results.json and report.html
    #[arg(long, default_value = "runs/demo", value_name = "DIR")]
    output_dir: PathBuf,
    /// A small dataset and a few epochs: shows that everything runs, learns little
    #[arg(long)]
    quick: bool,
    /// What the pictures, the initial weights and the training are drawn from
    #[arg(long, default_value = "0", value_name = "N")]
    seed: u64,
}

/// Runs `mae demo`.
///
/// # Errors
/// Where the folder holds a demo of other settings, or cannot be written to.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let output = &args.output_dir;
    let recipe = if args.quick {
        Recipe::quick(args.seed)
    } else {
        Recipe::full(args.seed)
    };
    claim(output, &recipe)?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(Arc::clone(&stop))?;

    let config = recipe.training(output)?;
    mae_model::set_threads(config.thread_budget())?;
    let sets = recipe.sets(output);
    tracing::info!(
        "1/3 dataset: {} + {} pictures in {}",
        sets.train,
        sets.test,
        sets.folder.display()
    );
    if !sets.make()? {
        tracing::info!("already there");
    }

    tracing::info!("2/3 pre-training: {} epochs", config.epochs);
    let mut progress = Progress::default();
    let outcome = mae_trainer::pretrain(&config, &stop, &mut progress);
    progress.close();
    if let mae_trainer::Outcome::Stopped { step, .. } = outcome? {
        tracing::info!(
            "stopped after step {step}, saved. Go on with: {}",
            command(args)
        );
        return Ok(Outcome::Stopped);
    }

    tracing::info!("3/3 evaluation");
    let (mae, _) = load_mae(&config.output_dir, &ImportOptions::default(), &Device::Cpu)?;
    let masking = Masking {
        sampling: config.mask_sampling(),
        ratio: config.mask_ratio,
        seed: config.seed,
    };
    let results = results::measure(&sets, &mae, &masking)?;
    let report = page::write(&Story {
        config: &config,
        results: &results,
        log: &log::read(&log_path(&config.output_dir))?,
        reconstructions: &results::pictures(&sets, &mae, &masking, PICTURED)?,
        parameters: mae.params.count(),
        command: &command(args),
        quick: args.quick,
    })?;
    write(
        &output.join(RESULTS_FILE),
        &serde_json::to_string_pretty(&results)?,
    )?;
    write(&output.join(REPORT_FILE), &report)?;

    let (head, rows) = results.table();
    tracing::info!(
        "done in {:.0} s; see {}",
        begun.elapsed().as_secs_f64(),
        output.join(REPORT_FILE).display()
    );
    write!(io::stdout(), "{}", table::text(&head, &rows))?;
    Ok(Outcome::Done)
}

/// Takes `output` for this recipe, or goes on in it.
fn claim(output: &Path, recipe: &Recipe) -> anyhow::Result<()> {
    fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
    let path = output.join(RECIPE_FILE);
    match fs::read_to_string(&path) {
        Ok(text) if serde_json::from_str::<Recipe>(&text).is_ok_and(|other| other == *recipe) => Ok(()),
        Ok(_) => Err(Usage(format!(
            "{} holds a demo with other settings (seed, --quick, or another version of mae); delete it, or choose another --output-dir",
            output.display()
        ))
        .into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(&path, &serde_json::to_string_pretty(recipe)?),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The command that makes this demo, or goes on with it.
fn command(args: &DemoArgs) -> String {
    let quick = if args.quick { " --quick" } else { "" };
    format!(
        "mae demo --output-dir {} --seed {}{quick}",
        args.output_dir.display(),
        args.seed
    )
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    // Through a temporary name: what stands under the name is whole.
    let partial = path.with_extension("partial");
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("demo");
        claim(&output, &Recipe::quick(0)).unwrap();
        claim(&output, &Recipe::quick(0)).unwrap();
        let error = claim(&output, &Recipe::quick(1)).unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
        assert!(claim(&output, &Recipe::full(0)).is_err());
    }
}
