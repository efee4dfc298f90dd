//! What a classifier is to say of each image of a batch: its label smoothed, and mixed as the images are (timm's `mixup_target`).

/// Soft targets `[B, classes]`, each row summing to 1: `1 - smoothing` for the label and `smoothing` shared by all classes; where the batch
/// is mixed, `lambda` of that and the rest of that of the image at the same place from the batch's end.
pub(super) fn soft_targets(
    labels: &[u32],
    classes: usize,
    smoothing: f64,
    lambda: Option<f64>,
) -> Vec<f32> {
    let off = smoothing / classes as f64;
    let on = 1.0 - smoothing;
    let lambda = lambda.unwrap_or(1.0);
    let mut targets = vec![off as f32; labels.len() * classes];
    for ((row, &own), &other) in targets
        .chunks_exact_mut(classes)
        .zip(labels)
        .zip(labels.iter().rev())
    {
        let mut whole = vec![(own, lambda)];
        if lambda < 1.0 {
            whole.push((other, 1.0 - lambda));
        }
        if own == other {
            whole = vec![(own, 1.0)];
        }
        for (label, share) in whole {
            row[label as usize] = (off + on * share) as f32;
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-6, "{a} is not {b}");
        }
    }

    #[test]
    fn labels_are_smoothed() {
        // timm's one_hot(smoothing 0.1 over 4 classes): on 0.925, off 0.025.
        close(
            &soft_targets(&[2, 0], 4, 0.1, None),
            &[0.025, 0.025, 0.925, 0.025, 0.925, 0.025, 0.025, 0.025],
        );
    }

    #[test]
    fn labels_mix_with_those_from_the_end() {
        // timm.data.mixup.mixup_target(torch.tensor([0, 1, 1]), 3, lam=0.7, smoothing=0.3)
        close(
            &soft_targets(&[0, 1, 1], 3, 0.3, Some(0.7)),
            &[0.59, 0.31, 0.1, 0.1, 0.8, 0.1, 0.31, 0.59, 0.1],
        );
    }
}
