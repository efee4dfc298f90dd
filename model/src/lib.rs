//! Masked autoencoders and vision transformers on Candle's tensors and devices, trained by explicit
//! backward passes over flat buffers.
//!
//! What is here: the architecture of *Masked Autoencoders Are Scalable Vision Learners* (He et al.
//! 2021, arXiv 2111.06377), its parameters under the reference code's names, and the operations
//! behind both directions of a training step. What is not: input and output (datasets,
//! checkpoints' files) and the training loop, which are other crates.
//!
//! Candle's autograd is not used for training. [`Params`] is one flat `f32` tensor of which every
//! parameter is a view; gradients are a second flat tensor with the same layout; a
//! [`mae::MaeWorkspace`] holds every activation of one batch shape, so that a step in steady state
//! allocates none. A model is a list of stages (see [`stage`]), each with a forward and a
//! backward side by side.
//!
//! ```
//! use candle_core::Device;
//! use mae_model::{Accumulate, Activations, Mae, MaeConfig, MaeInput};
//!
//! let config = MaeConfig::named("mae-micro-patch4", (16, 16), 3)?;
//! let mae = Mae::new(config, &Device::Cpu, 0)?;
//! let (batch, patches, keep) = (2, mae.config.patches(), mae.config.keep(0.75));
//! let pixels = vec![128u8; batch * 16 * 16 * 3];
//! let ids: Vec<u32> = (0..batch).flat_map(|_| 0..patches as u32).collect();
//! let kept: Vec<u32> = (0..batch).flat_map(|_| 0..keep as u32).collect();
//! let input = MaeInput::from_host(&mae.config, &pixels, &kept, &ids, &Device::Cpu)?;
//!
//! let mut workspace = mae.workspace(batch, keep, Activations::Keep)?;
//! let grads = mae.params.zeros_like_flat()?;
//! mae.forward(&input, &mut workspace)?;
//! mae.backward(&input, &mut workspace, &grads, 1.0, Accumulate::Replace)?;
//! assert!(workspace.loss()?.is_finite());
//! # Ok::<(), mae_model::Error>(())
//! ```

pub mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod drop_path;
pub mod encoder;
pub mod error;
pub mod feed;
pub mod flops;
mod init;
pub mod input;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
pub mod kernels;
pub mod mae;
pub mod masks;
pub mod memory;
mod names;
pub mod ops;
pub mod params;
pub mod pos_embed;
mod precision;
pub mod profile;
pub mod record;
#[cfg(feature = "reference")]
pub mod reference;
pub mod replay;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
pub mod selftest;
pub mod stage;
mod target;
pub mod tokenizer;
pub mod vit;

pub use config::{MaeConfig, Pooling, Target, VitConfig};
pub use drop_path::DropPath;
pub use encoder::{Encoder, EncoderWorkspace, FinalNorm};
pub use error::{Error, Result};
pub use feed::{Feeder, HostInput};
pub use flops::Flops;
pub use input::MaeInput;
pub use mae::{Mae, MaeWorkspace};
pub use masks::ids_keep;
pub use memory::{ParameterMemory, StepMemory};
pub use names::{StateDict, StateTensor};
pub use ops::Accumulate;
pub use params::{ParamSpec, Params};
pub use precision::Precision;
pub use record::{Outcome, Record};
pub use replay::Replay;
pub use stage::Done;
pub use stage::stack::Activations;
pub use target::PcaBasis;
pub use tokenizer::{Tokenizer, TokenizerConfig};
pub use vit::{VitClassifier, VitInput, VitTraining, VitWorkspace};

/// Sets how many threads the CPU operations share. Call once, before the first operation; `0`
/// takes every core. Results do not depend on it.
///
/// # Errors
/// If the pool was already started with another number of threads.
pub fn set_threads(threads: usize) -> Result<()> {
    let built = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("mae-compute-{i}"))
        .build_global();
    match built {
        Ok(()) => Ok(()),
        Err(_) if threads == 0 || rayon::current_num_threads() == threads => Ok(()),
        Err(error) => Err(Error::Config(format!(
            "cannot set {threads} compute threads: {error}"
        ))),
    }
}

/// How many threads the CPU operations share.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `work` on a compute thread, where each parallel operation in it starts without waking one:
/// a step is some hundreds of short operations. What a GPU computes is queued by the caller's own.
pub(crate) fn on_compute_thread<R: Send>(
    device: &candle_core::Device,
    work: impl FnOnce() -> R + Send,
) -> R {
    if !device.is_cpu() {
        return work();
    }
    // The host's kernels are for the thread that asked for them.
    #[cfg(feature = "host-kernels")]
    if kernels::on_this_thread() {
        return work();
    }
    match rayon::current_thread_index() {
        Some(_) => work(),
        None => rayon::scope(|_| work()),
    }
}
