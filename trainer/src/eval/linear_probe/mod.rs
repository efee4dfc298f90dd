//! Linear classifiers on frozen features: how much of the classes a plane can read from them.
//!
//! [`linear_probe`] is the reference code's recipe, whose numbers compare with published ones. [`sweep`] trains on features that were
//! made once, without augmentation, and chooses the learning rate itself: minutes instead of hours, and a few points lower or higher.
//! Both standardise features without learnt scale, which makes features of any encoder, raw pixels too, comparable.

mod cached;
mod heads;
mod norm;
mod recipe;

pub use cached::{SweepOptions, SweepReport, sweep};
pub use recipe::{Plan, ProbeReport, Progress, Recipe, linear_probe};
