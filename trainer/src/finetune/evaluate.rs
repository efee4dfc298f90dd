//! How often a classifier is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mae_loader::{Cursor, Dataset, Loader};
use mae_model::{Activations, VitClassifier, VitInput, VitWorkspace};

use crate::dist::{Group, Stage};
use crate::error::{Error, Result};
use crate::eval::Accuracy;
use crate::eval::rank_of;

/// What came of a pass over held-out data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// How often the right class came first, and among the first five.
    pub accuracy: Accuracy,
    /// Mean cross-entropy.
    pub loss: f64,
}

/// One pass over a data set, each process over its part of it; None if `stop` was raised on any before the end. `workspace` serves the
/// batches of its size.
pub(super) fn evaluate(
    vit: &VitClassifier,
    (data, loader): &(Arc<Dataset>, Loader),
    workspace: &mut VitWorkspace,
    (stop, group): (&AtomicBool, &Group),
) -> Result<Option<Evaluation>> {
    let (mut ranks, mut loss, mut stopped) = (vec![], 0.0, false);
    for batch in loader.batches(Cursor::default()) {
        let batch = batch?;
        if stop.load(Ordering::Relaxed) {
            stopped = true;
            break;
        }
        group.enter(Stage::Evaluating);
        // What is left over may not go round.
        if batch.is_empty() {
            continue;
        }
        let labels = batch.labels().unwrap_or_default();
        let input = VitInput::images(vit, batch.pixels())?;
        let logits = if batch.len() == workspace.batch() {
            vit.logits(&input, workspace)?
        } else {
            let mut last = vit.workspace(batch.len(), Activations::Recompute, false)?;
            vit.logits(&input, &mut last)?
        };
        for ((row, &label), sample) in logits
            .chunks_exact(vit.classes())
            .zip(labels)
            .zip(batch.samples())
        {
            if label as usize >= vit.classes() {
                return Err(Error::Config(format!(
                    "a validation sample ({}) is of class {label}, where the training data have {} (counted from 0)",
                    data.describe(*sample),
                    vit.classes()
                )));
            }
            ranks.push(rank_of(row, label));
            loss += cross_entropy(row, label);
        }
    }
    let Some((loss, ranks)) = group.end_pass(stopped, loss, ranks)? else {
        return Ok(None);
    };
    let ranks = ranks.concat();
    Ok(Some(Evaluation {
        loss: loss / ranks.len().max(1) as f64,
        accuracy: Accuracy::from_ranks(&ranks),
    }))
}

fn cross_entropy(logits: &[f32], label: u32) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    sum.ln() - f64::from(logits[label as usize] - top)
}

#[cfg(test)]
mod tests {
    #[test]
    fn cross_entropy_is_the_surprise() {
        let loss = super::cross_entropy(&[1.0, 1.0, 1.0, 1.0], 2);
        assert!((loss - 4f64.ln()).abs() < 1e-12);
        assert!(super::cross_entropy(&[1e4, 0.0], 0).abs() < 1e-12);
    }
}
