"""Golden numbers of principal components of patches.

    python tests/reference/pca_sklearn.py [FOLDER]

Writes golden/pca.safetensors: scikit-learn's PCA on the patches of made-up images, normalised by channel. Its tensors:

    pixels                [40, 12, 12, 3] as uint32: ramps, waves and noise
    channel.mean, .std    [3]
    mean                  [48] the mean patch, in (row, column, channel) order, patches of 4 x 4
    components            [8, 48]
    variance              [48] along every component, with n - 1
    ratio                 [48] its share
    coefficients          [9, 8] of the patches of the first image, row by row
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.decomposition import PCA

IMAGES, SIZE, PATCH, COMPONENTS = 40, 12, 4, 8
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def images(rng):
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    made = []
    for _ in range(IMAGES):
        angle, speed, phase = rng.uniform(0, np.pi), rng.uniform(1, 9), rng.uniform(0, 6)
        along = x * np.cos(angle) + y * np.sin(angle)
        wave = np.sin(speed * along + phase)[..., None] * rng.uniform(10, 90, 3)
        made.append(rng.uniform(60, 190, 3) + wave + rng.normal(0, 6, (SIZE, SIZE, 3)))
    return np.clip(np.round(made), 0, 255).astype(np.uint8)


def patches(pixels):
    """[N * L, P * P * C], in float64 of float32 numbers."""
    x = (pixels.astype(np.float32) / np.float32(255) - MEAN) / STD
    grid = SIZE // PATCH
    x = x.reshape(len(x), grid, PATCH, grid, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, PATCH * PATCH * 3).astype(np.float64)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "golden"
    pixels = images(np.random.default_rng(20))
    x = patches(pixels)
    whole = PCA(svd_solver="full").fit(x)
    kept = PCA(n_components=COMPONENTS, svd_solver="full").fit(x)
    single = lambda a: np.ascontiguousarray(a, dtype=np.float32)
    tensors = {
        "pixels": np.ascontiguousarray(pixels.astype(np.uint32)),
        "channel.mean": MEAN,
        "channel.std": STD,
        "mean": single(kept.mean_),
        "components": single(kept.components_),
        "variance": single(whole.explained_variance_),
        "ratio": single(whole.explained_variance_ratio_),
        "coefficients": single(kept.transform(x[: (SIZE // PATCH) ** 2])),
    }
    save_file(tensors, folder / "pca.safetensors")
    print("kept", kept.explained_variance_ratio_.sum(), "next", whole.explained_variance_ratio_[:10])


if __name__ == "__main__":
    main()
