//! Products of matrices on the device: by cuBLASLt, or in tests by the host.

use candle_core::{DType, Tensor};

use super::address::{Pointer, input, output};
use super::{Engine, message};
use crate::Result;
use crate::precision::Precision;

/// `out (+)= a · b` over row-major matrices: a `[m, k]`, or `[k, m]` where it is transposed; b `[k, n]`, or `[n, k]`; out `[m, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) transpose_a: bool,
    pub(crate) transpose_b: bool,
    pub(crate) add: bool,
    /// The type of a and b.
    pub(crate) operands: DType,
    pub(crate) out: DType,
    pub(crate) tf32: bool,
}

/// Where its matrices stand.
#[derive(Clone, Copy)]
pub(crate) struct Matrices {
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) out: u64,
}

fn run(engine: &Engine, product: Product, [a, b, out]: [Pointer; 3]) -> Result<()> {
    let matrices = Matrices {
        a: a.0,
        b: b.0,
        out: out.0,
    };
    match engine {
        #[cfg(feature = "cuda")]
        Engine::Cuda(device) => crate::cuda::product(device, product, matrices),
        #[cfg(feature = "host-kernels")]
        Engine::Host => super::host::product(product, matrices),
    }
}

/// The type of both operands.
fn operands(a: &Tensor, b: &Tensor) -> Result<DType> {
    match a.dtype() == b.dtype() {
        true => Ok(a.dtype()),
        false => Err(message(format!(
            "a product takes operands of one type, not {:?} and {:?}",
            a.dtype(),
            b.dtype()
        ))),
    }
}

/// As [`crate::ops::linear::forward`].
pub(crate) fn forward(
    engine: &Engine,
    x: &Tensor,
    weight: &Tensor,
    y: &Tensor,
    precision: Precision,
) -> Result<()> {
    let ((n, k), operands) = (weight.dims2()?, operands(x, weight)?);
    let m = x.elem_count() / k;
    let product = Product {
        m,
        n,
        k,
        transpose_a: false,
        transpose_b: true,
        add: false,
        operands,
        out: y.dtype(),
        tf32: precision == Precision::Tf32,
    };
    let (a, b) = (input(x, operands, m * k)?, input(weight, operands, n * k)?);
    run(engine, product, [a, b, output(y, y.dtype(), m * n)?])
}

/// As [`crate::ops::linear::backward_input`].
pub(crate) fn backward_input(
    engine: &Engine,
    dy: &Tensor,
    weight: &Tensor,
    dx: &Tensor,
    precision: Precision,
) -> Result<()> {
    let ((k, n), operands) = (weight.dims2()?, operands(dy, weight)?);
    let m = dy.elem_count() / k;
    let product = Product {
        m,
        n,
        k,
        transpose_a: false,
        transpose_b: false,
        add: false,
        operands,
        out: dx.dtype(),
        tf32: precision == Precision::Tf32,
    };
    let (a, b) = (input(dy, operands, m * k)?, input(weight, operands, n * k)?);
    run(engine, product, [a, b, output(dx, dx.dtype(), m * n)?])
}

/// As [`crate::ops::linear::backward_weight`].
pub(crate) fn backward_weight(
    engine: &Engine,
    x: &Tensor,
    dy: &Tensor,
    (grads, start): (&Tensor, usize),
    (rows, cols): (usize, usize),
    add: bool,
    precision: Precision,
) -> Result<()> {
    let operands = operands(x, dy)?;
    let k = dy.elem_count() / rows;
    let product = Product {
        m: rows,
        n: cols,
        k,
        transpose_a: true,
        transpose_b: false,
        add,
        operands,
        out: DType::F32,
        tf32: precision == Precision::Tf32,
    };
    let out = output(grads, DType::F32, grads.elem_count())?.skip(start);
    let (a, b) = (
        input(dy, operands, k * rows)?,
        input(x, operands, k * cols)?,
    );
    run(engine, product, [a, b, out])
}
