//! Every gradient of every kind of model against candle's autograd on the plain model.

#![cfg(feature = "reference")]

use candle_core::{Device, Tensor};
use mae_model::reference::PlainModel;
use mae_model::{
    Accumulate, Activations, DropPath, Mae, MaeConfig, MaeInput, Params, PcaBasis, Pooling,
    StateDict, Target, Tokenizer, TokenizerConfig, VitClassifier, VitConfig, VitInput, VitTraining,
};

fn vit(image_size: (usize, usize), channels: usize) -> VitConfig {
    VitConfig {
        image_size,
        patch_size: 4,
        channels,
        dim: 24,
        depth: 2,
        heads: 3,
        mlp_ratio: 4.0,
        norm_eps: 1e-6,
        mean: vec![0.45; channels],
        std: vec![0.25; channels],
        relative_positions: false,
    }
}

/// A small deterministic generator.
fn numbers(n: usize, mut state: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        state >> 33
    })
    .take(n)
}

/// Weights large enough that every path carries a gradient, biases and norms off their defaults.
fn disturb(mut state: StateDict) -> StateDict {
    for (seed, (name, tensor)) in state.iter_mut().enumerate() {
        if name.ends_with("pos_embed") && tensor.data.contains(&1.0) {
            continue;
        }
        let noise = numbers(tensor.data.len(), seed as u64 + 1);
        for (x, noise) in tensor.data.iter_mut().zip(noise) {
            *x += 0.2 * (noise as f32 / (1u64 << 31) as f32 - 0.5);
        }
    }
    state
}

fn masks(batch: usize, patches: usize, keep: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut kept, mut restore) = (vec![], vec![]);
    for image in 0..batch {
        let mut order: Vec<u32> = (0..patches as u32).collect();
        for (i, r) in numbers(patches, image as u64 + 77).enumerate() {
            order.swap(i, i + r as usize % (patches - i));
        }
        kept.extend(&order[..keep]);
        let mut inverse = vec![0; patches];
        order
            .iter()
            .enumerate()
            .for_each(|(place, &id)| inverse[id as usize] = place as u32);
        restore.extend(inverse);
    }
    (kept, restore)
}

fn bytes(n: usize) -> Vec<u8> {
    numbers(n, 5).map(|x| x as u8).collect()
}

/// Compares by the tensor's norm; the K third of a qkv bias has no gradient and is compared
/// absolutely.
fn compare(params: &Params, grads: &[f32], plain: &PlainModel, loss: &Tensor) {
    let mut expected = plain.gradients(loss).unwrap();
    for spec in params.specs() {
        let actual = &grads[spec.range()];
        let exact = expected
            .remove(&spec.name)
            .unwrap()
            .unwrap_or_else(|| panic!("candle recorded no gradient for {}", spec.name));
        assert!(
            actual.iter().all(|x| x.is_finite()),
            "{} is not finite",
            spec.name
        );
        let norm =
            |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let size = norm(&mut exact.iter().copied());
        let error = norm(&mut actual.iter().zip(&exact).map(|(a, b)| a - b));
        assert!(size > 1e-6, "{} has no gradient ({size})", spec.name);
        assert!(
            error <= 1e-4 * size,
            "{}: error {error} of {size}",
            spec.name
        );
        let nonzero = actual.iter().filter(|&&x| x != 0.0).count();
        let parts = if spec.name.ends_with("qkv.bias") {
            actual.len() * 2 / 3
        } else {
            actual.len()
        };
        assert!(
            nonzero >= parts / 2,
            "{}: {nonzero} of {} non-zero",
            spec.name,
            actual.len()
        );
    }
}

fn leftovers(params: &Params) -> Tensor {
    let grads = params.zeros_like_flat().unwrap();
    mae_model::ops::reduce::fill(&grads, 7.0).unwrap();
    grads
}

fn check_mae(image_size: (usize, usize), channels: usize, keep: usize, norm_pix_loss: bool) {
    check_mae_of(
        &MaeConfig {
            vit: vit(image_size, channels),
            decoder_dim: 16,
            decoder_depth: 2,
            decoder_heads: 2,
            norm_pix_loss,
            encoder_mask_tokens: false,
            target: Target::Pixels,
        },
        keep,
    );
}

fn check_mae_of(config: &MaeConfig, keep: usize) {
    let (image_size, channels) = (config.vit.image_size, config.vit.channels);
    let batch = 3;
    let device = Device::Cpu;
    let mut mae = Mae::new(config.clone(), &device, 1).unwrap();
    let state = disturb(mae.state_dict().unwrap());
    mae.load_state_dict(&state).unwrap();
    assert_eq!(mae.state_dict().unwrap(), state);

    let pixels = bytes(batch * image_size.0 * image_size.1 * channels);
    let (kept, restore) = masks(batch, mae.config.patches(), keep);
    let input = MaeInput::from_host(&mae.config, &pixels, &kept, &restore, &device).unwrap();
    let plain = PlainModel::new(&state, &["pos_embed", "decoder_pos_embed"]).unwrap();
    let loss = plain.mae_loss(&mae.config, &input).unwrap();

    let mut w = mae.workspace(batch, keep, Activations::Keep).unwrap();
    // What was there is overwritten.
    let grads = leftovers(&mae.params);
    mae.forward(&input, &mut w).unwrap();
    let exact = loss.to_scalar::<f32>().unwrap();
    assert!(
        (w.loss().unwrap() / exact - 1.0).abs() < 1e-5,
        "{} {exact}",
        w.loss().unwrap()
    );
    let image_losses = w.image_losses().unwrap();
    let mean = image_losses.iter().sum::<f32>() / batch as f32;
    assert!((mean / exact - 1.0).abs() < 1e-5);
    mae.backward(&input, &mut w, &grads, 1.0, Accumulate::Replace)
        .unwrap();
    compare(&mae.params, &grads.to_vec1().unwrap(), &plain, &loss);

    // Without what the forward pass kept, the same bits.
    let again = mae.params.zeros_like_flat().unwrap();
    let mut frugal = mae.workspace(batch, keep, Activations::Recompute).unwrap();
    mae.forward(&input, &mut frugal).unwrap();
    mae.backward(&input, &mut frugal, &again, 1.0, Accumulate::Replace)
        .unwrap();
    for spec in mae.params.specs() {
        let of = |grads: &Tensor| {
            grads
                .narrow(0, spec.offset, spec.len)
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert!(of(&again) == of(&grads), "{}", spec.name);
    }

    // Half the loss twice adds up to the same gradient.
    let halves = mae.params.zeros_like_flat().unwrap();
    for _ in 0..2 {
        mae.forward(&input, &mut w).unwrap();
        mae.backward(&input, &mut w, &halves, 0.5, Accumulate::Add)
            .unwrap();
    }
    compare(&mae.params, &halves.to_vec1().unwrap(), &plain, &loss);
}

/// Targets beside pixels: the plain model's prediction with their losses in candle's operations.
fn check_target(target: Target) {
    let config = MaeConfig {
        vit: vit((8, 12), 3),
        decoder_dim: 16,
        decoder_depth: 1,
        decoder_heads: 2,
        norm_pix_loss: false,
        encoder_mask_tokens: false,
        target,
    };
    let (batch, keep, device) = (2, 2, Device::Cpu);
    let (patches, len) = (config.patches(), config.vit.patch_len());
    let mut mae = Mae::new(config, &device, 1).unwrap();
    let random = |n: usize, seed| -> Vec<f32> {
        let numbers = numbers(n, seed);
        numbers
            .map(|x| x as f32 / (1u64 << 30) as f32 - 1.0)
            .collect()
    };
    match mae.config.target.clone() {
        Target::Pixels => {}
        Target::Pca { components } => mae
            .set_pca(&PcaBasis {
                mean: random(len, 3),
                basis: random(components * len, 4),
            })
            .unwrap(),
        Target::Tokens { tokenizer } => mae
            .set_tokenizer(Tokenizer::new(tokenizer, &device, 5).unwrap())
            .unwrap(),
    }
    let mut state = mae.state_dict().unwrap();
    let is_fixed = |name: &&String| name.starts_with("target.") || name.starts_with("tokenizer.");
    let fixed: Vec<String> = state.keys().filter(is_fixed).cloned().collect();
    let kept_parts: Vec<_> = fixed.iter().map(|name| state[name].clone()).collect();
    state = disturb(state);
    for (name, tensor) in fixed.iter().zip(kept_parts) {
        state.insert(name.clone(), tensor);
    }
    mae.load_state_dict(&state).unwrap();

    let pixels = bytes(batch * 8 * 12 * 3);
    let (kept, restore) = masks(batch, patches, keep);
    let input = MaeInput::from_host(&mae.config, &pixels, &kept, &restore, &device).unwrap();
    let mut names: Vec<&str> = fixed.iter().map(String::as_str).collect();
    names.extend(["pos_embed", "decoder_pos_embed"]);
    let plain = PlainModel::new(&state, &names).unwrap();
    let loss = plain.mae_loss(&mae.config, &input).unwrap();

    let mut w = mae.workspace(batch, keep, Activations::Keep).unwrap();
    let grads = leftovers(&mae.params);
    mae.forward(&input, &mut w).unwrap();
    mae.backward(&input, &mut w, &grads, 1.0, Accumulate::Replace)
        .unwrap();
    let (exact, got) = (loss.to_scalar::<f32>().unwrap(), w.loss().unwrap());
    assert!((got / exact - 1.0).abs() < 1e-5, "{got} {exact}");
    compare(&mae.params, &grads.to_vec1().unwrap(), &plain, &loss);
}

#[test]
fn mae_of_coefficients() {
    check_target(Target::Pca { components: 7 });
}

#[test]
fn mae_of_tokens() {
    check_target(Target::Tokens {
        tokenizer: TokenizerConfig {
            image_size: (8, 12),
            channels: 3,
            patch_size: 4,
            vocabulary: 11,
            hidden: 8,
            blocks: 1,
        },
    });
}

#[test]
fn mae_square() {
    check_mae((16, 16), 3, 4, false);
}

#[test]
fn mae_norm_pix_not_square_four_channels() {
    check_mae((8, 20), 4, 3, true);
}

#[test]
fn mae_one_visible_and_all_but_one() {
    check_mae((12, 12), 1, 1, false);
    check_mae((12, 12), 1, 8, true);
}

#[test]
fn mae_with_mask_tokens_in_the_encoder() {
    let config = |image_size, channels, norm_pix_loss| MaeConfig {
        vit: vit(image_size, channels),
        decoder_dim: 16,
        decoder_depth: 1,
        decoder_heads: 2,
        norm_pix_loss,
        encoder_mask_tokens: true,
        target: Target::Pixels,
    };
    check_mae_of(&config((16, 16), 3, false), 4);
    check_mae_of(&config((8, 20), 4, true), 3);
    check_mae_of(&config((12, 12), 1, false), 1);
    check_mae_of(&config((12, 12), 1, true), 8);
}

fn check_vit(pooling: Pooling, drop_path: Option<f64>, activations: Activations) {
    let (config, classes, batch, device) = (vit((16, 12), 3), 5, 3, Device::Cpu);
    let vit = VitClassifier::new(config, classes, pooling, &device, 2).unwrap();
    let state = disturb(vit.state_dict().unwrap());
    vit.load_state_dict(&state).unwrap();
    let pixels = bytes(batch * 16 * 12 * 3);
    let targets: Vec<f32> = (0..batch)
        .flat_map(|i| (0..classes).map(move |j| if i == j { 0.92 } else { 0.02 }))
        .collect();
    let input = VitInput::labelled(&vit, &pixels, &targets).unwrap();
    let training = VitTraining {
        // Not none in the first block, as else it would not be checked.
        drop_path: drop_path
            .map(|rate| DropPath::draw(&[rate, rate], batch, (1, 1), &device).unwrap()),
        ..Default::default()
    };

    let plain = PlainModel::new(&state, &[]).unwrap();
    let pixels = Tensor::from_vec(pixels, (batch, 16, 12, 3), &device).unwrap();
    let targets = Tensor::from_vec(targets, (batch, classes), &device).unwrap();
    let drop = training.drop_path.as_ref();
    let loss = plain
        .vit_loss(&vit.config, pooling, (&pixels, &targets), drop)
        .unwrap();

    let mut w = vit.workspace(batch, activations, drop.is_some()).unwrap();
    let grads = leftovers(&vit.params);
    vit.forward(&input, &training, &mut w).unwrap();
    let exact = loss.to_scalar::<f32>().unwrap();
    assert!((w.loss().unwrap() / exact - 1.0).abs() < 1e-5);
    vit.backward(&training, &mut w, &grads, 1.0, Accumulate::Replace)
        .unwrap();
    let whole: Vec<f32> = grads.to_vec1().unwrap();
    compare(&vit.params, &whole, &plain, &loss);

    // With the first blocks frozen the others' gradients are the same, and theirs are left alone.
    for frozen_blocks in [1, 2] {
        let training = VitTraining {
            drop_path: drop_path
                .map(|rate| DropPath::draw(&[rate, rate], batch, (1, 1), &device).unwrap()),
            frozen_blocks,
            ..Default::default()
        };
        let grads = leftovers(&vit.params);
        vit.forward(&input, &training, &mut w).unwrap();
        vit.backward(&training, &mut w, &grads, 1.0, Accumulate::Replace)
            .unwrap();
        let part: Vec<f32> = grads.to_vec1().unwrap();
        for spec in vit.params.specs() {
            let learns = ["head", "norm", "fc_norm"]
                .contains(&spec.name.split('.').next().unwrap())
                || spec.name.starts_with("blocks.1") && frozen_blocks < 2;
            for (part, whole) in part[spec.range()].iter().zip(&whole[spec.range()]) {
                let expected = if learns { *whole } else { 7.0 };
                assert_eq!(*part, expected, "{}, {frozen_blocks} frozen", spec.name);
            }
        }
    }
}

#[test]
fn vit_with_class_token() {
    check_vit(Pooling::Token, None, Activations::Keep);
}

#[test]
fn vit_with_global_pool() {
    check_vit(Pooling::Avg, None, Activations::Keep);
}

#[test]
fn vit_with_drop_path() {
    check_vit(Pooling::Avg, Some(0.4), Activations::Keep);
    check_vit(Pooling::Token, Some(0.4), Activations::Recompute);
}
