//! Every operation against its plain version in f64, and every gradient against finite differences of that, over shapes that are
//! no multiple of any vector's width; and what happens to numbers that are very large, very small or none at all.

mod extremes;
mod layers;
mod losses;
mod plain;
mod sequence;
