//! Optimisers: which ranges of the flat parameters are treated alike, and the state that goes with them.
//!
//! AdamW's arithmetic is `mae_model::ops`'s; LARS, which trains no more than a linear head, has its own.

mod adamw;
mod lars;

pub use adamw::{AdamW, AdamWSettings, Treatment};
pub use lars::{Lars, LarsSettings, Layer};
