//! Resampling as Pillow's bicubic (a = −0.5, widened when shrinking), which `fast_image_resize` calls Catmull-Rom.
//!
//! In two passes, columns first and then rows, as Pillow. `fast_image_resize` on its own takes 8-bit images in the other order, and as
//! each pass rounds and clips to 0–255, hard edges would come out up to seven levels apart.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions};

use crate::decode::{BadImage, ImageSize, Rect, Region};

/// Resizes parts of images; keeps its intermediate memory.
pub struct Resizer {
    inner: fast_image_resize::Resizer,
    options: ResizeOptions,
    /// The part between the passes: the rows of the source, the columns of the target.
    columns: Vec<u8>,
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
            columns: Vec::new(),
        }
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
        if region.channels == 1 {
            self.resize_pixels::<U8>(region, part, size, out)
        } else {
            self.resize_pixels::<U8x3>(region, part, size, out)
        }
    }

    /// One instance a pixel type: the crate's untyped entry would be compiled for all that it knows.
    fn resize_pixels<P: PixelTrait>(
        &mut self,
        region: &Region<'_>,
        part: Rect,
        size: ImageSize,
        out: &mut [u8],
    ) -> Result<(), BadImage> {
        let horizontal =
            Extent::new(part.x, part.width, region.x, region.scale).ok_or_else(outside)?;
        let vertical =
            Extent::new(part.y, part.height, region.y, region.scale).ok_or_else(outside)?;
        let (width, height) = (size.width, size.height);
        let whole =
            TypedImageRef::<P>::from_buffer(region.size.width, region.size.height, region.pixels)
                .map_err(failed)?;
        let mut target = TypedImage::<P>::from_buffer(width, height, out).map_err(failed)?;
        let (start, length) = (
            (horizontal.start, vertical.start),
            (horizontal.length, vertical.length),
        );
        if horizontal.is_unchanged(width) || vertical.is_unchanged(height) {
            let inner = (horizontal.inner, vertical.inner);
            let left = (horizontal.left, vertical.left);
            return self.pass(&whole, start, length, (left, inner), &mut target);
        }
        let rows = vertical.length;
        let bytes = width as usize * rows as usize * region.channels;
        let mut columns = std::mem::take(&mut self.columns);
        if columns.len() < bytes {
            columns.resize(bytes, 0);
        }
        let cut = ((horizontal.left, 0.0), (horizontal.inner, f64::from(rows)));
        let mut between =
            TypedImage::<P>::from_buffer(width, rows, &mut columns[..bytes]).map_err(failed)?;
        self.pass(&whole, start, length, cut, &mut between)?;
        let between =
            TypedImageRef::<P>::from_buffer(width, rows, &columns[..bytes]).map_err(failed)?;
        let cut = ((0.0, vertical.left), (f64::from(width), vertical.inner));
        self.pass(&between, (0, 0), (width, rows), cut, &mut target)?;
        self.columns = columns;
        Ok(())
    }

    /// Resamples `inner` at `left` of the pixels `length` at `start`.
    fn pass<P: PixelTrait>(
        &mut self,
        whole: &TypedImageRef<'_, P>,
        start: (u32, u32),
        length: (u32, u32),
        (left, inner): ((f64, f64), (f64, f64)),
        target: &mut TypedImage<'_, P>,
    ) -> Result<(), BadImage> {
        let source = TypedCroppedImage::from_ref(whole, start.0, start.1, length.0, length.1)
            .map_err(failed)?;
        let options = self.options.crop(left.0, left.1, inner.0, inner.1);
        self.inner
            .resize_typed(&source, target, &options)
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
    /// Whether nothing has to be resampled to get `length` pixels.
    fn is_unchanged(&self, length: u32) -> bool {
        self.left == 0.0 && self.inner == f64::from(length)
    }

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
mod vector;

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
