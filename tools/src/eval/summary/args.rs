//! The flags of `mae eval report`.

use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{Args, ValueEnum};
use mae_model::MaeConfig;
use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::checkpoint::{Source, is_run};
use mae_trainer::eval::Masking;
use mae_trainer::eval::knn::KnnOptions;
use mae_trainer::eval::linear_probe::SweepOptions;
use serde::Serialize;

use crate::eval::args::{DataArgs, EncodeArgs, LabelArgs, SamplingArgs};
use crate::eval::frozen::Judge;
use crate::eval::reconstruct::ImageArgs;

/// What a report can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Protocol {
    /// As `mae eval loss`
    Loss,
    /// As `mae eval knn`
    Knn,
    /// As `mae eval linear-probe --cached`
    LinearProbe,
    /// As `mae eval reconstruct`
    Reconstruct,
}

impl Protocol {
    /// As it is called on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Knn => "knn",
            Self::LinearProbe => "linear-probe",
            Self::Reconstruct => "reconstruct",
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::eval) struct SummaryArgs {
    /// Checkpoints to compare: folders of checkpoints or of runs, or other programs' (.pth, .safetensors, a folder)
    #[arg(required = true, value_name = "CHECKPOINT")]
    pub(super) checkpoints: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) data: DataArgs,
    #[command(flatten)]
    pub(super) labels: LabelArgs,
    /// Folder for results.json and report.html
    #[arg(long, value_name = "DIR")]
    pub(super) output_dir: PathBuf,
    /// What to run
    #[arg(
        long,
        num_args = 1..,
        value_delimiter = ',',
        default_value = "loss,knn,linear-probe,reconstruct",
        value_name = "PROTOCOL"
    )]
    protocols: Vec<Protocol>,
    /// Also judge the first checkpoint's network with random weights
    #[arg(long)]
    pub(super) random_weights: bool,
    /// Neighbours that vote
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u32).range(1..).map(|n| n as usize), value_name = "N")]
    pub(super) k: usize,
    /// Share of the patches removed [default: as in the training of the first checkpoint]
    #[arg(long, value_name = "RATIO")]
    pub(super) mask_ratio: Option<f64>,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    /// What the masks are drawn from, and what the probe's train samples are shuffled by
    #[arg(long, default_value = "0", value_name = "N")]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) images: ImageArgs,
    #[command(flatten)]
    pub(super) encode: EncodeArgs,
}

impl SummaryArgs {
    /// What to run, each once.
    pub(super) fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let all = Protocol::value_variants().iter().copied();
        all.filter(|protocol| self.runs(*protocol))
    }

    /// What is removed of the images of the model `config`, which comes from `source`.
    pub(super) fn masking(&self, source: &Source, config: &MaeConfig, ratio: f64) -> Masking {
        Masking {
            sampling: self.sampling.of(source, config),
            ratio,
            seed: self.seed,
        }
    }

    pub(super) fn runs(&self, protocol: Protocol) -> bool {
        self.protocols.contains(&protocol)
    }

    /// What judges features in `protocol`; nothing where that does not ask for labels.
    pub(super) fn judge(&self, protocol: Protocol) -> Option<Judge> {
        match protocol {
            Protocol::Knn => Some(Judge::Knn(KnnOptions {
                k: vec![self.k],
                ..KnnOptions::default()
            })),
            Protocol::LinearProbe => Some(Judge::Sweep(SweepOptions {
                seed: self.seed,
                ..SweepOptions::default()
            })),
            Protocol::Loss | Protocol::Reconstruct => None,
        }
    }

    /// The protocols that ask for labels, and what judges features in them.
    pub(super) fn judges(&self) -> impl Iterator<Item = (Protocol, Judge)> {
        self.protocols()
            .filter_map(|protocol| Some((protocol, self.judge(protocol)?)))
    }

    /// What is said of each checkpoint. Runs of ours take the input size alone and say the rest themselves: among other programs'
    /// checkpoints the flags are meant for those, among runs only they are mistakes, which show when the run is loaded.
    ///
    /// # Errors
    /// Where a folder cannot be read.
    pub(super) fn imports(&self) -> anyhow::Result<Vec<ImportOptions>> {
        let runs = self.checkpoints.iter().map(|path| is_run(path));
        let runs = runs.collect::<Result<Vec<bool>, _>>()?;
        let all = self.encode.import.options();
        let others = runs.contains(&false);
        let of = |run| match run && others {
            true => ImportOptions {
                image_size: all.image_size,
                ..ImportOptions::default()
            },
            false => all.clone(),
        };
        Ok(runs.into_iter().map(of).collect())
    }
}
