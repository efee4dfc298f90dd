//! The same models written plainly in candle's operations on candle's autograd: the oracle for
//! gradients where PyTorch is not at hand. For tests only; slow, and it keeps every intermediate.
//!
//! It avoids what silently drops gradients (`candle_nn::LayerNorm`, `ops::softmax_last_dim`, …).

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor, Var};

use crate::config::{MaeConfig, Pooling, Target, VitConfig};
use crate::drop_path::DropPath;
use crate::names::{StateDict, StateTensor};
use crate::ops::masked_loss::NORM_PIX_EPS;
use crate::tokenizer::Tokenizer;
use crate::{MaeInput, Result};

/// Weights as autograd variables, by the reference code's names.
pub struct PlainModel {
    vars: HashMap<String, Var>,
    buffers: HashMap<String, Tensor>,
}

impl PlainModel {
    /// Takes a model's weights; names in `fixed` get no gradient.
    ///
    /// # Errors
    /// If candle fails.
    pub fn new(state: &StateDict, fixed: &[&str]) -> Result<Self> {
        let (mut vars, mut buffers) = (HashMap::new(), HashMap::new());
        for (name, tensor) in state {
            let value = Tensor::from_slice(&tensor.data, tensor.shape.as_slice(), &Device::Cpu)?;
            if fixed.contains(&name.as_str()) {
                buffers.insert(name.clone(), value);
            } else {
                vars.insert(name.clone(), Var::from_tensor(&value)?);
            }
        }
        Ok(Self { vars, buffers })
    }

    fn get(&self, name: &str) -> Tensor {
        match self.vars.get(name) {
            Some(var) => var.as_tensor().clone(),
            None => self.buffers[name].clone(),
        }
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight")).flatten_from(1)?.t()?;
        Ok(x.broadcast_matmul(&weight)?
            .broadcast_add(&self.get(&format!("{name}.bias")))?)
    }

    fn norm(&self, name: &str, eps: f32, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?;
        let scaled = normed.broadcast_mul(&self.get(&format!("{name}.weight")))?;
        Ok(scaled.broadcast_add(&self.get(&format!("{name}.bias")))?)
    }

    /// `factors` are those of attention's branch and of the MLP's, `[B]` (drop path).
    fn block(
        &self,
        name: &str,
        heads: usize,
        eps: f32,
        x: &Tensor,
        factors: Option<[&Tensor; 2]>,
    ) -> Result<Tensor> {
        let scaled = |branch: Tensor, which: usize| -> Result<Tensor> {
            match factors {
                Some(factors) => {
                    let factors = factors[which].reshape((branch.dims()[0], 1, 1))?;
                    Ok(branch.broadcast_mul(&factors)?)
                }
                None => Ok(branch),
            }
        };
        let (batch, tokens, dim) = x.dims3()?;
        let width = dim / heads;
        let qkv = self.linear(
            &format!("{name}.attn.qkv"),
            &self.norm(&format!("{name}.norm1"), eps, x)?,
        )?;
        let qkv = qkv
            .reshape((batch, tokens, 3, heads, width))?
            .permute((2, 0, 3, 1, 4))?;
        let part = |i: usize| qkv.get(i)?.contiguous();
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?.contiguous()?)? * (1.0 / (width as f64).sqrt()))?;
        // Softmax does not see a shift; without one the scores of a test stay small enough.
        let weights = scores.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let attended = weights
            .matmul(&v)?
            .transpose(1, 2)?
            .reshape((batch, tokens, dim))?;
        let branch = self.linear(&format!("{name}.attn.proj"), &attended)?;
        let x = (x + scaled(branch, 0)?)?;
        let hidden = self.norm(&format!("{name}.norm2"), eps, &x)?;
        let hidden = self
            .linear(&format!("{name}.mlp.fc1"), &hidden)?
            .gelu_erf()?;
        let branch = self.linear(&format!("{name}.mlp.fc2"), &hidden)?;
        Ok((&x + scaled(branch, 1)?)?)
    }

    /// The encoder's last residual stream `[B, 1 + K, D]`; with `restore`, mask tokens among the patches, `[B, 1 + L, D]`.
    fn trunk(
        &self,
        config: &VitConfig,
        pixels: &Tensor,
        (ids, restore): (&Tensor, Option<&Tensor>),
        drop: Option<&DropPath>,
    ) -> Result<Tensor> {
        let (batch, keep) = ids.dims2()?;
        let patches = self.patches(config, pixels)?;
        let positions = self.get("pos_embed").squeeze(0)?;
        let rows = ids.to_vec2::<u32>()?;
        let mut sequences = Vec::with_capacity(batch);
        for (image, row) in rows.iter().enumerate() {
            let ids = Tensor::from_slice(row, keep, &Device::Cpu)?;
            let visible = patches.get(image)?.index_select(&ids, 0)?;
            let mut x = self.linear("patch_embed.proj", &visible)?;
            let mut places = (&ids + 1.0)?;
            if let Some(restore) = restore {
                let count = config.patches();
                let token = self.get("encoder_mask_token").squeeze(0)?;
                let tokens = token.broadcast_as((count - keep, config.dim))?;
                x = Tensor::cat(&[x, tokens], 0)?.index_select(&restore.get(image)?, 0)?;
                places = Tensor::arange(1, 1 + count as u32, &Device::Cpu)?;
            }
            let x = (x + positions.index_select(&places, 0)?)?;
            let class_row = (self.get("cls_token").squeeze(0)? + positions.narrow(0, 0, 1)?)?;
            sequences.push(Tensor::cat(&[class_row, x], 0)?);
        }
        let mut x = Tensor::stack(&sequences, 0)?;
        for i in 0..config.depth {
            let factors = drop.map(|drop| [drop.attention(i), drop.mlp(i)]);
            let name = format!("blocks.{i}");
            x = self.block(&name, config.heads, config.norm_eps, &x, factors)?;
        }
        Ok(x)
    }

    /// `[B, L, C·P·P]`, normalised, in the convolution's order.
    fn patches(&self, config: &VitConfig, pixels: &Tensor) -> Result<Tensor> {
        let (batch, _, _, channels) = pixels.dims4()?;
        let ((rows, columns), side) = (config.grid(), config.patch_size);
        let mean = Tensor::new(config.mean.as_slice(), &Device::Cpu)?;
        let std = Tensor::new(config.std.as_slice(), &Device::Cpu)?;
        let x = (pixels.to_dtype(DType::F32)? / 255.0)?
            .broadcast_sub(&mean)?
            .broadcast_div(&std)?;
        let x = x.reshape(vec![batch, rows, side, columns, side, channels])?;
        Ok(x.permute(vec![0, 1, 3, 5, 2, 4])?.reshape((
            batch,
            rows * columns,
            config.patch_len(),
        ))?)
    }

    /// MAE's loss, to be differentiated with [`PlainModel::gradients`].
    ///
    /// # Errors
    /// If candle fails.
    pub fn mae_loss(&self, config: &MaeConfig, input: &MaeInput) -> Result<Tensor> {
        let eps = config.vit.norm_eps;
        let (batch, keep) = input.ids_keep().dims2()?;
        let (patches, len) = (config.patches(), config.vit.patch_len());
        let all = config.encoder_mask_tokens;
        let ids = (input.ids_keep(), all.then_some(input.ids_restore()));
        let latent = self.trunk(&config.vit, input.pixels(), ids, None)?;
        let visible = self.linear("decoder_embed", &self.norm("norm", eps, &latent)?)?;
        let restore = input.ids_restore().to_vec2::<u32>()?;
        let mut sequences = Vec::with_capacity(batch);
        let mut mask = Vec::with_capacity(batch * patches);
        for (image, row) in restore.iter().enumerate() {
            mask.extend(row.iter().map(|&place| f32::from(place as usize >= keep)));
            if all {
                sequences.push(visible.get(image)?);
                continue;
            }
            let mask_rows = self
                .get("mask_token")
                .squeeze(0)?
                .broadcast_as((patches - keep, config.decoder_dim))?;
            let image = visible.get(image)?;
            let shuffled = Tensor::cat(&[image.narrow(0, 1, keep)?, mask_rows], 0)?;
            let ids = Tensor::from_slice(row, patches, &Device::Cpu)?;
            let restored = shuffled.index_select(&ids, 0)?;
            sequences.push(Tensor::cat(&[image.narrow(0, 0, 1)?, restored], 0)?);
        }
        let mut x = Tensor::stack(&sequences, 0)?.broadcast_add(&self.get("decoder_pos_embed"))?;
        for i in 0..config.decoder_depth {
            x = self.block(
                &format!("decoder_blocks.{i}"),
                config.decoder_heads,
                eps,
                &x,
                None,
            )?;
        }
        let x = self.linear("decoder_pred", &self.norm("decoder_norm", eps, &x)?)?;
        let x = x.narrow(1, 1, patches)?;

        let mut target = self
            .patches(&config.vit, input.pixels())?
            .reshape((
                batch,
                patches,
                config.vit.channels,
                len / config.vit.channels,
            ))?
            .transpose(2, 3)?
            .reshape((batch, patches, len))?;
        if config.norm_pix_loss {
            let centred = target.broadcast_sub(&target.mean_keepdim(D::Minus1)?)?;
            let variance = (centred.sqr()?.sum_keepdim(D::Minus1)? / (len as f64 - 1.0))?;
            target = centred.broadcast_div(&(variance + f64::from(NORM_PIX_EPS))?.sqrt()?)?;
        }
        let errors = match &config.target {
            Target::Pixels => (x - target)?.sqr()?.mean(D::Minus1)?,
            Target::Pca { .. } => {
                let centred = target.broadcast_sub(&self.get("target.mean"))?;
                let coefficients = centred.broadcast_matmul(&self.get("target.basis").t()?)?;
                (x - coefficients)?.sqr()?.mean(D::Minus1)?
            }
            Target::Tokens { tokenizer } => {
                let own = self.buffers.iter();
                let own = own.filter(|(name, _)| name.starts_with("tokenizer."));
                let own = own.map(|(name, tensor)| {
                    let (shape, data) = (tensor.dims().to_vec(), tensor.flatten_all()?.to_vec1()?);
                    Ok((name.clone(), StateTensor { shape, data }))
                });
                let own = own.collect::<Result<StateDict>>()?;
                let tokenizer = Tokenizer::from_state_dict(tokenizer.clone(), &own, &Device::Cpu)?;
                let tokens = tokenizer.tokens(input.pixels())?.unsqueeze(2)?;
                let log_sums = x.exp()?.sum(D::Minus1)?.log()?;
                (log_sums - x.contiguous()?.gather(&tokens, 2)?.squeeze(2)?)?
            }
        };
        let mask = Tensor::from_vec(mask, (batch, patches), &Device::Cpu)?;
        Ok(((errors * &mask)?.sum_all()? / f64::from(mask.sum_all()?.to_scalar::<f32>()?))?)
    }

    /// A classifier's mean cross-entropy against soft targets `[B, classes]`.
    ///
    /// # Errors
    /// If candle fails.
    pub fn vit_loss(
        &self,
        config: &VitConfig,
        pooling: Pooling,
        (pixels, targets): (&Tensor, &Tensor),
        drop: Option<&DropPath>,
    ) -> Result<Tensor> {
        let (batch, patches) = (pixels.dims()[0], config.patches());
        let ids: Vec<u32> = (0..batch).flat_map(|_| 0..patches as u32).collect();
        let ids = Tensor::from_vec(ids, (batch, patches), &Device::Cpu)?;
        let x = self.trunk(config, pixels, (&ids, None), drop)?;
        let pooled = match pooling {
            Pooling::Token => {
                self.norm("norm", config.norm_eps, &x.narrow(1, 0, 1)?.squeeze(1)?)?
            }
            Pooling::Avg => self.norm(
                "fc_norm",
                config.norm_eps,
                &x.narrow(1, 1, patches)?.mean(1)?,
            )?,
        };
        let logits = self.linear("head", &pooled)?;
        let log_sums = logits.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let log_probs = logits.broadcast_sub(&log_sums)?;
        Ok((((log_probs * targets)?.sum_all()? / batch as f64)?).neg()?)
    }

    /// The gradient of `loss` for each variable by name; `None` where candle recorded none.
    ///
    /// # Errors
    /// If candle fails.
    pub fn gradients(&self, loss: &Tensor) -> Result<HashMap<String, Option<Vec<f32>>>> {
        let grads = loss.backward()?;
        self.vars
            .iter()
            .map(|(name, var)| {
                let grad = grads.get(var.as_tensor());
                let grad = grad
                    .map(|g| g.flatten_all()?.to_vec1::<f32>())
                    .transpose()?;
                Ok((name.clone(), grad))
            })
            .collect()
    }
}
