//! `mae pretrain` where one image leads to numbers that are not finite: the end of the run, or a way back and past it.

use std::fs;

use super::run::{SMALL_MODEL, Scene};

/// 24 images, black but for one. At this scale black is 0 and white is more than a product can hold.
const SETTINGS: &str = r#"
data = "odd"
batch-size = 4
epochs = 2
lr = 1e-3
threads = 1
log-every = 1
picture-every = 0
checkpoint-every = 1
keep-last = 100
mean = [0.0, 0.0, 0.0]
std = [1e-37, 1e-37, 1e-37]
"#;

pub(crate) fn scene() -> Scene {
    let scene = Scene::new();
    for number in 0..24 {
        let (name, tone) = match number {
            7 => ("white".to_owned(), 255),
            _ => (format!("black{number:02}"), 0),
        };
        let pixels = [tone; 16 * 16 * 3];
        let mut bytes = Vec::new();
        jpeg_encoder::Encoder::new(&mut bytes, 90)
            .encode(&pixels, 16, 16, jpeg_encoder::ColorType::Rgb)
            .expect("a JPEG");
        scene.write(&format!("images/{name}.jpg"), &bytes);
    }
    scene.mae(&["shard", "images", "odd"]).done();
    scene.write("odd.toml", [SMALL_MODEL, SETTINGS].concat().as_bytes());
    scene
}

/// The updates of each epoch that are logged.
pub(crate) fn logged(scene: &Scene, run: &str) -> Vec<u64> {
    let log = fs::read_to_string(scene.path(&format!("{run}/log.jsonl"))).expect("a log");
    let lines = log.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line
    });
    let steps = lines.filter(|line| line["kind"] == "step");
    steps
        .map(|line| line["step"].as_u64().expect("a step"))
        .collect()
}

#[test]
fn the_run_ends_and_names_the_image() {
    let scene = scene();
    let args = ["pretrain", "--config", "odd.toml", "--output-dir", "run"];
    let said = scene.mae(&args).failed(1);
    assert!(
        said.contains("the loss at step") && said.contains("white"),
        "{said}"
    );
}

#[test]
fn the_run_goes_back_and_past_it_as_often_as_it_may() {
    let scene = scene();
    let args = |name, more: &[&'static str]| {
        let args = ["pretrain", "--config", "odd.toml", "--output-dir", name];
        [&args[..], more].concat()
    };
    // The image comes once an epoch.
    let said = scene
        .mae(&args("once", &["--max-rollbacks", "1"]))
        .failed(1);
    assert!(said.contains("rollback 1 of 1"), "{said}");
    let ran = scene.mae(&args("twice", &["--max-rollbacks", "2"])).done();
    assert!(
        ran.stderr.contains("white") && ran.stderr.contains("rollback 2 of 2"),
        "{}",
        ran.stderr
    );
    let steps = logged(&scene, "twice");
    let passed_over: Vec<u64> = (1..=12).filter(|step| !steps.contains(step)).collect();
    assert_eq!((steps.len(), passed_over.len()), (10, 2));
    assert!(passed_over[0] <= 6 && passed_over[1] > 6);
    let kept = scene.inspect("twice");
    assert_eq!(kept["state"]["skipped"], serde_json::json!(passed_over));

    // What was passed over stays so where the run goes on.
    scene
        .mae(&args("cut", &["--max-rollbacks", "2", "--max-steps", "8"]))
        .done();
    scene
        .mae(&args("cut", &["--max-rollbacks", "2", "--resume", "auto"]))
        .done();
    assert_eq!(logged(&scene, "cut"), steps);
}
