//! Help, exit codes and where output goes.

use std::process::Stdio;

use super::run::Scene;

#[test]
fn help_names_every_subcommand_and_the_exit_codes() {
    let scene = Scene::new();
    let help = scene.mae(&["--help"]).done().stdout;
    for part in [
        "shard",
        "index",
        "inspect",
        "completions",
        "Exit codes",
        "75",
        "--log-level",
    ] {
        assert!(help.contains(part), "`{part}` is missing in:\n{help}");
    }
    for command in ["shard", "index", "inspect", "completions"] {
        assert!(
            scene
                .mae(&[command, "--help"])
                .done()
                .stdout
                .contains("Usage:"),
            "{command}"
        );
    }
    assert!(scene.mae(&["--version"]).done().stdout.starts_with("mae "));
}

#[test]
fn wrong_usage_ends_with_2_and_failure_with_1() {
    let scene = Scene::new();
    for args in [
        &["nonsense"][..],
        &[],
        &["shard", "x"],
        &["shard", "not-there", "out"],
        &["shard", ".", "out", "--max-size", "big"],
        &["shard", ".", "out", "--pattern", "x.tar"],
        &["shard", ".", "out", "--seed", "3"],
        &["inspect", ".", "--label-field", "xml:x"],
    ] {
        assert!(!scene.mae(args).failed(2).is_empty(), "{args:?}");
    }
    assert!(
        scene.names(".").is_empty(),
        "wrong usage leaves nothing behind: {:?}",
        scene.names(".")
    );
    assert!(
        scene
            .mae(&["inspect", "."])
            .failed(1)
            .starts_with("error: ")
    );
}

#[test]
fn completions_are_scripts() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = scene.mae(&["completions", shell]).done().stdout;
        assert!(
            script.contains("mae") && script.contains("inspect"),
            "{shell}"
        );
    }
}

#[test]
fn results_go_to_stdout_and_logs_to_stderr_at_their_level() {
    let scene = Scene::new();
    scene.image_folder("photos", 1, 2);
    scene.write("photos/class0/notes.txt", b"no image");
    let warned = scene.mae(&["shard", "photos", "a"]).done();
    assert!(warned.stderr.contains("notes.txt") && !warned.stdout.contains("notes.txt"));
    let silent = scene
        .mae(&["shard", "photos", "b", "--log-level", "error"])
        .done();
    assert_eq!(silent.stderr, "", "no bar off a terminal, no warnings");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let scene = Scene::new();
    scene.image_folder("photos", 1, 2);
    scene.mae(&["shard", "photos", "data"]).done();
    for args in [
        &["completions", "bash"][..],
        &["inspect", "data"],
        &["inspect", "data", "--json"],
    ] {
        let mut command = scene.command(args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    }
}
