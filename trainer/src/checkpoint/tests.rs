use super::*;
use crate::config::{PretrainConfig, RawPretrain};
use mae_model::StateTensor;

fn state(step: u64) -> RunState {
    let config = PretrainConfig::resolve(RawPretrain {
        data: Some(vec!["a.tar".into()]),
        output_dir: Some("out".into()),
        model: Some("mae-micro-patch4".into()),
        input_size: Some("8".parse().unwrap()),
        ..Default::default()
    });
    RunState {
        version: VERSION,
        kind: RunKind::Pretrain,
        best: None,
        written_by: "0".into(),
        world: 1,
        skipped: vec![],
        step,
        steps_per_epoch: 4,
        epoch: 1,
        batch: 2,
        epoch_loss: 0.1 + 0.2,
        data_samples: vec![5, 3],
        bad_samples: 0,
        seconds: 1.0 / 3.0,
        dataset: "d".into(),
        fingerprint: "f".into(),
        config: config.unwrap(),
        files: BTreeMap::new(),
    }
}

fn dict(value: f32) -> StateDict {
    StateDict::from([(
        "w".to_owned(),
        StateTensor {
            shape: vec![2],
            data: vec![value, 0.1],
        },
    )])
}

fn saved(folder: &Path, step: u64) -> PathBuf {
    save(folder, state(step), &dict(step as f32), &dict(0.5)).unwrap()
}

#[test]
fn a_checkpoint_comes_back_whole() {
    let root = tempfile::tempdir().unwrap();
    let path = saved(root.path(), 6);
    assert!(path.ends_with("step-00000006"));
    let checkpoint: Checkpoint = load(&path).unwrap();
    assert_eq!(
        (checkpoint.model, checkpoint.optimizer),
        (dict(6.0), dict(0.5))
    );
    let mut read = checkpoint.info.state;
    assert_eq!(read.files.len(), 2);
    read.files.clear();
    assert_eq!(read, state(6));
}

#[test]
fn the_newest_whole_one_is_chosen() {
    let run = tempfile::tempdir().unwrap();
    let folder = folder(run.path());
    assert!(newest::<PretrainConfig>(&folder).unwrap().is_none());
    assert!(matches!(
        open::<PretrainConfig>(run.path()),
        Err(Error::NoCheckpoint { .. })
    ));
    for step in [2, 4, 10] {
        saved(&folder, step);
    }
    // An interrupted save, a truncated file, and a file changed without changing its length.
    fs::create_dir(folder.join(".tmp-step-00000012")).unwrap();
    let truncated = folder.join("step-00000010").join(MODEL);
    let content = fs::read(&truncated).unwrap();
    fs::write(&truncated, &content[..content.len() - 1]).unwrap();
    assert_eq!(
        newest::<PretrainConfig>(&folder)
            .unwrap()
            .unwrap()
            .info
            .state
            .step,
        4
    );
    let changed = folder.join("step-00000004").join(OPTIMIZER);
    let mut content = fs::read(&changed).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&changed, content).unwrap();
    assert_eq!(
        open::<PretrainConfig>(run.path()).unwrap().info.state.step,
        2
    );
    fs::remove_file(folder.join("step-00000002").join(STATE)).unwrap();
    let error = newest::<PretrainConfig>(&folder).unwrap_err().to_string();
    assert!(error.contains("bytes instead of"), "{error}");
}

#[test]
fn other_versions_say_so() {
    let root = tempfile::tempdir().unwrap();
    let path = save(
        root.path(),
        RunState {
            version: 99,
            ..state(1)
        },
        &dict(1.0),
        &dict(1.0),
    )
    .unwrap();
    let error = load::<PretrainConfig>(&path).unwrap_err().to_string();
    assert!(error.contains("version 99"), "{error}");
}

#[test]
fn a_save_that_fails_says_how_to_go_on() {
    let root = tempfile::tempdir().unwrap();
    let blocked = root.path().join("file");
    fs::write(&blocked, "").unwrap();
    let error = save(&blocked, state(3), &dict(1.0), &dict(1.0))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("step 3") && error.contains("--config out/config.toml --resume auto"),
        "{error}"
    );
}

#[test]
fn pruning_keeps_what_retention_keeps() {
    let root = tempfile::tempdir().unwrap();
    for step in [1, 2, 3, 4] {
        saved(root.path(), step);
    }
    prune(
        root.path(),
        Retention {
            last: 2,
            every: None,
        },
    )
    .unwrap();
    let steps: Vec<u64> = list(root.path())
        .unwrap()
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    assert_eq!(steps, [3, 4]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
}
