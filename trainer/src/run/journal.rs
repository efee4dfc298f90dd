//! What a run says while it goes on: lines to its log, the same to TensorBoard, pictures, reports to whoever watches.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Device;
use mae_loader::Loader;

use super::{Standing, Underway};
use crate::checkpoint::files;
use crate::error::{Error, Result};
use crate::metrics::log::{DataCount, EpochLine, Log, LogLine, StepLine};
use crate::metrics::memory;
use crate::metrics::prometheus::Page;
use crate::metrics::tensorboard::EventFile;
use crate::metrics::throughput::Throughput;
use crate::metrics::utilisation::{Gauge, Utilisation};
use crate::observer::{Observer, StepReport};
use crate::output;
use crate::picture::Picture;

/// Updates of a part of a run after which it is said for the first time what it is bound by.
const FIRST_SAID: u64 = 100;

/// What a journal takes its figures from besides the updates, and the page that it keeps.
pub(crate) struct Measured<'a> {
    pub(crate) page: Page,
    pub(crate) loader: &'a Loader,
    /// Where the arithmetic runs.
    pub(crate) device: Device,
}

/// See the [module](self).
pub(crate) struct Journal<'a> {
    /// Of the first rank; the others say nothing.
    files: Option<(Log, EventFile)>,
    measured: Measured<'a>,
    pictures: PathBuf,
    pub(crate) observer: &'a mut dyn Observer,
    throughput: Throughput,
    /// Over the epoch's updates, or those of it that this part of the run does.
    gauge: Gauge,
    /// How long copies have taken so far, where they run beside the training.
    copying: Option<Duration>,
    /// What the last whole epoch was bound by.
    utilisation: Option<Utilisation>,
    said: bool,
    /// When an update was last known to be done.
    last_done: Instant,
}

impl<'a> Journal<'a> {
    /// Opens the log in the run's folder, to go on where the run stands. Where this is not the first of several processes, nothing is
    /// written: that one does.
    pub(crate) fn open(
        (output_dir, first): (&Path, bool),
        standing: &Standing,
        measured: Measured<'a>,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        let path = output::log_path(output_dir);
        let step = standing.progress.step;
        let files = match first {
            true => Some((
                Log::open(&path, step, standing.epoch_is_open())?,
                EventFile::create(&output::events_folder(output_dir), step)?,
            )),
            false => None,
        };
        let now = Instant::now();
        measured
            .page
            .begin(standing.progress.step, standing.bad_samples());
        Ok(Journal {
            files,
            measured,
            pictures: output::pictures_folder(output_dir),
            observer,
            throughput: Throughput::new(now),
            gauge: Gauge::default(),
            copying: None,
            utilisation: None,
            said: false,
            last_done: now,
        })
    }

    /// The speed is that of the training from now on: what was before took time of another kind.
    pub(crate) fn begin(&mut self) {
        self.throughput = Throughput::new(Instant::now());
        self.gauge = Gauge::default();
    }

    /// Copies to the device have taken so long so far, where that is measured.
    pub(crate) fn copying(&mut self, total: Option<Duration>) {
        self.copying = total;
    }

    /// What the epoch that is done was bound by, where its updates were enough to say.
    pub(crate) fn utilisation(&mut self) -> Option<Utilisation> {
        self.utilisation.take()
    }

    /// An update is done: reported, and logged where that is due. `data` tells the epoch's samples of each data set so far, where there
    /// are several.
    pub(crate) fn step(
        &mut self,
        update: &Underway,
        outcome: &mae_model::Outcome,
        waited: Duration,
        standing: &Standing,
        data: impl FnOnce() -> Vec<DataCount>,
    ) -> Result<()> {
        let &Underway {
            step, lr, images, ..
        } = update;
        let plan = &standing.plan;
        let loss = f64::from(outcome.loss);
        self.throughput.add(images, waited);
        self.gauge(step, waited, plan.steps_per_epoch);
        let report = StepReport {
            step,
            epoch: update.epoch,
            loss,
            lr,
            images,
            took: self.last_done.max(update.begun).elapsed(),
            waited,
        };
        self.observer.step(&report);
        self.measured.page.step(&report);
        self.last_done = Instant::now();
        if !plan.logs(step) {
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
            bad_samples: standing.bad_samples(),
            host_memory: memory::of_process(),
            device_memory: memory::of_device(&self.measured.device)?,
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
        self.measured.page.logged(&line);
        Ok(())
    }

    /// Measures what binds the updates; says so early on, and keeps it at an epoch's end.
    fn gauge(&mut self, step: u64, waited: Duration, steps_per_epoch: u64) {
        let loader = self.measured.loader.stats();
        self.gauge.add(waited, loader, self.copying);
        if step.is_multiple_of(steps_per_epoch) {
            self.utilisation = self.gauge.reading();
            self.said = true;
        } else if !self.said && self.gauge.updates() >= FIRST_SAID {
            self.said = true;
            if let Some(utilisation) = self.gauge.reading() {
                self.observer.bound(&utilisation);
            }
        }
    }

    /// An epoch is done.
    pub(crate) fn epoch(&mut self, line: &EpochLine) -> Result<()> {
        if let Some((log, events)) = &mut self.files {
            log.write(&LogLine::Epoch(line.clone()))?;
            events.scalars(line.step, &epoch_scalars(line))?;
        }
        self.observer.epoch(line);
        self.measured.page.epoch(line);
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

    /// The checkpoint of `step` stands.
    pub(crate) fn saved(&mut self, step: u64, checkpoint: &Path) {
        self.observer.saved(checkpoint);
        self.measured.page.saved(step);
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
        ("data/bad_samples", line.bad_samples as f64),
    ];
    let bytes = [
        ("memory/host_bytes", line.host_memory),
        ("memory/device_bytes", line.device_memory),
    ];
    scalars.extend(
        bytes
            .into_iter()
            .filter_map(|(name, bytes)| Some((name, bytes? as f64))),
    );
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
