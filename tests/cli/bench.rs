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
