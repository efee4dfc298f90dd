//! Whether a run that was stopped and resumed ends in the same bits as one that was not.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use mae_trainer::config::{DeviceKind, Resume};
use mae_trainer::observer::StopAfter;
use mae_trainer::{PretrainConfig, RawPretrain, checkpoint, pretrain};

use crate::made;

/// Pictures to train on: no multiple of what an update takes, so that each epoch leaves some out.
const PICTURES: usize = 44;
const EPOCHS: u64 = 3;
/// In the middle of the second epoch, which has 5 updates.
const STOP_AFTER: u64 = 7;

/// Weights and moments of a whole run on `device` and of one stopped and resumed: whether they are the same, to the bit.
///
/// # Errors
/// If a run fails.
pub(crate) fn is_exact(device: DeviceKind) -> anyhow::Result<bool> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let data = folder.path().join("data");
    fs::create_dir(&data)?;
    made::shards(&data, PICTURES, made::PREPARED)?;
    let run = |name: &str, resume, stop_after| -> anyhow::Result<()> {
        let raw = RawPretrain {
            data: Some(vec![data.join("*.tar").display().to_string()]),
            output_dir: Some(folder.path().join(name)),
            resume: Some(resume),
            model: Some("mae-micro-patch4".to_owned()),
            device: Some(device),
            batch_size: Some(4),
            accum_iter: Some(2),
            epochs: Some(EPOCHS),
            warmup_epochs: Some(1.0),
            lr: Some(1e-3),
            clip_grad: Some(1.0),
            picture_every: Some(0),
            ..Default::default()
        };
        let stop = AtomicBool::new(false);
        let mut observer = StopAfter::new(stop_after, &stop);
        pretrain(&PretrainConfig::resolve(raw)?, &stop, &mut observer)?;
        Ok(())
    };
    run("whole", Resume::Never, None)?;
    run("parts", Resume::Never, Some(STOP_AFTER))?;
    run("parts", Resume::Auto, None)?;
    let (whole, parts) = (
        newest(&folder.path().join("whole"))?,
        newest(&folder.path().join("parts"))?,
    );
    anyhow::ensure!(
        whole.info.state.step == parts.info.state.step,
        "the resumed run ended after another number of updates"
    );
    Ok(whole.model == parts.model && whole.optimizer == parts.optimizer)
}

fn newest(run: &Path) -> anyhow::Result<checkpoint::Checkpoint> {
    checkpoint::newest(&checkpoint::folder(run))?.context("a run left no checkpoint")
}

#[cfg(test)]
mod tests {
    #[test]
    fn on_the_cpu_it_is() {
        assert!(super::is_exact(mae_trainer::config::DeviceKind::Cpu).unwrap());
    }
}
