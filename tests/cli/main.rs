//! The binary `mae` as its users meet it: arguments in; exit code, output and files out.

mod bench;
mod checkpoints;
mod demo;
mod diverge;
mod evaluate;
mod inspect;
mod metrics;
mod plan;
mod prepare;
mod pretrain;
#[cfg(feature = "mpi")]
mod ranks;
mod run;
mod shard;
mod shard_ranks;
mod study;
mod targets;
mod usage;
