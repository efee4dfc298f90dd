//! A whole model: losses and gradients on a device against those of the CPU, and a training of some steps.

use candle_core::Tensor;

use super::{Place, Session, permutations, pixels};
use crate::config::MaeConfig;
use crate::masks::ids_keep;
use crate::ops::adamw::{AdamWStep, Group, Groups, adamw_step};
use crate::record::Record;
use crate::stage::stack::Activations;
use crate::{Accumulate, Mae, MaeInput, MaeWorkspace, Precision, Result};

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    // On the host a kernel's thread is a fibre: a hundredth of the work must do.
    let (name, size, batch, steps) = match s.place {
        Place::Device(_) => ("mae-tiny-patch4", (32, 32), 64, 50),
        #[cfg(feature = "host-kernels")]
        Place::Host => ("mae-micro-patch4", (16, 16), 2, 3),
    };
    let config = MaeConfig::named(name, size, 3)?;
    let masked = MaeConfig {
        encoder_mask_tokens: true,
        ..config.clone()
    };
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        for activations in [Activations::Keep, Activations::Recompute] {
            check(s, &config, batch, precision, activations)?;
        }
        train(s, &config, batch, steps, precision)?;
        check(s, &masked, batch, precision, Activations::Keep)?;
    }
    #[cfg(feature = "cuda")]
    replay(s, &config, batch)?;
    Ok(())
}

/// What a CUDA graph gives, against what its work gives when it is queued piece by piece.
#[cfg(feature = "cuda")]
fn replay(s: &mut Session<'_>, config: &MaeConfig, batch: usize) -> Result<()> {
    let Place::Device(device) = s.place else {
        return Ok(());
    };
    let (precision, mode) = (Precision::Bf16, Accumulate::Replace);
    let mut plain = Training::new(config, batch, device, precision, Activations::Keep)?;
    let mut replayed = Training::new(config, batch, device, precision, Activations::Keep)?;
    let mut replay = crate::Replay::new(device)?;
    let mut same = true;
    // Done, recorded, replayed, each on the weights that the last one left.
    for step in 1..=4 {
        let wanted = plain.step()?;
        plain.update(step)?;
        let Training {
            mae,
            workspace,
            input,
            grads,
            record,
            ..
        } = &mut replayed;
        replay.run(input, 1.0, mode, || {
            mae.forward(input, workspace)?;
            workspace.record_loss(record, 1.0, mode)?;
            mae.backward(input, workspace, grads, 1.0, mode)
        })?;
        same &= workspace.loss()?.to_bits() == wanted.to_bits();
        replayed.update(step)?;
    }
    same &= s.fetch(plain.mae.params.flat())? == s.fetch(replayed.mae.params.flat())?;
    s.truth("CUDA graphs, the same bits as without".into(), same)
}

/// A model and all that training it needs.
struct Training {
    mae: Mae,
    workspace: MaeWorkspace,
    input: MaeInput,
    grads: Tensor,
    moments: (Tensor, Tensor),
    groups: Groups,
    record: Record,
}

impl Training {
    /// The same weights and the same batch wherever it is.
    fn new(
        config: &MaeConfig,
        batch: usize,
        device: &candle_core::Device,
        precision: Precision,
        activations: Activations,
    ) -> Result<Self> {
        let mut mae = Mae::new(config.clone(), device, 3)?;
        mae.set_precision(precision)?;
        let (patches, keep) = (config.patches(), config.keep(0.75));
        let (height, width) = config.vit.image_size;
        let pixels = pixels(batch * height * width * 3)?;
        let restore = permutations(batch, patches)?
            .flatten_all()?
            .to_vec1::<u32>()?;
        let kept = ids_keep(&restore, patches, keep);
        let all = Group {
            range: 0..mae.params.flat_len(),
            weight_decay: 0.05,
            lr_scale: 1.0,
        };
        Ok(Self {
            workspace: mae.workspace(batch, keep, activations)?,
            input: MaeInput::from_host(config, &pixels, &kept, &restore, device)?,
            grads: mae.params.zeros_like_flat()?,
            moments: (mae.params.zeros_like_flat()?, mae.params.zeros_like_flat()?),
            groups: Groups::new(vec![all], mae.params.flat_len()),
            record: Record::new(device, None)?,
            mae,
        })
    }

    /// The loss, and the gradients made.
    fn step(&mut self) -> Result<f32> {
        self.mae.forward(&self.input, &mut self.workspace)?;
        let mode = Accumulate::Replace;
        self.workspace.record_loss(&self.record, 1.0, mode)?;
        self.mae
            .backward(&self.input, &mut self.workspace, &self.grads, 1.0, mode)?;
        self.workspace.loss()
    }

    fn update(&mut self, step: u64) -> Result<()> {
        let step = AdamWStep {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            step,
        };
        self.record.settle(&self.grads)?;
        let params = &self.mae.params;
        adamw_step(
            (params.flat(), params.low()),
            &self.grads,
            (&self.moments.0, &self.moments.1),
            &self.groups,
            &self.record,
            &step,
        )
    }
}

fn check(
    s: &mut Session<'_>,
    config: &MaeConfig,
    batch: usize,
    precision: Precision,
    activations: Activations,
) -> Result<()> {
    let device = s.device();
    let cpu = &candle_core::Device::Cpu;
    let mut wanted = Training::new(config, batch, cpu, Precision::F32, activations)?;
    let loss = wanted.step()?;
    let (got_loss, got) = s.on(|| -> Result<_> {
        let mut training = Training::new(config, batch, &device, precision, activations)?;
        Ok((training.step()?, training))
    })?;
    let name = match config.encoder_mask_tokens {
        true => format!("model in {precision}, mask tokens in the encoder"),
        false => format!("model in {precision}, {activations:?}"),
    };
    let (loss_tolerance, tolerance) = match precision {
        Precision::F32 => (1e-5, 1e-4),
        Precision::Tf32 => (1e-3, 1e-2),
        Precision::Bf16 => (5e-3, 3e-2),
    };
    let scalar = |x: f32| Tensor::new(&[x], cpu);
    s.compare(
        format!("{name}, loss"),
        &scalar(got_loss)?,
        &scalar(loss)?,
        loss_tolerance,
    )?;
    let (a, b) = (s.fetch(&got.grads)?, wanted.grads.to_vec1::<f32>()?);
    s.compare_gradients(&name, wanted.mae.params.specs(), &a, &b, tolerance);
    // The same again, to the bit.
    let (again_loss, again) = s.on(|| -> Result<_> {
        let mut training = Training::new(config, batch, &device, precision, activations)?;
        Ok((training.step()?, training))
    })?;
    let same = again_loss.to_bits() == got_loss.to_bits()
        && s.fetch(&again.grads)?
            .iter()
            .zip(&a)
            .all(|(x, y)| x.to_bits() == y.to_bits());
    s.truth(format!("{name}, the same bits a second time"), same)
}

/// The curve of a training on one batch.
fn train(
    s: &mut Session<'_>,
    config: &MaeConfig,
    batch: usize,
    steps: u64,
    precision: Precision,
) -> Result<()> {
    let device = s.device();
    let curve = |device: &candle_core::Device, precision| -> Result<Vec<f32>> {
        let mut training = Training::new(config, batch, device, precision, Activations::Keep)?;
        let mut losses = vec![];
        for step in 1..=steps {
            losses.push(training.step()?);
            training.update(step)?;
        }
        losses.push(training.step()?);
        Ok(losses)
    };
    let wanted = curve(&candle_core::Device::Cpu, Precision::F32)?;
    let got = s.on(|| curve(&device, precision))?;
    let tolerance = match precision {
        Precision::F32 => 1e-3,
        Precision::Tf32 | Precision::Bf16 => 1e-2,
    };
    let off = got
        .iter()
        .zip(&wanted)
        .map(|(a, b)| ((a - b) / b).abs())
        .fold(0f32, |top, x| if x.is_nan() || x > top { x } else { top });
    s.truth(
        format!("losses of {steps} steps in {precision} fall"),
        got[got.len() - 1] < got[0],
    )?;
    s.push(
        format!("losses of {steps} steps in {precision}"),
        off,
        tolerance,
    );
    Ok(())
}
