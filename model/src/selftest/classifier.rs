//! A whole classifier with all that fine-tuning does to it: losses and gradients on a device against those of the CPU.

use candle_core::{Device, Tensor};

use super::{Place, Session, numbers, pixels};
use crate::config::MaeConfig;
use crate::ops::augment::{Augmentation, PixelBox};
use crate::stage::stack::Activations;
use crate::{
    Accumulate, DropPath, Pooling, Precision, Result, VitClassifier, VitInput, VitTraining,
};

const CLASSES: usize = 10;

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    // On the host a kernel's thread is a fibre: a hundredth of the work must do.
    let (name, size, batch) = match s.place {
        Place::Device(_) => ("mae-tiny-patch4", (32, 32), 32),
        #[cfg(feature = "host-kernels")]
        Place::Host => ("mae-micro-patch4", (16, 16), 3),
    };
    let config = MaeConfig::named(name, size, 3)?;
    for pooling in [Pooling::Avg, Pooling::Token] {
        for (precision, frozen) in [
            (Precision::F32, 0),
            (Precision::Bf16, 0),
            (Precision::Bf16, 1),
        ] {
            check(s, &config, batch, (pooling, precision, frozen))?;
        }
    }
    Ok(())
}

/// Loss and flat gradient, and the parameters' names and places.
struct Step {
    loss: f32,
    grads: Vec<f32>,
    vit: VitClassifier,
}

fn step(
    config: &MaeConfig,
    batch: usize,
    (pooling, precision, frozen): (Pooling, Precision, usize),
    device: &Device,
) -> Result<Step> {
    let mut vit = VitClassifier::new(config.vit.clone(), CLASSES, pooling, device, 4)?;
    // A head that begins at almost nothing would hide what is behind it.
    let mut state = vit.state_dict()?;
    for (name, tensor) in &mut state {
        if name == "head.weight" {
            tensor.data = numbers(&[tensor.data.len()], 9)?.to_vec1()?;
        }
    }
    vit.load_state_dict(&state)?;
    vit.set_precision(precision)?;
    let (height, width) = config.vit.image_size;
    let pixels = pixels(batch * height * width * 3)?;
    let targets: Vec<f32> = (0..batch * CLASSES)
        .map(|i| match i % CLASSES == i / CLASSES % CLASSES {
            true => 0.91,
            false => 0.01,
        })
        .collect();
    let input = VitInput::labelled(&vit, &pixels, &targets)?;
    let boxes: Vec<u32> = (0..batch as u32)
        .flat_map(|i| [i % 3, 1, i % 5, 4])
        .collect();
    let depth = config.vit.depth;
    let mut rates = vec![0.3; depth];
    rates[..frozen].fill(0.0);
    let training = VitTraining {
        augmentation: Augmentation {
            erase: Some((Tensor::from_vec(boxes, (batch, 4), device)?, 5)),
            mix: Some((
                0.7,
                Some(PixelBox {
                    top: 2,
                    left: 3,
                    height: 5,
                    width: 6,
                }),
            )),
        },
        drop_path: Some(DropPath::draw(&rates, batch, (6, 1), device)?),
        frozen_blocks: frozen,
    };
    let mut workspace = vit.workspace(batch, Activations::Keep, true)?;
    let grads = vit.params.zeros_like_flat()?;
    vit.forward(&input, &training, &mut workspace)?;
    let mode = Accumulate::Replace;
    vit.backward(&training, &mut workspace, &grads, 1.0, mode)?;
    Ok(Step {
        loss: workspace.loss()?,
        grads: grads.to_device(&Device::Cpu)?.to_vec1()?,
        vit,
    })
}

fn check(
    s: &mut Session<'_>,
    config: &MaeConfig,
    batch: usize,
    (pooling, precision, frozen): (Pooling, Precision, usize),
) -> Result<()> {
    let device = s.device();
    let wanted = step(
        config,
        batch,
        (pooling, Precision::F32, frozen),
        &Device::Cpu,
    )?;
    let got = s.on(|| step(config, batch, (pooling, precision, frozen), &device))?;
    let name = format!("classifier in {precision}, {pooling:?}, {frozen} blocks frozen");
    let (loss_tolerance, tolerance) = match precision {
        Precision::Bf16 => (5e-3, 3e-2),
        _ => (1e-5, 1e-4),
    };
    let off = ((got.loss - wanted.loss) / wanted.loss).abs();
    s.push(format!("{name}, loss"), off, loss_tolerance);
    let specs = wanted.vit.params.specs();
    s.compare_gradients(&name, specs, &got.grads, &wanted.grads, tolerance);
    Ok(())
}
