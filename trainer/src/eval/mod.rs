//! What a checkpoint is worth: loss on fixed masks, reconstructions, and frozen features judged by nearest neighbours and by a linear
//! probe. Not here: fine-tuning, which changes the weights.
//!
//! [`knn`] and [`linear_probe`] are pure functions over feature matrices; the others make what those need by streaming a dataset
//! through a model.

pub mod classes;
mod error;
pub mod features;
pub mod knn;
pub mod linear_probe;
pub mod loss;
mod masking;
mod matrix;
pub mod reconstruct;
mod stream;

pub use classes::Classes;
pub use error::{EvalError, Result};
pub use masking::Masking;
pub(crate) use matrix::rank_of;
pub use matrix::{Accuracy, Features};
pub use stream::StreamOptions;
