"""Writes golden/augment/: small images, and what each operation of timm's RandAugment makes of them.

The operations are timm's own, on Pillow's images; loader/src/augment/rand_augment/tests.rs compares. `IMAGE.png` holds an image and
below it, one after the other, the results of the cases that `cases.json` lists for it. `arguments` is timm's way from a
magnitude to an operation's argument.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 torchvision==0.29.2 timm==1.0.31 pillow==13.0.0 numpy==2.4.6
    .venv/bin/python tests/reference/augment_pillow.py
"""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import PIL
import timm
from PIL import Image, ImageDraw
from timm.data import auto_augment

OUT = Path(__file__).parent / "golden" / "augment"
# As timm's create_transform takes it for ImageNet, with the reference code's interpolation.
FILL = (124, 116, 104)
RESAMPLE = Image.Resampling.BICUBIC

ENHANCE = [0.1, 0.19, 0.5, 1.0, 1.3, 1.81, 1.9]
ARGUMENTS = {
    "AutoContrast": [None],
    "Equalize": [None],
    "Invert": [None],
    "Rotate": [0.0, 3.7, -27.0, 30.0, 90.0, -90.0, 180.0, 133.3],
    "PosterizeIncreasing": [1, 2, 4],  # Pillow 13 refuses 0, of which earlier ones make black
    "SolarizeIncreasing": [0, 26, 128, 256],
    "SolarizeAdd": [0, 57, 99, 128],
    "ColorIncreasing": ENHANCE,
    "ContrastIncreasing": ENHANCE,
    "BrightnessIncreasing": ENHANCE,
    "SharpnessIncreasing": ENHANCE,
    "ShearX": [0.0, 0.27, -0.3, 1.7],
    "ShearY": [0.0, 0.27, -0.3, -1.7],
    "TranslateXRel": [0.0, 0.405, -0.45, 0.1, 1.2],
    "TranslateYRel": [0.0, 0.405, -0.45, 0.1, -1.2],
}
FEW = {name: [values[min(1, len(values) - 1)], values[-1]][: len(values)] for name, values in ARGUMENTS.items()}
MAGNITUDES = [0.0, 0.4, 2.5, 5.0, 7.77, 9.0, 9.49, 10.0, 12.0, 30.0]


def scene(width: int, height: int) -> Image.Image:
    """As a photograph: soft, with texture and some edges; not the whole range of values."""
    y, x = np.mgrid[0:height, 0:width]
    texture = np.random.default_rng(1).normal(0, 8, (height, width, 3))
    shade = np.stack([110 + 70 * np.sin(x / 9 + y / 17), 100 + 60 * np.cos(x / 13), 90 + 50 * np.sin(y / 7)], -1)
    image = Image.fromarray((shade + texture).clip(10, 240).round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 6, 24, 25), fill=(190, 80, 60))
    draw.rectangle((28, 12, 40, 30), fill=(40, 90, 150))
    return image


def noise(mode: str, width: int, height: int) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8))


IMAGES = {
    "scene": (scene(45, 35), FEW),
    "noise": (noise("RGB", 17, 13), ARGUMENTS),
    "gray": (noise("L", 18, 11), ARGUMENTS),
    "plain": (Image.new("RGB", (6, 5), (200, 13, 77)), FEW),
    "dot": (noise("RGB", 1, 1), FEW),
    "row": (noise("RGB", 7, 1), FEW),
    "column": (noise("L", 1, 5), FEW),
    "square": (noise("RGB", 2, 2), ARGUMENTS),
}


def apply(image: Image.Image, name: str, argument) -> Image.Image:
    fill = FILL if image.mode == "RGB" else Image.new("RGB", (1, 1), FILL).convert("L").getpixel((0, 0))
    arguments = [] if argument is None else [argument]
    return auto_augment.NAME_TO_OP[name](image, *arguments, fillcolor=fill, resample=RESAMPLE)


def arguments() -> list[dict]:
    """The argument of each operation by its magnitude, kept and negated."""
    found = []
    for name in auto_augment._RAND_INCREASING_TRANSFORMS:
        to_argument = auto_augment.LEVEL_TO_ARG[name]
        for magnitude in MAGNITUDES if to_argument else []:
            for negated in (False, True):
                with mock.patch("random.random", return_value=1.0 if negated else 0.0):
                    (argument,) = to_argument(magnitude, {})
                found.append({"operation": name, "magnitude": magnitude, "negated": negated, "argument": argument})
    return found


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    assert list(ARGUMENTS) == auto_augment._RAND_INCREASING_TRANSFORMS
    images = []
    for name, (image, operations) in IMAGES.items():
        cases = [(operation, argument) for operation, values in operations.items() for argument in values]
        tiles = [image, *(apply(image, *case) for case in cases)]
        tall = Image.new(image.mode, (image.width, image.height * len(tiles)))
        for number, tile in enumerate(tiles):
            tall.paste(tile, (0, number * image.height))
        tall.save(OUT / f"{name}.png", optimize=True)
        images.append({"file": f"{name}.png", "height": image.height, "cases": cases})
    text = {"pillow": PIL.__version__, "timm": timm.__version__, "fill": FILL, "images": images, "arguments": arguments()}
    (OUT / "cases.json").write_text(json.dumps(text) + "\n")


if __name__ == "__main__":
    main()
