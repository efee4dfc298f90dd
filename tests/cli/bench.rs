//! `mae bench`.

use serde_json::Value;

use super::run::Scene;

#[test]
fn the_loader_is_timed_for_each_number_of_threads() {
    let scene = Scene::new();
    scene.image_folder("photos", 2, 12);
    scene.mae(&["shard", "photos", "data"]).done();
    let args = "bench loader --data data --threads 1,2 --decoder zune --batch-size 8 --input-size 32 --repeats 2 \
                --seconds 0.4 --windows 2 --bare";
    let args: Vec<&str> = args.split_whitespace().collect();
    let ran = scene.mae(&[&args[..], &["--json"]].concat()).done();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(report["decoder"].as_str().unwrap().contains("zune"));
    assert_eq!(report["samples"], 24);
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for (run, threads) in runs.iter().zip([1, 2]) {
        assert_eq!(run["threads"], threads);
        for figure in [
            "images_per_second",
            "images_per_second_per_core",
            "megabytes_read_per_second",
            "peak_memory_bytes",
            "memory_bound_bytes",
            "bare_images_per_second",
        ] {
            assert!(run[figure].as_f64().unwrap() > 0.0, "{figure}: {run}");
        }
        for stage in ["read", "decode", "resize", "mask", "hand_over"] {
            let milliseconds = run["milliseconds_per_sample"][stage].as_f64().unwrap();
            assert!(milliseconds > 0.0, "{stage}: {run}");
        }
        // The consumer waits in its own windows; a worker's waiting counts where it ends, and may have begun before.
        let share = |of: &str| run[of].as_f64().unwrap();
        assert!((0.0..=1.001).contains(&share("consumer_waiting")), "{run}");
        assert!(share("workers_waiting") >= 0.0, "{run}");
        assert_eq!(run["bad_samples"], 0);
    }
    let table = scene.mae(&args).done().stdout;
    for row in [
        "img/s",
        "ms a sample: read",
        "peak memory",
        "pipeline / bare",
    ] {
        assert!(table.contains(row), "`{row}` is missing in:\n{table}");
    }
}

#[test]
fn what_a_build_cannot_decode_with_is_said() {
    let scene = Scene::new();
    scene.image_folder("photos", 1, 4);
    scene.mae(&["shard", "photos", "data"]).done();
    let said = scene
        .mae(&[
            "bench",
            "loader",
            "--data",
            "data",
            "--decoder",
            "zune",
            "--decode-quality",
            "fast",
        ])
        .failed(2);
    assert!(said.contains("turbo"), "{said}");
    if !cfg!(feature = "turbo") {
        let said = scene
            .mae(&["bench", "loader", "--data", "data", "--decoder", "turbo"])
            .failed(2);
        assert!(said.contains("--features turbo"), "{said}");
    }
    let said = scene
        .mae(&["bench", "loader", "--data", "data", "--repeats", "3"])
        .failed(2);
    assert!(said.contains("multiple"), "{said}");
}

/// Batches of all 24 photos, so that any number of processes sees the same ones.
const RUN: &str = "bench run --data data --model mae-micro-patch4 --batch-size 24 --decoder zune --steps 3 --warm-up 1 --json";

fn run_args() -> Vec<&'static str> {
    RUN.split_whitespace().collect()
}

fn scene_with_photos() -> Scene {
    let scene = Scene::new();
    scene.image_folder("photos", 2, 12);
    scene.mae(&["shard", "photos", "data"]).done();
    scene
}

#[test]
fn loader_and_trainer_are_timed_together() {
    let scene = scene_with_photos();
    let ran = scene.mae(&[&run_args()[..], &["--threads", "1"]].concat());
    let report: Value = serde_json::from_str(&ran.done().stdout).unwrap();
    assert_eq!(
        (&report["ranks"], &report["pictures"]),
        (&1.into(), &24.into())
    );
    assert!(report["images_per_second"].as_f64().unwrap() > 0.0);
    assert!(report["loss"].as_f64().unwrap() > 0.0);
    assert_eq!(report["all_reduce_share"], 0.0);
}

#[cfg(feature = "mpi")]
#[test]
fn processes_are_compared_on_the_same_batch_and_threads() {
    let scene = scene_with_photos();
    let more = ["--threads", "2", "--scaling", "1,2", "--rounds", "2"];
    let args = [&run_args()[..], &more].concat();
    let mut command = scene.command(&args);
    for allow in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        command.env(allow, "1");
    }
    let ran = command.output().unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    for (figure, value) in [
        ("batch_size", 24),
        ("threads", 2),
        ("rounds", 2),
        ("steps", 3),
    ] {
        assert_eq!(report[figure], value, "{figure}");
    }
    let of = |run: usize, figure: &str| report["runs"][run][figure].as_f64().unwrap();
    for run in [0, 1] {
        assert_eq!(of(run, "ranks"), (run + 1) as f64);
        for figure in ["images_per_second", "milliseconds_a_step", "efficiency"] {
            assert!(of(run, figure) > 0.0, "{figure}");
        }
        assert!((0.0..1.0).contains(&of(run, "waiting_share")));
    }
    assert_eq!((of(0, "efficiency"), of(0, "all_reduce_share")), (1.0, 0.0));
    assert!((0.0..1.0).contains(&of(1, "all_reduce_share")) && of(1, "all_reduce_share") > 0.0);
    // They have trained on the same images and masks.
    assert!((of(0, "loss") - of(1, "loss")).abs() < 1e-4 * of(0, "loss"));
}

#[test]
fn what_cannot_be_compared_is_said() {
    let scene = scene_with_photos();
    for (more, word) in [
        (&["--threads", "3", "--scaling", "1,2"][..], "equally"),
        (&["--threads", "2", "--scaling", "0"], "equally"),
        (
            &["--threads", "2", "--scaling", "1", "--device", "cuda"],
            "--device cpu",
        ),
        (&["--rounds", "2"], "--scaling"),
    ] {
        let said = scene.mae(&[&run_args()[..], more].concat()).failed(2);
        assert!(said.contains(word), "{said}");
    }
    if !cfg!(feature = "mpi") {
        let more = ["--threads", "2", "--scaling", "1,2"];
        let said = scene.mae(&[&run_args()[..], &more].concat()).failed(2);
        assert!(said.contains("--features mpi"), "{said}");
    }
}
