"""Writes golden/draws.json: how torchvision's random crops and flips and the reference code's masks are spread.

Counts over many draws, which loader/src/distributions.rs compares with those of as many of its own: two sets of draws from
one distribution differ by chance only.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
    .venv/bin/python tests/reference/crops_torchvision.py
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.transforms import RandomHorizontalFlip, RandomResizedCrop

OUT = Path(__file__).parent / "golden" / "draws.json"
DRAWS = 40_000
BINS = 20

MAE, THIRDS = (0.2, 1.0), (3 / 4, 4 / 3)
# width, height, scale, ratio
CROPS = [
    (224, 224, MAE, THIRDS),
    (500, 375, MAE, THIRDS),
    (375, 500, MAE, THIRDS),
    (1000, 420, MAE, THIRDS),  # many tries do not fit
    (180, 1000, MAE, THIRDS),  # most draws end at the central part
    (1000, 100, MAE, THIRDS),  # all do
    (32, 32, MAE, THIRDS),
    (8, 6, MAE, THIRDS),
    (3, 2, MAE, THIRDS),
    (1, 1, MAE, THIRDS),
    (500, 333, (0.08, 1.0), THIRDS),
    (640, 480, (0.3, 0.5), (0.5, 2.0)),
]
# The same for the linear probe's crop, which takes what fits of every draw.
CLAMPED = [
    (224, 224, (0.08, 1.0), THIRDS),
    (500, 375, (0.08, 1.0), THIRDS),
    (375, 500, MAE, THIRDS),
    (1000, 100, (0.08, 1.0), THIRDS),
    (32, 32, (0.08, 1.0), THIRDS),
    (8, 6, (0.08, 1.0), (0.5, 2.0)),
]
# patches, kept; columns of the grid
MASKS = [(196, 49, 14), (64, 16, 8), (256, 64, 16), (6, 2, 3)]


def central(width: int, height: int, ratio) -> tuple[int, int, int, int]:
    """The part that ten misfits end at, as torchvision computes it: x, y, width, height."""
    if width / height < min(ratio):
        w, h = width, int(round(width / min(ratio)))
    elif width / height > max(ratio):
        w, h = int(round(height * max(ratio))), height
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


def binned(values: np.ndarray) -> dict:
    """Counts between edges that hold about equally many; a value at an edge counts above it."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    return {"edges": edges.tolist(), "counts": np.bincount(np.digitize(values, edges), minlength=len(edges) + 1).tolist()}


def clamped(image: torch.Tensor, scale, ratio) -> tuple[int, int, int, int]:
    """As the reference code's util/crop.py draws a part, by its description: one try, cut to the image."""
    height, width = image.shape[-2:]
    area = height * width * torch.empty(1).uniform_(*scale).item()
    bounds = torch.log(torch.tensor(ratio))
    aspect = torch.exp(torch.empty(1).uniform_(bounds[0], bounds[1])).item()
    w = min(int(round(math.sqrt(area * aspect))), width)
    h = min(int(round(math.sqrt(area / aspect))), height)
    start = [torch.randint(0, room + 1, size=(1,)).item() for room in (height - h, width - w)]
    return *start, h, w


def crops(width: int, height: int, scale, ratio, draw=RandomResizedCrop.get_params) -> dict:
    image = torch.empty(3, height, width, dtype=torch.uint8)
    parts = np.array([draw(image, scale, ratio) for _ in range(DRAWS)], dtype=np.float64)
    y, x, h, w = parts.T
    fallback = (np.stack([x, y, w, h], 1) == central(width, height, ratio)).all(1)
    # Exact in floating point, so that another program puts each value into the same bin.
    return {
        "width": width, "height": height, "scale": scale, "ratio": ratio,
        "fallback": int(fallback.sum()),
        "area": binned(w * h / (width * height)),
        "aspect": binned(w / h),
        "x": binned((x + 0.5) / (width - w + 1)),
        "y": binned((y + 0.5) / (height - h + 1)),
        "centre_x": binned(2 * x + w),
    }


def masks(patches: int, keep: int, columns: int) -> dict:
    """`random_masking` of models_mae.py, and who is kept: alone, beside a kept neighbour, in the upper half."""
    noise = torch.rand(DRAWS, patches)
    ids_keep = torch.argsort(noise, dim=1)[:, :keep]
    kept = np.zeros((DRAWS, patches), dtype=bool)
    np.put_along_axis(kept, ids_keep.numpy(), True, 1)
    grid = kept.reshape(DRAWS, -1, columns)
    beside = (grid[:, :, 1:] & grid[:, :, :-1]).sum((1, 2))
    below = (grid[:, 1:] & grid[:, :-1]).sum((1, 2))
    upper = grid[:, : patches // columns // 2].sum((1, 2))
    return {
        "patches": patches, "keep": keep, "columns": columns,
        "kept": kept.sum(0).tolist(),
        "beside": np.bincount(beside, minlength=patches + 1).tolist(),
        "below": np.bincount(below, minlength=patches + 1).tolist(),
        "upper": np.bincount(upper, minlength=patches + 1).tolist(),
    }


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    flip, image = RandomHorizontalFlip(), torch.tensor([[[0, 1]]])
    golden = {
        "torch": torch.__version__, "torchvision": torchvision.__version__, "draws": DRAWS,
        "flips": sum(int(flip(image)[0, 0, 0]) for _ in range(DRAWS)),
        "crops": [crops(*case) for case in CROPS],
        "masks": [masks(*case) for case in MASKS],
        "clamped": [crops(*case, clamped) for case in CLAMPED],
    }
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
