//! AdamW over flat parameters, in groups: weight decay on parameters of two and more dimensions only. Of several ranks, each may hold the
//! moments of a part of the parameters and update that alone (ZeRO-1, Rajbhandari et al. 2020).

use std::ops::Range;

use candle_core::{DType, Tensor};
use mae_model::ops::adamw::{AdamWStep, Group, Groups, adamw_step};
use mae_model::params::{ALIGN, write_range};
use mae_model::{ParamSpec, Params, Record, StateDict, StateTensor};

use crate::dist;
use crate::error::{Error, Result};

/// What stays the same over the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of the parameters that decay.
    pub weight_decay: f64,
}

/// The optimiser: both moments, and the groups.
pub struct AdamW {
    settings: AdamWSettings,
    groups: Groups,
    /// Of all ranks, what each updates of the flat parameters; one alone has all.
    parts: Vec<Range<usize>>,
    rank: usize,
    /// Of this rank's part.
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

/// How a parameter is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Treatment {
    /// Whether weight decay applies.
    pub decay: bool,
    /// What the learning rate is multiplied by for it.
    pub lr_scale: f64,
}

/// Neighbours that are treated alike become one range, the zero gaps between them included. Without a treatment a parameter is left
/// as it is.
fn groups(
    specs: &[ParamSpec],
    weight_decay: f64,
    treatment: impl Fn(&ParamSpec) -> Option<Treatment>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = vec![];
    let mut joins = false;
    for spec in specs {
        let Some(treatment) = treatment(spec) else {
            joins = false;
            continue;
        };
        let group = Group {
            range: spec.range(),
            weight_decay: if treatment.decay { weight_decay } else { 0.0 },
            lr_scale: treatment.lr_scale,
        };
        match groups.last_mut() {
            Some(last)
                if joins
                    && (last.weight_decay, last.lr_scale)
                        == (group.weight_decay, group.lr_scale) =>
            {
                last.range.end = group.range.end;
            }
            _ => groups.push(group),
        }
        joins = true;
    }
    groups
}

impl AdamW {
    /// With zero moments; everything is trained alike, but for the decay, which is for parameters of two and more dimensions.
    pub fn new(params: &Params, settings: AdamWSettings) -> Result<Self> {
        Self::with(params, settings, |spec| {
            Some(Treatment {
                decay: spec.decay,
                lr_scale: 1.0,
            })
        })
    }

    /// With zero moments; a parameter without a treatment is left as it is.
    pub fn with(
        params: &Params,
        settings: AdamWSettings,
        treatment: impl Fn(&ParamSpec) -> Option<Treatment>,
    ) -> Result<Self> {
        let groups = groups(params.specs(), settings.weight_decay, treatment);
        Ok(AdamW {
            settings,
            groups: Groups::new(groups, params.flat_len()),
            parts: parts(params.flat_len(), 1),
            rank: 0,
            exp_avg: params.zeros_like_flat()?,
            exp_avg_sq: params.zeros_like_flat()?,
        })
    }

    /// The same for a rank that holds the moments of its part alone. Without a state yet.
    pub(crate) fn shard(self, params: &Params, (rank, world): (usize, usize)) -> Result<Self> {
        let parts = parts(params.flat_len(), world);
        let part = parts[rank].clone();
        let groups = self.groups.groups().iter().filter_map(|group| {
            let range = group.range.start.max(part.start)..group.range.end.min(part.end);
            (!range.is_empty()).then(|| Group {
                range: range.start - part.start..range.end - part.start,
                ..group.clone()
            })
        });
        let groups = Groups::new(groups.collect(), part.len());
        let zeros = || Tensor::zeros(part.len(), DType::F32, params.flat().device());
        Ok(AdamW {
            settings: self.settings,
            groups,
            rank,
            exp_avg: zeros()?,
            exp_avg_sq: zeros()?,
            parts,
        })
    }

    fn part(&self) -> Range<usize> {
        self.parts[self.rank].clone()
    }

    /// Bytes of the moments here.
    pub(crate) fn bytes(&self) -> u64 {
        2 * size_of::<f32>() as u64 * self.part().len() as u64
    }

    /// What each rank updates of the flat parameters, where that is not all of them.
    pub(crate) fn shards(&self) -> Option<&[Range<usize>]> {
        (self.parts.len() > 1).then_some(&self.parts)
    }

    /// Updates `params` from `grads` as `record` has settled it. `step` counts updates from 1.
    pub fn step(
        &mut self,
        params: &Params,
        grads: &Tensor,
        record: &Record,
        lr: f64,
        step: u64,
    ) -> Result<()> {
        let AdamWSettings {
            beta1, beta2, eps, ..
        } = self.settings;
        let step = AdamWStep {
            lr,
            beta1,
            beta2,
            eps,
            step,
        };
        let part = self.part();
        if part.is_empty() {
            return Ok(());
        }
        let of_part = |flat: &Tensor| flat.narrow(0, part.start, part.len());
        let (flat, low) = (
            of_part(params.flat())?,
            params.low().map(of_part).transpose()?,
        );
        let (weights, grads) = ((&flat, low.as_ref()), of_part(grads)?);
        let moments = (&self.exp_avg, &self.exp_avg_sq);
        Ok(adamw_step(
            weights,
            &grads,
            moments,
            &self.groups,
            record,
            &step,
        )?)
    }

    fn moments(&self) -> [(&'static str, &Tensor); 2] {
        [("exp_avg", &self.exp_avg), ("exp_avg_sq", &self.exp_avg_sq)]
    }

    /// The moments by parameter, as `exp_avg.NAME` and `exp_avg_sq.NAME`.
    ///
    /// # Errors
    /// If the device fails; where ranks hold parts of them, this is this rank's alone, and zeros.
    pub fn state(&self, params: &Params) -> Result<StateDict> {
        self.state_with(params, |_| Ok(true))
    }

    /// As [`AdamW::state`], of all ranks, for the first of them; the others, which must call it, too, get nothing.
    pub(crate) fn whole_state(&self, params: &Params, group: &dist::Group) -> Result<StateDict> {
        self.state_with(params, |flat| {
            group.share(flat, &self.parts)?;
            Ok(group.is_first())
        })
    }

    /// `complete` brings in what other ranks hold, and says whether this one is to have it.
    fn state_with(
        &self,
        params: &Params,
        complete: impl Fn(&Tensor) -> Result<bool>,
    ) -> Result<StateDict> {
        let mut state = StateDict::new();
        for (moment, tensor) in self.moments() {
            let flat: Vec<f32> = match self.shards() {
                None => tensor.to_vec1()?,
                Some(_) => {
                    let whole = Tensor::zeros(params.flat_len(), DType::F32, tensor.device())?;
                    whole.slice_set(tensor, 0, self.part().start)?;
                    if !complete(&whole)? {
                        continue;
                    }
                    whole.to_vec1()?
                }
            };
            for spec in params.specs() {
                let tensor = StateTensor {
                    shape: spec.shape.clone(),
                    data: flat[spec.range()].to_vec(),
                };
                state.insert(format!("{moment}.{}", spec.name), tensor);
            }
        }
        Ok(state)
    }

    /// Takes moments as [`AdamW::state`] gives them.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] naming the first that is missing or has another shape.
    pub fn load_state(&mut self, params: &Params, state: &StateDict) -> Result<()> {
        let part = self.part();
        for (moment, tensor) in self.moments() {
            for spec in params.specs() {
                let name = format!("{moment}.{}", spec.name);
                match state.get(&name) {
                    Some(saved) if saved.shape == spec.shape => {
                        let range = spec.range();
                        let here = range.start.max(part.start)..range.end.min(part.end);
                        if !here.is_empty() {
                            let data =
                                &saved.data[here.start - range.start..here.end - range.start];
                            write_range(
                                tensor,
                                here.start - part.start..here.end - part.start,
                                data,
                            )?
                        }
                    }
                    found => {
                        let found = found.map_or("nothing".to_owned(), |saved| {
                            format!("shape {:?}", saved.shape)
                        });
                        return Err(Error::OptimizerState {
                            name,
                            expected: spec.shape.clone(),
                            found,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

/// The flat parameters in as many parts as there are ranks, alike but for one alignment.
fn parts(flat_len: usize, world: usize) -> Vec<Range<usize>> {
    let units = flat_len / ALIGN;
    let at = |rank: usize| units * rank / world * ALIGN;
    let end = |rank: usize| {
        if rank + 1 == world {
            flat_len
        } else {
            at(rank + 1)
        }
    };
    (0..world).map(|rank| at(rank)..end(rank)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mae_model::{Mae, MaeConfig};

    const SETTINGS: AdamWSettings = AdamWSettings {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.5,
    };

    fn mae() -> Mae {
        Mae::new(
            MaeConfig::named("mae-micro-patch4", (8, 8), 3).unwrap(),
            &Device::Cpu,
            1,
        )
        .unwrap()
    }

    fn settled(grads: &Tensor) -> Record {
        let record = Record::new(grads.device(), None).unwrap();
        record.settle(grads).unwrap();
        record
    }

    #[test]
    fn groups_cover_every_parameter_with_its_own_decay() {
        let mae = mae();
        let plain = |spec: &ParamSpec| {
            Some(Treatment {
                decay: spec.decay,
                lr_scale: 1.0,
            })
        };
        let groups = groups(mae.params.specs(), 0.05, plain);
        for spec in mae.params.specs() {
            let of: Vec<&Group> = groups
                .iter()
                .filter(|g| g.range.start <= spec.offset && spec.range().end <= g.range.end)
                .collect();
            assert_eq!(of.len(), 1, "{}", spec.name);
            assert_eq!(
                of[0].weight_decay > 0.0,
                spec.shape.len() > 1,
                "{}",
                spec.name
            );
        }
        assert!(
            groups
                .windows(2)
                .all(|pair| pair[0].range.end <= pair[1].range.start)
        );
    }

    /// With zero gradients an update is decay alone.
    #[test]
    fn only_matrices_decay() {
        let mae = mae();
        let before = mae.params.to_vec().unwrap();
        let grads = mae.params.zeros_like_flat().unwrap();
        AdamW::new(&mae.params, SETTINGS)
            .unwrap()
            .step(&mae.params, &grads, &settled(&grads), 0.1, 1)
            .unwrap();
        let after = mae.params.to_vec().unwrap();
        for spec in mae.params.specs() {
            for (a, b) in after[spec.range()].iter().zip(&before[spec.range()]) {
                let expected = if spec.decay {
                    b * (1.0 - 0.1 * 0.5)
                } else {
                    *b
                };
                assert!(
                    (a - expected).abs() <= 1e-6 * expected.abs(),
                    "{}",
                    spec.name
                );
            }
        }
    }

    #[test]
    fn saved_moments_continue_to_the_bit() {
        let (one, two) = (mae(), mae());
        let grads = one.params.zeros_like_flat().unwrap();
        let ramp: Vec<f32> = (0..64).map(|i| (i as f32 - 31.5) * 1e-2).collect();
        for spec in one.params.specs() {
            write_range(
                &grads,
                spec.offset..spec.offset + spec.len.min(64),
                &ramp[..spec.len.min(64)],
            )
            .unwrap();
        }
        let record = settled(&grads);
        let mut straight = AdamW::new(&one.params, SETTINGS).unwrap();
        for step in 1..=4 {
            straight
                .step(&one.params, &grads, &record, 1e-3, step)
                .unwrap();
        }
        let mut first = AdamW::new(&two.params, SETTINGS).unwrap();
        for step in 1..=2 {
            first
                .step(&two.params, &grads, &record, 1e-3, step)
                .unwrap();
        }
        let state = first.state(&two.params).unwrap();
        let mut second = AdamW::new(&two.params, SETTINGS).unwrap();
        second.load_state(&two.params, &state).unwrap();
        for step in 3..=4 {
            second
                .step(&two.params, &grads, &record, 1e-3, step)
                .unwrap();
        }
        assert_eq!(one.params.to_vec().unwrap(), two.params.to_vec().unwrap());
        assert_eq!(
            straight.state(&one.params).unwrap(),
            second.state(&two.params).unwrap()
        );
    }

    /// Each part updated by its own rank is what one updates.
    #[test]
    fn parts_together_are_the_whole() {
        let (one, two) = (mae(), mae());
        let grads = one.params.zeros_like_flat().unwrap();
        let ramp: Vec<f32> = (0..grads.elem_count())
            .map(|i| (i % 97) as f32 - 48.0)
            .collect();
        write_range(&grads, 0..ramp.len(), &ramp).unwrap();
        let record = settled(&grads);
        let mut whole = AdamW::new(&one.params, SETTINGS).unwrap();
        let mut shards: Vec<AdamW> = (0..3)
            .map(|rank| {
                let all = AdamW::new(&two.params, SETTINGS).unwrap();
                all.shard(&two.params, (rank, 3)).unwrap()
            })
            .collect();
        for step in 1..=3 {
            whole
                .step(&one.params, &grads, &record, 1e-3, step)
                .unwrap();
            for shard in &mut shards {
                shard
                    .step(&two.params, &grads, &record, 1e-3, step)
                    .unwrap();
            }
        }
        assert_eq!(one.params.to_vec().unwrap(), two.params.to_vec().unwrap());
        let bytes: u64 = shards.iter().map(AdamW::bytes).sum();
        assert_eq!(bytes, whole.bytes());
        // A saved state is taken up by parts as it is by the whole.
        let state = whole.state(&one.params).unwrap();
        for shard in &mut shards {
            shard.load_state(&two.params, &state).unwrap();
        }
        whole.step(&one.params, &grads, &record, 1e-3, 4).unwrap();
        for shard in &mut shards {
            shard.step(&two.params, &grads, &record, 1e-3, 4).unwrap();
        }
        assert_eq!(one.params.to_vec().unwrap(), two.params.to_vec().unwrap());
    }

    #[test]
    fn missing_moments_are_named() {
        let mae = mae();
        let mut adamw = AdamW::new(&mae.params, SETTINGS).unwrap();
        let mut state = adamw.state(&mae.params).unwrap();
        state.remove("exp_avg_sq.cls_token");
        let error = adamw
            .load_state(&mae.params, &state)
            .unwrap_err()
            .to_string();
        assert!(error.contains("exp_avg_sq.cls_token"), "{error}");
    }
}
