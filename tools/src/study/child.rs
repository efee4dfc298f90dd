//! A task as a process: this same program, with a log of its own. One that ends badly, even killed, takes no other with it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use mae_trainer::config::DeviceKind;
use mae_trainer::{PretrainConfig, RawPretrain};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use toml::Table;

use super::definition::Metric;
use super::plan::{Plan, Stage, Task};

/// How long between looks at a process.
const LOOK: Duration = Duration::from_millis(50);
/// The exit code of a training that was stopped and saved.
const STOPPED: i32 = 75;

/// What tasks have of the machine, and where they put what they make.
#[derive(Debug)]
pub(super) struct Workshop {
    binary: PathBuf,
    root: PathBuf,
    /// Held by this process and, as their standard input, by all that it starts: as long as one of them lives, no other study gets it.
    lock: File,
    threads: usize,
    device: DeviceKind,
}

/// How a process ended.
#[derive(Debug)]
pub(super) enum End {
    Done(Map<String, Value>),
    Failed(String),
    /// On a signal, with everything saved.
    Stopped,
}

impl Workshop {
    /// Takes the folder `root` for one study; each task has `threads` threads on `device`.
    ///
    /// # Errors
    /// Where another study is at work there, or something that one has left running.
    pub(super) fn open(root: &Path, threads: usize, device: DeviceKind) -> anyhow::Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).with_context(|| {
            format!(
                "another `mae study`, or a training that one left behind, is at work in {}; wait for it or end it",
                root.display()
            )
        })?;
        Ok(Self {
            binary: std::env::current_exe().context("cannot find this program's own file")?,
            root: root.to_owned(),
            lock,
            threads,
            device,
        })
    }

    /// Runs the task at `index` to its end; on `stop` asks it to save and end.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn run(&self, plan: &Plan, index: usize, stop: &AtomicBool) -> anyhow::Result<End> {
        let task = &plan.tasks[index];
        let folder = self.root.join(&task.folder);
        let beside = folder.parent().unwrap_or(&self.root);
        fs::create_dir_all(beside)
            .with_context(|| format!("cannot create {}", beside.display()))?;
        let log_path = beside.join(format!("{}.log", task.stage.name()));
        let said_path = beside.join(format!("{}.json", task.stage.name()));
        let failed = |path: &Path| format!("cannot write {}", path.display());
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| failed(&log_path))?;
        let said = File::create(&said_path).with_context(|| failed(&said_path))?;
        let mut command = self.command(plan, task, &folder, beside)?;
        writeln!(log, "$ {command:?}").with_context(|| failed(&log_path))?;
        let began = log.metadata().map_or(0, |log| log.len());
        let child = command
            .stdin(self.lock.try_clone().context("no file handle is left")?)
            .stdout(said)
            .stderr(log)
            // A terminal's Ctrl-C is for the study, which tells its processes once.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let status = wait(child, stop)?;
        if status.code() == Some(STOPPED) || (!status.success() && stop.load(Ordering::Relaxed)) {
            return Ok(End::Stopped);
        }
        if !status.success() {
            let reason = reason(status, &log_path, began);
            return Ok(End::Failed(format!("{reason} ({})", log_path.display())));
        }
        match figures(task.stage, &folder, &said_path) {
            Ok(figures) => Ok(End::Done(figures)),
            Err(error) => Ok(End::Failed(format!("{error:#}"))),
        }
    }

    fn command(
        &self,
        plan: &Plan,
        task: &Task,
        folder: &Path,
        beside: &Path,
    ) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.binary);
        let from = task
            .after
            .map(|after| self.root.join(&plan.tasks[after].folder));
        let training = |command: &mut Command, words: &[&str]| {
            let mut settings = task.settings.clone();
            settings.insert("output_dir".into(), text(folder)?);
            settings.insert("resume".into(), "auto".into());
            settings.insert("threads".into(), toml::Value::Integer(self.threads as i64));
            settings.insert("device".into(), self.device.to_string().into());
            match (task.stage, &from) {
                (Stage::Pretrain, Some(tokenizer)) => {
                    settings.insert("tokenizer".into(), text(tokenizer)?);
                }
                (_, Some(pretrained)) => {
                    settings.insert("checkpoint".into(), text(pretrained)?);
                }
                (_, None) => {}
            }
            let path = beside.join(format!("{}.toml", task.stage.name()));
            fs::write(&path, toml::to_string(&settings)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
            command.args(words).arg("--config").arg(path);
            anyhow::Ok(())
        };
        let evaluation = |command: &mut Command, what: &str, settings: &Table| {
            command.args(["eval", what]).args(&from);
            flags(command, settings);
            command.args(["--threads", &self.threads.to_string()]);
            command.args(["--device", &self.device.to_string()]);
        };
        match task.stage {
            Stage::Tokenizer => training(&mut command, &["tokenizer", "train"])?,
            Stage::Pretrain => training(&mut command, &["pretrain"])?,
            Stage::Measure(Metric::Finetune) => training(&mut command, &["finetune"])?,
            Stage::Pictures => {
                evaluation(&mut command, "reconstruct", &judged_on(&task.settings));
                command.arg("--json").arg("--separate").arg(folder);
                command.arg("--output").arg(folder.join("all.png"));
            }
            Stage::Measure(metric) => {
                evaluation(&mut command, "report", &task.settings);
                command.args(["--protocols", metric.key()]);
                command.arg("--output-dir").arg(folder);
            }
        }
        Ok(command)
    }
}

/// A path as a setting.
fn text(path: &Path) -> anyhow::Result<toml::Value> {
    let text = path
        .to_str()
        .with_context(|| format!("the path {} is no UTF-8", path.display()))?;
    Ok(text.into())
}

/// With held-out data in the place of training data, where there are any.
fn judged_on(settings: &Table) -> Table {
    let mut settings = settings.clone();
    if let Some(held_out) = settings.remove("val_data") {
        settings.insert("data".into(), held_out);
    }
    settings
}

/// Settings as flags.
fn flags(command: &mut Command, settings: &Table) {
    for (key, value) in settings {
        command.arg(format!("--{}", key.replace('_', "-")));
        let word = |value: &toml::Value| match value {
            toml::Value::String(word) => word.clone(),
            value => value.to_string(),
        };
        match value {
            toml::Value::Array(values) => command.args(values.iter().map(word)),
            value => command.arg(word(value)),
        };
    }
}

/// Waits for its end; on `stop` asks it once to save and end.
fn wait(mut child: Child, stop: &AtomicBool) -> anyhow::Result<ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a process")? {
            return Ok(status);
        }
        if stop.load(Ordering::Relaxed) && !told {
            told = true;
            let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            // One that has ended meanwhile is what was wanted.
            let _ = id.map(|id| kill_process(id, Signal::TERM));
        }
        std::thread::sleep(LOOK);
    }
}

/// Why a process failed, by its own last words in its log, those from `began` on.
fn reason(status: ExitStatus, log: &Path, began: u64) -> String {
    if let Some(signal) = status.signal() {
        let memory = match signal {
            9 => ", as the system does where memory runs out",
            _ => "",
        };
        return format!("killed by signal {signal}{memory}");
    }
    let log = fs::read(log).unwrap_or_default();
    let log = log.get(began as usize..).unwrap_or_default();
    let log = String::from_utf8_lossy(log);
    let error = log
        .rfind("error: ")
        .map(|at| log[at + 7..].trim().to_owned());
    error.unwrap_or_else(|| {
        let code = status.code().unwrap_or_default();
        match log.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => format!("exit code {code}: {line}"),
            None => format!("exit code {code}"),
        }
    })
}

/// What came of a task, from what it printed and left.
fn figures(stage: Stage, folder: &Path, said: &Path) -> anyhow::Result<Map<String, Value>> {
    let read = |path: &Path| -> anyhow::Result<Value> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
    };
    let number = |value: &Value, name: &str| {
        value
            .as_f64()
            .with_context(|| format!("no {name} came of it"))
    };
    let figures = match stage {
        Stage::Tokenizer => {
            let said = read(said)?;
            json!({ "val_loss": said["val_loss"], "seconds": said["seconds"] })
        }
        Stage::Pretrain => {
            let said = read(said)?;
            let path = folder.join(mae_trainer::config::CONFIG_FILE);
            let config = PretrainConfig::resolve(RawPretrain::from_toml_file(&path)?)?;
            let seconds = number(&said["seconds"], "time")?;
            let images =
                number(&said["step"], "step")? * (config.batch_size * config.accum_iter) as f64;
            json!({
                "loss": said["loss"],
                "val_loss": said["val_loss"],
                "images": images,
                "seconds": seconds,
                "images_per_second": images / seconds,
                "flops_per_image": config.mae().flops(config.keep()).total(),
            })
        }
        Stage::Pictures => {
            let said = read(said)?;
            let files = said["separate"]
                .as_array()
                .context("no pictures came of it")?;
            let names = files.iter().filter_map(Value::as_str).map(|file| {
                let name = Path::new(file).file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            });
            json!({ "files": names.collect::<Vec<_>>() })
        }
        Stage::Measure(Metric::Finetune) => {
            let said = read(said)?;
            let top1 = number(&said["top1"], "accuracy")?;
            json!({ "finetune": top1, "seconds": said["seconds"] })
        }
        Stage::Measure(metric) => {
            let results = read(&folder.join("results.json"))?;
            let key = match metric {
                Metric::Loss => "loss",
                _ => "top1",
            };
            let figure = &results["checkpoints"][0]["results"][metric.key()][key];
            let value = number(&figure["value"], metric.key())?;
            json!({ metric.key(): value })
        }
    };
    match figures {
        Value::Object(figures) => Ok(figures),
        _ => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_studys() {
        let folder = tempfile::tempdir().unwrap();
        let first = Workshop::open(folder.path(), 1, DeviceKind::Cpu).unwrap();
        let second = Workshop::open(folder.path(), 1, DeviceKind::Cpu).unwrap_err();
        assert!(second.to_string().contains("at work in"), "{second}");
        // What it started holds the folder after it is gone.
        let mut left = Command::new("sleep")
            .arg("60")
            .stdin(first.lock.try_clone().unwrap())
            .spawn()
            .unwrap();
        drop(first);
        assert!(Workshop::open(folder.path(), 1, DeviceKind::Cpu).is_err());
        left.kill().unwrap();
        left.wait().unwrap();
        Workshop::open(folder.path(), 1, DeviceKind::Cpu).unwrap();
    }

    #[test]
    fn settings_become_flags() {
        let mut command = Command::new("mae");
        let settings = "data = ['a', 'b']\nlabel_field = 'cls'\ncount = 6"
            .parse()
            .unwrap();
        flags(&mut command, &settings);
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(
            words,
            ["--count", "6", "--data", "a", "b", "--label-field", "cls"]
        );
        let judged = judged_on(&"data = ['a']\nval_data = ['v']".parse().unwrap());
        assert_eq!(judged, "data = ['v']".parse().unwrap());
    }

    #[test]
    fn a_failure_is_told_by_the_last_attempts_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        fs::write(
            &log,
            "error: an old one\n$ again\nwarned\nerror: cannot read x: no such file\n",
        )
        .unwrap();
        let status = |script| Command::new("sh").args(["-c", script]).status().unwrap();
        let began = "error: an old one\n$ again\n".len() as u64;
        assert_eq!(
            reason(status("exit 1"), &log, began),
            "cannot read x: no such file"
        );
        fs::write(&log, "thread panicked\n\n").unwrap();
        assert_eq!(
            reason(status("exit 101"), &log, 0),
            "exit code 101: thread panicked"
        );
        assert!(reason(status("kill -9 $$"), &log, 0).contains("signal 9"));
    }
}
