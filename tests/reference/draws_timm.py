"""Writes golden/draws_timm.json: how the choices of timm's random erasing, of its mixup and cutmix and of RandAugment are spread.

Counts over many draws, which loader/src/distributions/fine_tuning.rs compares with those of as many of its own: two sets of draws
from one distribution differ by chance only. timm's own code draws; stand-ins for tensors note what it would do to them.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 torchvision==0.29.2 timm==1.0.31 numpy==2.4.6
    .venv/bin/python tests/reference/draws_timm.py
"""

import json
import random
from pathlib import Path

import numpy as np
import timm
import torch
from crops_torchvision import DRAWS, binned
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing

OUT = Path(__file__).parent / "golden" / "draws_timm.json"

# probability, width, height
ERASING = [(0.25, 224, 224), (1.0, 224, 224), (1.0, 96, 32), (1.0, 6, 5), (1.0, 3, 40)]
# mixup_alpha, cutmix_alpha, prob, switch_prob, width, height
MIXING = [
    (0.8, 1.0, 1.0, 0.5, 224, 224),
    (0.2, 0.5, 0.7, 0.3, 96, 32),
    (3.0, 0.0, 1.0, 0.5, 32, 32),
    (0.0, 1.0, 1.0, 0.5, 5, 8),
]
POLICIES = ["rand-m9-mstd0.5-inc1", "rand-m5-n3-p0.7-mstd2.5-mmax12-inc1"]


class Image:
    """What random erasing writes to."""

    box = None

    def __setitem__(self, key, value) -> None:
        _, rows, columns = key
        self.box = (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)


def erasing(probability: float, width: int, height: int) -> dict:
    eraser = RandomErasing(probability, mode="const", device="cpu")
    boxes = []
    for _ in range(DRAWS):
        image = Image()
        eraser._erase(image, 3, height, width, torch.float32)
        if image.box and image.box[2] * image.box[3]:
            boxes.append(image.box)
    top, left, h, w = np.array(boxes, dtype=np.float64).T
    return {
        "probability": probability, "width": width, "height": height, "erased": len(boxes),
        "values": [
            binned(h), binned(w), binned(h * w), binned(h / w),
            binned((top + 0.5) / (height - h + 1)), binned((left + 0.5) / (width - w + 1)),
        ],
    }


class Batch:
    """What mixing works on."""

    def __init__(self, width: int, height: int) -> None:
        self.shape, self.cut, self.scaled = (2, 3, height, width), None, False

    def flip(self, _) -> "Batch":
        return Batch(*self.shape[:1:-1])

    def __getitem__(self, key) -> None:
        return None

    def __setitem__(self, key, value) -> None:
        _, _, rows, columns = key
        self.cut = (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)

    def mul_(self, _) -> "Batch":
        self.scaled = True
        return self

    def add_(self, _) -> None:
        pass


def mixing(mixup_alpha, cutmix_alpha, prob, switch_prob, width: int, height: int) -> dict:
    mixup = Mixup(mixup_alpha, cutmix_alpha, prob=prob, switch_prob=switch_prob)
    mixed, cut = [], []
    for _ in range(DRAWS):
        batch = Batch(width, height)
        share = mixup._mix_batch(batch)
        if share == 1:  # also where an empty box was cut
            continue
        if batch.cut:
            cut.append((share, *batch.cut))
        else:
            assert batch.scaled
            mixed.append(share)
    case = {
        "mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha, "probability": prob, "switch_probability": switch_prob,
        "width": width, "height": height, "mixed": len(mixed), "cut": len(cut),
        "mixup": [], "cutmix": [],
    }
    if mixed:
        case["mixup"] = [binned(np.array(mixed))]
    if cut:
        share, top, left, h, w = np.array(cut, dtype=np.float64).T
        case["cutmix"] = [binned(x) for x in (share, top, left, h, w, 2 * top + h, 2 * left + w)]
    return case


def augmenting(policy: str) -> dict:
    """The first two operations of each image, by number, and the arguments of those that are applied."""
    transform = rand_augment_transform(policy, {})
    names = [op.name for op in transform.ops]
    none, applied, arguments = len(names), [], [[] for _ in names]

    class Noted:
        def __init__(self, number: int, op) -> None:
            self.op = op
            op.aug_fn = lambda image, *argument, **_: self.note(number, argument) or image

        def note(self, number: int, argument: tuple) -> None:
            applied[-1] = number
            arguments[number].extend(argument)

        def __call__(self, image):
            applied.append(none)
            return self.op(image)

    transform.ops = [Noted(number, op) for number, op in enumerate(transform.ops)]
    pairs = np.zeros((none + 1, none + 1), dtype=np.int64)
    for _ in range(DRAWS):
        applied.clear()
        transform(object())
        pairs[applied[0], applied[1]] += 1
    return {
        "policy": policy, "operations": names, "pairs": pairs.ravel().tolist(),
        "arguments": [binned(np.array(values, dtype=np.float64)) if values else None for values in arguments],
    }


def main() -> None:
    random.seed(0)
    np.random.seed(0)
    golden = {
        "timm": timm.__version__, "draws": DRAWS,
        "erasing": [erasing(*case) for case in ERASING],
        "mixing": [mixing(*case) for case in MIXING],
        "augmenting": [augmenting(policy) for policy in POLICIES],
    }
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
