"""Writes golden/resize/: small images, and parts of them resized by Pillow's bicubic filter.

The loader's resize must agree within one level on the mean and three at worst (loader/tests/pillow.rs). The same parts of
JPEGs, decoded by Pillow (libjpeg-turbo), show that decoders agree as well.

    python3 -m venv .venv && .venv/bin/pip install pillow==13.0.0 numpy
    .venv/bin/python tests/reference/resize_pillow.py
"""

import json
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageDraw

OUT = Path(__file__).parent / "golden" / "resize"


def scene() -> Image.Image:
    """Smooth ramps with hard edges, at 180 x 130."""
    y, x = np.mgrid[0:130, 0:180]
    ramp = np.stack([x * 255 / 179, y * 255 / 129, 127.5 + 127.5 * np.sin(x / 9) * np.cos(y / 7)], -1)
    image = Image.fromarray(ramp.round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 15, 90, 100), fill=(255, 255, 255), outline=(0, 0, 0))
    draw.rectangle((100, 40, 160, 110), fill=(0, 0, 0))
    for i in range(0, 60, 3):
        draw.line((100 + i, 40, 100 + i, 110), fill=(255, 0, 0) if i % 2 else (0, 255, 255))
    return image


def noise(mode: str, width: int, height: int) -> Image.Image:
    """Black and white in random pixels and channels: overshoot everywhere, the hardest case."""
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(0).choice([0, 255, 128], shape).astype(np.uint8))


# x, y, width, height of the part; width, height after resizing.
CASES = {
    "scene": (scene(), [
        ((0, 0, 180, 130), (32, 32)),
        ((0, 0, 180, 130), (64, 48)),
        ((13, 7, 97, 101), (56, 56)),
        ((90, 30, 40, 30), (64, 64)),
        ((101, 41, 56, 56), (56, 56)),
        ((0, 0, 3, 130), (16, 16)),
    ]),
    "noise": (noise("RGB", 61, 47), [
        ((0, 0, 61, 47), (32, 32)),
        ((5, 3, 31, 29), (24, 40)),
        ((10, 10, 7, 5), (40, 40)),
        ((0, 0, 61, 47), (7, 5)),
        ((20, 11, 32, 17), (32, 40)),
        ((60, 46, 1, 1), (8, 8)),
    ]),
    "gray": (noise("L", 50, 70), [
        ((0, 0, 50, 70), (28, 28)),
        ((11, 20, 30, 41), (48, 48)),
    ]),
}


def photo() -> Image.Image:
    """As a photograph is for a codec: soft, with texture and some edges, at 211 x 157 (no multiple of a block)."""
    y, x = np.mgrid[0:157, 0:211]
    texture = np.random.default_rng(1).normal(0, 12, (157, 211, 3))
    shade = np.stack([120 + 90 * np.sin(x / 37 + y / 61), 110 + 80 * np.cos(x / 53), 90 + 60 * np.sin(y / 29)], -1)
    image = Image.fromarray((shade + texture).clip(0, 255).round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 30, 120, 110), fill=(190, 80, 60))
    draw.polygon(((130, 140), (160, 40), (200, 130)), fill=(40, 90, 150))
    return image


JPEGS = {
    "photo-420": (photo(), {"quality": 90}),
    "photo-422": (photo(), {"quality": 85, "subsampling": 1}),
    "photo-444": (photo(), {"quality": 95, "subsampling": 0}),
    "photo-progressive": (photo(), {"quality": 75, "progressive": True}),
    "photo-gray": (photo().convert("L"), {"quality": 90}),
}
JPEG_PARTS = [
    ((0, 0, 211, 157), (64, 64)),
    ((31, 17, 143, 121), (56, 56)),
    ((90, 60, 61, 53), (64, 48)),
    ((150, 101, 61, 56), (56, 56)),
]


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in [*OUT.glob("*.png"), *OUT.glob("*.jpg")]:
        old.unlink()
    cases = []
    sources = {name: (f"{name}.png", image, parts) for name, (image, parts) in CASES.items()}
    for name, (_, image, _) in sources.items():
        image.save(OUT / f"{name}.png", optimize=True)
    for name, (image, options) in JPEGS.items():
        image.save(OUT / f"{name}.jpg", **options)
        sources[name] = (f"{name}.jpg", Image.open(OUT / f"{name}.jpg"), JPEG_PARTS)
    for name, (source, image, parts) in sources.items():
        for number, ((x, y, width, height), size) in enumerate(parts):
            file = f"{name}-{number}.png"
            resized = image.crop((x, y, x + width, y + height)).resize(size, Image.Resampling.BICUBIC)
            resized.save(OUT / file, optimize=True)
            cases.append({"image": source, "part": [x, y, width, height], "size": size, "resized": file})
    text = ",\n  ".join(json.dumps(case) for case in cases)
    (OUT / "cases.json").write_text(f'{{"pillow": "{PIL.__version__}", "cases": [\n  {text}\n]}}\n')


if __name__ == "__main__":
    main()
