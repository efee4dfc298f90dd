//! What settings must satisfy by themselves.

use super::{LoaderBuilder, bad};
use crate::augment::{TrainTransform, Transform};
use crate::error::Result;
use crate::order::{Order, Window};

impl LoaderBuilder {
    pub(super) fn check_transform(&self) -> Result<()> {
        if let Some(resize) = self.transform.resize() {
            let least = self.size.width.max(self.size.height);
            if resize < least || resize > 1 << 14 {
                return bad(
                    "resize",
                    format!("{resize} is not within the image size, {least}, and 16,384"),
                );
            }
        }
        let Transform::Train(train) = self.transform else {
            return Ok(());
        };
        let TrainTransform { scale, ratio, .. } = train;
        if !(scale.0 > 0.0 && scale.0 <= scale.1 && scale.1 <= 1.0) {
            return bad(
                "crop scale",
                format!("{scale:?} must satisfy 0 < least ≤ greatest ≤ 1"),
            );
        }
        if !(ratio.0 > 0.0 && ratio.0 <= ratio.1 && ratio.1.is_finite()) {
            return bad(
                "crop ratio",
                format!("{ratio:?} must satisfy 0 < least ≤ greatest"),
            );
        }
        let greatest = TrainTransform::MAX_COLOR_JITTER;
        if !(0.0..=greatest).contains(&train.color_jitter) {
            return bad(
                "colour jitter",
                format!("{} is not within 0 to {greatest}", train.color_jitter),
            );
        }
        Ok(())
    }

    pub(super) fn check_erasing(&self) -> Result<()> {
        match (self.erasing, self.transform) {
            (None, _) => Ok(()),
            (Some(_), Transform::Eval { .. }) => bad(
                "erasing",
                "is for training; leave it out of evaluation".to_owned(),
            ),
            (Some(probability), _) if (0.0..=1.0).contains(&probability) => Ok(()),
            (Some(probability), _) => bad("erasing", format!("{probability} is not within 0 to 1")),
        }
    }
}

/// A window's samples are numbered by 32 bits.
pub(super) fn check_window(order: &Order, window: Window) -> Result<()> {
    if window == Window::Shards(0) {
        return bad("window", "must hold at least 1 shard".to_owned());
    }
    let samples = order.largest_window();
    if samples > u64::from(u32::MAX) {
        return bad(
            "window",
            format!("{samples} samples are too many for one window; choose fewer shards"),
        );
    }
    Ok(())
}
