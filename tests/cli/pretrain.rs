//! `mae pretrain`: settings from flags and files, killed and stopped runs that go on, a full disk.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::run::{SMALL_MODEL, Scene};

/// A run of 240 updates, 6 an epoch, that takes a second or so; a checkpoint every 5 of them.
const SETTINGS: &str = r#"
data = "data"
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
    let scene = Scene::with_shards();
    scene.write("run.toml", [SMALL_MODEL, SETTINGS].concat().as_bytes());
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
            for timed in [
                "images_per_second",
                "data_wait",
                "host_memory",
                "utilisation",
                "seconds",
            ] {
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

fn stderr(child: &mut Child) -> BufReader<ChildStderr> {
    BufReader::new(child.stderr.take().expect("a pipe"))
}

/// Reads up to a line with `part`.
fn wait_for(part: &str, stderr: &mut impl BufRead) {
    let mut said = String::new();
    while !said.lines().last().is_some_and(|line| line.contains(part)) {
        let read = stderr.read_line(&mut said).expect("text");
        assert!(read > 0, "ended without saying `{part}`: {said}");
    }
}

pub(crate) fn signal(child: &Child, name: &str) {
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
    let mut latest = began.elapsed().as_micros() as u64 / 2;
    let random = |below: u64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::from(now.expect("a clock").subsec_micros()) * 7919 % below.max(1)
    };
    let mut kills = vec![];
    while kills.len() < 6 {
        let mut child = start(&scene, &run_of("killed", &["--resume", "auto"]));
        let delay = Duration::from_micros(random(latest));
        std::thread::sleep(delay);
        let finished = child.try_wait().expect("a status").is_some();
        child.kill().expect("killed");
        child.wait().expect("a status");
        if !finished {
            kills.push(delay);
        } else if kills.is_empty() {
            // The machine has become faster meanwhile: again from the start, and sooner.
            fs::remove_dir_all(scene.path("killed")).expect("removed");
            latest /= 2;
        } else {
            break;
        }
    }
    scene.mae(&run_of("killed", &["--resume", "auto"])).done();
    assert!(
        result(&scene, "killed") == result(&scene, "straight"),
        "killed after {kills:?}"
    );
    assert!(
        scene
            .names("killed/checkpoints")
            .iter()
            .all(|name| name.starts_with("step-"))
    );
}

/// A run that goes on after each of a thousand kills: how many steps that cost, and that every checkpoint can be read each time.
#[test]
#[ignore = "takes a quarter of an hour; MAE_KILLS sets another number than 1000"]
fn a_thousand_kills_leave_no_broken_checkpoint() {
    let kills = std::env::var("MAE_KILLS").map_or(1000, |number| number.parse().expect("a number"));
    let scene = scene();
    let more = [
        "--resume",
        "auto",
        "--epochs",
        "1000000",
        "--keep-last",
        "2",
    ];
    let (mut lost, mut most_lost, mut before_the_first) = (0, 0, 0);
    for kill in 0..kills {
        let mut child = start(&scene, &run_of("soaked", &more));
        // Spread over start, updates, saving and deleting, the same in every soak.
        let delay = 40 + (kill as u64 * 7919) % 400;
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().expect("killed");
        child.wait().expect("a status");
        let folder = scene.path("soaked/checkpoints");
        let names = match folder.exists() {
            true => scene.names("soaked/checkpoints"),
            false => vec![],
        };
        let whole: Vec<&String> = names
            .iter()
            .filter(|name| name.starts_with("step-"))
            .collect();
        for name in &whole {
            scene
                .mae(&["inspect", &format!("soaked/checkpoints/{name}")])
                .done();
        }
        let Some(newest) = whole.last() else {
            before_the_first += 1;
            continue;
        };
        let newest: u64 = newest["step-".len()..].parse().expect("a step");
        let log = fs::read_to_string(scene.path("soaked/log.jsonl")).unwrap_or_default();
        let logged = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let last = logged
            .filter_map(|line| line["step"].as_u64())
            .next_back()
            .unwrap_or(newest);
        lost += last.saturating_sub(newest);
        most_lost = most_lost.max(last.saturating_sub(newest));
    }
    eprintln!(
        "{kills} kills, {before_the_first} before the first checkpoint: none unreadable; {lost} steps lost, at most {most_lost} at a time, of those between two checkpoints, 5"
    );
    // One more may be done than is saved: that whose checkpoint was being written.
    assert!(most_lost <= 5, "{most_lost}");
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_says_how_to_go_on() {
    let scene = scene();
    // Far more epochs than pass before the signal comes, however late that is.
    let endless = ["--epochs", "1000000", "--checkpoint-every", "1000000"];
    let mut child = start(&scene, &run_of("stopped", &endless));
    let mut stderr = stderr(&mut child);
    wait_for("step 5/", &mut stderr);
    signal(&child, "TERM");
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("text");
    let ended = child.wait().expect("an end");
    assert_eq!(ended.code(), Some(75), "{said}");
    let command = "pretrain --config stopped/config.toml --resume auto";
    assert!(said.contains(&format!("mae {command}")), "{said}");

    let (stopped_at, ..) = result(&scene, "stopped");
    let stopped_at: u64 = stopped_at["step-".len()..].parse().expect("a step");
    let end = (stopped_at + 5).to_string();
    let mut command: Vec<&str> = command.split(' ').collect();
    command.extend(["--max-steps", &end]);
    scene.mae(&command).done();
    let limit = ["--max-steps", &end];
    scene
        .mae(&run_of("straight", &[&endless[..], &limit].concat()))
        .done();
    assert!(result(&scene, "stopped") == result(&scene, "straight"));
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_at_once() {
    use std::os::unix::process::ExitStatusExt;
    let scene = scene();
    // An update of 400,000 images: minutes on any machine.
    let slow = ["--accum-iter", "100000", "--epoch-samples", "400000"];
    let ended = loop {
        let mut child = start(&scene, &run_of("slow", &slow));
        let mut stderr = stderr(&mut child);
        wait_for("a step on", &mut stderr);
        std::thread::sleep(Duration::from_millis(100));
        signal(&child, "INT");
        wait_for("the same signal again ends at once", &mut stderr);
        signal(&child, "INT");
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("text");
        let ended = child.wait().expect("an end");
        if !said.contains("stopped after step 0") {
            break ended;
        }
        // The first signal came before the update had begun.
        fs::remove_dir_all(scene.path("slow")).expect("removed");
    };
    assert_eq!(ended.signal(), Some(2), "{ended}");
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
        [
            "checkpoints",
            "config.toml",
            "log.jsonl",
            "pictures",
            "tensorboard"
        ]
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
