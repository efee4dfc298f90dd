//! Targets by hand, by a rotation, and without their fixed parts.

use super::*;
use crate::tokenizer::TokenizerConfig;
use crate::{Activations, MaeInput};

fn config(target: Target) -> MaeConfig {
    let mut config = MaeConfig::named("mae-micro-patch4", (8, 8), 1).unwrap();
    (config.vit.dim, config.vit.depth, config.vit.heads) = (8, 1, 2);
    (config.decoder_dim, config.decoder_depth) = (8, 1);
    config.target = target;
    config
}

fn tokens() -> Target {
    Target::Tokens {
        tokenizer: TokenizerConfig {
            image_size: (8, 8),
            channels: 1,
            patch_size: 4,
            vocabulary: 5,
            hidden: 8,
            blocks: 1,
        },
    }
}

fn basis(components: usize) -> PcaBasis {
    PcaBasis {
        mean: (0..16).map(|i| i as f32 / 16.0).collect(),
        basis: (0..components * 16)
            .map(|i| if i / 16 == i % 16 { 1.0 } else { 0.0 })
            .collect(),
    }
}

fn input(config: &MaeConfig) -> MaeInput {
    let pixels: Vec<u8> = (0..64u8).map(|i| i.wrapping_mul(37)).collect();
    MaeInput::from_host(config, &pixels, &[2], &[1, 2, 0, 3], &Device::Cpu).unwrap()
}

#[test]
fn without_its_fixed_parts_a_model_has_no_loss_and_says_so() {
    for target in [Target::Pca { components: 3 }, tokens()] {
        let mae = Mae::new(config(target), &Device::Cpu, 1).unwrap();
        assert!(!mae.has_target());
        let mut workspace = mae.workspace(1, 1, Activations::Keep).unwrap();
        let error = mae
            .forward(&input(&mae.config), &mut workspace)
            .unwrap_err();
        assert!(matches!(error, Error::NoTarget { .. }), "{error}");
        // Features need no target.
        mae.encoder().unwrap();
    }
}

#[test]
fn checkpoints_hold_the_fixed_parts() {
    let mut pca = Mae::new(config(Target::Pca { components: 3 }), &Device::Cpu, 1).unwrap();
    pca.set_pca(&basis(3)).unwrap();
    let mut token = Mae::new(config(tokens()), &Device::Cpu, 1).unwrap();
    let Target::Tokens { tokenizer } = tokens() else {
        return;
    };
    token
        .set_tokenizer(Tokenizer::new(tokenizer, &Device::Cpu, 4).unwrap())
        .unwrap();
    for mae in [pca, token] {
        let state = mae.state_dict().unwrap();
        for (name, shape) in Mae::shapes(&mae.config) {
            assert_eq!(state[&name].shape, shape, "{name}");
        }
        let mut other = Mae::new(mae.config.clone(), &Device::Cpu, 2).unwrap();
        other.load_state_dict(&state).unwrap();
        assert_eq!(other.state_dict().unwrap(), state);
        let loss = |mae: &Mae| {
            let mut workspace = mae.workspace(1, 1, Activations::Keep).unwrap();
            mae.forward(&input(&mae.config), &mut workspace).unwrap();
            workspace.loss().unwrap()
        };
        assert_eq!(loss(&other).to_bits(), loss(&mae).to_bits());
        // The encoder has none of it.
        mae.encoder().unwrap();

        let mut without = state.clone();
        without.retain(|name, _| !is_fixed(name));
        let mut third = Mae::new(mae.config.clone(), &Device::Cpu, 3).unwrap();
        let before = third.state_dict().unwrap();
        let error = third.load_state_dict(&without).unwrap_err().to_string();
        assert!(error.contains("missing: t"), "{error}");
        assert!(third.state_dict().unwrap() == before);
    }
}

#[test]
fn parts_of_another_target_are_refused() {
    let mut pixels = Mae::new(config(Target::Pixels), &Device::Cpu, 1).unwrap();
    let error = pixels.set_pca(&basis(3)).unwrap_err().to_string();
    assert!(error.contains("another target"), "{error}");
    let mut pca = Mae::new(config(Target::Pca { components: 3 }), &Device::Cpu, 1).unwrap();
    assert!(matches!(
        pca.set_pca(&basis(4)).unwrap_err(),
        Error::Shape { .. }
    ));
}

#[test]
fn meaningless_targets_are_errors() {
    let said = |config: MaeConfig| config.validate().unwrap_err().to_string();
    assert!(said(config(Target::Pca { components: 17 })).contains("1 to 16"));
    assert!(said(config(Target::Pca { components: 0 })).contains("1 to 16"));
    let mut both = config(tokens());
    both.norm_pix_loss = true;
    assert!(said(both).contains("norm_pix_loss"));
    let mut other = config(tokens());
    other.vit.image_size = (12, 8);
    assert!(said(other).contains("12x8"));
}

/// With every component, coefficients are pixels turned: they project back exactly, and a prediction that is turned the same way has
/// the same loss.
#[test]
fn with_every_component_the_loss_is_that_of_pixels() {
    // Householder's reflection of a vector: orthonormal, and no permutation.
    let v: Vec<f32> = (0..16).map(|i| 0.1 + (i * i % 7) as f32).collect();
    let squares: f32 = v.iter().map(|x| x * x).sum();
    let rows = (0..16).flat_map(|i| {
        let v = &v;
        (0..16).map(move |j| f32::from(i == j) - 2.0 * v[i as usize] * v[j as usize] / squares)
    });
    let turn = PcaBasis {
        basis: rows.collect(),
        ..basis(16)
    };
    let pixels = Mae::new(config(Target::Pixels), &Device::Cpu, 1).unwrap();
    let mut state = pixels.state_dict().unwrap();
    let (weight, bias) = ("decoder_pred.weight", "decoder_pred.bias");
    state.get_mut(bias).unwrap().data.copy_from_slice(&v);
    let turned = |x: &[f32], columns: usize| -> Vec<f32> {
        (0..16 * columns)
            .map(|i| {
                let row = &turn.basis[i / columns * 16..][..16];
                row.iter()
                    .enumerate()
                    .map(|(k, b)| b * x[k * columns + i % columns])
                    .sum()
            })
            .collect()
    };
    let mut in_pixels = pixels;
    in_pixels.load_state_dict(&state).unwrap();
    let mut in_pca = Mae::new(config(Target::Pca { components: 16 }), &Device::Cpu, 1).unwrap();
    let width = state[weight].data.len() / 16;
    let turned_weight = turned(&state[weight].data, width);
    let centred: Vec<f32> = v.iter().zip(&turn.mean).map(|(b, m)| b - m).collect();
    state.get_mut(weight).unwrap().data = turned_weight;
    state.get_mut(bias).unwrap().data = turned(&centred, 1);
    in_pca.set_pca(&turn).unwrap();
    state.extend(in_pca.fixed.state_dict().unwrap());
    in_pca.load_state_dict(&state).unwrap();

    let run = |mae: &Mae| {
        let input = input(&mae.config);
        let mut workspace = mae.workspace(1, 1, Activations::Keep).unwrap();
        mae.forward(&input, &mut workspace).unwrap();
        let predicted = mae.predict(&input, &mut workspace).unwrap();
        let ids = (input.pixels(), input.ids_restore());
        (
            workspace.loss().unwrap(),
            mae.picture(ids, predicted, 1, true).unwrap(),
        )
    };
    let ((loss, picture), (loss2, picture2)) = (run(&in_pixels), run(&in_pca));
    assert!((loss / loss2 - 1.0).abs() < 1e-5, "{loss} {loss2}");
    for (a, b) in picture.iter().zip(&picture2) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn tokens_become_pictures_by_the_tokenizer() {
    let mut mae = Mae::new(config(tokens()), &Device::Cpu, 1).unwrap();
    let Target::Tokens { tokenizer } = tokens() else {
        return;
    };
    let tokenizer = Tokenizer::new(tokenizer, &Device::Cpu, 4).unwrap();
    mae.set_tokenizer(tokenizer.clone()).unwrap();
    let input = input(&mae.config);
    let own = tokenizer
        .tokens(input.pixels())
        .unwrap()
        .flatten_all()
        .unwrap();
    let own = own.to_vec1::<u32>().unwrap();
    // Patch 2 is visible; token 3 is the likeliest everywhere.
    let predicted = [0.0, 0.5, -1.0, 2.0, 2.0].repeat(4);
    let ids = (input.pixels(), input.ids_restore());
    for (paste, wanted) in [(true, [3, 3, own[2], 3]), (false, [3; 4])] {
        let wanted = Tensor::new(&[wanted], &Device::Cpu).unwrap();
        let wanted = tokenizer.decode(&wanted).unwrap().flatten_all().unwrap();
        let wanted = to_patches(&mae.config.vit, &wanted.to_vec1::<u8>().unwrap());
        assert!(mae.picture(ids, predicted.clone(), 1, paste).unwrap() == wanted);
    }
}
