//! What a run says while it goes on: lines to its log, the same to TensorBoard, pictures, reports to whoever watches.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Plan, Standing, Underway};
use crate::checkpoint::files;
use crate::error::{Error, Result};
use crate::metrics::log::{DataCount, EpochLine, Log, LogLine, StepLine};
use crate::metrics::tensorboard::EventFile;
use crate::metrics::throughput::Throughput;
use crate::observer::{Observer, StepReport};
use crate::output;
use crate::picture::Picture;

/// See the [module](self).
pub(crate) struct Journal<'a> {
    /// Of the first rank; the others say nothing.
    files: Option<(Log, EventFile)>,
    pictures: PathBuf,
    pub(crate) observer: &'a mut dyn Observer,
    throughput: Throughput,
    /// When an update was last known to be done.
    last_done: Instant,
}

impl<'a> Journal<'a> {
    /// Opens the log in the run's folder, to go on where the run stands.
    pub(crate) fn open(
        output_dir: &std::path::Path,
        standing: &Standing,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        let path = output::log_path(output_dir);
        let step = standing.progress.step;
        let files = (
            Log::open(&path, step, standing.epoch_is_open())?,
            EventFile::create(&output::events_folder(output_dir), step)?,
        );
        Ok(Self::with(Some(files), output_dir, observer))
    }

    /// Of a rank that says nothing: the first one does.
    pub(crate) fn silent(output_dir: &std::path::Path, observer: &'a mut dyn Observer) -> Self {
        Self::with(None, output_dir, observer)
    }

    fn with(
        files: Option<(Log, EventFile)>,
        output_dir: &std::path::Path,
        observer: &'a mut dyn Observer,
    ) -> Self {
        let now = Instant::now();
        Journal {
            files,
            pictures: output::pictures_folder(output_dir),
            observer,
            throughput: Throughput::new(now),
            last_done: now,
        }
    }

    /// The speed is that of the training from now on: what was before took time of another kind.
    pub(crate) fn begin(&mut self) {
        self.throughput = Throughput::new(Instant::now());
    }

    /// An update is done: reported, and logged where that is due. `data` tells the epoch's samples of each data set so far, where there
    /// are several.
    pub(crate) fn step(
        &mut self,
        update: &Underway,
        outcome: &mae_model::Outcome,
        waited: Duration,
        plan: &Plan,
        data: impl FnOnce() -> Vec<DataCount>,
    ) -> Result<()> {
        let &Underway {
            step, lr, images, ..
        } = update;
        let loss = f64::from(outcome.loss);
        self.throughput.add(images, waited);
        self.observer.step(&StepReport {
            step,
            epoch: update.epoch,
            loss,
            lr,
            images,
            took: self.last_done.max(update.begun).elapsed(),
            waited,
        });
        self.last_done = Instant::now();
        if !step.is_multiple_of(plan.log_every) && step != plan.total_steps {
            return Ok(());
        }
        let rate = self.throughput.report(Instant::now());
        let line = StepLine {
            step,
            epoch: step as f64 / plan.steps_per_epoch as f64,
            loss,
            lr,
            images_per_second: rate.images_per_second,
            data_wait: rate.data_wait,
            // Where it is not clipped, no one asked for it.
            grad_norm: outcome.grad_norm.filter(|_| plan.clips).map(f64::from),
            tokenizer: update.tokenizer,
            data: data(),
        };
        if let Some((log, events)) = &mut self.files {
            log.write(&LogLine::Step(line.clone()))?;
            events.scalars(step, &step_scalars(&line))?;
        }
        self.observer.logged(&line);
        Ok(())
    }

    /// An epoch is done.
    pub(crate) fn epoch(&mut self, line: &EpochLine) -> Result<()> {
        if let Some((log, events)) = &mut self.files {
            log.write(&LogLine::Epoch(line.clone()))?;
            events.scalars(line.step, &epoch_scalars(line))?;
        }
        self.observer.epoch(line);
        Ok(())
    }

    /// A picture of the model after `step`, saved under `name`.
    pub(crate) fn picture(&mut self, step: u64, name: &str, picture: &Picture) -> Result<()> {
        let Some((_, events)) = &mut self.files else {
            return Ok(());
        };
        let path = self.pictures.join(format!("{name}.png"));
        let failed = |source| Error::Write {
            path: path.clone(),
            source,
        };
        let png = picture.to_png().map_err(failed)?;
        let made = std::fs::create_dir_all(&self.pictures);
        made.and_then(|()| files::commit_file(&path, &png))
            .map_err(failed)?;
        let size = (picture.width(), picture.height());
        events.image(step, "reconstructions", &png, size)?;
        self.observer.drawn(&path);
        Ok(())
    }

    /// Brings what was logged to the disk: before a checkpoint, so that none is newer than the log.
    pub(crate) fn sync(&self) -> Result<()> {
        match &self.files {
            Some((log, _)) => log.sync(),
            None => Ok(()),
        }
    }
}

/// An update's figures by their names in TensorBoard.
fn step_scalars(line: &StepLine) -> Vec<(&'static str, f64)> {
    let mut scalars = vec![
        ("loss/train", line.loss),
        ("lr", line.lr),
        ("epoch", line.epoch),
        ("speed/images_per_second", line.images_per_second),
        ("speed/data_wait", line.data_wait),
    ];
    scalars.extend(line.grad_norm.map(|norm| ("grad_norm", norm)));
    if let Some(tokenizer) = line.tokenizer {
        scalars.extend([
            ("tokenizer/reconstruction", tokenizer.reconstruction),
            ("tokenizer/kl", tokenizer.kl),
            ("tokenizer/perplexity", tokenizer.perplexity),
            ("tokenizer/temperature", tokenizer.temperature),
        ]);
    }
    scalars
}

/// An epoch's figures by their names in TensorBoard.
fn epoch_scalars(line: &EpochLine) -> Vec<(&'static str, f64)> {
    let mut scalars = vec![("loss/epoch", line.loss)];
    scalars.extend(line.val_loss.map(|loss| ("loss/held_out", loss)));
    scalars.extend(line.val_top1.map(|top1| ("accuracy/top1", top1)));
    scalars.extend(line.val_top5.map(|top5| ("accuracy/top5", top5)));
    if let Some(codes) = line.val_codes {
        scalars.push(("tokenizer/codes_in_use", codes.used as f64));
        scalars.push(("tokenizer/held_out_perplexity", codes.perplexity));
    }
    scalars
}
