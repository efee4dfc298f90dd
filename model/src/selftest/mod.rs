//! The operations on a device against those of the CPU: forward and gradients, in f32 and with bfloat16 where the device has it, over
//! sizes that are no multiple of a warp. The command `mae selftest` runs it on a GPU; the tests run it on the host, where the GPU's
//! kernels are C++.

mod attention;
mod augment;
mod classifier;
mod classify;
#[cfg(feature = "cuda")]
mod feed;
mod gelu;
mod image;
mod layer_norm;
mod model;
mod product;
mod target;
mod tokens;
mod update;

use candle_core::{DType, Device, Shape, Tensor};

use crate::{ParamSpec, Result};

/// Where the operations run that are checked.
pub enum Place {
    /// A GPU.
    Device(Device),
    /// The GPU's kernels on the host.
    #[cfg(feature = "host-kernels")]
    Host,
}

/// One comparison.
pub struct Check {
    /// What was compared.
    pub name: String,
    /// The largest difference, as a share of the largest number.
    pub difference: f32,
    /// What it may be.
    pub tolerance: f32,
}

impl Check {
    /// Something that holds or not.
    pub fn of(name: impl Into<String>, holds: bool) -> Self {
        Self {
            name: name.into(),
            difference: if holds { 0.0 } else { f32::INFINITY },
            tolerance: 0.0,
        }
    }

    /// Whether the difference is a number within the tolerance.
    pub fn passed(&self) -> bool {
        self.difference <= self.tolerance
    }
}

/// Every check there is.
///
/// # Errors
/// If an operation fails outright.
pub fn run(place: &Place) -> Result<Vec<Check>> {
    let mut session = Session {
        place,
        checks: Vec::new(),
    };
    layer_norm::run(&mut session)?;
    gelu::run(&mut session)?;
    tokens::run(&mut session)?;
    image::run(&mut session)?;
    target::run(&mut session)?;
    attention::run(&mut session)?;
    augment::run(&mut session)?;
    classify::run(&mut session)?;
    product::run(&mut session)?;
    update::run(&mut session)?;
    model::run(&mut session)?;
    classifier::run(&mut session)?;
    #[cfg(feature = "cuda")]
    feed::run(&mut session)?;
    Ok(session.checks)
}

struct Session<'a> {
    place: &'a Place,
    checks: Vec<Check>,
}

impl Session<'_> {
    /// A copy where the checked operations run.
    fn put(&self, x: &Tensor) -> Result<Tensor> {
        match self.place {
            Place::Device(device) => Ok(x.to_device(device)?),
            #[cfg(feature = "host-kernels")]
            Place::Host => Ok(x.copy()?),
        }
    }

    /// Memory there.
    fn output(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        self.put(&Tensor::zeros(shape, dtype, &Device::Cpu)?)
    }

    /// Runs an operation there.
    fn on<T>(&self, body: impl FnOnce() -> T) -> T {
        match self.place {
            Place::Device(_) => body(),
            #[cfg(feature = "host-kernels")]
            Place::Host => crate::kernels::on_host(body),
        }
    }

    /// The device of what is checked.
    fn device(&self) -> Device {
        match self.place {
            Place::Device(device) => device.clone(),
            #[cfg(feature = "host-kernels")]
            Place::Host => Device::Cpu,
        }
    }

    /// Sizes of real models, for a GPU: on the host, where a thread is a fibre, none.
    fn large<'s, T>(&self, shapes: &'s [T]) -> &'s [T] {
        match self.place {
            Place::Device(_) => shapes,
            #[cfg(feature = "host-kernels")]
            Place::Host => &[],
        }
    }

    fn fetch(&self, x: &Tensor) -> Result<Vec<f32>> {
        numbers_of(x)
    }

    fn push(&mut self, name: String, difference: f32, tolerance: f32) {
        self.checks.push(Check {
            name,
            difference,
            tolerance,
        });
    }

    /// Something that holds or not.
    fn truth(&mut self, name: String, holds: bool) -> Result<()> {
        self.checks.push(Check::of(name, holds));
        Ok(())
    }

    fn compare(
        &mut self,
        name: String,
        got: &Tensor,
        wanted: &Tensor,
        tolerance: f32,
    ) -> Result<()> {
        self.compare_sized(name, got, wanted, 1e-3, tolerance)
    }

    /// As [`Self::compare`] where numbers of about `size` cancel, so that what is left may be their rounding alone: the difference is
    /// never taken as a share of less.
    fn compare_sized(
        &mut self,
        name: String,
        got: &Tensor,
        wanted: &Tensor,
        size: f32,
        tolerance: f32,
    ) -> Result<()> {
        let (got, wanted) = (numbers_of(got)?, numbers_of(wanted)?);
        let largest = wanted.iter().fold(size, |top, x| top.max(x.abs()));
        let mut difference = if got.len() == wanted.len() {
            0f32
        } else {
            f32::INFINITY
        };
        for (got, wanted) in got.iter().zip(&wanted) {
            let off = (got - wanted).abs() / largest;
            // `max` would drop what is no number.
            if off.is_nan() || off > difference {
                difference = off;
            }
        }
        self.push(name, difference, tolerance);
        Ok(())
    }

    /// Flat gradients by the length of each parameter's own, so that none hides behind another.
    fn compare_gradients(
        &mut self,
        name: &str,
        specs: &[ParamSpec],
        got: &[f32],
        wanted: &[f32],
        tolerance: f32,
    ) {
        let length =
            |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let mut worst = (0.0, "");
        for spec in specs {
            let (got, wanted) = (&got[spec.range()], &wanted[spec.range()]);
            let difference = length(&mut got.iter().zip(wanted).map(|(a, b)| a - b));
            let size = length(&mut wanted.iter().copied());
            // What is frozen has no gradient on either side.
            let off = match difference == 0.0 && size == 0.0 {
                true => 0.0,
                false => difference / size,
            };
            if off.is_nan() || off > worst.0 {
                worst = (off, &spec.name);
            }
        }
        let (off, parameter) = worst;
        self.push(
            format!(
                "{name}, gradients, relative length of the difference, worst of all: {parameter}"
            ),
            off as f32,
            tolerance,
        );
    }
}

/// Numbers in [-1, 1) that no formula of the operations knows.
fn numbers(shape: &[usize], seed: u32) -> Result<Tensor> {
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count)
        .map(|i: usize| {
            let mixed = (i as u32 + 1).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503);
            (mixed.wrapping_mul(2_246_822_519) >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
}

/// Bytes of images.
fn pixels(count: usize) -> Result<Vec<u8>> {
    let draw = numbers(&[count], 1)?.to_vec1::<f32>()?;
    Ok(draw.iter().map(|x| (x * 127.0 + 128.0) as u8).collect())
}

/// Where each of `patches` stands among the shuffled ones `[B, L]`: another permutation for each sample.
fn permutations(batch: usize, patches: usize) -> Result<Tensor> {
    let mut ids = Vec::new();
    for sample in 0..batch {
        let draw = numbers(&[patches], 20 + sample as u32)?.to_vec1::<f32>()?;
        let mut order: Vec<u32> = (0..patches as u32).collect();
        order.sort_by(|&a, &b| draw[a as usize].total_cmp(&draw[b as usize]));
        ids.extend(order);
    }
    Ok(Tensor::from_vec(ids, (batch, patches), &Device::Cpu)?)
}

fn numbers_of(x: &Tensor) -> Result<Vec<f32>> {
    let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(x.flatten_all()?.to_vec1()?)
}

/// The largest of a tensor's numbers, without their signs.
fn largest(x: &Tensor) -> Result<f32> {
    Ok(numbers_of(x)?.iter().fold(0.0, |top, x| x.abs().max(top)))
}

/// What a number of this type may lose in an operation that rounds its result once.
fn rounding(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 1.0 / 256.0,
        _ => 2e-6,
    }
}

#[cfg(all(test, feature = "host-kernels"))]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        let place = Place::Host;
        let mut session = Session {
            place: &place,
            checks: Vec::new(),
        };
        let x = |numbers: [f32; 3]| Tensor::new(&numbers, &Device::Cpu).unwrap();
        for got in [[1.0, 2.0, 3.1], [f32::NAN, 2.0, 3.0], [1.0, f32::NAN, 3.0]] {
            session
                .compare(String::new(), &x(got), &x([1.0, 2.0, 3.0]), 1e-3)
                .unwrap();
        }
        let short = x([1.0, 2.0, 3.0]).narrow(0, 0, 2).unwrap();
        session
            .compare(String::new(), &short, &x([1.0, 2.0, 3.0]), 1e-3)
            .unwrap();
        assert!(session.checks.iter().all(|check| !check.passed()));
    }
}
