//! `mae pretrain`: settings from flags and files, killed and stopped runs that go on, a full disk.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::run::Scene;

/// A run of 240 updates, 6 an epoch, that takes a second or so; a checkpoint every 5 of them.
const SETTINGS: &str = r#"
data = "data"
model = "mae-micro-patch4"
input-size = 16
dim = 24
depth = 2
heads = 2
decoder-dim = 16
decoder-depth = 1
decoder-heads = 2
batch-size = 4
accum-iter = 2
epochs = 40
lr = 1e-3
clip-grad = 1.0
threads = 2
log-every = 1
picture-every = 20
checkpoint-every = 5
"#;

fn scene() -> Scene {
    let scene = Scene::new();
    scene.image_folder("photos", 3, 17);
    scene
        .mae(&["shard", "photos", "data", "--max-count", "20"])
        .done();
    scene.write("run.toml", SETTINGS.as_bytes());
    scene
}

fn run_of<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [
        &["pretrain", "--config", "run.toml", "--output-dir", name],
        more,
    ]
    .concat()
}

/// Weights and moments of the newest checkpoint, and the log without what depends on the clock.
fn result(scene: &Scene, run: &str) -> (String, Vec<u8>, Vec<u8>, Vec<String>) {
    let newest = scene
        .names(&format!("{run}/checkpoints"))
        .pop()
        .expect("a checkpoint");
    let read = |name: &str| {
        fs::read(scene.path(&format!("{run}/checkpoints/{newest}/{name}"))).expect("a file")
    };
    let log = fs::read_to_string(scene.path(&format!("{run}/log.jsonl"))).expect("a log");
    let lines = log
        .lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            for timed in ["images_per_second", "data_wait", "seconds"] {
                line.as_object_mut().expect("an object").remove(timed);
            }
            line.to_string()
        })
        .collect();
    (
        newest.clone(),
        read("model.safetensors"),
        read("optimizer.safetensors"),
        lines,
    )
}

fn start(scene: &Scene, args: &[&str]) -> Child {
    scene
        .command(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mae starts")
}

fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{} did not appear",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success());
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_end() {
    let scene = scene();
    let began = Instant::now();
    scene.mae(&run_of("straight", &[])).done();
    // What the clock ends in is as good as random; most kills fall into the run, some before its first checkpoint.
    let whole = began.elapsed().as_micros() as u64;
    let random = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::from(now.expect("a clock").subsec_micros()) * 7919 % (whole / 2)
    };
    let mut kills = vec![];
    while kills.len() < 6 {
        let mut child = start(&scene, &run_of("killed", &["--resume", "auto"]));
        let delay = Duration::from_micros(random());
        std::thread::sleep(delay);
        let finished = child.try_wait().expect("a status").is_some();
        child.kill().expect("killed");
        child.wait().expect("a status");
        if finished {
            break;
        }
        kills.push(delay);
    }
    assert!(!kills.is_empty(), "the run ended before it could be killed");
    scene.mae(&run_of("killed", &["--resume", "auto"])).done();
    assert!(
        result(&scene, "killed") == result(&scene, "straight"),
        "killed after {kills:?} of {whole} µs"
    );
    assert!(
        scene
            .names("killed/checkpoints")
            .iter()
            .all(|name| name.starts_with("step-"))
    );
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_says_how_to_go_on() {
    let scene = scene();
    scene.mae(&run_of("straight", &[])).done();
    let child = start(&scene, &run_of("stopped", &[]));
    wait_for(&scene.path("stopped/checkpoints/step-00000005"));
    signal(&child, "TERM");
    let ended = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(75), "{said}");
    let command = "pretrain --config stopped/config.toml --resume auto";
    assert!(said.contains(&format!("mae {command}")), "{said}");
    scene.mae(&command.split(' ').collect::<Vec<_>>()).done();
    assert!(result(&scene, "stopped") == result(&scene, "straight"));
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_at_once() {
    use std::os::unix::process::ExitStatusExt;
    let scene = scene();
    // One update of this takes seconds.
    let slow = [
        "--dim",
        "384",
        "--heads",
        "6",
        "--depth",
        "8",
        "--input-size",
        "32",
        "--accum-iter",
        "12",
    ];
    let mut child = start(&scene, &run_of("slow", &slow));
    wait_for(&scene.path("slow/log.jsonl"));
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, "INT");
    assert_eq!(child.wait().expect("an end").signal(), Some(2));
}

/// A limit on the size of files stands in for a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_former_checkpoint() {
    let scene = scene();
    scene.mae(&run_of("full", &["--max-steps", "7"])).done();
    let before = result(&scene, "full");
    let limited = format!(
        "trap '' XFSZ; ulimit -f 40; exec '{}' pretrain --config run.toml --output-dir full --resume auto",
        env!("CARGO_BIN_EXE_mae")
    );
    let folder = scene.path("");
    let ended = Command::new("sh")
        .args(["-c", &limited])
        .current_dir(folder)
        .output()
        .expect("sh runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("could not be written") && said.contains("--resume auto"),
        "{said}"
    );
    let after = result(&scene, "full");
    assert!((before.0, before.1, before.2) == (after.0, after.1, after.2));
    assert!(
        scene
            .names("full/checkpoints")
            .iter()
            .all(|name| name.starts_with("step-"))
    );
    scene.mae(&["inspect", "full"]).done();
    scene
        .mae(&run_of("full", &["--resume", "auto", "--max-steps", "12"]))
        .done();
}

#[test]
fn flags_win_over_the_file_and_results_are_json() {
    let scene = scene();
    let ran = scene
        .mae(&run_of(
            "run",
            &["--max-steps", "3", "--log-every", "2", "--val-data", "data"],
        ))
        .done();
    let result: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON on stdout");
    assert_eq!(result["outcome"], "finished");
    assert_eq!(result["step"], 3);
    assert!(
        ran.stderr.contains("log_every = 2") && ran.stderr.contains("batch_size = 4"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("step 2/3"), "{}", ran.stderr);
    let inspected = scene.inspect("run");
    assert_eq!(inspected["step"], 3);
    assert!(inspected["parameters"].as_u64() > Some(1000));
    assert_eq!(
        scene.names("run"),
        ["checkpoints", "config.toml", "log.jsonl", "pictures"]
    );
}

#[test]
fn mistakes_are_named() {
    let scene = scene();
    let said = scene
        .mae(&["pretrain", "--data", "data", "--output-dir", "x"])
        .failed(2);
    assert!(
        said.contains("--model") && said.contains("mae-base-patch16"),
        "{said}"
    );
    let said = scene.mae(&run_of("x", &["--input-size", "18"])).failed(2);
    assert!(said.contains("18x18") && said.contains("16x16"), "{said}");
    let said = scene.mae(&run_of("x", &["--data", "nowhere"])).failed(1);
    assert!(said.contains("nowhere"), "{said}");
    let said = scene.mae(&run_of("x", &["--accum-iter", "100"])).failed(1);
    assert!(said.contains("--accum-iter"), "{said}");
    assert!(!scene.path("x").exists());

    scene.mae(&run_of("run", &["--max-steps", "2"])).done();
    let said = scene.mae(&run_of("run", &[])).failed(1);
    assert!(said.contains("--resume auto"), "{said}");
    let said = scene
        .mae(&run_of("run", &["--resume", "auto", "--seed", "1"]))
        .failed(1);
    assert!(
        said.contains("seed: the checkpoint has 0, this run 1"),
        "{said}"
    );
}

#[test]
fn data_sets_mix_by_weight() {
    let scene = scene();
    scene.image_folder("drawings", 1, 9);
    scene.mae(&["shard", "drawings", "more"]).done();
    let mixed = |name, data: &[&'static str]| {
        let mut args = run_of(name, &["--max-steps", "4", "--epoch-samples", "16"]);
        args.extend(data);
        args
    };
    let one_flag = ["--data", "data@0.75", "more@0.25"];
    let ran = scene.mae(&mixed("a", &one_flag)).done();
    for part in [
        "75.0% of the samples from data, which has 51",
        "25.0% of the samples from more, which has 9",
        "epoch 1/40 done",
        "samples: 12 from data, 4 from more",
    ] {
        assert!(
            ran.stderr.contains(part),
            "`{part}` is missing in: {}",
            ran.stderr
        );
    }
    let log = fs::read_to_string(scene.path("a/log.jsonl")).expect("a log");
    let counted = r#""data":[{"name":"data","samples":12},{"name":"more","samples":4}]"#;
    let lines = log.lines().filter(|line| line.contains(counted));
    assert_eq!(lines.count(), 4, "two epochs and their last steps: {log}");
    let two_flags = ["--data", "data@3", "--data", "more@1"];
    scene.mae(&mixed("b", &two_flags)).done();
    assert!(result(&scene, "a") == result(&scene, "b"));
    scene
        .mae(&[
            "pretrain",
            "--config",
            "a/config.toml",
            "--resume",
            "auto",
            "--max-steps",
            "6",
        ])
        .done();

    for (data, part) in [
        (&["--data", "data@0.7", "more"][..], "all of them"),
        (&["--data", "data@0", "more@1"], "above 0"),
        (&["--data", "data@0.7::more@0.3"], "of its own"),
        (&["--epoch-samples", "0"], "--epoch-samples"),
    ] {
        let said = scene.mae(&run_of("x", data)).failed(2);
        assert!(said.contains(part), "{said}");
    }
    let rare = ["--data", "data@99", "more@1"];
    let said = scene.mae(&mixed("x", &rare)).failed(1);
    assert!(
        said.contains("more") && said.contains("16 samples"),
        "{said}"
    );
    assert!(!scene.path("x").exists());
}
