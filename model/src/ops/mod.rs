//! The operations behind the stages: one file an operation, forward and backward side by side.
//!
//! Every operation takes tensors (contiguous views, mostly of flat or planned allocations), writes
//! its outputs in place and allocates nothing that lives on. On the CPU the loops are compiled for
//! several instruction sets and dispatched at run time, products go to the `gemm` crate, and work
//! is cut into pieces that depend on shapes alone: results do not depend on the number of threads.

mod access;
pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod gelu;
mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod masked_loss;
mod math;
pub mod patchify;
pub mod pool;
pub mod reduce;
pub mod tokens;
