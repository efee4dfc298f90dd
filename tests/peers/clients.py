"""Weights that travel: checkpoints made by timm, transformers and plain torch give the same here as there, and ours there.

    cargo build --release --bin mae && cargo build --release -p mae-trainer --example encode
    python tests/peers/clients.py target/release/mae target/release/examples/encode [--json differences.json]

Every case makes a small model with random weights in its own program, saves it as that program does, has `encode` load the file
and run it on the same images, and compares tokens, features, logits, loss and prediction: the largest difference over the largest
value, at most 1e-4. Then a run of ours is exported to each program, loaded there strictly, and compared the same way; and
weights that go from format to format come back to the bit.

The Python that runs this needs the packages below; without them they are installed into a virtual environment in --venv (torch
from PyPI brings CUDA along: about 6 GB). Nothing is downloaded besides.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PACKAGES = ["torch==2.15.0", "timm==1.0.31", "transformers==5.24.0", "numpy==2.4.6", "safetensors==0.8.0", "pillow==13.0.0"]
SAME = 1e-4
HERE = Path(__file__).resolve().parent

try:
    import numpy as np
    import timm
    import torch
    import transformers
    from PIL import Image
    from safetensors.numpy import load_file, save_file
    from safetensors.torch import load_file as load_torch_file
    from torch import nn

    sys.path.insert(0, str(HERE.parent / "reference"))
    import golden
    from plain_vit import Vit, fill
except ImportError:
    torch = None


class Failed(Exception):
    pass


def command(arguments) -> str:
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(str(a) for a in arguments)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def images(batch, height, width, channels=3, seed=7):
    return golden.images(seed, batch, height, width, channels)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def floats(pixels, statistics=IMAGENET):
    return golden.normalise(pixels, *statistics)


class Bench:
    """Compares `encode` with what other programs give, and keeps the differences."""

    def __init__(self, mae, encode, scratch):
        self.mae, self.encode, self.scratch = mae, encode, scratch
        self.rows = []

    def folder(self, name):
        folder = self.scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def ours(self, checkpoint, pixels, options=None, logits=False, keep=None, restore=None):
        """What our model makes of the images."""
        with tempfile.TemporaryDirectory() as case:
            case = Path(case)
            description = {"checkpoint": str(checkpoint), "options": options or {}, "logits": logits, "keep": keep}
            (case / "case.json").write_text(json.dumps(description))
            inputs = {"pixels": pixels}
            if keep is not None:
                inputs["ids_restore"] = restore.astype(np.uint32)
            save_file(inputs, case / "inputs.safetensors")
            command([self.encode, case])
            return load_file(case / "outputs.safetensors")

    def compare(self, name, found, expected):
        for what, theirs in expected.items():
            theirs = theirs.detach().double().numpy() if isinstance(theirs, torch.Tensor) else theirs
            if found[what].shape != theirs.shape:
                raise Failed(f"{name}: {what} has the shape {found[what].shape} here and {theirs.shape} there")
            difference = float(abs(found[what] - theirs).max() / abs(theirs).max())
            self.rows.append({"case": name, "what": what, "difference": difference})
            if not difference <= SAME:
                raise Failed(f"{name}: {what} differs by {difference:.1e}")

    def check(self, name, checkpoint, pixels, expected, **case):
        with torch.no_grad():
            found = self.ours(checkpoint, pixels, logits="logits" in expected, **case)
        self.compare(name, found, expected)

    def export(self, checkpoint, client, *flags):
        target = self.scratch / f"{Path(checkpoint).name}-{client}-{len(list(self.scratch.iterdir()))}"
        command([self.mae, "export", checkpoint, "--to", client, target, *flags])
        return target

    def exact(self, name, found, expected):
        """Two dictionaries of tensors, to the bit."""
        if set(found) != set(expected):
            raise Failed(f"{name}: the names differ: {sorted(set(found) ^ set(expected))[:6]}")
        for key in expected:
            if found[key].tobytes() != expected[key].tobytes():
                raise Failed(f"{name}: {key} is not the same to the bit")
        self.rows.append({"case": name, "what": f"{len(expected)} tensors", "difference": 0.0})


def tensors(path):
    """A reference file's model as numpy arrays."""
    model = torch.load(path, map_location="cpu", weights_only=True)["model"]
    return {name: tensor.numpy() for name, tensor in model.items()}


def masks(batch, patches, seed=11):
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(patches) for _ in range(batch)])


# The reference code's files, and torch's many ways to store a tensor.


def reference(bench):
    folder, pixels = bench.folder("reference"), images(3, 16, 16)
    x, restore = floats(pixels), masks(3, 16)
    model = fill(Vit(decoder=(16, 2, 2)))
    heads = {"heads": 3, "decoder_heads": 2}
    both = {
        norm_pix: model.outputs(x) | model.reconstruct(x, torch.from_numpy(restore), 4, norm_pix) for norm_pix in (True, False)
    }
    arguments = argparse.Namespace(model="mae_vit_base_patch16", norm_pix_loss=True, mask_ratio=0.75, lr=1e-3, seen=[1], none=None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "args": arguments}
    torch.save(whole, folder / "full.pth")
    bench.check("reference, full, with args", folder / "full.pth", pixels, both[True], options=heads, keep=4, restore=restore)
    torch.save({"model": model.state_dict()}, folder / "visualize.pth")
    for norm_pix in (True, False):
        options = heads | {"norm_pix_loss": norm_pix}
        name = f"reference, full, norm_pix_loss {norm_pix}"
        bench.check(name, folder / "visualize.pth", pixels, both[norm_pix], options=options, keep=4, restore=restore)

    encoder = {k: v for k, v in model.state_dict().items() if "decoder" not in k and k != "mask_token"}
    expected = model.outputs(x)
    save = torch.save
    save({"model": encoder}, folder / "encoder.pth")
    save(encoder, folder / "bare.pth")
    save({"state_dict": {f"module.{k}": v for k, v in encoder.items()}}, folder / "parallel.pth.tar")
    save({"model": encoder}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save({"model": encoder}, folder / "protocol4.pth", pickle_protocol=4)
    save({"model": {k: nn.Parameter(v) for k, v in encoder.items()}}, folder / "parameters.pth")
    save({"model": {k: v.double() for k, v in encoder.items()}, "count": torch.arange(3)}, folder / "double.pth")
    # Every tensor a view of one storage; matrices stored transposed.
    flat = torch.cat([v.flatten() for v in encoder.values()])
    shared, at = {}, 0
    for name, tensor in encoder.items():
        shared[name] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    save({"model": shared}, folder / "shared.pth")
    strided = {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in encoder.items()}
    save({"model": strided}, folder / "strided.pth")
    for file in "encoder bare parallel legacy protocol4 parameters double shared strided".split():
        path = next(folder.glob(f"{file}.pth*"))
        bench.check(f"torch file, {file}", path, pixels, expected, options={"heads": 3})
    for dtype in (torch.float16, torch.bfloat16):
        rounded = {k: v.to(dtype) for k, v in encoder.items()}
        save({"model": rounded}, folder / "low.pth")
        low = Vit().eval()
        low.load_state_dict({k: v.float() for k, v in rounded.items()})
        bench.check(f"torch file, {dtype}", folder / "low.pth", pixels, low.outputs(x), options={"heads": 3})

    for pooled in (False, True):
        tuned = fill(Vit(classes=7, pooled=pooled), 3)
        save({"model": tuned.state_dict(), "args": argparse.Namespace(global_pool=pooled)}, folder / "tuned.pth")
        name = f"reference, fine-tuned, {'fc_norm' if pooled else 'norm'}"
        bench.check(name, folder / "tuned.pth", pixels, tuned.outputs(x), options={"heads": 3})


def other_methods(bench):
    """MoCo v3 and DINO keep two encoders in a file."""
    folder, pixels = bench.folder("methods"), images(2, 16, 16)
    x = floats(pixels)
    one, other = fill(Vit(), 1), fill(Vit(), 2)
    prefixed = lambda model, prefix: {f"{prefix}{k}": v for k, v in model.state_dict().items()}  # noqa: E731
    head = {"head.mlp.0.weight": torch.zeros(5, 24), "head.last_layer.weight_v": torch.zeros(3, 5)}
    dino = {
        "student": prefixed(other, "module.backbone.") | {f"module.{k}": v for k, v in head.items()},
        "teacher": prefixed(one, "backbone.") | head,
        "args": argparse.Namespace(arch="vit_small"),
    }
    torch.save(dino, folder / "dino.pth")
    bench.check("DINO, teacher", folder / "dino.pth", pixels, one.outputs(x), options={"heads": 3})
    bench.check("DINO, student", folder / "dino.pth", pixels, other.outputs(x), options={"heads": 3, "key": "student"})
    torch.save(one.state_dict(), folder / "dino_pretrain.pth")
    bench.check("DINO, released backbone", folder / "dino_pretrain.pth", pixels, one.outputs(x), options={"heads": 3})
    moco = prefixed(one, "module.base_encoder.") | prefixed(other, "module.momentum_encoder.")
    moco |= {"module.base_encoder.head.0.weight": torch.zeros(4, 24), "module.predictor.0.weight": torch.zeros(4, 4)}
    torch.save({"epoch": 300, "arch": "vit_base", "state_dict": moco}, folder / "moco.pth.tar")
    bench.check("MoCo v3", folder / "moco.pth.tar", pixels, one.outputs(x), options={"heads": 3})
    # Its ViT-S has 12 heads.
    small = fill(Vit(dim=384, depth=1, heads=12, hidden=1536), 4)
    torch.save({"state_dict": prefixed(small, "module.base_encoder.")}, folder / "small.pth.tar")
    bench.check("MoCo v3, ViT-S without --heads", folder / "small.pth.tar", pixels, small.outputs(x))


# timm.

SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}


def timm_outputs(model, x):
    tokens = model.forward_features(x)
    found = {"tokens": tokens, "token": model.fc_norm(tokens[:, 0]), "mean": model.fc_norm(tokens[:, 1:].mean(1))}
    return found | ({"logits": model(x)} if model.num_classes else {})


def save_timm(model, folder):
    """As timm pushes a model to its hub."""
    from timm.models._hub import save_for_hf

    save_for_hf(model, folder, safe_serialization=True)


def from_timm(bench):
    variants = {
        "token": {"num_classes": 7},
        "average": {"num_classes": 7, "global_pool": "avg"},
        "no classes": {"num_classes": 0},
        "wide": {"img_size": (8, 12), "num_classes": 3},
        "layer scale": {"init_values": 0.1, "num_classes": 0},
        "no class position": {"no_embed_class": True, "num_classes": 0},
        "no qkv bias": {"qkv_bias": False, "num_classes": 0},
    }
    for name, arguments in variants.items():
        folder = bench.folder(f"timm-{name.replace(' ', '-')}")
        arguments = {"img_size": 16} | SMALL | arguments
        model = fill(timm.create_model("vit_tiny_patch16_224", **arguments), 5)
        height, width = model.patch_embed.img_size
        pixels = images(2, height, width)
        save_timm(model, folder)
        statistics = (model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
        expected = timm_outputs(model, floats(pixels, statistics))
        options = {"heads": 3}
        bench.check(f"timm folder, {name}", folder, pixels, expected, options=options)
        torch.save(model.state_dict(), folder / "alone.pth")
        options |= {"mean": statistics[0], "std": statistics[1], "image_size": [height, width]}
        shutil.copy(folder / "alone.pth", bench.folder("timm-alone") / "alone.pth")
        bench.check(f"timm state dict, {name}", bench.folder("timm-alone") / "alone.pth", pixels, expected, options=options)

    # Another image size: position embeddings interpolated by timm.
    folder = bench.folder("timm-sizes")
    model = fill(timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, **SMALL), 6)
    torch.save({"model": model.state_dict()}, folder / "32.pth")
    for size in [(48, 48), (16, 16), (20, 44), (8, 36)]:
        other = timm.create_model("vit_tiny_patch16_224", img_size=size, num_classes=0, **SMALL).eval()
        other.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), other))
        pixels = images(2, *size)
        expected = timm_outputs(other, floats(pixels))
        options = {"heads": 3, "image_size": size}
        bench.check(f"timm, 32 -> {size[0]}x{size[1]}", folder / "32.pth", pixels, expected, options=options)

    # A published size, whose heads are known.
    base = fill(timm.create_model("vit_base_patch16_224", num_classes=10), 8)
    folder, pixels = bench.folder("timm-base"), images(2, 224, 224)
    torch.save({"arch": "vit_base_patch16_224", "state_dict": base.state_dict()}, folder / "base.pth.tar")
    bench.check("timm, ViT-B/16 without --heads", folder / "base.pth.tar", pixels, timm_outputs(base, floats(pixels)))


def from_timm_beit(bench):
    variants = {
        "absolute positions": {"use_abs_pos_emb": True, "init_values": 0.1},
        "table a block": {"use_rel_pos_bias": True, "init_values": 0.1},
        "shared table": {"use_shared_rel_pos_bias": True, "global_pool": "token"},
    }
    for name, arguments in variants.items():
        folder, pixels = bench.folder(f"beit-{name.replace(' ', '-')}"), images(2, 16, 16)
        arguments = {"use_abs_pos_emb": False} | arguments
        model = fill(timm.models.beit.Beit(img_size=16, num_classes=5, num_heads=3, **arguments, **{k: v for k, v in SMALL.items() if k != "num_heads"}), 9)
        torch.save({"model": model.state_dict()}, folder / "beit.pth")
        expected = timm_outputs(model, floats(pixels, HALF))
        bench.check(f"timm BEiT, {name}", folder / "beit.pth", pixels, expected, options={"heads": 3})


# transformers.

HF = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}
HF_DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}


def hf_tokens(tokens):
    return {"tokens": tokens, "token": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}


def hf_mae_outputs(model, x, restore, keep):
    """Loss and prediction, and the encoder's tokens with every patch visible and in order."""
    # transformers shuffles by sorting this noise.
    output = model(x, noise=torch.from_numpy(restore).float())
    ratio, model.config.mask_ratio = model.config.mask_ratio, 0.0
    order = torch.arange(restore.shape[1]).float().expand(len(x), -1)
    tokens = model.vit(x, noise=order).last_hidden_state
    model.config.mask_ratio = ratio
    return hf_tokens(tokens) | {"loss": output.loss.reshape(1), "prediction": output.logits}


def from_transformers(bench):
    from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel, ViTModel

    pixels, restore = images(3, 16, 16), masks(3, 16)
    x = floats(pixels)
    for norm_pix in (True, False):
        config = ViTMAEConfig(**HF, **HF_DECODER, norm_pix_loss=norm_pix, layer_norm_eps=1e-6 if norm_pix else 1e-12)
        model = fill(ViTMAEForPreTraining(config), 10)
        expected = hf_mae_outputs(model, x, restore, 4)
        folder = bench.folder(f"vitmae-{norm_pix}")
        model.save_pretrained(folder)
        case = {"keep": 4, "restore": restore}
        bench.check(f"ViTMAE, save_pretrained, norm_pix_loss {norm_pix}", folder, pixels, expected, **case)

    def variant(name, state):
        folder_of = bench.folder(f"vitmae-{name}")
        shutil.copy(folder / "config.json", folder_of)
        torch.save(state, folder_of / "pytorch_model.bin")
        bench.check(f"ViTMAE, {name} names", folder_of, pixels, expected, keep=4, restore=restore)

    written = load_torch_file(folder / "model.safetensors")
    # What the hub's files of 2022 hold (facebook/vit-mae-base).
    variant("hub", {k.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."): v for k, v in written.items()})
    variant("present", model.state_dict())

    encoder = fill(ViTMAEModel(ViTMAEConfig(**HF)), 11)
    encoder.config.mask_ratio = 0.0
    folder = bench.folder("vitmae-encoder")
    encoder.save_pretrained(folder)
    order = torch.arange(16).float().expand(3, -1)
    bench.check("ViTMAE, encoder only", folder, pixels, hf_tokens(encoder(x, noise=order).last_hidden_state))

    plain = fill(ViTModel(ViTConfig(**HF)), 12)
    folder = bench.folder("vit")
    plain.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": HALF[0], "image_std": HALF[1]}))
    bench.check("ViTModel", folder, pixels, hf_tokens(plain(floats(pixels, HALF)).last_hidden_state))
    save_file({k: v.numpy() for k, v in plain.state_dict().items()}, folder / "alone.safetensors")
    alone = bench.folder("vit-alone") / "alone.safetensors"
    shutil.copy(folder / "alone.safetensors", alone)
    options = {"heads": 3, "mean": HALF[0], "std": HALF[1]}
    bench.check("ViTModel, present names", alone, pixels, hf_tokens(plain(floats(pixels, HALF)).last_hidden_state), options=options)

    classifier = fill(ViTForImageClassification(ViTConfig(**HF, num_labels=6)), 13)
    folder = bench.folder("vit-classifier")
    classifier.save_pretrained(folder)
    expected = hf_tokens(classifier.vit(x).last_hidden_state) | {"logits": classifier(x).logits}
    bench.check("ViTForImageClassification", folder, pixels, expected)
    bare = fill(ViTModel(ViTConfig(**HF, qkv_bias=False)), 14)
    folder = bench.folder("vit-bare")
    bare.save_pretrained(folder)
    bench.check("ViTModel without qkv bias", folder, pixels, hf_tokens(bare(x).last_hidden_state))


def from_transformers_beit(bench):
    from transformers import BeitConfig, BeitForImageClassification

    pixels = images(2, 16, 16)
    x = floats(pixels, HALF)
    for table in (True, False):
        config = BeitConfig(**HF, num_labels=5, use_relative_position_bias=table, use_absolute_position_embeddings=not table)
        model = fill(BeitForImageClassification(config), 15)
        folder = bench.folder(f"hf-beit-{table}")
        model.save_pretrained(folder)
        output = model.beit(x)
        expected = {"tokens": output.last_hidden_state, "mean": output.pooler_output, "logits": model(x).logits}
        bench.check(f"BeitForImageClassification, {'table' if table else 'absolute positions'}", folder, pixels, expected)


# Ours there.


def train(bench, name, size):
    """A short run of ours, so that its weights are those of training."""
    photos = bench.folder("photos/a")
    for i, pixels in enumerate(images(12, 24, 24)):
        Image.fromarray(pixels).save(photos / f"{i}.png")
    data, run = bench.scratch / "data", bench.scratch / name
    if not data.exists():
        command([bench.mae, "shard", photos.parent, data])
    flags = "--model mae-micro-patch4 --dim 24 --depth 2 --heads 2 --decoder-dim 16 --decoder-depth 2 --decoder-heads 4"
    flags += " --batch-size 4 --epochs 3 --warmup-epochs 1 --lr 0.01 --norm-pix-loss --mask-ratio 0.6"
    command([bench.mae, "pretrain", "--data", data, "--output-dir", run, "--input-size", size, *flags.split()])
    return run


def newest(run):
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def strictly(model, state):
    result = model.load_state_dict(state, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    return model.eval()


def exports(bench):
    run = train(bench, "run", "16")
    pixels, restore, keep = images(3, 16, 16), masks(3, 16), 6
    x, order = floats(pixels), torch.from_numpy(restore)
    ours = bench.ours(run, pixels, keep=keep, restore=restore)
    saved = load_file(newest(run) / "model.safetensors")

    written = bench.export(run, "reference")
    bench.exact("our run -> reference, to the bit", tensors(written / "model.pth"), saved)
    torch.load(written / "model.pth", mmap=True, weights_only=True)
    model = Vit(heads=2, decoder=(16, 2, 4))
    strictly(model, torch.load(written / "model.pth", map_location="cpu")["model"])
    bench.compare("our run in plain torch", ours, model.outputs(x) | model.reconstruct(x, order, keep, True))

    written = bench.export(run, "timm")
    model = timm.create_model(f"local-dir:{written}", pretrained=True).eval()
    strictly(model, load_torch_file(written / "model.safetensors"))
    assert tuple(model.pretrained_cfg["mean"]) == IMAGENET[0], model.pretrained_cfg
    bench.compare("our run in timm", ours, timm_outputs(model, x))
    bench.check("our run -> timm -> here", written, pixels, {k: ours[k] for k in ("tokens", "token", "mean")})

    written = bench.export(run, "huggingface")
    model, about = transformers.ViTMAEForPreTraining.from_pretrained(written, output_loading_info=True)
    if any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise Failed(f"transformers does not take the export: {about}")
    assert model.config.layer_norm_eps == 1e-6 and abs(model.config.mask_ratio - 0.6) < 1e-9, model.config
    processor = transformers.AutoImageProcessor.from_pretrained(written)
    batch = processor([Image.fromarray(each) for each in pixels], return_tensors="pt")["pixel_values"]
    bench.compare("our run in transformers", ours, hf_mae_outputs(model.eval(), batch, restore, keep))
    case = {"keep": keep, "restore": restore}
    bench.check("our run -> transformers -> here", written, pixels, ours, **case)
    # Written by transformers again, and taken back.
    again = bench.folder("hf-again")
    model.save_pretrained(again)
    back = bench.export(again, "reference")
    bench.exact("our run -> transformers -> save_pretrained -> reference, to the bit", tensors(back / "model.pth"), saved)
    back = bench.export(bench.export(bench.export(run, "reference") / "model.pth", "huggingface"), "reference")
    bench.exact("our run -> reference -> transformers -> reference, to the bit", tensors(back / "model.pth"), saved)

    wide = train(bench, "wide", "8x12")
    pixels = images(2, 8, 12)
    ours = bench.ours(wide, pixels)
    written = bench.export(wide, "timm")
    model = timm.create_model(f"local-dir:{written}", pretrained=True).eval()
    bench.compare("our run at 8x12 in timm", ours, timm_outputs(model, floats(pixels)))
    encoder = {k: v for k, v in load_file(newest(wide) / "model.safetensors").items() if "decoder" not in k and k != "mask_token"}
    back = bench.export(written, "reference")
    bench.exact("our run at 8x12 -> timm -> reference, to the bit", tensors(back / "model.pth"), encoder)


def conversions(bench):
    """Other programs' weights from one to the other."""
    folder, pixels = bench.folder("conversions"), images(2, 16, 16)
    x = floats(pixels)
    plain = fill(transformers.ViTModel(transformers.ViTConfig(**HF, layer_norm_eps=1e-6)), 20)
    plain.save_pretrained(folder / "vit")
    model = timm.create_model(f"local-dir:{bench.export(folder / 'vit', 'timm')}", pretrained=True).eval()
    tokens = plain(x).last_hidden_state
    bench.compare("transformers -> timm", {"tokens": model.forward_features(x).detach().numpy()}, {"tokens": tokens})

    tuned = fill(timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=7, global_pool="avg", **SMALL), 21)
    torch.save({"model": tuned.state_dict()}, folder / "tuned.pth")
    written = bench.export(folder / "tuned.pth", "timm", "--heads", 3, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    model = timm.create_model(f"local-dir:{written}", pretrained=True).eval()
    assert tuple(model.pretrained_cfg["mean"]) == HALF[0] and model.num_classes == 7
    bench.exact("timm -> timm, to the bit", load_file(written / "model.safetensors"), {k: v.numpy() for k, v in tuned.state_dict().items()})
    bench.compare("timm, fine-tuned -> timm", {"logits": model(x).detach().numpy()}, {"logits": tuned(x)})

    classifier = fill(timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=7, **SMALL), 22)
    torch.save({"model": classifier.state_dict()}, folder / "classifier.pth")
    written = bench.export(folder / "classifier.pth", "huggingface", "--heads", 3)
    model, about = transformers.ViTForImageClassification.from_pretrained(written, output_loading_info=True)
    if any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise Failed(f"transformers does not take the export: {about}")
    bench.compare("timm, fine-tuned -> transformers", {"logits": model.eval()(x).logits.detach().numpy()}, {"logits": classifier(x)})

    encoder = fill(Vit(), 23)
    torch.save({"model": encoder.state_dict()}, folder / "encoder.pth")
    written = bench.export(folder / "encoder.pth", "huggingface", "--heads", 3)
    model, about = transformers.ViTModel.from_pretrained(written, add_pooling_layer=False, output_loading_info=True)
    if any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise Failed(f"transformers does not take the export: {about}")
    bench.compare("reference -> transformers", {"tokens": model.eval()(x).last_hidden_state.detach().numpy()}, {"tokens": encoder.encode(x)})


CASES = [
    reference,
    other_methods,
    from_timm,
    from_timm_beit,
    from_transformers,
    from_transformers_beit,
    exports,
    conversions,
]


def install(folder: Path) -> Path:
    python = folder / "clients" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "clients", with_pip=True)
    command([python, "-m", "pip", "install", "--quiet", *PACKAGES])
    return python


def main() -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae-peers"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mae", type=Path)
    parser.add_argument("encode", type=Path)
    parser.add_argument("--json", type=Path, help="write every difference")
    parser.add_argument("--only", nargs="*", choices=[case.__name__ for case in CASES], help="some of the cases")
    parser.add_argument("--venv", type=Path, default=cache)
    arguments = parser.parse_args()
    if torch is None:
        python = install(arguments.venv)
        sys.exit(subprocess.run([python, *sys.argv]).returncode)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments.mae.resolve(), arguments.encode.resolve(), Path(scratch))
        try:
            for case in CASES:
                if not arguments.only or case.__name__ in arguments.only:
                    case(bench)
        except Failed as failure:
            sys.exit(f"failed: {failure}")
        finally:
            for row in bench.rows:
                print(f"{row['difference']:9.1e}  {row['what']:12}  {row['case']}")
            if arguments.json:
                arguments.json.write_text(json.dumps(bench.rows, indent=1) + "\n")
    worst = max(row["difference"] for row in bench.rows)
    cases = len({row["case"] for row in bench.rows})
    print(f"{cases} cases, {len(bench.rows)} comparisons, the largest relative difference {worst:.1e} (at most {SAME:.0e})")


if __name__ == "__main__":
    main()
