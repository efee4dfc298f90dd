//! A target's fixed parts: what is computed with and not trained, and so belongs to the model and its checkpoints.

use candle_core::{Device, Tensor};

use crate::config::{MaeConfig, Target, VitConfig};
use crate::mae::Mae;
use crate::names::{StateDict, StateTensor};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Principal components of patches, in (row, column, channel) order, normalised by channel as the model's pixels are.
#[derive(Debug, Clone, PartialEq)]
pub struct PcaBasis {
    /// The mean patch `[P·P·C]`.
    pub mean: Vec<f32>,
    /// Orthonormal rows `[components, P·P·C]`, the largest variance first.
    pub basis: Vec<f32>,
}

/// [`PcaBasis`] on the device.
#[derive(Debug)]
pub(crate) struct Pca {
    /// `[P·P·C]`.
    pub(crate) mean: Tensor,
    /// `[components, P·P·C]`.
    pub(crate) basis: Tensor,
}

/// What a model's target needs, once it is there.
#[derive(Debug)]
pub(crate) enum Fixed {
    /// Nothing, or nothing yet.
    None,
    Pca(Pca),
    Tokens(Box<Tokenizer>),
}

const TARGET: &str = "target.";
const MEAN: &str = "target.mean";
const BASIS: &str = "target.basis";
const TOKENIZER: &str = "tokenizer.";

/// Whether a name is that of a target's fixed part.
pub(crate) fn is_fixed(name: &str) -> bool {
    name.starts_with(TARGET) || name.starts_with(TOKENIZER)
}

/// Names and shapes of the fixed parts, but for a tokenizer's, which it knows itself.
pub(crate) fn shapes(config: &MaeConfig) -> Vec<(String, Vec<usize>)> {
    let len = config.vit.patch_len();
    match config.target {
        Target::Pca { components } => vec![
            (MEAN.into(), vec![len]),
            (BASIS.into(), vec![components, len]),
        ],
        Target::Pixels | Target::Tokens { .. } => vec![],
    }
}

impl Fixed {
    /// Under their names.
    pub(crate) fn state_dict(&self) -> Result<StateDict> {
        match self {
            Self::None => Ok(StateDict::new()),
            Self::Tokens(tokenizer) => tokenizer.state_dict(),
            Self::Pca(pca) => {
                let entry = |(name, tensor): (&str, &Tensor)| {
                    let tensor = StateTensor {
                        shape: tensor.dims().to_vec(),
                        data: tensor.flatten_all()?.to_vec1()?,
                    };
                    Ok((name.to_owned(), tensor))
                };
                [(MEAN, &pca.mean), (BASIS, &pca.basis)]
                    .into_iter()
                    .map(entry)
                    .collect()
            }
        }
    }

    /// A model's fixed parts among its weights.
    ///
    /// # Errors
    /// Names what is missing or of another shape.
    pub(crate) fn from_state_dict(
        config: &MaeConfig,
        state: &StateDict,
        device: &Device,
    ) -> Result<Self> {
        match &config.target {
            Target::Pixels => Ok(Self::None),
            Target::Tokens { tokenizer } => {
                let own = state.iter().filter(|(name, _)| name.starts_with(TOKENIZER));
                let own = own.map(|(name, tensor)| (name.clone(), tensor.clone()));
                let own: StateDict = own.collect();
                let tokenizer = Tokenizer::from_state_dict(tokenizer.clone(), &own, device)?;
                Ok(Self::Tokens(Box::new(tokenizer)))
            }
            Target::Pca { .. } => {
                let (mut missing, mut misshapen) = (vec![], vec![]);
                let mut tensors = vec![];
                for (name, shape) in shapes(config) {
                    match state.get(&name) {
                        None => missing.push(name),
                        Some(tensor) if tensor.shape != shape => misshapen.push(format!(
                            "{name} (the model has {shape:?}, the weights {:?})",
                            tensor.shape
                        )),
                        Some(tensor) => tensors.push(tensor.data.clone()),
                    }
                }
                match <[Vec<f32>; 2]>::try_from(tensors) {
                    Ok([mean, basis]) => Self::pca(config, &PcaBasis { mean, basis }, device),
                    Err(_) => Err(Error::StateDict {
                        missing,
                        unexpected: vec![],
                        misshapen,
                    }),
                }
            }
        }
    }

    /// Which of the weights are these, with their shapes.
    pub(crate) fn names<'s>(&self, state: &'s StateDict) -> Vec<(&'s str, Vec<usize>)> {
        let is_own = |name: &str| match self {
            Self::None => false,
            Self::Pca(_) => [MEAN, BASIS].contains(&name),
            Self::Tokens(_) => name.starts_with(TOKENIZER),
        };
        let own = state.iter().filter(|(name, _)| is_own(name));
        own.map(|(name, tensor)| (name.as_str(), tensor.shape.clone()))
            .collect()
    }

    fn pca(config: &MaeConfig, basis: &PcaBasis, device: &Device) -> Result<Self> {
        let (len, width) = (config.vit.patch_len(), config.target.width(&config.vit));
        for (what, expected, given) in [
            ("the mean patch", vec![len], &basis.mean),
            ("the basis of patches", vec![width, len], &basis.basis),
        ] {
            if expected.iter().product::<usize>() != given.len() {
                return Err(Error::Shape {
                    what,
                    expected,
                    actual: vec![given.len()],
                });
            }
        }
        Ok(Self::Pca(Pca {
            mean: Tensor::from_slice(&basis.mean, len, device)?,
            basis: Tensor::from_slice(&basis.basis, (width, len), device)?,
        }))
    }
}

impl Mae {
    /// Sets what coefficients are of, for a model whose target they are.
    ///
    /// # Errors
    /// If the target is another, or the basis does not fit it.
    pub fn set_pca(&mut self, basis: &PcaBasis) -> Result<()> {
        if !matches!(self.config.target, Target::Pca { .. }) {
            return Err(not_its_target(
                "a basis of principal components",
                &self.config,
            ));
        }
        self.fixed = Fixed::pca(&self.config, basis, self.device())?;
        Ok(())
    }

    /// Sets what makes the tokens, for a model whose target they are. It must be on the model's device.
    ///
    /// # Errors
    /// If the target is another, or another tokenizer's.
    pub fn set_tokenizer(&mut self, tokenizer: Tokenizer) -> Result<()> {
        match &self.config.target {
            Target::Tokens { tokenizer: own } if own == tokenizer.config() => {
                self.fixed = Fixed::Tokens(Box::new(tokenizer));
                Ok(())
            }
            _ => Err(not_its_target("this tokenizer", &self.config)),
        }
    }

    /// Takes over the target's fixed parts of `other`, a model of the same target.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn share_target(&mut self, other: &Mae) -> Result<()> {
        if matches!(other.fixed, Fixed::None) {
            return Ok(());
        }
        let state = other.fixed.state_dict()?;
        self.fixed = Fixed::from_state_dict(&self.config, &state, self.device())?;
        Ok(())
    }

    /// Whether what the target needs is there, so that there is a loss.
    pub fn has_target(&self) -> bool {
        matches!(
            (&self.config.target, &self.fixed),
            (Target::Pixels, _)
                | (Target::Pca { .. }, Fixed::Pca(_))
                | (Target::Tokens { .. }, Fixed::Tokens(_))
        )
    }

    pub(crate) fn check_target(&self) -> Result<()> {
        match self.has_target() {
            true => Ok(()),
            false => Err(Error::NoTarget {
                target: self.config.target.to_string(),
            }),
        }
    }

    /// What a prediction of every patch (see [`Mae::predict`]) looks like as pixels: `predicted` `[B, L, …]` becomes `[B, L, P·P·C]` in
    /// (row, column, channel) order, normalised by channel. Coefficients are projected back. Of tokens the likeliest is taken at
    /// removed patches and, at visible ones, with `keep` of them, the image's own where `paste` has it; then the tokenizer's decoder
    /// makes the whole image. Pixels are as they were.
    ///
    /// # Errors
    /// If a fixed part of the target is missing.
    pub fn picture(
        &self,
        (pixels, ids_restore): (&Tensor, &Tensor),
        predicted: Vec<f32>,
        keep: usize,
        paste: bool,
    ) -> Result<Vec<f32>> {
        self.check_target()?;
        let (batch, patches) = ids_restore.dims2()?;
        match &self.fixed {
            Fixed::None => Ok(predicted),
            Fixed::Pca(pca) => {
                let (width, len) = pca.basis.dims2()?;
                let predicted =
                    Tensor::from_vec(predicted, (batch * patches, width), &Device::Cpu)?;
                let basis = pca.basis.to_device(&Device::Cpu)?;
                let mean = pca.mean.to_device(&Device::Cpu)?;
                let all = predicted.matmul(&basis)?.broadcast_add(&mean)?;
                debug_assert_eq!(all.dims(), [batch * patches, len]);
                Ok(all.flatten_all()?.to_vec1()?)
            }
            Fixed::Tokens(tokenizer) => {
                let own = tokenizer.tokens(pixels)?.flatten_all()?.to_vec1::<u32>()?;
                let places = ids_restore.flatten_all()?.to_vec1::<u32>()?;
                let tokens: Vec<u32> = predicted
                    .chunks_exact(tokenizer.config().vocabulary)
                    .zip(own.iter().zip(places))
                    .map(
                        |(scores, (&own, place))| match paste && (place as usize) < keep {
                            true => own,
                            false => likeliest(scores),
                        },
                    )
                    .collect();
                let tokens = Tensor::from_vec(tokens, (batch, patches), self.device())?;
                let bytes = tokenizer.decode(&tokens)?;
                let bytes = bytes.flatten_all()?.to_vec1::<u8>()?;
                Ok(to_patches(&self.config.vit, &bytes))
            }
        }
    }
}

/// The first of the largest.
fn likeliest(scores: &[f32]) -> u32 {
    let best = scores
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| {
            if x > best.1 { (i, x) } else { best }
        });
    best.0 as u32
}

/// Images `[B, H, W, C]` as normalised patches `[B, L, P·P·C]`.
fn to_patches(vit: &VitConfig, bytes: &[u8]) -> Vec<f32> {
    let target = crate::ops::masked_loss::Target::of_pixels(vit);
    let image = vit.image_size.0 * vit.image_size.1 * vit.channels;
    let mut patches = vec![0.0; bytes.len()];
    for (patches, bytes) in patches
        .chunks_exact_mut(image)
        .zip(bytes.chunks_exact(image))
    {
        for (id, patch) in patches.chunks_exact_mut(vit.patch_len()).enumerate() {
            target.patch(bytes, id, patch);
        }
    }
    patches
}

fn not_its_target(what: &str, config: &MaeConfig) -> Error {
    Error::Config(format!(
        "{what} is for another target than this model's, {}",
        config.target
    ))
}

#[cfg(test)]
mod tests {
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
}
