//! Optimisers: which ranges of the flat parameters are treated alike, and the state that goes with them.
//!
//! The arithmetic is `mae_model::ops`'s.

mod adamw;

pub use adamw::{AdamW, AdamWSettings, Treatment};
