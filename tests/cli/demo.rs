//! The whole path by the command line: `mae demo --quick`, then `mae eval` on what it left.

use std::fs;

use serde_json::Value;

use super::run::Scene;

const DEMO: [&str; 6] = ["demo", "--quick", "--output-dir", "demo", "--seed", "1"];
const TEST: [&str; 3] = ["--data", "demo/data/test-*.tar", "--json"];

#[test]
fn demo_and_evaluations_of_its_checkpoint() {
    let scene = Scene::new();
    let done = |args: &[&str]| scene.mae(args).done().stdout;
    let json = |args: &[&str]| serde_json::from_str::<Value>(&done(args)).expect("JSON");

    let table = done(&DEMO);
    assert!(
        table.contains("trained encoder") && table.contains("raw pixels"),
        "{table}"
    );
    let read = |name: &str| fs::read_to_string(scene.path("demo").join(name)).expect(name);
    let report = read("report.html");
    for part in ["</html>", "<svg", "data:image/png;base64,"] {
        assert!(report.contains(part), "no {part}");
    }
    assert!(!report.contains("http"), "the page stands on its own");
    let results: Value = serde_json::from_str(&read("results.json")).expect("JSON");
    let loss = |who: &str| results[who]["loss"]["mean"].as_f64().expect("a loss");
    assert!(loss("trained") < 0.7 * loss("random"), "{results}");

    // Again: nothing is left to do, and nothing changes.
    assert_eq!(done(&DEMO), table);
    let other = scene.mae(&["demo", "--quick", "--output-dir", "demo", "--seed", "2"]);
    assert_eq!(
        other.code,
        Some(2),
        "another seed is another demo: {}",
        other.stderr
    );

    // Evaluations by hand agree with the demo's.
    let both = [
        "--data",
        "demo/data/train-*.tar",
        "--val-data",
        "demo/data/test-*.tar",
        "--json",
    ];
    for (name, key) in [("knn", "knn"), ("linear-probe", "probe")] {
        let found = json(&[&["eval", name, "demo/run"], &both[..]].concat());
        for (row, who) in [("checkpoint", "trained"), ("random_weights", "random")] {
            assert_eq!(
                found["results"][row]["top1"], results[who][key]["top1"],
                "{name} of {row}"
            );
            assert_eq!(found["results"][row]["count"], 240);
        }
    }
    let found = json(&[&["eval", "loss", "demo/run", "--seed", "1"], &TEST[..]].concat());
    assert_eq!(found["results"]["checkpoint"], results["trained"]["loss"]);

    // Without a test set every fifth sample is held out.
    let found = json(&[&["eval", "knn", "demo/run"], &TEST[..]].concat());
    assert_eq!(
        (&found["train_samples"], &found["samples"]),
        (&192.into(), &48.into())
    );

    let data = "demo/data/test-*.tar";
    done(&[
        "eval",
        "reconstruct",
        "demo/run",
        "--data",
        data,
        "--output",
        "out/r.png",
    ]);
    assert!(
        fs::read(scene.path("out/r.png"))
            .expect("a picture")
            .starts_with(b"\x89PNG")
    );

    let unlabelled = scene.mae(
        &[
            &["eval", "knn", "demo/run", "--label-field", "none"],
            &TEST[..],
        ]
        .concat(),
    );
    assert_eq!(unlabelled.code, Some(2), "{}", unlabelled.stderr);
}
