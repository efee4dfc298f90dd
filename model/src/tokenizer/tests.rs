use super::*;

fn config(patch_size: usize) -> TokenizerConfig {
    TokenizerConfig {
        image_size: (2 * patch_size, 3 * patch_size),
        channels: 3,
        patch_size,
        vocabulary: 7,
        hidden: 6,
        blocks: 1,
    }
}

fn pixels(config: &TokenizerConfig, batch: usize) -> Tensor {
    let (height, width) = config.image_size;
    let shape = (batch, height, width, config.channels);
    let bytes = (0..batch * height * width * config.channels)
        .map(|i| ((i * 7919 + i / 31 * 13) % 256) as u8)
        .collect();
    Tensor::from_vec(bytes, shape, &Device::Cpu).unwrap()
}

const RELAXATION: Relaxation = Relaxation {
    temperature: 0.7,
    kl_weight: 0.1,
    seed: 3,
    step: 5,
};

/// Every weight's gradient against differences of the loss, in the direction of the gradient itself: one number a tensor, whose
/// rounding the sum over the tensor makes small.
#[test]
fn gradients_are_the_losss_slopes() {
    for patch_size in [4, 8] {
        let config = config(patch_size);
        let tokenizer = Tokenizer::new(config.clone(), &Device::Cpu, 1).unwrap();
        let pixels = pixels(&config, 3);
        let grads = tokenizer.params.zeros_like_flat().unwrap();
        tokenizer.step(&pixels, &RELAXATION, &grads).unwrap();
        let grads: Vec<f32> = grads.to_vec1().unwrap();
        let scratch = tokenizer.params.zeros_like_flat().unwrap();
        for spec in tokenizer.params.specs() {
            let gradient = &grads[spec.range()];
            let norm = gradient
                .iter()
                .map(|&g| f64::from(g).powi(2))
                .sum::<f64>()
                .sqrt();
            assert!(norm > 0.0 && norm.is_finite(), "{}: {norm}", spec.name);
            let weights = tokenizer.params.to_vec().unwrap();
            let at = |distance: f64| {
                let moved: Vec<f32> = weights[spec.range()]
                    .iter()
                    .zip(gradient)
                    .map(|(w, g)| (f64::from(*w) + distance * f64::from(*g) / norm) as f32)
                    .collect();
                crate::params::write_range(tokenizer.params.flat(), spec.range(), &moved).unwrap();
                let loss = tokenizer.step(&pixels, &RELAXATION, &scratch).unwrap().loss;
                f64::from(loss.to_scalar::<f32>().unwrap())
            };
            let distance = 4e-3;
            let slope = (at(distance) - at(-distance)) / (2.0 * distance);
            at(0.0);
            assert!(
                (slope - norm).abs() < 0.02 * norm + 2e-4,
                "patch {patch_size}, {}: {slope} against {norm}",
                spec.name
            );
        }
    }
}

#[test]
fn tokens_are_codes_and_always_the_same() {
    for patch_size in [4, 8, 14, 16] {
        let config = config(patch_size);
        let tokenizer = Tokenizer::new(config.clone(), &Device::Cpu, 2).unwrap();
        let (stem, stages) = config.strides();
        assert_eq!(stem << stages, patch_size);
        let pixels = pixels(&config, 2);
        let tokens = tokenizer.tokens(&pixels).unwrap();
        assert_eq!(tokens.dims(), [2, 6]);
        let tokens = tokens.to_vec2::<u32>().unwrap();
        assert!(
            tokens
                .iter()
                .flatten()
                .all(|&code| code < config.vocabulary as u32)
        );
        assert_eq!(
            tokenizer.tokens(&pixels).unwrap().to_vec2::<u32>().unwrap(),
            tokens
        );
        let images = tokenizer.reconstruct(&pixels).unwrap();
        assert_eq!((images.dims(), images.dtype()), (pixels.dims(), DType::U8));
    }
}

#[test]
fn weights_go_out_and_in() {
    let config = config(8);
    let one = Tokenizer::new(config.clone(), &Device::Cpu, 1).unwrap();
    let state = one.state_dict().unwrap();
    assert!(state.keys().all(|name| name.starts_with("tokenizer.")));
    let other = Tokenizer::from_state_dict(config.clone(), &state, &Device::Cpu).unwrap();
    assert_eq!(other.state_dict().unwrap(), state);
    let mut less = state.clone();
    less.remove("tokenizer.encoder.stem.bias").unwrap();
    let error = Tokenizer::from_state_dict(config, &less, &Device::Cpu);
    assert!(
        error
            .err()
            .unwrap()
            .to_string()
            .contains("encoder.stem.bias")
    );
}

#[test]
fn what_describes_no_tokenizer_is_refused() {
    let with = |change: fn(&mut TokenizerConfig)| {
        let mut config = config(4);
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    for (message, part) in [
        (with(|config| config.vocabulary = 1), "2 codes at least"),
        (with(|config| config.patch_size = 5), "does not divide"),
        (with(|config| config.channels = 2), "3 channels"),
        (with(|config| config.hidden = 0), "hidden width"),
    ] {
        assert!(message.contains(part), "{message}");
    }
    let tokenizer = Tokenizer::new(config(4), &Device::Cpu, 0).unwrap();
    let error = tokenizer.tokens(&pixels(&config(8), 1)).unwrap_err();
    assert!(error.to_string().contains("pixels for the tokenizer"));
}

/// Loss, codes and gradients are PyTorch's (`tests/reference/tokenizer_torch.py`).
#[test]
fn agrees_with_pytorch() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/reference/golden/tokenizer.safetensors"
    );
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let numbers =
        |name: &str| -> Vec<f32> { golden[name].flatten_all().unwrap().to_vec1().unwrap() };
    let config = TokenizerConfig {
        image_size: (16, 24),
        channels: 3,
        patch_size: 8,
        vocabulary: 9,
        hidden: 5,
        blocks: 1,
    };
    let state: StateDict = golden
        .iter()
        .filter_map(|(name, tensor)| {
            let name = name.strip_prefix("weight.")?;
            let tensor = crate::StateTensor {
                shape: tensor.dims().to_vec(),
                data: numbers(&format!("weight.{name}")),
            };
            Some((format!("{}{name}", layers::PREFIX), tensor))
        })
        .collect();
    let tokenizer = Tokenizer::from_state_dict(config, &state, &Device::Cpu).unwrap();
    let relaxation = Relaxation {
        temperature: 0.5,
        kl_weight: 0.3,
        ..RELAXATION
    };
    let grads = tokenizer.params.zeros_like_flat().unwrap();
    let loss = tokenizer
        .step_with(&golden["pixels"], numbers("noise"), &relaxation, &grads)
        .unwrap();
    let whole = loss.loss.to_scalar::<f32>().unwrap();
    for (mine, theirs) in [whole, loss.reconstruction, loss.kl]
        .into_iter()
        .zip(numbers("loss"))
    {
        assert!(
            (mine - theirs).abs() <= 2e-5 * theirs.abs(),
            "{mine} {theirs}"
        );
    }
    let tokens = tokenizer.tokens(&golden["pixels"]).unwrap();
    assert_eq!(
        tokens.to_vec2::<u32>().unwrap(),
        golden["tokens"].to_vec2::<u32>().unwrap()
    );
    assert_eq!(
        loss.tokens,
        tokens.flatten_all().unwrap().to_vec1::<u32>().unwrap()
    );
    let grads: Vec<f32> = grads.to_vec1().unwrap();
    for spec in tokenizer.params.specs() {
        let theirs = numbers(&spec.name.replace(layers::PREFIX, "grad."));
        let largest = theirs.iter().fold(0f32, |a, x| a.max(x.abs()));
        for (mine, theirs) in grads[spec.range()].iter().zip(&theirs) {
            assert!(
                (mine - theirs).abs() <= 1e-4 * largest,
                "{}: {mine} {theirs}",
                spec.name
            );
        }
    }
}
