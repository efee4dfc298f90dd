//! A run that was interrupted ends where an uninterrupted one does, to the bit.

use mae_tests as common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use mae_trainer::metrics::log::{self, LogLine};
use mae_trainer::observer::StopAfter;
use mae_trainer::{
    Error, Observer, Outcome, PretrainConfig, RawPretrain, checkpoint, output, pretrain,
};
use tempfile::TempDir;

/// Trains until done or until `stop_after` updates; returns the outcome and the step at which this part began.
fn train(raw: RawPretrain, stop_after: Option<u64>) -> Result<(Outcome, u64), Error> {
    let config = PretrainConfig::resolve(raw)?;
    let stop = AtomicBool::new(false);
    let mut observer = StopAfter::new(stop_after, &stop);
    let outcome = pretrain(&config, &stop, &mut observer)?;
    Ok((outcome, observer.began_at().unwrap()))
}

fn resumed(raw: RawPretrain) -> RawPretrain {
    RawPretrain {
        resume: Some("auto".parse().unwrap()),
        ..raw
    }
}

/// Weights and moments as stored, and all of the log that is not about time.
fn result(run: &Path) -> (Vec<u8>, Vec<u8>, Vec<String>) {
    let newest = checkpoint::newest::<mae_trainer::PretrainConfig>(&checkpoint::folder(run))
        .unwrap()
        .unwrap()
        .info
        .path;
    let lines = log::read(&output::log_path(run))
        .unwrap()
        .into_iter()
        .map(timeless)
        .collect();
    (
        fs::read(newest.join("model.safetensors")).unwrap(),
        fs::read(newest.join("optimizer.safetensors")).unwrap(),
        lines,
    )
}

fn timeless(line: LogLine) -> String {
    match line {
        LogLine::Step(line) => format!(
            "step {} epoch {:?} loss {:?} lr {:?} norm {:?} bad {}",
            line.step, line.epoch, line.loss, line.lr, line.grad_norm, line.bad_samples
        ),
        LogLine::Epoch(line) => {
            format!(
                "epoch {} step {} loss {:?} val {:?}",
                line.epoch, line.step, line.loss, line.val_loss
            )
        }
    }
}

struct Setting {
    _root: TempDir,
    root: PathBuf,
    data: String,
    val: String,
}

fn setting() -> Setting {
    let root = tempfile::tempdir().unwrap();
    let data = common::shards(&root.path().join("train"), 43);
    let val = common::shards(&root.path().join("val"), 11);
    Setting {
        root: root.path().to_owned(),
        _root: root,
        data,
        val,
    }
}

impl Setting {
    fn run(&self, name: &str) -> RawPretrain {
        RawPretrain {
            val_data: Some(vec![self.val.clone()]),
            ..common::small_run(&self.data, &self.root.join(name))
        }
    }

    fn result(&self, name: &str) -> (Vec<u8>, Vec<u8>, Vec<String>) {
        result(&self.root.join(name))
    }
}

/// 5 updates an epoch, 15 in all: stops in the middle of epochs, at their ends, and right after a start.
#[test]
fn stopped_and_resumed_equals_uninterrupted() {
    let setting = setting();
    let (outcome, _) = train(setting.run("straight"), None).unwrap();
    assert!(
        matches!(outcome, Outcome::Finished(summary) if summary.step == 15 && summary.val_loss.is_some())
    );
    let straight = setting.result("straight");
    assert_eq!(straight.2.len(), 15 + 3);

    for (name, stops) in [
        ("middle", vec![3]),
        ("end", vec![5]),
        ("often", vec![1, 2, 7, 10, 14]),
    ] {
        let mut began = 0;
        for stop in stops {
            let (outcome, from) = train(resumed(setting.run(name)), Some(stop)).unwrap();
            assert_eq!(from, began, "{name}");
            assert!(
                matches!(outcome, Outcome::Stopped { step, .. } if step == stop),
                "{name} {stop}: {outcome:?}"
            );
            began = stop;
        }
        let (outcome, from) = train(resumed(setting.run(name)), None).unwrap();
        assert_eq!(from, began);
        assert!(matches!(outcome, Outcome::Finished(_)));
        let parts = setting.result(name);
        assert_eq!(parts.2, straight.2, "{name}: log");
        assert!(parts.0 == straight.0, "{name}: weights differ");
        assert!(parts.1 == straight.1, "{name}: moments differ");
    }
}

/// One of 40 samples is none: what stands in for it is the same, and so is the count.
#[test]
fn bad_samples_are_counted_over_all_parts_of_a_run() {
    let root = tempfile::tempdir().unwrap();
    let data = common::write(&root.path().join("data"), 40, |number| common::Sample {
        jpeg: match number {
            17 => b"no image".to_vec(),
            _ => common::jpeg(20, 20, |x, y| {
                [(x * 12) as u8, (y * 12) as u8, number as u8]
            }),
        },
        class: None,
    });
    let run = |name: &str| RawPretrain {
        max_bad_fraction: Some(0.1),
        ..common::small_run(&data, &root.path().join(name))
    };
    train(run("straight"), None).unwrap();
    let straight = result(&root.path().join("straight"));
    // All 40 samples of each of three epochs are trained on.
    assert!(
        straight.2[straight.2.len() - 2].ends_with("bad 3"),
        "{:?}",
        straight.2
    );
    train(run("parts"), Some(7)).unwrap();
    train(resumed(run("parts")), None).unwrap();
    assert!(result(&root.path().join("parts")) == straight);
}

/// Without a stop: ended by a step limit, as well as left with a checkpoint older than its log, as a kill leaves it.
#[test]
fn falling_back_to_an_older_checkpoint_repeats_the_same_steps() {
    let setting = setting();
    train(setting.run("straight"), None).unwrap();
    let run = || RawPretrain {
        checkpoint_every: Some(4),
        ..setting.run("killed")
    };
    train(
        RawPretrain {
            max_steps: Some(9),
            ..run()
        },
        None,
    )
    .unwrap();
    // Steps 4 and 8 were saved on the way and 9 at the end, which is taken away, its log lines left.
    fs::remove_dir_all(setting.root.join("killed/checkpoints/step-00000009")).unwrap();
    let (_, from) = train(resumed(run()), None).unwrap();
    assert_eq!(from, 8);
    assert!(setting.result("killed") == setting.result("straight"));
}

/// What a kill can leave in the folder is passed over, and cleared.
#[test]
fn damaged_checkpoints_are_passed_over() {
    let setting = setting();
    train(setting.run("straight"), None).unwrap();
    train(setting.run("damaged"), Some(7)).unwrap();
    let folder = setting.root.join("damaged/checkpoints");
    let half = folder.join("step-00000007/model.safetensors");
    let content = fs::read(&half).unwrap();
    fs::write(&half, &content[..content.len() / 2]).unwrap();
    fs::create_dir(folder.join(".tmp-step-00000012")).unwrap();
    fs::write(
        folder.join(".tmp-step-00000012/model.safetensors"),
        &content,
    )
    .unwrap();
    let (_, from) = train(resumed(setting.run("damaged")), None).unwrap();
    assert_eq!(from, 5);
    assert!(setting.result("damaged") == setting.result("straight"));
    assert!(!folder.join(".tmp-step-00000012").exists());
}

/// A stop during validation: the epoch's end is done by the run that goes on.
#[test]
fn a_stop_while_validating_loses_nothing() {
    struct StopWhileValidating<'a>(&'a AtomicBool);
    impl Observer for StopWhileValidating<'_> {
        fn validating(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let setting = setting();
    train(setting.run("straight"), None).unwrap();
    for part in 1..=3 {
        let stop = AtomicBool::new(false);
        let config = PretrainConfig::resolve(resumed(setting.run("parts"))).unwrap();
        let outcome = if part == 1 {
            pretrain(&config, &stop, &mut StopWhileValidating(&stop)).unwrap()
        } else {
            // Stopped again after the epoch's end was made up for, then left to finish.
            train(
                resumed(setting.run("parts")),
                Some(if part == 2 { 6 } else { 99 }),
            )
            .unwrap()
            .0
        };
        match part {
            1 => assert!(matches!(outcome, Outcome::Stopped { step: 5, .. })),
            2 => assert!(matches!(outcome, Outcome::Stopped { step: 6, .. })),
            _ => assert!(matches!(outcome, Outcome::Finished(_))),
        }
    }
    assert!(setting.result("parts") == setting.result("straight"));
}

#[test]
fn a_finished_run_stays_finished() {
    let setting = setting();
    train(setting.run("once"), None).unwrap();
    let before = setting.result("once");
    let (outcome, from) = train(resumed(setting.run("once")), None).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    assert_eq!(from, 15);
    assert!(setting.result("once") == before);
}

#[test]
fn another_configuration_or_other_data_is_refused_by_name() {
    let setting = setting();
    train(
        RawPretrain {
            max_steps: Some(2),
            ..setting.run("run")
        },
        None,
    )
    .unwrap();
    let other = RawPretrain {
        seed: Some(8),
        mask_ratio: Some(0.5),
        ..resumed(setting.run("run"))
    };
    let message = train(other, None).unwrap_err().to_string();
    assert!(
        message.contains("seed: the checkpoint has 7, this run 8"),
        "{message}"
    );
    assert!(
        message.contains("mask_ratio: the checkpoint has 0.75, this run 0.5"),
        "{message}"
    );

    let other = common::shards(&setting.root.join("other"), 42);
    let message = train(
        RawPretrain {
            data: Some(vec![other]),
            ..resumed(setting.run("run"))
        },
        None,
    )
    .unwrap_err();
    assert!(matches!(message, Error::OtherData { .. }), "{message}");

    // What does not enter the training may change.
    let free = RawPretrain {
        log_every: Some(3),
        keep_last: Some(1),
        max_steps: Some(3),
        ..resumed(setting.run("run"))
    };
    train(free, None).unwrap();
}

#[test]
fn an_output_folder_in_use_needs_a_decision() {
    let setting = setting();
    train(
        RawPretrain {
            max_steps: Some(2),
            ..setting.run("run")
        },
        None,
    )
    .unwrap();
    let message = train(setting.run("run"), None).unwrap_err().to_string();
    assert!(message.contains("--resume auto"), "{message}");

    // From a path: into another folder, or on in its own if it is the newest.
    let from = |path: &str| {
        Some(
            setting
                .root
                .join(path)
                .display()
                .to_string()
                .parse()
                .unwrap(),
        )
    };
    let branch = RawPretrain {
        resume: from("run/checkpoints/step-00000002"),
        ..setting.run("branch")
    };
    assert_eq!(train(branch, None).unwrap().1, 2);
    let on = RawPretrain {
        resume: from("run"),
        max_steps: Some(5),
        ..setting.run("run")
    };
    assert_eq!(train(on, None).unwrap().1, 2);
    let back = RawPretrain {
        resume: from("run/checkpoints/step-00000002"),
        ..setting.run("run")
    };
    let message = train(back, None).unwrap_err().to_string();
    assert!(message.contains("step 5"), "{message}");
    let nowhere = RawPretrain {
        resume: from("nowhere"),
        ..setting.run("new")
    };
    assert!(matches!(
        train(nowhere, None),
        Err(Error::NoCheckpoint { .. })
    ));
}
