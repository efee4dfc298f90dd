//! The operations, and which of them is drawn at which strength: timm's "increasing" list, in its order.

use super::policy::RandAugment;
use crate::rng::Draws;

/// One operation with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Operation {
    /// Stretches each channel to 0–255.
    AutoContrast,
    /// Makes each channel's histogram even.
    Equalize,
    /// 255 − value.
    Invert,
    /// Counter-clockwise around the centre, in degrees.
    Rotate(f64),
    /// Keeps so many high bits of each value, 0 to 4.
    Posterize(u32),
    /// Inverts values from this one on, 0 to 256.
    Solarize(u32),
    /// Adds this, 0 to 128, to values below 128.
    SolarizeAdd(u32),
    /// Away from (above 1) or towards the gray image.
    Color(f64),
    /// Away from or towards an image of the mean gray.
    Contrast(f64),
    /// Away from or towards black.
    Brightness(f64),
    /// Away from or towards a smoothed image.
    Sharpness(f64),
    /// Columns by which a row is moved to the left of the one above it.
    ShearX(f64),
    /// Rows by which a column is moved up from the one left of it.
    ShearY(f64),
    /// To the left, as a share of the width.
    TranslateX(f64),
    /// Up, as a share of the height.
    TranslateY(f64),
}

/// How many operations there are.
pub(super) const KINDS: u32 = 15;

/// The next operation of `policy`; `None` where the drawn one is not applied.
///
/// Draws: which, whether, then, if it is applied, the magnitude (if it varies) and, for those that go both ways, the direction.
pub(crate) fn draw(policy: &RandAugment, draws: &mut Draws) -> Option<Operation> {
    let kind = draws.below(KINDS);
    if draws.unit() >= policy.probability() {
        return None;
    }
    let deviations = if policy.varies() { draws.normal() } else { 0.0 };
    let level = policy.level(deviations);
    Some(Operation::of_kind(kind, level, &mut || draws.coin()))
}

impl Operation {
    /// All of them in timm's order at `level`, 1 being full strength, none going the other way.
    pub fn all(level: f64) -> impl Iterator<Item = Self> {
        (0..KINDS).map(move |kind| Self::of_kind(kind, level, &mut || false))
    }

    /// Kind number `kind` at `level`, 1 being full strength; `negates` says whether it goes the other way, where it can.
    pub(super) fn of_kind(kind: u32, level: f64, negates: &mut dyn FnMut() -> bool) -> Self {
        let mut signed = |full: f64| {
            let value = level * full;
            if negates() { -value } else { value }
        };
        // A cast cuts off the fraction, as Python's int.
        match kind {
            0 => Operation::AutoContrast,
            1 => Operation::Equalize,
            2 => Operation::Invert,
            3 => Operation::Rotate(signed(30.0)),
            4 => Operation::Posterize(4u32.saturating_sub((level * 4.0) as u32)),
            5 => Operation::Solarize(256u32.saturating_sub((level * 256.0) as u32)),
            6 => Operation::SolarizeAdd(((level * 110.0) as u32).min(128)),
            7 => Operation::Color(factor(signed(0.9))),
            8 => Operation::Contrast(factor(signed(0.9))),
            9 => Operation::Brightness(factor(signed(0.9))),
            10 => Operation::Sharpness(factor(signed(0.9))),
            11 => Operation::ShearX(signed(0.3)),
            12 => Operation::ShearY(signed(0.3)),
            13 => Operation::TranslateX(signed(0.45)),
            _ => Operation::TranslateY(signed(0.45)),
        }
    }
}

#[cfg(test)]
impl Operation {
    /// Number of the kind, and argument; 0 where it has none.
    pub(crate) fn numbered(self) -> (usize, f64) {
        match self {
            Operation::AutoContrast => (0, 0.0),
            Operation::Equalize => (1, 0.0),
            Operation::Invert => (2, 0.0),
            Operation::Rotate(degrees) => (3, degrees),
            Operation::Posterize(bits) => (4, bits.into()),
            Operation::Solarize(threshold) => (5, threshold.into()),
            Operation::SolarizeAdd(amount) => (6, amount.into()),
            Operation::Color(factor) => (7, factor),
            Operation::Contrast(factor) => (8, factor),
            Operation::Brightness(factor) => (9, factor),
            Operation::Sharpness(factor) => (10, factor),
            Operation::ShearX(slope) => (11, slope),
            Operation::ShearY(slope) => (12, slope),
            Operation::TranslateX(share) => (13, share),
            Operation::TranslateY(share) => (14, share),
        }
    }
}

/// 1 leaves the image as it is.
fn factor(change: f64) -> f64 {
    (1.0 + change).max(0.1)
}
