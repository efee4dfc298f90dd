"""What can be counted of kernels without a GPU: registers, the warps that fit, the instructions of each loop, the bytes in flight.

    python3 docs/benchmarks/sass_counts.py [--arch sm_90] [--kernels model/kernels] [--only attention_forward] gelu.cu attention.cu

Needs nvcc and cuobjdump (https://pypi.org/project/nvidia-cuda-cuobjdump/) on PATH, no GPU. Loops are those that have no other inside. Bytes
in flight are what a thread has asked global memory for when it first waits for any of it, by the barriers in the instructions'
control bits. Copies to shared memory (LDGSTS) are not among them: a thread asks for all of them before it waits.
"""

import argparse
import collections
import re
import subprocess
import tempfile
from pathlib import Path

WIDTHS = {"128": 16, "64": 8, "U16": 2, "U8": 1}
SHOWN = ["HMMA", "MUFU", "LDSM", "LDGSTS", "LDG", "STG", "SHFL"]


def compile_to_sass(source: Path, arch: str) -> tuple[str, str]:
    """The compiler's report and the disassembly."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "out.cubin"
        command = ["nvcc", "-std=c++17", "-O3", f"-arch={arch}", "-Xptxas", "-v", "-cubin", "-o", binary, source]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        sass = subprocess.run(["cuobjdump", "-sass", binary], check=True, capture_output=True, text=True).stdout
    return report, sass


def registers(report: str) -> dict[str, int]:
    names = re.findall(r"Compiling entry function '(\w+)'", report)
    return dict(zip(names, map(int, re.findall(r"Used (\d+) registers", report))))


def instructions(sass: str) -> dict[str, list[tuple[int, str, str, int]]]:
    """Address, operation, text and control bits (a volta-and-later instruction has 128 bits, these are the upper ones) by kernel."""
    kernels: dict[str, list[tuple[int, str, str, int]]] = {}
    lines = sass.split("\n")
    for line, after in zip(lines, lines[1:]):
        if name := re.search(r"Function : (\w+)", line):
            current = kernels.setdefault(name[1], [])
        if found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;\s*/\* 0x", line):
            words = [word for word in found[2].split() if not word.startswith("@")]
            control = int(re.search(r"0x([0-9a-f]{16})", after)[1], 16) >> 41 & 0x1FFFFF
            current.append((int(found[1], 16), words[0], found[2], control))
    return kernels


def in_flight(code: list[tuple[int, str, str, int]]) -> int:
    pending: collections.Counter[int] = collections.Counter()
    most = 0
    for _, operation, _, control in code:
        for barrier in range(6):
            if control >> 11 & 1 << barrier:
                pending[barrier] = 0
        if operation.startswith("LDG."):
            pending[control >> 5 & 7] += next((WIDTHS[part] for part in operation.split(".") if part in WIDTHS), 4)
            most = max(most, sum(pending.values()))
    return most


def loops(code: list[tuple[int, str, str, int]]) -> list[tuple[int, int]]:
    found = []
    for address, operation, text, _ in code:
        target = re.search(r"0x([0-9a-f]+)", text) if operation == "BRA" else None
        if target and int(target[1], 16) < address:
            found.append((int(target[1], 16), address))
    return [a for a in found if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in found)]


def describe(code: list[tuple[int, str, str, int]]) -> str:
    count = collections.Counter(operation.split(".")[0] for _, operation, _, _ in code)
    shown = ", ".join(f"{count[name]} {name}" for name in SHOWN if count[name])
    return f"{len(code) - count['NOP']} | {shown}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--kernels", default="model/kernels", type=Path)
    parser.add_argument("--only", default="", help="kernels whose name has this in it")
    parser.add_argument("files", nargs="+")
    a = parser.parse_args()
    print("| kernel | registers | warps that fit | part | instructions | of which | bytes in flight |")
    print("| --- | ---: | ---: | --- | ---: | --- | ---: |")
    for file in a.files:
        report, sass = compile_to_sass(a.kernels / file, a.arch)
        used = registers(report)
        for name, code in sorted(instructions(sass).items()):
            if a.only not in name:
                continue
            # Each quarter of a multiprocessor has 16,384 registers, given out by eights, and runs up to 16 warps.
            warps = 4 * min(16, 16_384 // (32 * ((used[name] + 7) // 8 * 8)))
            print(f"| {name} | {used[name]} | {warps} | all | {describe(code)} | {in_flight(code)} |")
            for low, high in loops(code):
                body = [one for one in code if low <= one[0] <= high]
                print(f"| | | | loop at {low:#x} | {describe(body)} | {in_flight(body)} |")


if __name__ == "__main__":
    main()
