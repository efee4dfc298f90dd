//! `mae study`: variants of one training, each pre-trained and evaluated, as a table and a page beside what was published.

mod child;
mod definition;
mod execute;
mod page;
mod plan;
mod ready;
mod record;
mod settings;
mod summary;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Args;
use mae_loader::LabelSource;
use mae_trainer::checkpoint::files::commit_file;
use mae_trainer::config::{self, DeviceKind};

use self::child::Workshop;
use self::definition::{Definition, Metric};
use self::plan::Plan;
use self::record::Record;
use self::settings::Setting;
use crate::run::stop_on_signals;
use crate::{Outcome, Usage, table};

/// Compare variants of a training: each pre-trained and evaluated, as a table and a page
///
/// STUDY is a TOML file: a base of settings and variants of it (docs/studies.md), or the name of a ready-made study, which are the
/// paper's comparisons with what it published. Results are added to the output folder as they come. A study that was interrupted,
/// even killed, goes on with what is left by the same command; more seeds, metrics or variants are added by asking for them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mae study --list\n  \
    mae study mask-ratio --data 'data/train-*.tar' --val-data 'data/val-*.tar' --output-dir studies/mask-ratio\n  \
    mae study target --data … --val-data … --output-dir … --set pretrain.model=mae-tiny-patch4 pretrain.epochs=20 --seeds 0,1,2\n  \
    mae study mask-ratio --print > mine.toml")]
pub(crate) struct StudyArgs {
    /// A study's TOML file, or the name of a ready-made one
    #[arg(value_name = "STUDY", required_unless_present = "list")]
    study: Option<PathBuf>,
    /// Name the ready-made studies
    #[arg(long, exclusive = true)]
    list: bool,
    /// Print a ready-made study, to change it
    #[arg(long)]
    print: bool,

    /// Training shards: a tar file, a folder of them, a glob, braces; several may be given [default: the study's]
    #[arg(long, num_args = 1.., value_name = "SPEC")]
    data: Vec<String>,
    /// Held-out shards, which variants are judged on [default: the study's]
    #[arg(long, num_args = 1.., value_name = "SPEC")]
    val_data: Vec<String>,
    /// Where labels come from: cls, or json:FIELD (for example json:wnid) [default: the study's, else cls]
    #[arg(long, value_name = "FIELD")]
    label_field: Option<LabelSource>,
    /// Folder for results.jsonl, study.html and all runs
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present_any = ["list", "print"]
    )]
    output_dir: Option<PathBuf>,

    /// Train each variant from each of these seeds [default: the study's, else 0]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64), value_name = "N,..")]
    seeds: Vec<u64>,
    /// What to measure [default: the study's]
    #[arg(long, value_delimiter = ',', value_name = "METRIC,..")]
    evaluate: Vec<Metric>,
    /// These variants alone, by their names
    #[arg(long, num_args = 1.., value_name = "NAME")]
    variants: Vec<String>,
    /// Settings of the base, over the study's: pretrain.epochs=20, finetune.epochs=5, tokenizer.vocabulary=256, …
    #[arg(long, num_args = 1.., value_name = "PART.KEY=VALUE")]
    set: Vec<Setting>,

    /// Tasks at a time, which share --threads
    #[arg(long, default_value = "1", value_name = "N")]
    jobs: NonZero<usize>,
    /// Threads in all; 0 takes every core
    #[arg(long, default_value = "0", value_name = "N")]
    threads: usize,
    /// Where trainings and evaluations run: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceKind,
}

/// Runs `mae study`.
///
/// # Errors
/// Where the study's file, a setting or the output folder is at fault. Where tasks fail the others are still done, and the error says so
/// at the end.
pub(crate) fn run(args: &StudyArgs) -> anyhow::Result<Outcome> {
    if args.list {
        return list();
    }
    let name = args.study.as_deref().unwrap_or(Path::new(""));
    if args.print {
        let text = name.to_str().and_then(ready::text).ok_or_else(|| {
            let known = ready::names().collect::<Vec<_>>().join(", ");
            Usage(format!("--print shows ready-made studies: {known}"))
        })?;
        io::stdout().write_all(text.as_bytes())?;
        return Ok(Outcome::Done);
    }
    let usage = |error: anyhow::Error| anyhow::Error::from(Usage(format!("{error:#}")));
    let study = args.definition(name)?;
    let plan = Plan::of(&study).map_err(usage)?;
    let threads = args.threads_each()?;
    let root = args.output_dir.as_deref().unwrap_or(Path::new("."));

    let workshop = Workshop::open(root, threads, args.device)?;
    let mut record = Record::open(root)?;
    record.suit(&plan, root)?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(Arc::clone(&stop))?;
    tracing::info!(
        "{}: {} variants, {} tasks; logs, runs and results are in {}",
        study.title,
        study.variants.len(),
        plan.tasks.len(),
        root.display()
    );
    let command = command();
    let path = root.join("study.html");
    let write = |record: &Record| -> anyhow::Result<()> {
        let rows = summary::rows(&study, &plan, record, root);
        let page = page::write(&study, &rows, &command);
        commit_file(&path, page.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    };
    let (record, tally) =
        execute::execute(&plan, record, &workshop, args.jobs.get(), &stop, &write)?;
    write(&record)?;

    let table = page::overview(&study, &summary::rows(&study, &plan, &record, root));
    let text = format!(
        "{}\n{}\n",
        table::text(&table.head, &table.rows),
        path.display()
    );
    io::stdout().write_all(text.as_bytes())?;
    if tally.left > 0 {
        tracing::info!(
            "stopped with {} of {} tasks to do; the same command goes on",
            tally.left,
            plan.tasks.len()
        );
        return Ok(Outcome::Stopped);
    }
    match tally.failed {
        0 => Ok(Outcome::Done),
        failed => anyhow::bail!(
            "{failed} of {} tasks failed or wait for one that did; the reasons stand above and in {}. The same command tries them again",
            plan.tasks.len(),
            path.display()
        ),
    }
}

impl StudyArgs {
    /// The study with what the flags say of it.
    fn definition(&self, name: &Path) -> anyhow::Result<Definition> {
        let mut study = Definition::load(name)?;
        if !self.data.is_empty() {
            study.data.clone_from(&self.data);
        }
        if !self.val_data.is_empty() {
            study.val_data.clone_from(&self.val_data);
        }
        if let Some(field) = &self.label_field {
            study.label_field = Some(field.to_string());
        }
        if !self.seeds.is_empty() {
            study.seeds.clone_from(&self.seeds);
        }
        if !self.evaluate.is_empty() {
            study.evaluate.clone_from(&self.evaluate);
        }
        let set = study
            .set(&self.set)
            .and_then(|()| study.keep(&self.variants));
        set.map_err(|error| Usage(format!("the study {}: {error:#}", name.display())))?;
        if study.data.is_empty() {
            return Err(Usage("no data: give --data with training shards".into()).into());
        }
        if study.measures(Metric::Finetune) && study.val_data.is_empty() {
            return Err(Usage(
                "the accuracy of fine-tuning is measured on held-out shards: give --val-data, or leave finetune out of --evaluate".into(),
            )
            .into());
        }
        Ok(study)
    }

    /// Threads of each task.
    fn threads_each(&self) -> Result<usize, Usage> {
        let all = config::threads(self.threads);
        match all / self.jobs {
            0 => Err(Usage(format!(
                "--jobs {} needs as many threads, and there are {all}; give --threads to share cores",
                self.jobs
            ))),
            each => Ok(each),
        }
    }
}

fn list() -> anyhow::Result<Outcome> {
    let mut text = String::new();
    for name in ready::names() {
        let study = Definition::load(Path::new(name))?;
        let _ = writeln!(text, "{name:<18}{}", study.about);
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(Outcome::Done)
}

/// The command as it was given.
fn command() -> String {
    let words = std::env::args().skip(1);
    let words = words.map(|word| config::shell_word(Path::new(&word)));
    std::iter::once("mae".to_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}
