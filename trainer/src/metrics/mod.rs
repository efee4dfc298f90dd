//! What a run says about itself: `log.jsonl`, TensorBoard's event files, and its speed.

pub mod log;
pub mod tensorboard;
pub mod throughput;
