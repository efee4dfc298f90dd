//! The learning rate as a function of the fractional epoch: linear warm-up, then half a cosine.
//!
//! This is the reference code's `util/lr_sched.py`. It is asked once an update, at the first batch of the
//! accumulation, with `epoch + batch / batches_per_epoch`. It holds no state, so resuming needs none.

use std::f64::consts::PI;

/// Warm-up from zero to `peak`, then half a cosine down to `floor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineSchedule {
    /// The highest learning rate, reached when the warm-up ends.
    pub peak: f64,
    /// The learning rate at the very end.
    pub floor: f64,
    /// Length of the warm-up, in epochs.
    pub warmup_epochs: f64,
    /// Length of the whole run, in epochs, warm-up included.
    pub epochs: f64,
}

impl CosineSchedule {
    /// The learning rate at `epoch`, a fractional number of epochs since the start of the run.
    pub fn at(&self, epoch: f64) -> f64 {
        if epoch < self.warmup_epochs {
            return self.peak * epoch / self.warmup_epochs;
        }
        let progress = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs);
        self.floor + (self.peak - self.floor) * 0.5 * (1.0 + (PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values worked out from the reference's formula with Python's `math`:
    /// `peak=2.4e-3, floor=1e-5, warmup=40, epochs=400`.
    #[test]
    fn equals_the_reference_formula() {
        let schedule = CosineSchedule {
            peak: 2.4e-3,
            floor: 1e-5,
            warmup_epochs: 40.0,
            epochs: 400.0,
        };
        let expected = [
            (0.0, 0.0),
            (0.5, 3e-5),
            (39.75, 2.385e-3),
            (40.0, 2.4e-3),
            (130.25, 0.002048147106161982),
            (220.0, 1.205e-3),
            (399.9, 1.0000455022241937e-05),
            (400.0, 1e-5),
        ];
        for (epoch, lr) in expected {
            let got = schedule.at(epoch);
            assert!(
                (got - lr).abs() <= 1e-12 * lr.abs().max(1e-3),
                "epoch {epoch}: {got} != {lr}"
            );
        }
    }

    #[test]
    fn without_warm_up_starts_at_the_peak() {
        let schedule = CosineSchedule {
            peak: 1.0,
            floor: 0.0,
            warmup_epochs: 0.0,
            epochs: 2.0,
        };
        assert_eq!(schedule.at(0.0), 1.0);
        assert!((schedule.at(1.0) - 0.5).abs() < 1e-15);
    }
}
