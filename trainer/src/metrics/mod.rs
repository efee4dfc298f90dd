//! What a run says about itself: `log.jsonl` and its speed.

pub mod log;
pub mod throughput;
