"""Training beside PyTorch's over time: the loss of 300 updates on real images from the same weights, batches and masks.

    python tests/peers/curves.py target/release/examples/replay SHARD... [--picture curves.png] [--json curves.json]

Runs transformers' ViTMAEForPreTraining with 1 and with 2 threads, which differ by rounding alone, and ours once. Rounding errors
grow as training goes on, so PyTorch's own runs say how far two right programs are apart: ours must stay within three times their
spread, the running maximum of the difference between the two.
Uses the Python environment of step.py (run that first), and matplotlib for the picture.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import step as peer

MODEL, BATCH, UPDATES, LR = "mae-tiny-patch4", 64, 300, 3.75e-5
ALLOWED = 3.0


def images(shards: list[str], count: int):
    """The first images of the shards as bytes [N, H, W, C]."""
    import numpy as np
    from PIL import Image

    side = peer.MODELS[MODEL][0][0]
    found = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.rsplit(".", 1)[-1] in ("png", "jpg", "jpeg") and len(found) < count:
                    picture = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                    found.append(np.asarray(picture.resize((side, side))))
    if len(found) < count:
        raise peer.Failed(f"{len(found)} images are too few; {count} are needed")
    return np.stack(found)


def run(arguments: argparse.Namespace) -> dict:
    import numpy as np
    import torch

    _, places = peer.batches(MODEL, UPDATES, BATCH)
    pictures = images(arguments.shards, 8192)
    chosen = np.random.default_rng(2).integers(0, len(pictures), (UPDATES, BATCH))
    pixels = pictures[chosen]
    losses = {}
    with tempfile.TemporaryDirectory() as scratch:
        peer.write_case(Path(scratch), MODEL, peer.build(MODEL), pixels, places, LR, 2)
        losses["mae"] = json.loads(peer.command([arguments.replay, scratch]))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        losses[f"PyTorch, {threads} thread{'s' * (threads > 1)}"] = peer.torch_losses(peer.build(MODEL), pixels, places, LR)
        print(f"PyTorch, {threads}: done", file=sys.stderr, flush=True)
    return losses


def draw(losses: dict, spread, difference, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    for name, curve in losses.items():
        above.plot(range(1, len(curve) + 1), curve, label=name, linewidth=2.5 if name == "mae" else 1)
    above.set(ylabel="loss", title=f"{MODEL}, batch {BATCH}, CIFAR-10")
    above.legend()
    below.semilogy(range(1, len(spread) + 1), ALLOWED * spread, label=f"{ALLOWED:g} × spread of PyTorch's runs")
    below.semilogy(range(1, len(spread) + 1), difference, label="mae from the nearest of them")
    below.set(xlabel="update", ylabel="difference of loss")
    below.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replay", type=lambda path: str(Path(path).resolve()), help="the example `replay` of mae-trainer")
    parser.add_argument("shards", nargs="+", help="tar shards of small images, such as CIFAR-10's")
    parser.add_argument("--picture", type=Path, metavar="PNG")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    import numpy as np

    losses = run(arguments)
    theirs = np.array([curve for name, curve in losses.items() if name != "mae"])
    spread = np.maximum.accumulate(theirs.max(0) - theirs.min(0))
    difference = np.abs(theirs - np.array(losses["mae"])).min(0)
    # Before rounding shows in them, the spread is that of one unit in the last place of a loss near one.
    ratio = difference / np.maximum(spread, 2.0**-23)
    print(f"loss {losses['mae'][0]:.4f} -> {losses['mae'][-1]:.4f}")
    print(f"largest difference {difference.max():.2e}, largest spread {spread[-1]:.2e}")
    print(f"largest ratio {ratio.max():.2f} at update {ratio.argmax() + 1}; {ALLOWED:g} is allowed")
    if arguments.picture:
        draw(losses, spread, difference, arguments.picture)
    if arguments.json:
        arguments.json.write_text(json.dumps(losses) + "\n")
    return 0 if ratio.max() <= ALLOWED else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (peer.Failed, subprocess.SubprocessError) as error:
        sys.exit(f"curves.py: {error}")
