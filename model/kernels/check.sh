#!/usr/bin/env bash
# Compiles every kernel for each architecture and prints what each needs a thread; fails where registers spill to memory. Needs nvcc, no
# GPU:  model/kernels/check.sh
set -euo pipefail
cd "$(dirname "$0")"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
nvcc=${CUDA_HOME:+$CUDA_HOME/bin/}nvcc
command -v "$nvcc" >/dev/null || {
    echo "check.sh: no nvcc in CUDA_HOME or on PATH: install the CUDA toolkit, or eval \"\$(model/cuda-toolkit.sh)\"" >&2
    exit 1
}

for arch in 80 90; do
    for file in *.cu; do
        # To `kernel arch registers stack stores loads shared`, a line each.
        "$nvcc" -std=c++17 -O3 -Xptxas -v "-arch=sm_$arch" -cubin -o "$scratch/out" "$file" 2>"$scratch/log" || {
            cat "$scratch/log" >&2
            exit 1
        }
        awk -v arch="sm_$arch" '
            /Compiling entry function/ { split($0, part, "\047"); name = part[2] }
            /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
            /Used [0-9]+ registers/ {
                for (i = 1; i <= NF; i++) if ($i == "Used") registers = $(i + 1)
                shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH) + 0 : 0
                print name, arch, registers, stack, stores, loads, shared
            }' "$scratch/log" >>"$scratch/table"
    done
done
sort "$scratch/table" | awk '
    BEGIN { printf "%-32s %-6s %9s %6s %12s %11s %7s\n", "kernel", "arch", "registers", "stack", "spill stores", "spill loads", "shared" }
    { printf "%-32s %-6s %9d %6d %12d %11d %7d\n", $1, $2, $3, $4, $5, $6, $7; if ($5 + $6 > 0) spilled = spilled " " $1 "/" $2 }
    END {
        if (NR == 0) { print "check.sh: nvcc reported no kernel" > "/dev/stderr"; exit 1 }
        if (spilled != "") { print "check.sh: registers spill in" spilled > "/dev/stderr"; exit 1 }
    }'
