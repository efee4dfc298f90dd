//! The operations behind the stages: one file an operation, forward and backward side by side.
//!
//! Every operation takes tensors (contiguous views, mostly of flat or planned allocations), writes
//! its outputs in place and allocates nothing that lives on. On the CPU the loops are compiled for
//! several instruction sets and dispatched at run time, products go to the `gemm` crate, and work
//! is cut into pieces that depend on shapes alone: results do not depend on the number of threads.

pub(crate) mod access;
pub mod adamw;
pub mod attention;
pub mod augment;
pub mod cross_entropy;
pub mod gelu;
mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod masked_loss;
pub(crate) mod math;
pub mod patchify;
pub mod pool;
pub mod reduce;
pub mod removed_patches;
mod scratch;
mod small;
pub mod squared_error;
pub mod token_loss;
pub mod tokens;

/// What happens to gradients that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// They are overwritten: the first batch of an update.
    Replace,
    /// They are added to.
    Add,
}

/// Rows of one piece of work, of `rows`: at most 64 pieces, so that partial sums stay few; by the shape alone, so that the
/// number of threads does not matter.
fn pieces(rows: usize) -> usize {
    rows.div_ceil(64).max(8)
}
