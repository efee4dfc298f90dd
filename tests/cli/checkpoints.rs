//! Checkpoints of other programs by the command line: `mae inspect`, `mae eval` and `mae export`.

use std::path::Path;

use super::run::Scene;

/// A golden checkpoint (tests/reference/foreign.py).
fn golden(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/golden/foreign");
    folder.join(name).display().to_string()
}

#[test]
fn a_checkpoint_is_shown() {
    let scene = Scene::new();
    let shown = scene.mae(&["inspect", &golden("dino.pth")]).done().stdout;
    for part in [
        "DINO",
        "teacher (also there: student)",
        "1 block of width 16",
        "give --heads",
        "left out     head.mlp.0.weight",
    ] {
        assert!(shown.contains(part), "`{part}` is missing in:\n{shown}");
    }
    let report = scene.inspect(&golden("vitmae"));
    assert_eq!(report["kind"], "foreign-checkpoint");
    assert_eq!(
        (
            &report["encoder"]["heads"],
            &report["decoder"]["norm_pix_loss"]
        ),
        (&2.into(), &true.into())
    );
}

#[test]
fn a_checkpoint_is_evaluated() {
    let scene = Scene::new();
    scene.image_folder("photos", 2, 10);
    scene.mae(&["shard", "photos", "data"]).done();
    let text = scene
        .mae(&[
            "eval",
            "knn",
            &golden("dino.pth"),
            "--heads",
            "2",
            "--data",
            "data",
            "--k",
            "3",
        ])
        .done()
        .stdout;
    assert!(
        text.contains("dino.pth on 4 samples, fitted on 16"),
        "{text}"
    );
    assert!(text.contains("random weights"), "{text}");
    let loss = scene
        .mae(&[
            "eval",
            "loss",
            &golden("vitmae"),
            "--data",
            "data",
            "--json",
        ])
        .done();
    let loss: serde_json::Value = serde_json::from_str(&loss.stdout).unwrap();
    assert_eq!(
        (&loss["step"], &loss["settings"]["norm_pix_loss"]),
        (&serde_json::Value::Null, &true.into())
    );
    let said = scene
        .mae(&[
            "eval",
            "loss",
            &golden("dino.pth"),
            "--heads",
            "2",
            "--data",
            "data",
        ])
        .failed(1);
    assert!(said.contains("no decoder"), "{said}");
    assert_eq!(said.matches("no decoder").count(), 1, "{said}");
}

#[test]
fn a_checkpoint_is_exported() {
    let scene = Scene::new();
    let args = ["export", &golden("vit"), "--to", "timm", "out"];
    let ran = scene.mae(&args).done();
    assert!(
        ran.stdout.starts_with("timm.create_model(\"local-dir:"),
        "{}",
        ran.stdout
    );
    assert_eq!(scene.names("out"), ["config.json", "model.safetensors"]);
    assert!(scene.mae(&args).failed(1).contains("already holds files"));
    let said = scene
        .mae(&["export", &golden("vit"), "--to", "onnx", "other"])
        .failed(2);
    assert!(
        said.contains("neither reference, timm nor huggingface"),
        "{said}"
    );
}
