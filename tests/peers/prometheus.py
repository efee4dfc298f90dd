"""A running training's page for Prometheus, parsed by Prometheus's own client.

    python tests/peers/prometheus.py target/release/mae

needs prometheus-client, numpy and pillow. The page is scraped while a short pre-training goes on and must agree with what the run's
log then has. The first difference ends the script with an error.
"""

import json
import math
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from event_files import shard
from prometheus_client.parser import text_string_to_metric_families

# Each figure, and where the log's lines of steps have it.
GAUGES = {"mae_step": "step", "mae_epoch": "epoch", "mae_loss": "loss", "mae_lr": "lr", "mae_grad_norm": "grad_norm",
          "mae_images_per_second": "images_per_second", "mae_data_wait_ratio": "data_wait", "mae_memory_host_bytes": "host_memory"}
OTHERS = {"mae_held_out_loss": "gauge", "mae_checkpoint_step": "gauge", "mae_images": "counter", "mae_bad_samples": "counter"}
BATCH = 8


def scrape(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"), answer.headers["Content-Type"]
        families = list(text_string_to_metric_families(answer.read().decode()))
    expected = dict.fromkeys(GAUGES, "gauge") | OTHERS
    assert all(family.documentation and expected.get(family.name) == family.type for family in families), families
    assert all(len(family.samples) == 1 and not family.samples[0].labels for family in families), families
    return {family.samples[0].name: family.samples[0].value for family in families}


def main() -> None:
    mae = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shard(folder / "data.tar", 96)
        command = [mae, "pretrain", "--data", folder / "data.tar", "--val-data", folder / "data.tar", "--model", "mae-micro-patch4",
                   "--input-size", "16", "--batch-size", str(BATCH), "--epochs", "100000", "--clip-grad", "1", "--log-every", "1",
                   "--picture-every", "0", "--threads", "1", "--output-dir", folder / "run", "--prometheus", "0"]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "said").open("w"))
        try:
            pages = scrapes(folder, run)
        finally:
            run.send_signal(signal.SIGTERM)
            status = run.wait()
        assert status == 75, f"the run ended with {status}: {(folder / 'said').read_text()}"
        lines = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
        steps = {line["step"]: line for line in lines if line["kind"] == "step"}
        losses = {line["val_loss"] for line in lines if line["kind"] == "epoch"}
        compared = 0
        for page in pages:
            step = int(page["mae_step"])
            assert page["mae_images_total"] == step * BATCH and page["mae_bad_samples_total"] == 0, page
            assert page["mae_held_out_loss"] in losses and page["mae_checkpoint_step"] <= step, page
            # A page read between an update and its line has the figures of the line before.
            near = [steps[step], steps[step - 1]]
            for name, key in GAUGES.items():
                logged = [line[key] for line in near]
                assert any(math.isclose(page[name], value, rel_tol=1e-12) for value in logged), f"{name} is {page[name]}, the log has {logged}"
                compared += 1
        print(f"Prometheus's client reads {len(pages)} pages, whose {compared} figures are the log's")


def scrapes(folder: Path, run: subprocess.Popen) -> list[dict]:
    """Twenty pages, from when all figures are known."""
    url, pages, deadline = None, [], time.monotonic() + 120
    while len(pages) < 20:
        assert run.poll() is None and time.monotonic() < deadline, (folder / "said").read_text()
        time.sleep(0.05)
        said = (folder / "said").read_text()
        if url is None and "/metrics" in said:
            url = "http://" + said.split("http://")[1].split()[0]
        if url is not None:
            page = scrape(url)
            if len(page) == len(GAUGES) + len(OTHERS):
                pages.append(page)
    try:
        urllib.request.urlopen(url.removesuffix("metrics"), timeout=10)
    except urllib.error.HTTPError as error:
        assert error.code == 404, error
    else:
        raise AssertionError("there is a page beside /metrics")
    return pages


main()
