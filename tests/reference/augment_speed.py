"""Prints how many 224x224 images a second timm's RandAugment makes on one core, and how long each operation takes.

For docs/loader.md, beside `cargo run --release -p mae-loader --example rand_augment`, on the same pixels.

    .venv/bin/python tests/reference/augment_speed.py
"""

import random
import time

import numpy as np
from augment_pillow import FILL, RESAMPLE, auto_augment
from PIL import Image

SIDE = 224


def photo() -> Image.Image:
    i = np.arange(SIDE * SIDE * 3, dtype=np.uint64)
    x, y, channel = i // 3 % SIDE, i // (3 * SIDE), i % 3
    noise = (i * 0x9E3779B9 >> 13) % 16
    return Image.fromarray(((x * (channel + 1) // 4 + y // 2) % 200 + noise).astype(np.uint8).reshape(SIDE, SIDE, 3))


def seconds(work, rounds: int) -> float:
    """Of one round, in the best of five runs."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        best = min(best, (time.perf_counter() - start) / rounds)
    return best


def main() -> None:
    random.seed(0)
    np.random.seed(0)
    image = photo()
    hparams = {"translate_const": int(SIDE * 0.45), "img_mean": FILL, "interpolation": RESAMPLE}
    # Pillow 13 refuses to posterize to 0 bits, which the policy asks for at times.
    to_bits = auto_augment.LEVEL_TO_ARG["PosterizeIncreasing"]
    auto_augment.LEVEL_TO_ARG["PosterizeIncreasing"] = lambda *level: (max(1, *to_bits(*level)),)
    policy = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", hparams)
    print(f"rand-m9-mstd0.5-inc1: {1 / seconds(lambda: policy(image), 2000):.0f} images a second")
    for op in policy.ops:
        arguments = op.level_fn(9.0, op.hparams) if op.level_fn else ()
        each = seconds(lambda: op.aug_fn(image, *arguments, **op.kwargs), 100)
        print(f"{op.name} {arguments}: {each * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
