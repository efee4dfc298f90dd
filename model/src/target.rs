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
#[derive(Clone, Debug)]
pub(crate) struct Pca {
    /// `[P·P·C]`.
    pub(crate) mean: Tensor,
    /// `[components, P·P·C]`.
    pub(crate) basis: Tensor,
}

/// What a model's target needs, once it is there. A clone shares it.
#[derive(Clone, Debug)]
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

    /// Takes over the target's fixed parts of `other`, a model of the same target for such images on the same device.
    ///
    /// # Errors
    /// If it is not.
    pub fn share_target(&mut self, other: &Mae) -> Result<()> {
        let of = |mae: &Mae| (mae.config.target.clone(), mae.config.vit.patch_len());
        if of(self) != of(other) || !self.device().same_device(other.device()) {
            return Err(not_its_target(
                "what another model's target is made with",
                &self.config,
            ));
        }
        self.fixed = other.fixed.clone();
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
mod tests;
