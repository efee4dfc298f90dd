//! Runs that draw from several data sets: what they log, and that a stop changes nothing.

use mae_tests as common;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use mae_trainer::metrics::log::{self, DataCount, LogLine};
use mae_trainer::observer::StopAfter;
use mae_trainer::{Error, Outcome, PretrainConfig, RawPretrain, checkpoint, output, pretrain};

fn train(raw: RawPretrain, stop_after: u64) -> Result<Outcome, Error> {
    let config = PretrainConfig::resolve(raw)?;
    let stop = AtomicBool::new(false);
    pretrain(&config, &stop, &mut StopAfter::new(Some(stop_after), &stop))
}

/// Two data sets of 23 and 10 samples; 5 updates of 8 samples an epoch, 3 epochs.
fn mixed_run(root: &Path, name: &str, weights: [&str; 2]) -> RawPretrain {
    let data = [("large", 23, weights[0]), ("small", 10, weights[1])].map(|(data, samples, at)| {
        let folder = root.join(data);
        if !folder.exists() {
            common::shards(&folder, samples);
        }
        format!("{}{at}", folder.display())
    });
    RawPretrain {
        data: Some(data.into()),
        epoch_samples: Some(40),
        resume: Some("auto".parse().unwrap()),
        picture_every: Some(2),
        ..common::small_run("", &root.join(name))
    }
}

/// The newest weights, and the counts of each logged step and epoch.
#[derive(PartialEq)]
struct Left {
    weights: Vec<u8>,
    steps: Vec<(u64, Vec<u64>)>,
    epochs: Vec<Vec<u64>>,
}

fn left(run: &Path) -> Left {
    let newest =
        checkpoint::newest::<mae_trainer::PretrainConfig>(&checkpoint::folder(run)).unwrap();
    let weights = newest.unwrap().info.path.join("model.safetensors");
    let counts = |data: Vec<DataCount>| data.into_iter().map(|data| data.samples).collect();
    let (mut steps, mut epochs) = (vec![], vec![]);
    for line in log::read(&output::log_path(run)).unwrap() {
        match line {
            LogLine::Step(line) => steps.push((line.step, counts(line.data))),
            LogLine::Epoch(line) => epochs.push(counts(line.data)),
        }
    }
    Left {
        weights: fs::read(weights).unwrap(),
        steps,
        epochs,
    }
}

#[test]
fn counts_are_logged_and_stops_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let run = |name| mixed_run(root.path(), name, ["@0.7", "@0.3"]);
    let done = train(run("straight"), u64::MAX).unwrap();
    assert!(matches!(done, Outcome::Finished(summary) if summary.step == 15));
    let straight = left(&root.path().join("straight"));
    assert_eq!(straight.epochs, [[28, 12]; 3]);
    assert_eq!(straight.steps.len(), 15);
    for (step, counts) in &straight.steps {
        assert_eq!(counts.iter().sum::<u64>(), 8 * ((step - 1) % 5 + 1));
    }
    let first = log::read(&output::log_path(&root.path().join("straight"))).unwrap();
    let Some(LogLine::Step(first)) = first.into_iter().next() else {
        panic!("a step comes first")
    };
    assert!(first.data[0].name.ends_with("large"), "{:?}", first.data);

    for stop in [2, 5, 11] {
        train(run("stopped"), stop).unwrap();
    }
    train(run("stopped"), u64::MAX).unwrap();
    assert!(left(&root.path().join("stopped")) == straight);
}

#[test]
fn other_weights_are_another_run() {
    let root = tempfile::tempdir().unwrap();
    let run = |weights| mixed_run(root.path(), "run", weights);
    train(run(["@0.7", "@0.3"]), 2).unwrap();
    let message = train(run(["@0.5", "@0.5"]), 9).unwrap_err().to_string();
    assert!(
        message.contains("shares of the data: the checkpoint has 0.700000, 0.300000"),
        "{message}"
    );
    let longer = RawPretrain {
        epoch_samples: Some(48),
        ..run(["@0.7", "@0.3"])
    };
    let message = train(longer, 9).unwrap_err().to_string();
    assert!(
        message.contains("epoch_samples: the checkpoint has 40, this run 48"),
        "{message}"
    );
    train(run(["@7", "@3"]), 9).unwrap();
}

#[test]
fn epochs_of_one_data_set_may_have_any_length() {
    let root = tempfile::tempdir().unwrap();
    let run = RawPretrain {
        epoch_samples: Some(80),
        epochs: Some(2),
        ..mixed_run(root.path(), "run", ["", ""])
    };
    let done = train(run, u64::MAX).unwrap();
    assert!(matches!(done, Outcome::Finished(summary) if summary.step == 20));
    let Left { steps, epochs, .. } = left(&root.path().join("run"));
    assert!(steps.iter().all(|(_, counts)| counts.is_empty()));
    assert_eq!(epochs, [[0; 0]; 2]);
}
