"""Golden numbers of what transformers' ViTMAE cannot express, built from timm's blocks.

    python tests/reference/mae_timm.py [FOLDER]

writes into FOLDER, by default tests/reference/golden:

    timm_wide_norm.safetensors, timm_wide_plain.safetensors   16 x 24 pixels of 4 channels, with and without norm_pix
    timm_gray_norm.safetensors                                a high, narrow image of one channel, patch 2, MLP ratio 2
    timm_encoder_mask_tokens.safetensors                      the paper's ablation: mask tokens in the encoder (table 1c)
    vit_token.safetensors, vit_avg.safetensors                timm's VisionTransformer with cross-entropy
    formulas.json                                             position embeddings, kept patches, initial weights

See golden.py for what a model's file holds; the classifier's hold `labels` [B] uint32 and `logits` [B, classes] in place
of masks and prediction, and `pos_embed` among the trained parameters.
"""

import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from timm.layers import set_fused_attn
from timm.models.vision_transformer import Block, PatchEmbed, VisionTransformer
from torch import nn

import golden

NORM_EPS = 1e-6


class Mae(nn.Module):
    """The masked autoencoder of the paper on a grid of any shape, with the reference code's parameter names.

    With `encoder_mask_tokens` the encoder sees every patch, removed ones as `encoder_mask_token`, and there is no `mask_token`.
    """

    def __init__(self, facts):
        super().__init__()
        self.facts = facts
        norm = partial(nn.LayerNorm, eps=facts["norm_eps"])
        dim, decoder_dim = facts["dim"], facts["decoder_dim"]

        def stack(width, depth, heads):
            return nn.ModuleList(
                Block(width, heads, facts["mlp_ratio"], qkv_bias=True, norm_layer=norm) for _ in range(depth)
            )

        def fixed(width):
            value = torch.from_numpy(golden.sin_cos_2d(width, *self.grid)).float()
            return nn.Parameter(value, requires_grad=False)

        self.patch_embed = PatchEmbed(tuple(facts["image_size"]), facts["patch_size"], facts["channels"], dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = fixed(dim)
        self.blocks = stack(dim, facts["depth"], facts["heads"])
        self.norm = norm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.masks_in_encoder = facts.get("encoder_mask_tokens", False)
        if self.masks_in_encoder:
            self.encoder_mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        else:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_pos_embed = fixed(decoder_dim)
        self.decoder_blocks = stack(decoder_dim, facts["decoder_depth"], facts["decoder_heads"])
        self.decoder_norm = norm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, facts["patch_size"] ** 2 * facts["channels"])

    @property
    def grid(self):
        height, width = self.facts["image_size"]
        return height // self.facts["patch_size"], width // self.facts["patch_size"]

    def initialise(self):
        """As the reference code: Xavier-uniform, zero biases but for the patch embedding's, N(0, 0.02) tokens."""
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def target(self, x):
        """[B, L, P*P*C], (row, column, channel) inside a patch."""
        rows, columns = self.grid
        patch, channels = self.facts["patch_size"], self.facts["channels"]
        x = x.reshape(len(x), channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(len(x), rows * columns, patch * patch * channels)
        if self.facts["norm_pix_loss"]:
            mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True)
            x = (x - mean) / (variance + 1e-6).sqrt()
        return x

    def forward(self, x, ids_keep, ids_restore):
        def pick(tokens, ids):
            return torch.gather(tokens, 1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))

        patches, keep = ids_restore.shape[1], ids_keep.shape[1]
        removed = (ids_restore >= keep).float()
        tokens = self.patch_embed(x)
        if self.masks_in_encoder:
            tokens = torch.where(removed[:, :, None] > 0, self.encoder_mask_token, tokens) + self.pos_embed[:, 1:]
        else:
            tokens = pick(tokens + self.pos_embed[:, 1:], ids_keep)
        start = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens = torch.cat([start, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.decoder_embed(self.norm(tokens))

        if not self.masks_in_encoder:
            masks = self.mask_token.expand(len(x), patches - keep, -1)
            full = pick(torch.cat([tokens[:, 1:], masks], dim=1), ids_restore)
            tokens = torch.cat([tokens[:, :1], full], dim=1)
        tokens = tokens + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        prediction = self.decoder_pred(self.decoder_norm(tokens))[:, 1:]

        error = (prediction - self.target(x)).square().mean(dim=-1)
        return (error * removed).sum() / removed.sum(), prediction


def fill(model, seed):
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    values = golden.random_weights(seed, {n: p.shape for n, p in trainable.items()})
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(torch.from_numpy(values[name]))
    return list(trainable.items())


def made_by():
    return {"timm": timm.__version__, "torch": torch.__version__}


def export_mae(path, seed, batch, mask_ratio, facts):
    mean, std = golden.statistics(facts["channels"])
    facts = facts | {"norm_eps": NORM_EPS, "mean": mean, "std": std}
    model = Mae(facts).train()
    trainable = fill(model, seed)
    weights = {f"weights.{n}": golden.array(p).copy() for n, p in model.named_parameters()}

    patches = model.grid[0] * model.grid[1]
    noise = golden.mask_noise(seed + 1, batch, patches)
    ids_keep, ids_restore = golden.mask_ids(noise, golden.keep_count(patches, mask_ratio))
    pixels = golden.images(seed + 2, batch, *facts["image_size"], facts["channels"])
    x = golden.normalise(pixels, mean, std)

    loss, prediction = model(x, ids_keep, ids_restore)
    loss.backward()
    tensors = weights | {f"grads.{n}": golden.array(p.grad).copy() for n, p in trainable}
    tensors |= {
        "pixels": pixels,
        "ids_keep": golden.array(ids_keep).astype(np.uint32),
        "ids_restore": golden.array(ids_restore).astype(np.uint32),
        "loss": golden.array(loss).reshape(1),
        "prediction": golden.array(prediction),
        "adamw.losses": golden.adamw_losses(trainable, lambda: model(x, ids_keep, ids_restore)[0]),
    }
    after = dict(trainable)
    mask_token = "encoder_mask_token" if model.masks_in_encoder else "mask_token"
    for name in ["cls_token", mask_token, "norm.weight", "decoder_pred.weight"]:
        tensors[f"adamw.after.{name}"] = golden.array(after[name])
    shapes = {n: p.shape for n, p in trainable}
    document = {"model": facts, "mask_ratio": mask_ratio, "adamw": golden.adamw_facts(shapes), "made_by": made_by()}
    golden.save(path, tensors, document)


def export_vit(path, pool):
    facts = {
        "image_size": [8, 12],
        "patch_size": 4,
        "channels": 3,
        "dim": 16,
        "depth": 2,
        "heads": 2,
        "mlp_ratio": 4.0,
        "norm_eps": NORM_EPS,
        "classes": 7,
        "pool": pool,
    }
    model = VisionTransformer(
        img_size=tuple(facts["image_size"]),
        patch_size=facts["patch_size"],
        in_chans=facts["channels"],
        num_classes=facts["classes"],
        global_pool=pool,
        embed_dim=facts["dim"],
        depth=facts["depth"],
        num_heads=facts["heads"],
        mlp_ratio=facts["mlp_ratio"],
        qkv_bias=True,
        class_token=True,
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
    ).train()
    trainable = fill(model, 30)
    assert all(p.requires_grad for p in model.parameters())
    assert ("fc_norm.weight" in dict(trainable)) == (pool == "avg")

    mean, std = golden.statistics(facts["channels"])
    pixels = golden.images(31, 4, *facts["image_size"], facts["channels"])
    labels = np.array([0, 6, 3, 3], dtype=np.uint32)
    logits = model(golden.normalise(pixels, mean, std))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels.astype(np.int64)))
    loss.backward()
    tensors = {f"weights.{n}": golden.array(p) for n, p in trainable}
    tensors |= {f"grads.{n}": golden.array(p.grad) for n, p in trainable}
    tensors |= {
        "pixels": pixels,
        "labels": labels,
        "logits": golden.array(logits),
        "loss": golden.array(loss).reshape(1),
    }
    golden.save(path, tensors, {"model": facts | {"mean": mean, "std": std}, "made_by": made_by()})


def position_embeddings():
    """Grids small enough to list in full, and single values of the base model's; float64, [1 + L, D] row by row."""
    grids = []
    for dim, rows, columns in [(8, 2, 3), (24, 4, 4), (16, 3, 1)]:
        values = golden.sin_cos_2d(dim, rows, columns)[0]
        grids.append({"dim": dim, "rows": rows, "columns": columns, "values": values.reshape(-1).tolist()})
    base = golden.sin_cos_2d(768, 14, 14)[0]
    places = [(0, 5), (1, 0), (1, 192), (2, 0), (2, 191), (15, 384), (15, 600), (100, 17), (100, 250), (196, 0), (196, 767)]
    probes = [{"token": t, "channel": c, "value": float(base[t, c])} for t, c in places]
    return {"grids": grids, "base": {"dim": 768, "rows": 14, "columns": 14, "probes": probes}}


def keep_counts():
    """`int(L * (1 - ratio))` in float64, with the ratios at which rounding shows."""
    cases = [(p, r) for p in (6, 10, 16, 49, 64, 100, 196, 256) for r in (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)]
    return [{"patches": p, "mask_ratio": r, "keep": golden.keep_count(p, r)} for p, r in cases]


def initial_weights(seeds=16):
    """What each parameter is drawn from, by formula, and the standard deviation measured over several seeds."""
    facts = {
        "image_size": [16, 24],
        "patch_size": 4,
        "channels": 3,
        "dim": 48,
        "depth": 1,
        "heads": 4,
        "mlp_ratio": 4.0,
        "norm_eps": NORM_EPS,
        "decoder_dim": 32,
        "decoder_depth": 1,
        "decoder_heads": 4,
        "norm_pix_loss": True,
        "mean": golden.MEAN[:3],
        "std": golden.STD[:3],
    }
    drawn = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = Mae(facts)
        model.initialise()
        drawn.append({n: golden.array(p).copy() for n, p in model.named_parameters() if p.requires_grad})
    table = {}
    for name, first in drawn[0].items():
        values = np.stack([d[name] for d in drawn]).astype(np.float64)
        if name.endswith("token"):
            entry = {"kind": "normal", "std": 0.02}
        elif name == "patch_embed.proj.bias":
            entry = {"kind": "uniform", "bound": 1 / math.sqrt(facts["patch_size"] ** 2 * facts["channels"])}
        elif name.endswith("bias"):
            entry = {"kind": "constant", "value": 0.0}
        elif "norm" in name:
            entry = {"kind": "constant", "value": 1.0}
        else:
            entry = {"kind": "uniform", "bound": math.sqrt(6 / (first.shape[0] + math.prod(first.shape[1:])))}
        if entry["kind"] == "constant":
            assert (values == entry["value"]).all(), name
        else:
            expected = entry.get("std") or entry["bound"] / math.sqrt(3)
            assert abs(values.std() / expected - 1) < 5 / math.sqrt(2 * values.size), name
            assert abs(values).max() <= entry.get("bound", 1) * (1 + 1e-6), name
            entry["measured_std"] = float(values.std())
        table[name] = {"shape": list(first.shape)} | entry
    return {"model": facts, "parameters": table}


def export_formulas(path):
    document = {
        "position_embeddings": position_embeddings(),
        "keep_counts": keep_counts(),
        "initial_weights": initial_weights(),
        "made_by": made_by(),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{path} {path.stat().st_size} bytes")


if __name__ == "__main__":
    golden.one_thread()
    set_fused_attn(False)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "golden"
    wide = {
        "image_size": [16, 24],
        "patch_size": 4,
        "channels": 4,
        "dim": 16,
        "depth": 2,
        "heads": 2,
        "mlp_ratio": 4.0,
        "decoder_dim": 24,
        "decoder_depth": 1,
        "decoder_heads": 3,
    }
    gray = {
        "image_size": [12, 6],
        "patch_size": 2,
        "channels": 1,
        "dim": 12,
        "depth": 1,
        "heads": 3,
        "mlp_ratio": 2.0,
        "decoder_dim": 8,
        "decoder_depth": 2,
        "decoder_heads": 1,
    }
    export_mae(folder / "timm_wide_norm.safetensors", 10, 2, 0.75, wide | {"norm_pix_loss": True})
    export_mae(folder / "timm_wide_plain.safetensors", 10, 2, 0.75, wide | {"norm_pix_loss": False})
    export_mae(folder / "timm_gray_norm.safetensors", 20, 3, 0.6, gray | {"norm_pix_loss": True})
    masked = gray | {"norm_pix_loss": True, "encoder_mask_tokens": True}
    export_mae(folder / "timm_encoder_mask_tokens.safetensors", 40, 3, 0.6, masked)
    export_vit(folder / "vit_token.safetensors", "token")
    export_vit(folder / "vit_avg.safetensors", "avg")
    export_formulas(folder / "formulas.json")
