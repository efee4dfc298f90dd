//! `mae eval loss`, `mae eval reconstruct` and `mae eval report` on small runs: which images, which files, what the numbers agree with.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::run::{SMALL_MODEL, Scene};

/// A run of 12 updates on images of 16 patches.
const SETTINGS: &str = r#"
data = "data"
batch-size = 8
epochs = 2
norm-pix-loss = true
threads = 2
"#;

/// A scene with the shards `data` of three classes and a run for each of `runs`.
fn scene(runs: &[&str]) -> Scene {
    let scene = Scene::new();
    scene.image_folder("photos", 3, 17);
    scene
        .mae(&["shard", "photos", "data", "--max-count", "20"])
        .done();
    scene.write("run.toml", [SMALL_MODEL, SETTINGS].concat().as_bytes());
    for (seed, run) in runs.iter().enumerate() {
        let seed = seed.to_string();
        let pretrain = ["pretrain", "--config", "run.toml", "--seed", &seed];
        scene
            .mae(&[&pretrain[..], &["--output-dir", run]].concat())
            .done();
    }
    scene
}

fn json(scene: &Scene, args: &[&str]) -> Value {
    let text = scene.mae(args).done().stdout;
    serde_json::from_str(&text).expect("JSON")
}

fn strings(value: &Value) -> Vec<&str> {
    let list = value.as_array().expect("a list");
    list.iter().filter_map(Value::as_str).collect()
}

#[test]
fn reconstructions_of_chosen_images_in_one_file_and_in_many() {
    let scene = scene(&["a"]);
    let with = |more: &[&'static str]| {
        let first = ["eval", "reconstruct", "a", "--data", "data"];
        [&first[..], more].concat()
    };
    let spread = json(
        &scene,
        &with(&["--count", "3", "--json", "--output", "o/grid.png"]),
    );
    let keys = strings(&spread["images"]);
    assert_eq!(keys.len(), 3);
    assert!(
        fs::read(scene.path("o/grid.png"))
            .expect("a picture")
            .starts_with(b"\x89PNG")
    );

    let drawn = |seed| {
        json(
            &scene,
            &with(&["--count", "9", "--json", "--random-seed", seed]),
        )
    };
    assert_eq!(strings(&drawn("1")["images"]).len(), 9);
    assert_eq!(drawn("1")["images"], drawn("1")["images"]);
    assert_ne!(drawn("1")["images"], drawn("2")["images"]);

    let several = ["--mask-ratio", "0.5,0.75", "0.9", "--paste", "false"];
    let mut args = with(&["--separate", "single", "--json"]);
    args.extend(several.iter().chain(&["--images", keys[2], keys[0]]));
    let named = json(&scene, &args);
    assert_eq!(strings(&named["images"]), [keys[2], keys[0]]);
    let files = strings(&named["separate"]);
    assert_eq!(files.len(), 2 + 3 * 2 * 2);
    for file in &files {
        let bytes = fs::read(scene.path(file)).expect("a picture");
        assert!(bytes.starts_with(b"\x89PNG"), "{file}");
    }
    assert!(files.iter().any(|file| file.ends_with(".0.75.masked.png")));
    let sheet = fs::read(scene.path("reconstructions.png")).expect("a picture");
    let width = u32::from_be_bytes(sheet[16..20].try_into().expect("a width"));
    assert_eq!(width, 3 * 16 + 128 + 3 * (128 + 4) - 4, "three columns");

    for (more, code, said) in [
        (&["--images", "no/such"][..], 1, "`no/such`"),
        (&["--mask-ratio", "0.99"], 2, "0 of 16 patches visible"),
        (&["--mask-ratio", "0.75,0"], 2, "16 of 16 patches"),
        (&["--images", "x", "--count", "2"], 2, "--count"),
        (&["--paste", "perhaps"], 2, "perhaps"),
        (&["--output", "grid.jpg"], 2, ".png"),
    ] {
        let error = scene.mae(&with(more)).failed(code);
        assert!(error.contains(said), "{more:?}: {error}");
    }
}

#[test]
fn losses_at_several_ratios_are_those_of_each() {
    let scene = scene(&["a"]);
    let loss = |more: &[&'static str]| {
        let first = ["eval", "loss", "a", "--data", "data", "--json"];
        json(&scene, &[&first[..], more].concat())["results"].clone()
    };
    let several = loss(&["--mask-ratio", "0.5,0.75"]);
    for who in ["checkpoint", "random_weights"] {
        let ratios = [0, 1].map(|row| several[who][row]["mask_ratio"].as_f64());
        assert_eq!(ratios, [Some(0.5), Some(0.75)]);
        assert_eq!(
            several[who][1],
            loss(&[])[who][0],
            "trained at a ratio of 0.75"
        );
    }
    assert_ne!(several["checkpoint"][0], several["checkpoint"][1]);
    let text = scene
        .mae(&[
            "eval",
            "loss",
            "a",
            "--data",
            "data",
            "--mask-ratio",
            "0.5",
            "0.75",
        ])
        .done()
        .stdout;
    assert_eq!(text.matches("random weights").count(), 2, "{text}");
}

#[test]
fn options_that_do_not_suit_are_found_before_images_are_encoded() {
    let scene = scene(&["a"]);
    for (args, code, said) in [
        (
            "knn a --data data --k 5,400",
            2,
            "400 neighbours cannot vote",
        ),
        ("knn a --data data --temperature 0", 2, "temperature"),
        ("knn a --data data --label-field none", 2, "--label-field"),
        ("knn a --data data --label-field json:wnid", 1, "json:wnid"),
        ("knn a --data missing", 1, "missing"),
        ("knn no.pth --data data", 1, "no.pth holds no checkpoint"),
        ("linear-probe a --data data", 2, "--val-data"),
        (
            "linear-probe a --cached --data data --learning-rates 0",
            2,
            "learning rate",
        ),
        ("loss a --data data --mask-ratio 0.5,1", 2, "0 of 16"),
        ("loss a --data data --device tpu", 2, "tpu"),
        ("loss a --data data --precision bf16", 1, "bf16"),
    ] {
        let args = [&["eval"][..], &args.split(' ').collect::<Vec<_>>()].concat();
        let error = scene.mae(&args).failed(code);
        assert!(error.contains(said), "{args:?}: {error}");
    }
}

#[test]
fn a_report_compares_checkpoints_with_the_numbers_of_the_single_evaluations() {
    let scene = scene(&["a", "b"]);
    let report = |more: &[&'static str]| {
        let first = [
            "eval",
            "report",
            "a",
            "b",
            "--data",
            "data",
            "--output-dir",
            "out",
        ];
        [&first[..], more].concat()
    };
    let read = |name: &str| fs::read_to_string(scene.path("out").join(name)).expect(name);
    let flags = [
        "--random-weights",
        "--count",
        "4",
        "--seed",
        "3",
        "--k",
        "7",
    ];
    let table = scene.mae(&report(&flags)).done().stdout;
    for part in ["masked loss", "kNN top-1", "random weights", "report.html"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    let page = read("report.html");
    assert!(page.ends_with("</html>\n") && !page.contains("http"));
    assert_eq!(page.matches("<svg").count(), 3, "loss, kNN, linear probe");
    let columns = ["original", "masked", "a", "b", "random weights"];
    assert_eq!(
        page.matches("data:image/png;base64,").count(),
        4 * columns.len()
    );

    let results: Value = serde_json::from_str(&read("results.json")).expect("JSON");
    let of = |number: usize, protocol: &str, key: &str| {
        results["checkpoints"][number]["results"][protocol][key].clone()
    };
    assert_eq!(strings(&results["images"]).len(), 4);
    for (number, run) in ["a", "b"].into_iter().enumerate() {
        let single = |what, more: &[&'static str]| {
            json(
                &scene,
                &[&["eval", what, run, "--data", "data", "--json"], more].concat(),
            )
        };
        let loss = single("loss", &["--seed", "3"]);
        let found = of(number, "loss", "loss");
        assert_eq!(found["value"], loss["results"]["checkpoint"][0]["mean"]);
        assert!(found["interval"][0].as_f64() < found["value"].as_f64());
        assert_eq!(found["count"], 51);
        let knn = single("knn", &["--k", "7"]);
        let probe = single("linear-probe", &["--cached", "--seed", "3"]);
        for (protocol, single) in [
            ("knn", &knn["results"]["checkpoint"][0]),
            ("linear-probe", &probe["results"]["checkpoint"]),
        ] {
            for key in ["top1", "top5"] {
                let found = of(number, protocol, key);
                assert_eq!(found["value"], single[key], "{run}: {protocol} {key}");
                let interval = &single[format!("{key}_interval")];
                assert_eq!(found["interval"], *interval, "{run}: {protocol} {key}");
                assert_eq!(found["count"], 10);
            }
        }
        for (protocol, single) in [("knn", &knn), ("linear-probe", &probe)] {
            let pooling = &results["settings"]["pooling"][protocol];
            assert_eq!(*pooling, single["settings"]["pooling"]);
        }
    }
    assert_eq!(results["checkpoints"][2]["name"], "random weights");

    // Chosen protocols, chosen images.
    let key = strings(&results["images"])[1].to_owned();
    let mut args: Vec<&str> = report(&["--protocols", "reconstruct", "--images"]);
    args.push(&key);
    scene.mae(&args).done();
    assert!(!read("report.html").contains("<svg"));
    let results: Value = serde_json::from_str(&read("results.json")).expect("JSON");
    assert_eq!(strings(&results["images"]), [key]);

    for (more, code, said) in [
        (&["--images", "no/such"][..], 1, "`no/such`"),
        (&["not-there"], 1, "not-there"),
        (&["--label-field", "none"], 2, "--label-field"),
        (&["--protocols", "guess"], 2, "guess"),
        (&["--k", "400"], 2, "400 neighbours"),
        (&["--mask-ratio", "1"], 2, "0 of 16 patches visible"),
        (&["--label-field", "json:wnid"], 1, "json:wnid"),
        (&["--heads", "2"], 1, "leave --heads out"),
        (&["--precision", "bf16"], 1, "bf16"),
    ] {
        let error = scene.mae(&report(more)).failed(code);
        assert!(error.contains(said), "{more:?}: {error}");
    }
}

/// Flags about other programs' checkpoints are for those alone; the input size and the pooling are for all.
#[test]
fn a_report_compares_a_run_with_another_programs_encoder() {
    let scene = scene(&["a"]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/foreign");
    let golden = golden.join("dino.pth").display().to_string();
    let shared = ["--data", "data", "--pooling", "token", "--input-size", "16"];
    let report = "--protocols knn linear-probe --k 5 --heads 2 --output-dir out";
    let report: Vec<&str> = report.split(' ').collect();
    scene
        .mae(&[&["eval", "report", "a", &golden], &shared[..], &report].concat())
        .done();
    let results = fs::read_to_string(scene.path("out/results.json")).expect("results");
    let results: Value = serde_json::from_str(&results).expect("JSON");
    let subjects = [&["a"][..], &[golden.as_str(), "--heads", "2"]];
    for (number, subject) in subjects.into_iter().enumerate() {
        let found = &results["checkpoints"][number]["results"];
        let single = |what: &[&str]| {
            let args = [&["eval"], what, subject, &shared[..], &["--json"]].concat();
            json(&scene, &args)["results"]["checkpoint"].clone()
        };
        let knn = single(&["knn", "--k", "5"]);
        assert_eq!(found["knn"]["top1"]["value"], knn[0]["top1"]);
        let probe = single(&["linear-probe", "--cached"]);
        assert_eq!(found["linear-probe"]["top1"]["value"], probe["top1"]);
    }
}

#[test]
fn what_fails_leaves_the_other_results_in_the_report() {
    let scene = scene(&["a"]);
    let tune =
        "finetune a --data data --val-data data --output-dir tuned --epochs 1 --batch-size 8";
    scene.mae(&tune.split(' ').collect::<Vec<_>>()).done();
    let report = "eval report a tuned --data data --output-dir out --protocols loss,knn";
    let error = scene.mae(&report.split(' ').collect::<Vec<_>>()).failed(1);
    assert!(error.contains("1 of the measurements failed"), "{error}");
    let results = fs::read_to_string(scene.path("out/results.json")).expect("results");
    let results: Value = serde_json::from_str(&results).expect("JSON");
    let tuned = &results["checkpoints"][1]["results"];
    assert!(tuned["loss"]["failed"].is_string(), "{tuned}");
    assert!(tuned["knn"]["top1"]["value"].is_number(), "{tuned}");
    let page = fs::read_to_string(scene.path("out/report.html")).expect("a page");
    assert!(page.contains("No loss of tuned"), "{page}");
}
