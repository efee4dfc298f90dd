//! `mae shard` and `mae index`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::run::{Scene, jpeg, other};

#[test]
fn class_folders_become_labelled_shards() {
    let scene = Scene::new();
    scene.image_folder("photos", 3, 4);
    let ran = scene
        .mae(&["shard", "photos", "data", "--max-count", "5"])
        .done();
    assert!(
        ran.stdout.starts_with("12 samples in 3 shards") && ran.stdout.contains("3 classes"),
        "{}",
        ran.stdout
    );
    assert_eq!(
        scene.names("data"),
        [
            "classes.json",
            "index.json",
            "shard-000000.tar",
            "shard-000001.tar",
            "shard-000002.tar"
        ]
    );
    let report = scene.inspect("data");
    assert_eq!(report["samples"], 12);
    assert_eq!(
        report["suffixes"],
        serde_json::json!({"cls": 12, "jpg": 12})
    );
    assert_eq!(
        report["labels"]["classes"][2],
        serde_json::json!({"index": 2, "name": "class2", "samples": 4})
    );
    assert_eq!(report["problems"], serde_json::json!([]));

    // Byte for byte: the file lies in the tar as it is.
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(scene.path("data/index.json")).unwrap()).unwrap();
    let first = &index["shardlist"][0];
    assert_eq!(
        (first["nsamples"].as_u64(), first["mae"]["keys"][0].as_str()),
        (Some(5), Some("class0/000"))
    );
    let (offset, size) = (&first["mae"]["offset"][1], &first["mae"]["size"][1]);
    let (offset, size) = (
        offset.as_u64().unwrap() as usize,
        size.as_u64().unwrap() as usize,
    );
    let tar = fs::read(scene.path("data/shard-000000.tar")).unwrap();
    assert_eq!(
        tar[offset..offset + size],
        fs::read(scene.path("photos/class0/000.jpg")).unwrap()
    );
    assert_eq!(first["filesize"].as_u64(), Some(tar.len() as u64));
}

#[test]
fn the_number_of_jobs_changes_nothing() {
    let scene = Scene::new();
    scene.image_folder("photos", 4, 9);
    for jobs in ["1", "3", "8"] {
        let flags = [
            "--shuffle",
            "--seed",
            "5",
            "--max-size",
            "3kB",
            "--pattern",
            "s-%03d.tar",
            "--jobs",
            jobs,
        ];
        scene
            .mae(&[&["shard", "photos", jobs], &flags[..]].concat())
            .done();
    }
    let names = scene.names("1");
    assert!(names.len() > 5, "{names:?}");
    for other in ["3", "8"] {
        assert_eq!(scene.names(other), names);
        for name in &names {
            let read = |jobs: &str| fs::read(scene.path(&format!("{jobs}/{name}"))).unwrap();
            assert!(read("1") == read(other), "{name} differs with {other} jobs");
        }
    }
    scene
        .mae(&[
            "shard",
            "photos",
            "unshuffled",
            "--max-size",
            "3kB",
            "--pattern",
            "s-%03d.tar",
        ])
        .done();
    let first = |folder: &str| fs::read(scene.path(&format!("{folder}/s-000.tar"))).unwrap();
    assert!(first("1") != first("unshuffled"));
}

#[test]
fn other_formats_are_stored_or_named_or_reencoded() {
    let scene = Scene::new();
    scene.write("mixed/a.jpg", &jpeg(9, 1));
    for name in ["b.png", "c.webp", "d.bmp", "e.gif"] {
        scene.write(&format!("mixed/{name}"), &other(Path::new(name), 7));
    }
    scene.write("mixed/notes.txt", b"not an image");
    scene.write("mixed/f.jpg", &other(Path::new("f.png"), 6));

    let ran = scene.mae(&["shard", "mixed", "kept"]).done();
    assert!(
        ran.stdout.contains("3 samples") && ran.stdout.contains("4 files passed over"),
        "{}",
        ran.stdout
    );
    for name in ["c.webp", "d.bmp", "e.gif", "notes.txt"] {
        assert!(
            ran.stderr.contains(name),
            "{name} is not named: {}",
            ran.stderr
        );
    }
    let report = scene.inspect("kept");
    assert_eq!(
        report["suffixes"],
        serde_json::json!({"jpg": 1, "png": 2}),
        "by content, not by name"
    );
    assert_eq!(report["labels"], serde_json::Value::Null);

    scene
        .mae(&["shard", "mixed", "encoded", "--reencode", "--quality", "80"])
        .done();
    let report = scene.inspect("encoded");
    assert_eq!(report["suffixes"], serde_json::json!({"jpg": 6}));
    assert_eq!(report["images"]["formats"], serde_json::json!({"jpeg": 6}));
    assert_eq!(
        (
            &report["images"]["width"]["min"],
            &report["images"]["width"]["max"]
        ),
        (&6.into(), &9.into())
    );

    scene.write("mixed/g.webp", b"RIFF\0\0\0\0WEBPbroken");
    let ran = scene
        .mae(&["shard", "mixed", "encoded", "--reencode", "--overwrite"])
        .done();
    assert!(
        ran.stderr.contains("g.webp") && ran.stdout.contains("6 samples"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}

#[test]
fn lists_give_order_and_labels() {
    let scene = Scene::new();
    scene.image_folder("photos", 2, 2);
    scene.write(
        "train.txt",
        b"photos/class1/000.jpg zebra\nphotos/class0/001.jpg\tring tail\n",
    );
    scene.mae(&["shard", "train.txt", "named"]).done();
    let classes = fs::read_to_string(scene.path("named/classes.json")).unwrap();
    assert_eq!(classes, r#"["ring tail","zebra"]"#);
    let report = scene.inspect("named");
    assert_eq!(report["labels"]["classes"][1]["samples"], 1);

    scene.write(
        "numbered.txt",
        b"photos/class1/000.jpg 7\nphotos/class0/001.jpg 3\n",
    );
    scene.mae(&["shard", "numbered.txt", "numbered"]).done();
    assert!(!scene.path("numbered/classes.json").exists());
    assert_eq!(
        scene.inspect("numbered")["labels"]["classes"][0]["index"],
        3
    );

    scene.write(
        "broken.txt",
        b"photos/class1/000.jpg 7\nphotos/class0/gone.jpg 3\n",
    );
    let said = scene.mae(&["shard", "broken.txt", "broken"]).failed(1);
    assert!(
        said.contains("line 2") && said.contains("gone.jpg"),
        "{said}"
    );
}

#[test]
fn finished_shards_are_kept_unless_told_otherwise() {
    let scene = Scene::new();
    scene.image_folder("photos", 1, 3);
    let args = ["shard", "photos", "data", "--max-count", "1"];
    scene.mae(&args).done();
    let said = scene.mae(&args).failed(1);
    assert!(
        said.contains("--overwrite") && said.contains("shard-000000.tar"),
        "{said}"
    );
    scene
        .mae(&["shard", "photos", "data", "--overwrite"])
        .done();
    assert_eq!(
        scene.names("data"),
        ["classes.json", "index.json", "shard-000000.tar"]
    );
    scene
        .mae(&["shard", "photos", "data", "--pattern", "more-%d.tar"])
        .done();
    let said = scene.mae(&["inspect", "data"]).failed(1);
    assert!(
        said.contains("more-*.tar") && said.contains("shard-*.tar"),
        "{said}"
    );
}

#[test]
fn a_killed_run_leaves_nothing_that_looks_finished() {
    let scene = Scene::new();
    for number in 0..400 {
        scene.write(
            &format!("photos/a/{number:04}.jpg"),
            &jpeg(64, number as u8),
        );
    }
    let args = [
        "shard",
        "photos",
        "data",
        "--max-count",
        "20",
        "--jobs",
        "2",
    ];
    // Killed as soon as the first file appears.
    let mut child = scene.command(&args).spawn().unwrap();
    let started = Instant::now();
    let appeared =
        || fs::read_dir(scene.path("data")).is_ok_and(|mut entries| entries.next().is_some());
    while !appeared() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let names = scene.names("data");
    let whole = names.iter().any(|name| name == "index.json");
    let finished = names.iter().filter(|name| name.ends_with(".tar")).count();
    assert!(
        finished == 0 || whole,
        "shards without the index that tells whether all are there: {names:?}"
    );
    if finished < 20 {
        scene.mae(&["inspect", "data"]).failed(1);
    }
    scene.mae(&[&args[..], &["--overwrite"]].concat()).done();
    assert_eq!(scene.inspect("data")["samples"], 400);
    assert!(
        scene
            .names("data")
            .iter()
            .all(|name| !name.starts_with('.')),
        "{:?}",
        scene.names("data")
    );
}

#[test]
fn index_makes_foreign_tars_open_without_a_scan() {
    let scene = Scene::new();
    scene.image_folder("photos", 2, 3);
    scene
        .mae(&["shard", "photos", "data", "--max-count", "4"])
        .done();
    let ours = fs::read_to_string(scene.path("data/index.json")).unwrap();
    fs::remove_file(scene.path("data/index.json")).unwrap();
    assert_eq!(scene.inspect("data")["shards"][0]["indexed"], false);

    let ran = scene.mae(&["index", "data"]).done();
    assert!(ran.stdout.contains("2 shards, 6 samples"), "{}", ran.stdout);
    assert_eq!(
        fs::read_to_string(scene.path("data/index.json")).unwrap(),
        ours,
        "the index is a function of the tars"
    );
    assert_eq!(scene.inspect("data")["shards"][0]["indexed"], true);

    scene.mae(&["index", "data", "--no-checksums"]).done();
    assert!(
        !fs::read_to_string(scene.path("data/index.json"))
            .unwrap()
            .contains("md5sum")
    );
    let said = scene.mae(&["index", "nothing-here"]).failed(1);
    assert!(said.contains("nothing-here"), "{said}");
}
