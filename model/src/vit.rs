//! The plain vision transformer with a classification head, under timm's parameter names.

use candle_core::{Device, Tensor};

use crate::config::{Pooling, VitConfig};
use crate::init::Init;
use crate::names::{self, StateDict};
use crate::ops::{Accumulate, reduce, tokens};
use crate::params::{ParamId, Params, ParamsBuilder, write_range};
use crate::pos_embed;
use crate::precision::Precision;
use crate::stage::block::Activations;
use crate::stage::head::{ClassHead, ClassHeadWorkspace};
use crate::stage::trunk::{Trunk, TrunkWorkspace};
use crate::stage::{Grads, Planner};
use crate::{Error, Result, on_compute_thread};

/// A vision transformer that classifies.
pub struct VitClassifier {
    /// Dimensions.
    pub config: VitConfig,
    /// Every trainable parameter.
    pub params: Params,
    classes: usize,
    head: ClassHead,
    trunk: Trunk,
    /// Trained here, unlike in MAE; it starts as the sine-cosine embedding.
    pos_embed: ParamId,
}

/// One labelled batch on the device.
pub struct VitInput {
    pixels: Tensor,
    ids: Tensor,
    targets: Tensor,
}

impl VitInput {
    /// pixels `[B, H, W, C]` and soft targets `[B, classes]`.
    ///
    /// # Errors
    /// If lengths do not fit the model or each other.
    pub fn from_host(
        vit: &VitClassifier,
        pixels: &[u8],
        targets: &[f32],
        device: &Device,
    ) -> Result<Self> {
        let ((height, width), channels) = (vit.config.image_size, vit.config.channels);
        let (batch, patches) = (targets.len() / vit.classes, vit.config.patches());
        let shapes = [
            ("pixels", vec![batch, height, width, channels], pixels.len()),
            ("targets", vec![batch.max(1), vit.classes], targets.len()),
        ];
        for (what, expected, actual) in shapes {
            if expected.iter().product::<usize>() != actual || actual == 0 {
                return Err(Error::Shape {
                    what,
                    expected,
                    actual: vec![actual],
                });
            }
        }
        let ids: Vec<u32> = (0..batch).flat_map(|_| 0..patches as u32).collect();
        Ok(Self {
            pixels: Tensor::from_slice(pixels, (batch, height, width, channels), device)?,
            ids: Tensor::from_vec(ids, (batch, patches), device)?,
            targets: Tensor::from_slice(targets, (batch, vit.classes), device)?,
        })
    }
}

/// Activations and scratch for one batch size.
pub struct VitWorkspace {
    batch: usize,
    trunk: TrunkWorkspace,
    head: ClassHeadWorkspace,
}

impl VitWorkspace {
    /// The last forward's mean loss.
    ///
    /// # Errors
    /// If the device fails.
    pub fn loss(&self) -> Result<f32> {
        Ok(reduce::mean(&self.head.losses)? as f32)
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
            head,
            trunk,
            pos_embed,
        })
    }

    /// Plans everything that a step on `batch` images needs.
    ///
    /// # Errors
    /// If the batch is empty or the device has no room.
    pub fn workspace(&self, batch: usize, activations: Activations) -> Result<VitWorkspace> {
        if batch == 0 {
            return Err(Error::Config("a batch needs at least one image".into()));
        }
        let config = &self.config;
        let planner = Planner::new(self.params.flat().device(), Precision::F32);
        Ok(VitWorkspace {
            batch,
            trunk: TrunkWorkspace::new(config, batch, config.patches(), activations, &planner)?,
            head: ClassHeadWorkspace::new(config.dim, batch, self.classes, &planner)?,
        })
    }

    /// The forward pass; returns the logits `[B, classes]`, row-major.
    ///
    /// # Errors
    /// If the input does not fit the workspace.
    pub fn logits(&self, input: &VitInput, w: &mut VitWorkspace) -> Result<Vec<f32>> {
        self.to_logits(input, w)?;
        Ok(w.head.logits.flatten_all()?.to_vec1()?)
    }

    /// The forward pass, cross-entropy included ([`VitWorkspace::loss`]).
    ///
    /// # Errors
    /// If the input does not fit the workspace.
    pub fn forward(&self, input: &VitInput, w: &mut VitWorkspace) -> Result<()> {
        self.to_logits(input, w)?;
        self.head.loss(&input.targets, &w.head)
    }

    fn to_logits(&self, input: &VitInput, w: &VitWorkspace) -> Result<()> {
        let (expected, actual) = (vec![w.batch], vec![input.pixels.dims()[0]]);
        if expected != actual {
            return Err(Error::Shape {
                what: "the batch against its workspace",
                expected,
                actual,
            });
        }
        on_compute_thread(self.params.flat().device(), || {
            let trunk_input = (&input.pixels, &input.ids);
            self.trunk.forward(
                &self.params,
                trunk_input,
                self.params.view(self.pos_embed),
                &w.trunk,
            )?;
            self.head.forward(&self.params, w.trunk.output(), &w.head)
        })
    }

    /// The gradients of `scale` times the loss of the last [`VitClassifier::forward`], into `grads`. Once for each forward.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(
        &self,
        w: &mut VitWorkspace,
        grads: &Tensor,
        scale: f32,
        mode: Accumulate,
    ) -> Result<()> {
        on_compute_thread(self.params.flat().device(), || {
            let g = Grads {
                params: &self.params,
                flat: grads,
                mode,
            };
            let d = &w.trunk.gradient().full;
            self.head.backward(g, &w.head, scale, d)?;
            self.trunk.backward(g, &w.trunk)?;
            tokens::positions_backward(d, grads, self.params.range(self.pos_embed), mode)
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
