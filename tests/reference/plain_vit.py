"""Vision transformers in plain PyTorch under the reference code's parameter names: encoder, masked autoencoder, classifier.

Written from the paper and the list of names, for foreign.py and for tests/peers/clients.py.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import golden


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / (dim // self.heads) ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, dim, patch, channels):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Vit(nn.Module):
    """An encoder; with `decoder` (width, blocks, heads) a masked autoencoder; with `classes` a classifier."""

    def __init__(self, size=(16, 16), patch=4, channels=3, dim=24, depth=2, heads=3, hidden=96, decoder=None, classes=0, pooled=False):
        super().__init__()
        self.grid, self.patch = (size[0] // patch, size[1] // patch), patch
        patches = self.grid[0] * self.grid[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, dim), requires_grad=False)
        self.patch_embed = PatchEmbed(dim, patch, channels)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden) for _ in range(depth))
        setattr(self, "fc_norm" if pooled else "norm", nn.LayerNorm(dim, eps=1e-6))
        self.pooled = pooled
        if decoder:
            width, blocks, decoder_heads = decoder
            self.decoder_embed = nn.Linear(dim, width)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
            self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, width), requires_grad=False)
            self.decoder_blocks = nn.ModuleList(Block(width, decoder_heads, hidden * width // dim) for _ in range(blocks))
            self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
            self.decoder_pred = nn.Linear(width, patch * patch * channels)
        if classes:
            self.head = nn.Linear(dim, classes)

    def encode(self, x, kept=None):
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        if kept is not None:
            x = torch.gather(x, 1, kept[:, :, None].expand(-1, -1, x.shape[2]))
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([token, x], 1)
        for block in self.blocks:
            x = block(x)
        return x if self.pooled else self.norm(x)

    def outputs(self, x):
        tokens = self.encode(x)
        norm = self.fc_norm if self.pooled else (lambda x: x)
        found = {"tokens": tokens, "token": norm(tokens[:, 0]), "mean": norm(tokens[:, 1:].mean(1))}
        if hasattr(self, "head"):
            found["logits"] = self.head(found["mean"] if self.pooled else found["token"])
        return found

    def reconstruct(self, x, restore, keep, norm_pix):
        kept = restore.argsort(1)[:, :keep]
        y = self.decoder_embed(self.encode(x, kept))
        masks = self.mask_token.expand(len(x), restore.shape[1] - keep, -1)
        whole = torch.cat([y[:, 1:], masks], 1)
        whole = torch.gather(whole, 1, restore[:, :, None].expand(-1, -1, y.shape[2]))
        y = torch.cat([y[:, :1], whole], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            y = block(y)
        prediction = self.decoder_pred(self.decoder_norm(y))[:, 1:]
        (rows, columns), side = self.grid, self.patch
        target = x.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 3, 5, 1)
        target = target.flatten(3).flatten(1, 2)
        if norm_pix:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        removed = (restore >= keep).float()
        loss = ((prediction - target).square().mean(-1) * removed).sum() / removed.sum()
        return {"loss": loss.reshape(1), "prediction": prediction}


def fill(model, seed=0):
    """Random weights at which nothing is without effect, position embeddings and buffers of tables included."""
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = golden.random_weight(rng, name, tuple(parameter.shape))
            if "gamma" in name or "lambda" in name:
                values = 0.5 + 0.2 * rng.standard_normal(parameter.shape).astype(np.float32)
            parameter.copy_(torch.from_numpy(values))
    return model.eval()
