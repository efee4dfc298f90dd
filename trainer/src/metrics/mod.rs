//! What a run says about itself: `log.jsonl`, TensorBoard's event files, a page for Prometheus; its speed, memory and what binds it.

pub mod log;
pub(crate) mod memory;
pub(crate) mod prometheus;
pub mod tensorboard;
pub mod throughput;
pub mod utilisation;
