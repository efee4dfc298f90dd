"""What the reference scripts share: inputs, weights, masks, AdamW, and the form of a golden file.

A golden file is one safetensors file. Its tensors:

    weights.NAME      every parameter and fixed embedding, under the reference code's names, float32
    grads.NAME        the gradient of the loss with respect to every trainable parameter, float32
    pixels            [B, H, W, C] uint8, not normalised
    ids_keep          [B, K] uint32, the kept patches in the order of the noise (not ascending)
    ids_restore       [B, L] uint32, argsort(argsort(noise))
    loss              [1]
    prediction        [B, L, P*P*C], (row, column, channel) inside a patch, in the target's space
    adamw.losses      [STEPS + 1] the loss before the first update and after each of the STEPS updates
    adamw.after.NAME  a few parameters after the last update

and one metadata entry, `golden`, whose JSON holds the model's dimensions and how the numbers were made. (A single
entry, because safetensors does not order several.)

Everything random comes from numpy's PCG64 under fixed seeds, in the order of the sorted names, so that the inputs do
not depend on the version of torch.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

# The first three channels carry ImageNet's statistics; further ones are made up. A model of one channel takes GRAY.
MEAN = [0.485, 0.456, 0.406, 0.5]
STD = [0.229, 0.224, 0.225, 0.25]
GRAY_MEAN = [0.449]
GRAY_STD = [0.226]

LR, BETAS, EPS, WEIGHT_DECAY, STEPS = 1e-3, (0.9, 0.95), 1e-8, 0.05, 20


def one_thread():
    """One thread and no choice of algorithm: the same bytes on every run of one machine."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def statistics(channels):
    return (GRAY_MEAN, GRAY_STD) if channels == 1 else (MEAN[:channels], STD[:channels])


def images(seed, batch, height, width, channels):
    """Smooth waves with noise on top, [B, H, W, C] uint8. Every patch varies, so that norm_pix is well conditioned."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = np.arange(height)[:, None, None] / height
    columns = np.arange(width)[None, :, None] / width
    out = []
    for _ in range(batch):
        frequency = rng.uniform(0.5, 2.5, size=(2, channels))
        phase = rng.uniform(0, 2 * math.pi, size=channels)
        wave = np.sin(2 * math.pi * (rows * frequency[0] + columns * frequency[1]) + phase)
        noise = rng.standard_normal((height, width, channels))
        out.append(np.clip(np.rint(128 + 70 * wave + 25 * noise), 0, 255))
    return np.stack(out).astype(np.uint8)


def normalise(pixels, mean, std):
    """uint8 [B, H, W, C] to the model's float32 [B, C, H, W], as ToTensor and Normalize do."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
    std = torch.tensor(std, dtype=torch.float32)[:, None, None]
    return ((x - mean) / std).contiguous()


def mask_noise(seed, batch, patches):
    return np.random.Generator(np.random.PCG64(seed)).random((batch, patches)).astype(np.float32)


def mask_ids(noise, keep):
    """`ids_keep` and `ids_restore` of the reference code's random masking."""
    ids_shuffle = torch.argsort(torch.from_numpy(noise), dim=1)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    return ids_shuffle[:, :keep], ids_restore


def keep_count(patches, mask_ratio):
    """The reference code's `int(L * (1 - mask_ratio))`, in float64."""
    return int(patches * (1 - mask_ratio))


def sin_cos_1d(dim, positions):
    omega = 1.0 / 10000 ** (np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = np.asarray(positions, dtype=np.float64).reshape(-1)[:, None] * omega[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sin_cos_2d(dim, rows, columns):
    """[1, 1 + L, D] float64: a zero row for the class token, then the patches row by row.

    The first half of the channels encodes the column, the second the row.
    """
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    patches = np.concatenate([sin_cos_1d(dim // 2, column), sin_cos_1d(dim // 2, row)], axis=1)
    return np.concatenate([np.zeros((1, dim)), patches])[None]


def random_weight(rng, name, shape):
    """Values at which no parameter is without effect: biases, norms and tokens as well."""
    values = rng.standard_normal(shape)
    if name.endswith("bias"):
        values *= 0.1
    elif "norm" in name:
        values = 1 + 0.2 * values
    elif name.endswith("token") or name.endswith("pos_embed"):
        values *= 0.3
    else:
        values *= 1.2 / math.sqrt(math.prod(shape[1:]))
    return values.astype(np.float32)


def random_weights(seed, shapes):
    """{name: shape} to {name: float32 array}."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return {name: random_weight(rng, name, tuple(shapes[name])) for name in sorted(shapes)}


def decays(name, shape):
    """Whether weight decay applies: timm 0.3.2's optim_factory.add_weight_decay, which main_pretrain.py calls.

    It exempts what has one dimension or ends in `.bias`. `cls_token` and `mask_token` are [1, 1, D] in the reference
    code, so they *are* decayed in pre-training.
    """
    return not (len(shape) == 1 or name.endswith(".bias"))


def adamw_losses(named, loss_of):
    """Trains `named` ([(name, parameter)]) in place; returns STEPS + 1 losses.

    Several parameters may stand for one name of the reference code (its fused qkv); AdamW works element by element, so
    that the split does not show.
    """
    groups = [
        {"params": [p for n, p in named if decays(n, p.shape)], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in named if not decays(n, p.shape)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, foreach=False, fused=False)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses.append(loss_of().item())
    return np.array(losses, dtype=np.float32)


def adamw_facts(shapes):
    """What a test must know to repeat `adamw_losses`; `no_decay` lists the exempt parameters of {name: shape}."""
    return {
        "lr": LR,
        "betas": list(BETAS),
        "eps": EPS,
        "weight_decay": WEIGHT_DECAY,
        "steps": STEPS,
        "no_decay": sorted(n for n, s in shapes.items() if not decays(n, s)),
    }


def array(tensor):
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def save(path, tensors, facts):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{path.name}: {name} holds a value that is not finite")
    save_file(tensors, path, metadata={"golden": json.dumps(facts, sort_keys=True)})
    print(f"{path} {path.stat().st_size} bytes, loss {float(tensors['loss'][0]):.6f}")
