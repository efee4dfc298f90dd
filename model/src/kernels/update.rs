//! Launches of `kernels/update.cu`.

use candle_core::{DType, Tensor};

use super::address::{input, output};
use super::elementwise::over;
use super::{Arg, Engine, Launch, message, scratch};
use crate::Result;
use crate::ops::Accumulate;
use crate::ops::adamw::{AdamWStep, Factors, Groups};
use crate::record::LEN;

/// Groups at most, as in the kernel.
const GROUPS: usize = 96;
/// Blocks that sum squares.
const BLOCKS: usize = 1024;

/// As in `kernels/update.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AdamW {
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    root_correction: f32,
    eps: f32,
    decay: [f32; GROUPS],
    step_size: [f32; GROUPS],
}

/// As [`crate::record::Record::loss`].
pub(crate) fn loss(
    engine: &Engine,
    errors: &Tensor,
    share: f32,
    record: &Tensor,
    mode: Accumulate,
) -> Result<()> {
    let count = errors.elem_count();
    Launch::new("record_loss", 1, 1024)
        .pointer(input(errors, DType::F32, count)?)
        .long(count)
        .float(share)
        .count((mode == Accumulate::Add).into())?
        .pointer(output(record, DType::F32, LEN)?)
        .run(engine)
}

/// As [`crate::record::Record::settle`], but always with the norm.
pub(crate) fn settle(
    engine: &Engine,
    grads: &Tensor,
    clip: Option<f64>,
    record: &Tensor,
) -> Result<()> {
    let count = grads.elem_count();
    if !count.is_multiple_of(4) {
        return Err(message(format!("{count} gradients are no multiple of 4")));
    }
    let sums = scratch::take(grads.device(), BLOCKS)?;
    let sums = output(&sums, DType::F32, sums.elem_count())?;
    let blocks = count.div_ceil(4 * 256).min(BLOCKS);
    Launch::new("sum_squares", blocks, 256)
        .pointer(input(grads, DType::F32, count)?)
        .long(count)
        .pointer(sums)
        .run(engine)?;
    Launch::new("settle", 1, 32)
        .pointer(sums)
        .count(blocks)?
        .float(clip.unwrap_or(0.0) as f32)
        .pointer(output(record, DType::F32, LEN)?)
        .run(engine)
}

/// As [`crate::ops::adamw::adamw_step`].
pub(crate) fn adamw(
    engine: &Engine,
    (params, low): (&Tensor, Option<&Tensor>),
    grads: &Tensor,
    (exp_avg, exp_avg_sq): (&Tensor, &Tensor),
    groups: &Groups,
    record: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let count = params.elem_count();
    let of = groups.table(grads.device())?;
    let factors: Vec<Factors> = groups
        .kinds()
        .iter()
        .map(|&kind| step.factors(kind))
        .collect();
    let Some(&common) = factors.first() else {
        return Ok(());
    };
    if factors.len() > GROUPS {
        return Err(message(format!(
            "AdamW on a GPU treats parameters in at most {GROUPS} ways, not {}",
            factors.len()
        )));
    }
    let mut args = AdamW {
        beta1: common.beta1,
        beta2: common.beta2,
        rest1: common.rest1,
        rest2: common.rest2,
        root_correction: common.root_correction,
        eps: common.eps,
        decay: [1.0; GROUPS],
        step_size: [0.0; GROUPS],
    };
    for (i, factors) in factors.iter().enumerate() {
        (args.decay[i], args.step_size[i]) = (factors.decay, factors.step_size);
    }
    let launch = over("adamw", count, 4).pointer(output(params, DType::F32, count)?);
    let mut launch = match low {
        Some(low) => launch.pointer(output(low, DType::BF16, count)?),
        None => launch.null(),
    }
    .pointer(input(grads, DType::F32, count)?)
    .pointer(output(exp_avg, DType::F32, count)?)
    .pointer(output(exp_avg_sq, DType::F32, count)?)
    .pointer(input(&of, DType::U32, count / 64)?)
    .pointer(input(record, DType::F32, LEN)?);
    launch.args.push(Arg::AdamW(Box::new(args)));
    launch.long(count).run(engine)
}
