//! Shard specs.
