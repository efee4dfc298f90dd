"""Writes golden/ablation/: what torchvision makes of images by the paper's other crops (table 1e), and by colour jitter.

`cuts`: images resized to a short side, and parts of them cut out by `CenterCrop` and `RandomCrop`. The loader's resize must agree within
one level on the mean and three at worst, its centre exactly. `jitters`: images after `ColorJitter` with given factors in a given order, on
Pillow's images; the loader's must be the same. `IMAGE.png` of these holds an image and below it, one after the other, the results. `draws`:
counts over many draws of both. loader/src/augment/torchvision.rs and loader/src/distributions/ablation.rs compare.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6
    .venv/bin/python tests/reference/augment_torchvision.py
"""

import itertools
import json
from pathlib import Path
from unittest import mock

import numpy as np
import PIL
import torch
import torchvision
from augment_pillow import noise, scene
from crops_torchvision import DRAWS, binned
from PIL import Image
from torchvision.transforms import CenterCrop, ColorJitter, RandomCrop, Resize
from torchvision.transforms.functional import InterpolationMode

OUT = Path(__file__).parent / "golden" / "ablation"

CUT_IMAGES = {"wide": scene(67, 45), "high": scene(41, 60), "gray": scene(48, 37).convert("L")}
# image; short side; height and width of the sample
CUTS = [
    ("wide", 37, (32, 32)),
    ("wide", 45, (32, 32)),  # nothing is resampled
    ("wide", 64, (32, 48)),
    ("wide", 20, (20, 20)),
    ("high", 37, (32, 32)),
    ("high", 29, (28, 21)),
    ("high", 41, (24, 40)),
    ("gray", 32, (28, 28)),
]

JITTER_IMAGES = {"scene": scene(24, 20), "noise": noise("RGB", 13, 9), "dot": noise("RGB", 1, 1), "gray": noise("L", 12, 11)}
# brightness, contrast, saturation
FACTORS = [(0.0, 1.0, 0.37), (0.73, 1.21, 1.4), (1.39, 0.6, 0.61), (1.0, 0.0, 2.0), (1.25, 1.9, 0.0), (5.5, 3.25, 4.0)]
ORDERS = list(itertools.permutations(range(3)))

# height and width after resizing, and of the sample
OFFSETS = [((256, 341), (224, 224)), ((341, 256), (224, 224)), ((37, 37), (32, 32)), ((224, 224), (224, 224)), ((183, 244), (96, 160))]
STRENGTHS = [0.2, 0.4, 1.0, 1.5]


def start(crop, height: int, width: int) -> tuple[int, int]:
    """Row and column at which `crop` starts in an image of a size, read off an image of its own coordinates."""
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    return tuple(crop(places)[:, 0, 0].tolist())


def cuts() -> list[dict]:
    cases = []
    for name, image in CUT_IMAGES.items():
        image.save(OUT / f"cut-{name}.png", optimize=True)
    for number, (name, short, size) in enumerate(CUTS):
        resized = Resize(short, interpolation=InterpolationMode.BICUBIC)(CUT_IMAGES[name])
        for kind, crop in [("centre", CenterCrop(size)), ("fixed", RandomCrop(size))]:
            torch.manual_seed(number)
            place = start(crop, resized.height, resized.width)
            torch.manual_seed(number)
            file = f"cut-{number}-{kind}.png"
            crop(resized).save(OUT / file, optimize=True)
            case = {"image": f"cut-{name}.png", "resize": short, "size": size, "resized": (resized.height, resized.width)}
            cases.append(case | {"kind": kind, "start": place, "file": file})
    return cases


def jitters() -> list[dict]:
    images = []
    for name, image in JITTER_IMAGES.items():
        cases = [(order, factors) for order in ORDERS for factors in FACTORS]
        tiles = [image]
        for order, factors in cases:
            with mock.patch.object(ColorJitter, "get_params", return_value=(torch.tensor(order), *factors, None)):
                tiles.append(ColorJitter()(image))
        tall = Image.new(image.mode, (image.width, image.height * len(tiles)))
        for number, tile in enumerate(tiles):
            tall.paste(tile, (0, number * image.height))
        tall.save(OUT / f"jitter-{name}.png", optimize=True)
        images.append({"file": f"jitter-{name}.png", "height": image.height, "cases": cases})
    return images


def offsets(outer, inner) -> dict:
    image = torch.empty(3, *outer, dtype=torch.uint8)
    places = np.array([RandomCrop.get_params(image, inner)[:2] for _ in range(DRAWS)], dtype=np.float64)
    y, x = places.T
    return {"outer": outer, "inner": inner, "x": binned(x), "y": binned(y), "difference": binned(y - x)}


def factors(strength: float) -> dict:
    """The order of brightness, contrast and saturation (0, 1, 2) as a number of `ORDERS`; their factors, and how these hang together."""
    jitter = ColorJitter(strength, strength, strength)
    orders, rows = [0] * len(ORDERS), []
    for _ in range(DRAWS):
        order, *row, _ = ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        orders[ORDERS.index(tuple(number for number in order.tolist() if number < 3))] += 1
        rows.append(row)
    b, c, s = np.array(rows).T
    return {"strength": strength, "orders": orders, "factors": [binned(values) for values in (b, c, s, b - c, c - s, s - b)]}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.png"):
        old.unlink()
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
    cases = versions | {"cuts": cuts(), "orders": ORDERS, "jitters": jitters()}
    (OUT / "cases.json").write_text(json.dumps(cases) + "\n")
    torch.manual_seed(0)
    draws = versions | {"draws": DRAWS, "offsets": [offsets(*case) for case in OFFSETS], "jitters": [factors(v) for v in STRENGTHS]}
    (OUT / "draws.json").write_text(json.dumps(draws) + "\n")


if __name__ == "__main__":
    main()
