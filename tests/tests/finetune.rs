//! Fine-tuning: it learns, goes on to the bit, leaves frozen blocks alone, and says what is wrong with its data.

use mae_tests as common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use mae_model::{Encoder, FinalNorm, StateTensor, VitConfig};
use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::finetune::pretrained;
use mae_trainer::metrics::log::{self, LogLine};
use mae_trainer::observer::StopAfter;
use mae_trainer::{
    FinetuneConfig, Outcome, PretrainConfig, RawFinetune, checkpoint, finetune, output, pretrain,
};

fn tune(raw: RawFinetune, stop_after: Option<u64>) -> Result<Outcome, mae_trainer::Error> {
    let config = FinetuneConfig::resolve(raw, pretrained)?;
    let stop = AtomicBool::new(false);
    let mut observer = StopAfter::new(stop_after, &stop);
    finetune(&config, &stop, &mut observer)
}

/// Pictures of two classes, told apart by colour, and a pre-trained model.
fn setting(root: &Path) {
    common::labelled_shards(&root.join("train"), 48, |sample| sample % 2);
    common::labelled_shards(&root.join("val"), 14, |sample| sample % 2);
    let raw = common::small_run(&root.join("train").display().to_string(), &root.join("mae"));
    let config = PretrainConfig::resolve(raw).unwrap();
    pretrain(
        &config,
        &AtomicBool::new(false),
        &mut mae_trainer::observer::Unobserved,
    )
    .unwrap();
}

fn small(root: &Path, name: &str) -> RawFinetune {
    RawFinetune {
        checkpoint: Some(root.join("mae")),
        data: Some(vec![root.join("train").display().to_string()]),
        val_data: Some(vec![root.join("val").display().to_string()]),
        output_dir: Some(root.join(name)),
        batch_size: Some(8),
        accum_iter: Some(2),
        epochs: Some(6),
        lr: Some(4e-3),
        drop_path: Some(0.2),
        threads: Some(2),
        log_every: Some(1),
        ..Default::default()
    }
}

fn weights(run: &Path) -> mae_model::StateDict {
    let folder = checkpoint::folder(run);
    checkpoint::newest::<FinetuneConfig>(&folder)
        .unwrap()
        .unwrap()
        .model
}

#[test]
fn it_learns_and_keeps_the_best() {
    let root = tempfile::tempdir().unwrap();
    setting(root.path());
    let raw = RawFinetune {
        epochs: Some(12),
        aa: Some("none".parse().unwrap()),
        mixup: Some(0.0),
        cutmix: Some(0.0),
        ..small(root.path(), "run")
    };
    let Outcome::Finished(summary) = tune(raw, None).unwrap() else {
        panic!("it was not stopped")
    };
    let best = summary.best.unwrap();
    assert!(best.top1 > 0.9, "colours are easy: {best:?}");
    let run = root.path().join("run");
    let kept = checkpoint::open::<FinetuneConfig>(&run.join("best")).unwrap();
    assert_eq!(kept.info.state.best, Some(best));
    assert_eq!(kept.info.state.epoch, best.epoch);
    let epochs: Vec<f64> = log::read(&output::log_path(&run))
        .unwrap()
        .into_iter()
        .filter_map(|line| match line {
            LogLine::Epoch(line) => line.val_top1,
            LogLine::Step(_) => None,
        })
        .collect();
    assert_eq!(epochs.len(), 12);
    assert_eq!(epochs.iter().copied().fold(0.0, f64::max), best.top1);
}

#[test]
fn stopped_and_resumed_it_ends_in_the_same_bits() {
    let root = tempfile::tempdir().unwrap();
    setting(root.path());
    tune(small(root.path(), "whole"), None).unwrap();
    let parts = |resume: &str, stop| {
        let raw = RawFinetune {
            resume: Some(resume.parse().unwrap()),
            ..small(root.path(), "parts")
        };
        tune(raw, stop).unwrap()
    };
    // In the middle of an epoch, and at the end of one.
    assert!(matches!(
        parts("never", Some(4)),
        Outcome::Stopped { step: 4, .. }
    ));
    assert!(matches!(
        parts("auto", Some(9)),
        Outcome::Stopped { step: 9, .. }
    ));
    assert!(matches!(parts("auto", None), Outcome::Finished(_)));
    let (whole, parts) = (root.path().join("whole"), root.path().join("parts"));
    assert_eq!(weights(&whole), weights(&parts));
    let lines = |run: &Path| -> Vec<String> {
        log::read(&output::log_path(run))
            .unwrap()
            .into_iter()
            .map(|line| match line {
                LogLine::Step(l) => format!("{} {:?} {:?}", l.step, l.loss, l.lr),
                LogLine::Epoch(l) => format!("{} {:?} {:?}", l.epoch, l.loss, l.val_top1),
            })
            .collect()
    };
    assert_eq!(lines(&whole), lines(&parts));
    let best = |run: &Path| fs::read(run.join("best").join("model.safetensors")).unwrap();
    assert_eq!(best(&whole), best(&parts));
}

#[test]
fn frozen_blocks_stay_as_they_were() {
    let root = tempfile::tempdir().unwrap();
    setting(root.path());
    let (mae, _) = checkpoint::load_mae(
        &root.path().join("mae"),
        &ImportOptions::default(),
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let before = mae.state_dict().unwrap();
    for frozen in [1, 2] {
        let name = format!("frozen-{frozen}");
        let raw = RawFinetune {
            freeze_blocks: Some(frozen),
            epochs: Some(2),
            clip_grad: Some(1.0),
            ..small(root.path(), &name)
        };
        tune(raw, None).unwrap();
        for (name, after) in weights(&root.path().join(&name)) {
            let Some(before) = before.get(&name) else {
                continue;
            };
            let trained = name.starts_with("blocks.1.") && frozen == 1;
            assert_eq!(
                after.data != before.data,
                trained,
                "{name}, {frozen} frozen"
            );
        }
    }
}

#[test]
fn an_encoder_of_another_mlp_ratio_is_tuned_and_gone_on_with() {
    let root = tempfile::tempdir().unwrap();
    setting(root.path());
    let config = VitConfig {
        image_size: (16, 16),
        patch_size: 4,
        channels: 3,
        dim: 24,
        depth: 2,
        heads: 2,
        mlp_ratio: 2.5,
        norm_eps: 1e-6,
        mean: vec![0.5; 3],
        std: vec![0.5; 3],
        relative_positions: false,
    };
    let encoder = Encoder::new(config, FinalNorm::Tokens, &candle_core::Device::Cpu, 3).unwrap();
    let tensors: HashMap<String, candle_core::Tensor> = encoder
        .state_dict()
        .unwrap()
        .into_iter()
        .map(|(name, StateTensor { shape, data })| {
            let tensor = candle_core::Tensor::from_vec(data, shape, &candle_core::Device::Cpu);
            (name, tensor.unwrap())
        })
        .collect();
    let path = root.path().join("wide.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();

    let raw = RawFinetune {
        checkpoint: Some(path.clone()),
        input_size: Some("16".parse().unwrap()),
        heads: Some(2),
        epochs: Some(2),
        ..small(root.path(), "wide")
    };
    assert!(matches!(tune(raw, Some(1)), Ok(Outcome::Stopped { .. })));
    // What a run leaves says it all: the weights that it began with may go.
    fs::remove_file(&path).unwrap();
    let saved = RawFinetune::from_toml_file(&root.path().join("wide/config.toml")).unwrap();
    assert_eq!(saved.mlp_ratio, Some(2.5));
    let on = RawFinetune {
        resume: Some("auto".parse().unwrap()),
        ..saved
    };
    assert!(matches!(tune(on, None), Ok(Outcome::Finished(_))));
    let hidden = &weights(&root.path().join("wide"))["blocks.0.mlp.fc1.weight"];
    assert_eq!(hidden.shape, [60, 24]);
}

#[test]
fn from_scratch_by_the_same_code() {
    let root = tempfile::tempdir().unwrap();
    setting(root.path());
    let raw = RawFinetune {
        checkpoint: None,
        from_scratch: Some(true),
        model: Some("mae-micro-patch4".to_owned()),
        input_size: Some("16".parse().unwrap()),
        dim: Some(24),
        depth: Some(2),
        heads: Some(2),
        epochs: Some(2),
        ..small(root.path(), "scratch")
    };
    assert!(matches!(tune(raw, None), Ok(Outcome::Finished(_))));
}

#[test]
fn what_is_wrong_with_the_data_is_said() {
    let root = tempfile::tempdir().unwrap();
    setting(root.path());
    let error = |change: &dyn Fn(&mut RawFinetune)| {
        let mut raw = small(root.path(), "wrong");
        change(&mut raw);
        tune(raw, None).unwrap_err().to_string()
    };
    common::shards(&root.path().join("bare"), 10);
    common::labelled_shards(&root.path().join("one"), 10, |_| 0);
    common::labelled_shards(&root.path().join("far"), 16, |sample| {
        if sample == 9 { 2_000_000 } else { 0 }
    });
    common::labelled_shards(&root.path().join("more"), 16, |sample| sample % 3);
    let data = |name: &str| Some(vec![root.path().join(name).display().to_string()]);
    let found = error(&|raw| raw.data = data("bare"));
    assert!(
        found.contains("no labels") && found.contains("--label-field"),
        "{found}"
    );
    let found = error(&|raw| raw.data = data("one"));
    assert!(found.contains("1 class"), "{found}");
    let found = error(&|raw| raw.data = data("far"));
    assert!(
        found.contains("class 2000000") && found.contains("000009"),
        "{found}"
    );
    let found = error(&|raw| raw.classes = Some(1));
    assert!(found.contains("--classes"), "{found}");
    let found = error(&|raw| raw.classes = Some(100));
    assert!(found.contains("48 samples for 100 classes"), "{found}");
    // A class that was never trained is found when it is judged, not counted as a mistake.
    let found = error(&|raw| {
        raw.val_data = data("more");
        raw.epochs = Some(1);
    });
    assert!(
        found.contains("class 2") && found.contains("have 2"),
        "{found}"
    );
    let found = error(&|raw| raw.checkpoint = None);
    assert!(found.contains("--from-scratch"), "{found}");
    let found = error(&|raw| raw.freeze_blocks = Some(3));
    assert!(found.contains("has 2 blocks"), "{found}");
    let found = error(&|raw| raw.tune_blocks = Some(3));
    assert!(found.contains("has 2 blocks"), "{found}");
    let found = error(&|raw| (raw.freeze_blocks, raw.tune_blocks) = (Some(1), Some(1)));
    assert!(found.contains("not both"), "{found}");
}

#[test]
fn a_run_of_another_kind_is_not_taken_up() {
    let root = tempfile::tempdir().unwrap();
    setting(root.path());
    let raw = RawFinetune {
        resume: Some("auto".parse().unwrap()),
        output_dir: Some(root.path().join("mae")),
        ..small(root.path(), "")
    };
    let found = tune(raw, None).unwrap_err().to_string();
    assert!(found.contains("pre-training"), "{found}");
}
