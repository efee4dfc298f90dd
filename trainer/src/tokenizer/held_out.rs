//! What a tokenizer is worth on images that it did not learn from: the error of what comes back from single codes, and how many
//! of the codes are in use.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use mae_loader::{Cursor, HostBatch, Loader};
use mae_model::Tokenizer;

use crate::error::Result;
use crate::metrics::log::CodeUsage;
use crate::picture::Picture;

/// See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeldOut {
    /// Mean squared error of the pixels on a scale of -1 to 1.
    pub(super) error: f64,
    pub(super) codes: CodeUsage,
}

/// The batch's pixels, u8 `[B, H, W, C]`.
pub(super) fn pixels(tokenizer: &Tokenizer, batch: &HostBatch) -> Result<Tensor> {
    let config = tokenizer.config();
    let (height, width) = config.image_size;
    let shape = (batch.len(), height, width, config.channels);
    let device = tokenizer.params.flat().device();
    Ok(Tensor::from_slice(batch.pixels(), shape, device)?)
}

/// Of one pass over `loader`; None if `stop` was raised before the end.
pub(super) fn held_out(
    tokenizer: &Tokenizer,
    loader: &Loader,
    stop: &AtomicBool,
) -> Result<Option<HeldOut>> {
    let mut counts = vec![0u64; tokenizer.config().vocabulary];
    let (mut squares, mut numbers) = (0.0, 0u64);
    for batch in loader.batches(Cursor::default()) {
        let batch = batch?;
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let tokens = tokenizer.tokens(&pixels(tokenizer, &batch)?)?;
        let back: Vec<u8> = tokenizer.decode(&tokens)?.flatten_all()?.to_vec1()?;
        count(&mut counts, &tokens.flatten_all()?.to_vec1()?);
        let sum: f64 = back
            .iter()
            .zip(batch.pixels())
            .map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2))
            .sum();
        squares += sum / 127.5f64.powi(2);
        numbers += back.len() as u64;
    }
    Ok(Some(HeldOut {
        error: squares / numbers.max(1) as f64,
        codes: usage(&counts),
    }))
}

/// How the codes of one batch are used.
pub(super) fn usage_of(tokens: &[u32], vocabulary: usize) -> CodeUsage {
    let mut counts = vec![0u64; vocabulary];
    count(&mut counts, tokens);
    usage(&counts)
}

fn count(counts: &mut [u64], tokens: &[u32]) {
    for token in tokens {
        counts[*token as usize] += 1;
    }
}

fn usage(counts: &[u64]) -> CodeUsage {
    let all = counts.iter().sum::<u64>().max(1) as f64;
    let in_use = counts.iter().filter(|count| **count > 0);
    let entropy = in_use.clone().map(|count| {
        let share = *count as f64 / all;
        -share * share.ln()
    });
    CodeUsage {
        used: in_use.count() as u64,
        perplexity: entropy.sum::<f64>().exp(),
    }
}

/// The images of `batch`, each as it was and as it came back.
pub(super) fn pairs(tokenizer: &Tokenizer, batch: &HostBatch) -> Result<Vec<[Picture; 2]>> {
    let config = tokenizer.config();
    let ((height, width), channels) = (config.image_size, config.channels);
    let back = tokenizer.reconstruct(&pixels(tokenizer, batch)?)?;
    let back: Vec<u8> = back.flatten_all()?.to_vec1()?;
    let image = height * width * channels;
    let picture = |pixels: &[u8]| Picture::from_pixels(pixels, width, channels);
    Ok(batch
        .pixels()
        .chunks_exact(image)
        .zip(back.chunks_exact(image))
        .map(|(was, back)| [picture(was), picture(back)])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_of_codes_by_hand() {
        let usage = usage_of(&[0, 0, 3, 3], 5);
        assert_eq!(usage.used, 2);
        assert!((usage.perplexity - 2.0).abs() < 1e-12);
        assert_eq!(usage_of(&[4; 9], 5).perplexity, 1.0);
    }
}
