"""Checkpoints as timm, transformers and torch write them, tiny, and what their models make of two images.

    python tests/reference/foreign.py [FOLDER]

writes into FOLDER, by default tests/reference/golden/foreign: the checkpoints; `cases.json`, which says of each where it is, what
has to be said of it besides, and what is expected; `expected.safetensors` with the images (`pixels` uint8 [2, 8, 8, 3],
`ids_restore`) and `CASE.tokens`, `.token`, `.mean`, `.logits`, `.loss`, `.prediction`; and `positions.safetensors`, position embeddings that
timm has interpolated. tests/tests/foreign.rs compares. tests/peers/clients.py does the same at run time, with more variants.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from timm.layers import resample_abs_pos_embed

import golden
from plain_vit import Vit, fill

SMALL = {"size": (8, 8), "patch": 4, "dim": 16, "depth": 1, "heads": 2, "hidden": 32}
TIMM = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}
HF = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
HF_DECODER = {
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}
KEEP = 1
PIXELS = golden.images(1, 2, 8, 8, 3)
RESTORE = np.array([[2, 0, 3, 1], [0, 3, 1, 2]])
IMAGENET = (golden.MEAN[:3], golden.STD[:3])
HALF = ([0.5] * 3, [0.5] * 3)


class Cases:
    def __init__(self, folder):
        self.folder = folder
        self.cases = []
        self.expected = {"pixels": PIXELS, "ids_restore": RESTORE.astype(np.uint32)}

    def add(self, name, path, outputs, **options):
        outputs = {what: golden.array(value) for what, value in outputs.items()}
        self.cases.append({"name": name, "path": path, "options": options, "outputs": sorted(outputs)})
        self.expected |= {f"{name}.{what}": value for what, value in outputs.items()}

    def made(self, name):
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return self.folder / name


def pooled(tokens):
    return {"tokens": tokens, "token": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}


def torch_files(cases):
    x, restore = golden.normalise(PIXELS, *IMAGENET), torch.from_numpy(RESTORE)
    model = fill(Vit(**SMALL, decoder=(8, 1, 2)), 1)
    arguments = argparse.Namespace(model="mae_vit_base_patch16", norm_pix_loss=True, mask_ratio=0.75, lr=1e-3, distributed=False)
    torch.save({"model": model.state_dict(), "epoch": 3, "args": arguments}, cases.folder / "full.pth")
    outputs = model.outputs(x) | model.reconstruct(x, restore, KEEP, True)
    cases.add("reference_full", "full.pth", outputs, heads=2, decoder_heads=2)

    encoder = fill(Vit(**SMALL), 2)
    torch.save({"model": encoder.state_dict()}, cases.folder / "legacy.pth", _use_new_zipfile_serialization=False)
    cases.add("torch_legacy", "legacy.pth", encoder.outputs(x), heads=2)

    # Half precision, matrices stored transposed, all in one storage; a head over classes behind mean pooling.
    tuned = fill(Vit(**SMALL, classes=3, pooled=True), 3)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.copy_(parameter.half().float())
    state = {name: value.half().t() if value.ndim == 2 else value.half() for name, value in tuned.state_dict().items()}
    flat = torch.cat([value.flatten() for value in state.values()])
    at = 0
    for name, value in state.items():
        view = flat[at : at + value.numel()].view(value.shape)
        at += value.numel()
        state[name] = view.t() if value.ndim == 2 else view
    torch.save({"model": state, "args": argparse.Namespace(global_pool=True)}, cases.folder / "tuned.pth")
    cases.add("reference_fine_tuned_half", "tuned.pth", tuned.outputs(x), heads=2)

    teacher, student = fill(Vit(**SMALL), 4), fill(Vit(**SMALL), 5)
    prefixed = lambda prefix, model: {f"{prefix}{name}": value for name, value in model.state_dict().items()}  # noqa: E731
    both = {
        "student": prefixed("module.backbone.", student) | {"module.head.mlp.0.weight": torch.zeros(2, 16)},
        "teacher": prefixed("backbone.", teacher) | {"head.mlp.0.weight": torch.zeros(2, 16)},
    }
    torch.save(both, cases.folder / "dino.pth")
    cases.add("dino_teacher", "dino.pth", teacher.outputs(x), heads=2)
    cases.add("dino_student", "dino.pth", student.outputs(x), heads=2, key="student")
    moco = prefixed("module.base_encoder.", teacher) | {"module.base_encoder.head.0.weight": torch.zeros(2, 16)}
    moco |= {"module.momentum_encoder.patch_embed.proj.weight": torch.zeros(16, 3, 4, 4)}
    torch.save({"state_dict": moco}, cases.folder / "moco.pth.tar")
    cases.add("moco_v3", "moco.pth.tar", teacher.outputs(x), heads=2)


def timm_outputs(model, x):
    tokens = model.forward_features(x)
    normed = {"token": model.fc_norm(tokens[:, 0]), "mean": model.fc_norm(tokens[:, 1:].mean(1))}
    return {"tokens": tokens} | normed | ({"logits": model(x)} if model.num_classes else {})


def of_timm(cases):
    from timm.models._hub import save_for_hf

    model = fill(timm.create_model("vit_tiny_patch16_224", num_classes=3, init_values=0.1, no_embed_class=True, **TIMM), 6)
    save_for_hf(model, cases.made("timm"), safe_serialization=True)
    x = golden.normalise(PIXELS, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    cases.add("timm_layer_scale", "timm", timm_outputs(model, x), heads=2)

    beit = fill(timm.models.beit.Beit(num_classes=3, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1, **TIMM), 7)
    torch.save({"model": beit.state_dict()}, cases.folder / "beit.pth")
    cases.add("beit", "beit.pth", timm_outputs(beit, golden.normalise(PIXELS, *HALF)), heads=2)


def of_transformers(cases):
    x = golden.normalise(PIXELS, *IMAGENET)
    config = transformers.ViTMAEConfig(**HF, **HF_DECODER, norm_pix_loss=True, layer_norm_eps=1e-6)
    model = fill(transformers.ViTMAEForPreTraining(config), 8)
    output = model(x, noise=torch.from_numpy(RESTORE).float())
    assert torch.equal(output.ids_restore, torch.from_numpy(RESTORE))
    model.config.mask_ratio = 0.0
    tokens = model.vit(x, noise=torch.arange(4).float().expand(2, -1)).last_hidden_state
    model.config.mask_ratio = 0.75
    outputs = pooled(tokens) | {"loss": output.loss.reshape(1), "prediction": output.logits}
    model.save_pretrained(cases.made("vitmae"))
    # The hub's name of the decoder's layers, which transformers 5.24 writes otherwise.
    written = load_torch(cases.folder / "vitmae/model.safetensors")
    hub = {name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."): value for name, value in written.items()}
    save_torch(hub, cases.folder / "vitmae/model.safetensors", metadata={"format": "pt"})
    cases.add("vitmae_hub", "vitmae", outputs)
    present = cases.made("vitmae_present")
    shutil.copy(cases.folder / "vitmae/config.json", present)
    torch.save(model.state_dict(), present / "pytorch_model.bin")
    cases.add("vitmae_present", "vitmae_present", outputs)

    model = fill(transformers.ViTForImageClassification(transformers.ViTConfig(**HF, num_labels=3)), 9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    folder = cases.made("vit")
    model.save_pretrained(folder)
    rounded = {name: value.bfloat16() for name, value in load_torch(folder / "model.safetensors").items()}
    save_torch(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": HALF[0], "image_std": HALF[1]}))
    x = golden.normalise(PIXELS, *HALF)
    outputs = pooled(model.vit(x).last_hidden_state) | {"logits": model(x).logits}
    cases.add("vit_bfloat16", "vit", outputs)


def positions(path):
    """`ROWSxCOLUMNS` of a grid of 3 x 5, interpolated."""
    values = np.random.Generator(np.random.PCG64(10)).standard_normal((1, 16, 4)).astype(np.float32)
    tensors = {"3x5": values}
    for grid in [(6, 10), (2, 2), (7, 4), (1, 9), (3, 4), (14, 14)]:
        other = resample_abs_pos_embed(torch.from_numpy(values), new_size=list(grid), old_size=[3, 5])
        tensors[f"{grid[0]}x{grid[1]}"] = golden.array(other)
    save_file(tensors, path)


if __name__ == "__main__":
    golden.one_thread()
    torch.set_grad_enabled(False)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "golden/foreign"
    folder.mkdir(parents=True, exist_ok=True)
    cases = Cases(folder)
    torch_files(cases)
    of_timm(cases)
    of_transformers(cases)
    positions(folder / "positions.safetensors")
    save_file(cases.expected, folder / "expected.safetensors")
    versions = {"timm": timm.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    document = {"keep": KEEP, "cases": cases.cases, "made_by": versions}
    (folder / "cases.json").write_text(json.dumps(document, indent=1) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {len(cases.cases)} cases, {size} bytes")
