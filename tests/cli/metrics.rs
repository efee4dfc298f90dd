//! What a run says of itself while it goes on: the page for Prometheus, memory, bad samples, what binds it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::pretrain::signal;
use super::run::{SMALL_MODEL, Scene};

/// 12 updates an epoch, over 51 samples.
const SETTINGS: &str = r#"
data = "data"
batch-size = 4
clip-grad = 1.0
max-bad-fraction = 0.1
log-every = 2
picture-every = 0
"#;

fn scene() -> Scene {
    let scene = Scene::with_shards();
    scene.write("run.toml", [SMALL_MODEL, SETTINGS].concat().as_bytes());
    scene
}

/// Where a run that has just started says that its page is.
fn address(child: &mut Child) -> (String, impl BufRead + use<>) {
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    loop {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("text") > 0, "no address");
        if let Some((_, rest)) = line.split_once("http://") {
            let address = rest.trim().strip_suffix("/metrics").expect("its path");
            return (address.to_owned(), stderr);
        }
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("someone listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// Overwrites the beginning of the first image.
fn spoil(scene: &Scene, folder: &str) {
    let shard = scene
        .names(folder)
        .into_iter()
        .find(|name| name.ends_with(".tar"));
    let path = scene.path(&format!("{folder}/{}", shard.expect("a shard")));
    let mut bytes = std::fs::read(&path).expect("a file");
    let image = bytes
        .windows(3)
        .position(|bytes| bytes == [0xff, 0xd8, 0xff]);
    bytes[image.expect("a JPEG")..][..32].fill(0);
    std::fs::write(&path, bytes).expect("written");
}

/// A figure of the page.
fn figure(page: &str, name: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn a_running_run_can_be_scraped() {
    let scene = scene();
    let args = [
        "pretrain",
        "--config",
        "run.toml",
        "--output-dir",
        "run",
        "--epochs",
        "100000",
        "--prometheus",
        "0",
    ];
    let mut child = scene
        .command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mae starts");
    let (address, mut stderr) = address(&mut child);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    // What it says goes on being read, or it would stop at a full pipe.
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("text");
        said
    });
    let began = Instant::now();
    let page = loop {
        let page = get(&address, "/metrics");
        if figure(&page, "mae_checkpoint_step ").is_some() {
            break page;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{page}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    for name in [
        "mae_step",
        "mae_epoch",
        "mae_loss",
        "mae_lr",
        "mae_grad_norm",
        "mae_images_per_second",
        "mae_images_total",
        "mae_memory_host_bytes",
    ] {
        let value = figure(&page, &format!("{name} "));
        assert!(value.is_some_and(|value| value > 0.0), "{name}: {page}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name}: {page}");
    }
    let waited = figure(&page, "mae_data_wait_ratio ");
    assert!(
        waited.is_some_and(|share| (0.0..=1.0).contains(&share)),
        "{page}"
    );
    assert_eq!(
        figure(&page, "mae_images_total "),
        figure(&page, "mae_step ").map(|steps| 4.0 * steps)
    );
    assert!(!page.contains("mae_memory_device_bytes"), "{page}");
    assert!(get(&address, "/").starts_with("HTTP/1.1 404 "));
    signal(&child, "TERM");
    assert_eq!(child.wait().expect("a status").code(), Some(75));
    let said = reader.join().expect("read");
    assert!(said.contains(" bound by "), "{said}");
}

#[test]
fn an_address_in_use_ends_a_run_before_it_begins() {
    let scene = scene();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for command in [
        &["pretrain", "--config", "run.toml"][..],
        &["tokenizer", "train", "--data", "data"],
        &[
            "finetune",
            "--from-scratch",
            "--model",
            "mae-micro-patch4",
            "--data",
            "data",
            "--val-data",
            "data",
        ],
    ] {
        let more = ["--output-dir", "run", "--prometheus", &address];
        let said = scene.mae(&[command, &more].concat()).failed(1);
        assert!(
            said.contains(&address) && said.contains("--prometheus"),
            "{said}"
        );
        assert!(!scene.path("run").exists());
    }
    let said = scene
        .mae(&[
            "pretrain",
            "--config",
            "run.toml",
            "--output-dir",
            "run",
            "--prometheus",
            "here",
        ])
        .failed(2);
    assert!(said.contains("ADDRESS:PORT"), "{said}");
}

/// And where a run was served from is not what it trained.
#[test]
fn the_log_has_memory_bad_samples_and_what_binds() {
    let scene = scene();
    spoil(&scene, "data");
    let run = |more: &[&'static str]| {
        let args = [
            "pretrain",
            "--config",
            "run.toml",
            "--output-dir",
            "run",
            "--epochs",
            "2",
        ];
        scene.mae(&[&args[..], more].concat()).done()
    };
    run(&["--max-steps", "12"]);
    let said = run(&["--resume", "auto", "--prometheus", "0"]).stderr;
    assert!(said.contains("bound by "), "{said}");
    let log = std::fs::read_to_string(scene.path("run/log.jsonl")).expect("a log");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let of = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
    assert!(of("step").all(|line| line["host_memory"].as_u64() > Some(1 << 20)));
    let bad: Vec<u64> = of("step")
        .map(|line| line["bad_samples"].as_u64().expect("a count"))
        .collect();
    // Two epochs of 48 of the 51 samples.
    assert!(
        bad.is_sorted() && (1..=2).contains(bad.last().expect("a line")),
        "{bad:?}"
    );
    for line in of("epoch") {
        let utilisation = &line["utilisation"];
        assert!(utilisation["bound_by"].is_string(), "{line}");
        let shares = ["reading", "decoding", "augmenting", "idle"]
            .map(|name| utilisation[name].as_f64().expect(name));
        assert!((0.8..1.001).contains(&shares.iter().sum::<f64>()), "{line}");
    }
}
