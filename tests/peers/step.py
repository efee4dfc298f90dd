"""A pre-training step beside PyTorch's: the same model, batch and threads, in turn, and a table with the ratios.

    cargo build --release --bin mae && cargo build --release -p mae-trainer --example replay
    python tests/peers/step.py target/release/mae target/release/examples/replay [--json figures.json]

PyTorch's side is transformers' ViTMAEForPreTraining with scaled-dot-product attention and fused AdamW, eager and compiled by
torch.compile, in float32 as ours. Nothing but Python 3.11 or newer is needed: torch and transformers are installed, at the
versions pinned below, into --venv (torch from PyPI brings CUDA along: about 8 GB); torch.compile wants a C++ compiler.

First each model is made by transformers, and its weights, a few batches and their masks are given to ours: the losses of
the first updates must agree. Then every round runs each program once, in a process of its own; a program times itself and
leaves out its first steps, compiling included. The table gives the median over the rounds of each run's median step.

Memory is the peak of resident memory less 16 bytes a parameter (weights, gradients, two moments); PyTorch's holds the
libraries too, so it is also given less what was there before the model was made.

    python tests/peers/step.py target/release/mae --device cuda [--json figures.json]

measures on an NVIDIA GPU, where mae is built with CUDA: bfloat16 by autocast, TF32 for what autocast leaves, fused AdamW, and a model
in plain PyTorch (torch_mae.py, which compares it with transformers'), eager and compiled. Where the Python that runs this has torch
with CUDA, nothing is installed. A model that does not fit is said not to, and the others go on.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

PACKAGES = ["torch==2.15.0", "transformers==5.23.0", "numpy==2.4.6", "safetensors==0.8.0"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# name -> image side, patch, width, depth, heads, decoder width, depth, heads; batch; steps, of them left out
MODELS = {
    "mae-base-patch16": ((224, 16, 768, 12, 12, 512, 8, 16), 8, 5, 2),
    "mae-tiny-patch4": ((32, 4, 192, 6, 6, 96, 2, 3), 256, 10, 3),
    "mae-tiny-patch8": ((96, 8, 192, 12, 3, 192, 4, 6), 64, 7, 2),
}
# As above, on a GPU.
GPU_MODELS = {
    "mae-base-patch16": ((224, 16, 768, 12, 12, 512, 8, 16), 256, 30, 10),
    "mae-large-patch16": ((224, 16, 1024, 24, 16, 512, 8, 16), 256, 20, 10),
    "mae-huge-patch14": ((224, 14, 1280, 32, 16, 512, 8, 16), 128, 20, 10),
}
KEEP = 0.25
SAME = 1e-4


class Failed(Exception):
    pass


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes: VmHWM is the peak, VmRSS what is resident now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Failed(f"no {field} in /proc/self/status")


def build(name: str):
    """transformers' model, initialised from a fixed seed, position embeddings included."""
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
    import golden

    side, patch, dim, depth, heads, decoder_dim, decoder_depth, decoder_heads = MODELS[name][0]
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=side,
            patch_size=patch,
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * dim,
            decoder_hidden_size=decoder_dim,
            decoder_num_hidden_layers=decoder_depth,
            decoder_num_attention_heads=decoder_heads,
            decoder_intermediate_size=4 * decoder_dim,
            mask_ratio=1 - KEEP,
            norm_pix_loss=True,
            # The reference code's; transformers' own default is 1e-12.
            layer_norm_eps=1e-6,
            attn_implementation="sdpa",
        )
    )
    # A model that transformers makes from a configuration has no position embeddings.
    with torch.no_grad():
        for parameter, width in (
            (model.vit.embeddings.position_embeddings, dim),
            (model.decoder.decoder_pos_embed, decoder_dim),
        ):
            table = golden.sin_cos_2d(width, side // patch, side // patch)
            parameter.copy_(torch.from_numpy(table).float().reshape(parameter.shape))
            parameter.requires_grad_(False)
    return model.train()


def optimizer(model, lr: float):
    """The reference's groups: parameters of one dimension do not decay."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def batches(name: str, count: int, batch: int):
    """Random bytes [S, B, H, W, C] and, for each image, a random order of its patches [S, B, L] (place by patch)."""
    import numpy as np

    side, patch = MODELS[name][0][:2]
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (count, batch, side, side, 3), np.uint8)
    places = np.stack([generator.permutation((side // patch) ** 2) for _ in range(count * batch)])
    return pixels, places.reshape(count, batch, -1).astype(np.uint32)


def as_floats(pixels):
    """Bytes [B, H, W, C] -> normalised [B, C, H, W]."""
    import torch

    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def torch_losses(model, pixels, places, lr: float) -> list[float]:
    """The loss of each update."""
    import torch

    adamw = optimizer(model, lr)
    losses = []
    for images, order in zip(pixels, places, strict=True):
        # transformers shuffles by sorting this noise.
        noise = torch.from_numpy(order.astype("float32"))
        loss = model(as_floats(images), noise=noise).loss
        losses.append(loss.item())
        loss.backward()
        adamw.step()
        adamw.zero_grad(set_to_none=True)
    return losses


def write_case(folder: Path, name: str, model, pixels, places, lr: float, threads: int) -> None:
    """What `replay` reads."""
    from safetensors.numpy import save_file

    from mae_transformers import fuse, reference_name

    side, patch, dim, depth, heads, decoder_dim, decoder_depth, decoder_heads = MODELS[name][0]
    vit = {"image_size": [side, side], "patch_size": patch, "channels": 3, "dim": dim, "depth": depth, "heads": heads}
    vit |= {"mlp_ratio": 4.0, "norm_eps": 1e-6, "mean": MEAN, "std": STD}
    decoder = {"decoder_dim": decoder_dim, "decoder_depth": decoder_depth, "decoder_heads": decoder_heads}
    config = {"vit": vit, **decoder, "norm_pix_loss": True}
    keep = int(places.shape[-1] * KEEP)
    case = {"config": config, "keep": keep, "lr": lr, "weight_decay": 0.05, "threads": threads}
    (folder / "case.json").write_text(json.dumps(case))
    weights = fuse({reference_name(key): value.detach().numpy().copy() for key, value in model.named_parameters()})
    save_file(weights, folder / "weights.safetensors")
    save_file({"pixels": pixels, "ids_restore": places}, folder / "batches.safetensors")


def check(name: str, replay: str, threads: int) -> dict:
    """Both losses over three updates from the same weights, images and masks."""
    import torch

    torch.set_num_threads(threads)
    model = build(name)
    pixels, places = batches(name, 3, min(MODELS[name][1], 16))
    with tempfile.TemporaryDirectory() as scratch:
        write_case(Path(scratch), name, model, pixels, places, 1e-4, threads)
        ours = json.loads(command([replay, scratch]))
    return {"torch": torch_losses(model, pixels, places, 1e-4), "mae": ours}


def time_torch(name: str, compiled: bool, threads: int) -> dict:
    """Milliseconds of each measured step, and memory."""
    import torch

    torch.set_num_threads(threads)
    _, batch, steps, left_out = MODELS[name]
    pixels, _ = batches(name, 2, batch)
    images = [as_floats(each) for each in pixels]
    before = resident("VmRSS")
    model = build(name)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    adamw = optimizer(model, 1e-4)
    forward = torch.compile(model) if compiled else model
    milliseconds = []
    for step in range(left_out + steps):
        started = time.perf_counter()
        forward(images[step % 2]).loss.backward()
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        milliseconds.append((time.perf_counter() - started) * 1e3)
    peak = resident("VmHWM")
    beyond = peak - 16 * parameters
    return {"milliseconds": milliseconds[left_out:], "peak": peak, "beyond": beyond, "beyond_libraries": beyond - before}


def time_torch_gpu(name: str, compiled: bool) -> dict:
    import torch_mae

    shape, batch, steps, left_out = GPU_MODELS[name]
    return torch_mae.time_steps(shape, batch, compiled, steps, left_out, "cuda", KEEP)


def time_ours(name: str, binary: str, threads: int, device: str) -> dict:
    _, batch, steps, left_out = (GPU_MODELS if device == "cuda" else MODELS)[name]
    flags = ["--model", name, "--batch-size", batch, "--steps", steps, "--threads", threads, "--norm-pix-loss", "--json"]
    flags += ["--device", device]
    report = json.loads(command([binary, "bench", "step", *map(str, flags)]))
    beyond = report["memory_beyond_parameters_bytes"]
    share = report["share_of_product_rate"]
    median = report["milliseconds"]["step"]
    return {"milliseconds": [median], "peak": report["peak_memory_bytes"], "beyond": beyond, "share": share}


def command(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Failed(f"{Path(arguments[0]).name} ended with {done.returncode}: {last}")
    return done.stdout


def has_cuda(python: str) -> bool:
    probe = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([python, "-c", probe], capture_output=True).returncode == 0


def install(folder: Path, device: str) -> Path:
    """A Python with the packages."""
    if device == "cuda" and has_cuda(sys.executable):
        return Path(sys.executable)
    python = folder / "step" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "step", with_pip=True)
    command([str(python), "-m", "pip", "install", "--quiet", *PACKAGES])
    if device == "cuda" and not has_cuda(str(python)):
        raise Failed("PyTorch finds no NVIDIA GPU here")
    return python


def parse() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae-peers"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mae", type=lambda path: str(Path(path).resolve()), help="our binary")
    replay = "the example `replay` of mae-trainer; not used on a GPU"
    parser.add_argument("replay", nargs="?", type=lambda path: str(Path(path).resolve()), help=replay)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    parser.add_argument("--models", nargs="+", choices={**MODELS, **GPU_MODELS}, help="default: all that the device is for")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: every core")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--venv", type=Path, default=cache, help="where torch is installed; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write versions, machine and every round's figures")
    arguments = parser.parse_args()
    models = GPU_MODELS if arguments.device == "cuda" else MODELS
    arguments.models = arguments.models or list(models)
    if unknown := [name for name in arguments.models if name not in models]:
        parser.error(f"not measured on {arguments.device}: {', '.join(unknown)}")
    if arguments.device == "cpu" and arguments.replay is None:
        parser.error("the example `replay` is needed on the CPU")
    return arguments


def measure(arguments: argparse.Namespace, python: Path, name: str) -> dict:
    """By program, what each round gave."""
    found: dict = {"eager": [], "compiled": [], "mae": []}
    for round_ in range(arguments.rounds):
        for program, results in found.items():
            if program == "mae":
                run = [time_ours, name, arguments.mae, arguments.threads, arguments.device]
            else:
                task = "time" if arguments.device == "cpu" else "time-gpu"
                run = [worker_says, str(python), task, name, program, str(arguments.threads)]
            try:
                result = run[0](*run[1:])
            except Failed as error:
                if arguments.device == "cpu":
                    raise
                # One that does not fit must not keep the others from being measured.
                print(f"{name}, round {round_ + 1}, {program}: {error}", file=sys.stderr, flush=True)
                continue
            results.append(result)
            step = statistics.median(result["milliseconds"])
            print(f"{name}, round {round_ + 1}, {program}: {step:.0f} ms", file=sys.stderr, flush=True)
    return found


def worker_says(python: str, *task: str) -> dict:
    return json.loads(command([python, __file__, "--worker", *task]).splitlines()[-1])


def table(batch: int, found: dict) -> str:
    rate = {
        program: batch / statistics.median(statistics.median(r["milliseconds"]) for r in results) * 1e3
        for program, results in found.items()
        if results
    }
    lines = [
        "| program | img/s | slowest–fastest round | mae ÷ it | memory beyond parameters | without libraries |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for program, results in found.items():
        if not results:
            lines.append(f"| {program} | failed | | | | |")
            continue
        rates = [batch / statistics.median(r["milliseconds"]) * 1e3 for r in results]
        cells = [program, f"{rate[program]:.2f}", f"{min(rates):.2f}–{max(rates):.2f}"]
        cells.append("" if program == "mae" or "mae" not in rate else f"{rate['mae'] / rate[program]:.2f}")
        for field in ("beyond", "beyond_libraries"):
            values = [r[field] for r in results if field in r]
            cells.append(f"{statistics.median(values) / 1e9:.2f} GB" if values else "")
        lines.append("| " + " | ".join(cells) + " |")
    shares = [r["share"] for r in found["mae"]]
    if shares:
        lines.append(f"\nmae, forward and backward: {statistics.median(shares):.0%} of the rate of a large product")
    return "\n".join(lines)


def main() -> int:
    arguments = parse()
    python = install(arguments.venv.absolute(), arguments.device)
    cpu = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip("\t :")
    if arguments.device == "cuda":
        probe = "import torch, json; print(json.dumps([torch.cuda.get_device_name(), 'torch ' + torch.__version__]))"
        cpu, *packages = json.loads(command([str(python), "-c", probe]))
    else:
        packages = PACKAGES
    report = {"processor": cpu or platform.machine(), "threads": arguments.threads, "packages": packages}
    report |= {"date": time.strftime("%Y-%m-%d"), "rounds": arguments.rounds, "models": {}}
    agree = True
    for name in arguments.models:
        if arguments.device == "cuda":
            found = measure(arguments, python, name)
            print(f"\n### {name}, batch {GPU_MODELS[name][1]}, bfloat16\n\n{table(GPU_MODELS[name][1], found)}", flush=True)
            report["models"][name] = {"runs": found}
            agree &= all(found.values())
            continue
        losses = worker_says(str(python), "check", name, arguments.replay, str(arguments.threads))
        worst = max(abs(a / b - 1) for a, b in zip(losses["mae"], losses["torch"], strict=True))
        agree &= worst <= SAME
        found = measure(arguments, python, name)
        print(f"\n### {name}, batch {MODELS[name][1]}, {arguments.threads} threads\n")
        print(f"losses of three updates differ by at most {worst:.1e}{'' if worst <= SAME else ', which is TOO MUCH'}\n")
        print(table(MODELS[name][1], found), flush=True)
        report["models"][name] = {"losses": losses, "runs": found}
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{cpu}; {', '.join(packages)}; median of {arguments.rounds} rounds")
    return 0 if agree else 1


def worker(task: str, name: str, what: str, threads: str) -> None:
    if task == "check":
        print(json.dumps(check(name, what, int(threads))))
    elif task == "time-gpu":
        print(json.dumps(time_torch_gpu(name, what == "compiled")))
    else:
        print(json.dumps(time_torch(name, what == "compiled", int(threads))))


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["--worker"]:
            worker(*sys.argv[2:])
        else:
            sys.exit(main())
    except Failed as error:
        sys.exit(f"step.py: {error}")
