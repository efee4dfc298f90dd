//! Bytes by shard name.
