//! `mae shard` on shards, and the smaller images of `--short-side`.

use std::fs;
use std::path::Path;

use super::run::{Scene, jpeg_of, other};

/// Two shards of photographs large and small, with labels, JSON and class names; made by `mae shard` from a folder.
fn scene() -> Scene {
    let scene = Scene::new();
    for (name, width, height) in [
        ("cat/1", 90, 60),
        ("cat/2", 60, 91),
        ("cat/3", 40, 200),
        ("dog/1", 64, 64),
        ("dog/2", 30, 30),
    ] {
        scene.write(&format!("photos/{name}.jpg"), &jpeg_of(width, height, 3));
    }
    scene
        .mae(&["shard", "photos", "data", "--max-count", "3"])
        .done();
    scene
}

/// Key, suffix and bytes of every member, in order.
fn members(scene: &Scene, folder: &str) -> Vec<(String, String, Vec<u8>)> {
    let text = fs::read(scene.path(&format!("{folder}/index.json"))).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut members = Vec::new();
    for shard in index["shardlist"].as_array().unwrap() {
        let tar = fs::read(scene.path(&format!("{folder}/{}", shard["url"].as_str().unwrap())));
        let (tar, columns) = (tar.unwrap(), &shard["mae"]);
        let number = |column: &str, at: usize| columns[column][at].as_u64().unwrap() as usize;
        let mut place = 0;
        for (sample, key) in columns["keys"].as_array().unwrap().iter().enumerate() {
            for _ in 0..number("counts", sample) {
                let suffix = &columns["suffixes"][number("suffix", place)];
                let at = number("offset", place);
                members.push((
                    key.as_str().unwrap().to_owned(),
                    suffix.as_str().unwrap().to_owned(),
                    tar[at..at + number("size", place)].to_vec(),
                ));
                place += 1;
            }
        }
    }
    members
}

/// Width and height in a baseline JPEG's frame header.
fn size(jpeg: &[u8]) -> (u16, u16) {
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]);
    let at = |byte: usize| {
        let byte = frame.unwrap() + byte;
        u16::from_be_bytes([jpeg[byte], jpeg[byte + 1]])
    };
    (at(7), at(5))
}

#[test]
fn shards_are_made_smaller_and_keep_all_else() {
    let scene = scene();
    scene
        .mae(&[
            "shard",
            "data",
            "small",
            "--short-side",
            "40",
            "--quality",
            "85",
        ])
        .done();
    let (before, after) = (members(&scene, "data"), members(&scene, "small"));
    assert_eq!(after.len(), 10);
    let names = |members: &[(String, String, Vec<u8>)]| {
        let names = members.iter().map(|(key, suffix, _)| (key, suffix));
        names
            .map(|(key, suffix)| format!("{key}.{suffix}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&after));
    let mut sizes = Vec::new();
    for ((key, suffix, old), (_, _, new)) in before.iter().zip(&after) {
        if suffix != "jpg" || key == "cat/3" || key == "dog/2" {
            assert!(
                old == new,
                "{key}.{suffix} has no reason to be another: not an image, or no larger"
            );
        } else {
            sizes.push(size(new));
        }
    }
    // int(40 × 90 / 60), int(40 × 91 / 60).
    assert_eq!(sizes, [(60, 40), (40, 60), (40, 40)]);

    // One shard came out of two, and classes.json came along.
    let report = scene.inspect("small");
    assert_eq!(report["shards"].as_array().unwrap().len(), 1);
    assert_eq!(report["labels"]["classes"][1]["name"], "dog");
    let prepared = serde_json::json!({"short_side": 40, "quality": 85});
    assert_eq!(report["shards"][0]["prepared"], prepared);
    assert_eq!(
        scene.inspect("data")["shards"][0]["prepared"],
        serde_json::Value::Null
    );
    let shown = scene.mae(&["inspect", "small"]).done().stdout;
    assert!(shown.contains("short side 40, quality 85"), "{shown}");
}

#[test]
fn what_the_index_says_of_the_images_outlives_it() {
    let scene = scene();
    let prepare = ["shard", "photos", "small", "--short-side", "40"];
    scene.mae(&prepare).done();
    let index = |folder: &str| fs::read(scene.path(&format!("{folder}/index.json"))).unwrap();
    let before = index("small");
    let text: serde_json::Value = serde_json::from_slice(&before).unwrap();
    assert_eq!(
        text["shardlist"][0]["prepared"],
        serde_json::json!({"short_side": 40, "quality": 95})
    );
    scene.mae(&["index", "small"]).done();
    assert!(index("small") == before, "indexed anew");
    scene.mae(&["shard", "small", "again"]).done();
    assert!(index("again") == before, "packed anew");
}

#[test]
fn prepared_shards_do_not_depend_on_jobs_or_on_where_the_images_came_from() {
    let scene = Scene::new();
    for number in 0..150 {
        let (width, height) = (50 + number % 7, 50 + number % 11);
        scene.write(
            &format!("photos/a/{number:03}.jpg"),
            &jpeg_of(width, height, number as u8),
        );
    }
    scene.mae(&["shard", "photos", "whole"]).done();
    let flags = ["--short-side", "32", "--max-count", "70", "--jobs"];
    for (source, target, jobs) in [
        ("photos", "1", "1"),
        ("photos", "4", "4"),
        ("whole", "tar", "3"),
    ] {
        scene
            .mae(&[&["shard", source, target], &flags[..], &[jobs]].concat())
            .done();
    }
    let names = scene.names("1");
    assert_eq!(names.iter().filter(|n| n.ends_with(".tar")).count(), 3);
    for other in ["4", "tar"] {
        assert_eq!(scene.names(other), names);
        for name in &names {
            let read = |folder: &str| fs::read(scene.path(&format!("{folder}/{name}"))).unwrap();
            assert!(read("1") == read(other), "{name} differs in {other}");
        }
    }
}

#[test]
fn specs_name_shards_as_elsewhere_and_odd_samples_are_named() {
    let scene = scene();
    for (spec, samples) in [
        ("data/*.tar", 5),
        ("data/shard-{000000..000001}.tar", 5),
        ("data/shard-000001.tar", 2),
        ("data/index.json", 5),
        ("data/shard-000001.tar::data/shard-000000.tar", 5),
        ("pipe:cat data/shard-000000.tar", 3),
    ] {
        scene.mae(&["shard", spec, "out", "--overwrite"]).done();
        assert_eq!(scene.inspect("out")["samples"], samples, "{spec}");
    }
    // The same sample twice gets a key of its own.
    scene
        .mae(&[
            "shard",
            "data/shard-000001.tar::data/shard-000001.tar",
            "out",
            "--overwrite",
        ])
        .done();
    let keys = members(&scene, "out");
    assert_eq!((&*keys[4].0, keys.len()), ("dog/1-2", 8));

    scene.write("photos/cat/broken.jpg", &jpeg_of(90, 90, 1)[..400]);
    scene.write("photos/cat/cat.png", &other(Path::new("x.png"), 70));
    scene.write("photos/cat/kitten.png", &other(Path::new("x.png"), 20));
    scene
        .mae(&["shard", "photos", "mixed", "--pattern", "m-%d.tar"])
        .done();
    let ran = scene
        .mae(&["shard", "mixed", "out", "--overwrite", "--short-side", "32"])
        .done();
    assert!(
        ran.stderr.contains("mixed/m-0.tar: cat/broken") && ran.stdout.contains("7 samples"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    let report = scene.inspect("out");
    assert_eq!(
        report["suffixes"],
        serde_json::json!({"cls": 7, "jpg": 6, "png": 1}),
        "a PNG that is small enough stays one"
    );
}

#[test]
fn flags_that_make_no_sense_are_wrong_usage() {
    let scene = scene();
    for flags in [
        &["--quality", "90"][..],
        &["--short-side", "0"],
        &["--short-side", "-5"],
        &["--short-side", "big"],
        &["--short-side", "70000"],
        &["--short-side", "32", "--quality", "0"],
        &["--short-side", "32", "--quality", "101"],
    ] {
        let said = scene
            .mae(&[&["shard", "data", "out"], flags].concat())
            .failed(2);
        assert!(said.contains("--"), "{flags:?}: {said}");
    }
    assert!(!scene.path("out").exists());
    let said = scene.mae(&["shard", "gone-*.tar", "out"]).failed(1);
    assert!(said.contains("gone-*.tar"), "{said}");
}
