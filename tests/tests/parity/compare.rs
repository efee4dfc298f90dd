//! When two sets of numbers agree.

use mae_model::Params;

use crate::golden::Golden;

/// Whether `actual` is within `tolerance` of `expected`: in norm, relative to the expected norm, and in the worst
/// element, relative to the largest expected one.
///
/// # Errors
/// Says which of the two failed, by how much and where.
pub(crate) fn close(actual: &[f32], expected: &[f32], tolerance: f64) -> Result<(), String> {
    if actual.len() != expected.len() || actual.is_empty() {
        return Err(format!(
            "{} numbers against {}",
            actual.len(),
            expected.len()
        ));
    }
    if let Some(index) = actual.iter().position(|x| !x.is_finite()) {
        return Err(format!("element {index} is {}", actual[index]));
    }
    let pairs = || {
        actual
            .iter()
            .zip(expected)
            .map(|(&a, &e)| (f64::from(a), f64::from(e)))
    };
    let norm = pairs().map(|(_, e)| e * e).sum::<f64>().sqrt();
    let error = pairs().map(|(a, e)| (a - e).powi(2)).sum::<f64>().sqrt();
    if error > tolerance * norm {
        return Err(format!(
            "the norm of the difference is {:.1e} of the norm",
            error / norm
        ));
    }
    let largest = pairs().fold(0f64, |top, (_, e)| top.max(e.abs()));
    let worst = pairs()
        .enumerate()
        .max_by(|(_, a), (_, b)| (a.0 - a.1).abs().total_cmp(&(b.0 - b.1).abs()));
    match worst {
        Some((index, (a, e))) if (a - e).abs() > tolerance * largest => Err(format!(
            "element {index} is {a} instead of {e}; the largest is {largest}"
        )),
        _ => Ok(()),
    }
}

/// As [`close`], for the gradient of the parameter `name`. The K third of a fused bias has no gradient in exact
/// arithmetic (softmax does not see a shift), so that both sides hold rounding noise there: it is compared absolutely.
///
/// # Errors
/// As [`close`].
fn gradient_close(
    name: &str,
    actual: &[f32],
    expected: &[f32],
    tolerance: f64,
) -> Result<(), String> {
    if !name.ends_with("attn.qkv.bias") {
        return close(actual, expected, tolerance);
    }
    let third = expected.len() / 3;
    if actual.len() != expected.len() {
        return Err(format!(
            "{} numbers against {}",
            actual.len(),
            expected.len()
        ));
    }
    for part in [0, 2] {
        let range = part * third..(part + 1) * third;
        close(&actual[range.clone()], &expected[range], tolerance)?;
    }
    let noise = |numbers: &[f32]| {
        numbers[third..2 * third]
            .iter()
            .fold(0f32, |top, x| top.max(x.abs()))
    };
    if !(noise(actual) < 1e-6 && noise(expected) < 1e-6) {
        return Err(format!(
            "the K third is {:.1e}, PyTorch's {:.1e}",
            noise(actual),
            noise(expected)
        ));
    }
    Ok(())
}

/// Whether the trainable parameters are those of the golden file, and the flat gradient `grads` agrees with it in each of them.
pub(crate) fn gradients_agree(params: &Params, grads: &[f32], golden: &Golden) {
    let name = &golden.name;
    let mut own: Vec<&str> = params
        .specs()
        .iter()
        .map(|spec| spec.name.as_str())
        .collect();
    own.sort_unstable();
    assert_eq!(
        own,
        golden.names("grads."),
        "{name}: the trainable parameters"
    );
    for spec in params.specs() {
        let expected = golden.f32s(&format!("grads.{}", spec.name));
        gradient_close(&spec.name, &grads[spec.range()], &expected, 1e-4)
            .unwrap_or_else(|e| panic!("{name}: {}: {e}", spec.name));
    }
}

/// Whether every gradient is finite and every parameter has one, the K third of the fused biases aside.
///
/// # Errors
/// Names the first parameter without.
pub(crate) fn all_learn(params: &Params, grads: &[f32]) -> Result<(), String> {
    for spec in params.specs() {
        let grad = &grads[spec.range()];
        if grad.iter().any(|g| !g.is_finite()) {
            return Err(format!("{} has a gradient that is not finite", spec.name));
        }
        let third = spec.len / 3;
        let parts = if spec.name.ends_with("attn.qkv.bias") {
            vec![&grad[..third], &grad[2 * third..]]
        } else {
            vec![grad]
        };
        if parts.iter().any(|part| part.iter().all(|&g| g == 0.0)) {
            return Err(format!("{} has no gradient", spec.name));
        }
    }
    Ok(())
}

#[test]
fn differences_show() {
    let expected = [1.0, -2.0, 3.0, 0.5, 0.25, 0.125];
    assert_eq!(close(&expected, &expected, 0.0), Ok(()));
    let moved = |index: usize, by: f32| {
        let mut numbers = expected;
        numbers[index] += by;
        numbers
    };
    assert!(close(&moved(3, 1e-3), &expected, 1e-4).is_err());
    assert!(close(&moved(3, 1e-4), &expected, 1e-4).is_ok());
    assert!(close(&moved(0, f32::NAN), &expected, 1e-4).is_err());
    assert!(close(&expected[..2], &expected, 1e-4).is_err());

    let bias = [1.0, -2.0, 1e-9, -1e-9, 0.25, 0.125];
    let name = "blocks.0.attn.qkv.bias";
    let with = |index: usize, value: f32| {
        let mut numbers = bias;
        numbers[index] = value;
        numbers
    };
    assert!(gradient_close(name, &with(2, -1e-8), &bias, 1e-4).is_ok());
    assert!(gradient_close(name, &with(2, 1e-4), &bias, 1e-4).is_err());
    assert!(gradient_close(name, &with(5, 0.126), &bias, 1e-4).is_err());
    assert!(gradient_close("blocks.0.attn.proj.bias", &with(2, 1.0), &bias, 1e-4).is_err());
}
