//! A classifier's pooling and cross-entropy.

use candle_core::{DType, Device, Tensor};

use super::{Session, numbers};
use crate::Result;
use crate::config::Pooling;
use crate::ops::{cross_entropy, pool};

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    for (batch, tokens, dim) in [(1, 2, 4), (3, 17, 36), (2, 50, 260)] {
        for pooling in [Pooling::Token, Pooling::Avg] {
            let name = format!("pooling {batch}x{tokens}x{dim} {pooling:?}");
            let x = numbers(&[batch, tokens, dim], 1)?;
            let (x2, out2) = (s.put(&x)?, s.output((batch, dim), DType::F32)?);
            let out = Tensor::zeros((batch, dim), DType::F32, &Device::Cpu)?;
            pool::forward(pooling, &x, &out)?;
            s.on(|| pool::forward(pooling, &x2, &out2))?;
            s.compare(name.clone(), &out2, &out, 2e-6)?;
            pool::backward(pooling, &out, &x)?;
            s.on(|| pool::backward(pooling, &out2, &x2))?;
            s.compare(format!("{name}, gradient"), &x2, &x, 2e-6)?;
        }
    }
    for (batch, classes) in [(1, 2), (5, 10), (3, 1000)] {
        // Logits near each other, and logits of which one takes all.
        for scale in [3.0, 300.0] {
            let name = format!("cross-entropy {batch}x{classes}, logits to {scale}");
            let logits = numbers(&[batch, classes], 1)?.affine(scale, 0.0)?;
            let targets = numbers(&[batch, classes], 2)?.affine(0.5, 0.5)?;
            let sums = targets.sum_keepdim(1)?;
            let targets = targets.broadcast_div(&sums)?;
            let (logits2, targets2) = (s.put(&logits)?, s.put(&targets)?);
            let losses = Tensor::zeros(batch, DType::F32, &Device::Cpu)?;
            let losses2 = s.put(&losses)?;
            cross_entropy::forward_backward(&logits, &targets, &losses)?;
            s.on(|| cross_entropy::forward_backward(&logits2, &targets2, &losses2))?;
            s.compare(name.clone(), &losses2, &losses, 1e-5)?;
            s.compare(format!("{name}, gradient"), &logits2, &logits, 1e-4)?;
        }
    }
    Ok(())
}
