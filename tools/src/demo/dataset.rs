//! Writes the demo's pictures as shards, through the writer that `mae shard` uses: JPEG and class of each sample.

use std::path::PathBuf;

use anyhow::Context;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use mae_loader::shard::{Limits, ShardTarget, ShardWriter};
use rayon::prelude::*;

use super::{scene, shapes};

/// Samples of a shard, so that even the small dataset has several.
const PER_SHARD: u64 = 1000;
/// Pictures drawn at a time, all cores together.
const CHUNK: u64 = 512;
/// High enough that compression is not what distinguishes pictures.
const QUALITY: u8 = 92;

/// The two sets of a dataset: their sizes, and where they stand.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    pub(super) folder: PathBuf,
    pub(super) seed: u64,
    pub(super) train: u64,
    pub(super) test: u64,
}

impl Sets {
    /// The shards of the train set, as a spec.
    pub(super) fn train_spec(&self) -> String {
        self.folder.join("train-*.tar").display().to_string()
    }

    /// The shards of the test set, as a spec.
    pub(super) fn test_spec(&self) -> String {
        self.folder.join("test-*.tar").display().to_string()
    }

    /// Writes both sets where they do not stand already; returns whether there was anything to do. The test set is written
    /// last, so that where it stands both do.
    ///
    /// # Errors
    /// Where the folder cannot be written to.
    pub(super) fn make(&self) -> anyhow::Result<bool> {
        if self.folder.join("test-000000.tar").exists() {
            return Ok(false);
        }
        self.write("train-%06d.tar", 0, self.train)?;
        self.write("test-%06d.tar", self.train, self.test)?;
        Ok(true)
    }

    /// Writes samples `first..first + count` of the seed's stream. Classes take turns, so that all are equally frequent.
    fn write(&self, pattern: &str, first: u64, count: u64) -> anyhow::Result<()> {
        let pattern = pattern.parse().map_err(anyhow::Error::msg)?;
        let target = ShardTarget::prepare(&self.folder, pattern, true)?;
        let mut writer = ShardWriter::new(
            target,
            Limits {
                max_count: PER_SHARD,
                ..Limits::default()
            },
        );
        for from in (first..first + count).step_by(CHUNK as usize) {
            let samples: Vec<u64> = (from..(from + CHUNK).min(first + count)).collect();
            let drawn: Vec<anyhow::Result<Vec<u8>>> = samples
                .par_iter()
                .map(|&index| {
                    jpeg(
                        &scene::render(self.seed, index, class_of(index)),
                        scene::SIDE,
                    )
                })
                .collect();
            for (index, jpeg) in samples.into_iter().zip(drawn) {
                let class = class_of(index).to_string();
                writer.write(
                    &format!("{index:08}"),
                    &[("jpg", &jpeg?), ("cls", class.as_bytes())],
                )?;
            }
        }
        writer.finish(Some(&shapes::class_names()))?;
        Ok(())
    }
}

/// The class of sample `index`.
fn class_of(index: u64) -> u32 {
    (index % u64::from(shapes::CLASSES)) as u32
}

fn jpeg(rgb: &[u8], side: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, QUALITY);
    // Colour at full resolution: at 32 pixels, half of it would blur the textures.
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    encoder
        .encode(rgb, side as u16, side as u16, ColorType::Rgb)
        .context("cannot encode a picture as JPEG")?;
    Ok(bytes)
}

/// A sheet of pictures, a row of `columns` of each class, as RGB with its width.
pub(super) fn contact_sheet(seed: u64, columns: u64) -> (Vec<u8>, usize) {
    const GAP: usize = 2;
    let cell = scene::SIDE + GAP;
    let (width, height) = (
        columns as usize * cell - GAP,
        shapes::CLASSES as usize * cell - GAP,
    );
    let mut sheet = vec![255u8; width * height * 3];
    for class in 0..shapes::CLASSES {
        for column in 0..columns {
            let index = column * u64::from(shapes::CLASSES) + u64::from(class);
            let picture = scene::render(seed, index, class);
            for (row, line) in picture.chunks_exact(scene::SIDE * 3).enumerate() {
                let at = ((class as usize * cell + row) * width + column as usize * cell) * 3;
                sheet[at..at + line.len()].copy_from_slice(line);
            }
        }
    }
    (sheet, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mae_loader::{Dataset, DatasetOptions};

    #[test]
    fn the_loader_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let sets = Sets {
            folder: folder.path().into(),
            seed: 3,
            train: 1_030,
            test: 25,
        };
        assert!(sets.make().unwrap());
        assert!(!sets.make().unwrap(), "what stands is not made again");
        let open = |spec: String| Dataset::open(&[spec], &DatasetOptions::default()).unwrap();
        let (train, test) = (open(sets.train_spec()), open(sets.test_spec()));
        assert_eq!((train.len(), test.len()), (1_030, 25));
        assert_eq!(train.shards().len(), 2);
        assert_eq!(train.classes().unwrap(), shapes::class_names());
        let labels: Vec<Option<u32>> = test.ids().map(|id| test.label(id).unwrap()).collect();
        let expected: Vec<Option<u32>> =
            (1_030..1_055).map(|index| Some(class_of(index))).collect();
        assert_eq!(labels, expected);
    }

    #[test]
    fn a_picture_survives_its_jpeg() {
        let picture = scene::render(1, 2, 3);
        let bytes = jpeg(&picture, scene::SIDE).unwrap();
        assert!(bytes.starts_with(&[0xff, 0xd8]) && bytes.len() < picture.len());
    }

    #[test]
    fn the_sheet_holds_every_class() {
        let (rgb, width) = contact_sheet(1, 3);
        assert_eq!((width, rgb.len()), (3 * 34 - 2, width * (12 * 34 - 2) * 3));
    }
}
