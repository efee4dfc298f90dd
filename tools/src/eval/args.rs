//! The flags of `mae eval`.

use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{Args, Subcommand};
use mae_loader::{LabelSource, MaskSampling};
use mae_model::{Mae, MaeConfig, Precision};
use mae_trainer::checkpoint::Source;
use mae_trainer::config::{self, DeviceKind, MaskSamplingKind};
use mae_trainer::eval::features::FeaturePooling;
use mae_trainer::eval::{Masking, StreamOptions};
use serde_json::Value;

use super::reconstruct::ReconstructArgs;
use super::subject::Subject;
use super::summary::SummaryArgs;
use crate::Usage;
use crate::cli::{CacheArgs, ImportArgs};

/// Evaluate a checkpoint beside the same network with random weights
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mae eval loss runs/a --data 'data/test-*.tar' --mask-ratio 0.5,0.75,0.9\n  \
    mae eval knn runs/a --data 'data/train-*.tar' --val-data 'data/test-*.tar'\n  \
    mae eval knn runs/a --data data --label-field json:wnid --k 10,20,100,200 --json\n  \
    mae eval linear-probe runs/a/checkpoints/step-00010000 --data 'data/train-*.tar' --val-data 'data/test-*.tar'\n  \
    mae eval linear-probe runs/a --cached --data data\n  \
    mae eval reconstruct runs/a --data 'data/test-*.tar' --output pictures.png\n  \
    mae eval reconstruct runs/a --data data --images cat/0007 dog/0012 --mask-ratio 0.5,0.75,0.9,0.95 --separate pictures\n  \
    mae eval report runs/a runs/b --data 'data/train-*.tar' --val-data 'data/test-*.tar' --output-dir report")]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    pub(super) what: What,
}

#[derive(Debug, Subcommand)]
pub(super) enum What {
    /// Loss over removed patches, on masks fixed by --seed: mean and its standard error
    Loss(LossArgs),
    /// Pictures of images masked, reconstructed and as they were
    Reconstruct(ReconstructArgs),
    /// Classify by the nearest neighbours of frozen features (weighted cosine, as DINO)
    Knn(KnnArgs),
    /// Train a linear classifier on frozen features, by the paper's recipe or quickly (--cached)
    ///
    /// The recipe is that of the reference code's main_linprobe.py: LARS, batch normalisation without scale before the linear layer,
    /// random crops and flips, so that every epoch encodes the train set anew. With --cached each image is encoded once, without
    /// augmentation, heads of several learning rates are trained side by side, and a tenth of the train set chooses among them.
    LinearProbe(ProbeArgs),
    /// Several checkpoints by several protocols, as a page and as JSON
    Report(Box<SummaryArgs>),
}

/// What every evaluation of one checkpoint takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// A checkpoint's folder, a run's for its newest whole one, or another program's (.pth, .safetensors, a folder)
    #[arg(value_name = "CHECKPOINT")]
    pub(super) checkpoint: PathBuf,
    #[command(flatten)]
    pub(super) data: DataArgs,
    #[command(flatten)]
    pub(super) encode: EncodeArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// Which images.
#[derive(Debug, Args)]
pub(super) struct DataArgs {
    /// Shards: a tar file, a folder of them, a glob, braces (`test-{000000..000009}.tar`); several may be given
    #[arg(long = "data", required = true, num_args = 1.., value_name = "SPEC")]
    pub(super) specs: Vec<String>,
}

/// How images are read and go through a network.
#[derive(Debug, Args)]
pub(super) struct EncodeArgs {
    /// Images that go through the network at a time
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..).map(|n| n as usize), value_name = "N")]
    encode_batch: usize,
    /// Where the network runs: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub(super) device: DeviceKind,
    /// Numbers of activations and products: f32, tf32 or bf16 [default: bf16 on a GPU, f32 on the CPU, which has no other]
    #[arg(long, value_name = "PRECISION")]
    precision: Option<Precision>,
    /// Threads for decoding and for arithmetic; 0 takes every core
    #[arg(long, default_value = "0", value_name = "N")]
    threads: usize,
    /// Short side that images are resized to before the centre crop [default: the input's size below 128 pixels, else 8/7 of it]
    #[arg(long, value_name = "PIXELS")]
    resize: Option<u32>,
    #[command(flatten)]
    pub(super) import: ImportArgs,
    #[command(flatten)]
    pub(super) cache: CacheArgs,
}

impl EncodeArgs {
    pub(super) fn precision(&self) -> Precision {
        self.precision
            .unwrap_or_else(|| self.device.default_precision())
    }

    /// As many threads as asked for, or one for each core.
    pub(super) fn threads(&self) -> usize {
        config::threads(self.threads)
    }

    pub(super) fn stream(&self) -> StreamOptions {
        StreamOptions {
            batch_size: self.encode_batch,
            threads: Some(self.threads()),
            resize: self.resize,
        }
    }

    /// What a report says of it.
    pub(super) fn settings(&self) -> [(&'static str, Value); 2] {
        [
            ("device", self.device.to_string().into()),
            ("precision", self.precision().to_string().into()),
        ]
    }
}

/// Which patches are removed.
#[derive(Debug, Args)]
pub(super) struct MaskArgs {
    /// Share of the patches removed; several, as in 0.5,0.75,0.9, one after the other [default: as in training]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "RATIO")]
    mask_ratio: Vec<f64>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// What the masks are drawn from, with each image's place: the same for `loss` and `reconstruct`
    #[arg(long, default_value = "0", value_name = "N")]
    pub(super) seed: u64,
}

/// How the patches that stay are chosen.
#[derive(Debug, Args)]
pub(super) struct SamplingArgs {
    /// How the patches that stay are chosen: random; block, with the usual blocks; grid, at the ratios that a grid has, such as 0.75
    /// [default: each model's as in its training, with its blocks; random for other programs']
    #[arg(long, value_name = "random|block|grid")]
    mask_sampling: Option<MaskSamplingKind>,
}

impl SamplingArgs {
    /// What was asked for, or what the model was trained with.
    pub(super) fn of(&self, source: &Source, config: &MaeConfig) -> MaskSampling {
        let asked = self.mask_sampling.map(|kind| kind.usual(config.patches()));
        asked.unwrap_or_else(|| source.mask_sampling())
    }
}

impl MaskArgs {
    /// Masks at the ratios asked for, or at the one that the model was trained at.
    ///
    /// # Errors
    /// Where they do not fit the model.
    pub(super) fn maskings(&self, subject: &Subject<Mae>) -> Result<Vec<Masking>, Usage> {
        let trained = [subject.source.mask_ratio()];
        let ratios = match self.mask_ratio.as_slice() {
            [] => &trained,
            ratios => ratios,
        };
        let config = &subject.trained.config;
        let of = |&ratio: &f64| {
            let masking = Masking {
                sampling: self.sampling.of(&subject.source, config),
                ratio,
                seed: self.seed,
            };
            check(&masking, config).map(|()| masking)
        };
        ratios.iter().map(of).collect()
    }
}

/// Whether these masks fit a model.
///
/// # Errors
/// Where they do not.
pub(super) fn check(masking: &Masking, config: &MaeConfig) -> Result<(), Usage> {
    let kept = masking.keep(config);
    kept.map(drop).map_err(|error| Usage(error.to_string()))
}

#[derive(Debug, Args)]
pub(super) struct LossArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) mask: MaskArgs,
}

/// What judging features by their labels takes.
#[derive(Debug, Args)]
pub(super) struct LabelArgs {
    /// Test shards, in the same form; without them every fifth sample of --data is held out from knn and linear-probe
    #[arg(long, num_args = 1.., value_name = "SPEC")]
    pub(super) val_data: Vec<String>,
    /// Where labels come from: cls, or json:FIELD (for example json:wnid)
    #[arg(long, default_value = "cls", value_name = "FIELD")]
    pub(super) label_field: LabelSource,
    /// Features are the mean of the patch tokens, or the class token [default: token for linear-probe, as in the paper; mean for knn]
    #[arg(long, value_name = "mean|token")]
    pub(super) pooling: Option<FeaturePooling>,
}

/// What evaluations of one checkpoint's features take.
#[derive(Debug, Args)]
pub(super) struct FeatureArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) labels: LabelArgs,
}

#[derive(Debug, Args)]
pub(super) struct KnnArgs {
    #[command(flatten)]
    pub(super) features: FeatureArgs,
    /// Neighbours that vote; several numbers, as in 10,20,100,200, are judged in one pass
    #[arg(long, default_value = "20", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..).map(|n| n as usize), value_name = "N")]
    pub(super) k: Vec<usize>,
    /// Weight of a vote is exp(cosine / temperature)
    #[arg(long, default_value = "0.07", value_name = "X")]
    pub(super) temperature: f64,
}

#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    #[command(flatten)]
    pub(super) features: FeatureArgs,
    /// Encode each image once, without augmentation, and choose among --learning-rates
    #[arg(long)]
    pub(super) cached: bool,
    /// Passes over the train set [default: 90, from ViT-L on 50; 30 with --cached]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub(super) epochs: Option<u64>,
    /// Images in an update, the whole train set where it has fewer [default: 16384; 256 with --cached]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..).map(|n| n as usize), value_name = "N")]
    pub(super) batch_size: Option<usize>,
    /// Base learning rate: the peak is it × batch size / 256 [default: 0.1]
    #[arg(long, conflicts_with = "cached", value_name = "RATE")]
    pub(super) blr: Option<f64>,
    /// Epochs in which the learning rate rises from 0 [default: 10, or a fifth of all where that is less]
    #[arg(long, conflicts_with = "cached", value_name = "N")]
    pub(super) warmup_epochs: Option<f64>,
    /// Train a head on the same network with random weights, too: takes twice as long (--cached always does)
    #[arg(long, conflicts_with = "cached")]
    pub(super) random_weights: bool,
    /// Learning rates to choose from [default: 13 from 0.0001 to 1]
    #[arg(long, requires = "cached", value_delimiter = ',', value_name = "RATE")]
    pub(super) learning_rates: Vec<f64>,
    /// What order, crops and the head's first weights are drawn from
    #[arg(long, default_value = "0", value_name = "N")]
    pub(super) seed: u64,
}
