//! Pictures for people: an image masked, reconstructed and as it was, side by side in a PNG.

pub mod sheet;

use std::io;
use std::path::Path;

use mae_model::MaeConfig;
use mae_model::ops::masked_loss::Target;

use crate::checkpoint::files;

/// What stands in place of a removed patch, and between the images.
const REMOVED: [u8; 3] = [128; 3];
const PAPER: [u8; 3] = [255; 3];

/// Small images are enlarged to about this many pixels a side.
const READABLE: usize = 128;

/// An RGB picture in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    /// Of one colour.
    pub fn new(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Picture {
            width,
            height,
            rgb: colour.repeat(width * height),
        }
    }

    /// From pixels `[H, W, C]` of one channel or three.
    pub fn from_pixels(pixels: &[u8], width: usize, channels: usize) -> Self {
        let rgb: Vec<u8> = match channels {
            3 => pixels.to_vec(),
            _ => pixels
                .chunks_exact(channels)
                .flat_map(|pixel| [pixel[0]; 3])
                .collect(),
        };
        Picture {
            width,
            height: rgb.len() / 3 / width,
            rgb,
        }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Pixels `[H, W, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Puts `other` with its upper left corner at column `x`, row `y`, each of its pixels a square of `zoom`.
    fn paste(&mut self, other: &Picture, x: usize, y: usize, zoom: usize) {
        for row in 0..other.height * zoom {
            for column in 0..other.width * zoom {
                let from = 3 * (row / zoom * other.width + column / zoom);
                let to = 3 * ((y + row) * self.width + x + column);
                self.rgb[to..to + 3].copy_from_slice(&other.rgb[from..from + 3]);
            }
        }
    }

    /// As the bytes of a PNG file.
    pub fn to_png(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(bytes)
    }

    /// Writes a PNG file, at once, making its folder.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        files::commit_file(path, &self.to_png()?)
    }
}

/// What the visible patches of a reconstruction look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visible {
    /// As the image's own, as in the reference code's demonstration: no loss was computed on them, so that what the model says there
    /// means nothing.
    #[default]
    Pasted,
    /// As the model predicts them.
    Predicted,
}

/// One image three ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconstruction {
    /// With the removed patches grey.
    pub masked: Picture,
    /// With the removed patches predicted; the visible ones as [`Visible`] has it.
    pub reconstructed: Picture,
    /// As it was.
    pub original: Picture,
}

impl Reconstruction {
    /// From one image's pixels `[H, W, C]`, its `ids_restore` `[L]` with `keep` visible patches, and the prediction
    /// `[L, P·P·C]` as [`mae_model::Mae::picture`] makes it of the target. Where the target was normalised patch by patch, the prediction is brought
    /// back with the true patch's mean and deviation: it then shows structure, not brightness, which the model was
    /// never asked for.
    pub fn new(
        config: &MaeConfig,
        pixels: &[u8],
        ids_restore: &[u32],
        keep: usize,
        predicted: &[f32],
        visible: Visible,
    ) -> Self {
        let vit = &config.vit;
        let (side, channels, width) = (vit.patch_size, vit.channels, vit.image_size.1);
        let columns = config.grid().1;
        let target = Target::new(config);
        let mut scratch = vec![0.0; vit.patch_len()];
        let (mut masked, mut reconstructed) = (pixels.to_vec(), pixels.to_vec());
        for (patch, place) in ids_restore.iter().enumerate() {
            let removed = *place as usize >= keep;
            if !removed && visible == Visible::Pasted {
                continue;
            }
            let (top, left) = (patch / columns * side, patch % columns * side);
            let at: Vec<usize> = (0..side * side * channels)
                .map(|i| {
                    let (row, rest) = (i / (side * channels), i % (side * channels));
                    ((top + row) * width + left) * channels + rest
                })
                .collect();
            let (mean, deviation) = target.patch(pixels, patch, &mut scratch);
            let values = &predicted[patch * at.len()..][..at.len()];
            for (i, (&at, value)) in at.iter().zip(values).enumerate() {
                let channel = i % channels;
                let value = (value * deviation + mean) * vit.std[channel] + vit.mean[channel];
                reconstructed[at] = (value * 255.0).round().clamp(0.0, 255.0) as u8;
                if removed {
                    masked[at] = REMOVED[channel.min(2)];
                }
            }
        }
        let picture = |pixels: &[u8]| Picture::from_pixels(pixels, width, channels);
        Reconstruction {
            masked: picture(&masked),
            reconstructed: picture(&reconstructed),
            original: picture(pixels),
        }
    }
}

/// How many times larger an image is shown than it is.
fn zoom_of(image: &Picture) -> usize {
    READABLE.div_ceil(image.width.max(image.height)).max(1)
}

/// Lays images out two in a row, each as it was | as it came back; small images are enlarged.
pub fn pairs(images: &[[Picture; 2]]) -> Picture {
    rows(
        &images
            .iter()
            .map(|pair| pair.each_ref())
            .collect::<Vec<_>>(),
    )
}

/// Lays reconstructions out two in a row, each as masked | reconstruction | original; small images are enlarged.
pub fn grid(reconstructions: &[Reconstruction]) -> Picture {
    let groups: Vec<_> = reconstructions
        .iter()
        .map(|three| [&three.masked, &three.reconstructed, &three.original])
        .collect();
    rows(&groups)
}

/// Two groups of pictures in a row.
fn rows<const N: usize>(groups: &[[&Picture; N]]) -> Picture {
    let Some(first) = groups.first().and_then(|group| group.first()) else {
        return Picture::new(1, 1, PAPER);
    };
    let (width, height) = (first.width, first.height);
    let zoom = zoom_of(first);
    let (gap, space) = (4, 16);
    let across = groups.len().min(2);
    let group_width = N * width * zoom + (N - 1) * gap;
    let rows = groups.len().div_ceil(across);
    let mut sheet = Picture::new(
        across * group_width + (across + 1) * space,
        rows * (height * zoom + space) + space,
        PAPER,
    );
    for (i, group) in groups.iter().enumerate() {
        let left = space + i % across * (group_width + space);
        let top = space + i / across * (height * zoom + space);
        for (k, picture) in group.iter().enumerate() {
            sheet.paste(picture, left + k * (width * zoom + gap), top, zoom);
        }
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two by two patches of 4 pixels; patches 0 and 3 visible.
    fn image(channels: usize) -> (MaeConfig, Vec<u8>, [u32; 4]) {
        let config = MaeConfig::named("mae-micro-patch4", (8, 8), channels).unwrap();
        let pixels = (0..64 * channels).map(|i| (i * 37 % 251) as u8).collect();
        (config, pixels, [0, 2, 3, 1])
    }

    /// What a perfect model would say: the target of every patch.
    fn perfect(config: &MaeConfig, pixels: &[u8]) -> Vec<f32> {
        let mut all = vec![0.0; 4 * config.vit.patch_len()];
        for (patch, out) in all.chunks_exact_mut(config.vit.patch_len()).enumerate() {
            Target::new(config).patch(pixels, patch, out);
        }
        all
    }

    #[test]
    fn a_perfect_prediction_gives_the_image_back() {
        for (channels, norm_pix_loss) in [(3, false), (3, true), (1, true)] {
            let (config, pixels, ids) = image(channels);
            let config = MaeConfig {
                norm_pix_loss,
                ..config
            };
            for visible in [Visible::Pasted, Visible::Predicted] {
                let three = Reconstruction::new(
                    &config,
                    &pixels,
                    &ids,
                    2,
                    &perfect(&config, &pixels),
                    visible,
                );
                assert_eq!(three.reconstructed, three.original);
            }
        }
    }

    #[test]
    fn only_removed_patches_change() {
        let (config, pixels, ids) = image(3);
        let three = Reconstruction::new(&config, &pixels, &ids, 2, &[0.0; 4 * 48], Visible::Pasted);
        let at = |picture: &Picture, row: usize, column: usize| {
            <[u8; 3]>::try_from(&picture.rgb[3 * (row * 8 + column)..][..3]).unwrap()
        };
        let mean = [124, 116, 104]; // ImageNet's, times 255
        for (row, column) in [(0, 0), (3, 3), (4, 4), (7, 7)] {
            assert_eq!(
                at(&three.masked, row, column),
                at(&three.original, row, column)
            );
            assert_eq!(
                at(&three.reconstructed, row, column),
                at(&three.original, row, column)
            );
        }
        for (row, column) in [(0, 4), (3, 7), (4, 0), (7, 3)] {
            assert_eq!(at(&three.masked, row, column), REMOVED);
            assert_eq!(at(&three.reconstructed, row, column), mean);
        }
        let predicted = Reconstruction::new(
            &config,
            &pixels,
            &ids,
            2,
            &[0.0; 4 * 48],
            Visible::Predicted,
        );
        assert_eq!(predicted.masked, three.masked);
        assert_eq!(predicted.reconstructed, Picture::new(8, 8, mean));
    }

    #[test]
    fn the_grid_is_a_readable_png() {
        let (config, pixels, ids) = image(3);
        let three = Reconstruction::new(&config, &pixels, &ids, 2, &[0.0; 4 * 48], Visible::Pasted);
        let sheet = grid(&[three.clone(), three.clone(), three]);
        assert_eq!(
            (sheet.width, sheet.height),
            (2 * (3 * 128 + 8) + 3 * 16, 2 * (128 + 16) + 16)
        );
        let png = sheet.to_png().unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(&png))
            .read_info()
            .unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        assert_eq!(rgb, sheet.rgb);
        // An image's pixel is a square of 16 here.
        let corner = 3 * (16 * sheet.width + 16);
        assert_eq!(rgb[corner..corner + 3], pixels[..3]);
        assert_eq!(rgb[corner + 45..corner + 48], pixels[..3]);
    }
}
