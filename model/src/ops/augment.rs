//! What fine-tuning does to whole images after they are normalised: random erasing (Zhong et al. 2020), mixup (Zhang et al. 2018) and cutmix
//! (Yun et al. 2019), as timm does them. They work on patches `[B, L, C·P·P]` in order, as [`super::patchify::forward`] makes them of
//! images of which every patch is visible; boxes are in the image's pixels. Drawing boxes and shares is the caller's.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write};
use crate::Result;
use crate::config::VitConfig;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::profile::span;

/// A rectangle of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBox {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl PixelBox {
    fn holds(self, (y, x): (usize, usize)) -> bool {
        y.wrapping_sub(self.top) < self.height && x.wrapping_sub(self.left) < self.width
    }
}

/// What becomes of a batch: erasing first, then mixing, as in timm's order.
#[derive(Clone, Debug, Default)]
pub struct Augmentation {
    /// Boxes and seed as [`erase`] takes them.
    pub erase: Option<(Tensor, u64)>,
    /// Share and box as [`mix`] takes them.
    pub mix: Option<(f32, Option<PixelBox>)>,
}

impl Augmentation {
    /// To patches as in the [module's](self) description.
    ///
    /// # Errors
    /// As [`erase`].
    pub fn apply(&self, config: &VitConfig, patches: &Tensor) -> Result<()> {
        if let Some((boxes, seed)) = &self.erase {
            erase(config, patches, boxes, *seed)?;
        }
        match self.mix {
            Some((share, cut)) => mix(config, patches, share, cut),
            None => Ok(()),
        }
    }
}

/// Puts standard normal numbers, each drawn for itself, into a box of each image: timm's `RandomErasing(mode="pixel")`. `boxes` `[B, 4]`,
/// u32: top, left, height, width; a box without area erases nothing. A number depends on `seed`, its image's place in the batch, its
/// pixel and its channel.
///
/// # Errors
/// If a tensor is not a contiguous tensor of its type and size.
pub fn erase(config: &VitConfig, patches: &Tensor, boxes: &Tensor, seed: u64) -> Result<()> {
    let _span = span("random erasing");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(patches) {
        return kernels::augment::erase(&engine, config, patches, boxes, seed);
    }
    let places = Places::new(config);
    let boxes = read(boxes)?;
    let boxes = boxes.slice::<u32>()?;
    write(patches, |patches| {
        patches
            .par_chunks_mut(places.image())
            .zip(boxes.par_chunks(4))
            .enumerate()
            .for_each(|(sample, (image, numbers))| {
                let [top, left, height, width] = std::array::from_fn(|i| numbers[i] as usize);
                let area = PixelBox {
                    top,
                    left,
                    height,
                    width,
                };
                if height * width == 0 {
                    return;
                }
                for (i, number) in image.iter_mut().enumerate() {
                    let (channel, y, x) = places.of(i);
                    if area.holds((y, x)) {
                        let pixel = (y * places.width + x) as u32;
                        *number = normal(seed, [pixel, channel as u32, sample as u32, 0]);
                    }
                }
            });
        Ok(())
    })
}

/// Mixes each image with the one at its place from the batch's end: with `cut`, that box of both is swapped (cutmix); without, each becomes
/// `share` of itself and the rest of the other (mixup).
///
/// # Errors
/// As [`erase`].
pub fn mix(config: &VitConfig, patches: &Tensor, share: f32, cut: Option<PixelBox>) -> Result<()> {
    let _span = span("mixing");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(patches) {
        return kernels::augment::mix(&engine, config, patches, share, cut);
    }
    let places = Places::new(config);
    write(patches, |patches| {
        let image = places.image();
        let half = patches.len() / image / 2;
        let (first, rest) = patches.split_at_mut(half * image);
        let start = rest.len() - half * image;
        first
            .par_chunks_mut(image)
            .zip(rest[start..].par_chunks_mut(image).rev())
            .for_each(|(one, two)| {
                for (i, (a, b)) in one.iter_mut().zip(two).enumerate() {
                    match cut {
                        None => (*a, *b) = mixed(*a, *b, share),
                        Some(area) => {
                            let (_, y, x) = places.of(i);
                            if area.holds((y, x)) {
                                std::mem::swap(a, b);
                            }
                        }
                    }
                }
            });
        Ok(())
    })
}

fn mixed(a: f32, b: f32, share: f32) -> (f32, f32) {
    let rest = 1.0 - share;
    (a * share + b * rest, b * share + a * rest)
}

/// Where the numbers of an image's patches stand in the image.
struct Places {
    side: usize,
    channels: usize,
    columns: usize,
    width: usize,
    height: usize,
}

impl Places {
    fn new(config: &VitConfig) -> Self {
        let (height, width) = config.image_size;
        Self {
            side: config.patch_size,
            channels: config.channels,
            columns: config.grid().1,
            width,
            height,
        }
    }

    /// Numbers of an image.
    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Channel, row and column of number `i`.
    fn of(&self, i: usize) -> (usize, usize, usize) {
        let area = self.side * self.side;
        let (patch, i) = (i / (area * self.channels), i % (area * self.channels));
        let (channel, i) = (i / area, i % area);
        (
            channel,
            patch / self.columns * self.side + i / self.side,
            patch % self.columns * self.side + i % self.side,
        )
    }
}

/// A standard normal number from a counter (Box and Muller 1958).
fn normal(seed: u64, counter: [u32; 4]) -> f32 {
    let [a, b, ..] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    let unit = |x: u32| (x >> 8) as f32 * (1.0 / (1 << 24) as f32);
    // Between the multiples of 2^-24, so that the logarithm is finite.
    let radius = (-2.0 * (unit(a) + 0.5 / (1 << 24) as f32).ln()).sqrt();
    radius * (std::f32::consts::TAU * unit(b)).cos()
}

/// Philox4x32-10 (Salmon et al. 2011).
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MaeConfig;
    use candle_core::Device;

    /// The known answers that come with Random123, the generator's first implementation.
    #[test]
    fn philox_gives_the_published_numbers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn config() -> VitConfig {
        let mut vit = MaeConfig::named("mae-micro-patch4", (32, 32), 3)
            .unwrap()
            .vit;
        (vit.image_size, vit.patch_size) = ((12, 20), 4);
        vit
    }

    /// Of each number, which image it is of, and where it stands in it: `[B, H, W, C]` in patches.
    fn marked(config: &VitConfig, batch: usize) -> Tensor {
        let places = Places::new(config);
        let numbers: Vec<f32> = (0..batch * places.image())
            .map(|i| {
                let (channel, y, x) = places.of(i % places.image());
                (i / places.image() * 10_000 + y * 400 + x * 10 + channel) as f32
            })
            .collect();
        let shape = (batch, config.patches(), config.patch_len());
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    }

    fn each(patches: &Tensor, mut check: impl FnMut(usize, [usize; 3], f32)) {
        let config = config();
        let places = Places::new(&config);
        let numbers: Vec<f32> = patches.flatten_all().unwrap().to_vec1().unwrap();
        for (i, &number) in numbers.iter().enumerate() {
            let (channel, y, x) = places.of(i % places.image());
            check(i / places.image(), [channel, y, x], number);
        }
    }

    #[test]
    fn places_are_those_of_the_visible_patches() {
        // Bytes that name their place, through the operation that makes patches.
        let mut config = config();
        (config.mean, config.std) = (vec![0.0; 3], vec![1.0; 3]);
        let bytes: Vec<u8> = (0..12 * 20 * 3).map(|i| (i % 251) as u8).collect();
        let pixels = Tensor::from_vec(bytes.clone(), (1, 12, 20, 3), &Device::Cpu).unwrap();
        let ids: Vec<u32> = (0..15).collect();
        let ids = Tensor::from_vec(ids, (1, 15), &Device::Cpu).unwrap();
        let patches = Tensor::zeros((1, 15, 48), candle_core::DType::F32, &Device::Cpu).unwrap();
        super::super::patchify::forward(&config, &pixels, &ids, &patches).unwrap();
        each(&patches, |_, [channel, y, x], number| {
            let byte = bytes[(y * 20 + x) * 3 + channel];
            assert_eq!(
                (number * 255.0).round() as u8,
                byte,
                "at {y}, {x}, {channel}"
            );
        });
    }

    #[test]
    fn boxes_are_erased_and_nothing_else() {
        let (config, patches) = (config(), marked(&config(), 3));
        let boxes = [[2u32, 3, 7, 9], [5, 5, 0, 4], [0, 0, 12, 20]];
        let boxes = Tensor::new(&boxes, &Device::Cpu).unwrap();
        erase(&config, &patches, &boxes, 7).unwrap();
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        each(&patches, |image, [channel, y, x], number| {
            let inside = match image {
                0 => (2..9).contains(&y) && (3..12).contains(&x),
                1 => false,
                _ => true,
            };
            let before = (image * 10_000 + y * 400 + x * 10 + channel) as f32;
            assert_eq!(number == before, !inside, "image {image} at {y}, {x}");
            if inside {
                assert!(number.abs() < 6.0);
                (sum, squares, count) = (sum + number, squares + number * number, count + 1.0);
            }
        });
        let mean = sum / count;
        assert!(mean.abs() < 0.12, "mean {mean}");
        assert!(
            (squares / count - 1.0).abs() < 0.16,
            "variance {}",
            squares / count
        );
        // Other seeds, other numbers; the same, the same.
        let (again, other) = (marked(&config, 3), marked(&config, 3));
        erase(&config, &again, &boxes, 7).unwrap();
        erase(&config, &other, &boxes, 8).unwrap();
        let all = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(all(&again), all(&patches));
        assert_ne!(all(&other), all(&patches));
    }

    #[test]
    fn images_mix_with_those_from_the_end() {
        for batch in [1, 2, 5] {
            let patches = marked(&config(), batch);
            mix(&config(), &patches, 0.25, None).unwrap();
            each(&patches, |image, [channel, y, x], number| {
                let own = |image: usize| (image * 10_000 + y * 400 + x * 10 + channel) as f32;
                let wanted = 0.25 * own(image) + 0.75 * own(batch - 1 - image);
                assert!((number - wanted).abs() <= 4e-3, "{batch}: image {image}");
            });
            let area = PixelBox {
                top: 9,
                left: 0,
                height: 3,
                width: 6,
            };
            let patches = marked(&config(), batch);
            mix(&config(), &patches, 0.9, Some(area)).unwrap();
            each(&patches, |image, [channel, y, x], number| {
                let from = if y >= 9 && x < 6 {
                    batch - 1 - image
                } else {
                    image
                };
                assert_eq!(number, (from * 10_000 + y * 400 + x * 10 + channel) as f32);
            });
        }
    }
}
