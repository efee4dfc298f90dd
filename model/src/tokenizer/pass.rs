//! The way through the layers and back. What the way back needs is kept on the way there.
//!
//! Numbers are rows of features, one a place of the grid: `[B · h · w, D]`.

use candle_core::Tensor;

use super::layers::{Block, Linear};
use super::{Tokenizer, ops};
use crate::Result;
use crate::ops::{Accumulate, linear, reduce};
use crate::params::ParamId;
use crate::precision::Precision;

/// What a block's way back needs.
struct BlockTrace {
    /// Its input through ReLU.
    active: Tensor,
    near: Tensor,
    /// Between its layers, through ReLU.
    inner: Tensor,
}

/// What the encoder's way back needs.
pub(super) struct Encoded {
    /// The inputs of the convolutions of stride 2.
    squares: Vec<Tensor>,
    blocks: Vec<BlockTrace>,
    active: Tensor,
    pub(super) logits: Tensor,
}

/// What the decoder's way back needs.
pub(super) struct Decoded {
    blocks: Vec<BlockTrace>,
    /// The inputs of the transposed convolutions.
    ups: Vec<Tensor>,
    active: Tensor,
    /// Rows of pixels, without the bias.
    pub(super) rows: Tensor,
}

impl Tokenizer {
    /// `[N, I]` to `[N, O]`, without the bias.
    fn product(&self, layer: Linear, x: &Tensor) -> Result<Tensor> {
        let weight = self.params.view(layer.weight);
        let y = ops::beside(x, (x.dims2()?.0, weight.dims2()?.0))?;
        linear::forward(x, weight, &y, Precision::F32)?;
        Ok(y)
    }

    fn linear(&self, layer: Linear, x: &Tensor) -> Result<Tensor> {
        let y = self.product(layer, x)?;
        linear::add_bias(&y, self.params.view(layer.bias))?;
        Ok(y)
    }

    /// A layer's gradients into `grads`.
    fn linear_grads(&self, layer: Linear, x: &Tensor, dy: &Tensor, grads: &Tensor) -> Result<()> {
        self.product_grads(layer.weight, x, dy, grads)?;
        let bias = self.params.range(layer.bias);
        reduce::column_sums(dy, grads, bias, Accumulate::Replace)
    }

    fn product_grads(
        &self,
        weight: ParamId,
        x: &Tensor,
        dy: &Tensor,
        grads: &Tensor,
    ) -> Result<()> {
        let (range, mode) = (self.params.range(weight), Accumulate::Replace);
        linear::backward_weight(x, dy, grads, range, mode, Precision::F32)
    }

    /// A layer's gradients into `grads`; returns its input's.
    fn linear_back(
        &self,
        layer: Linear,
        x: &Tensor,
        dy: &Tensor,
        grads: &Tensor,
    ) -> Result<Tensor> {
        self.linear_grads(layer, x, dy, grads)?;
        let dx = ops::beside(x, x.dims2()?)?;
        linear::backward_input(dy, self.params.view(layer.weight), &dx, Precision::F32)?;
        Ok(dx)
    }

    fn block(&self, block: Block, x: Tensor, grid: (usize, usize)) -> Result<(Tensor, BlockTrace)> {
        let active = ops::relu(&x)?;
        let near = ops::neighbourhoods(&images(&active, grid)?)?;
        let inner = ops::relu(&self.linear(block.near, &near)?)?;
        let out = self.linear(block.out, &inner)?;
        let trace = BlockTrace {
            active,
            near,
            inner,
        };
        Ok((ops::sum(out, &x)?, trace))
    }

    fn block_back(
        &self,
        block: Block,
        trace: &BlockTrace,
        dy: &Tensor,
        (grid, grads): ((usize, usize), &Tensor),
    ) -> Result<Tensor> {
        let inner = self.linear_back(block.out, &trace.inner, dy, grads)?;
        let inner = ops::relu_back(inner, &trace.inner)?;
        let near = self.linear_back(block.near, &trace.near, &inner, grads)?;
        let dx = ops::relu_back(ops::neighbourhoods_back(&near, grid)?, &trace.active)?;
        ops::sum(dx, dy)
    }

    /// Rows of pixels to logits `[B · L, V]`.
    pub(super) fn encode(&self, rows: &Tensor) -> Result<Encoded> {
        let (stem, _) = self.config.strides();
        let (mut height, mut width) = self.config.image_size;
        (height, width) = (height / stem, width / stem);
        let mut x = self.linear(self.layers.stem, rows)?;
        let mut squares = vec![];
        for &down in &self.layers.down {
            let square = ops::squares(&images(&ops::relu(&x)?, (height, width))?, 2)?;
            x = self.linear(down, &square)?;
            squares.push(square);
            (height, width) = (height / 2, width / 2);
        }
        let mut blocks = vec![];
        for &block in &self.layers.encoder {
            let (y, trace) = self.block(block, x, (height, width))?;
            blocks.push(trace);
            x = y;
        }
        let active = ops::relu(&x)?;
        Ok(Encoded {
            logits: self.linear(self.layers.logits, &active)?,
            squares,
            blocks,
            active,
        })
    }

    /// The encoder's gradients into `grads`.
    pub(super) fn encode_back(
        &self,
        rows: &Tensor,
        encoded: &Encoded,
        logits: &Tensor,
        grads: &Tensor,
    ) -> Result<()> {
        let mut grid = self.config.grid();
        let active = &encoded.active;
        let dx = self.linear_back(self.layers.logits, active, logits, grads)?;
        let mut dx = ops::relu_back(dx, active)?;
        for (&block, trace) in self.layers.encoder.iter().zip(&encoded.blocks).rev() {
            dx = self.block_back(block, trace, &dx, (grid, grads))?;
        }
        for (&down, square) in self.layers.down.iter().zip(&encoded.squares).rev() {
            let back = self.linear_back(down, square, &dx, grads)?;
            let back = ops::relu_back(back, square)?;
            dx = ops::from_squares(&back, grid, 2)?.flatten_to(2)?;
            grid = (2 * grid.0, 2 * grid.1);
        }
        self.linear_grads(self.layers.stem, rows, &dx, grads)
    }

    /// What relaxed codes `[B · L, V]` embed as, `[B · L, D]`.
    pub(super) fn embed(&self, shares: &Tensor) -> Result<Tensor> {
        let codes = self.params.view(self.layers.codes);
        let embedded = ops::beside(shares, (shares.dims2()?.0, codes.dims2()?.1))?;
        // As a layer from embeddings to codes, gone through backwards.
        linear::backward_input(shares, codes, &embedded, Precision::F32)?;
        Ok(embedded)
    }

    /// The embeddings' gradient into `grads`; returns the relaxed codes'.
    pub(super) fn embed_back(
        &self,
        shares: &Tensor,
        embedded: &Tensor,
        grads: &Tensor,
    ) -> Result<Tensor> {
        self.product_grads(self.layers.codes, embedded, shares, grads)?;
        let back = ops::beside(shares, shares.dims2()?)?;
        let codes = self.params.view(self.layers.codes);
        linear::forward(embedded, codes, &back, Precision::F32)?;
        Ok(back)
    }

    /// Codes' embeddings `[B · L, D]` to rows of pixels without their bias.
    pub(super) fn decode_embedded(&self, embedded: Tensor) -> Result<Decoded> {
        let mut grid = self.config.grid();
        let mut x = embedded;
        let mut blocks = vec![];
        for &block in &self.layers.decoder {
            let (y, trace) = self.block(block, x, grid)?;
            blocks.push(trace);
            x = y;
        }
        let mut ups = vec![];
        for &up in &self.layers.up {
            let active = ops::relu(&x)?;
            let larger = ops::from_squares(&self.linear(up, &active)?, grid, 2)?;
            x = larger.flatten_to(2)?;
            grid = (2 * grid.0, 2 * grid.1);
            ups.push(active);
        }
        let active = ops::relu(&x)?;
        Ok(Decoded {
            rows: self.product(self.layers.pixels, &active)?,
            blocks,
            ups,
            active,
        })
    }

    /// The decoder's gradients into `grads`, given that of the rows; returns the embeddings'.
    pub(super) fn decode_back(
        &self,
        decoded: &Decoded,
        rows: &Tensor,
        grads: &Tensor,
    ) -> Result<Tensor> {
        let (stem, _) = self.config.strides();
        let (height, width) = self.config.image_size;
        let mut grid = (height / stem, width / stem);
        let active = &decoded.active;
        let dx = self.linear_back(self.layers.pixels, active, rows, grads)?;
        let mut dx = ops::relu_back(dx, active)?;
        for (&up, active) in self.layers.up.iter().zip(&decoded.ups).rev() {
            let square = ops::squares(&images(&dx, grid)?, 2)?;
            let back = self.linear_back(up, active, &square, grads)?;
            dx = ops::relu_back(back, active)?;
            grid = (grid.0 / 2, grid.1 / 2);
        }
        for (&block, trace) in self.layers.decoder.iter().zip(&decoded.blocks).rev() {
            dx = self.block_back(block, trace, &dx, (grid, grads))?;
        }
        Ok(dx)
    }
}

/// Rows as images of (height, width).
fn images(x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let (rows, features) = x.dims2()?;
    Ok(x.reshape((rows / (height * width), height, width, features))?)
}
