//! `mae shard` as several processes at once, as launchers start them.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::run::{Ran, Scene, jpeg_of, other};

/// What sets a rank's variables.
#[derive(Clone, Copy)]
enum Launcher {
    Torchrun,
    Mpirun,
    Srun,
}

impl Launcher {
    fn variables(self, rank: usize, world: usize) -> Vec<(&'static str, String)> {
        let (rank, world) = (rank.to_string(), world.to_string());
        match self {
            Self::Torchrun => vec![
                ("RANK", rank.clone()),
                ("WORLD_SIZE", world),
                ("LOCAL_RANK", rank),
                ("MASTER_ADDR", "127.0.0.1".into()),
                ("MASTER_PORT", "29500".into()),
            ],
            Self::Mpirun => vec![
                ("OMPI_COMM_WORLD_RANK", rank.clone()),
                ("OMPI_COMM_WORLD_SIZE", world),
                ("OMPI_COMM_WORLD_LOCAL_RANK", rank),
            ],
            Self::Srun => vec![
                ("SLURM_PROCID", rank.clone()),
                ("SLURM_STEP_NUM_TASKS", world),
                ("SLURM_LOCALID", rank),
                ("SLURM_STEP_NODELIST", "localhost".into()),
            ],
        }
    }
}

fn start(scene: &Scene, launcher: Launcher, rank: usize, world: usize, args: &[&str]) -> Child {
    let mut command = scene.command(args);
    command
        .envs(launcher.variables(rank, world))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("mae starts")
}

fn end(child: Child) -> Ran {
    let output = child.wait_with_output().expect("mae ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// All ranks of a job, each with its own arguments.
fn job(scene: &Scene, launcher: Launcher, args: &[&[&str]]) -> Vec<Ran> {
    let ranks = args.iter().enumerate();
    let started: Vec<Child> = ranks
        .map(|(rank, own)| start(scene, launcher, rank, args.len(), own))
        .collect();
    started.into_iter().map(end).collect()
}

/// Photographs in three classes, large and small; one that is cut short in each, and a text.
fn photos() -> Scene {
    let scene = Scene::new();
    for number in 0..60_u32 {
        let (class, side) = (number % 3, 30 + number);
        let image = jpeg_of(side, side + 7, number as u8);
        let bytes = if number % 20 == 7 {
            &image[..400]
        } else {
            &image
        };
        scene.write(&format!("photos/class{class}/{number:03}.jpg"), bytes);
    }
    scene.write("photos/class1/draft.webp", &other(Path::new("x.webp"), 40));
    scene.write("photos/class2/notes.txt", b"not an image");
    scene
}

/// Every file of `one` is in `other` byte for byte, and nothing else.
fn same_bytes(scene: &Scene, one: &str, other: &str) {
    let names = scene.names(one);
    assert_eq!(scene.names(other), names);
    for name in &names {
        let read = |folder: &str| fs::read(scene.path(&format!("{folder}/{name}"))).unwrap();
        assert!(read(one) == read(other), "{name} differs in {other}");
    }
}

#[test]
fn any_number_of_ranks_writes_the_bytes_of_one_process() {
    let scene = photos();
    let flags =
        "--short-side 48 --shuffle --seed 4 --max-count 9 --max-size 20kB --pattern s-%03d.tar";
    let flags: Vec<&str> = flags.split(' ').collect();
    let args = |folder: &'static str| [&["shard", "photos", folder], &flags[..]].concat();
    let one = scene.mae(&args("one")).done();
    assert!(scene.names("one").len() > 6, "{:?}", scene.names("one"));
    assert!(
        one.stdout.contains("57 samples") && one.stdout.contains("5 files passed over"),
        "{}",
        one.stdout
    );

    for (folder, launcher, world) in [
        ("two", Launcher::Torchrun, 2),
        ("three", Launcher::Torchrun, 3),
        ("mpi", Launcher::Mpirun, 2),
        ("slurm", Launcher::Srun, 3),
    ] {
        let args = args(folder);
        let ran = job(&scene, launcher, &vec![&args[..]; world]);
        let mut ran = ran.into_iter().map(Ran::done);
        let first = ran.next().unwrap();
        assert_eq!(
            first.stdout,
            one.stdout.replace(" in one", &format!(" in {folder}"))
        );
        for name in ["007.jpg", "027.jpg", "047.jpg", "draft.webp", "notes.txt"] {
            assert!(
                first.stderr.contains(name),
                "{name} is not named: {}",
                first.stderr
            );
        }
        for other in ran {
            assert_eq!(other.stdout, "");
            assert!(!other.stderr.contains("passing over"), "{}", other.stderr);
        }
        same_bytes(&scene, "one", folder);
    }
}

#[test]
fn shards_are_repacked_by_several_ranks() {
    let scene = photos();
    scene
        .mae(&["shard", "photos", "data", "--max-count", "25"])
        .done();
    let args = |folder: &'static str| ["shard", "data", folder, "--max-count", "8", "--reencode"];
    scene.mae(&args("one")).done();
    let args = args("three");
    for ran in job(&scene, Launcher::Torchrun, &[&args, &args, &args]) {
        ran.done();
    }
    same_bytes(&scene, "one", "three");

    // Finished shards are kept, and all ranks say why; or replaced.
    for ran in job(&scene, Launcher::Torchrun, &[&args, &args, &args]) {
        let said = ran.failed(1);
        assert!(said.contains("--overwrite"), "{said}");
    }
    same_bytes(&scene, "one", "three");
    let args = [&args[..], &["--overwrite"]].concat();
    for ran in job(&scene, Launcher::Torchrun, &[&args, &args]) {
        ran.done();
    }
    same_bytes(&scene, "one", "three");
}

#[test]
fn a_rank_that_fails_is_named_by_the_others() {
    let scene = photos();
    let (good, gone) = (["shard", "photos", "out"], ["shard", "gone", "out"]);
    let mut ran = job(&scene, Launcher::Torchrun, &[&good, &good, &gone]).into_iter();
    let said = ran.next().unwrap().failed(1);
    assert!(
        said.contains("error: rank 2 failed: there is no file or folder gone"),
        "{said}"
    );
    let said = ran.next().unwrap().failed(1);
    assert!(
        said.contains("error: rank 0 ended the job: rank 2 failed"),
        "{said}"
    );
    let said = ran.next().unwrap().failed(2);
    assert!(
        said.contains("error: there is no file or folder gone"),
        "{said}"
    );
    assert_eq!(scene.names("out"), [""; 0]);

    let other_flags = ["shard", "photos", "out", "--max-count", "7"];
    for ran in job(&scene, Launcher::Torchrun, &[&good, &other_flags]) {
        let said = ran.failed(1);
        assert!(
            said.contains("rank 1 was started with other flags"),
            "{said}"
        );
    }
    scene.image_folder("fewer", 3, 4);
    let fewer = ["shard", "fewer", "out"];
    for ran in job(&scene, Launcher::Torchrun, &[&good, &fewer]) {
        let said = ran.failed(1);
        assert!(
            said.contains("rank 1 does not find the same samples"),
            "{said}"
        );
    }
    assert_eq!(scene.names("out"), [""; 0]);
}

/// A file that opens, and cannot be read.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_read_is_named_with_the_rank_whose_part_it_is_in() {
    let scene = photos();
    // The last name, and so in the last rank's part.
    std::os::unix::fs::symlink("/proc/self/mem", scene.path("photos/class2/zzz.jpg")).unwrap();
    let args = ["shard", "photos", "out"];
    let mut ran = job(&scene, Launcher::Torchrun, &[&args, &args, &args]).into_iter();
    let said = ran.next().unwrap().failed(1);
    assert!(
        said.contains("error: rank 2 failed: cannot read photos/class2/zzz.jpg"),
        "{said}"
    );
    ran.for_each(|ran| assert!(ran.failed(1).contains("zzz.jpg")));
    assert_eq!(scene.names("out"), [""; 0]);
}

#[test]
fn what_a_killed_job_left_is_cleared_away() {
    let scene = photos();
    let args = ["shard", "photos", "data"];
    let kill_waiting = || {
        let mut waiting = start(&scene, Launcher::Torchrun, 1, 2, &args);
        let started = Instant::now();
        let notice = scene.path("data/.shard-%06d.tar.ranks/rank-1.json");
        while !notice.exists() && started.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        waiting.kill().unwrap();
        waiting.wait().unwrap();
        assert!(notice.exists());
    };
    let whole = ["classes.json", "index.json", "shard-000000.tar"];
    kill_waiting();
    scene.mae(&args).done();
    assert_eq!(scene.names("data"), whole);
    for name in whole {
        fs::remove_file(scene.path(&format!("data/{name}"))).unwrap();
    }
    kill_waiting();
    for ran in job(&scene, Launcher::Torchrun, &[&args, &args]) {
        ran.done();
    }
    assert_eq!(scene.names("data"), whole);
}
