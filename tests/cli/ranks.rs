//! `mae pretrain` and `mae finetune` on several processes under `mpirun`: the same numbers as on one, and an end for all where one fails.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::run::{SMALL_MODEL, Scene};

/// Batches of accumulated and clipped updates over 51 images, evaluated on as many: no number of ranks divides them.
const SETTINGS: &str = r#"
data = "data"
val-data = "data"
accum-iter = 2
epochs = 5
lr = 1e-3
clip-grad = 1.0
threads = 1
log-every = 1
picture-every = 5
"#;

fn scene() -> Scene {
    let scene = Scene::with_shards();
    scene.write("run.toml", [SMALL_MODEL, SETTINGS].concat().as_bytes());
    scene
}

/// `mpirun -n RANKS mae pretrain …`, with so many images a batch on each.
fn command(scene: &Scene, ranks: usize, name: &str, batch: &str, more: &[&str]) -> Command {
    let mut args = vec!["pretrain", "--config", "run.toml", "--output-dir", name];
    args.extend(["--batch-size", batch]);
    args.extend(more);
    under_mpirun(scene, ranks, &args)
}

fn under_mpirun(scene: &Scene, ranks: usize, args: &[&str]) -> Command {
    let mae = scene.command(args);
    let mut mpirun = Command::new("mpirun");
    mpirun
        .args(["--oversubscribe", "-n", &ranks.to_string()])
        .args(["--mca", "odls_base_sigkill_timeout", "5"])
        // A limit on the size of files is an error, not the end.
        .args(["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(mae.get_program())
        .args(mae.get_args())
        .current_dir(scene.path("."))
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    mpirun
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}\n{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn run(scene: &Scene, ranks: usize, name: &str, batch: &str, more: &[&str]) -> Output {
    let ran = command(scene, ranks, name, batch, more).output();
    ran.expect("mpirun runs: Debian's openmpi-bin has it")
}

fn done(scene: &Scene, ranks: usize, name: &str, batch: &str, more: &[&str]) {
    let ran = run(scene, ranks, name, batch, more);
    assert!(ran.status.success(), "{}", text(&ran));
}

/// The lines of a run's log.
fn log(scene: &Scene, name: &str) -> Vec<serde_json::Value> {
    let log = fs::read_to_string(scene.path(&format!("{name}/log.jsonl"))).expect("a log");
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines.collect()
}

/// That two runs came to the same but for the order of sums.
fn same(scene: &Scene, one: &str, other: &str) {
    let (one, other) = (log(scene, one), log(scene, other));
    assert_eq!(one.len(), other.len());
    for (a, b) in one.iter().zip(&other) {
        assert_eq!((&a["kind"], &a["step"]), (&b["kind"], &b["step"]));
        for figure in [
            "loss",
            "val_loss",
            "grad_norm",
            "lr",
            "val_top1",
            "val_top5",
        ] {
            let (a, b) = (a[figure].as_f64(), b[figure].as_f64());
            assert_eq!(a.is_some(), b.is_some(), "{figure}");
            let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
            assert!((a - b).abs() <= 1e-4 * a.abs(), "{figure}: {a} and {b}");
        }
    }
}

#[test]
fn two_and_three_ranks_train_as_one() {
    let scene = scene();
    done(&scene, 1, "one", "6", &[]);
    assert_eq!(log(&scene, "one").len(), 5 * (4 + 1));
    for (ranks, name, batch) in [(2, "two", "3"), (3, "three", "2")] {
        done(&scene, ranks, name, batch, &[]);
        same(&scene, "one", name);
    }
    // One log, one checkpoint an epoch, one picture: those of the first rank.
    assert_eq!(scene.names("three"), scene.names("one"));
    assert_eq!(scene.names("three/pictures"), scene.names("one/pictures"));
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let scene = scene();
    done(&scene, 1, "straight", "6", &[]);
    let resume = ["--resume", "auto"];
    let until = |step| [&resume[..], &["--max-steps", step]].concat();
    done(&scene, 2, "cut", "3", &until("6"));
    // Two batches of 3 on 2 ranks are an update of 12 images, as is one of 4 on 3.
    let other = [&until("13")[..], &["--accum-iter", "1"]].concat();
    done(&scene, 3, "cut", "4", &other);
    done(&scene, 1, "cut", "6", &resume);
    same(&scene, "straight", "cut");

    let refused = run(&scene, 3, "cut", "6", &resume);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused);
    let both = "images of an update: the checkpoint has 12 (batch_size 6 × accum_iter 2 × 1 processes), this run 36";
    assert!(said.contains(both), "{said}");
}

#[test]
fn moments_held_in_parts_change_nothing() {
    let scene = scene();
    done(&scene, 1, "one", "6", &[]);
    done(&scene, 3, "parts", "2", &["--shard-optimizer"]);
    same(&scene, "one", "parts");
    // A checkpoint holds them all: a run goes on with or without parts.
    let until = |step| ["--resume", "auto", "--max-steps", step];
    done(
        &scene,
        3,
        "mixed",
        "2",
        &[&until("7")[..], &["--shard-optimizer"]].concat(),
    );
    done(&scene, 1, "mixed", "6", &until("12"));
    done(
        &scene,
        2,
        "mixed",
        "3",
        &["--resume", "auto", "--shard-optimizer"],
    );
    same(&scene, "one", "mixed");
}

/// One image of one rank leads to a loss that is no number: the run ends, naming both, or all ranks go back and past it together.
#[test]
fn a_rank_that_diverges_ends_all_or_all_go_back() {
    let scene = super::diverge::scene();
    let args = |name, more: &[&'static str]| {
        let args = ["pretrain", "--config", "odd.toml", "--output-dir", name];
        [&args[..], &["--batch-size", "2"], more].concat()
    };
    let ran = under_mpirun(&scene, 2, &args("ended", &[])).output();
    let ran = ran.expect("mpirun runs");
    let said = text(&ran);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    // The samples of the one batch, not those of the other rank.
    let named = said
        .split("Samples of that batch: ")
        .nth(1)
        .expect("samples");
    let named = named.lines().next().expect("a line");
    assert!(
        named.contains("white") && named.matches("rank ").count() == 2,
        "{named}"
    );
    let ran = under_mpirun(&scene, 2, &args("back", &["--max-rollbacks", "2"])).output();
    let ran = ran.expect("mpirun runs");
    assert!(ran.status.success(), "{}", text(&ran));
    assert_eq!(super::diverge::logged(&scene, "back").len(), 10);
}

/// Without what is drawn for a batch: mixing and drop path.
const FINETUNE: &str = r#"
data = "data"
val-data = "data"
from-scratch = true
accum-iter = 2
epochs = 3
lr = 1e-3
clip-grad = 1.0
aa = "none"
reprob = 0.0
mixup = 0.0
cutmix = 0.0
drop-path = 0.0
threads = 1
log-every = 1
"#;

#[test]
fn a_classifier_is_finetuned_as_by_one() {
    let scene = scene();
    let kept = |line: &&str| !line.starts_with("decoder");
    let dimensions: Vec<&str> = SMALL_MODEL.lines().filter(kept).collect();
    let settings = [FINETUNE, &dimensions.join("\n")].concat();
    scene.write("finetune.toml", settings.as_bytes());
    for (ranks, name, batch) in [(1, "one", "6"), (2, "two", "3"), (3, "three", "2")] {
        let mut args = vec!["finetune", "--config", "finetune.toml"];
        args.extend(["--output-dir", name, "--batch-size", batch]);
        let ran = under_mpirun(&scene, ranks, &args)
            .output()
            .expect("mpirun runs");
        assert!(ran.status.success(), "{}", text(&ran));
        same(&scene, "one", name);
    }
    let last = log(&scene, "three").pop().expect("a line");
    assert!(last["val_top1"].as_f64().is_some_and(|top1| top1 > 0.0));
    assert_eq!(scene.names("three"), scene.names("one"));
}

/// A run that does not end by itself.
const ENDLESS: [&str; 6] = [
    "--epochs",
    "1000000",
    "--checkpoint-every",
    "3",
    "--eval-every",
    "1000000",
];

/// Starts one, and waits until it has saved.
fn start(scene: &Scene, ranks: usize, more: &[&str]) -> Child {
    let more = [&ENDLESS[..], more].concat();
    let mut child = command(scene, ranks, "run", "2", &more)
        .spawn()
        .expect("mpirun runs");
    let begun = Instant::now();
    while !scene.path("run/checkpoints/step-00000003").exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint");
        if let Ok(Some(status)) = child.try_wait() {
            panic!(
                "ended with {status}: {}",
                text(&child.wait_with_output().expect("an end"))
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// The process of a rank: that child of mpirun's whose variables say so.
fn process_of(child: &Child, rank: usize) -> String {
    let parent = child.id();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.expect("Linux lists children");
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    let is_it = |pid: &&str| {
        let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        variables
            .split(|&byte| byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    };
    children
        .split_whitespace()
        .find(is_it)
        .expect("the rank's process")
        .to_owned()
}

fn signal(pid: &str, name: &str) {
    let sent = Command::new("kill").args(["-s", name, pid]).status();
    assert!(sent.expect("kill runs").success());
}

/// Waits for the end, and gives exit code and what was said.
fn end(child: Child, within: u64) -> (Option<i32>, String) {
    let begun = Instant::now();
    let output = child.wait_with_output().expect("an end");
    let took = begun.elapsed().as_secs();
    assert!(took < within, "{took} s: {}", text(&output));
    (output.status.code(), text(&output))
}

/// The newest checkpoint is whole: a single process goes on from it.
fn goes_on(scene: &Scene, ranks: usize) {
    let newest = scene.inspect("run");
    let step = newest["step"].as_u64().expect("a step");
    let until = (step + 2).to_string();
    let more = [
        "--epochs",
        "1000000",
        "--resume",
        "auto",
        "--max-steps",
        &until,
    ];
    let batch = (2 * ranks).to_string();
    done(
        scene,
        1,
        "run",
        &batch,
        &[&more[..], &["--eval-every", "1000000"]].concat(),
    );
}

#[test]
fn a_rank_that_dies_ends_all_and_is_named() {
    for killed in [0, 2] {
        let scene = scene();
        let child = start(&scene, 3, &[]);
        signal(&process_of(&child, killed), "KILL");
        let (code, said) = end(child, 60);
        assert!(code.is_some_and(|code| code != 0 && code != 75), "{said}");
        let named = format!("rank {killed} is gone");
        assert!(said.contains(&named), "{said}");
        goes_on(&scene, 3);
    }
}

#[test]
fn a_rank_that_is_frozen_ends_all_and_is_named() {
    let scene = scene();
    let child = start(&scene, 2, &["--hang-timeout", "4"]);
    let pid = process_of(&child, 1);
    signal(&pid, "STOP");
    let (code, said) = end(child, 60);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("rank 1 has given no sign of life for"),
        "{said}"
    );
    goes_on(&scene, 2);
}

#[test]
fn a_signal_to_one_rank_saves_and_stops_all() {
    for told in [0, 1] {
        let scene = scene();
        let child = start(&scene, 2, &[]);
        signal(&process_of(&child, told), "TERM");
        let (code, said) = end(child, 60);
        assert_eq!(code, Some(75), "{said}");
        assert!(said.contains("--resume auto"), "{said}");
    }
}

/// A limit on the size of files of one rank, once MPI has made its own, stands in for a full disk.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_all() {
    let scene = scene();
    // What is left to grow is the checkpoints.
    let child = start(&scene, 2, &["--log-every", "1000000"]);
    let limited = Command::new("prlimit")
        .args(["--pid", &process_of(&child, 0), "--fsize=20000"])
        .status();
    assert!(limited.expect("prlimit runs").success());
    let (code, said) = end(child, 60);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("rank 0 failed: the checkpoint of step"),
        "{said}"
    );
    goes_on(&scene, 2);
}

#[test]
fn what_ranks_must_share_is_compared() {
    let scene = scene();
    // A folder for each: ranks on machines that do not see the same one.
    done(&scene, 1, "a0", "6", &["--max-steps", "2"]);
    let command = command(&scene, 2, "unused", "3", &["--resume", "auto"]);
    let mae = command.get_args().nth(9).expect("the program").to_owned();
    let each = "exec \"$0\" pretrain --config run.toml --output-dir a$OMPI_COMM_WORLD_RANK --batch-size 3 --resume auto";
    let mut mpirun = Command::new("mpirun");
    mpirun
        .args(["--oversubscribe", "-n", "2", "sh", "-c", each])
        .arg(mae)
        .current_dir(scene.path("."))
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let ran = mpirun.output().expect("mpirun runs");
    let said = text(&ran);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(
        said.contains("differ in the checkpoint to go on from: rank 0 has Some(2), rank 1 None"),
        "{said}"
    );
}
