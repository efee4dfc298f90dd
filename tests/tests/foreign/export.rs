//! From format to format and back, to the bit.

use std::fs;
use std::path::Path;

use candle_core::Device;
use mae_model::{Encoder, FinalNorm, Mae, MaeConfig, StateDict};
use mae_trainer::checkpoint::foreign::{Client, ImportOptions};
use mae_trainer::checkpoint::{
    RunKind, RunState, VERSION, export, folder, load_classifier, load_encoder, load_mae, save,
};
use mae_trainer::{PretrainConfig, RawPretrain};
use serde_json::{Value, json};

use crate::{Case, Golden};

/// A run with one checkpoint, whose weights are those of its seed.
fn run(path: &Path, input_size: &str) -> (MaeConfig, StateDict) {
    run_of(path, input_size, false)
}

fn run_of(path: &Path, input_size: &str, encoder_mask_tokens: bool) -> (MaeConfig, StateDict) {
    let config = PretrainConfig::resolve(RawPretrain {
        encoder_mask_tokens: Some(encoder_mask_tokens),
        data: Some(vec!["a.tar".into()]),
        output_dir: Some(path.to_owned()),
        model: Some("mae-micro-patch4".into()),
        input_size: Some(input_size.parse().unwrap()),
        dim: Some(20),
        depth: Some(2),
        heads: Some(5),
        decoder_dim: Some(12),
        decoder_depth: Some(1),
        decoder_heads: Some(3),
        norm_pix_loss: Some(true),
        mask_ratio: Some(0.6),
        mean: Some(vec![0.4, 0.5, 0.6]),
        std: Some(vec![0.2, 0.3, 0.1]),
        ..Default::default()
    })
    .unwrap();
    let mae = Mae::new(config.mae(), &Device::Cpu, 3).unwrap();
    let state = mae.state_dict().unwrap();
    let run_state = RunState {
        version: VERSION,
        kind: RunKind::Pretrain,
        best: None,
        written_by: "0".into(),
        world: 1,
        skipped: vec![],
        step: 4,
        steps_per_epoch: 4,
        epoch: 1,
        batch: 0,
        epoch_loss: 0.0,
        data_samples: vec![],
        bad_samples: 0,
        seconds: 0.0,
        dataset: "d".into(),
        fingerprint: "f".into(),
        config: config.clone(),
        files: Default::default(),
    };
    save(&folder(path), run_state, &state, &StateDict::new()).unwrap();
    (config.mae(), state)
}

fn none() -> ImportOptions {
    ImportOptions::default()
}

/// What a folder of weights is read from.
fn file(client: Client, folder: &Path) -> std::path::PathBuf {
    match client {
        Client::Reference => folder.join("model.pth"),
        Client::Timm | Client::HuggingFace => folder.to_owned(),
    }
}

#[test]
fn a_run_comes_back_from_every_program() {
    let root = tempfile::tempdir().unwrap();
    let (config, state) = run(&root.path().join("run"), "8");
    for client in [Client::Reference, Client::HuggingFace] {
        let to = root.path().join(client.to_string());
        let usage = export(&root.path().join("run"), &none(), client, &to).unwrap();
        assert!(usage.contains(&client.to_string()), "{usage}");
        // Nothing has to be said: the folder says it.
        let (mae, source) =
            load_mae(&file(client, &to), &none(), &candle_core::Device::Cpu).unwrap();
        assert_eq!((&mae.config, source.mask_ratio()), (&config, 0.6));
        assert!(mae.state_dict().unwrap() == state, "{client}");
    }
    let to = root.path().join("timm");
    export(
        &root.path().join("reference/model.pth"),
        &none(),
        Client::Timm,
        &to,
    )
    .unwrap();
    let (encoder, _) = load_encoder(&to, &none(), &candle_core::Device::Cpu).unwrap();
    assert_eq!(encoder.config, config.vit);
    let expected = load_encoder(&root.path().join("run"), &none(), &candle_core::Device::Cpu)
        .unwrap()
        .0;
    assert!(encoder.state_dict().unwrap() == expected.state_dict().unwrap());
}

#[test]
fn the_clients_find_what_they_need() {
    let root = tempfile::tempdir().unwrap();
    run(&root.path().join("run"), "8");
    let config = |client: Client| -> Value {
        let to = root.path().join(client.to_string());
        export(&root.path().join("run"), &none(), client, &to).unwrap();
        serde_json::from_slice(&fs::read(to.join("config.json")).unwrap()).unwrap()
    };
    let hugging_face = config(Client::HuggingFace);
    for (key, value) in [
        ("model_type", json!("vit_mae")),
        ("architectures", json!(["ViTMAEForPreTraining"])),
        ("layer_norm_eps", json!(1e-6)),
        ("num_attention_heads", json!(5)),
        ("decoder_intermediate_size", json!(48)),
        ("norm_pix_loss", json!(true)),
        ("mask_ratio", json!(0.6)),
        ("qkv_bias", json!(true)),
        ("image_size", json!(8)),
    ] {
        assert_eq!(hugging_face[key], value, "{key}");
    }
    let timm = config(Client::Timm);
    assert_eq!(timm["model_args"]["num_heads"], 5);
    assert_eq!(timm["pretrained_cfg"]["mean"], json!([0.4, 0.5, 0.6]));
    assert_eq!(timm["num_classes"], 0);
}

#[test]
fn other_programs_weights_are_exported_too() {
    let golden = Golden::open();
    let root = tempfile::tempdir().unwrap();
    let to = |case: &Case, client: Client| {
        let to = root.path().join(format!("{}-{client}", case.name));
        export(&case.path, &case.options, client, &to).map(|_| file(client, &to))
    };
    // A masked autoencoder of transformers'; a classifier of transformers'; one of the reference code's.
    let case = golden.case("vitmae_hub");
    let there = to(case, Client::Reference).unwrap();
    let state = |path: &Path, options| {
        load_mae(path, options, &candle_core::Device::Cpu)
            .unwrap()
            .0
            .state_dict()
            .unwrap()
    };
    assert!(state(&there, &none()) == state(&case.path, &case.options));
    for (name, client) in [
        ("vit_bfloat16", Client::Timm),
        ("vit_bfloat16", Client::HuggingFace),
        ("reference_fine_tuned_half", Client::Timm),
        ("reference_fine_tuned_half", Client::Reference),
    ] {
        let case = golden.case(name);
        let there = to(case, client).unwrap();
        let state = |path: &Path, options| {
            load_classifier(path, options, &candle_core::Device::Cpu)
                .unwrap()
                .0
                .state_dict()
                .unwrap()
        };
        assert!(
            state(&there, &none()) == state(&case.path, &case.options),
            "{name} {client}"
        );
    }
    for (name, client, part) in [
        ("reference_fine_tuned_half", Client::HuggingFace, "fc_norm"),
        ("beit", Client::Timm, "relative position biases"),
        ("beit", Client::Reference, "relative position biases"),
    ] {
        let error = to(golden.case(name), client).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_cannot_be_exported_says_why() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    run(&path, "8x12");
    let to = root.path().join("to");
    let failed = |client, options: &ImportOptions| {
        export(&path, options, client, &to).unwrap_err().to_string()
    };
    let error = failed(Client::HuggingFace, &none());
    assert!(
        error.contains("8x12") && error.contains("--input-size 12"),
        "{error}"
    );
    assert!(!to.exists());
    let heads = ImportOptions {
        heads: Some(2),
        ..none()
    };
    assert!(failed(Client::Timm, &heads).contains("leave --heads out"));
    // A folder that holds something is left alone.
    fs::create_dir(&to).unwrap();
    export(&path, &none(), Client::Timm, &to).unwrap();
    assert!(failed(Client::Timm, &none()).contains("already holds files"));
    // Another size makes it square.
    let square = ImportOptions {
        image_size: Some((12, 12)),
        ..none()
    };
    export(
        &path,
        &square,
        Client::HuggingFace,
        &root.path().join("square"),
    )
    .unwrap();
}

#[test]
fn of_mask_tokens_in_the_encoder_the_encoder_alone_is_exported() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    let (config, _) = run_of(&path, "8", true);
    for client in [Client::Reference, Client::HuggingFace] {
        let to = root.path().join(client.to_string());
        let error = export(&path, &none(), client, &to).unwrap_err().to_string();
        assert!(
            error.contains("--encoder-mask-tokens") && error.contains("--to timm"),
            "{error}"
        );
        assert!(!to.exists());
    }
    let timm = root.path().join("timm");
    export(&path, &none(), Client::Timm, &timm).unwrap();
    let device = candle_core::Device::Cpu;
    let own = load_encoder(&path, &none(), &device).unwrap().0;
    // And from there to others, as the error says.
    for client in [Client::Reference, Client::HuggingFace] {
        let to = root.path().join(client.to_string());
        export(&timm, &none(), client, &to).unwrap();
        let (encoder, _) = load_encoder(&file(client, &to), &none(), &device).unwrap();
        assert_eq!(encoder.config, config.vit);
        assert!(encoder.state_dict().unwrap() == own.state_dict().unwrap());
    }
}

#[test]
fn the_encoder_of_a_run_is_the_runs() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    let (config, state) = run(&path, "8");
    let (encoder, source) = load_encoder(&path, &none(), &candle_core::Device::Cpu).unwrap();
    assert_eq!(
        (source.step(), encoder.final_norm()),
        (Some(4), FinalNorm::Tokens)
    );
    let own = encoder.state_dict().unwrap();
    assert!(own.iter().all(|(name, tensor)| state[name] == *tensor));
    // The file of weights in a checkpoint stands for the checkpoint.
    let weights = folder(&path).join("step-00000004/model.safetensors");
    assert_eq!(
        load_encoder(&weights, &none(), &candle_core::Device::Cpu)
            .unwrap()
            .1
            .step(),
        Some(4)
    );
    // Before training: the model that the run began with.
    let mae = Mae::new(config.clone(), &Device::Cpu, source.seed()).unwrap();
    let untrained: Encoder = source.untrained(&encoder).unwrap();
    assert!(untrained.state_dict().unwrap() == mae.encoder().unwrap().state_dict().unwrap());
}
