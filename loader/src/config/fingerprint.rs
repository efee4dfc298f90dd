//! What decides about the bytes of the batches, as text: compared where a run goes on, so settings of earlier versions keep theirs.

use super::{LoaderBuilder, Settings};
use crate::augment::{CropRule, TrainTransform, Transform};
use crate::decode::Decoder;
use crate::mask::MaskSampling;
use crate::order::Window;

impl LoaderBuilder {
    /// All that decides about the bytes of the batches, and nothing else.
    pub(super) fn fingerprint(&self, settings: &Settings) -> String {
        let masks = self.masks.map_or("none".to_owned(), |masks| {
            let shape = format!("{}/{}", masks.keep, masks.patches());
            let (rows, columns) = masks.grid;
            // Of random ones it does not matter where patches lie, and saved runs do not say.
            match masks.sampling {
                MaskSampling::Random => shape,
                other => format!("{shape} of {rows}x{columns} by {other}"),
            }
        });
        let window = match (settings.transform, self.window) {
            (Transform::Eval { .. }, _) => "sequential".to_owned(),
            (_, Window::Auto | Window::All) => "all".to_owned(),
            (_, Window::Shards(count)) => count.to_string(),
        };
        let transform = match settings.transform {
            Transform::Train(train) => {
                let TrainTransform {
                    scale, ratio, flip, ..
                } = train;
                let by_area = |rule| format!("scale {scale:?} ratio {ratio:?} flip {flip}{rule}");
                let crop = match train.crop {
                    CropRule::Retry => by_area(""),
                    CropRule::Clamp => by_area(" clamped"),
                    CropRule::Fixed { resize } => format!("resize {resize} flip {flip} fixed"),
                    CropRule::Centre { resize } => format!("resize {resize} flip {flip} centred"),
                };
                let augment = train.augment.map_or_else(String::new, |policy| {
                    format!(" augment {policy} fill {:?}", train.fill)
                });
                let jitter = match train.color_jitter {
                    strength if strength > 0.0 => format!(" jitter {strength}"),
                    _ => String::new(),
                };
                format!("train {crop}{augment}{jitter}")
            }
            Transform::Eval { resize } => format!("eval resize {resize}"),
        };
        // Saved runs know nothing of it where there is none.
        let erasing = settings
            .erasing
            .map_or_else(String::new, |probability| format!(";erasing={probability}"));
        [
            self.data.fingerprint(settings.slices.samples),
            format!(
                "image={}x{}x{}",
                settings.size.height, settings.size.width, settings.channels
            ),
            format!("transform={transform}"),
            format!("masks={masks}{erasing}"),
            format!("repeats={}", settings.repeats),
            format!(
                "global_batch={}",
                settings.slices.batch * settings.slices.world * settings.repeats as u64
            ),
            format!("drop_last={}", settings.slices.drop_last),
            format!("window={window}"),
            format!("seed={}", settings.seed),
            format!("max_pixels={}", settings.max_pixels),
            format!("decoder={}", settings.decoder().name()),
        ]
        .join(";")
    }
}
