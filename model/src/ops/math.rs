//! Scalar and row functions that the compiler turns into vector code: no calls, no branches, sums
//! in a fixed number of lanes (so that every instruction set gives the same bits).

/// Lanes of every sum; a multiple of all vector widths.
const LANES: usize = 16;

/// `e^x` to about 1e-7 relative. Below -87, where denormal numbers begin,
/// it is zero; above 88.3 it stays finite; NaN gives NaN.
#[inline(always)]
pub(crate) fn exp(exact: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    // Adding this rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = exact.clamp(-87.0, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor to the seventh power: 5e-9 relative for |r| <= ln(2) / 2.
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    let power = p * f32::from_bits(exponent);
    if exact < -87.0 { 0.0 } else { power }
}

/// The standard normal's distribution function and `e^(-x²/2)`, which its density is a multiple
/// of. Abramowitz and Stegun 7.1.26: 1.5e-7 absolute.
#[inline(always)]
pub(crate) fn normal_cdf(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let bell = exp(-z * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    let half_tail = 0.5 * p * t * bell;
    let cdf = if x >= 0.0 { 1.0 - half_tail } else { half_tail };
    (cdf, bell)
}

/// Sum of `f` over the numbers of slices of one length, taken together, in a fixed order.
#[inline(always)]
pub(crate) fn sum_by<const N: usize>(x: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    each_lane(x, |lane, x| lanes[lane] += f(x));
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// As [`sum_by`], in f64.
#[inline(always)]
pub(crate) fn sum_by_f64<const N: usize>(x: [&[f32]; N], f: impl Fn([f64; N]) -> f64) -> f64 {
    let mut lanes = [0f64; LANES];
    each_lane(x, |lane, x| lanes[lane] += f(x.map(f64::from)));
    lanes.iter().sum()
}

#[inline(always)]
fn each_lane<const N: usize>(x: [&[f32]; N], mut f: impl FnMut(usize, [f32; N])) {
    let n = x[0].len();
    let x = x.map(|x| &x[..n]);
    let mut at = 0;
    while at + LANES <= n {
        // Slices of a known length, so that no index is checked within them.
        let parts = x.map(|x| &x[at..at + LANES]);
        for lane in 0..LANES {
            f(lane, parts.map(|part| part[lane]));
        }
        at += LANES;
    }
    for i in at..n {
        f(i - at, x.map(|x| x[i]));
    }
}

/// The greatest of a row; NaN if any is NaN.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    // x * 0 is NaN for NaN and for infinities, which no row of finite numbers holds.
    let nan = sum_by([row], |[x]| x * 0.0);
    lanes
        .into_iter()
        .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
        + nan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_exact_one() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(relative < 3e-7, "exp({x}): relative error {relative}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e4) == 0.0 && exp(1e4).is_finite());
    }

    #[test]
    fn normal_cdf_agrees_with_integration() {
        // Simpson's rule in f64 from -12, where nothing is left.
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (mut exact, mut at, step) = (0.0, -12.0, 1e-3);
        while at < 8.0 {
            exact +=
                step / 6.0 * (density(at) + 4.0 * density(at + step / 2.0) + density(at + step));
            at += step;
            let (cdf, _) = normal_cdf(at as f32);
            assert!(
                (f64::from(cdf) - exact).abs() < 3e-7,
                "cdf({at}) = {cdf}, exactly {exact}"
            );
        }
        assert!(normal_cdf(f32::NAN).1.is_nan());
    }

    #[test]
    fn sums_and_maxima_cover_odd_lengths() {
        for n in [0, 1, 15, 16, 17, 100] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7) % 13) as f32).collect();
            assert_eq!(sum_by([&row], |[x]| x), row.iter().sum::<f32>());
            assert_eq!(
                max(&row),
                row.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            );
        }
        assert!(max(&[1.0, f32::NAN, 2.0]).is_nan());
    }
}
