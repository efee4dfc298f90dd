"""Golden numbers of the tokenizer: its loss, logits' codes and the gradient of every weight, by PyTorch's own convolutions.

    python tests/reference/tokenizer_torch.py [FOLDER]

Writes golden/tokenizer.safetensors: `weight.NAME` and `grad.NAME` under the tokenizer's names, uint8 `pixels` [2, 16, 24, 3], `noise`
[2 * 6, 9] that is added to the logits, uint32 `tokens` [2, 6], and `loss` [3]: whole, squared error, divergence. Patch size 8, 9 codes,
5 channels, one block a side, temperature 0.5, KL weight 0.3.
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

H, W, C, P, V, D, STEM = 16, 24, 3, 8, 9, 5, 4
TEMPERATURE, KL_WEIGHT = 0.5, 0.3

SHAPES = {
    "encoder.stem": (D, STEM * STEM * C),
    "encoder.down.0": (D, 4 * D),
    "encoder.blocks.0.near": (D, 9 * D),
    "encoder.blocks.0.out": (D, D),
    "encoder.logits": (V, D),
    "decoder.blocks.0.near": (D, 9 * D),
    "decoder.blocks.0.out": (D, D),
    "decoder.up.0": (4 * D, D),
    "decoder.pixels": (STEM * STEM * C, D),
}


def kernel(weight, side):
    """[out, side * side * in] as a convolution's [out, in, side, side]."""
    return weight.view(weight.shape[0], side, side, -1).permute(0, 3, 1, 2)


def main(folder):
    torch.manual_seed(0)
    weights = {"decoder.codes.weight": torch.randn(V, D)}
    for name, shape in SHAPES.items():
        weights[f"{name}.weight"] = torch.randn(shape) * (2 / shape[1]) ** 0.5
        weights[f"{name}.bias"] = torch.randn(shape[0]) * 0.1
    for tensor in weights.values():
        tensor.requires_grad_()
    w = lambda name: weights[f"{name}.weight"]
    b = lambda name: weights[f"{name}.bias"]

    def block(name, x):
        y = F.conv2d(x.relu(), kernel(w(f"{name}.near"), 3), b(f"{name}.near"), padding=1)
        return x + F.conv2d(y.relu(), kernel(w(f"{name}.out"), 1), b(f"{name}.out"))

    def up(name, x, side):
        """A transposed convolution whose stride is its size: rows of the weight are row, column, channel."""
        rows = w(name).view(side, side, -1, D)
        bias = b(name).view(side, side, -1)
        x = torch.einsum("bdhw,ijcd->bchiwj", x, rows) + bias.permute(2, 0, 1)[None, :, None, :, None, :]
        return x.reshape(x.shape[0], x.shape[1], x.shape[2] * side, -1)

    pixels = torch.randint(0, 256, (2, H, W, C), dtype=torch.uint8)
    noise = -torch.log(-torch.log(torch.rand(2 * (H // P) * (W // P), V)))
    image = (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2)
    x = F.conv2d(image, kernel(w("encoder.stem"), STEM), b("encoder.stem"), stride=STEM)
    x = F.conv2d(x.relu(), kernel(w("encoder.down.0"), 2), b("encoder.down.0"), stride=2)
    x = block("encoder.blocks.0", x).relu()
    logits = F.conv2d(x, kernel(w("encoder.logits"), 1), b("encoder.logits")).permute(0, 2, 3, 1).reshape(-1, V)
    codes = ((logits + noise) / TEMPERATURE).softmax(-1)
    y = (codes @ w("decoder.codes")).view(2, H // P, W // P, D).permute(0, 3, 1, 2)
    y = block("decoder.blocks.0", y).relu()
    y = up("decoder.up.0", y, 2).relu()
    squared = F.mse_loss(up("decoder.pixels", y, STEM), image)
    log_q = logits.log_softmax(-1)
    kl = F.kl_div(torch.full_like(log_q, -math.log(V)), log_q, log_target=True, reduction="batchmean")
    loss = squared + KL_WEIGHT * kl
    loss.backward()

    out = {"pixels": pixels, "noise": noise, "loss": torch.stack([loss, squared, kl]).detach()}
    out["tokens"] = logits.argmax(-1).view(2, -1).to(torch.uint32)
    for name, tensor in weights.items():
        out[f"weight.{name}"] = tensor.detach()
        out[f"grad.{name}"] = tensor.grad
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, folder / "tokenizer.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "golden")
