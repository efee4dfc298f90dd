//! `mae plan`.

use serde_json::Value;

use super::run::Scene;

fn json(scene: &Scene, command: &str) -> Value {
    let args: Vec<&str> = command.split_whitespace().collect();
    let ran = scene.mae(&[&args[..], &["--json"]].concat()).done();
    serde_json::from_str(&ran.stdout).unwrap()
}

/// On GPUs of 100 TFLOP/s, all of which a step reaches.
fn plan(scene: &Scene, more: &str) -> Value {
    let round = "plan --flops 100 --memory 80GB --utilisation 1 --images-per-core 500 --cores 16";
    json(scene, &format!("{round} {more}"))
}

fn near(figure: &Value, expected: f64, within: f64) {
    let figure = figure.as_f64().unwrap();
    assert!(
        (figure / expected - 1.0).abs() < within,
        "{figure} rather than {expected}"
    );
}

#[test]
fn operations_and_memory_are_those_of_a_step() {
    let scene = Scene::new();
    for more in ["", " --encoder-mask-tokens --activation-checkpointing"] {
        let run = format!("--model mae-micro-patch4 --batch-size 256{more}");
        let plan = plan(&scene, &format!("{run} --precision f32"));
        let bench = json(&scene, &format!("bench step {run} --steps 1 --profile"));
        let memory = |part: &str| plan["memory"][part].as_f64().unwrap();
        let step = memory("total") - memory("apart");
        if cfg!(target_os = "linux") {
            near(&bench["grown_memory_bytes"], step, 0.05);
        }
        // With the batches that a GPU holds beside the step's.
        near(&bench["planned_memory_bytes"], step, 0.02);
        let image = plan["flop"]["image"].as_f64().unwrap() / 1e9;
        let again = plan["flop"]["image_recomputed"].as_f64().unwrap() / 1e9;
        assert_eq!(again > 0.0, !more.is_empty());
        near(&bench["counted_gigaflop_per_image"], image + again, 0.05);
        near(&bench["gigaflop_per_image"], image, 1e-9);
    }
}

#[test]
fn a_run_is_worked_out() {
    let scene = Scene::new();
    let run = "--model mae-large-patch16 --batch-size 512 --epochs 1600 --gpus 8";
    let alone = plan(&scene, run);
    near(&alone["model"]["parameters"], 329.5e6, 0.001);
    assert_eq!(alone["batch"]["images"], 4096);
    assert_eq!(alone["batch"]["steps_per_epoch"], 312);
    let flop = alone["flop"]["image"].as_f64().unwrap();
    let compute = 512.0 * flop / 1e14;
    near(&alone["seconds"]["compute"], compute, 1e-9);
    near(&alone["step_seconds"], compute, 0.05);
    near(&alone["flop"]["run"], flop * 4096.0 * 312.0 * 1600.0, 1e-9);
    let step = alone["step_seconds"].as_f64().unwrap();
    near(&alone["hours"], step * 312.0 * 1600.0 / 3600.0, 1e-9);
    near(
        &alone["loader"]["cores_needed"],
        4096.0 / step / 500.0,
        1e-9,
    );
    let read = 4096.0 / step * 115e3;
    near(&alone["loader"]["read_bytes_per_second_needed"], read, 1e-9);

    // A ring of 8: 7/4 of the gradients.
    let gradients = alone["memory"]["gradients"].as_f64().unwrap();
    let sum = &alone["seconds"]["all_reduce"];
    near(&sum["bytes"], 1.75 * gradients, 1e-9);
    near(&sum["seconds"], 1.75 * gradients / 360e9, 1e-9);
    // Of 16 in two nodes: 15/8, by the network.
    let two = plan(
        &scene,
        &format!("{run} --nodes 2 --all-reduce-bandwidth 300,20 --shard-optimizer"),
    );
    let sum = &two["seconds"]["all_reduce"];
    near(&sum["seconds"], 1.875 * gradients / 20e9, 1e-9);
    near(&two["memory"]["moments"], gradients / 8.0, 1e-6);

    let table = scene
        .mae(&[
            "plan",
            "--model",
            "mae-large-patch16",
            "--images-per-core",
            "500",
            "--cores",
            "100",
        ])
        .done()
        .stdout;
    for part in [
        "1 × H100, bf16",
        "moments",
        "img/s",
        "Compute binds",
        "not measured",
    ] {
        assert!(table.contains(part), "`{part}` is missing in:\n{table}");
    }
}

#[test]
fn what_binds_is_named() {
    let scene = Scene::new();
    let run = "--model mae-base-patch16 --gpus 8";
    for (more, bound) in [
        ("--cores 100", "compute"),
        ("--cores 1", "decoding"),
        ("--cores 100 --read-bandwidth 0.1", "reading"),
        ("--cores 100 --all-reduce-bandwidth 0.5", "all-reduce"),
        ("--batch-size 4096", "memory"),
    ] {
        let planned = json(
            &scene,
            &format!("plan --images-per-core 500 --gpu A100-40 {run} {more}"),
        );
        assert_eq!(planned["bound"], bound, "{more}");
    }
    let said = scene
        .mae(&[
            "plan",
            "--model",
            "mae-base-patch16",
            "--batch-size",
            "4096",
            "--gpu",
            "RTX-4090",
            "--images-per-core",
            "500",
        ])
        .done()
        .stdout;
    assert!(
        said.contains("Memory binds") && said.contains("--activation-checkpointing"),
        "{said}"
    );
}

#[test]
fn the_loader_is_measured() {
    let scene = Scene::new();
    scene.image_folder("photos", 2, 12);
    scene.mae(&["shard", "photos", "data"]).done();
    let run = "plan --model mae-micro-patch4 --batch-size 4";
    let on_data = json(&scene, &format!("{run} --data data"));
    assert_eq!(on_data["batch"]["steps_per_epoch"], 6);
    assert!(on_data["loader"]["image_bytes"].as_f64().unwrap() < 5e3);
    let made_up = json(&scene, run);
    assert_eq!(made_up["batch"]["steps_per_epoch"], 1_281_167 / 4);
    for (plan, of) in [(&on_data, "on data"), (&made_up, "made-up JPEGs")] {
        assert!(plan["loader"]["images_per_core"].as_f64().unwrap() > 0.0);
        let measured = plan["loader"]["measured"].as_str().unwrap();
        assert!(measured.contains(of), "{measured}");
    }
}

#[test]
fn meaningless_plans_are_wrong_usage() {
    let scene = Scene::new();
    for (more, part) in [
        ("--gpus 0", "--gpus"),
        ("--nodes 0", "--nodes"),
        ("--mask-ratio 1", "--mask-ratio"),
        ("--batch-size 0", "--batch-size"),
        ("--epochs 0", "--epochs"),
        ("--utilisation 1.5", "--utilisation"),
        ("--utilisation nan", "--utilisation"),
        ("--flops=-1", "--flops"),
        ("--images-per-core 0", "--images-per-core"),
        ("--cores 0", "--cores"),
        ("--all-reduce-bandwidth 1,2,3", "inside a node"),
        ("--all-reduce-bandwidth 0", "--all-reduce-bandwidth"),
        ("--read-bandwidth 0", "--read-bandwidth"),
        ("--gpu K80", "H100"),
        ("--samples 100 --gpus 8", "--batch-size"),
        ("--heads 5", "--heads"),
    ] {
        let args = format!("plan --model mae-base-patch16 {more}");
        let said = scene
            .mae(&args.split_whitespace().collect::<Vec<_>>())
            .failed(2);
        assert!(said.contains(part), "{more}: {said}");
    }
}
