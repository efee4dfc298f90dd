"""What a training step on a GPU cannot be faster than: bytes and operations of each kernel, counted, over the card's rates.

    python3 docs/benchmarks/gpu_floor.py [--model mae-base-patch16] [--batch 256] [--tflops 790] [--tbps 4.3]

The rates are what large products and copies reached on one H200. Nothing here is measured: it counts what the kernels in model/kernels and
the products read and write in bfloat16 with a float32 residual stream, each once, 75% of the patches removed.
"""

import argparse

# image side, patch, width, depth, decoder width, depth, decoder heads, heads
MODELS = {
    "mae-base-patch16": (224, 16, 768, 12, 12, 512, 8, 16),
    "mae-large-patch16": (224, 16, 1024, 24, 16, 512, 8, 16),
    "mae-huge-patch14": (224, 14, 1280, 32, 16, 512, 8, 16),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mae-base-patch16", choices=MODELS)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tflops", type=float, default=790.0, help="products, 10^12 operations a second")
    parser.add_argument("--tbps", type=float, default=4.3, help="memory, 10^12 bytes a second")
    a = parser.parse_args()
    side, patch, dim, depth, heads, width, layers, decoder_heads = MODELS[a.model]
    patches = (side // patch) ** 2
    keep = patches // 4
    removed, pixels = patches - keep, patch * patch * 3
    # Numbers of the residual stream, a pass over every block's: (attention's side, the MLP's side). The decoder's last MLP has the removed
    # rows only.
    stream = depth * (1 + keep) * dim + layers * (1 + patches) * width
    mlp = stream - (1 + patches - removed) * width
    visible = (1 + keep) * (dim + width)
    scores = depth * heads * (1 + keep) ** 2 + layers * decoder_heads * (1 + patches) ** 2
    # Multiply-adds of the products and of attention, forward, an image.
    linear = 4 * (depth * (1 + keep) * dim**2 + layers * (1 + patches) * width**2)
    linear += 8 * (depth * (1 + keep) * dim**2 + (layers * (1 + patches) - (1 + patches - removed)) * width**2)
    linear += keep * pixels * dim + (1 + keep) * dim * width + removed * width * pixels
    attention = 2 * (depth * (1 + keep) ** 2 * dim + layers * (1 + patches) ** 2 * width)
    block = 12 * dim**2 + 13 * dim, 12 * width**2 + 13 * width
    parameters = depth * block[0] + layers * block[1] + pixels * (dim + width) + dim * width

    rows = [
        # kernel, bytes an image, multiply-adds an image, bytes a step whatever the batch
        ("layer norm with residual, forward", 14 * (stream + mlp), 0, 0),
        ("layer norm, backward", 16 * (stream + mlp), 0, 0),
        ("GELU with bias, forward", 4 * 4 * mlp, 0, 0),
        ("GELU with bias, backward", 8 * 4 * mlp, 0, 0),
        ("attention, forward", 8 * stream, attention, 0),
        # Scores again by query and by key, and their gradients: 3 + 4 products where the forward has 2.
        ("attention, backward", 24 * stream, 3.5 * attention, 0),
        ("embedding and unshuffle, both ways", 12 * visible + 10 * (1 + patches) * width, 0, 0),
        ("visible patches, masked loss", 3 * keep * pixels + 5 * removed * pixels, 0, 0),
        ("products, forward", 0, linear, 0),
        ("products, backward", 0, 2 * linear, 0),
        ("AdamW, gradient norm", 0, 0, 34 * parameters),
    ]
    print(f"{a.model}, batch {a.batch}: {parameters / 1e6:.0f} M parameters, {scores / 1e6:.1f} M scores an image\n")
    print("| kernel | GB a step | TFLOP a step | memory, ms | products, ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    total = 0.0
    for name, image, multiply_adds, step in rows:
        size = image * a.batch + step
        flop = 2 * multiply_adds * a.batch
        memory, product = size / a.tbps / 1e9, flop / a.tflops / 1e9
        total += max(memory, product)
        print(f"| {name} | {size / 1e9:.2f} | {flop / 1e12:.2f} | {memory:.2f} | {product:.2f} |")
    print(f"| the larger of both, summed | | | {total:.1f} | |")
    print(f"\n{a.batch / total * 1e3:.0f} images a second at the most")


if __name__ == "__main__":
    main()
