//! Joins what other programs keep apart, without a change in what the model computes: q, k and v into one projection, layer
//! scale into the projection before it, one table of relative positions into each block.

use std::collections::BTreeSet;

use mae_model::{StateDict, StateTensor};

use super::error::{Result, damaged};
use super::names::SHARED_TABLE;

/// Joins the parts of every block.
///
/// # Errors
/// If a part has a shape with which it cannot be joined. What is missing is left for the check of the whole.
pub(super) fn fold(state: &mut StateDict) -> Result<()> {
    let blocks = blocks(state);
    share_table(state, &blocks);
    // A model without biases of q, k and v has none in any block.
    let is_bias = |name: &String| {
        name.contains(".attn.") && name.ends_with(".bias") && !name.ends_with("proj.bias")
    };
    let biased = state.keys().any(is_bias);
    for block in blocks {
        join_weight(state, &block)?;
        join_bias(state, &block, biased)?;
        scale(
            state,
            &format!("{block}.ls1.gamma"),
            &format!("{block}.attn.proj"),
        )?;
        scale(
            state,
            &format!("{block}.ls2.gamma"),
            &format!("{block}.mlp.fc2"),
        )?;
    }
    Ok(())
}

/// `blocks.N` and `decoder_blocks.N`.
fn blocks(state: &StateDict) -> BTreeSet<String> {
    let block = |name: &String| {
        let (stack, rest) = name.split_once('.')?;
        let (number, _) = rest.split_once('.')?;
        stack
            .ends_with("blocks")
            .then(|| format!("{stack}.{number}"))
    };
    state.keys().filter_map(block).collect()
}

/// BEiT's pre-training has one table of relative positions for all blocks.
fn share_table(state: &mut StateDict, blocks: &BTreeSet<String>) {
    if let Some(table) = state.remove(SHARED_TABLE) {
        for block in blocks.iter().filter(|block| block.starts_with("blocks.")) {
            let name = format!("{block}.attn.relative_position_bias_table");
            state.insert(name, table.clone());
        }
    }
}

fn join_weight(state: &mut StateDict, block: &str) -> Result<()> {
    let part = |part: &str| format!("{block}.attn.{part}.weight");
    let parts = [part("q"), part("k"), part("v")];
    if !parts.iter().all(|name| state.contains_key(name)) {
        return Ok(());
    }
    let mut data = vec![];
    let mut rows = 0;
    let mut columns = None;
    for name in &parts {
        let Some(tensor) = state.remove(name) else {
            continue;
        };
        match tensor.shape[..] {
            [r, c] if columns.is_none_or(|columns| columns == c) => {
                rows += r;
                columns = Some(c);
            }
            _ => return Err(mismatch(name, &tensor.shape, "those of q, k and v")),
        }
        data.extend(tensor.data);
    }
    let shape = vec![rows, columns.unwrap_or(0)];
    state.insert(
        format!("{block}.attn.qkv.weight"),
        StateTensor { shape, data },
    );
    Ok(())
}

/// The biases of q and v, and of k if it has one: added to every score of a query alike, k's changes nothing.
fn join_bias(state: &mut StateDict, block: &str, biased: bool) -> Result<()> {
    let joined = format!("{block}.attn.qkv.bias");
    let weight = state.get(&format!("{block}.attn.qkv.weight"));
    let Some(&rows) = weight.and_then(|weight| weight.shape.first()) else {
        return Ok(());
    };
    let part = |part: &str| format!("{block}.attn.{part}.bias");
    let [q, k, v] = [part("q"), part("k"), part("v")];
    let data = if !biased {
        vec![0.0; rows]
    } else if state.contains_key(&q) && state.contains_key(&v) {
        let third = |state: &mut StateDict, name: &str| match state.remove(name) {
            Some(tensor) if tensor.data.len() == rows / 3 => Ok(tensor.data),
            Some(tensor) => Err(mismatch(name, &tensor.shape, &format!("[{}]", rows / 3))),
            None => Ok(vec![0.0; rows / 3]),
        };
        [third(state, &q)?, third(state, &k)?, third(state, &v)?].concat()
    } else {
        return Ok(());
    };
    state.insert(
        joined,
        StateTensor {
            shape: vec![rows],
            data,
        },
    );
    Ok(())
}

/// `gamma · (W·x + b)` as `(gamma·W)·x + gamma·b`.
fn scale(state: &mut StateDict, gamma: &str, layer: &str) -> Result<()> {
    let Some(gamma_tensor) = state.remove(gamma) else {
        return Ok(());
    };
    for leaf in ["weight", "bias"] {
        let Some(tensor) = state.get_mut(&format!("{layer}.{leaf}")) else {
            continue;
        };
        let rows = gamma_tensor.data.len();
        if tensor.shape.first() != Some(&rows) || rows == 0 {
            return Err(mismatch(
                gamma,
                &gamma_tensor.shape,
                &format!("{:?} of {layer}.{leaf}", tensor.shape),
            ));
        }
        let width = tensor.data.len() / rows;
        for (row, gamma) in tensor
            .data
            .chunks_exact_mut(width.max(1))
            .zip(&gamma_tensor.data)
        {
            row.iter_mut().for_each(|x| *x *= gamma);
        }
    }
    Ok(())
}

fn mismatch(name: &str, shape: &[usize], other: &str) -> super::ForeignError {
    damaged(format!(
        "{name} has the shape {shape:?}, which does not go with {other}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], from: f32) -> StateTensor {
        let count: usize = shape.iter().product();
        StateTensor {
            shape: shape.to_vec(),
            data: (0..count).map(|i| from + i as f32).collect(),
        }
    }

    fn block(entries: &[(&str, &[usize], f32)]) -> StateDict {
        entries
            .iter()
            .map(|(name, shape, from)| (format!("blocks.0.{name}"), tensor(shape, *from)))
            .collect()
    }

    #[test]
    fn q_k_and_v_become_one() {
        let mut state = block(&[
            ("attn.q.weight", &[2, 2], 0.0),
            ("attn.k.weight", &[2, 2], 10.0),
            ("attn.v.weight", &[2, 2], 20.0),
            ("attn.q.bias", &[2], 1.0),
            ("attn.v.bias", &[2], 5.0),
        ]);
        fold(&mut state).unwrap();
        assert_eq!(state.len(), 2);
        let weight = &state["blocks.0.attn.qkv.weight"];
        assert_eq!(weight.shape, [6, 2]);
        assert_eq!(weight.data[3..6], [3.0, 10.0, 11.0]);
        // No bias of k: BEiT's.
        assert_eq!(
            state["blocks.0.attn.qkv.bias"].data,
            [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]
        );
    }

    #[test]
    fn a_model_without_biases_gets_zeros() {
        let mut state = block(&[
            ("attn.qkv.weight", &[6, 2], 0.0),
            ("attn.proj.bias", &[2], 0.0),
        ]);
        fold(&mut state).unwrap();
        assert_eq!(state["blocks.0.attn.qkv.bias"].data, [0.0; 6]);
        // One block that lacks what another has is not such a model.
        let mut state = block(&[("attn.qkv.weight", &[6, 2], 0.0)]);
        state.insert("blocks.1.attn.qkv.bias".into(), tensor(&[6], 0.0));
        fold(&mut state).unwrap();
        assert!(!state.contains_key("blocks.0.attn.qkv.bias"));
    }

    #[test]
    fn layer_scale_goes_into_its_layer() {
        let mut state = block(&[
            ("ls2.gamma", &[2], 2.0),
            ("mlp.fc2.weight", &[2, 3], 1.0),
            ("mlp.fc2.bias", &[2], 1.0),
        ]);
        fold(&mut state).unwrap();
        assert_eq!(
            state["blocks.0.mlp.fc2.weight"].data,
            [2.0, 4.0, 6.0, 12.0, 15.0, 18.0]
        );
        assert_eq!(state["blocks.0.mlp.fc2.bias"].data, [2.0, 6.0]);
        assert_eq!(state.len(), 2);
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let mut state = block(&[("ls1.gamma", &[3], 2.0), ("attn.proj.weight", &[2, 2], 1.0)]);
        let error = fold(&mut state).unwrap_err().to_string();
        assert!(
            error.contains("ls1.gamma") && error.contains("[3]"),
            "{error}"
        );
        let mut state = block(&[
            ("attn.q.weight", &[2, 2], 0.0),
            ("attn.k.weight", &[2, 3], 0.0),
            ("attn.v.weight", &[2, 2], 0.0),
        ]);
        assert!(fold(&mut state).is_err());
        // An odd number of rows must not panic, either.
        let mut state = block(&[
            ("attn.qkv.weight", &[0], 0.0),
            ("attn.q.bias", &[2], 0.0),
            ("attn.v.bias", &[2], 0.0),
        ]);
        assert!(fold(&mut state).is_err());
        let mut state = block(&[("attn.qkv.weight", &[], 0.0)]);
        let _ = fold(&mut state);
    }
}
