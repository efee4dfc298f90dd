//! The plain vision transformer with a classification head, under timm's parameter names.

use candle_core::{Device, Tensor};

use crate::config::{Pooling, VitConfig};
use crate::drop_path::DropPath;
use crate::init::Init;
use crate::names::{self, StateDict};
use crate::ops::augment::Augmentation;
use crate::ops::{Accumulate, reduce, tokens};
use crate::params::{ParamId, Params, ParamsBuilder, write_range};
use crate::pos_embed;
use crate::precision::Precision;
use crate::record::Record;
use crate::stage::head::{ClassHead, ClassHeadWorkspace};
use crate::stage::stack::Activations;
use crate::stage::trunk::{Training, Trunk, TrunkWorkspace};
use crate::stage::{Grads, Planner};
use crate::{Error, Result, on_compute_thread};

/// A vision transformer that classifies.
pub struct VitClassifier {
    /// Dimensions.
    pub config: VitConfig,
    /// Every trainable parameter.
    pub params: Params,
    classes: usize,
    pooling: Pooling,
    head: ClassHead,
    trunk: Trunk,
    /// Trained here, unlike in MAE; it starts as the sine-cosine embedding.
    pos_embed: ParamId,
}

/// One batch on the device.
pub struct VitInput {
    pixels: Tensor,
    targets: Option<Tensor>,
}

impl VitInput {
    /// pixels `[B, H, W, C]`, to be classified.
    ///
    /// # Errors
    /// If the length does not fit the model.
    pub fn images(vit: &VitClassifier, pixels: &[u8]) -> Result<Self> {
        let ((height, width), channels) = (vit.config.image_size, vit.config.channels);
        let batch = pixels.len() / (height * width * channels);
        let expected = vec![batch.max(1), height, width, channels];
        if expected.iter().product::<usize>() != pixels.len() {
            return Err(Error::Shape {
                what: "pixels",
                expected,
                actual: vec![pixels.len()],
            });
        }
        let shape = (batch, height, width, channels);
        Ok(Self {
            pixels: Tensor::from_slice(pixels, shape, vit.device())?,
            targets: None,
        })
    }

    /// pixels `[B, H, W, C]` and soft targets `[B, classes]`, to be learnt.
    ///
    /// # Errors
    /// If lengths do not fit the model or each other.
    pub fn labelled(vit: &VitClassifier, pixels: &[u8], targets: &[f32]) -> Result<Self> {
        let images = Self::images(vit, pixels)?;
        let expected = vec![images.batch(), vit.classes];
        if expected.iter().product::<usize>() != targets.len() {
            return Err(Error::Shape {
                what: "targets",
                expected,
                actual: vec![targets.len()],
            });
        }
        let targets = Tensor::from_slice(targets, expected, vit.device())?;
        Ok(Self {
            targets: Some(targets),
            ..images
        })
    }

    /// Images in the batch.
    pub fn batch(&self) -> usize {
        self.pixels.dims()[0]
    }
}

/// What training adds to a batch's way through the model; the default adds nothing.
#[derive(Default)]
pub struct VitTraining {
    /// What becomes of the images once they are normalised.
    pub augmentation: Augmentation,
    /// The batch's draw.
    pub drop_path: Option<DropPath>,
    /// With so many of the first blocks, and what is before them, as they are: they get no gradients. As many as there are leaves the
    /// head.
    pub frozen_blocks: usize,
}

impl VitTraining {
    fn of_trunk(&self) -> Training<'_> {
        Training {
            augmentation: Some(&self.augmentation),
            drop_path: self.drop_path.as_ref(),
            frozen: self.frozen_blocks,
            ids_restore: None,
        }
    }
}

/// Activations and scratch for one batch size.
pub struct VitWorkspace {
    batch: usize,
    /// Every patch in order, `[B, L]`.
    ids: Tensor,
    trunk: TrunkWorkspace,
    head: ClassHeadWorkspace,
    bytes: usize,
}

impl VitWorkspace {
    /// The last forward's mean loss.
    ///
    /// # Errors
    /// If the device fails.
    pub fn loss(&self) -> Result<f32> {
        Ok(reduce::mean(&self.head.losses)? as f32)
    }

    /// Takes `share` of the last forward's loss into that of the update, as its first batch or a later one, without reading it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn record_loss(&self, record: &Record, share: f32, mode: Accumulate) -> Result<()> {
        record.loss(&self.head.losses, share, mode)
    }

    /// Images in the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// What was planned takes so many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl VitClassifier {
    /// A classifier with the reference code's initial distribution.
    ///
    /// # Errors
    /// If the configuration describes no model.
    pub fn new(
        config: VitConfig,
        classes: usize,
        pooling: Pooling,
        device: &Device,
        seed: u64,
    ) -> Result<Self> {
        config.validate()?;
        if classes == 0 {
            return Err(Error::Config(
                "a classifier needs at least one class".into(),
            ));
        }
        let mut b = ParamsBuilder::default();
        let head = ClassHead::new(&mut b, &config, classes, pooling);
        let mut trunk = Trunk::new(&mut b, &config);
        trunk.add_relative_positions(&config, device)?;
        let shape = [1, 1 + config.patches(), config.dim];
        let pos_embed = b.add("pos_embed".into(), &shape, Init::Zeros);
        let params = b.build(device, seed)?;
        let positions = pos_embed::sin_cos(config.dim, config.grid());
        write_range(params.flat(), params.range(pos_embed), &positions)?;
        Ok(Self {
            config,
            params,
            classes,
            pooling,
            head,
            trunk,
            pos_embed,
        })
    }

    /// Sets what the model computes with, but for its head, which is in float32: before its workspace is planned.
    ///
    /// # Errors
    /// If the device has no such numbers.
    pub fn set_precision(&mut self, precision: Precision) -> Result<()> {
        self.params.set_precision(precision)
    }

    /// The device that holds the parameters.
    pub fn device(&self) -> &Device {
        self.params.flat().device()
    }

    /// Classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How one vector is read from the tokens.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Plans everything that a step on `batch` images needs; `drop_path` says whether steps come with draws of it.
    ///
    /// # Errors
    /// If the batch is empty or the device has no room.
    pub fn workspace(
        &self,
        batch: usize,
        activations: Activations,
        drop_path: bool,
    ) -> Result<VitWorkspace> {
        if batch == 0 {
            return Err(Error::Config("a batch needs at least one image".into()));
        }
        let (config, patches) = (&self.config, self.config.patches());
        let ids: Vec<u32> = (0..batch).flat_map(|_| 0..patches as u32).collect();
        let mut planner = Planner::new(self.device(), self.params.precision());
        if drop_path {
            planner = planner.with_drop_path();
        }
        Ok(VitWorkspace {
            batch,
            ids: Tensor::from_vec(ids, (batch, patches), self.device())?,
            trunk: TrunkWorkspace::new(config, batch, patches, activations, &planner)?,
            head: ClassHeadWorkspace::new(config.dim, batch, self.classes, &planner)?,
            bytes: planner.bytes(),
        })
    }

    /// The forward pass of an evaluation; returns the logits `[B, classes]`, row-major.
    ///
    /// # Errors
    /// If the input does not fit the workspace.
    pub fn logits(&self, input: &VitInput, w: &mut VitWorkspace) -> Result<Vec<f32>> {
        self.to_logits(input, &Training::default(), w)?;
        Ok(w.head.logits.flatten_all()?.to_vec1()?)
    }

    /// The forward pass of a training step, cross-entropy included ([`VitWorkspace::loss`]).
    ///
    /// # Errors
    /// If the input does not fit the workspace or has no targets.
    pub fn forward(
        &self,
        input: &VitInput,
        training: &VitTraining,
        w: &mut VitWorkspace,
    ) -> Result<()> {
        let Some(targets) = &input.targets else {
            return Err(Error::Config("images without targets teach nothing".into()));
        };
        self.to_logits(input, &training.of_trunk(), w)?;
        self.head.loss(targets, &w.head)
    }

    fn to_logits(&self, input: &VitInput, training: &Training<'_>, w: &VitWorkspace) -> Result<()> {
        let (expected, actual) = (vec![w.batch], vec![input.batch()]);
        if expected != actual {
            return Err(Error::Shape {
                what: "the batch against its workspace",
                expected,
                actual,
            });
        }
        on_compute_thread(self.device(), || {
            let trunk_input = (&input.pixels, &w.ids);
            let positions = self.params.view(self.pos_embed);
            self.trunk
                .forward(&self.params, trunk_input, positions, &w.trunk, training)?;
            self.head.forward(&self.params, w.trunk.output(), &w.head)
        })
    }

    /// The gradients of `scale` times the loss of the last [`VitClassifier::forward`], which had the same `training`, into `grads`.
    /// Once for each forward. Those of frozen parameters are left as they are.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(
        &self,
        training: &VitTraining,
        w: &mut VitWorkspace,
        grads: &Tensor,
        scale: f32,
        mode: Accumulate,
    ) -> Result<()> {
        on_compute_thread(self.device(), || {
            let g = Grads {
                params: &self.params,
                flat: grads,
                mode,
                done: &|_| Ok(()),
            };
            let (d, training) = (w.trunk.gradient(), training.of_trunk());
            self.head.backward(g, &w.head, scale, &d.full)?;
            let last = self.trunk.depth() - 1;
            d.to_operand(training.drop_path.map(|drop| drop.mlp(last)))?;
            self.trunk.backward(g, &w.trunk, &training)?;
            match training.frozen {
                0 => tokens::positions_backward(
                    &d.full,
                    grads,
                    self.params.range(self.pos_embed),
                    mode,
                ),
                _ => Ok(()),
            }
        })
    }

    /// Every weight under timm's name.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state_dict(&self) -> Result<StateDict> {
        let mut state = names::save(&self.params)?;
        for (name, table) in self.trunk.relative_positions() {
            state.insert(name, table.table()?);
        }
        Ok(state)
    }

    /// Takes weights under timm's names.
    ///
    /// # Errors
    /// Names what is missing, unexpected or of another shape; then nothing has changed.
    pub fn load_state_dict(&self, state: &StateDict) -> Result<()> {
        let tables = Trunk::table_shapes(&self.config);
        let tables = tables
            .iter()
            .map(|(name, shape)| (name.as_str(), shape.clone()));
        names::load(&self.params, state, &tables.collect::<Vec<_>>())?;
        for (name, table) in self.trunk.relative_positions() {
            table.set(&state[&name])?;
        }
        Ok(())
    }
}
