//! What the loader makes of input that is odd, damaged or hostile: right pixels, a bad sample with a reason, or an error that names shard
//! and byte. Never a panic, and the same from both decoders. `tests/reference/corpus.py` made the images.

mod damage;
mod images;
mod tars;
mod through;
