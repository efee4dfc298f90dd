"""Draws a run's loss curve: python3 loss_curve.py RUN/log.jsonl OUT.svg. Standard library only."""

import json
import sys

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 320, 60, 20, 20, 45


def main(log, out):
    lines = [json.loads(line) for line in open(log)]
    steps = [(line["step"], line["loss"]) for line in lines if line["kind"] == "step"]
    held_out = [
        (line["step"], line["val_loss"])
        for line in lines
        if line["kind"] == "epoch" and line.get("val_loss") is not None
    ]
    last = max(step for step, _ in steps)
    low = min(loss for _, loss in steps + held_out) * 0.95
    high = min(max(loss for _, loss in steps), 1.2)

    def x(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(loss):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(loss, high)) / (high - low)

    def line(points, colour):
        path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for tick in range(1, 13):
        if low <= tick / 10 <= high:
            at = y(tick / 10)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick / 10}</text>')
    for tick in range(0, last + 1, 2000):
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick}</text>')
    parts += [
        line(steps, "#1f6f8b"),
        line(held_out, "#c4561a"),
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">update</text>',
        f'<text x="{WIDTH - RIGHT}" y="{TOP + 14}" text-anchor="end" fill="#1f6f8b">training, random crops</text>',
        f'<text x="{WIDTH - RIGHT}" y="{TOP + 30}" text-anchor="end" fill="#c4561a">held out, whole images</text>',
        "</svg>",
    ]
    with open(out, "w") as file:
        file.write("\n".join(parts) + "\n")


main(sys.argv[1], sys.argv[2])
