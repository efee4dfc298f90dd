"""Writes golden/masks_flava.json: how the block masks of BEiT are spread, as transformers draws them.

Counts over many draws of `FlavaMaskingGenerator`, an implementation of BEiT's MaskingGenerator, which
loader/src/distributions/blocks.rs compares with those of as many of its own. The generator gives up where ten tries in a row remove
nothing, and so often removes fewer patches than asked for: `removed` counts how many.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 torchvision==0.29.2 transformers==5.24.0 numpy==2.4.6 pillow==13.0.0
    .venv/bin/python tests/reference/masks_flava.py
"""

import json
import random
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.flava.image_processing_flava import FlavaMaskingGenerator

OUT = Path(__file__).parent / "golden" / "masks_flava.json"
DRAWS = 20_000
# rows, columns, patches to remove, least patches of a block, least aspect (height / width); the greatest is its inverse
CASES = [
    (14, 14, 75, 16, 0.3),  # BEiT's own
    (14, 14, 98, 16, 0.3),
    (14, 14, 147, 16, 0.3),
    (8, 8, 48, 5, 0.3),
    (6, 10, 30, 4, 0.6),
]


def case(rows: int, columns: int, remove: int, least: int, aspect: float) -> dict:
    generator = FlavaMaskingGenerator((rows, columns), remove, None, least, aspect)
    patches = rows * columns
    frequency = np.zeros(patches, dtype=np.int64)
    removed, agreeing = (np.zeros(2 * patches + 1, dtype=np.int64) for _ in range(2))
    for _ in range(DRAWS):
        mask = generator().numpy().astype(bool)
        frequency += mask.reshape(-1)
        removed[mask.sum()] += 1
        agreeing[(mask[:, 1:] == mask[:, :-1]).sum() + (mask[1:] == mask[:-1]).sum()] += 1
    return {
        "rows": rows, "columns": columns, "remove": remove, "least": least, "aspect": [aspect, 1 / aspect],
        "frequency": frequency.tolist(),
        "removed": np.trim_zeros(removed, "b").tolist(),
        "agreeing": np.trim_zeros(agreeing, "b").tolist(),
    }


def main() -> None:
    random.seed(0)
    torch.set_num_threads(1)
    golden = {"transformers": transformers.__version__, "draws": DRAWS, "cases": [case(*each) for each in CASES]}
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
