"""A masked autoencoder in plain PyTorch after the reference code (models_mae.py), as fast as PyTorch makes it: scaled-dot-product
attention, whole batches of bytes normalised on the device, nothing that waits for the host. For step.py --device cuda.

    python tests/peers/torch_mae.py     compares it with transformers' ViTMAE on the CPU: loss and gradients
"""

import time

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim)
        x = x + self.proj(attended)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class MAE(nn.Module):
    def __init__(self, side, patch, dim, depth, heads, decoder_dim, decoder_depth, decoder_heads, keep: float):
        super().__init__()
        self.patch, self.patches = patch, (side // patch) ** 2
        self.keep = int(self.patches * keep)
        self.embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_blocks = nn.ModuleList(Block(decoder_dim, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.pred = nn.Linear(decoder_dim, patch * patch * 3)
        # Their values do not matter to time; a comparison sets them.
        self.register_buffer("positions", torch.zeros(1, 1 + self.patches, dim))
        self.register_buffer("decoder_positions", torch.zeros(1, 1 + self.patches, decoder_dim))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, pixels, noise):
        """Bytes [B, H, W, C] and noise [B, L] -> the loss."""
        images = ((pixels.permute(0, 3, 1, 2).float() / 255) - self.mean) / self.std
        x = self.embed(images).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        shuffle = noise.argsort(1)
        restore = shuffle.argsort(1)
        kept = shuffle[:, : self.keep, None].expand(-1, -1, x.shape[2])
        token = (self.token + self.positions[:, :1]).expand(len(x), -1, -1).to(x.dtype)
        x = torch.cat([token, x.gather(1, kept)], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        masks = self.mask_token.expand(len(x), self.patches - self.keep, -1).to(x.dtype)
        whole = torch.cat([x[:, 1:], masks], 1).gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], whole], 1) + self.decoder_positions
        for block in self.decoder_blocks:
            x = block(x)
        predicted = self.pred(self.decoder_norm(x))[:, 1:].float()
        side = images.shape[2] // self.patch
        target = images.unflatten(3, (side, self.patch)).unflatten(2, (side, self.patch))
        target = target.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        errors = (predicted - target).square().mean(-1)
        removed = (restore >= self.keep).float()
        return (errors * removed).sum() / removed.sum()


def time_steps(shape, batch: int, compiled: bool, steps: int, left_out: int, device: str, keep: float = 0.25) -> dict:
    """Milliseconds of each measured step, bfloat16 by autocast, and the peak of allocated memory."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    model = MAE(*shape, keep).to(device).train()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    run = torch.compile(model) if compiled else model
    batches = [torch.randint(0, 256, (batch, shape[0], shape[0], 3), dtype=torch.uint8, device=device) for _ in range(2)]

    def step(number: int):
        with torch.autocast(device, torch.bfloat16):
            loss = run(batches[number % 2], torch.rand(batch, model.patches, device=device))
        loss.backward()
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss

    cuda = device == "cuda"
    for number in range(left_out):
        step(number)
    marks = []
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def mark():
        if not cuda:
            return time.perf_counter() * 1e3
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    marks.append(mark())
    for number in range(steps):
        loss = step(number)
        marks.append(mark())
    last = loss.item()
    between = (lambda a, b: a.elapsed_time(b)) if cuda else (lambda a, b: b - a)
    milliseconds = [between(a, b) for a, b in zip(marks, marks[1:])]
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    parameters = sum(p.numel() for p in model.parameters())
    return {"milliseconds": milliseconds, "peak": peak, "beyond": peak - 16 * parameters, "loss": last}


def compare() -> None:
    """Loss and gradients against transformers' model with the same weights, images and masks."""
    import step

    shape = step.MODELS["mae-tiny-patch8"][0]
    theirs = step.build("mae-tiny-patch8")
    ours = MAE(*shape, step.KEEP)
    pairs = [
        (ours.embed, theirs.vit.embeddings.patch_embeddings.projection),
        (ours.norm, theirs.vit.layernorm),
        (ours.decoder_embed, theirs.decoder.decoder_embed),
        (ours.decoder_norm, theirs.decoder.decoder_norm),
        (ours.pred, theirs.decoder.decoder_pred),
    ]
    from mae_transformers import fuse, reference_name

    weights = fuse({reference_name(k): v.detach().numpy().copy() for k, v in theirs.named_parameters()})
    names = {
        "cls_token": "token",
        "pos_embed": "positions",
        "decoder_pos_embed": "decoder_positions",
        "patch_embed.proj.": "embed.",
        "decoder_pred.": "pred.",
    }

    def rename(name: str) -> str:
        for old, new in names.items():
            if name == old or (old.endswith(".") and name.startswith(old)):
                return name.replace(old, new)
        return name.replace(".attn.", ".").replace(".mlp.", ".")

    state = {rename(k): torch.from_numpy(v) for k, v in weights.items()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert set(missing) == {"mean", "std"} and not unexpected, (missing, unexpected)
    pixels, places = step.batches("mae-tiny-patch8", 1, 4)
    noise = torch.from_numpy(places[0].astype("float32"))
    a = ours(torch.from_numpy(pixels[0]), noise)
    b = theirs(step.as_floats(pixels[0]), noise=noise).loss
    a.backward()
    b.backward()
    worst = max(float((x.weight.grad - y.weight.grad).norm() / y.weight.grad.norm()) for x, y in pairs)
    print(f"loss {a.item():.6f}, transformers {b.item():.6f}; gradients differ by {worst:.1e} of their length")
    assert abs(a.item() / b.item() - 1) < 1e-5 and worst < 1e-4


if __name__ == "__main__":
    compare()
