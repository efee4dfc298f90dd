//! What does not fit, or is not known, is said by name.

use std::fs;
use std::path::Path;

use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::checkpoint::{inspect_foreign, load_encoder, load_mae};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};

use crate::{Golden, golden};

/// The error of reading `path`.
fn error(path: &Path, options: &ImportOptions) -> String {
    load_encoder(path, options, &candle_core::Device::Cpu)
        .err()
        .unwrap()
        .to_string()
}

/// A copy of the folder `vitmae` with its tensors changed by `change`: (name, shape, bytes), or nothing to leave one out.
fn changed(
    folder: &Path,
    change: impl Fn(&str, &[usize], &[u8]) -> Option<(String, Vec<usize>, Vec<u8>)>,
) {
    let from = golden().join("vitmae");
    fs::copy(from.join("config.json"), folder.join("config.json")).unwrap();
    let content = fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&content).unwrap();
    let tensors: Vec<_> = tensors
        .iter()
        .filter_map(|(name, view)| change(name, view.shape(), view.data()))
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

#[test]
fn missing_extra_and_misshapen_parameters_have_both_names() {
    let folder = tempfile::tempdir().unwrap();
    changed(folder.path(), |name, shape, bytes| match name {
        "vit.encoder.layer.0.layernorm_after.weight" => None,
        "vit.encoder.layer.0.attention.attention.key.weight" => None,
        "vit.encoder.layer.0.intermediate.dense.bias" => Some((
            name.into(),
            vec![shape[0] / 2],
            bytes[..bytes.len() / 2].to_vec(),
        )),
        "vit.layernorm.bias" => Some((
            "vit.embeddings.frequencies".into(),
            shape.to_vec(),
            bytes.to_vec(),
        )),
        _ => Some((name.into(), shape.to_vec(), bytes.to_vec())),
    });
    let error = error(folder.path(), &ImportOptions::default());
    for part in [
        "blocks.0.norm2.weight (vit.encoder.layer.0.layernorm_after.weight)",
        "vit.encoder.layer.0.attention.attention.key.weight",
        "norm.bias (vit.layernorm.bias)",
        "unexpected: ",
        "vit.embeddings.frequencies",
        "blocks.0.mlp.fc1.bias (vit.encoder.layer.0.intermediate.dense.bias) (the model has [32], the weights [16])",
    ] {
        assert!(error.contains(part), "`{part}` is missing in {error}");
    }
}

#[test]
fn models_of_another_kind_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let renamed = |from: &str, to: &str| {
        changed(folder.path(), |name, shape, bytes| {
            let name = if name == from { to } else { name };
            Some((name.into(), shape.to_vec(), bytes.to_vec()))
        });
        error(folder.path(), &ImportOptions::default())
    };
    let registers = renamed("vit.layernorm.bias", "vit.embeddings.register_tokens");
    assert!(
        registers.contains("tokens beside the class token"),
        "{registers}"
    );
    let no_token = renamed("vit.embeddings.cls_token", "vit.pooler.dense.bias");
    assert!(no_token.contains("no class token"), "{no_token}");
    // Facts of another model beside it.
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    let config = config.replace("\"hidden_size\": 16", "\"hidden_size\": 768");
    fs::write(folder.path().join("config.json"), config).unwrap();
    let other = error(folder.path(), &ImportOptions::default());
    assert!(
        other.contains("768 wide where the weights are 16"),
        "{other}"
    );
}

#[test]
fn weights_in_several_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors.index.json"), "{}").unwrap();
    assert!(error(folder.path(), &ImportOptions::default()).contains("max_shard_size"));
}

#[test]
fn a_head_that_reads_something_else_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let from = golden().join("timm");
    fs::copy(
        from.join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    let config = fs::read_to_string(from.join("config.json")).unwrap();
    let classes = |config: &str| {
        fs::write(folder.path().join("config.json"), config).unwrap();
        let inspection = inspect_foreign(folder.path(), &ImportOptions::default()).unwrap();
        (inspection.classes, inspection.left_out.len())
    };
    assert_eq!(classes(&config), (Some(3), 0));
    assert_eq!(classes(&config.replace("\"token\"", "\"avg\"")), (None, 2));
}

#[test]
fn what_is_not_known_names_its_flag() {
    let golden = Golden::open();
    let full = &golden.case("reference_full").path;
    let none = ImportOptions::default();
    assert!(error(full, &none).contains("--heads N"));
    let heads = ImportOptions {
        heads: Some(2),
        ..none.clone()
    };
    let decoder = load_mae(full, &heads, &candle_core::Device::Cpu)
        .err()
        .unwrap()
        .to_string();
    assert!(decoder.contains("--decoder-heads N"), "{decoder}");
    let encoder = load_mae(
        &golden.case("moco_v3").path,
        &heads,
        &candle_core::Device::Cpu,
    )
    .err()
    .unwrap()
    .to_string();
    assert!(
        encoder.contains("no decoder") && encoder.contains("_full.pth"),
        "{encoder}"
    );
    let wrong = ImportOptions {
        heads: Some(3),
        ..none.clone()
    };
    assert!(error(full, &wrong).contains("3 heads do not divide"));
    // What it shows, it shows without flags.
    let inspection = inspect_foreign(full, &none).unwrap();
    assert_eq!(
        (inspection.encoder.heads, inspection.encoder.dim),
        (None, 16)
    );
    assert!(
        inspection
            .to_string()
            .contains("heads not known (give --heads)")
    );
    let dino = inspect_foreign(&golden.case("dino_teacher").path, &none).unwrap();
    assert_eq!(
        (dino.key.as_deref(), &dino.other_keys[..]),
        (Some("teacher"), &["student".to_owned()][..])
    );
    assert_eq!(dino.left_out, ["head.mlp.0.weight"]);
}

#[test]
fn a_key_that_is_not_there_names_those_that_are() {
    let golden = Golden::open();
    let options = ImportOptions {
        key: Some("ema".into()),
        ..ImportOptions::default()
    };
    let error = error(&golden.case("dino_teacher").path, &options);
    assert!(
        error.contains("ema") && error.contains("student, teacher"),
        "{error}"
    );
}

#[test]
fn files_of_other_kinds_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.pth");
    let none = ImportOptions::default();
    fs::write(&file, "no weights").unwrap();
    assert!(error(&file, &none).contains("neither a safetensors file nor"));
    fs::write(&file, "").unwrap();
    assert!(error(&file, &none).contains("neither a safetensors file nor"));
    assert!(error(&folder.path().join("gone"), &none).contains("holds no checkpoint"));
    assert!(error(folder.path(), &none).contains("holds no checkpoint"));
}

#[test]
fn another_image_size_is_interpolated() {
    let golden = Golden::open();
    let case = golden.case("dino_teacher");
    let at = |size| {
        let options = ImportOptions {
            image_size: Some(size),
            ..case.options.clone()
        };
        load_encoder(&case.path, &options, &candle_core::Device::Cpu)
    };
    let (encoder, _) = at((12, 20)).unwrap();
    assert_eq!(encoder.config.patches(), 15);
    assert_eq!(
        encoder.state_dict().unwrap()["pos_embed"].shape,
        [1, 16, 16]
    );
    let error = at((10, 8)).err().unwrap().to_string();
    assert!(
        error.contains("does not divide an image of 10x8"),
        "{error}"
    );
    // BEiT's tables are not.
    let case = golden.case("beit");
    let options = ImportOptions {
        image_size: Some((12, 12)),
        ..case.options.clone()
    };
    assert!(crate::fit::error(&case.path, &options).contains("tables of relative positions"));
}
