//! `mae study`: variants trained and compared, interrupted and taken up, with one that fails.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::pretrain::signal;
use super::run::{SMALL_MODEL, Scene};

/// Two variants of a training of 12 updates.
const STUDY: &str = r#"
title = "Masks"
knob = "masking ratio, %"
source = "somewhere"
evaluate = ["finetune", "linear-probe", "knn", "loss"]
data = "data"
val-data = "data"

[finetune]
epochs = 1
batch-size = 8

[[variant]]
name = "50%"
at = 50
pretrain = { mask-ratio = 0.5 }

[[variant]]
name = "75%"
at = 75
pretrain = { mask-ratio = 0.75 }
published = { finetune = 84.9 }

[pretrain]
batch-size = 8
epochs = 2
"#;

fn scene(more: &str) -> Scene {
    let scene = Scene::with_shards();
    let text = STUDY.replace("val-data", "val_data") + SMALL_MODEL.trim_start() + more;
    scene.write("study.toml", text.as_bytes());
    scene
}

/// The record's lines, by task.
fn results(scene: &Scene, folder: &str) -> Vec<Value> {
    let text = fs::read_to_string(scene.path(folder).join("results.jsonl")).expect("a record");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn study<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = [
        "study",
        "study.toml",
        "--output-dir",
        folder,
        "--threads",
        "2",
    ];
    [&own[..], more].concat()
}

#[test]
fn every_variant_is_measured_once_and_seeds_are_added() {
    let scene = scene("");
    let ran = scene.mae(&study("out", &["--jobs", "2"])).done();
    assert!(
        ran.stdout.contains("50%") && ran.stdout.contains("75%"),
        "{}",
        ran.stdout
    );
    let first = results(&scene, "out");
    // Pre-training, pictures and four measurements each.
    assert_eq!(first.len(), 12);
    for line in &first {
        assert_eq!(line["outcome"], "done", "{line}");
    }
    let figure = |task: &str, key: &str| {
        let found = first.iter().find(|line| line["task"] == task);
        found.expect(task)["figures"][key].as_f64().expect(key)
    };
    for metric in ["finetune", "linear-probe", "knn"] {
        let value = figure(&format!("75%, seed 0: {metric}"), metric);
        assert!((0.0..=1.0).contains(&value), "{metric} {value}");
    }
    // The encoder sees half of the patches, or a quarter: that costs what it costs.
    let flops =
        ["50%", "75%"].map(|name| figure(&format!("{name}, seed 0: pretrain"), "flops_per_image"));
    assert!(flops[0] > flops[1], "{flops:?}");

    let page = fs::read_to_string(scene.path("out/study.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("84.9") && page.contains("75%: rebuilt"));
    assert!(!page.contains("What failed"));

    // Nothing is done again; another seed adds its own.
    scene.mae(&study("out", &[])).done();
    assert_eq!(results(&scene, "out").len(), 12);
    scene
        .mae(&study("out", &["--seeds", "0,1", "--evaluate", "knn"]))
        .done();
    let more = results(&scene, "out");
    assert_eq!(more.len(), 12 + 2 * 3);
    assert_eq!(more[..12], first[..]);

    // Other settings in the same folder are refused before anything is done.
    let other = scene
        .mae(&study("out", &["--set", "pretrain.epochs=3"]))
        .failed(1);
    assert!(other.contains("epochs: 2, now 3"), "{other}");
    assert_eq!(results(&scene, "out").len(), 18);
}

#[test]
fn one_that_fails_leaves_the_others_and_is_tried_again() {
    let scene = scene("");
    // The data have three classes, which only reading them tells.
    let broken = "\n[[variant]]\nname = \"lost\"\nfinetune = { batch_size = 8, classes = 2 }\n";
    let text = fs::read_to_string(scene.path("study.toml")).expect("a study");
    let text = text.replacen("[pretrain]", &format!("{broken}[pretrain]"), 1);
    scene.write("study.toml", text.as_bytes());
    let ran = scene.mae(&study("out", &["--evaluate", "finetune"]));
    let said = ran.failed(1);
    assert!(said.contains("lost, seed 0: finetune"), "{said}");
    assert!(said.contains("1 of 9 tasks failed"), "{said}");
    let lines = results(&scene, "out");
    let failed: Vec<&Value> = lines
        .iter()
        .filter(|line| line["outcome"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1);
    assert!(
        failed[0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("class")),
        "{failed:?}"
    );
    assert_eq!(lines.len(), 9);
    let page = fs::read_to_string(scene.path("out/study.html")).expect("a page");
    assert!(page.contains("What failed") && page.contains("lost, seed 0: finetune"));
    // Only what failed is tried again.
    scene
        .mae(&study("out", &["--evaluate", "finetune"]))
        .failed(1);
    assert_eq!(results(&scene, "out").len(), 10);
}

#[test]
fn one_tokenizer_is_trained_for_all_that_predict_tokens() {
    let tokens = "\n[tokenizer]\ninput-size = 16\nvocabulary = 16\nhidden = 8\nepochs = 1\nbatch-size = 8\n\
                  \n[[variant]]\nname = \"tokens\"\npretrain = { target = \"tokens\" }\n\
                  \n[[variant]]\nname = \"jittered\"\npretrain = { crop = \"fixed\", color-jitter = 0.4 }\n";
    let scene = scene(tokens);
    let more = [
        "--evaluate",
        "loss",
        "--variants",
        "tokens",
        "jittered",
        "--seeds",
        "0,1",
    ];
    scene.mae(&study("out", &more)).done();
    let lines = results(&scene, "out");
    let named = |end: &str| {
        lines
            .iter()
            .filter(|line| {
                line["task"]
                    .as_str()
                    .is_some_and(|task| task.ends_with(end))
            })
            .count()
    };
    assert_eq!(
        (named("tokenizer"), named("pretrain"), named("loss")),
        (1, 4, 4)
    );
    assert_eq!(
        lines[0]["task"], "tokenizer",
        "before all that waits for it"
    );
    assert!(
        lines.iter().all(|line| line["outcome"] == "done"),
        "{lines:?}"
    );
}

#[test]
fn stopped_it_goes_on_to_the_same_results() {
    let scene = scene("");
    let once = [
        "--evaluate",
        "knn",
        "--set",
        "pretrain.epochs=40",
        "pretrain.checkpoint_every=1",
    ];
    scene.mae(&study("straight", &once)).done();
    let mut child = scene
        .command(&study("stopped", &once))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mae runs");
    let log = scene.path("stopped/runs/50/seed-0/pretrain/log.jsonl");
    while !log.exists() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "TERM");
    let code = child.wait().expect("an end").code();
    assert_eq!(code, Some(75));
    assert!(results(&scene, "stopped").len() < 6);
    scene.mae(&study("stopped", &once)).done();
    let figures = |folder: &str| {
        let lines = results(&scene, folder).into_iter();
        let knn = lines.filter(|line| {
            line["task"]
                .as_str()
                .is_some_and(|task| task.ends_with("knn"))
        });
        knn.map(|line| line["figures"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(figures("straight"), figures("stopped"));
    assert_eq!(figures("straight").len(), 2);
}

#[test]
fn what_cannot_be_compared_is_said_before_anything_runs() {
    let scene = scene("");
    let said = |more: &[&str]| scene.mae(&study("out", more)).failed(2);
    assert!(said(&["--set", "pretrain.mask=1"]).contains("mask"));
    assert!(said(&["--set", "finetune.tune_blocks=3"]).contains("2 blocks"));
    assert!(said(&["--variants", "80%"]).contains("80%"));
    assert!(said(&["--jobs", "3"]).contains("--jobs 3"));
    assert!(!scene.path("out").exists());
    let ran = scene
        .mae(&["study", "nowhere", "--output-dir", "out"])
        .failed(2);
    assert!(ran.contains("mask-ratio"), "{ran}");

    let list = scene.mae(&["study", "--list"]).done().stdout;
    for name in [
        "mask-ratio",
        "mask-sampling",
        "decoder-depth",
        "decoder-width",
        "mask-token",
        "target",
        "augmentation",
        "schedule",
        "partial-finetune",
    ] {
        assert!(list.contains(name), "{name}");
        let text = scene.mae(&["study", name, "--print"]).done().stdout;
        assert!(text.contains("[[variant]]"), "{name}");
    }
}
