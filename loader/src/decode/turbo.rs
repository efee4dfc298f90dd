//! JPEG by libjpeg-turbo 3: decodes only the part that is wanted, at the smallest scale that keeps it at its size or above.
//!
//! Huffman codes have no index, so all of an image is entropy-decoded; what a region saves is the inverse transform, the upsampling
//! and the colour conversion of everything else. The rows below the region are read as well, though nothing needs them: an image is
//! bad if any of its bytes are.
//!
//! The calls themselves are in `turbo.c`, for the reason given there. All `unsafe` of the decoder is in this file.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::NonNull;

// Links libjpeg-turbo; its functions are called by turbo.c.
use turbojpeg_sys as _;

use super::{
    BadImage, DecodeQuality, Decoder, ImageSize, Plan, Rect, Region, Wanted, check_pixels, jpeg,
};

/// Decodes baseline and progressive JPEG of one or three components to gray or RGB, by region and scale.
pub struct TurboDecoder {
    channels: usize,
    max_pixels: u64,
    quality: DecodeQuality,
    library: Library,
    /// The region, with one row to spare.
    pixels: Vec<u8>,
}

impl TurboDecoder {
    /// Decodes to `channels` (1 or 3) channels, images of up to `max_pixels` pixels.
    pub fn new(channels: usize, max_pixels: u64, quality: DecodeQuality) -> Self {
        TurboDecoder {
            channels,
            max_pixels,
            quality,
            library: Library::new(),
            pixels: Vec::new(),
        }
    }
}

impl Decoder for TurboDecoder {
    fn name(&self) -> String {
        let quality = match self.quality {
            DecodeQuality::Exact => "exact",
            DecodeQuality::Fast => "fast",
        };
        format!("libjpeg-turbo-{}-{quality}", version())
    }

    fn decode<'a>(&'a mut self, bytes: &[u8], plan: &mut Plan<'_>) -> Result<Region<'a>, BadImage> {
        let size = jpeg::inspect(bytes)?.size;
        check_pixels(size, self.max_pixels)?;
        let wanted = plan(size)?;
        let mut image = self.library.open(bytes)?;
        if (image.size.width, image.size.height) != (size.width, size.height) {
            return Err(corrupt("two sizes in one image"));
        }
        let region = image.size.region(&wanted);
        let row = region.width as usize * self.channels;
        let length = row * (region.height as usize + 1);
        if self.pixels.len() < length {
            self.pixels.resize(length, 0);
        }
        image.decode(
            self.channels,
            self.quality,
            region,
            &mut self.pixels[..length],
        )?;
        Ok(Region {
            pixels: &self.pixels[..length - row],
            size: ImageSize {
                width: region.width,
                height: region.height,
            },
            channels: self.channels,
            x: region.x * region.scale,
            y: region.y * region.scale,
            scale: region.scale,
        })
    }
}

/// `struct mae_jpeg_size`: the image and its iMCU, in pixels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct JpegSize {
    width: u32,
    height: u32,
    mcu_width: u32,
    mcu_height: u32,
}

/// `struct mae_jpeg_region`: a rectangle in pixels of the image at 1/`scale`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct JpegRegion {
    scale: u32,
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

impl JpegSize {
    /// The region to decode for `wanted`: its columns start at an iMCU, and there is a pixel or two around it from which chroma is
    /// interpolated, as it would be with the whole image.
    fn region(&self, wanted: &Wanted) -> JpegRegion {
        let Wanted { part, size } = *wanted;
        let scale = scale(part, size);
        let (x, right) = (part.x / scale, (part.x + part.width).div_ceil(scale));
        let (y, bottom) = (part.y / scale, (part.y + part.height).div_ceil(scale));
        let align = (self.mcu_width / scale).max(1);
        let x = x.saturating_sub(1) / align * align;
        // Rows in pairs: merged upsampling, which fast decoding uses, makes two at a time and cannot skip one of them.
        let y = y / 2 * 2;
        let bottom = bottom.next_multiple_of(2).min(self.height.div_ceil(scale));
        JpegRegion {
            scale,
            x,
            y,
            width: (right + 2).min(self.width.div_ceil(scale)) - x,
            height: bottom - y,
        }
    }
}

/// The smallest scale, as its denominator, at which `part` is not smaller than `size`.
fn scale(part: Rect, size: ImageSize) -> u32 {
    let keeps = |scale: u32| {
        u64::from(part.width) >= u64::from(size.width) * u64::from(scale)
            && u64::from(part.height) >= u64::from(size.height) * u64::from(scale)
    };
    [8, 4, 2]
        .into_iter()
        .find(|&scale| keeps(scale))
        .unwrap_or(1)
}

#[repr(C)]
struct RawJpeg {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn mae_jpeg_new() -> *mut RawJpeg;
    fn mae_jpeg_version() -> *const c_char;
    fn mae_jpeg_free(jpeg: *mut RawJpeg);
    fn mae_jpeg_message(jpeg: *const RawJpeg) -> *const c_char;
    fn mae_jpeg_header(
        jpeg: *mut RawJpeg,
        data: *const u8,
        length: usize,
        size: *mut JpegSize,
    ) -> c_int;
    fn mae_jpeg_decode(
        jpeg: *mut RawJpeg,
        channels: c_int,
        fast: c_int,
        region: *const JpegRegion,
        out: *mut u8,
    ) -> c_int;
}

fn version() -> String {
    // SAFETY: a terminated string constant.
    unsafe { CStr::from_ptr(mae_jpeg_version()) }
        .to_string_lossy()
        .into_owned()
}

/// An instance of the library's decompressor.
struct Library {
    raw: NonNull<RawJpeg>,
}

// SAFETY: the instance refers to nothing of the thread that made it, and is used through `&mut` only.
unsafe impl Send for Library {}

impl Library {
    fn new() -> Self {
        // SAFETY: no arguments; null if there is no memory.
        let raw = NonNull::new(unsafe { mae_jpeg_new() });
        Library {
            raw: raw.expect("memory for a JPEG decoder"),
        }
    }

    /// Reads the header of the image in `bytes`.
    fn open<'a>(&'a mut self, bytes: &'a [u8]) -> Result<OpenJpeg<'a>, BadImage> {
        let mut size = JpegSize::default();
        // SAFETY: the instance is alive; `bytes` stays borrowed for as long as the image is open, and what an earlier image left in
        // the instance is dropped first, unread.
        let code = unsafe {
            mae_jpeg_header(
                self.raw.as_ptr(),
                bytes.as_ptr(),
                bytes.len(),
                &raw mut size,
            )
        };
        if code != 0 {
            return Err(self.failure());
        }
        Ok(OpenJpeg {
            library: self,
            size,
        })
    }

    fn failure(&self) -> BadImage {
        // SAFETY: the message is a terminated string inside the instance, which is borrowed.
        let message = unsafe { CStr::from_ptr(mae_jpeg_message(self.raw.as_ptr())) };
        corrupt(&message.to_string_lossy())
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: made by `mae_jpeg_new`, freed once.
        unsafe { mae_jpeg_free(self.raw.as_ptr()) }
    }
}

/// An image whose header has been read; holds on to its bytes.
struct OpenJpeg<'a> {
    library: &'a mut Library,
    size: JpegSize,
}

impl OpenJpeg<'_> {
    /// Decodes `region` into `out`, which has its rows and one more.
    fn decode(
        &mut self,
        channels: usize,
        quality: DecodeQuality,
        region: JpegRegion,
        out: &mut [u8],
    ) -> Result<(), BadImage> {
        let rows = region.height as usize + 1;
        assert_eq!(out.len(), region.width as usize * channels * rows);
        assert!(channels == 1 || channels == 3);
        // SAFETY: the instance is alive and the bytes of `open` are still borrowed. The C side checks the region against the image
        // before it writes, and writes at most its rows and one more, which is what `out` holds.
        let code = unsafe {
            mae_jpeg_decode(
                self.library.raw.as_ptr(),
                channels as c_int,
                c_int::from(quality == DecodeQuality::Fast),
                &raw const region,
                out.as_mut_ptr(),
            )
        };
        if code == 0 {
            Ok(())
        } else {
            Err(self.library.failure())
        }
    }
}

fn corrupt(reason: &str) -> BadImage {
    BadImage::Corrupt {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
