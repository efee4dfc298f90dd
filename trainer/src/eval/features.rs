//! Frozen features of a dataset: each image whole, every patch visible, encoded once without augmentation.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mae_loader::Dataset;
use mae_model::{Encoder, EncoderWorkspace, Pooling};
use serde::{Deserialize, Serialize};

use super::error::{EvalError, Result};
use super::matrix::Features;
use super::stream::{Input, StreamOptions, stream};

/// How one vector is read from an encoder's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeaturePooling {
    /// The mean of the patch tokens. The default: no loss is ever computed on MAE's class token, so that in short trainings it
    /// gathers little; the paper finds both equally good after a long one (appendix A.1).
    #[default]
    Mean,
    /// The class token, as in the paper's linear probing.
    Token,
}

impl From<FeaturePooling> for Pooling {
    fn from(pooling: FeaturePooling) -> Self {
        match pooling {
            FeaturePooling::Mean => Self::Avg,
            FeaturePooling::Token => Self::Token,
        }
    }
}

impl FromStr for FeaturePooling {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "mean" => Ok(Self::Mean),
            "token" => Ok(Self::Token),
            _ => Err(format!(
                "`{text}` is neither mean (of the patch tokens) nor token (the class token)"
            )),
        }
    }
}

impl fmt::Display for FeaturePooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::Token => "token",
        })
    }
}

/// What turns an image into a vector.
#[derive(Clone, Copy)]
pub enum Extractor<'a> {
    /// An encoder.
    Encoder(&'a Encoder, FeaturePooling),
    /// No encoder: the image's bytes, to compare with.
    Pixels,
}

/// The features of every sample by each of `extractors`, in one pass over the data. The images have the size that the
/// first encoder takes; all encoders must take the same.
///
/// # Errors
/// Where the dataset has no labels, cannot be read, the encoders take different inputs or there is none.
pub fn features(
    dataset: &Arc<Dataset>,
    extractors: &[Extractor<'_>],
    options: &StreamOptions,
) -> Result<Vec<Features>> {
    let inputs = extractors.iter().filter_map(|extractor| match extractor {
        Extractor::Encoder(encoder, _) => Some(Input {
            size: encoder.config.image_size,
            channels: encoder.config.channels,
        }),
        Extractor::Pixels => None,
    });
    let inputs: Vec<Input> = inputs.collect();
    let input = match inputs.first() {
        Some(&first) if inputs.iter().all(|&other| other == first) => first,
        _ => {
            return Err(EvalError::Option {
                name: "the encoders' input size",
                must: "the same for all of them",
            });
        }
    };
    let mut encoders: Vec<Encoding<'_>> = extractors.iter().map(Encoding::new).collect();
    let mut labels = Vec::new();
    stream(dataset, input, None, options, |batch| {
        labels.extend(batch.labels().ok_or(EvalError::NoLabels)?);
        for encoder in &mut encoders {
            encoder.add(batch.pixels(), batch.len())?;
        }
        Ok(true)
    })?;
    encoders
        .into_iter()
        .map(|encoder| Features::new(encoder.data, encoder.dim, labels.clone()))
        .collect()
}

/// The features of one extractor so far.
struct Encoding<'a> {
    extractor: Extractor<'a>,
    /// Kept between batches of one size.
    workspace: Option<EncoderWorkspace>,
    data: Vec<f32>,
    dim: usize,
}

impl<'a> Encoding<'a> {
    fn new(extractor: &Extractor<'a>) -> Self {
        Self {
            extractor: *extractor,
            workspace: None,
            data: Vec::new(),
            dim: 0,
        }
    }

    fn add(&mut self, pixels: &[u8], samples: usize) -> Result<()> {
        match self.extractor {
            Extractor::Pixels => {
                self.dim = pixels.len() / samples;
                self.data
                    .extend(pixels.iter().map(|&v| f32::from(v) / 255.0));
            }
            Extractor::Encoder(encoder, pooling) => {
                self.dim = encoder.config.dim;
                let workspace = match self.workspace.take() {
                    Some(fitting) if fitting.batch() == samples => fitting,
                    _ => encoder.workspace(samples)?,
                };
                let workspace = self.workspace.insert(workspace);
                self.data
                    .extend(encoder.features(pixels, pooling.into(), workspace)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for pooling in [FeaturePooling::Mean, FeaturePooling::Token] {
            assert_eq!(pooling.to_string().parse(), Ok(pooling));
        }
        assert!("cls".parse::<FeaturePooling>().is_err());
    }
}
