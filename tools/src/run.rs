//! What `mae pretrain` and `mae finetune` do around a training: signals, a progress bar, what is printed when it ends.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use mae_trainer::Observer;
use mae_trainer::checkpoint::RunConfig;
use mae_trainer::dist::Launch;
use mae_trainer::finetune::FinetuneStart;
use mae_trainer::metrics::log::{DataCount, EpochLine, StepLine};
use mae_trainer::metrics::utilisation::{Bound, Utilisation};
use mae_trainer::observer::{Start, StepReport, Summary};
use mae_trainer::target::PcaFit;
use mae_trainer::tokenizer::TokenizerStart;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::Outcome;
use crate::eval::percent;
use crate::terminal::bars;
use crate::units::{duration, show_bytes, show_memory};

/// A training of the library: settings, what asks it to stop, who watches.
type Training<C> =
    fn(&C, &AtomicBool, &mut dyn Observer) -> mae_trainer::Result<mae_trainer::Outcome>;

/// Trains until all is done or a signal comes, and says what came of it, if `launch` is the first of several processes: JSON on stdout, a
/// sentence in the log. `result` is what is to be said of a finished run besides: in the sentence, and in the JSON.
pub(crate) fn carry_out<C: RunConfig>(
    (config, launch): (&C, &Launch),
    training: Training<C>,
    result: impl FnOnce(&Summary) -> (String, serde_json::Value),
) -> anyhow::Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(Arc::clone(&stop))?;
    let mut progress = Progress::default();
    let outcome = training(config, &stop, &mut progress);
    progress.close();
    let outcome = outcome?;
    if !launch.is_first() {
        return Ok(match outcome {
            mae_trainer::Outcome::Finished(_) => Outcome::Done,
            mae_trainer::Outcome::Stopped { .. } => Outcome::Stopped,
        });
    }
    let (said, ended) = match outcome {
        mae_trainer::Outcome::Finished(summary) => {
            let (sentence, more) = result(&summary);
            tracing::info!(
                "done: {} steps{sentence} in {}; the model is in {}",
                summary.step,
                duration(summary.seconds),
                summary.checkpoint.display()
            );
            let mut json = serde_json::json!({
                "outcome": "finished", "step": summary.step, "loss": summary.loss, "val_loss": summary.val_loss,
                "seconds": summary.seconds, "checkpoint": summary.checkpoint,
            });
            if let (Some(json), serde_json::Value::Object(more)) = (json.as_object_mut(), more) {
                json.extend(more);
            }
            (json, Outcome::Done)
        }
        mae_trainer::Outcome::Stopped { checkpoint, step } => {
            let resume = config.resume_command();
            tracing::info!(
                "stopped after step {step}, saved as {}. Go on with: {resume}",
                checkpoint.display()
            );
            let json = serde_json::json!({
                "outcome": "stopped", "step": step, "checkpoint": checkpoint, "resume": resume,
            });
            (json, Outcome::Stopped)
        }
    };
    writeln!(io::stdout(), "{said}")?;
    Ok(ended)
}

/// The first SIGINT or SIGTERM raises `stop`; the second does what it would have done without us.
pub(crate) fn stop_on_signals(stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot wait for signals")?;
    let wait = move || {
        for signal in signals.forever() {
            if stop.swap(true, Ordering::Relaxed) {
                let _ = emulate_default_handler(signal);
            }
            tracing::info!(
                "stopping after this step, then saving; the same signal again ends at once"
            );
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .context("cannot wait for signals")?;
    Ok(())
}

/// A bar on a terminal, a line for each logged step elsewhere.
#[derive(Default)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total_steps: u64,
    epochs: u64,
    pace: Pace,
    /// What the run was last said to be bound by.
    bound: Option<Bound>,
}

impl Progress {
    pub(crate) fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// With so many steps in all, and done.
    fn begin(&mut self, (total, done): (u64, u64), epochs: u64) {
        (self.total_steps, self.epochs) = (total, epochs);
        if io::stderr().is_terminal() {
            let bar = bars().add(ProgressBar::new(total).with_position(done));
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {msg}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            self.bar = Some(bar);
        }
    }

    /// Says what the run is bound by and what to change, where that is news.
    fn say_bound(&mut self, utilisation: &Utilisation) {
        if self.bound.replace(utilisation.bound_by) != Some(utilisation.bound_by) {
            tracing::info!("{}", utilisation.sentence());
        }
    }

    fn left(&self, step: u64) -> String {
        duration(self.pace.seconds_a_step * self.total_steps.saturating_sub(step) as f64)
    }
}

impl Observer for Progress {
    fn started(&mut self, start: &Start<'_>) {
        match start.config.to_toml() {
            Ok(settings) => tracing::info!("settings:\n{}", settings.trim_end()),
            Err(error) => tracing::warn!("{error}"),
        }
        if let Some(path) = start.resumed {
            tracing::info!("going on from {} (step {})", path.display(), start.step);
        }
        for part in start.parts {
            tracing::info!(
                "{:.1}% of the samples from {}, which has {}",
                100.0 * part.share,
                part.name,
                part.samples
            );
        }
        let epoch = match start.epoch_samples == start.samples {
            true => String::new(),
            false => format!(", {} drawn an epoch", start.epoch_samples),
        };
        tracing::info!(
            "{}: {} parameters; {} samples{epoch}, {} steps an epoch, {} steps in all",
            start.config.model,
            start.parameters,
            start.samples,
            start.steps_per_epoch,
            start.total_steps
        );
        tracing::info!(
            "loader: {}; at most {}",
            start.decoder,
            show_memory(start.loader_memory)
        );
        let (memory, batch) = (start.step_memory, start.config.batch_size);
        tracing::info!(
            "a step on {}: {} for weights, gradients and moments, {} for {batch} images",
            start.config.device,
            show_bytes(memory.parameters),
            show_bytes(memory.apart + memory.image * batch as u64)
        );
        self.begin((start.total_steps, start.step), start.config.epochs);
    }

    fn fitting(&mut self, done: u64, total: u64) {
        if self.bar.is_none() && io::stderr().is_terminal() {
            self.bar = Some(bars().add(crate::progress::bar(total, "images for the basis")));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    fn fitted(&mut self, fit: &PcaFit) {
        self.close();
        let shown = fit.eigenvalues.iter().take(8);
        let shown: Vec<String> = shown.map(|variance| format!("{variance:.4}")).collect();
        tracing::info!(
            "basis of {} principal components from {} patches of {} images: {:.2}% of the variance; largest eigenvalues {}",
            fit.explained_variance_ratio.len(),
            fit.patches,
            fit.images,
            100.0 * fit.explained(),
            shown.join(", ")
        );
    }

    fn finetuning(&mut self, start: &FinetuneStart<'_>) {
        match start.config.to_toml() {
            Ok(settings) => tracing::info!("settings:\n{}", settings.trim_end()),
            Err(error) => tracing::warn!("{error}"),
        }
        if let Some(path) = start.resumed {
            tracing::info!("going on from {} (step {})", path.display(), start.step);
        }
        let (all, trained) = start.parameters;
        let trained = match trained == all {
            true => String::new(),
            false => format!(", of which {trained} are trained"),
        };
        let (train, val) = start.samples;
        tracing::info!(
            "{all} parameters{trained}; {train} samples of {} classes, {val} to judge by; {} steps an epoch, {} steps in all",
            start.classes,
            start.steps_per_epoch,
            start.total_steps
        );
        tracing::info!(
            "loader: {}; at most {}; activations take {}",
            start.decoder,
            show_memory(start.loader_memory),
            show_bytes(start.activations as u64)
        );
        self.begin((start.total_steps, start.step), start.config.epochs);
    }

    fn tokenizing(&mut self, start: &TokenizerStart<'_>) {
        match start.config.to_toml() {
            Ok(settings) => tracing::info!("settings:\n{}", settings.trim_end()),
            Err(error) => tracing::warn!("{error}"),
        }
        if let Some(path) = start.resumed {
            tracing::info!("going on from {} (step {})", path.display(), start.step);
        }
        tracing::info!(
            "{} parameters; {} samples, {} steps an epoch, {} steps in all",
            start.parameters,
            start.samples,
            start.steps_per_epoch,
            start.total_steps
        );
        self.begin((start.total_steps, start.step), start.config.epochs);
    }

    fn step(&mut self, report: &StepReport) {
        self.pace.add(report);
        let left = self.left(report.step);
        if let Some(bar) = &self.bar {
            bar.set_position(report.step);
            bar.set_prefix(format!("epoch {}/{}", report.epoch + 1, self.epochs));
            bar.set_message(format!(
                "loss {:.4} lr {:.2e} {:.0} img/s, waiting {:.0}%, {left} left",
                report.loss,
                report.lr,
                self.pace.images_per_second(report.images),
                100.0 * self.pace.waiting(),
            ));
        }
    }

    fn logged(&mut self, line: &StepLine) {
        if self.bar.is_none() {
            tracing::info!(
                "epoch {:.2}/{} step {}/{} loss {:.4} lr {:.2e} {:.0} img/s, waiting {:.0}%, {} left",
                line.epoch,
                self.epochs,
                line.step,
                self.total_steps,
                line.loss,
                line.lr,
                line.images_per_second,
                100.0 * line.data_wait,
                self.left(line.step)
            );
        }
    }

    fn bound(&mut self, utilisation: &Utilisation) {
        self.say_bound(utilisation);
    }

    fn validating(&mut self) {
        if let Some(bar) = &self.bar {
            bar.set_message("held-out data …");
        }
    }

    fn epoch(&mut self, line: &EpochLine) {
        let val = line
            .val_loss
            .map_or(String::new(), |loss| format!(", held-out loss {loss:.4}"));
        let accuracy = match (line.val_top1, line.val_top5) {
            (Some(top1), Some(top5)) => {
                format!(", top-1 {}, top-5 {}", percent(top1), percent(top5))
            }
            _ => String::new(),
        };
        let codes = line.val_codes.map_or(String::new(), |codes| {
            format!(", {} codes in use", codes.used)
        });
        tracing::info!(
            "epoch {}/{} done: loss {:.4}{val}{accuracy}{codes}{}",
            line.epoch,
            self.epochs,
            line.loss,
            counts(&line.data)
        );
        if let Some(utilisation) = &line.utilisation {
            self.say_bound(utilisation);
        }
    }

    fn saved(&mut self, checkpoint: &Path) {
        tracing::debug!("saved {}", checkpoint.display());
    }

    fn drawn(&mut self, picture: &Path) {
        tracing::info!("drew {}", picture.display());
    }
}

/// How long a step takes of late.
#[derive(Default)]
struct Pace {
    seconds_a_step: f64,
    seconds_waited: f64,
}

impl Pace {
    /// The last ten steps or so count; the first is taken as it is.
    fn add(&mut self, report: &StepReport) {
        let share = if self.seconds_a_step == 0.0 { 1.0 } else { 0.1 };
        let blend = |old: f64, new: Duration| old + share * (new.as_secs_f64() - old);
        self.seconds_a_step = blend(self.seconds_a_step, report.took);
        self.seconds_waited = blend(self.seconds_waited, report.waited);
    }

    fn images_per_second(&self, images: u64) -> f64 {
        images as f64 / self.seconds_a_step.max(1e-9)
    }

    fn waiting(&self) -> f64 {
        (self.seconds_waited / self.seconds_a_step.max(1e-9)).min(1.0)
    }
}

/// `; samples: 28 from a, 12 from b`, where several data sets are mixed.
fn counts(data: &[DataCount]) -> String {
    let parts = data
        .iter()
        .map(|part| format!("{} from {}", part.samples, part.name));
    match parts.collect::<Vec<_>>() {
        parts if parts.is_empty() => String::new(),
        parts => format!("; samples: {}", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_steps() {
        let report = |took: u64, waited: u64| StepReport {
            step: 1,
            epoch: 0,
            loss: 1.0,
            lr: 1.0,
            images: 10,
            took: Duration::from_secs(took),
            waited: Duration::from_secs(waited),
        };
        let mut pace = Pace::default();
        pace.add(&report(2, 1));
        assert_eq!((pace.images_per_second(10), pace.waiting()), (5.0, 0.5));
        for _ in 0..200 {
            pace.add(&report(1, 0));
        }
        assert!((pace.images_per_second(10) - 10.0).abs() < 0.01 && pace.waiting() < 0.01);
    }
}
