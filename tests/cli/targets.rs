//! What the paper compares with its own choice, through the binary: other targets and masks, a tokenizer, mask tokens in the encoder.

use std::fs;

use serde_json::Value;

use super::run::{SMALL_MODEL, Scene};

/// A run of 12 updates on images of 16 patches.
const SETTINGS: &str = r#"
data = "data"
val-data = "data"
batch-size = 8
epochs = 2
threads = 2
"#;

fn scene() -> Scene {
    let scene = Scene::with_shards();
    scene.write("run.toml", [SMALL_MODEL, SETTINGS].concat().as_bytes());
    scene
}

fn pretrain<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = ["pretrain", "--config", "run.toml", "--output-dir", output];
    [&own[..], more].concat()
}

fn last_line(stdout: &str) -> Value {
    let line = stdout.lines().last().expect("a line");
    serde_json::from_str(line).expect("JSON")
}

/// Trains, and looks at what came of it by every command that reads a run.
fn train_and_look(scene: &Scene, run: &str, more: &[&str]) {
    let trained = last_line(&scene.mae(&pretrain(run, more)).done().stdout);
    assert!(
        trained["loss"].as_f64().is_some_and(f64::is_finite),
        "{trained}"
    );
    assert!(
        trained["val_loss"].as_f64().is_some_and(f64::is_finite),
        "{trained}"
    );
    scene.mae(&["inspect", run]).done();
    scene
        .mae(&[
            "eval",
            "loss",
            run,
            "--data",
            "data",
            "--mask-ratio",
            "0.75",
        ])
        .done();
    let picture = format!("{run}.png");
    let images = ["--data", "data", "--count", "2", "--output", &picture];
    scene
        .mae(&[&["eval", "reconstruct", run][..], &images].concat())
        .done();
    assert!(fs::metadata(scene.path(&picture)).expect("a picture").len() > 100);
    let tuning = ["finetune", run, "--data", "data", "--val-data", "data"];
    let briefly = ["--epochs", "1", "--batch-size", "8", "--threads", "2"];
    let folder = format!("{run}-tuned");
    let output = ["--output-dir", &folder];
    scene.mae(&[&tuning[..], &briefly, &output].concat()).done();
}

#[test]
fn other_targets_masks_and_mask_tokens_in_the_encoder_go_through_every_command() {
    let scene = scene();
    train_and_look(
        &scene,
        "pca",
        &[
            "--target",
            "pca",
            "--pca-components",
            "5",
            "--pca-images",
            "20",
        ],
    );
    train_and_look(&scene, "seen", &["--encoder-mask-tokens"]);
    train_and_look(
        &scene,
        "blocks",
        &["--mask-sampling", "block", "--mask-ratio", "0.5"],
    );
    train_and_look(&scene, "grid", &["--mask-sampling", "grid"]);
    let half = ["--mask-sampling", "grid", "--mask-ratio", "0.5"];
    let said = scene.mae(&pretrain("half", &half)).failed(2);
    assert!(said.contains("0.75"), "{said}");
    // A resumed run goes on as the one it was, or says why not.
    let again = scene.mae(&pretrain(
        "pca",
        &["--resume", "auto", "--target", "pixels"],
    ));
    let said = again.failed(1);
    assert!(said.contains("target"), "{said}");
}

#[test]
fn a_tokenizer_is_trained_looked_at_and_trained_on() {
    let scene = scene();
    let train = |output, more: &[&str]| {
        let own = ["tokenizer", "train", "--data", "data", "--val-data", "data"];
        let size = [
            "--input-size",
            "16",
            "--patch-size",
            "4",
            "--vocabulary",
            "16",
            "--hidden",
            "8",
        ];
        let run = [
            "--batch-size",
            "8",
            "--epochs",
            "2",
            "--threads",
            "2",
            "--output-dir",
            output,
        ];
        scene.mae(&[&own[..], &size, &run, more].concat())
    };
    let trained = last_line(&train("codes", &[]).done().stdout);
    assert_eq!(trained["outcome"], "finished", "{trained}");
    let names = scene.names("codes");
    for name in [
        "tokenizer.json",
        "tokenizer.safetensors",
        "log.jsonl",
        "config.toml",
    ] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    scene
        .mae(&[
            "tokenizer",
            "reconstruct",
            "--tokenizer",
            "codes",
            "--data",
            "data",
            "--output",
            "codes.png",
        ])
        .done();
    assert!(
        fs::metadata(scene.path("codes.png"))
            .expect("a picture")
            .len()
            > 100
    );
    train_and_look(
        &scene,
        "tokens",
        &["--target", "tokens", "--tokenizer", "codes"],
    );
    // The run holds its tokenizer.
    fs::remove_dir_all(scene.path("codes")).expect("a folder");
    scene
        .mae(&["eval", "loss", "tokens", "--data", "data"])
        .done();

    let said = scene
        .mae(&pretrain(
            "none",
            &["--target", "tokens", "--tokenizer", "codes"],
        ))
        .failed(2);
    assert!(said.contains("codes"), "{said}");
    let said = train("few", &["--vocabulary", "1"]).failed(2);
    assert!(said.contains("vocabulary"), "{said}");
}

#[test]
fn an_evaluation_masks_as_the_run_was_trained() {
    let scene = scene();
    let blocks = ["--mask-sampling", "block", "--mask-block-min", "3"];
    let trained = last_line(&scene.mae(&pretrain("blocks", &blocks)).done().stdout);
    let grid = ["--mask-sampling", "grid"];
    scene.mae(&pretrain("grid", &grid)).done();
    scene.mae(&pretrain("random", &[])).done();
    let eval = |what, run, more: &[&'static str]| {
        let own = ["eval", what, run, "--data", "data"];
        scene.mae(&[&own[..], more].concat())
    };
    let loss = |run, more: &[&'static str]| {
        last_line(
            &eval("loss", run, &[&["--json"], more].concat())
                .done()
                .stdout,
        )
    };
    let mean = |loss: &Value| loss["results"]["checkpoint"][0]["mean"].as_f64().unwrap();
    let own = loss("blocks", &[]);
    let sampling = own["settings"]["mask_sampling"].as_str().unwrap();
    assert!(sampling.starts_with("block least 3 "), "{sampling}");
    let held_out = trained["val_loss"].as_f64().unwrap();
    assert!(
        (mean(&own) / held_out - 1.0).abs() < 1e-5,
        "{own} {held_out}"
    );
    let random = loss("blocks", &["--mask-sampling", "random"]);
    assert_eq!(random["settings"]["mask_sampling"], "random");
    assert!((mean(&random) / held_out - 1.0).abs() > 1e-4, "{random}");
    assert_eq!(loss("grid", &[])["settings"]["mask_sampling"], "grid");
    for what in ["loss", "reconstruct"] {
        let half = eval(what, "grid", &["--mask-ratio", "0.5"]).failed(2);
        assert!(half.contains("0.75"), "{half}");
        let other = eval(what, "grid", &["--mask-sampling", "checks"]).failed(2);
        assert!(other.contains("neither random"), "{other}");
    }
    let shown = eval("reconstruct", "grid", &["--json"]).done().stdout;
    assert_eq!(last_line(&shown)["settings"]["mask_sampling"], "grid");

    let report = |more: &[&'static str]| {
        let others = ["random", "--output-dir", "report"];
        let protocols = ["--protocols", "loss,reconstruct"];
        scene.mae(
            &[
                &["eval", "report", "blocks"],
                &others[..],
                &protocols,
                &["--data", "data"],
                more,
            ]
            .concat(),
        )
    };
    let results = |more: &[&'static str]| {
        report(more).done();
        let read = |name: &str| fs::read_to_string(scene.path("report").join(name)).expect(name);
        let results: Value = serde_json::from_str(&read("results.json")).expect("JSON");
        (results["checkpoints"].clone(), read("report.html"))
    };
    let (each, page) = results(&[]);
    assert_eq!(each[0]["mask_sampling"], sampling);
    assert_eq!(each[1]["mask_sampling"], "random");
    assert_eq!(
        each[0]["results"]["loss"]["loss"]["value"],
        own["results"]["checkpoint"][0]["mean"]
    );
    assert!(page.contains("Careful") && !page.contains("<svg"), "{page}");
    let (all, page) = results(&["--mask-sampling", "grid"]);
    assert_eq!(all[0]["mask_sampling"], "grid");
    assert_eq!(all[1]["mask_sampling"], "grid");
    assert!(
        page.contains("Masks: grid") && page.contains("<svg"),
        "{page}"
    );
    let half = report(&["--mask-sampling", "grid", "--mask-ratio", "0.5"]).failed(2);
    assert!(half.contains("blocks: ") && half.contains("0.75"), "{half}");
}

#[test]
fn other_crops_and_colour_jitter_go_through_training_and_come_back() {
    let scene = scene();
    let fixed = ["--crop", "fixed", "--color-jitter", "0.4"];
    train_and_look(&scene, "fixed", &fixed);
    let none = ["--crop", "centre", "--resize", "18", "--flip=false"];
    train_and_look(&scene, "none", &none);
    let config = fs::read_to_string(scene.path("fixed/config.toml")).expect("settings");
    for line in ["crop = \"fixed\"", "resize = 19", "color_jitter = 0.4"] {
        assert!(config.contains(line), "{config}");
    }
    assert!(!config.contains("crop_scale"), "{config}");

    // Stopped and gone on with from its own settings, it is the run that was not.
    let folder = |run: &str| {
        fs::read(scene.path(&format!(
            "{run}/checkpoints/step-00000012/model.safetensors"
        )))
    };
    let half = [&fixed[..], &["--max-steps", "5"]].concat();
    scene.mae(&pretrain("halved", &half)).done();
    let own = [
        "pretrain",
        "--config",
        "halved/config.toml",
        "--resume",
        "auto",
    ];
    scene
        .mae(&[&own[..], &["--max-steps", "12"]].concat())
        .done();
    assert!(folder("halved").expect("weights") == folder("fixed").expect("weights"));
    assert!(folder("none").expect("weights") != folder("fixed").expect("weights"));

    // Another crop over the same file is another run, which says so.
    let said = scene
        .mae(&[&own[..], &["--crop", "random"]].concat())
        .failed(1);
    for part in [
        "crop: the checkpoint has \"fixed\", this run \"random\"",
        "resize",
        "crop_scale",
    ] {
        assert!(said.contains(part), "{said}");
    }
    for (flags, part) in [
        (
            &["--crop", "centre", "--crop-scale", "0.2,1"][..],
            "--crop-scale",
        ),
        (&["--resize", "20"], "--crop fixed or centre"),
        (&["--crop", "fixed", "--resize", "15"], "--resize 15"),
        (&["--crop", "center"], "centre"),
        (&["--color-jitter=-1"], "--color-jitter"),
        (&["--color-jitter", "nan"], "--color-jitter"),
        (&["--color-jitter", "40"], "--color-jitter"),
    ] {
        let said = scene.mae(&pretrain("x", flags)).failed(2);
        assert!(said.contains(part), "{said}");
    }
    assert!(!scene.path("x").exists());
}

/// A checkpoint of before there were crops to choose from.
#[test]
fn a_run_whose_settings_say_nothing_of_crops_goes_on() {
    let scene = scene();
    scene.mae(&pretrain("old", &["--max-steps", "6"])).done();
    let own = |line: &&str| !line.starts_with("crop = ") && !line.starts_with("color_jitter");
    let config = fs::read_to_string(scene.path("old/config.toml")).expect("settings");
    let earlier: Vec<&str> = config.lines().filter(own).collect();
    assert_eq!(earlier.len() + 2, config.lines().count());
    scene.write("old/config.toml", earlier.join("\n").as_bytes());
    let [step] = &scene.names("old/checkpoints")[..] else {
        panic!("one checkpoint");
    };
    let path = format!("old/checkpoints/{step}/state.json");
    let text = fs::read_to_string(scene.path(&path)).expect("a state");
    let mut state: Value = serde_json::from_str(&text).expect("JSON");
    let settings = state["config"].as_object_mut().expect("settings");
    assert!(settings.remove("crop").is_some() && settings.remove("color_jitter").is_some());
    assert_eq!(settings["crop_scale"], serde_json::json!([0.2, 1.0]));
    scene.write(&path, state.to_string().as_bytes());
    let again = [
        "pretrain",
        "--config",
        "old/config.toml",
        "--resume",
        "auto",
    ];
    let ran = scene
        .mae(&[&again[..], &["--max-steps", "12"]].concat())
        .done();
    assert_eq!(last_line(&ran.stdout)["step"], 12);
    assert!(!ran.stderr.contains("differ"), "{}", ran.stderr);
}
