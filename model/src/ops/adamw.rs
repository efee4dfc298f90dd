//! AdamW (Loshchilov and Hutter 2019) as PyTorch computes it, over flat tensors.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use super::access::{read, write, write_parts};
use crate::Result;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::kernels;
use crate::params::ALIGN;
use crate::profile::span;
use crate::record::Record;

const CHUNK: usize = 1 << 14;

/// The numbers of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Number of this update, from 1, for the bias corrections.
    pub step: u64,
}

/// Parameters that are treated alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Where they stand in the flat tensors; begins and ends where a parameter or a gap does.
    pub range: Range<usize>,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// What the learning rate is multiplied by, decay included.
    pub lr_scale: f64,
}

impl Group {
    /// What decides its factors.
    fn kind(&self) -> Kind {
        (self.weight_decay, self.lr_scale)
    }
}

/// Weight decay and the learning rate's scale.
pub(crate) type Kind = (f64, f64);

/// How each parameter is treated.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Group>,
    /// Which of [`Groups::kinds`] holds for each [`ALIGN`] numbers, on the device.
    table: OnceLock<Tensor>,
    flat_len: usize,
}

impl Groups {
    /// Of a model with `flat_len` numbers, gaps included.
    pub fn new(groups: Vec<Group>, flat_len: usize) -> Self {
        Self {
            groups,
            table: OnceLock::new(),
            flat_len,
        }
    }

    /// The groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Every kind there is; last what leaves numbers as they are, for those of no group.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = vec![];
        for group in &self.groups {
            if !kinds.contains(&group.kind()) {
                kinds.push(group.kind());
            }
        }
        kinds.push((0.0, 0.0));
        kinds
    }

    /// The kind of each [`ALIGN`] numbers.
    #[cfg_attr(
        not(any(feature = "cuda", feature = "host-kernels")),
        expect(dead_code, reason = "for the kernel")
    )]
    pub(crate) fn table(&self, device: &Device) -> Result<Tensor> {
        if let Some(table) = self.table.get() {
            return Ok(table.clone());
        }
        let kinds = self.kinds();
        let mut table = vec![kinds.len() as u32 - 1; self.flat_len / ALIGN];
        for group in &self.groups {
            let kind = kinds.iter().position(|&kind| kind == group.kind());
            let blocks = group.range.start / ALIGN..group.range.end.div_ceil(ALIGN);
            table[blocks].fill(kind.unwrap_or(0) as u32);
        }
        let table = Tensor::new(table, device)?;
        Ok(self.table.get_or_init(|| table).clone())
    }
}

/// What the update of a number takes in.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    pub(crate) decay: f32,
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) rest1: f32,
    pub(crate) rest2: f32,
    pub(crate) step_size: f32,
    pub(crate) root_correction: f32,
    pub(crate) eps: f32,
}

impl AdamWStep {
    pub(crate) fn factors(&self, (weight_decay, lr_scale): Kind) -> Factors {
        let lr = self.lr * lr_scale;
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        Factors {
            decay: (1.0 - lr * weight_decay) as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            rest1: (1.0 - self.beta1) as f32,
            rest2: (1.0 - self.beta2) as f32,
            step_size: (lr / correction(self.beta1)) as f32,
            root_correction: (1.0 / correction(self.beta2).sqrt()) as f32,
            eps: self.eps as f32,
        }
    }
}

/// Updates the flat parameters of every group and both moments from the flat gradients times the record's factor; nothing, once the
/// record has halted. `low`, bfloat16, on a GPU only, gets the parameters rounded.
///
/// # Errors
/// If a tensor is not a contiguous f32 tensor of the parameters' size.
pub fn adamw_step(
    (params, low): (&Tensor, Option<&Tensor>),
    grads: &Tensor,
    (exp_avg, exp_avg_sq): (&Tensor, &Tensor),
    groups: &Groups,
    record: &Record,
    step: &AdamWStep,
) -> Result<()> {
    let _span = span("AdamW");
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    if let Some(engine) = kernels::engine(grads) {
        let moments = (exp_avg, exp_avg_sq);
        return kernels::update::adamw(
            &engine,
            (params, low),
            grads,
            moments,
            groups,
            record.numbers(),
            step,
        );
    }
    debug_assert!(low.is_none(), "the CPU has no bfloat16");
    let (factor, halted) = {
        let record = read(record.numbers())?;
        let record = record.f32()?;
        (record[2], record[3] != 0.0)
    };
    if halted {
        return Ok(());
    }
    let grads = read(grads)?;
    let grads = grads.f32()?;
    for group in groups.groups() {
        let range = &group.range;
        let (grads, factors) = (&grads[range.clone()], step.factors(group.kind()));
        write_parts(params, [range.clone()], |[params]| {
            write_parts(exp_avg, [range.clone()], |[m]| {
                write(exp_avg_sq, |v| {
                    params
                        .par_chunks_mut(CHUNK)
                        .zip(grads.par_chunks(CHUNK))
                        .zip(m.par_chunks_mut(CHUNK))
                        .zip(v[range.clone()].par_chunks_mut(CHUNK))
                        .for_each(|(((p, g), m), v)| update(p, g, m, v, factors, factor));
                    Ok(())
                })
            })
        })?;
    }
    Ok(())
}

#[multiversion(targets = "simd")]
fn update(
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    f: Factors,
    factor: f32,
) {
    for (((p, g), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
        let g = g * factor;
        *m = f.beta1 * *m + f.rest1 * g;
        *v = f.beta2 * *v + f.rest2 * (g * g);
        let denominator = v.sqrt() * f.root_correction + f.eps;
        *p = *p * f.decay - f.step_size * (*m / denominator);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn two_updates_by_hand() {
        let make = |x: [f32; 3]| Tensor::new(&x, &Device::Cpu).unwrap();
        let (p, g) = (make([1.0, 2.0, 3.0]), make([0.5, -1.0, 0.0]));
        let (m, v) = (make([0.0; 3]), make([0.0; 3]));
        let group = Group {
            range: 0..2,
            weight_decay: 0.5,
            lr_scale: 1.0,
        };
        let groups = Groups::new(vec![group], 3);
        let record = Record::new(&Device::Cpu, None).unwrap();
        record.settle(&g).unwrap();
        let mut step = AdamWStep {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            step: 1,
        };
        let update = |step: &AdamWStep| {
            adamw_step((&p, None), &g, (&m, &v), &groups, &record, step).unwrap();
        };
        update(&step);
        // The first update moves by lr against the gradient's sign, after the decay.
        let after = p.to_vec1::<f32>().unwrap();
        assert!((after[0] - (0.95 - 0.1)).abs() < 1e-6 && (after[1] - (1.9 + 0.1)).abs() < 1e-6);
        assert_eq!(after[2], 3.0, "outside the range");
        step.step = 2;
        update(&step);
        // A constant gradient keeps the corrected moments at g and g².
        let again = p.to_vec1::<f32>().unwrap();
        assert!((again[0] - (after[0] * 0.95 - 0.1)).abs() < 1e-6);
    }

    #[test]
    fn once_halted_nothing_changes() {
        let make = |x: [f32; 3]| Tensor::new(&x, &Device::Cpu).unwrap();
        let (p, g, bad) = (make([1.0; 3]), make([0.5; 3]), make([0.5, f32::NAN, 0.5]));
        let (m, v) = (make([0.0; 3]), make([0.0; 3]));
        let group = Group {
            range: 0..3,
            weight_decay: 0.5,
            lr_scale: 1.0,
        };
        let groups = Groups::new(vec![group], 3);
        let mut record = Record::new(&Device::Cpu, Some(1.0)).unwrap();
        let step = AdamWStep {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            step: 1,
        };
        for grads in [&bad, &g] {
            record.settle(grads).unwrap();
            adamw_step((&p, None), grads, (&m, &v), &groups, &record, &step).unwrap();
            record.ask().unwrap();
            assert!(record.take(false).unwrap().unwrap().halted);
        }
        assert_eq!(p.to_vec1::<f32>().unwrap(), [1.0; 3]);
        assert_eq!(m.to_vec1::<f32>().unwrap(), [0.0; 3]);
    }
}
