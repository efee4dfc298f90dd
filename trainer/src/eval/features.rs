//! Frozen features of a dataset: every patch visible; each image whole and without augmentation, or as a head's training has it cut.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mae_loader::{Dataset, HostBatch};
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
/// first encoder takes; all encoders must take the same. An encoder with several poolings encodes an image once. Calls `progress` with the
/// number of images of each batch.
///
/// # Errors
/// Where the dataset has no labels, cannot be read, the encoders take different inputs or there is none, or a feature is not finite.
pub fn features(
    dataset: &Arc<Dataset>,
    extractors: &[Extractor<'_>],
    options: &StreamOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Features>> {
    let mut encoders = Encoders::new(extractors)?;
    stream(dataset, encoders.input(), None, options, |batch| {
        encoders.add(dataset, batch)?;
        progress(batch.len());
        Ok(true)
    })?;
    encoders.take(encoders.len())
}

/// Several extractors at work on the same images.
pub(super) struct Encoders<'a> {
    input: Input,
    /// Each encoder once, whatever the number of its poolings, with the workspace of the last batch's size.
    encoders: Vec<(&'a Encoder, Option<EncoderWorkspace>)>,
    each: Vec<Encoding<'a>>,
    labels: Vec<u32>,
}

/// The features of one extractor so far.
struct Encoding<'a> {
    extractor: Extractor<'a>,
    data: Vec<f32>,
    dim: usize,
}

impl<'a> Encoders<'a> {
    pub(super) fn new(extractors: &[Extractor<'a>]) -> Result<Self> {
        let mut encoders: Vec<(&Encoder, _)> = vec![];
        for extractor in extractors {
            match extractor {
                Extractor::Encoder(new, _)
                    if !encoders.iter().any(|(met, _)| std::ptr::eq(*met, *new)) =>
                {
                    encoders.push((new, None));
                }
                _ => {}
            }
        }
        let input = |encoder: &Encoder| Input {
            size: encoder.config.image_size,
            channels: encoder.config.channels,
        };
        let first = encoders.first().map(|(encoder, _)| input(encoder));
        let Some(input) =
            first.filter(|&first| encoders.iter().all(|(other, _)| input(other) == first))
        else {
            return Err(EvalError::Option {
                name: "the encoders' input size",
                must: "the same for all of them",
            });
        };
        let each = extractors.iter().map(|&extractor| Encoding {
            extractor,
            data: Vec::new(),
            dim: match extractor {
                Extractor::Encoder(encoder, _) => encoder.config.dim,
                Extractor::Pixels => input.size.0 * input.size.1 * input.channels,
            },
        });
        Ok(Self {
            input,
            encoders,
            each: each.collect(),
            labels: Vec::new(),
        })
    }

    /// What the images must be.
    pub(super) fn input(&self) -> Input {
        self.input
    }

    /// Samples encoded and not taken yet.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Encodes a batch of `dataset`.
    pub(super) fn add(&mut self, dataset: &Dataset, batch: &HostBatch) -> Result<()> {
        self.labels
            .extend(batch.labels().ok_or(EvalError::NoLabels)?);
        let add = |encoding: &mut Encoding<'a>, features: &[f32]| {
            if let Some(at) = features.iter().position(|v| !v.is_finite()) {
                return Err(EvalError::NotFinite {
                    sample: dataset.describe(batch.samples()[at / encoding.dim]),
                    column: at % encoding.dim,
                });
            }
            encoding.data.extend_from_slice(features);
            Ok(())
        };
        for (encoder, workspace) in &mut self.encoders {
            let workspace = match workspace.take() {
                Some(fitting) if fitting.batch() == batch.len() => workspace.insert(fitting),
                _ => workspace.insert(encoder.workspace(batch.len())?),
            };
            encoder.encode(batch.pixels(), workspace)?;
            for encoding in &mut self.each {
                match encoding.extractor {
                    Extractor::Encoder(of, pooling) if std::ptr::eq(of, *encoder) => {
                        add(encoding, &encoder.pool(pooling.into(), workspace)?)?;
                    }
                    _ => {}
                }
            }
        }
        for encoding in &mut self.each {
            if let Extractor::Pixels = encoding.extractor {
                let pixels = batch.pixels().iter().map(|&v| f32::from(v) / 255.0);
                add(encoding, &pixels.collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    /// Takes the features of the first `samples` out, those of each extractor.
    pub(super) fn take(&mut self, samples: usize) -> Result<Vec<Features>> {
        let labels: Vec<u32> = self.labels.drain(..samples).collect();
        let each = self.each.iter_mut();
        each.map(|encoding| {
            let rest = encoding.data.split_off(samples * encoding.dim);
            let data = std::mem::replace(&mut encoding.data, rest);
            Features::new(data, encoding.dim, labels.clone())
        })
        .collect()
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
