//! What is planned: the run as `mae pretrain` takes it, and the machines that it is to run on.

use clap::Args;
use mae_model::Precision;
use mae_trainer::config::{ByteSize, InputSize};
use mae_trainer::{PretrainConfig, RawPretrain};

use super::card::Card;
use super::pace::Cluster;
use crate::Usage;
use crate::cli::CacheArgs;

/// Of a link's rate, what an all-reduce of many megabytes reaches at best, about.
const LINK_SHARE: f64 = 0.8;
/// GB/s of a node's network in one direction: 400 Gb/s, Ethernet or InfiniBand.
const NETWORK: f64 = 50.0;

/// Work out what a pre-training run takes on GPUs: arithmetic, memory, all-reduce, cores, reading, hours, and what binds
///
/// Everything about GPUs is computed from what is stated, nothing is measured on one. What this machine's loader decodes on a core is
/// measured, for two seconds: on --data, or on made-up pictures. Memory and arithmetic are those that `mae bench step` checks.
///
/// Example: mae plan --model mae-large-patch16 --gpus 8 --batch-size 512 --epochs 1600
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Model by name, as `mae pretrain` takes it
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    model: String,
    /// Input size in pixels, one number or HEIGHTxWIDTH [default: the model's]
    #[arg(long, value_name = "SIZE", help_heading = "Run")]
    input_size: Option<InputSize>,
    /// Side of a patch in pixels [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Run")]
    patch_size: Option<usize>,
    /// Width of the encoder [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Run")]
    dim: Option<usize>,
    /// Blocks of the encoder [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Run")]
    depth: Option<usize>,
    /// Attention heads of the encoder [default: as `mae pretrain`]
    #[arg(long, value_name = "N", help_heading = "Run")]
    heads: Option<usize>,
    /// Width of the decoder [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Run")]
    decoder_dim: Option<usize>,
    /// Blocks of the decoder [default: the model's]
    #[arg(long, value_name = "N", help_heading = "Run")]
    decoder_depth: Option<usize>,
    /// Attention heads of the decoder [default: as `mae pretrain`]
    #[arg(long, value_name = "N", help_heading = "Run")]
    decoder_heads: Option<usize>,
    /// Share of the patches removed [default: 0.75]
    #[arg(long, value_name = "RATIO", help_heading = "Run")]
    mask_ratio: Option<f64>,
    /// As `mae pretrain` takes it; it costs neither products nor memory
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Run")]
    norm_pix_loss: Option<bool>,
    /// Show the encoder every patch, removed ones as a mask token [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Run")]
    encoder_mask_tokens: Option<bool>,
    /// Images a GPU and step, before accumulation [default: 64]
    #[arg(long, value_name = "N", help_heading = "Run")]
    batch_size: Option<usize>,
    /// Batches whose gradients are averaged before each update [default: 1]
    #[arg(long, value_name = "N", help_heading = "Run")]
    accum_iter: Option<usize>,
    /// Passes over the data [default: 400]
    #[arg(long, value_name = "N", help_heading = "Run")]
    epochs: Option<u64>,
    /// Samples in an epoch [default: those of --data, or ImageNet-1k's 1,281,167]
    #[arg(
        long,
        visible_alias = "epoch-samples",
        value_name = "N",
        help_heading = "Run"
    )]
    samples: Option<u64>,
    /// Crops, each with its mask, of one decoded image [default: 1]
    #[arg(long, value_name = "K", help_heading = "Run")]
    repeats: Option<usize>,
    /// Numbers of activations and products: f32, tf32 or bf16
    #[arg(
        long,
        default_value = "bf16",
        value_name = "PRECISION",
        help_heading = "Run"
    )]
    precision: Precision,
    /// Keep only each block's input and compute the rest again in the backward pass [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Run")]
    activation_checkpointing: Option<bool>,
    /// Each GPU keeps the moments of its share of the weights only (ZeRO's first stage)
    #[arg(long, help_heading = "Run")]
    pub(super) shard_optimizer: bool,

    /// GPUs of a node
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Machines")]
    gpus: u64,
    /// Nodes
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Machines")]
    nodes: u64,
    /// Kind of GPU: H200, H100, A100-80, A100-40, L40S or RTX-4090
    #[arg(
        long,
        default_value = "H100",
        value_name = "NAME",
        help_heading = "Machines"
    )]
    gpu: Card,
    /// 10¹² operations a second of a GPU's products, dense, in --precision [default: that of --gpu]
    #[arg(long, value_name = "TFLOP/S", help_heading = "Machines")]
    flops: Option<f64>,
    /// Memory of a GPU [default: that of --gpu]
    #[arg(long, value_name = "SIZE", help_heading = "Machines")]
    memory: Option<ByteSize>,
    /// Share of that rate that a step reaches. No step of this program has been timed on a GPU: 0.4 lies between what docs/gpu.md aims at
    /// for B/16, L/16 and H/14, 0.35 to 0.38, and what its count of bytes and products allows for, 0.50 to 0.56
    #[arg(
        long,
        default_value_t = 0.4,
        value_name = "SHARE",
        help_heading = "Machines"
    )]
    pub(super) utilisation: f64,
    /// GB/s in one direction that an all-reduce reaches: a GPU's inside a node, and a node's to others [default: 0.8 of the link of
    /// --gpu (NVLink, else PCIe), and of 400 Gb/s]
    #[arg(
        long,
        value_name = "INSIDE[,BETWEEN]",
        value_delimiter = ',',
        help_heading = "Machines"
    )]
    all_reduce_bandwidth: Vec<f64>,

    /// Shards to measure the loader on, and to count [default: made-up pictures of ImageNet's usual size]
    #[arg(long, num_args = 1.., value_name = "SPEC", help_heading = "Loader")]
    pub(super) data: Vec<String>,
    /// Images a second that a core makes ready [default: measured here]
    #[arg(long, value_name = "N", help_heading = "Loader")]
    pub(super) images_per_core: Option<f64>,
    /// Mean size of an image as it is stored [default: that of --data, or 115kB as in ImageNet-1k]
    #[arg(long, value_name = "SIZE", help_heading = "Loader")]
    pub(super) image_bytes: Option<ByteSize>,
    /// Cores of a node [default: this machine's]
    #[arg(long, value_name = "N", help_heading = "Loader")]
    cores: Option<usize>,
    /// GB/s that a node reads at [default: reading is taken to keep up]
    #[arg(long, value_name = "GB/S", help_heading = "Loader")]
    pub(super) read_bandwidth: Option<f64>,
    #[command(flatten)]
    pub(super) cache: CacheArgs,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A GPU as it is planned with.
pub(super) struct Gpu {
    /// None where every figure is the user's own.
    pub(super) name: Option<&'static str>,
    /// Operations a second of products.
    pub(super) rate: f64,
    /// In bytes.
    pub(super) memory: u64,
}

impl PlanArgs {
    /// The run, with the defaults and checks of `mae pretrain`.
    pub(super) fn run(&self) -> Result<PretrainConfig, Usage> {
        let raw = RawPretrain {
            model: Some(self.model.clone()),
            input_size: self.input_size,
            patch_size: self.patch_size,
            dim: self.dim,
            depth: self.depth,
            heads: self.heads,
            decoder_dim: self.decoder_dim,
            decoder_depth: self.decoder_depth,
            decoder_heads: self.decoder_heads,
            mask_ratio: self.mask_ratio,
            norm_pix_loss: self.norm_pix_loss,
            encoder_mask_tokens: self.encoder_mask_tokens,
            batch_size: self.batch_size,
            accum_iter: self.accum_iter,
            epochs: self.epochs,
            epoch_samples: self.samples,
            repeats: self.repeats,
            precision: Some(self.precision),
            activation_checkpointing: self.activation_checkpointing,
            // Nothing is read or written there.
            data: Some(vec!["planned".to_owned()]),
            output_dir: Some("planned".into()),
            ..RawPretrain::default()
        };
        PretrainConfig::resolve(raw).map_err(|error| Usage(error.to_string()))
    }

    pub(super) fn gpu(&self) -> Result<Gpu, Usage> {
        let rate = match self.flops {
            Some(tera) => 1e12 * above_0("--flops", tera)?,
            None => self.gpu.rate(self.precision),
        };
        let own = self.flops.is_some() && self.memory.is_some();
        Ok(Gpu {
            name: (!own).then_some(self.gpu.name),
            rate,
            memory: self.memory.map_or(self.gpu.memory, |size| size.0),
        })
    }

    pub(super) fn cluster(&self) -> Result<Cluster, Usage> {
        let links = [self.gpu.link * LINK_SHARE, NETWORK * LINK_SHARE];
        let [inside, between] = match self.all_reduce_bandwidth[..] {
            [] => links,
            [inside] => [inside, links[1]],
            [inside, between] => [inside, between],
            _ => {
                return Err(Usage(
                    "--all-reduce-bandwidth takes one number, or two: inside a node, between nodes"
                        .to_owned(),
                ));
            }
        };
        for (flag, count) in [("--gpus", self.gpus), ("--nodes", self.nodes)] {
            if !(1..=1 << 20).contains(&count) {
                return Err(Usage(format!(
                    "{flag} must be at least 1, and no more than a million"
                )));
            }
        }
        Ok(Cluster {
            gpus: self.gpus,
            nodes: self.nodes,
            inside: 1e9 * above_0("--all-reduce-bandwidth", inside)?,
            between: 1e9 * above_0("--all-reduce-bandwidth", between)?,
        })
    }

    /// Cores of a node.
    pub(super) fn cores(&self) -> Result<usize, Usage> {
        match self.cores {
            Some(0) => Err(Usage("--cores must be at least 1".to_owned())),
            given => Ok(mae_trainer::config::threads(given.unwrap_or(0))),
        }
    }

    /// That the numbers which are read as they are make sense.
    pub(super) fn check(&self) -> Result<(), Usage> {
        if above_0("--utilisation", self.utilisation)? > 1.0 {
            return Err(Usage(format!(
                "--utilisation {} is a share: above 0, and 1 at most",
                self.utilisation
            )));
        }
        for (flag, number) in [
            ("--images-per-core", self.images_per_core),
            ("--read-bandwidth", self.read_bandwidth),
        ] {
            number.map(|number| above_0(flag, number)).transpose()?;
        }
        Ok(())
    }
}

fn above_0(flag: &str, number: f64) -> Result<f64, Usage> {
    match number.is_finite() && number > 0.0 {
        true => Ok(number),
        false => Err(Usage(format!("{flag} must be above 0, not {number}"))),
    }
}
