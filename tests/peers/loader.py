"""Image loaders beside ours: the same JPEGs, the same cores, in turn, and a table with the ratios.

    python tests/peers/loader.py target/release/mae --data photos-*.tar [--short-side 256] [--json figures.json]

needs nothing but Python 3.11 or newer: the peers are installed, at the versions pinned below, into --venv (about 8 GB,
since torch from PyPI brings CUDA along). FFCV is compiled and wants Debian's libopencv-dev, libturbojpeg0-dev and
pkg-config; the script says so where they are missing, or installs them when it runs as root.

Every loader delivers what pre-training needs: random resized crops to 224 (scale 0.2 to 1, ratio 3/4 to 4/3, bicubic where
the tool has it), flipped at random, in batches of 64. One round runs each loader once, in a process of its own that is
pinned to the first n (logical) cores; rounds follow one another, so that a disturbance of the machine hits all alike. A
loader times itself, in steady state: starting, importing and compiling are not counted, nor the first WARM_UP seconds of
batches. The table gives the median over the rounds and the range. Shards lie in the page cache: they are read before the
first round, and some peers (pillow, torchvision, dali) hold the JPEG bytes in memory, so give it thousands of images, not
millions.

A peer that cannot be installed or fails keeps its row, with the reason. The exit code is 1 if ours fails, or nothing ran.
"""

import argparse
import io
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

SIZE, BATCH = 224, 64
SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 2.0  # seconds of batches before the clock starts
FFCV_WARM_UP = 2  # epochs, the first of which compiles
FFCV_EPOCH = 2000  # images a core in an epoch, at least
TIMEOUT = 900  # seconds for one loader in one round

TORCH = ["torch==2.15.0", "torchvision==0.29.2", "pillow==13.0.0", "numpy==2.4.6"]
FFCV = ["ffcv==1.0.2", "numba==0.68.1", "opencv-python==5.0.0.93"]
DEBIAN = ["libopencv-dev", "libturbojpeg0-dev", "pkg-config"]


# --- What all loaders read ---------------------------------------------------------------------------------------------


def read_jpegs(shards: list[str]) -> list[bytes]:
    """The JPEG members of tar shards, in order."""
    images = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith((".jpg", ".jpeg")):
                    images.append(tar.extractfile(member).read())
    return images


def shuffled(count: int) -> Iterator[list[int]]:
    """Batches of indices, one permutation of all after another, for ever: no end of an epoch interrupts a loader."""
    generator, pending = random.Random(0), []
    while True:
        while len(pending) < BATCH:
            pending += generator.sample(range(count), count)
        yield pending[:BATCH]
        pending = pending[BATCH:]


# --- The peers: each an endless iterator of batches, run in a process of its own ---------------------------------------


@dataclass
class Job:
    """What a worker process is asked for."""

    shards: list[str]
    cores: int
    seconds: float
    images: int
    beton: str  # where FFCV's file is or goes


def reference_transform() -> Callable[[bytes], Any]:
    """JPEG bytes to a normalised tensor, as in the MAE reference's main_pretrain.py."""
    from PIL import Image
    from torchvision.transforms import Compose, InterpolationMode, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor

    crop = RandomResizedCrop(SIZE, scale=SCALE, ratio=RATIO, interpolation=InterpolationMode.BICUBIC)
    transform = Compose([crop, RandomHorizontalFlip(), ToTensor(), Normalize(MEAN, STD)])
    return lambda data: transform(Image.open(io.BytesIO(data)).convert("RGB"))


def torch_batches(samples: list, transform: Callable, cores: int) -> Iterator:
    """A plain loop on one core, where a second process would only be in the way; else a DataLoader, one worker a core."""
    from torch.utils.data import DataLoader, default_collate

    def batch(chosen: list):
        return default_collate([transform(sample) for sample in chosen])

    order = shuffled(len(samples))
    if cores == 1:
        yield from (batch([samples[index] for index in indices]) for indices in order)
    else:
        options = {"num_workers": cores, "multiprocessing_context": "fork"}
        yield from DataLoader(samples, batch_sampler=order, collate_fn=batch, **options)


def pillow(job: Job) -> Iterator:
    return torch_batches(read_jpegs(job.shards), reference_transform(), job.cores)


def torchvision(job: Job) -> Iterator:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    bicubic = v2.InterpolationMode.BICUBIC
    crop = v2.RandomResizedCrop(SIZE, scale=SCALE, ratio=RATIO, interpolation=bicubic, antialias=True)
    transform = v2.Compose([crop, v2.RandomHorizontalFlip()])
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in read_jpegs(job.shards)]
    return torch_batches(encoded, lambda data: transform(decode_jpeg(data, ImageReadMode.RGB)), job.cores)


def webdataset(job: Job) -> Iterator:
    """As its documentation has it for training: shards drawn with replacement, so that few shards starve no worker."""
    from torch.utils.data import DataLoader
    from webdataset import WebDataset

    transform = reference_transform()
    dataset = WebDataset(job.shards, resampled=True, shardshuffle=False).shuffle(500).to_tuple("jpg;jpeg")
    dataset = dataset.map_tuple(transform).batched(BATCH)
    for (images,) in DataLoader(dataset, batch_size=None, num_workers=job.cores, multiprocessing_context="fork"):
        yield images


def dali(job: Job) -> Iterator:
    """DALI on the CPU, uint8 pixels out.

    Within their noise it made no difference to read through `fn.readers.webdataset` instead, nor to flip in
    `fn.crop_mirror_normalize`, to either layout.
    """
    import numpy as np
    from nvidia.dali import fn, pipeline_def, types

    encoded = [np.frombuffer(data, dtype=np.uint8) for data in read_jpegs(job.shards)]
    batches = ([encoded[index] for index in indices] for indices in shuffled(len(encoded)))

    @pipeline_def(batch_size=BATCH, num_threads=job.cores, device_id=None)
    def pipeline():
        data = fn.external_source(batches, dtype=types.UINT8, ndim=1, no_copy=True)
        images = fn.decoders.image_random_crop(
            data, device="cpu", output_type=types.RGB, random_area=SCALE, random_aspect_ratio=RATIO, num_attempts=10
        )
        images = fn.resize(images, size=[SIZE, SIZE], interp_type=types.INTERP_CUBIC)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    running = pipeline()
    running.build()
    while True:
        yield running.run()[0]


def write_beton(job: Job) -> None:
    """FFCV's file, holding the JPEG bytes as they are."""
    import numpy as np
    from ffcv.fields import RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class StoredJpeg(RGBImageField):
        """RGBImageField takes pixels and encodes them anew; this takes JPEG bytes and stores them as that stores its own."""

        def encode(self, destination, data, malloc):
            destination["mode"] = IMAGE_MODES["jpg"]
            destination["width"], destination["height"] = Image.open(io.BytesIO(data)).size
            destination["data_ptr"], storage = malloc(len(data))
            storage[:] = np.frombuffer(data, dtype=np.uint8)

    images = [(data,) for data in read_jpegs(job.shards)]
    modes = {Image.open(io.BytesIO(data)).mode for (data,) in images}
    if not modes <= {"RGB", "L"}:  # asked before, since DatasetWriter waits for ever for a writer that raises
        raise ValueError(f"FFCV would take images of {modes} for RGB")
    DatasetWriter(job.beton + ".new", {"image": StoredJpeg()}, num_workers=1).from_indexed_dataset(images)
    os.rename(job.beton + ".new", job.beton)


def ffcv(job: Job) -> Iterator:
    """Area resize and the fast DCT are what FFCV has. Grayscale JPEGs come out as RGB: libjpeg-turbo is asked for that.

    FFCV starts every epoch with new buffers. So that a small sample does not make it pay for that more often than a real
    dataset would, an epoch holds every image several times.
    """
    import numpy as np
    from ffcv.fields import RGBImageField
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    if not os.path.exists(job.beton):
        write_beton(job)
    decoder = RandomResizedCropRGBImageDecoder((SIZE, SIZE), scale=SCALE, ratio=RATIO)
    loader = Loader(
        job.beton,
        batch_size=BATCH,
        num_workers=job.cores,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.tile(np.arange(job.images, dtype=np.uint64), -(-FFCV_EPOCH * job.cores // job.images)),
        drop_last=False,
        pipelines={"image": [decoder, RandomHorizontalFlip(), ToTensor(), ToTorchImage()]},
        custom_fields={"image": RGBImageField},
    )
    if loader.reader.num_samples != job.images:
        raise ValueError(f"{loader.reader.num_samples} images in the beton, {job.images} in the shards")
    for _ in range(FFCV_WARM_UP):
        for _ in loader:
            pass
    while True:
        for (images,) in loader:
            yield images


def timed(batches: Iterator, seconds: float) -> dict:
    """Images a second over at least `seconds`, once the first batch is there and WARM_UP has passed."""
    next(batches)
    start = time.monotonic()
    while time.monotonic() - start < WARM_UP:
        next(batches)
    start, elapsed, images = time.monotonic(), 0.0, 0
    while elapsed < seconds:
        images += len(next(batches))
        elapsed = time.monotonic() - start
    return {"images_per_second": images / elapsed, "images": images, "seconds": elapsed}


def worker(name: str, job: Job) -> None:
    """The child process: measures one peer and prints the figures as JSON."""
    if "torch" in PEERS[name].venv:
        import torch

        torch.set_num_threads(1)
    batches = PEERS[name].batches(job)
    print(json.dumps(timed(batches, job.seconds)), flush=True)
    batches.close()  # ends a DataLoader's workers
    os._exit(0)  # On one core an orderly end hangs for ever where numba, which FFCV imports, finds TBB: in unload_tbb.


# --- Installing and running them ---------------------------------------------------------------------------------------


class Failed(Exception):
    """A loader that cannot be installed or run, and why, in one line."""


def system_packages() -> None:
    """The libraries that FFCV is compiled against."""
    query = ["pkg-config", "--exists", "opencv4", "libturbojpeg"]
    if shutil.which(query[0]) and subprocess.run(query).returncode == 0:
        return
    install = ["apt-get", "install", "--yes", *DEBIAN]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failed(f"needs Debian packages: {' '.join(install)}")
    command(install)


@dataclass
class Peer:
    label: str
    venv: str
    packages: list[str]
    batches: Callable[[Job], Iterator]
    system: Callable[[], None] = lambda: None


PEERS = {
    "pillow": Peer("Pillow + torchvision transforms, as the reference", "torch", TORCH, pillow),
    "torchvision": Peer("torchvision `decode_jpeg` + v2, uint8", "torch", TORCH, torchvision),
    "dali": Peer("DALI on the CPU, uint8", "dali", ["nvidia-dali-cuda120==2.4.0", "numpy==2.4.6"], dali),
    "webdataset": Peer("webdataset + the reference's transforms", "torch", [*TORCH, "webdataset==1.0.2"], webdataset),
    "ffcv": Peer("FFCV, area resize, fast DCT, uint8, same JPEGs", "torch", [*TORCH, *FFCV], ffcv, system_packages),
}
OURS = {
    "turbo": ["--decoder", "turbo", "--decode-quality", "exact"],
    "turbo fast": ["--decoder", "turbo", "--decode-quality", "fast"],
    "zune": ["--decoder", "zune"],
}


def command(arguments: list, **options) -> str:
    """Standard output of a command that must succeed."""
    arguments = [str(a) for a in arguments]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, **options)
    except OSError as error:
        raise Failed(str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end after {error.timeout:.0f} s") from error
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        said = [line for line in lines if "error" in line.lower()] or lines
        raise Failed(f"exit code {done.returncode}: {said[-1].strip()[:200]}")
    return done.stdout


def install(peer: Peer, venvs: Path) -> Path:
    """The Python of a virtual environment that has the peer's packages."""
    peer.system()
    python = venvs / peer.venv / "bin" / "python"
    if not python.exists():
        command([sys.executable, "-m", "venv", venvs / peer.venv])
    command([python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *peer.packages])
    return python


def pinned(arguments: list, cores: int) -> dict:
    """The JSON that a command prints, run on the first cores; libraries start no threads beside those it is told to."""
    libraries = ["OMP", "MKL", "OPENBLAS"]
    environment = os.environ | {f"{library}_NUM_THREADS": "1" for library in libraries}
    environment |= {"OPENCV_FOR_THREADS_NUM": "1", "NUMBA_NUM_THREADS": str(cores), "CUDA_VISIBLE_DEVICES": ""}
    first = sorted(os.sched_getaffinity(0))[:cores]
    printed = command(arguments, env=environment, timeout=TIMEOUT, preexec_fn=lambda: os.sched_setaffinity(0, first))
    try:
        return json.loads(printed[printed.index("{") :])
    except ValueError as error:
        raise Failed(f"printed no JSON: {printed.strip()[:200]!r}") from error


def run_ours(binary: str, options: list[str], job: Job) -> dict:
    data = ["--data", *job.shards, "--threads", job.cores, *options]
    shape = ["--input-size", SIZE, "--batch-size", BATCH, "--seconds", job.seconds, "--json"]
    report = pinned([binary, "bench", "loader", *data, *shape], job.cores)
    try:
        (run,) = report["runs"]
        return run | {"images_per_second": float(run["images_per_second"])}
    except (KeyError, TypeError, ValueError) as error:
        raise Failed(f"unexpected JSON: {json.dumps(report)[:200]}") from error


def shard(binary: str, sources: list[str], folder: Path, short_side: int) -> list[str]:
    """The same images made smaller by `mae shard`, as shards in folder."""
    command([binary, "shard", "::".join(sources), folder, "--short-side", short_side, "--quality", 90])
    return sorted(str(path) for path in folder.glob("*.tar"))


# --- Measuring ---------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One loader on one set of images and one number of cores."""

    loader: str
    label: str
    ours: bool
    cores: int
    rounds: list[dict] = field(default_factory=list)
    error: str | None = None

    @property
    def speeds(self) -> list[float]:
        return [r["images_per_second"] for r in self.rounds]

    @property
    def median(self) -> float | None:
        return statistics.median(self.speeds) if self.rounds and not self.error else None


def check_images(binary: str, shards: list[str]) -> dict:
    """Reads the shards into the page cache. The peers read every JPEG member, so ours must see and decode as many."""
    images = len(read_jpegs(shards))
    seen = json.loads(command([binary, "inspect", "--json", "--images", images, *shards]))
    bad, formats = seen["images"]["bad"], seen["images"]["formats"]
    if not images or seen["samples"] != images or bad or formats != {"jpeg": images}:
        raise Failed(f"{images} JPEGs in {shards[0]} and so on, but mae sees {seen['samples']} samples, {formats}, bad: {bad}")
    return {"shards": shards, "images": images, **{k: seen["images"][k]["mean"] for k in ("width", "height", "bytes")}}


def measure(arguments, pythons: dict, name: str, images: dict, scratch: Path) -> list[Row]:
    """All loaders on one set of images, round after round."""
    job = Job(images["shards"], 1, arguments.seconds, images["images"], str(scratch / f"{name}.beton"))
    rows = []
    for cores in arguments.cores:
        for peer, python in pythons.items():
            rows.append(Row(peer, PEERS[peer].label, False, cores, error=str(python) if isinstance(python, Failed) else None))
        rows += [Row(name, f"**mae, {name}**", True, cores) for name in OURS]
    for number in range(arguments.rounds):
        for row in rows:
            if row.error:
                continue
            job.cores = row.cores
            try:
                if row.ours:
                    row.rounds.append(run_ours(arguments.mae, OURS[row.loader], job))
                else:
                    child = [pythons[row.loader], Path(__file__).resolve(), "--worker", row.loader]
                    row.rounds.append(pinned([*child, json.dumps(vars(job))], row.cores))
                said = f"{row.speeds[-1]:,.0f} img/s"
            except Failed as error:
                row.error = said = str(error)
            progress(f"{name}, round {number + 1} of {arguments.rounds}, cores: {row.cores}, {row.loader}: {said}")
    return rows


def table(rows: list[Row], cores: int) -> str:
    """Markdown: images a second, and how many times as fast ours are."""
    rows = [row for row in rows if row.cores == cores]
    ours = [row for row in rows if row.ours]
    lines = [
        "| " + " | ".join(["loader", "img/s", "min–max", *(f"mae, {row.loader} ÷ it" for row in ours)]) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(ours),
    ]
    for row in rows:
        if row.median is None:
            reason = (row.error or "not run").replace("|", "\\|")
            cells = [f"none: {reason}", "", *("" for _ in ours)]
        else:
            ratios = ["" if row.ours or o.median is None else f"{o.median / row.median:.2f}" for o in ours]
            cells = [f"{row.median:,.0f}", f"{min(row.speeds):,.0f}–{max(row.speeds):,.0f}", *ratios]
        lines.append("| " + " | ".join([row.label, *cells]) + " |")
    return "\n".join(lines)


def machine() -> dict:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return {
        "processor": cpuinfo.partition("model name")[2].partition("\n")[0].strip("\t :") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def core_counts(text: str) -> list[int]:
    """'1,all' and the like, as numbers that this process may use."""
    available = len(os.sched_getaffinity(0))
    counts = sorted({available if word == "all" else int(word) for word in text.split(",")})
    if counts[0] < 1 or counts[-1] > available:
        raise argparse.ArgumentTypeError(f"from 1 to {available} cores")
    return counts


def parse() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae-peers"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mae", type=lambda path: str(Path(path).resolve()), help="our binary")
    parser.add_argument("--data", nargs="+", required=True, metavar="SHARD", help="tar shards of JPEGs")
    smaller = parser.add_mutually_exclusive_group()
    smaller.add_argument("--short-side", type=int, metavar="N", help="measure also on shards that `mae shard` made smaller")
    smaller.add_argument("--prepared", nargs="+", metavar="SHARD", help="measure also on these shards")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all")
    parser.add_argument("--cores", type=core_counts, default="1,all", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, a loader and round; default: %(default)s")
    parser.add_argument("--venv", type=Path, default=cache, help="where the peers are installed; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write versions, machine and every round's figures")
    return parser.parse_args()


def installed(names: list[str], venvs: Path) -> dict:
    """By peer, the Python to run it with, or why there is none."""
    pythons = {}
    for name in names:
        progress(f"installing {name}")
        try:
            pythons[name] = install(PEERS[name], venvs.absolute())
        except Failed as error:
            pythons[name] = Failed(f"not installed, {error}")
    return pythons


def main() -> int:
    arguments = parse()
    report: dict = {"machine": machine(), "mae": command([arguments.mae, "--version"]).strip(), "sets": []}
    report |= {"seconds": arguments.seconds, "rounds": arguments.rounds}
    report["packages"] = {name: PEERS[name].packages for name in arguments.peers}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        sets = {"originals": [str(Path(path).resolve()) for path in arguments.data]}
        if arguments.short_side:
            smaller = Path(scratch) / "shards"
            sets[f"short-{arguments.short_side}"] = shard(arguments.mae, sets["originals"], smaller, arguments.short_side)
        elif arguments.prepared:
            sets["prepared"] = [str(Path(path).resolve()) for path in arguments.prepared]
        checked = {name: check_images(arguments.mae, shards) for name, shards in sets.items()}
        pythons = installed(arguments.peers, arguments.venv)
        for name, images in checked.items():
            measured = measure(arguments, pythons, name, images, Path(scratch))
            report["sets"].append({"name": name, **images, "loaders": [vars(row) | {"median": row.median} for row in measured]})
            rows += measured
            mean = f"mean {images['width']:.0f}×{images['height']:.0f}, {images['bytes'] / 1e3:.0f} kB"
            for cores in arguments.cores:
                print(f"\n### {name}: {images['images']} images, {mean}; {cores} core{'s' * (cores > 1)}\n")
                print(table(measured, cores), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{report['mae']}; {report['machine']['processor']}; median of {arguments.rounds} × {arguments.seconds:g} s")
    ours_failed = any(row.ours and row.median is None for row in rows)
    return 1 if ours_failed or not any(row.rounds for row in rows) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], Job(**json.loads(sys.argv[3])))
    else:
        try:
            sys.exit(main())
        except Failed as error:
            sys.exit(f"mae: {error}")
