//! What a run writes, and how it refuses what cannot be trained.

use mae_tests as common;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use mae_trainer::checkpoint::foreign::ImportOptions;
use mae_trainer::metrics::log::{self, LogLine};
use mae_trainer::observer::{Summary, Unobserved};
use mae_trainer::{Error, Outcome, PretrainConfig, RawPretrain, checkpoint, output, pretrain};

fn train(raw: RawPretrain) -> Result<Summary, Error> {
    let config = PretrainConfig::resolve(raw)?;
    match pretrain(&config, &AtomicBool::new(false), &mut Unobserved)? {
        Outcome::Finished(summary) => Ok(summary),
        Outcome::Stopped { .. } => panic!("nobody asked it to stop"),
    }
}

fn steps(run: &Path) -> Vec<u64> {
    checkpoint::list(&checkpoint::folder(run))
        .unwrap()
        .into_iter()
        .map(|(step, _)| step)
        .collect()
}

#[test]
fn a_run_learns_and_leaves_what_it_promises() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 40);
    let run = root.path().join("run");
    let raw = RawPretrain {
        epochs: Some(12),
        accum_iter: Some(1),
        batch_size: Some(8),
        val_data: Some(vec![data.clone()]),
        eval_every: Some(4),
        picture_every: Some(5),
        log_every: Some(2),
        keep_last: Some(2),
        keep_every: Some(4),
        norm_pix_loss: Some(true),
        ..common::small_run(&data, &run)
    };
    let summary = train(raw.clone()).unwrap();
    assert_eq!(summary.step, 60);

    let lines = log::read(&output::log_path(&run)).unwrap();
    let (mut stepped, mut epochs) = (vec![], vec![]);
    for line in lines {
        match line {
            LogLine::Step(line) => stepped.push(line),
            LogLine::Epoch(line) => epochs.push(line),
        }
    }
    assert_eq!(
        stepped.iter().map(|line| line.step).collect::<Vec<_>>(),
        (2..=60).step_by(2).collect::<Vec<_>>()
    );
    assert!(
        stepped
            .iter()
            .all(|line| line.images_per_second > 0.0 && line.grad_norm.is_some())
    );
    assert_eq!(
        epochs.iter().map(|line| line.epoch).collect::<Vec<_>>(),
        (1..=12).collect::<Vec<_>>()
    );
    let validated: Vec<u64> = epochs
        .iter()
        .filter(|line| line.val_loss.is_some())
        .map(|line| line.epoch)
        .collect();
    assert_eq!(validated, [4, 8, 12]);
    assert!(
        epochs[11].loss < 0.9 * epochs[0].loss,
        "{} to {}",
        epochs[0].loss,
        epochs[11].loss
    );
    assert!(epochs[11].val_loss < epochs[3].val_loss);

    // Kept: the last two, and the first of every four epochs.
    assert_eq!(steps(&run), [20, 40, 55, 60]);
    let mut pictures: Vec<_> = fs::read_dir(run.join("pictures"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    pictures.sort();
    assert_eq!(
        pictures,
        ["epoch-0005.png", "epoch-0010.png", "epoch-0012.png"]
    );
    let again =
        PretrainConfig::resolve(RawPretrain::from_toml_file(&run.join("config.toml")).unwrap())
            .unwrap();
    assert_eq!(again, PretrainConfig::resolve(raw).unwrap());

    let (mae, source) =
        checkpoint::load_mae(&run, &ImportOptions::default(), &Device::Cpu).unwrap();
    assert_eq!(source.step(), Some(60));
    assert_eq!(mae.config, again.mae());
    let inspection = checkpoint::inspect(&summary.checkpoint).unwrap();
    assert_eq!(inspection.parameters, mae.params.count());
    assert!(inspection.to_string().contains("mask_ratio = 0.75"));
}

/// The learning rate of each update is the reference's: asked at the first batch of the accumulation, on the scale of
/// all batches of an epoch, also those that fill no update.
#[test]
fn the_learning_rate_follows_the_reference() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 46);
    let run = root.path().join("run");
    // 23 batches of 2, five updates of 4 an epoch, 3 batches left over.
    train(RawPretrain {
        lr: Some(1.0),
        min_lr: Some(0.1),
        ..common::small_run(&data, &run)
    })
    .unwrap();
    let rates: Vec<f64> = log::read(&output::log_path(&run))
        .unwrap()
        .into_iter()
        .filter_map(|line| match line {
            LogLine::Step(line) => Some(line.lr),
            LogLine::Epoch(_) => None,
        })
        .collect();
    assert_eq!(rates.len(), 15);
    let expected = |epoch: f64, batch: f64| {
        let at = epoch + batch / 23.0;
        if at < 1.0 {
            at
        } else {
            0.1 + 0.9 * 0.5 * (1.0 + (std::f64::consts::PI * (at - 1.0) / 2.0).cos())
        }
    };
    for (update, rate) in rates.iter().enumerate() {
        let wanted = expected((update / 5) as f64, (update % 5 * 4) as f64);
        assert!(
            (rate - wanted).abs() < 1e-12,
            "update {update}: {rate} {wanted}"
        );
    }
}

/// Accumulating over the batches of one large batch gives the large batch's update.
#[test]
fn accumulation_averages() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 40);
    let losses = |name: &str, batch_size, accum_iter| {
        let run = root.path().join(name);
        let raw = common::small_run(&data, &run);
        train(RawPretrain {
            batch_size: Some(batch_size),
            accum_iter: Some(accum_iter),
            ..raw
        })
        .unwrap();
        log::read(&output::log_path(&run)).unwrap()
    };
    // The schedule sees the same fractions of an epoch.
    for (one, four) in losses("one", 8, 1).into_iter().zip(losses("four", 2, 4)) {
        let (LogLine::Step(one), LogLine::Step(four)) = (one, four) else {
            continue;
        };
        assert!(
            (one.loss - four.loss).abs() < 1e-4 * one.loss,
            "step {}: {} {}",
            one.step,
            one.loss,
            four.loss
        );
        let (a, b) = (one.grad_norm.unwrap(), four.grad_norm.unwrap());
        assert!((a - b).abs() < 1e-3 * a, "step {}: {a} {b}", one.step);
    }
}

#[test]
fn an_epoch_too_short_for_one_update_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 7);
    let message = train(common::small_run(&data, &root.path().join("run")))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("7 samples") && message.contains("--accum-iter"),
        "{message}"
    );
    assert!(!root.path().join("run").exists());
}

/// A learning rate beyond all bounds: the run ends naming the step and samples, and its checkpoints are good.
#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 40);
    let run = root.path().join("run");
    let raw = RawPretrain {
        lr: Some(1e30),
        warmup_epochs: Some(0.0),
        clip_grad: None,
        weight_decay: Some(0.0),
        checkpoint_every: Some(1),
        ..common::small_run(&data, &run)
    };
    let error = train(raw).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NonFiniteLoss { .. } | Error::NonFiniteWeights { .. }
        ),
        "{error}"
    );
    if let Error::NonFiniteLoss { samples, .. } = &error {
        assert_eq!(samples.len(), 2);
        assert!(samples[0].contains("part-00000"), "{samples:?}");
    }
    for (_, path) in checkpoint::list(&checkpoint::folder(&run)).unwrap() {
        let weights = checkpoint::load::<mae_trainer::PretrainConfig>(&path)
            .unwrap()
            .model;
        assert!(
            weights
                .values()
                .all(|tensor| tensor.data.iter().all(|value| value.is_finite()))
        );
    }
}

#[test]
fn unfit_data_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    let nothing = root.path().join("nothing").display().to_string();
    let error = train(common::small_run(&nothing, &run)).unwrap_err();
    assert!(matches!(error, Error::Loader(_)), "{error}");
    assert!(!run.exists());
}

#[test]
fn repeats_fill_a_batch_with_crops_of_fewer_images() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 40);
    let with = |repeats: usize, batch: usize, run: &str| RawPretrain {
        epochs: Some(1),
        warmup_epochs: Some(0.5),
        accum_iter: Some(1),
        batch_size: Some(batch),
        repeats: Some(repeats),
        ..common::small_run(&data, &root.path().join(run))
    };
    // 40 images, each twice, in batches of 8 rows.
    assert_eq!(train(with(2, 8, "two")).unwrap().step, 10);
    assert_eq!(train(with(1, 8, "one")).unwrap().step, 5);
    let said = train(with(3, 8, "three")).unwrap_err().to_string();
    assert!(said.contains("--repeats 3"), "{said}");
    // Another number of repeats is another run.
    let resumed = RawPretrain {
        resume: Some("auto".parse().unwrap()),
        ..with(1, 8, "two")
    };
    let said = train(resumed).unwrap_err().to_string();
    assert!(said.contains("repeats"), "{said}");
}

/// The last line's share of time spent waiting for data.
fn data_wait(run: &Path) -> f64 {
    let lines = log::read(&output::log_path(run)).unwrap();
    let mut waits = lines.iter().rev().filter_map(|line| match line {
        LogLine::Step(step) => Some(step.data_wait),
        _ => None,
    });
    waits.next().unwrap()
}

#[test]
fn the_waiting_share_says_whether_the_loader_or_the_step_is_slow() {
    let root = tempfile::tempdir().unwrap();
    let slow = {
        // Eight million pixels to decode, for a step that takes a millisecond.
        let jpeg = common::jpeg(3200, 2500, |x, y| [(x + y) as u8; 3]);
        common::write(&root.path().join("slow"), 20, |_| common::Sample {
            jpeg: jpeg.clone(),
            class: None,
        })
    };
    let fast = common::shards(&root.path().join("fast"), 160);
    let run = |data: &str, name: &str| RawPretrain {
        epochs: Some(1),
        warmup_epochs: Some(0.5),
        accum_iter: Some(1),
        log_every: Some(10),
        ..common::small_run(data, &root.path().join(name))
    };
    train(RawPretrain {
        batch_size: Some(2),
        ..run(&slow, "loader")
    })
    .unwrap();
    train(RawPretrain {
        batch_size: Some(16),
        dim: Some(192),
        heads: Some(6),
        depth: Some(8),
        ..run(&fast, "step")
    })
    .unwrap();
    let (loader, step) = (
        data_wait(&root.path().join("loader")),
        data_wait(&root.path().join("step")),
    );
    // One has some seventy times the work of the other, so that load moves the shares by little.
    assert!(loader > 0.5 && step < 0.5, "{loader} {step}");
}

/// One block of any width: trained, saved and loaded whole.
#[test]
fn decoders_of_any_width_and_one_block_train_and_load() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 40);
    for (width, heads) in [(32, 1), (128, 4), (256, 8)] {
        let run = root.path().join(format!("run-{width}"));
        let raw = RawPretrain {
            // The named model's heads, which do not divide every one of these.
            model: Some("mae-tiny-patch4".to_owned()),
            decoder_dim: Some(width),
            decoder_depth: Some(1),
            decoder_heads: None,
            epochs: Some(2),
            ..common::small_run(&data, &run)
        };
        let summary = train(raw).unwrap();
        assert_eq!(summary.step, 10);
        let options = ImportOptions::default();
        let (mae, _) = checkpoint::load_mae(&run, &options, &Device::Cpu).unwrap();
        let config = &mae.config;
        assert_eq!(
            (
                config.decoder_dim,
                config.decoder_depth,
                config.decoder_heads
            ),
            (width, 1, heads)
        );
    }
}

/// The paper's ablation, from training to features and fine-tuning's encoder.
#[test]
fn mask_tokens_in_the_encoder_train_and_leave_a_plain_encoder() {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("data"), 40);
    let run = root.path().join("run");
    let raw = RawPretrain {
        encoder_mask_tokens: Some(true),
        epochs: Some(12),
        accum_iter: Some(1),
        batch_size: Some(8),
        activation_checkpointing: Some(true),
        val_data: Some(vec![data.clone()]),
        picture_every: Some(12),
        ..common::small_run(&data, &run)
    };
    train(raw).unwrap();
    let epochs: Vec<f64> = log::read(&output::log_path(&run))
        .unwrap()
        .into_iter()
        .filter_map(|line| match line {
            LogLine::Epoch(line) => Some(line.loss),
            LogLine::Step(_) => None,
        })
        .collect();
    assert!(epochs[11] < 0.9 * epochs[0], "{epochs:?}");

    let options = ImportOptions::default();
    let (mae, _) = checkpoint::load_mae(&run, &options, &Device::Cpu).unwrap();
    assert!(mae.config.encoder_mask_tokens);
    let state = mae.state_dict().unwrap();
    assert!(state.contains_key("encoder_mask_token") && !state.contains_key("mask_token"));
    let (encoder, _) = checkpoint::load_encoder(&run, &options, &Device::Cpu).unwrap();
    let own = encoder.state_dict().unwrap();
    assert!(own.iter().all(|(name, tensor)| state[name] == *tensor));
    assert!(!own.contains_key("encoder_mask_token"));
    assert!(own == mae.encoder().unwrap().state_dict().unwrap());
    // The file of weights alone says it, too.
    let file = root.path().join("weights.safetensors");
    let newest = checkpoint::folder(&run).join("step-00000060/model.safetensors");
    fs::copy(newest, &file).unwrap();
    let options = ImportOptions {
        heads: Some(2),
        decoder_heads: Some(2),
        norm_pix_loss: Some(false),
        ..options
    };
    let (again, _) = checkpoint::load_mae(&file, &options, &Device::Cpu).unwrap();
    assert!(again.config.encoder_mask_tokens && again.state_dict().unwrap() == state);
    checkpoint::load_encoder(&file, &options, &Device::Cpu).unwrap();
}
