//! `mae inspect`.

use std::fs;
use std::path::PathBuf;

use super::run::Scene;

#[test]
fn what_is_wrong_is_said() {
    let scene = Scene::new();
    scene.image_folder("photos", 2, 6);
    scene.write(
        "photos/class2/broken.jpg",
        &[0xff, 0xd8, 0xff, 0xe0, 1, 2, 3],
    );
    scene.mae(&["shard", "photos", "data"]).done();
    let ran = scene.mae(&["inspect", "data"]).done();
    for part in [
        "13 samples in 1 shard,",
        "13 .jpg",
        "3 classes",
        "class1",
        "width 8–12",
        "class2/broken",
        "1 problem\n",
    ] {
        assert!(
            ran.stdout.contains(part),
            "`{part}` is missing in:\n{}",
            ran.stdout
        );
    }
    let one = scene.inspect("data/shard-000000.tar");
    assert_eq!(one["digest"], scene.inspect("data")["digest"]);
    assert_eq!(scene.inspect("data/index.json")["samples"], 13);

    scene.write("data/.shard-000001.tar.partial", b"half");
    assert!(
        scene.inspect("data")["problems"]
            .to_string()
            .contains("interrupted")
    );

    let tar = fs::read(scene.path("data/shard-000000.tar")).unwrap();
    scene.write("cut/x-0.tar", &tar[..tar.len() / 2]);
    let said = scene.mae(&["inspect", "cut"]).failed(1);
    assert!(
        said.contains("x-0.tar") && said.contains("byte") && said.contains("cut off"),
        "{said}"
    );
}

#[test]
fn empty_folders_and_unknown_names_are_errors() {
    let scene = Scene::new();
    fs::create_dir(scene.path("empty")).unwrap();
    assert!(scene.mae(&["inspect", "empty"]).failed(1).contains(".tar"));
    assert!(
        scene
            .mae(&["inspect", "gone/*.tar"])
            .failed(1)
            .contains("gone")
    );
    assert!(
        scene
            .mae(&["inspect", "ftp://host/x.tar"])
            .failed(1)
            .contains("pipe:")
    );
}

#[test]
fn a_pipe_is_read_like_a_file() {
    let scene = Scene::new();
    scene.image_folder("photos", 1, 3);
    scene.mae(&["shard", "photos", "data"]).done();
    let report = scene.inspect("pipe:gzip -c data/shard-000000.tar");
    assert_eq!(report["samples"], 3);
    let said = scene.mae(&["inspect", "pipe:exit 7"]).failed(1);
    assert!(said.contains('7'), "{said}");
}

#[test]
fn shards_that_python_wrote_are_read() {
    let Some(data) = std::env::var_os("MAE_TEST_DATA").map(PathBuf::from) else {
        println!("skipped: MAE_TEST_DATA is not set");
        return;
    };
    let scene = Scene::new();
    let test = data.join("cifar10/test-*.tar.gz").display().to_string();
    let report = scene.inspect(&test);
    assert_eq!(report["samples"], 10_000);
    assert_eq!(report["shards"][0]["compression"], "gzip");
    assert_eq!(
        report["labels"]["classes"][9],
        serde_json::json!({"index": 9, "name": "truck", "samples": 1000})
    );
    assert_eq!(report["images"]["width"]["mean"], 32.0);

    let ran = scene
        .mae(&[
            "inspect",
            &data.join("imagenet-sample").display().to_string(),
            "--label-field",
            "json:wnid",
        ])
        .done();
    assert!(
        ran.stdout.contains("600 samples in 4 shards") && ran.stdout.contains("600 classes"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout.contains("580 more (--all shows them)"),
        "{}",
        ran.stdout
    );

    let small = scene
        .mae(&["inspect", &test, "--cache", "tiny", "--cache-size", "1MB"])
        .failed(1);
    assert!(small.contains("--cache-size"), "{small}");
}
