//! Parameters' names here and elsewhere. Ours are the reference code's, which are timm's; Hugging Face's come in the hub's older
//! form and that of transformers 5; other programs put something in front.
//!
//! Where another program splits a parameter, its parts are called after ours: `attn.q.weight`, `attn.k.weight` and
//! `attn.v.weight` make `attn.qkv.weight`, `ls1.gamma` belongs into `attn.proj.*`; [`fold`](super::fold) joins them.

use std::collections::BTreeSet;

use mae_model::stage::mask_tokens::ENCODER_MASK_TOKEN;

use super::error::{Result, unsupported};
use super::object::PATCH_EMBEDDINGS;

/// Modules of a block, ours and Hugging Face's in its older and its present form.
const LAYER: &[(&str, &str, &str)] = &[
    ("norm1", "layernorm_before", "layernorm_before"),
    ("attn.q", "attention.attention.query", "attention.q_proj"),
    ("attn.k", "attention.attention.key", "attention.k_proj"),
    ("attn.v", "attention.attention.value", "attention.v_proj"),
    ("attn.proj", "attention.output.dense", "attention.o_proj"),
    ("norm2", "layernorm_after", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense", "mlp.fc1"),
    ("mlp.fc2", "output.dense", "mlp.fc2"),
];

/// Single parameters of a block that are no module's weight or bias.
const LAYER_SINGLE: &[(&str, &str, &str)] = &[
    ("ls1.gamma", "lambda_1", "lambda_1"),
    ("ls2.gamma", "lambda_2", "lambda_2"),
    (
        "attn.relative_position_bias_table",
        "attention.attention.relative_position_bias.relative_position_bias_table",
        "relative_position_bias.relative_position_bias_table",
    ),
];

/// Everything of the encoder outside of its blocks: ours, and Hugging Face's behind its prefix.
const ENCODER: &[(&str, &str)] = &[
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    (
        "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.weight",
    ),
    (
        "patch_embed.proj.bias",
        "embeddings.patch_embeddings.projection.bias",
    ),
    (
        SHARED_TABLE,
        "encoder.relative_position_bias.relative_position_bias_table",
    ),
    ("norm.weight", "layernorm.weight"),
    ("norm.bias", "layernorm.bias"),
    ("fc_norm.weight", "pooler.layernorm.weight"),
    ("fc_norm.bias", "pooler.layernorm.bias"),
];

/// What stands beside the encoder: ours, and Hugging Face's.
const BESIDE: &[(&str, &str)] = &[
    ("mask_token", "decoder.mask_token"),
    ("decoder_pos_embed", "decoder.decoder_pos_embed"),
    ("decoder_embed.weight", "decoder.decoder_embed.weight"),
    ("decoder_embed.bias", "decoder.decoder_embed.bias"),
    ("decoder_norm.weight", "decoder.decoder_norm.weight"),
    ("decoder_norm.bias", "decoder.decoder_norm.bias"),
    ("decoder_pred.weight", "decoder.decoder_pred.weight"),
    ("decoder_pred.bias", "decoder.decoder_pred.bias"),
    ("head.weight", "classifier.weight"),
    ("head.bias", "classifier.bias"),
];

/// Where blocks stand: ours, and Hugging Face's behind the prefix (encoder) or beside it (decoder). transformers 5.24 writes the
/// second name of the decoder's.
const ENCODER_BLOCKS: &[&str] = &["encoder.layer.", "layers."];
const DECODER_BLOCKS: &[&str] = &["decoder.decoder_layers.", "decoder.decoder_encoder.layer."];

/// BEiT's one table for all blocks.
pub(super) const SHARED_TABLE: &str = "rel_pos_bias.relative_position_bias_table";

/// Parts of a model that no encoder needs; not an error.
const LEFT_OUT: &[&str] = &[
    "head.",
    "head_dist.",
    "pre_logits.",
    "lm_head.",
    "pooler.dense.",
    "embeddings.mask_token",
];

/// What a name in a file stands for.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    /// Our name, or that of a part.
    Ours(String),
    /// Something that is deliberately not taken.
    LeftOut,
    /// Something that this model does not have.
    Unknown,
}

/// How a file names its parameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Naming {
    /// In front of the encoder's names, `module.base_encoder.` for example.
    pub(super) prefix: String,
    /// Whether names are Hugging Face's.
    pub(super) hugging_face: bool,
    /// Whether they are in transformers 5's own form.
    present: bool,
}

impl Naming {
    /// Tells a file's naming by its names.
    ///
    /// # Errors
    /// If no vision transformer is among them.
    pub(super) fn of<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Result<Self> {
        let prefixes: BTreeSet<(&str, bool)> = names
            .clone()
            .flat_map(|name| {
                let ends = PATCH_EMBEDDINGS.iter().enumerate();
                ends.filter_map(move |(i, end)| Some((name.strip_suffix(end)?, i == 1)))
            })
            .filter(|(prefix, _)| prefix.is_empty() || prefix.ends_with('.'))
            .collect();
        // MoCo v3 keeps two encoders side by side; its own protocol judges this one.
        let base = prefixes
            .iter()
            .find(|(prefix, _)| prefix.contains("base_encoder"));
        let Some(&(prefix, hugging_face)) = base.or(prefixes.first()) else {
            let mut first: Vec<&str> = names.take(6).collect();
            first.push("…");
            return Err(unsupported(format!(
                "it holds no weights of a vision transformer (no {}), but {}",
                PATCH_EMBEDDINGS[0],
                first.join(", ")
            )));
        };
        let mut naming = Self {
            prefix: prefix.to_owned(),
            hugging_face,
            present: false,
        };
        naming.present = names.clone().any(|name| name.contains(".q_proj."));
        Ok(naming)
    }

    /// Hugging Face's, as its hub has them; every version of transformers reads these.
    pub(super) fn hub(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            hugging_face: true,
            present: false,
        }
    }

    /// What stands in front of all names, the encoder's and those beside it.
    fn root(&self) -> &str {
        let parent = self
            .prefix
            .trim_end_matches('.')
            .rfind('.')
            .map_or(0, |i| i + 1);
        &self.prefix[..if self.hugging_face {
            parent
        } else {
            self.prefix.len()
        }]
    }

    /// What a name of the file stands for.
    pub(super) fn meaning(&self, name: &str) -> Meaning {
        let ours = |name: Option<String>| name.map(Meaning::Ours);
        let inside = name.strip_prefix(&self.prefix);
        let found = if self.hugging_face {
            inside
                .and_then(|name| ours(self.encoder_name(name)))
                .or_else(|| ours(self.name_beside(name.strip_prefix(self.root())?)))
        } else {
            inside.and_then(|name| ours(reference_name(name)))
        };
        if let Some(found) = found {
            return found;
        }
        // What stands beside the encoder is another part of the program: a projection head, a second encoder.
        let Some(inside) = inside else {
            return Meaning::LeftOut;
        };
        let left_out = LEFT_OUT.iter().any(|part| inside.starts_with(part))
            || inside.ends_with("relative_position_index");
        if left_out {
            Meaning::LeftOut
        } else {
            Meaning::Unknown
        }
    }

    /// The names in the file that make up one of ours.
    pub(super) fn theirs(&self, ours: &str) -> Vec<String> {
        if !self.hugging_face {
            return vec![format!("{}{ours}", self.prefix)];
        }
        let (prefix, root) = (&self.prefix, self.root());
        if let Some((_, name)) = ENCODER.iter().find(|(name, _)| *name == ours) {
            return vec![format!("{prefix}{name}")];
        }
        if let Some((_, name)) = BESIDE.iter().find(|(name, _)| *name == ours) {
            return vec![format!("{root}{name}")];
        }
        let (blocks, rest) = match (
            ours.strip_prefix("blocks."),
            ours.strip_prefix("decoder_blocks."),
        ) {
            (Some(rest), _) => {
                let blocks = ENCODER_BLOCKS[usize::from(self.present)];
                (format!("{prefix}{blocks}"), rest)
            }
            (_, Some(rest)) => (format!("{root}{}", DECODER_BLOCKS[0]), rest),
            _ => return vec![ours.to_owned()],
        };
        let (number, leaf) = rest.split_once('.').unwrap_or((rest, ""));
        let leaves = match leaf.strip_prefix("attn.qkv.") {
            Some(leaf) => ["q", "k", "v"]
                .map(|part| format!("attn.{part}.{leaf}"))
                .to_vec(),
            None => vec![leaf.to_owned()],
        };
        let theirs = |leaf: &String| {
            let form = |old: &'static str, new| if self.present { new } else { old };
            let single = LAYER_SINGLE.iter().find(|(name, ..)| name == leaf);
            let module = LAYER.iter().find_map(|(name, old, new)| {
                let kind = leaf.strip_prefix(name)?;
                kind.starts_with('.')
                    .then(|| format!("{}{kind}", form(old, new)))
            });
            let leaf = single
                .map(|(_, old, new)| form(old, new).to_owned())
                .or(module);
            leaf.map(|leaf| format!("{blocks}{number}.{leaf}"))
        };
        leaves.iter().filter_map(theirs).collect()
    }

    fn encoder_name(&self, name: &str) -> Option<String> {
        if let Some((ours, _)) = ENCODER.iter().find(|(_, theirs)| *theirs == name) {
            return Some((*ours).to_owned());
        }
        let in_block = ENCODER_BLOCKS
            .iter()
            .find_map(|blocks| name.strip_prefix(blocks))?;
        Some(format!("blocks.{}", block_name(in_block)?))
    }

    fn name_beside(&self, name: &str) -> Option<String> {
        if let Some((ours, _)) = BESIDE.iter().find(|(_, theirs)| *theirs == name) {
            return Some((*ours).to_owned());
        }
        let in_block = DECODER_BLOCKS
            .iter()
            .find_map(|blocks| name.strip_prefix(blocks))?;
        Some(format!("decoder_blocks.{}", block_name(in_block)?))
    }
}

/// Hugging Face's `N.name` as ours.
fn block_name(name: &str) -> Option<String> {
    let (number, rest) = numbered(name)?;
    if let Some((ours, ..)) = LAYER_SINGLE
        .iter()
        .find(|(_, old, new)| rest == *old || rest == *new)
    {
        return Some(format!("{number}.{ours}"));
    }
    let (module, kind) = rest.rsplit_once('.')?;
    let (ours, ..) = LAYER
        .iter()
        .find(|(_, old, new)| module == *old || module == *new)?;
    matches!(kind, "weight" | "bias").then(|| format!("{number}.{ours}.{kind}"))
}

/// `12.rest`, the number written as numbers are.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    let parsed: usize = number.parse().ok()?;
    (parsed.to_string() == number).then_some((parsed, rest))
}

/// A name of the reference code's, timm's or BEiT's as ours.
fn reference_name(name: &str) -> Option<String> {
    let known = [SHARED_TABLE, ENCODER_MASK_TOKEN].contains(&name)
        || ENCODER.iter().chain(BESIDE).any(|(ours, _)| *ours == name);
    if known {
        return Some(name.to_owned());
    }
    let (blocks, rest) = match (
        name.strip_prefix("blocks."),
        name.strip_prefix("decoder_blocks."),
    ) {
        (Some(rest), _) => ("blocks", rest),
        (_, Some(rest)) => ("decoder_blocks", rest),
        _ => return None,
    };
    let (number, rest) = numbered(rest)?;
    let leaf = match rest {
        "gamma_1" => "ls1.gamma",
        "gamma_2" => "ls2.gamma",
        "attn.q_bias" => "attn.q.bias",
        "attn.k_bias" => "attn.k.bias",
        "attn.v_bias" => "attn.v.bias",
        "attn.qkv.weight" | "attn.qkv.bias" => rest,
        _ => {
            let module = rest
                .rsplit_once('.')
                .filter(|(_, kind)| matches!(*kind, "weight" | "bias"));
            let in_layer =
                module.is_some_and(|(module, _)| LAYER.iter().any(|(ours, ..)| *ours == module));
            let single = LAYER_SINGLE.iter().any(|(ours, ..)| *ours == rest);
            if !(in_layer || single) {
                return None;
            }
            rest
        }
    };
    Some(format!("{blocks}.{number}.{leaf}"))
}

#[cfg(test)]
mod tests;
