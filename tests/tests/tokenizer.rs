//! A tokenizer trained on shards: it learns, and an interrupted run ends where an uninterrupted one does, to the bit.

use mae_tests as common;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use mae_trainer::metrics::log::{self, LogLine};
use mae_trainer::observer::StopAfter;
use mae_trainer::tokenizer::{RawTokenizer, TokenizerRun, load, train};
use mae_trainer::{Outcome, output};

/// 10 updates an epoch over 40 images of 16 patches.
fn run(data: &str, output: &Path) -> RawTokenizer {
    RawTokenizer {
        data: Some(vec![data.to_owned()]),
        val_data: Some(vec![data.to_owned()]),
        output_dir: Some(output.to_owned()),
        input_size: Some("16".parse().unwrap()),
        vocabulary: Some(16),
        hidden: Some(16),
        batch_size: Some(4),
        epochs: Some(6),
        lr: Some(4e-3),
        crop_scale: Some(vec![0.8, 1.0]),
        threads: Some(2),
        log_every: Some(1),
        ..Default::default()
    }
}

fn carry_out(raw: RawTokenizer, stop_after: Option<u64>) -> Outcome {
    let config = TokenizerRun::resolve(raw).unwrap();
    let stop = AtomicBool::new(false);
    train(&config, &stop, &mut StopAfter::new(stop_after, &stop)).unwrap()
}

#[test]
fn it_learns_and_uses_its_codes() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 40);
    let folder = root.path().join("run");
    let Outcome::Finished(summary) = carry_out(run(&data, &folder), None) else {
        panic!("stopped");
    };
    let lines = log::read(&output::log_path(&folder)).unwrap();
    let errors: Vec<f64> = lines
        .iter()
        .filter_map(|line| match line {
            LogLine::Epoch(line) => line.val_loss,
            LogLine::Step(_) => None,
        })
        .collect();
    assert_eq!(errors.len(), 6);
    assert!(errors[5] < 0.8 * errors[0], "{errors:?}");
    assert_eq!(summary.val_loss, Some(errors[5]));
    assert!(summary.val_codes.unwrap().used > 1, "{summary:?}");
    let step = lines.iter().find_map(|line| match line {
        LogLine::Step(line) => line.tokenizer,
        LogLine::Epoch(_) => None,
    });
    assert_eq!(step.unwrap().temperature, 1.0);
    let tokenizer = load(&folder, &candle_core::Device::Cpu).unwrap();
    assert_eq!(tokenizer.config().patches(), 16);
    assert!(folder.join("pictures/epoch-0006.png").is_file());
}

#[test]
fn interrupted_and_resumed_is_the_same() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 40);
    let short = |name: &str| RawTokenizer {
        epochs: Some(2),
        picture_every: Some(0),
        ..run(&data, &root.path().join(name))
    };
    carry_out(short("whole"), None);
    // At the end of an epoch, and in the middle of one.
    for step in [10, 13] {
        let name = format!("stopped-{step}");
        let stopped = carry_out(short(&name), Some(step));
        assert!(matches!(stopped, Outcome::Stopped { step: at, .. } if at == step));
        let resumed = RawTokenizer {
            resume: Some("auto".parse().unwrap()),
            ..short(&name)
        };
        assert!(matches!(carry_out(resumed, None), Outcome::Finished(_)));
        for file in [
            "tokenizer.safetensors",
            "tokenizer.json",
            "checkpoints/step-00000020/optimizer.safetensors",
        ] {
            let read = |run: &str| fs::read(root.path().join(run).join(file)).unwrap();
            assert!(read(&name) == read("whole"), "{file} after {step}");
        }
    }
}
