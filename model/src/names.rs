//! Weights by the reference code's names: what checkpoints hold.

use std::collections::BTreeMap;

use crate::params::Params;
use crate::{Error, Result};

/// One named tensor of a checkpoint, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct StateTensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Numbers.
    pub data: Vec<f32>,
}

/// Weights by name, in alphabetical order.
pub type StateDict = BTreeMap<String, StateTensor>;

/// Every parameter by name.
pub(crate) fn save(params: &Params) -> Result<StateDict> {
    let flat = params.to_vec()?;
    let tensor = |spec: &crate::ParamSpec| StateTensor {
        shape: spec.shape.clone(),
        data: flat[spec.range()].to_vec(),
    };
    Ok(params
        .specs()
        .iter()
        .map(|spec| (spec.name.clone(), tensor(spec)))
        .collect())
}

/// Overwrites every parameter; nothing is written unless all fit. `others` are names and shapes
/// that the caller reads itself (buffers).
pub(crate) fn load(
    params: &Params,
    state: &StateDict,
    others: &[(&str, Vec<usize>)],
) -> Result<()> {
    let wanted: Vec<(&str, &[usize])> = params
        .specs()
        .iter()
        .map(|spec| (spec.name.as_str(), spec.shape.as_slice()))
        .chain(others.iter().map(|(name, shape)| (*name, shape.as_slice())))
        .collect();
    let (mut missing, mut misshapen) = (vec![], vec![]);
    for (name, shape) in &wanted {
        match state.get(*name) {
            None => missing.push((*name).to_string()),
            Some(tensor) if tensor.shape != *shape => misshapen.push(format!(
                "{name} (the model has {shape:?}, the weights {:?})",
                tensor.shape
            )),
            Some(_) => {}
        }
    }
    let unexpected: Vec<String> = state
        .keys()
        .filter(|key| wanted.iter().all(|(name, _)| name != key))
        .cloned()
        .collect();
    if !(missing.is_empty() && unexpected.is_empty() && misshapen.is_empty()) {
        return Err(Error::StateDict {
            missing,
            unexpected,
            misshapen,
        });
    }
    params.set(|spec| &state[&spec.name].data)
}
