"""A run's event files, read by TensorBoard itself.

    python tests/peers/event_files.py target/release/mae

needs tensorboard, numpy and pillow. A short pre-training is stopped, killed behind its last checkpoint's log lines, and resumed; what TensorBoard
then shows must be what `log.jsonl` has, each step once, and the pictures those of the folder. The first difference ends the script with
an error.
"""

import io
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEP_TAGS = {"loss/train": "loss", "lr": "lr", "epoch": "epoch", "grad_norm": "grad_norm",
             "speed/images_per_second": "images_per_second", "speed/data_wait": "data_wait", "data/bad_samples": "bad_samples",
             "memory/host_bytes": "host_memory"}
EPOCH_TAGS = {"loss/epoch": "loss", "loss/held_out": "val_loss"}


def shard(path: Path, samples: int, bad: int = 0) -> None:
    """Images of noise; the first ones are none."""
    generator = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            file = io.BytesIO()
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "JPEG")
            if number < bad:
                file = io.BytesIO(b"no image")
                file.seek(0, io.SEEK_END)
            info = tarfile.TarInfo(f"{number:04}.jpg")
            info.size = file.tell()
            file.seek(0)
            tar.addfile(info, file)


def pretrain(mae: Path, folder: Path, *more: str) -> None:
    command = [mae, "pretrain", "--data", folder / "data.tar", "--val-data", folder / "data.tar", "--model", "mae-micro-patch4",
               "--input-size", "16", "--batch-size", "8", "--epochs", "3", "--clip-grad", "1", "--log-every", "2", "--picture-every", "1",
               "--checkpoint-every", "3", "--max-bad-fraction", "0.1", "--threads", "1", "--output-dir", folder / "run",
               "--resume", "auto", *more]
    subprocess.run(command, check=True, capture_output=True)


def single(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def main() -> None:
    mae = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shard(folder / "data.tar", 32, bad=1)
        pretrain(mae, folder, "--max-steps", "8")
        # As after a kill: what was logged after step 6's checkpoint is done again.
        newest = sorted((folder / "run/checkpoints").iterdir())[-1]
        assert newest.name == "step-00000008", newest
        for file in newest.iterdir():
            file.unlink()
        newest.rmdir()
        pretrain(mae, folder)
        assert len(list((folder / "run/tensorboard").iterdir())) == 2

        shown = EventAccumulator(str(folder / "run/tensorboard"), size_guidance={"images": 0, "scalars": 0})
        shown.Reload()
        log = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
        compared = 0
        for kind, tags in [("step", STEP_TAGS), ("epoch", EPOCH_TAGS)]:
            for tag, key in tags.items():
                logged = [(line["step"], single(line[key])) for line in log if line["kind"] == kind and key in line]
                events = [(event.step, event.value) for event in shown.Scalars(tag)]
                assert events == logged and logged, f"{tag}: TensorBoard has {events}, the log {logged}"
                compared += len(logged)
        extra = set(shown.Tags()["scalars"]) - set(STEP_TAGS) - set(EPOCH_TAGS)
        assert not extra, f"unknown scalars: {extra}"

        # Each epoch has all samples, so each has the one that is none.
        assert shown.Scalars("data/bad_samples")[-1].value == 3
        images = shown.Images("reconstructions")
        assert [image.step for image in images] == [4, 8, 12], [image.step for image in images]
        for number, image in enumerate(images, 1):
            saved = (folder / f"run/pictures/epoch-{number:04}.png").read_bytes()
            assert image.encoded_image_string == saved, f"the picture of epoch {number} differs"
            assert Image.open(io.BytesIO(saved)).size == (image.width, image.height)
        print(f"TensorBoard shows the log's {compared} numbers and {len(images)} pictures, each step once")


if __name__ == "__main__":
    main()
