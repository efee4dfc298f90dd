//! Pre-trains masked autoencoders: joins the loader and the model, and keeps what comes of it.
//!
//! [`pretrain()`] runs a [`config::PretrainConfig`], [`finetune()`] a [`FinetuneConfig`]; [`checkpoint`] holds its results, from which a run goes
//! on to the bit; [`metrics::log`] is what it says; [`eval`] judges what was trained.

pub mod checkpoint;
pub mod config;
mod data;
pub mod device;
pub mod dist;
pub mod error;
pub mod eval;
pub mod finetune;
#[cfg(test)]
mod golden;
pub mod metrics;
pub mod observer;
pub mod optim;
pub mod output;
pub mod picture;
pub mod pretrain;
mod run;
pub mod schedule;
pub mod step;
pub mod target;
pub mod tokenizer;
mod update;
mod validate;

pub use config::{PretrainConfig, RawPretrain};
pub use error::{Error, Result};
pub use finetune::{FinetuneConfig, RawFinetune, finetune};
pub use observer::{Observer, Outcome};
pub use pretrain::pretrain;
pub use step::Stepper;
