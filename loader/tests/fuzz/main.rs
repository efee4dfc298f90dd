//! Whatever comes in, there is an answer: properties of all that reads what others wrote, tried on inputs that were right once and then
//! changed. Some seconds in all; with `MAE_FUZZ_SECONDS=N` each target takes N seconds, on inputs that are new each time.

#[path = "../common/mod.rs"]
mod common;
mod images;
mod masks;
#[path = "../mutation/mod.rs"]
mod mutation;
mod specs;
mod tars;
