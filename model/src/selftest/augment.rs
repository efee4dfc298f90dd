//! Random erasing, mixup and cutmix.

use candle_core::{DType, Device, Tensor};

use super::{Session, numbers, rounding};
use crate::Result;
use crate::config::MaeConfig;
use crate::ops::augment::{PixelBox, erase, mix};

pub(super) fn run(s: &mut Session<'_>) -> Result<()> {
    let mut config = MaeConfig::named("mae-micro-patch4", (32, 32), 3)?.vit;
    for (batch, size, channels, side) in
        [(1, (4, 4), 1, 2), (5, (12, 20), 3, 4), (2, (32, 16), 3, 16)]
    {
        (config.image_size, config.channels, config.patch_size) = (size, channels, side);
        let (height, width) = (size.0 as u32, size.1 as u32);
        // Some of the image, none of it, all of it, a corner.
        let boxes = [
            [1, 1, height - 2, width - 2],
            [1, 1, 0, 3],
            [0, 0, height, width],
            [height - 1, width - 1, 1, 1],
            [0, 0, 1, width],
        ];
        let boxes = Tensor::new(&boxes, &Device::Cpu)?
            .narrow(0, 0, batch)?
            .contiguous()?;
        let cut = PixelBox {
            top: 1,
            left: 0,
            height: size.0 / 2,
            width: size.1 - 1,
        };
        for dtype in [DType::F32, DType::BF16] {
            let rounded =
                numbers(&[batch, config.patches(), config.patch_len()], 1)?.to_dtype(dtype)?;
            let name = format!("{batch}x{height}x{width}x{channels}/{side} {dtype:?}");
            let both = |s: &Session<'_>| -> Result<(Tensor, Tensor)> {
                Ok((rounded.to_dtype(DType::F32)?.copy()?, s.put(&rounded)?))
            };
            let (x, x2) = both(s)?;
            let boxes2 = s.put(&boxes)?;
            erase(&config, &x, &boxes, 1 << 40 | 3)?;
            s.on(|| erase(&config, &x2, &boxes2, 1 << 40 | 3))?;
            s.compare(
                format!("random erasing {name}"),
                &x2,
                &x,
                rounding(dtype).max(1e-5),
            )?;
            for cut in [None, Some(cut)] {
                let (x, x2) = both(s)?;
                mix(&config, &x, 0.3, cut)?;
                s.on(|| mix(&config, &x2, 0.3, cut))?;
                let what = if cut.is_some() { "cutmix" } else { "mixup" };
                s.compare(format!("{what} {name}"), &x2, &x, rounding(dtype))?;
            }
        }
    }
    Ok(())
}
