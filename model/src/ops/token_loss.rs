//! Softmax cross-entropy of the removed patches' tokens, loss and gradient in one pass.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write2};
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// logits `[B, R, V]` of the removed patches in the order of the shuffled ids, without their bias `[V]`, tokens u32 `[B, L]` of all
/// patches, `ids_restore` `[B, L]` → each removed patch's loss into `losses` `[B, R]`; the logits become the gradient of the batch's
/// mean with respect to them. The loss of a token that is not in the vocabulary is not a number.
///
/// # Errors
/// If a tensor is not a contiguous CPU tensor of its type.
pub fn forward_backward(
    (logits, bias): (&Tensor, &Tensor),
    tokens: &Tensor,
    ids_restore: &Tensor,
    losses: &Tensor,
) -> Result<()> {
    let _span = span("token loss");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(losses) {
        let patches = (tokens, ids_restore);
        return kernels::target::token_loss(&engine, (logits, bias), patches, losses);
    }
    let (batch, count, vocabulary) = logits.dims3()?;
    let patches = ids_restore.dims2()?.1;
    let (tokens, ids_restore, bias) = (read(tokens)?, read(ids_restore)?, read(bias)?);
    let (tokens, ids_restore) = (tokens.slice::<u32>()?, ids_restore.slice::<u32>()?);
    let bias = bias.f32()?;
    let scale = 1.0 / (batch * count) as f64;
    write2(logits, losses, |logits, losses| {
        logits
            .par_chunks_mut(count * vocabulary)
            .zip(losses.par_chunks_mut(count))
            .zip(tokens.par_chunks(patches))
            .zip(ids_restore.par_chunks(patches))
            .for_each(|(((logits, losses), tokens), ids_restore)| {
                for (&token, &place) in tokens.iter().zip(ids_restore) {
                    let Some(row) = (place as usize).checked_sub(patches - count) else {
                        continue;
                    };
                    let logits = &mut logits[row * vocabulary..][..vocabulary];
                    losses[row] = one(logits, bias, token as usize, scale);
                }
            });
        Ok(())
    })
}

/// The loss of one patch; its logits become `scale` times the gradient.
fn one(logits: &mut [f32], bias: &[f32], token: usize, scale: f64) -> f32 {
    logits.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    let top =
        logits.iter().copied().fold(
            f32::NEG_INFINITY,
            |a, b| {
                if b.is_nan() || b > a { b } else { a }
            },
        );
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    let log_sum = sum.ln() + f64::from(top);
    let mut loss = f64::NAN;
    for (i, x) in logits.iter_mut().enumerate() {
        let log_p = f64::from(*x) - log_sum;
        let wanted = if i == token { 1.0 } else { 0.0 };
        if i == token {
            loss = -log_p;
        }
        *x = ((log_p.exp() - wanted) * scale) as f32;
    }
    loss as f32
}
