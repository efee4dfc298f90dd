#!/usr/bin/env bash
# A CUDA 13.0 toolkit from PyPI, enough to compile and link with `--features cuda` where neither CUDA nor a GPU is installed:
#
#     eval "$(model/cuda-toolkit.sh [FOLDER])"
#
# sets CUDA_HOME and the search paths; FOLDER (1.2 GB) is $XDG_CACHE_HOME/mae-cuda-13.0 unless given, and is filled once. Where
# the program runs there must be a driver (libcuda.so.1) and CUDA 13's libraries on LD_LIBRARY_PATH.
set -euo pipefail

folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/mae-cuda-13.0}
python=${PYTHON:-python3}

packages() {
    "$python" -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
        'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-cccl==13.0.*' \
        'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-curand==10.4.*'
}

# home: where pip put the toolkit.
home() {
    local found
    for found in "$folder"/venv/lib/python3*/site-packages/nvidia/cu13; do
        if [ -x "$found/bin/nvcc" ]; then
            echo "$found"
            return
        fi
    done
    echo "cuda-toolkit.sh: the packages brought no nvcc; remove $folder and try again" >&2
    return 1
}

# links LIB: the names without a version, by which the linker looks.
links() {
    local file name
    for file in "$1"/*.so.*; do
        name=${file##*/}
        ln -sf "$name" "$1/${name%%.so.*}.so"
    done
}

# driver_stub HOME: the driver's own library comes with a driver. To link against, one with its name and functions will do.
driver_stub() {
    grep -ohE '\bcu[A-Z][A-Za-z0-9_]*\b' "$1/include/cuda.h" | sort -u | sed 's/.*/void &(void) {}/' >"$folder/stub.c"
    cc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$1/lib/libcuda.so" "$folder/stub.c"
}

if [ ! -f "$folder/complete" ]; then
    echo "cuda-toolkit.sh: filling $folder, once" >&2
    mkdir -p "$folder"
    packages >&2
    root=$(home)
    links "$root/lib"
    driver_stub "$root" >&2
    touch "$folder/complete"
fi
root=$(home)
printf 'export CUDA_HOME=%q CUDA_PATH=%q CUDA_ROOT=%q\n' "$root" "$root" "$root"
# What candle's own kernels are compiled for; without it the build asks nvidia-smi.
printf 'export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}\n'
printf 'export PATH=%q:"$PATH" LIBRARY_PATH=%q"${LIBRARY_PATH:+:$LIBRARY_PATH}"\n' "$root/bin" "$root/lib"
