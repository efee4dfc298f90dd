//! A model's parameters: one flat `f32` tensor, named views into it, and the table that gives each
//! range its name, shape and treatment.
//!
//! Parameters stand in the order in which the backward finishes their gradients (head first,
//! embedding last), so that ranges of the flat gradient are ready one after another. Each begins at
//! a multiple of 256 bytes; the gaps stay zero.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::init::Init;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::ops::reduce;
use crate::precision::Precision;
use crate::{Error, Result};

/// Numbers between possible beginnings of parameters (256 bytes).
pub const ALIGN: usize = 64;

/// One parameter's place in the flat tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// The reference code's name.
    pub name: String,
    /// The reference code's shape.
    pub shape: Vec<usize>,
    /// First number in the flat tensors.
    pub offset: usize,
    /// Numbers.
    pub len: usize,
    /// Whether weight decay applies: everything but 1-D parameters, as the reference's
    /// `add_weight_decay` (the class and mask token have three dimensions there and so decay).
    pub decay: bool,
    pub(crate) init: Init,
}

impl ParamSpec {
    /// The parameter's range of the flat tensors.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// Which parameter, in table order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamId(usize);

/// Collects a model's parameters.
#[derive(Default)]
pub(crate) struct ParamsBuilder {
    specs: Vec<ParamSpec>,
    end: usize,
}

impl ParamsBuilder {
    pub(crate) fn add(&mut self, name: String, shape: &[usize], init: Init) -> ParamId {
        let len = shape.iter().product();
        let spec = ParamSpec {
            name,
            shape: shape.to_vec(),
            offset: self.end,
            len,
            decay: shape.len() > 1,
            init,
        };
        self.end += len.next_multiple_of(ALIGN);
        self.specs.push(spec);
        ParamId(self.specs.len() - 1)
    }

    /// Where what comes next will begin.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Names and shapes, in table order.
    pub(crate) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let shape = |spec: &ParamSpec| (spec.name.clone(), spec.shape.clone());
        self.specs.iter().map(shape).collect()
    }

    /// Trainable numbers, without gaps.
    pub(crate) fn count(&self) -> usize {
        self.specs.iter().map(|spec| spec.len).sum()
    }

    /// Numbers of a flat tensor, gaps included.
    pub(crate) fn flat_len(&self) -> usize {
        self.end
    }

    /// Allocates and initialises.
    pub(crate) fn build(self, device: &Device, seed: u64) -> Result<Params> {
        let mut numbers = vec![0f32; self.end];
        for (stream, spec) in self.specs.iter().enumerate() {
            spec.init
                .fill(seed, stream as u64, &spec.shape, &mut numbers[spec.range()]);
        }
        let flat = Tensor::from_vec(numbers, self.end, device)?;
        Ok(Params {
            views: views(&flat, &self.specs)?,
            specs: self.specs,
            flat,
            precision: Precision::F32,
            low: None,
        })
    }
}

fn views(flat: &Tensor, specs: &[ParamSpec]) -> Result<Vec<Tensor>> {
    let view = |spec: &ParamSpec| {
        let view = flat.narrow(0, spec.offset, spec.len)?;
        // Products see a convolution's weight [D, C, P, P] as the matrix [D, C·P·P].
        match spec.shape.len() {
            1 => Ok(view),
            _ => view.reshape((spec.shape[0], spec.len / spec.shape[0])),
        }
    };
    Ok(specs
        .iter()
        .map(view)
        .collect::<candle_core::Result<Vec<_>>>()?)
}

/// See the [module](self). A clone shares the numbers.
#[derive(Clone, Debug)]
pub struct Params {
    specs: Vec<ParamSpec>,
    flat: Tensor,
    views: Vec<Tensor>,
    precision: Precision,
    low: Option<Low>,
}

/// A rounded copy of the parameters, for products.
#[derive(Clone, Debug)]
struct Low {
    flat: Tensor,
    views: Vec<Tensor>,
}

impl Params {
    /// The table, in the order of the flat tensors.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Every parameter and gap, `[flat_len]`.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Numbers of the flat tensor, gaps included.
    pub fn flat_len(&self) -> usize {
        self.flat.elem_count()
    }

    /// Trainable numbers, without gaps.
    pub fn count(&self) -> usize {
        self.specs.iter().map(|spec| spec.len).sum()
    }

    /// A parameter as the operations see it: 1-D, or a matrix `[shape[0], rest]`.
    pub fn view(&self, id: ParamId) -> &Tensor {
        &self.views[id.0]
    }

    /// A parameter as products take it in: as [`Params::view`], rounded if so set.
    pub(crate) fn operand(&self, id: ParamId) -> &Tensor {
        let views = self.low.as_ref().map_or(&self.views, |low| &low.views);
        &views[id.0]
    }

    /// What the model computes with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The parameters in bfloat16, `[flat_len]`, where products take them in so.
    pub fn low(&self) -> Option<&Tensor> {
        self.low.as_ref().map(|low| &low.flat)
    }

    /// Sets what the model computes with.
    ///
    /// # Errors
    /// If the device has no such numbers.
    pub(crate) fn set_precision(&mut self, precision: Precision) -> Result<()> {
        let device = self.flat.device();
        if precision != Precision::F32 && !kernels_run_on(device) {
            return Err(Error::Config(format!(
                "the CPU computes in f32, not in {precision}"
            )));
        }
        self.precision = precision;
        self.low = match precision {
            Precision::F32 | Precision::Tf32 => None,
            Precision::Bf16 => {
                let flat = Tensor::zeros(self.flat_len(), DType::BF16, device)?;
                let views = views(&flat, &self.specs)?;
                Some(Low { flat, views })
            }
        };
        self.round()
    }

    /// Makes the rounded copy again after the parameters were written from outside.
    ///
    /// # Errors
    /// If the device fails.
    pub fn round(&self) -> Result<()> {
        #[cfg(any(feature = "cuda", feature = "host-kernels"))]
        if let (Some(low), Some(engine)) = (&self.low, kernels::engine(&self.flat)) {
            return kernels::elementwise::round(&engine, &self.flat, &low.flat);
        }
        Ok(())
    }

    /// A parameter's range of the flat tensors.
    pub fn range(&self, id: ParamId) -> Range<usize> {
        self.specs[id.0].range()
    }

    /// A zeroed flat tensor of the same layout: for gradients and optimiser state.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn zeros_like_flat(&self) -> Result<Tensor> {
        let zeros = Tensor::zeros(self.flat_len(), DType::F32, self.flat.device())?;
        // Touch every page now, not in the first step.
        reduce::fill(&zeros, 0.0)?;
        Ok(zeros)
    }

    /// A copy of the flat tensor on the host, gaps included.
    ///
    /// # Errors
    /// If the device fails.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        Ok(self.flat.to_vec1()?)
    }

    /// Overwrites every parameter, `numbers` giving those of each.
    ///
    /// # Errors
    /// If a length differs from the parameter's.
    pub(crate) fn set<'n>(&self, numbers: impl Fn(&ParamSpec) -> &'n [f32]) -> Result<()> {
        for spec in &self.specs {
            write_range(&self.flat, spec.range(), numbers(spec))?;
        }
        self.round()
    }
}

/// Whether operations on a device's tensors are kernels.
fn kernels_run_on(device: &Device) -> bool {
    #[cfg(feature = "host-kernels")]
    if kernels::on_this_thread() {
        return true;
    }
    device.is_cuda()
}

/// Overwrites a range of a flat tensor with numbers from the host: parameters, moments.
///
/// # Errors
/// If the lengths differ.
pub fn write_range(flat: &Tensor, range: Range<usize>, numbers: &[f32]) -> Result<()> {
    if range.len() != numbers.len() || range.end > flat.elem_count() {
        return Err(Error::Shape {
            what: "numbers for a range of a flat tensor",
            expected: vec![range.len()],
            actual: vec![numbers.len()],
        });
    }
    let source = Tensor::from_slice(numbers, numbers.len(), flat.device())?;
    flat.slice_set(&source, 0, range.start)?;
    Ok(())
}
