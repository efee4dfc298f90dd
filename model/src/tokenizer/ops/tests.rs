use candle_core::{Device, Tensor, Var};

use super::*;

fn var(shape: &[usize]) -> Var {
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count)
        .map(|i| ((i * 7919 + 13) % 101) as f32 / 20.0 - 2.5)
        .collect();
    Var::from_tensor(&Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()).unwrap()
}

/// Numbers of no regularity, as a gradient.
fn weights(shape: &[usize]) -> Tensor {
    var(shape).as_tensor().detach().copy().unwrap()
}

fn close(what: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (a, b) = (flat(a), flat(b));
    let scale = b.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(scale > 0.0);
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() <= 1e-4 * scale, "{what}: {a} {b}");
    }
}

/// One pass is what `defined` says, and both ways back are its gradient by candle's autograd.
fn agree(
    what: &str,
    x: &Var,
    (pass, back): (Tensor, impl Fn(Tensor) -> Tensor),
    (defined, defined_back): (Tensor, impl Fn(&Tensor) -> Tensor),
) {
    close(what, &pass, &defined);
    let weights = weights(defined.dims());
    let sum = (&defined * &weights).unwrap().sum_all().unwrap();
    let grads = sum.backward().unwrap();
    let grad = grads.get(x.as_tensor()).unwrap();
    let grad = grad.reshape(back(weights.copy().unwrap()).dims()).unwrap();
    close(what, &back(weights.copy().unwrap()), &grad);
    close(what, &defined_back(&weights), &grad);
}

#[test]
fn one_pass_is_what_its_definition_says() {
    let x = var(&[2, 3, 4, 5]);
    agree(
        "neighbourhoods",
        &x,
        (neighbourhoods(&x).unwrap(), |grad| {
            neighbourhoods_back(&grad, (3, 4)).unwrap()
        }),
        (neighbours::defined(&x).unwrap(), |grad| {
            neighbours::defined_back(grad, (3, 4)).unwrap()
        }),
    );
    let y = relu(&x).unwrap();
    agree(
        "relu",
        &x,
        (y.clone(), |grad| relu_back(grad, &y).unwrap()),
        (x.relu().unwrap(), |grad| {
            (grad * y.gt(0f32).unwrap().to_dtype(DType::F32).unwrap()).unwrap()
        }),
    );
    let noise = (weights(&[70, 9]) * 0.3).unwrap();
    let logits = var(&[70, 9]);
    for temperature in [1.0, 0.0625] {
        let shares = relaxed(&logits, &noise, temperature).unwrap();
        agree(
            "relaxed",
            &logits,
            (shares.clone(), |grad| {
                relaxed_back(&shares, grad, temperature).unwrap()
            }),
            (
                codes::relaxed_defined(&logits, &noise, temperature).unwrap(),
                |grad| codes::relaxed_back_defined(&shares, grad, temperature).unwrap(),
            ),
        );
    }
    let (pass, defined) = (divergence(&logits), codes::divergence_defined(&logits));
    let (pass, defined) = (pass.unwrap(), defined.unwrap());
    close("divergence", &pass, &defined);
    let grads = defined.sum_all().unwrap().backward().unwrap();
    let grad = grads.get(logits.as_tensor()).unwrap();
    close(
        "divergence",
        &codes::divergence_back_defined(&logits).unwrap(),
        grad,
    );
    let onto = weights(&[70, 9]);
    let expected = (&onto + (grad * 0.25).unwrap()).unwrap();
    close(
        "divergence",
        &add_divergence_back(&logits, 0.25, onto).unwrap(),
        &expected,
    );
    let numbers = |x: &Tensor| x.to_vec1::<u32>().unwrap();
    let largest = logits.argmax(candle_core::D::Minus1).unwrap();
    assert_eq!(numbers(&likeliest(&logits).unwrap()), numbers(&largest));
    let (a, b) = (weights(&[7, 5]), weights(&[7, 5]));
    close("sum", &sum(a, &b).unwrap(), &(&b * 2.0).unwrap());
}

#[test]
fn squares_come_back() {
    let x = var(&[2, 4, 6, 3]);
    let rows = squares(&x, 2).unwrap();
    assert_eq!(rows.dims(), [12, 12]);
    // The second square of the first image begins at its third column.
    let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(numbers(&rows)[12..15], numbers(&x)[6..9]);
    let back = from_squares(&rows, (2, 3), 2).unwrap();
    assert_eq!(numbers(&back), numbers(&x));
}
