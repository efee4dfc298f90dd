//! One training on several processes.

mod launch;

pub use launch::{Launch, Launcher};
