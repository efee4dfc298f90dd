//! Resampling as Pillow's bicubic (a = −0.5, widened when shrinking), which `fast_image_resize` calls Catmull-Rom.

use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions};

use crate::decode::{BadImage, ImageSize, Rect, Region};

/// Resizes parts of images; keeps its intermediate memory.
pub struct Resizer {
    inner: fast_image_resize::Resizer,
    options: ResizeOptions,
}

impl Default for Resizer {
    fn default() -> Self {
        Resizer::new()
    }
}

impl Resizer {
    /// A resizer that uses the best instructions of this machine.
    pub fn new() -> Self {
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
            .use_alpha(false);
        Resizer {
            inner: fast_image_resize::Resizer::new(),
            options,
        }
    }

    /// The instructions in use, for the fingerprint of a run.
    pub fn instructions(&self) -> String {
        format!("{:?}", self.inner.cpu_extensions()).to_lowercase()
    }

    /// Resizes `part` (in pixels of the whole image) of a decoded region to `size`, into `out`: `[height, width, channels]`.
    ///
    /// Reads no pixel outside `part`, but for those that a smaller scale has mixed into its border pixels. A part that already has
    /// the size is copied.
    ///
    /// # Errors
    /// [`BadImage::Corrupt`] if `part` is not inside the region or `out` has another length: a decoder that gave less than wanted.
    pub fn resize(
        &mut self,
        region: &Region<'_>,
        part: Rect,
        size: ImageSize,
        out: &mut [u8],
    ) -> Result<(), BadImage> {
        let pixel_type = if region.channels == 1 {
            PixelType::U8
        } else {
            PixelType::U8x3
        };
        let horizontal =
            Extent::new(part.x, part.width, region.x, region.scale).ok_or_else(outside)?;
        let vertical =
            Extent::new(part.y, part.height, region.y, region.scale).ok_or_else(outside)?;
        let source = ImageRef::new(
            region.size.width,
            region.size.height,
            region.pixels,
            pixel_type,
        )
        .map_err(failed)?;
        let source = CroppedImage::new(
            &source,
            horizontal.start,
            vertical.start,
            horizontal.length,
            vertical.length,
        )
        .map_err(failed)?;
        let mut target =
            Image::from_slice_u8(size.width, size.height, out, pixel_type).map_err(failed)?;
        let options = self.options.crop(
            horizontal.left,
            vertical.left,
            horizontal.inner,
            vertical.inner,
        );
        self.inner
            .resize(&source, &mut target, &options)
            .map_err(failed)
    }
}

/// One axis of a part, in decoded pixels: the whole pixels that it touches, and the part's bounds among them.
struct Extent {
    start: u32,
    length: u32,
    left: f64,
    inner: f64,
}

impl Extent {
    fn new(part: u32, length: u32, region: u32, scale: u32) -> Option<Self> {
        let (from, to) = (
            part.checked_sub(region)?,
            part.checked_add(length)?.checked_sub(region)?,
        );
        let start = from / scale;
        let end = to.div_ceil(scale);
        let scale = f64::from(scale);
        let left = f64::from(from) / scale - f64::from(start);
        Some(Extent {
            start,
            length: end - start,
            left,
            inner: f64::from(to - from) / scale,
        })
    }
}

fn outside() -> BadImage {
    BadImage::Corrupt {
        reason: "the decoded region does not hold the part wanted".to_owned(),
    }
}

fn failed(error: impl std::fmt::Display) -> BadImage {
    BadImage::Corrupt {
        reason: format!("cannot resize: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::testing::picture;

    fn resize(
        region: &Region<'_>,
        part: Rect,
        width: u32,
        height: u32,
    ) -> Result<Vec<u8>, BadImage> {
        let mut out = vec![0; width as usize * height as usize * region.channels];
        Resizer::new().resize(region, part, ImageSize { width, height }, &mut out)?;
        Ok(out)
    }

    fn region(pixels: &[u8], width: u32, height: u32) -> Region<'_> {
        Region {
            pixels,
            size: ImageSize { width, height },
            channels: 3,
            x: 0,
            y: 0,
            scale: 1,
        }
    }

    #[test]
    fn nothing_outside_the_part_is_read() {
        let part = Rect {
            x: 10,
            y: 5,
            width: 21,
            height: 14,
        };
        let inside = |x, y| (10..31).contains(&x) && (5..19).contains(&y);
        let mut pixels = picture(48, 32, 1);
        for (width, height) in [(12, 12), (40, 30), (21, 14), (21, 7)] {
            let expected = resize(&region(&pixels, 48, 32), part, width, height).unwrap();
            for (i, pixel) in pixels.chunks_mut(3).enumerate() {
                if !inside(i % 48, i / 48) {
                    pixel.fill(255 - pixel[0]);
                }
            }
            assert_eq!(
                resize(&region(&pixels, 48, 32), part, width, height).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn a_region_of_the_image_gives_the_same_as_the_whole_image() {
        let pixels = picture(48, 32, 2);
        let part = Rect {
            x: 20,
            y: 10,
            width: 17,
            height: 13,
        };
        let whole = resize(&region(&pixels, 48, 32), part, 16, 16).unwrap();
        let cut: Vec<u8> = pixels
            .chunks(48 * 3)
            .skip(8)
            .take(20)
            .flat_map(|row| row[16 * 3..40 * 3].to_vec())
            .collect();
        let cut = Region {
            pixels: &cut,
            size: ImageSize {
                width: 24,
                height: 20,
            },
            channels: 3,
            x: 16,
            y: 8,
            scale: 1,
        };
        assert_eq!(resize(&cut, part, 16, 16).unwrap(), whole);
    }

    #[test]
    fn a_region_at_half_scale_lands_in_the_same_place() {
        let pixels = picture(64, 64, 0);
        let half: Vec<u8> = (0..32 * 32 * 3)
            .map(|i| {
                let (x, y, channel) = (i / 3 % 32 * 2, i / 96 * 2, i % 3);
                let at = |x: usize, y: usize| u32::from(pixels[(y * 64 + x) * 3 + channel]);
                ((at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1) + 2) / 4) as u8
            })
            .collect();
        let part = Rect {
            x: 5,
            y: 8,
            width: 51,
            height: 49,
        };
        let full = resize(&region(&pixels, 64, 64), part, 16, 16).unwrap();
        let half = Region {
            pixels: &half,
            size: ImageSize {
                width: 32,
                height: 32,
            },
            channels: 3,
            x: 0,
            y: 0,
            scale: 2,
        };
        let scaled = resize(&half, part, 16, 16).unwrap();
        let worst = full
            .iter()
            .zip(&scaled)
            .map(|(a, b)| a.abs_diff(*b))
            .max()
            .unwrap();
        assert!(worst <= 12, "worst difference {worst}");
    }

    #[test]
    fn a_part_outside_the_region_is_an_error() {
        let pixels = picture(48, 32, 2);
        assert!(
            resize(
                &region(&pixels, 48, 32),
                Rect {
                    x: 40,
                    y: 0,
                    width: 9,
                    height: 8
                },
                4,
                4
            )
            .is_err()
        );
        let moved = Region {
            x: 8,
            ..region(&pixels, 48, 32)
        };
        assert!(
            resize(
                &moved,
                Rect {
                    x: 4,
                    y: 0,
                    width: 9,
                    height: 8
                },
                4,
                4
            )
            .is_err()
        );
    }
}
