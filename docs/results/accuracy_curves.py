"""Draws the accuracy of fine-tuning runs, by epoch, and at the end by the number of blocks that were trained:

    python3 accuracy_curves.py OUT.svg NAME=RUN/log.jsonl… [--partial BLOCKS=RUN/log.jsonl…]

Standard library only.
"""

import json
import sys

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 820, 320, 50, 40, 20, 45
COLOURS = ["#1f6f8b", "#c4561a", "#5a7d2a", "#7a4b94"]


def accuracies(path):
    lines = [json.loads(line) for line in open(path)]
    return [(line["epoch"], 100 * line["val_top1"]) for line in lines if line.get("val_top1") is not None]


def panel(left, width, xs, ys, labels, x_name, series):
    low, high = min(ys) // 5 * 5, -(-max(ys) // 5) * 5

    def x(value):
        return left + width * (value - xs[0]) / max(xs[-1] - xs[0], 1)

    def y(value):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = []
    for tick in range(int(low), int(high) + 1, 5):
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for value, label in labels:
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_name}</text>')
    for at, (name, points) in enumerate(series):
        colour = COLOURS[at % len(COLOURS)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour}"/>' for a, b in points]
        parts.append(f'<text x="{left + 4 + 170 * at}" y="{TOP - 14}" fill="{colour}">{name}</text>')
    return parts


def main(out, arguments):
    split = arguments.index("--partial") if "--partial" in arguments else len(arguments)
    runs = [argument.split("=", 1) for argument in arguments[:split]]
    runs = [(name, accuracies(path)) for name, path in runs]
    partial = [argument.split("=", 1) for argument in arguments[split + 1 :]]
    partial = [(int(blocks), accuracies(path)[-1][1]) for blocks, path in partial]
    epochs = sorted({epoch for _, points in runs for epoch, _ in points})
    half = (WIDTH - 2 * LEFT - 2 * RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    ys = [accuracy for _, points in runs for _, accuracy in points]
    parts += panel(LEFT, half, epochs, ys, [(e, e) for e in epochs], "epoch", runs)
    if partial:
        blocks = [b for b, _ in partial]
        name = "blocks trained, besides the head"
        left = 2 * LEFT + RIGHT + half
        ys = [a for _, a in partial]
        parts += panel(left, half, blocks, ys, [(b, b) for b in blocks], name, [("top-1 after the last epoch", partial)])
    with open(out, "w") as file:
        file.write("\n".join([*parts, "</svg>"]) + "\n")


main(sys.argv[1], sys.argv[2:])
