"""Shards between `mae` and Python's webdataset, both ways.

    python tests/peers/webdataset_roundtrip.py target/release/mae [--wids]

needs webdataset, numpy and pillow. What `mae shard` writes, webdataset must read back: every image byte for byte, with
its class. What webdataset writes, plain and gzip-compressed, `mae` must read back: `mae inspect` and `mae index` see
every sample, label and size, and decode every image. The first difference ends the script with an error.

With --wids the indexed reader that webdataset carried up to 0.2 reads both sides through our index.json, too; it needs
webdataset 0.2.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import types
from collections import Counter
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

CLASSES = ["fox", "owl", "übung"]
PER_CLASS = 9
passed = 0


def check(what, actual, expected):
    global passed
    if actual != expected:
        sys.exit(f"{what}: {actual!r} instead of {expected!r}")
    passed += 1


def mae(binary, *arguments):
    """Standard output of a command that must succeed."""
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"mae {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def picture(rng, width, height):
    noise = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return noise.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def by_index(index, cache):
    """(contents by suffix) of every sample, in order, through wids."""
    # wids takes two base classes and a distributed sampler from torch; empty ones save that download.
    for name in ["torch", "torch.distributed", "torch.utils", "torch.utils.data"]:
        sys.modules[name] = types.ModuleType(name)
    base = type("Base", (), {"__class_getitem__": classmethod(lambda cls, _: cls)})
    sys.modules["torch"].distributed, sys.modules["torch"].utils = sys.modules["torch.distributed"], sys.modules["torch.utils"]
    sys.modules["torch.utils"].data = sys.modules["torch.utils.data"]
    sys.modules["torch.distributed"].is_available = lambda: False
    sys.modules["torch.utils.data"].get_worker_info = lambda: None
    sys.modules["torch.utils.data"].Dataset = sys.modules["torch.utils.data"].Sampler = base
    import wids

    dataset = wids.ShardListDataset(str(index), cache_dir=str(cache), keep=True, transformations=[])
    samples = [dataset[i] for i in range(len(dataset))]
    return [{k[1:]: v.getvalue() for k, v in s.items() if k.startswith(".")} for s in samples]


def by_offset(shards, names):
    """(key, contents by suffix) of every sample of shards, cut out of the inflated tars where index.json says."""
    index = json.loads((shards / "index.json").read_text())
    samples = []
    for shard in index["shardlist"]:
        if shard["url"] not in names:
            continue
        stored = (shards / shard["url"]).read_bytes()
        check(f"checksum of {shard['url']}", shard["md5sum"], hashlib.md5(stored).hexdigest())
        tar = gzip.decompress(stored) if stored[:2] == b"\x1f\x8b" else stored
        columns, members = shard["mae"], 0
        for key, count in zip(columns["keys"], columns["counts"]):
            rows = range(members, members + count)
            members += count
            cut = {
                columns["suffixes"][columns["suffix"][i]]: tar[columns["offset"][i] :][: columns["size"][i]] for i in rows
            }
            samples.append((key, cut))
    return samples


def streamed_by_key(names):
    """(key, contents by suffix) of every sample, through webdataset."""
    return [
        (s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")})
        for s in wds.WebDataset(names, shardshuffle=False, empty_check=False)
    ]


def from_mae(binary, folder, wids):
    """ImageFolder, `mae shard`, then webdataset."""
    rng = np.random.default_rng(0)
    expected = Counter()
    for index, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            data = jpeg(picture(rng, 24 + number, 30))
            # Dots in a name must not move into the suffix, by which webdataset finds the image.
            (folder / "images" / name / f"picture.{number}.jpg").write_bytes(data)
            expected[data, index] += 1
    shards = folder / "from-mae"
    mae(binary, "shard", folder / "images", shards, "--max-count", 10, "--shuffle", "--seed", 3)

    names = sorted(str(path) for path in shards.glob("*.tar"))
    check("shards", len(names), 3)
    check("classes", json.loads((shards / "classes.json").read_text()), CLASSES)

    streamed = list(wds.WebDataset(names, shardshuffle=False, empty_check=False))
    check("streamed samples", len(streamed), len(CLASSES) * PER_CLASS)
    check("streamed contents", Counter((s["jpg"], int(s["cls"])) for s in streamed), expected)
    keys = {f"{name}/picture_{number}" for name in CLASSES for number in range(PER_CLASS)}
    check("keys", {s["__key__"] for s in streamed}, keys)
    check("distinct keys", len({s["__key__"] for s in streamed}), len(streamed))
    decoded = list(wds.WebDataset(names, shardshuffle=False, empty_check=False).decode("rgb8").to_tuple("jpg", "cls"))
    check("decoded classes", Counter(label for _, label in decoded), Counter({i: PER_CLASS for i in range(3)}))
    check("decoded rows", {image.shape[0] for image, _ in decoded}, {30})
    check("contents by offset", by_offset(shards, {Path(name).name for name in names}), streamed_by_key(names))

    index = json.loads((shards / "index.json").read_text())
    check("index samples", [shard["nsamples"] for shard in index["shardlist"]], [10, 10, 7])
    check(
        "index sizes",
        [shard["filesize"] for shard in index["shardlist"]],
        [os.path.getsize(shards / shard["url"]) for shard in index["shardlist"]],
    )
    if wids:
        contents = Counter((s["jpg"], int(s["cls"])) for s in by_index(shards / "index.json", folder / "wids-mae"))
        check("contents by index", contents, expected)


def from_python(binary, folder, wids):
    """webdataset's writers, then `mae index` and `mae inspect`."""
    rng = np.random.default_rng(1)
    shards = folder / "from-python"
    shards.mkdir()
    with wds.ShardWriter(str(shards / "plain-%06d.tar"), maxcount=8, verbose=0) as writer:
        for number in range(20):
            image = np.asarray(picture(rng, 40, 20 + number))
            writer.write(
                {"__key__": f"dir/{number:04}", "jpg": image, "cls": number % 3, "json": {"wnid": f"n{number % 4}"}}
            )
    with wds.TarWriter(str(shards / "packed.tar.gz")) as writer:
        for number in range(5):
            writer.write({"__key__": f"z{number}", "png": np.asarray(picture(rng, 40, 25)), "cls": number})

    plain, packed = shards / "plain-{000000..000002}.tar", shards / "packed.tar.gz"
    cache = ["--cache", folder / "cache"]

    def inspect(spec, *arguments):
        report = json.loads(mae(binary, "inspect", "--json", "--all", *cache, *arguments, spec))
        check(f"problems of {spec.name}", (report["problems"], report["images"]["bad"]), ([], []))
        return report

    def labels(report):
        return {c["name"] or c["index"]: c["samples"] for c in report["labels"]["classes"]}

    for indexed in [False, True]:
        report = inspect(plain)
        check("samples", [s["samples"] for s in report["shards"]], [8, 8, 4])
        check("indexed", {s["indexed"] for s in report["shards"]}, {indexed})
        check("members", report["suffixes"], {"cls": 20, "jpg": 20, "json": 20})
        check("labels", labels(report), {0: 7, 1: 7, 2: 6})
        check("decoded", (report["images"]["examined"], report["images"]["formats"]), (20, {"jpeg": 20}))
        sides = [(report["images"][side]["min"], report["images"][side]["max"]) for side in ("width", "height")]
        check("sizes", sides, [(40, 40), (20, 39)])
        named = inspect(plain, "--label-field", "json:wnid")
        check("named labels", labels(named), {f"n{i}": 5 for i in range(4)})

        report = inspect(packed)
        check("compressed samples", (report["samples"], report["shards"][0]["compression"]), (5, "gzip"))
        check("compressed labels", labels(report), {i: 1 for i in range(5)})
        check("compressed images", report["images"]["formats"], {"png": 5})
        if not indexed:
            mae(binary, "index", *cache, plain)
    index = json.loads((shards / "index.json").read_text())
    check("counts for wids", [s["nsamples"] for s in index["shardlist"]], [8, 8, 4])
    if wids:
        read = [int(s["cls"]) for s in by_index(shards / "index.json", folder / "wids-python")]
        check("labels by index", read, [i % 3 for i in range(20)])

    # Last, since wids does not read compressed shards.
    mae(binary, "index", *cache, packed)
    check("compressed and indexed", inspect(packed)["shards"][0]["indexed"], True)
    for name in ["packed.tar.gz", *(f"plain-{number:06}.tar" for number in range(3))]:
        check(f"contents of {name} by offset", by_offset(shards, {name}), streamed_by_key([str(shards / name)]))


def main():
    if len(sys.argv) < 2 or sys.argv[2:] not in ([], ["--wids"]):
        sys.exit(__doc__)
    binary, wids = str(Path(sys.argv[1]).resolve()), len(sys.argv) > 2
    with tempfile.TemporaryDirectory() as folder:
        from_mae(binary, Path(folder), wids)
        from_python(binary, Path(folder), wids)
    print(f"webdataset {wds.__version__}{' with wids' if wids else ''}: {passed} checks")
    print(f"{passed} passed, 0 failed")


if __name__ == "__main__":
    main()
