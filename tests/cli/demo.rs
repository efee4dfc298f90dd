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
    let knn = json(&[&["eval", "knn", "demo/run", "--k", "5,20"], &both[..]].concat());
    let cached = ["--cached", "--pooling", "mean"];
    let probe = ["eval", "linear-probe", "demo/run"];
    let sweep = json(&[&probe, &cached[..], &both[..]].concat());
    for (row, who) in [("checkpoint", "trained"), ("random_weights", "random")] {
        let by_k = &knn["results"][row];
        assert_eq!((&by_k[0]["k"], &by_k[1]["k"]), (&5.into(), &20.into()));
        let probed = &sweep["results"][row];
        for (name, found, key) in [("knn", &by_k[1], "knn"), ("probe", probed, "probe")] {
            for field in ["top1", "top1_interval", "count"] {
                assert_eq!(found[field], results[who][key][field], "{name} of {row}");
            }
        }
    }

    // The reference's recipe: both encoders, final and best epoch, and a message that the batch is the whole train set.
    let short = ["--epochs", "2", "--random-weights"];
    let ran = scene.mae(&[&probe, &short[..], &both[..]].concat()).done();
    assert!(
        ran.stderr.contains("each epoch is one batch of all 960"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("epoch 2/2: loss"), "{}", ran.stderr);
    let recipe: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(recipe["settings"]["pooling"], "token");
    for row in ["checkpoint", "random_weights"] {
        let found = &recipe["results"][row];
        assert_eq!(
            (&found["count"], &found["best"]["count"]),
            (&240.into(), &240.into())
        );
        assert!(
            found["best"]["top1"].as_f64() >= found["top1"].as_f64(),
            "{found}"
        );
    }
    let text = done(&[&probe, &short[..2], &both[..4]].concat());
    assert!(
        text.contains("best top-1") && text.contains("Wilson"),
        "{text}"
    );

    let found = json(&[&["eval", "loss", "demo/run", "--seed", "1"], &TEST[..]].concat());
    let (found, expected) = (
        &found["results"]["checkpoint"][0],
        &results["trained"]["loss"],
    );
    assert_eq!(found["mean"], expected["mean"]);
    assert_eq!(found["standard_error"], expected["standard_error"]);

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
    for (args, code, part) in [
        (&["knn", "demo/run", "--k", "500"][..], 2, "smaller --k"),
        (&["knn", "demo/run", "--k", "0"], 2, "--k"),
        (&["linear-probe", "demo/run"], 2, "--val-data"),
        (
            &["linear-probe", "demo/run", "--learning-rates", "1"],
            2,
            "--cached",
        ),
        (
            &["linear-probe", "demo/run", "--cached", "--blr", "1"],
            2,
            "--cached",
        ),
        (
            &[
                "linear-probe",
                "demo/run",
                "--batch-size",
                "1",
                "--val-data",
                data,
            ],
            2,
            "batch size",
        ),
        (
            &[
                "linear-probe",
                "demo/run",
                "--epochs",
                "3",
                "--warmup-epochs",
                "3",
                "--val-data",
                data,
            ],
            2,
            "warm-up",
        ),
        (&["knn", "demo/run", "--device", "gpu"], 2, "cuda:N"),
    ] {
        let said = scene
            .mae(&[&["eval"], args, &TEST[..]].concat())
            .failed(code);
        assert!(said.contains(part), "{args:?}: {said}");
    }
}
