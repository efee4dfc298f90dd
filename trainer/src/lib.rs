//! Pre-trains masked autoencoders: joins the loader and the model, and keeps what comes of it.
//!
//! [`pretrain::pretrain`] runs a [`config::PretrainConfig`]; [`checkpoint`] holds its results, from which a run goes
//! on to the bit; [`metrics::log`] is what it says; [`eval`] judges what was trained.

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod eval;
pub mod metrics;
pub mod optim;
pub mod schedule;

pub use config::{PretrainConfig, RawPretrain};
pub use error::{Error, Result};
