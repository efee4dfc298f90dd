"""Golden numbers of a square masked autoencoder from Hugging Face transformers' ViTMAEForPreTraining.

    python tests/reference/mae_transformers.py [FOLDER]

writes transformers_norm.safetensors and transformers_plain.safetensors (with and without norm_pix) into FOLDER, by
default tests/reference/golden. See golden.py for what a file holds.

Two traps of transformers, both met here: its LayerNorm epsilon defaults to 1e-12 (the reference code's is 1e-6), and in
5.23 a model made from a configuration has zero position embeddings (`post_init` clears the decoder's, and takes the
encoder's for already loaded), so both are set explicitly.
"""

import re
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import ViTMAEConfig, ViTMAEForPreTraining

import golden

SIZE, PATCH, CHANNELS = 16, 4, 3
DIM, DEPTH, HEADS = 24, 2, 3
DECODER_DIM, DECODER_DEPTH, DECODER_HEADS = 16, 2, 2
BATCH, MASK_RATIO, NORM_EPS = 3, 0.75, 1e-6

LAYER = {
    "layernorm_before": "norm1",
    "attention.q_proj": "attn.q",
    "attention.k_proj": "attn.k",
    "attention.v_proj": "attn.v",
    "attention.o_proj": "attn.proj",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
OUTER = {
    "vit.embeddings.cls_token": "cls_token",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "vit.layernorm": "norm",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pred",
}


def reference_name(name):
    """The reference code's name; the thirds of its fused qkv come out as `attn.q`, `attn.k`, `attn.v`."""
    layer = re.fullmatch(r"(vit\.layers|decoder\.decoder_layers)\.(\d+)\.(.+)\.(weight|bias)", name)
    if layer:
        stack = "blocks" if layer[1] == "vit.layers" else "decoder_blocks"
        return f"{stack}.{layer[2]}.{LAYER[layer[3]]}.{layer[4]}"
    if name in OUTER:
        return OUTER[name]
    module, leaf = name.rsplit(".", 1)
    return f"{OUTER[module]}.{leaf}"


def fuse(tensors):
    """{name: array} with q, k and v of a layer concatenated into its qkv."""
    fused = {}
    for name, value in tensors.items():
        if ".attn.q." in name:
            parts = [tensors[name.replace(".attn.q.", f".attn.{part}.")] for part in "qkv"]
            fused[name.replace(".attn.q.", ".attn.qkv.")] = np.concatenate(parts)
        elif ".attn.k." not in name and ".attn.v." not in name:
            fused[name] = value
    return fused


def build(norm_pix):
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=SIZE,
            patch_size=PATCH,
            num_channels=CHANNELS,
            hidden_size=DIM,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=4 * DIM,
            decoder_hidden_size=DECODER_DIM,
            decoder_num_hidden_layers=DECODER_DEPTH,
            decoder_num_attention_heads=DECODER_HEADS,
            decoder_intermediate_size=4 * DECODER_DIM,
            hidden_act="gelu",
            qkv_bias=True,
            layer_norm_eps=NORM_EPS,
            mask_ratio=MASK_RATIO,
            norm_pix_loss=norm_pix,
            attn_implementation="eager",
        )
    )
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 2 * (DEPTH + DECODER_DEPTH) + 2 and all(m.eps == NORM_EPS for m in norms)

    grid = SIZE // PATCH
    model.decoder.initialize_weights(grid * grid)
    own = golden.array(model.decoder.decoder_pos_embed)
    assert np.abs(own - golden.sin_cos_2d(DECODER_DIM, grid, grid)).max() < 1e-6, "the embedding's layout changed"
    trainable = {reference_name(n): tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    values = golden.random_weights(1, trainable)
    values["pos_embed"] = golden.sin_cos_2d(DIM, grid, grid).astype(np.float32)
    values["decoder_pos_embed"] = golden.sin_cos_2d(DECODER_DIM, grid, grid).astype(np.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(values[reference_name(name)]))
    return model.train()


def check_patch_layout(model):
    """A target patch is (row, column, channel); the projection's weight is [D, C, P, P]."""
    x = torch.arange(CHANNELS * SIZE * SIZE, dtype=torch.float32).reshape(1, CHANNELS, SIZE, SIZE)
    patch = model.patchify(x)[0, SIZE // PATCH + 2]  # row 1, column 2 of the grid
    expected = x[0, :, PATCH : 2 * PATCH, 2 * PATCH : 3 * PATCH].permute(1, 2, 0).reshape(-1)
    assert torch.equal(patch, expected)
    assert model.vit.embeddings.patch_embeddings.projection.weight.shape == (DIM, CHANNELS, PATCH, PATCH)


def export(path, norm_pix):
    model = build(norm_pix)
    check_patch_layout(model)
    named = [(reference_name(n), p) for n, p in model.named_parameters()]
    trainable = [(n, p) for n, p in named if p.requires_grad]
    weights = fuse({n: golden.array(p).copy() for n, p in named})
    shapes = fuse({n: golden.array(p) for n, p in trainable})
    shapes = {n: v.shape for n, v in shapes.items()}

    patches = (SIZE // PATCH) ** 2
    keep = golden.keep_count(patches, MASK_RATIO)
    mean, std = golden.statistics(CHANNELS)
    pixels = golden.images(2, BATCH, SIZE, SIZE, CHANNELS)
    noise = golden.mask_noise(3, BATCH, patches)
    ids_keep, ids_restore = golden.mask_ids(noise, keep)
    x = golden.normalise(pixels, mean, std)

    def run():
        return model(x, noise=torch.from_numpy(noise))

    output = run()
    assert torch.equal(output.ids_restore, ids_restore)
    assert torch.equal(output.mask == 0, ids_restore < keep)
    output.loss.backward()
    tensors = {f"weights.{n}": v for n, v in weights.items()}
    tensors |= {f"grads.{n}": v for n, v in fuse({n: golden.array(p.grad).copy() for n, p in trainable}).items()}
    tensors |= {
        "pixels": pixels,
        "ids_keep": golden.array(ids_keep).astype(np.uint32),
        "ids_restore": golden.array(ids_restore).astype(np.uint32),
        "loss": golden.array(output.loss).reshape(1),
        "prediction": golden.array(output.logits),
        "adamw.losses": golden.adamw_losses(trainable, lambda: run().loss),
    }
    after = dict(named)
    for name in ["cls_token", "mask_token", "norm.weight", "decoder_pred.weight"]:
        tensors[f"adamw.after.{name}"] = golden.array(after[name])
    golden.save(
        path,
        tensors,
        {
            "model": {
                "image_size": [SIZE, SIZE],
                "patch_size": PATCH,
                "channels": CHANNELS,
                "dim": DIM,
                "depth": DEPTH,
                "heads": HEADS,
                "mlp_ratio": 4.0,
                "norm_eps": NORM_EPS,
                "decoder_dim": DECODER_DIM,
                "decoder_depth": DECODER_DEPTH,
                "decoder_heads": DECODER_HEADS,
                "norm_pix_loss": norm_pix,
                "mean": mean,
                "std": std,
            },
            "mask_ratio": MASK_RATIO,
            "adamw": golden.adamw_facts(shapes),
            "made_by": {"transformers": transformers.__version__, "torch": torch.__version__},
        },
    )


if __name__ == "__main__":
    golden.one_thread()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "golden"
    export(folder / "transformers_norm.safetensors", norm_pix=True)
    export(folder / "transformers_plain.safetensors", norm_pix=False)
