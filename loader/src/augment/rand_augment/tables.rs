//! Operations that give each value another one, whatever stands around it: one table a channel, as Pillow's `ImageOps`.

use super::{pixels_of, pixels_of_mut};

/// The new value of each value.
pub(super) type Table = [u8; 256];

/// A table of `value`.
pub(super) fn table(value: impl Fn(u8) -> u8) -> Table {
    let mut table = [0; 256];
    for (i, entry) in (0..=255).zip(&mut table) {
        *entry = value(i);
    }
    table
}

/// Puts all channels through the same table.
pub(super) fn map_all(pixels: &mut [u8], table: &Table) {
    for value in pixels {
        *value = table[usize::from(*value)];
    }
}

/// Puts each channel through a table that `make` makes of its histogram; `None` leaves it as it is.
pub(super) fn map_each<const C: usize>(
    pixels: &mut [u8],
    make: impl Fn(&[u32; 256]) -> Option<Table>,
) {
    let mut histograms = [[0u32; 256]; C];
    for pixel in pixels_of::<C>(pixels) {
        for (histogram, &value) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(value)] += 1;
        }
    }
    let same = || table(|value| value);
    let tables = histograms.map(|histogram| make(&histogram).unwrap_or_else(same));
    for pixel in pixels_of_mut::<C>(pixels) {
        for (value, table) in pixel.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
}

/// Stretches the values that there are to 0–255.
pub(super) fn auto_contrast(histogram: &[u32; 256]) -> Option<Table> {
    let low = histogram.iter().position(|&count| count > 0)?;
    let high = histogram.iter().rposition(|&count| count > 0)?;
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    // A cast cuts off the fraction and keeps to 0–255.
    Some(table(|value| (f64::from(value) * scale + offset) as u8))
}

/// Makes the histogram as even as a table can.
pub(super) fn equalize(histogram: &[u32; 256]) -> Option<Table> {
    let last = histogram.iter().rposition(|&count| count > 0)?;
    let pixels: u32 = histogram.iter().sum();
    let step = (pixels - histogram[last]) / 255;
    if step == 0 {
        return None;
    }
    let mut table = [0; 256];
    let mut below = step / 2;
    for (entry, count) in table.iter_mut().zip(histogram) {
        *entry = (below / step).min(255) as u8;
        below += count;
    }
    Some(table)
}

/// Keeps `bits` high bits.
pub(super) fn posterize(bits: u32) -> Table {
    let mask = !(0xffu32 >> bits.min(8)) as u8;
    table(|value| value & mask)
}

/// Inverts values from `threshold` on.
pub(super) fn solarize(threshold: u32) -> Table {
    table(|value| {
        if u32::from(value) < threshold {
            value
        } else {
            255 - value
        }
    })
}

/// Adds `amount` to the darker half of values.
pub(super) fn solarize_add(amount: u32) -> Table {
    table(|value| {
        if value < 128 {
            (u32::from(value) + amount).min(255) as u8
        } else {
            value
        }
    })
}
