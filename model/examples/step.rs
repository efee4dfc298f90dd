//! Times training steps of a named model on random bytes: `step [model] [batch] [steps]`.

use std::time::Instant;

use candle_core::Device;
use mae_model::ops::adamw::{AdamWStep, Group, Groups, adamw_step};
use mae_model::{Accumulate, Activations, Mae, MaeConfig, MaeInput, Record};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.first().map_or("mae-tiny-patch4", String::as_str);
    let batch: usize = args.get(1).map_or(Ok(64), |x| x.parse())?;
    let steps: u64 = args.get(2).map_or(Ok(5), |x| x.parse())?;

    let side = MaeConfig::native_size(name).unwrap_or(224);
    let device = Device::Cpu;
    let mae = Mae::new(MaeConfig::named(name, (side, side), 3)?, &device, 0)?;
    let (patches, keep) = (mae.config.patches(), mae.config.keep(0.75));
    let pixels: Vec<u8> = (0..batch * side * side * 3)
        .map(|i| ((i * 7919) >> 5) as u8)
        .collect();
    // The same mask for every image: the first quarter of the patches.
    let kept: Vec<u32> = (0..batch).flat_map(|_| 0..keep as u32).collect();
    let restore: Vec<u32> = (0..batch).flat_map(|_| 0..patches as u32).collect();
    let input = MaeInput::from_host(&mae.config, &pixels, &kept, &restore, &device)?;

    let mut workspace = mae.workspace(batch, keep, Activations::Keep)?;
    let (grads, m) = (mae.params.zeros_like_flat()?, mae.params.zeros_like_flat()?);
    let v = mae.params.zeros_like_flat()?;
    let all = Group {
        range: 0..mae.params.flat_len(),
        weight_decay: 0.05,
        lr_scale: 1.0,
    };
    let groups = Groups::new(vec![all], mae.params.flat_len());
    let record = Record::new(&device, None)?;
    println!(
        "{name}: {:.1} M parameters, batch {batch}",
        mae.params.count() as f64 / 1e6
    );
    for step in 1..=steps {
        let begin = Instant::now();
        mae.forward(&input, &mut workspace)?;
        let forward = begin.elapsed();
        mae.backward(&input, &mut workspace, &grads, 1.0, Accumulate::Replace)?;
        let backward = begin.elapsed() - forward;
        let update = AdamWStep {
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            step,
        };
        record.settle(&grads)?;
        let weights = (mae.params.flat(), mae.params.low());
        adamw_step(weights, &grads, (&m, &v), &groups, &record, &update)?;
        let total = begin.elapsed();
        println!(
            "step {step}: loss {:.4}, forward {:.0} ms, backward {:.0} ms, update {:.0} ms, {:.1} images/s",
            workspace.loss()?,
            forward.as_secs_f64() * 1e3,
            backward.as_secs_f64() * 1e3,
            (total - forward - backward).as_secs_f64() * 1e3,
            batch as f64 / total.as_secs_f64()
        );
    }
    Ok(())
}
