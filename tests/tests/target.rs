//! Targets beside pixels in whole runs: fitted once, in every checkpoint, the same bits after a resume, judged in their own space.

use mae_tests as common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use mae_loader::{Dataset, DatasetOptions, LabelSource};
use mae_model::{Mae, Tokenizer, TokenizerConfig};
use mae_trainer::checkpoint::foreign::{Client, ImportOptions};
use mae_trainer::checkpoint::{self, load_encoder, load_mae};
use mae_trainer::config::TargetKind;
use mae_trainer::eval::loss::masked_loss;
use mae_trainer::eval::reconstruct::{Choice, reconstruct};
use mae_trainer::eval::{Masking, StreamOptions};
use mae_trainer::observer::{Start, StepReport};
use mae_trainer::picture::Visible;
use mae_trainer::target::PcaFit;
use mae_trainer::{Error, Observer, Outcome, PretrainConfig, RawPretrain, pretrain, tokenizer};

/// Counts fits, and stops after an update.
#[derive(Debug, Default)]
struct Watch<'a> {
    stop: Option<(&'a AtomicBool, u64)>,
    fitted: Vec<PcaFit>,
    gone_through: Vec<(u64, u64)>,
    losses: Vec<f64>,
    began_at: u64,
}

impl Observer for Watch<'_> {
    fn started(&mut self, start: &Start<'_>) {
        self.began_at = start.step;
    }
    fn fitting(&mut self, done: u64, total: u64) {
        self.gone_through.push((done, total));
    }
    fn fitted(&mut self, fit: &PcaFit) {
        self.fitted.push(fit.clone());
    }
    fn step(&mut self, report: &StepReport) {
        self.losses.push(report.loss);
        if let Some((stop, step)) = self.stop {
            stop.store(report.step >= step, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

fn run(raw: RawPretrain, stop_after: Option<u64>) -> Result<(Outcome, Watch<'static>), Error> {
    let config = PretrainConfig::resolve(raw)?;
    let stop = AtomicBool::new(false);
    let mut watch = Watch {
        stop: stop_after.map(|step| (&stop, step)),
        ..Watch::default()
    };
    let outcome = pretrain(&config, &stop, &mut watch)?;
    let watch = Watch {
        stop: None,
        fitted: watch.fitted,
        gone_through: watch.gone_through,
        losses: watch.losses,
        began_at: watch.began_at,
    };
    Ok((outcome, watch))
}

fn resumed(raw: RawPretrain) -> RawPretrain {
    RawPretrain {
        resume: Some("auto".parse().unwrap()),
        ..raw
    }
}

fn weights(run: &Path) -> mae_model::StateDict {
    checkpoint::open::<PretrainConfig>(run).unwrap().model
}

fn tokenizer_in(folder: &Path, seed: u64) -> Tokenizer {
    let config = TokenizerConfig {
        image_size: (16, 16),
        channels: 3,
        patch_size: 4,
        vocabulary: 12,
        hidden: 8,
        blocks: 1,
    };
    let made = Tokenizer::new(config, &Device::Cpu, seed).unwrap();
    tokenizer::save(folder, &made).unwrap();
    made
}

/// A checkpoint loads by itself, and everything downstream takes it.
fn check_downstream(root: &Path, run: &Path, data: &str) {
    let device = Device::Cpu;
    let (mae, source) = load_mae(run, &ImportOptions::default(), &device).unwrap();
    let options = DatasetOptions {
        labels: LabelSource::None,
        ..DatasetOptions::default()
    };
    let data = Arc::new(Dataset::open(&[data], &options).unwrap());
    let mut random = Mae::new(mae.config.clone(), &device, 99).unwrap();
    random.share_target(&mae).unwrap();
    let stream = StreamOptions::default();
    let masking = Masking {
        sampling: source.mask_sampling(),
        ratio: 0.75,
        seed: 0,
    };
    let losses = masked_loss(&data, &[&mae, &random], &masking, &stream, &mut |_| ()).unwrap();
    assert!(
        losses[0].mean.is_finite() && losses[0].mean < losses[1].mean,
        "{losses:?}"
    );

    let images = Choice::Spread(2).of(&data).unwrap();
    for visible in [Visible::Pasted, Visible::Predicted] {
        let shown = reconstruct(&data, &mae, &images, &masking, visible, &stream).unwrap();
        assert_eq!(shown.len(), 2);
        for shown in shown {
            assert!(shown.pictures.reconstructed != shown.pictures.original);
            assert_eq!(shown.pictures.reconstructed.width(), 16);
        }
    }

    let (encoder, _) = load_encoder(run, &ImportOptions::default(), &device).unwrap();
    assert!(source.untrained(&encoder).is_ok());
    for client in [Client::Reference, Client::HuggingFace] {
        let folder = root.join(format!("export-{client}"));
        let error = checkpoint::export(run, &ImportOptions::default(), client, &folder);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("its decoder predicts") && error.contains("--to timm"),
            "{error}"
        );
        assert!(!folder.exists());
    }
    let folder = root.join("export-timm");
    checkpoint::export(run, &ImportOptions::default(), Client::Timm, &folder).unwrap();
    let shown = checkpoint::inspect(run).unwrap();
    assert_eq!(
        shown.parameters,
        mae.params
            .specs()
            .iter()
            .map(|spec| spec.len)
            .sum::<usize>()
    );
    let name = mae.config.target_name();
    assert!(
        shown.to_string().contains(&format!("target       {name}")),
        "{shown}"
    );
}

#[test]
fn coefficients_are_fitted_once_and_resumed_to_the_bit() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let data = common::shards(&root.join("train"), 43);
    let pca = |name: &str| RawPretrain {
        target: Some(TargetKind::Pca),
        pca_images: Some(20),
        val_data: Some(vec![data.clone()]),
        picture_every: Some(1),
        ..common::small_run(&data, &root.join(name))
    };
    let (outcome, watch) = run(pca("straight"), None).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    let [fit] = watch.fitted.as_slice() else {
        panic!("fitted {} times", watch.fitted.len());
    };
    // 16 patches of 48 numbers; an eighth of them.
    assert_eq!((fit.images, fit.patches), (20, 320));
    assert_eq!(watch.gone_through.last(), Some(&(20, 20)));
    assert_eq!(
        (fit.eigenvalues.len(), fit.explained_variance_ratio.len()),
        (48, 6)
    );
    assert!(
        fit.explained() > 0.5 && fit.explained() <= 1.0,
        "{}",
        fit.explained()
    );
    assert!(root.join("straight/pca.json").is_file());
    let first = watch.losses[0];
    let last = watch.losses[watch.losses.len() - 1];
    assert!(last < first, "{first} {last}");

    let (outcome, _) = run(pca("stopped"), Some(4)).unwrap();
    assert!(matches!(outcome, Outcome::Stopped { step: 4, .. }));
    let (_, watch) = run(resumed(pca("stopped")), None).unwrap();
    assert!(watch.fitted.is_empty() && watch.gone_through.is_empty());
    assert_eq!(watch.began_at, 4);
    let straight = weights(&root.join("straight"));
    assert!(straight == weights(&root.join("stopped")));
    assert_eq!(straight["target.basis"].data, fit.basis.basis);
    assert_eq!(straight["target.mean"].data, fit.basis.mean);

    let other = RawPretrain {
        pca_components: Some(5),
        ..pca("stopped")
    };
    let error = run(resumed(other), None).unwrap_err().to_string();
    assert!(error.contains("pca_components"), "{error}");
    check_downstream(root, &root.join("straight"), &data);
}

#[test]
fn tokens_are_a_tokenizers_that_checkpoints_hold() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let data = common::shards(&root.join("train"), 43);
    let folder = root.join("tokenizer");
    let made = tokenizer_in(&folder, 3);
    let tokens = |name: &str| RawPretrain {
        target: Some(TargetKind::Tokens),
        tokenizer: Some(folder.clone()),
        val_data: Some(vec![data.clone()]),
        picture_every: Some(1),
        ..common::small_run(&data, &root.join(name))
    };
    let (_, watch) = run(tokens("straight"), None).unwrap();
    // About the logarithm of the vocabulary, and less later.
    let (first, last) = (watch.losses[0], watch.losses[watch.losses.len() - 1]);
    assert!(
        (first / 12f64.ln() - 1.0).abs() < 0.5 && last < first,
        "{first} {last}"
    );
    run(tokens("stopped"), Some(4)).unwrap();

    // Another one of the same dimensions is refused.
    let other = RawPretrain {
        tokenizer: Some(root.join("other")),
        ..tokens("stopped")
    };
    tokenizer_in(&root.join("other"), 4);
    let error = run(resumed(other), None).unwrap_err().to_string();
    assert!(error.contains("tokenizer"), "{error}");

    // The run's own configuration goes on without the folder.
    std::fs::remove_dir_all(&folder).unwrap();
    let file = RawPretrain::from_toml_file(&root.join("stopped/config.toml")).unwrap();
    run(resumed(file), None).unwrap();
    let straight = weights(&root.join("straight"));
    assert!(straight == weights(&root.join("stopped")));
    for (name, tensor) in made.state_dict().unwrap() {
        assert_eq!(straight[&name], tensor);
    }
    check_downstream(root, &root.join("straight"), &data);
}
