"""Writes golden/corpus/: images of every kind that a member called .jpg may turn out to be, and what Pillow makes of them.

`loader/tests/corpus.rs` gives each to both decoders. A case with `pixels` must come out as Pillow's, one with `bad` must be refused for
that reason; what Pillow says of it is recorded for the reader. Images are small: 75 x 53, no multiple of a block.

    apt-get install libjpeg-turbo-progs
    python3 -m venv .venv && .venv/bin/pip install pillow==13.0.0 numpy
    .venv/bin/python tests/reference/corpus.py
"""

import io
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "golden" / "corpus")

CASES: list[dict] = []
# Names of the files of pixels, which cases share.
PIXELS: dict[bytes, str] = {}


def photo(width: int = 75, height: int = 53) -> Image.Image:
    """Soft shades with some texture and one hard edge."""
    y, x = np.mgrid[0:height, 0:width]
    shade = np.stack([120 + 90 * np.sin(x / 17 + y / 31), 110 + 80 * np.cos(x / 23), 90 + 60 * np.sin(y / 13)], -1)
    texture = np.random.default_rng(1).normal(0, 5, (height, width, 3))
    image = (shade + texture).clip(0, 255).round().astype(np.uint8)
    image[height // 3 : height // 2, width // 4 : width // 2] = (190, 80, 60)
    return Image.fromarray(image)


def save(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def tool(command: list[str], data: bytes) -> bytes:
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def cjpeg(*options: str, image: Image.Image | None = None) -> bytes:
    return tool(["cjpeg", "-quality", "85", *options], save(image or photo(), "PPM"))


def jpegtran(*options: str, data: bytes) -> bytes:
    return tool(["jpegtran", "-copy", "all", *options], data)


def scans(text: str, *options: str) -> bytes:
    """Of one scan for each line of `text`."""
    with tempfile.NamedTemporaryFile("w", suffix=".scans") as script:
        script.write(text)
        script.flush()
        return cjpeg("-scans", script.name, *options)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def after_start(data: bytes, insert: bytes) -> bytes:
    """With `insert` just after the start-of-image marker."""
    return data[:2] + insert + data[2:]


def find(data: bytes, marker: int) -> int:
    """Where the first segment with that marker starts."""
    at = 2
    while data[at + 1] != marker:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def frame(data: bytes, offset: int, new: bytes, marker: int = 0xC0) -> bytes:
    """With bytes of the frame header replaced: 1 the marker, 4 the precision, 5 height, 7 width, 9 components."""
    return patched(data, find(data, marker) + offset, new)


def data_start(data: bytes) -> int:
    """Where the coded data of the first scan start."""
    at = find(data, 0xDA)
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def restarts(data: bytes) -> list[int]:
    """Where the restart markers are."""
    start = data_start(data)
    return [at for at in range(start, len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def add(name: str, data: bytes, bad: str | None = None, like: str | None = None) -> None:
    """A case: Pillow's pixels, those it made of the case `like`, or `bad` for a reason that holds this text."""
    (OUT / name).write_bytes(data)
    case = {"file": name}
    try:
        image = Image.open(io.BytesIO(data))
        case["pillow"] = f"{image.format} {image.mode} {image.width}x{image.height}"
        rgb = None
        if image.width * image.height <= 1 << 20:
            image.load()
            # Of gray samples of 16 bits Pillow would cut off what is above 255; others it takes the high byte of.
            rgb = (Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode == "I;16" else image).convert("RGB")
            rgb.info.clear()
    except Exception as error:  # Whatever Pillow raises is what it says.
        case["pillow"] = f"{type(error).__name__}: {error}".split("<_io")[0].replace(str(OUT), "").strip()
        rgb = None
    if like is not None:
        case["pixels"] = next(other["pixels"] for other in CASES if other["file"] == like)
    elif bad is None:
        assert rgb is not None, (name, case["pillow"])
        pixels = save(rgb, "PNG", optimize=True)
        case["pixels"] = PIXELS.setdefault(pixels, name.replace(".", "-") + ".png")
        (OUT / case["pixels"]).write_bytes(pixels)
    else:
        case["bad"] = bad
    CASES.append(case)


def sampled() -> None:
    """Chroma of every size that libjpeg's own tool writes; factors are horizontal x vertical, luma first."""
    for name, factors in [
        ("444", "1x1"), ("422", "2x1"), ("420", "2x2"), ("440", "1x2"), ("411", "4x1"), ("410", "4x2"), ("441", "1x4"),
        ("chroma-2x1-1x2", "2x2,2x1,1x2"), ("chroma-1x2", "2x2,1x2,1x2"), ("chroma-2x1", "2x2,2x1,2x1"),
        ("chroma-unequal", "2x2,1x1,2x1"),
    ]:  # fmt: skip
        add(f"sampling-{name}.jpg", cjpeg("-sample", factors))
    for name, factors in [("1x2-of-1", "1x1,1x2,1x2"), ("2x2-of-1", "1x1,2x2,2x2")]:
        add(f"sampling-chroma-{name}.jpg", cjpeg("-sample", factors), "more coarsely")
    add("sampling-3x1.jpg", cjpeg("-sample", "3x1"), "factor of 3")
    add("sampling-420-progressive.jpg", cjpeg("-sample", "2x2", "-progressive"))
    add("sampling-440-progressive.jpg", cjpeg("-sample", "1x2", "-progressive"))
    add("sampling-411-progressive.jpg", cjpeg("-sample", "4x1", "-progressive"))
    gray = save(photo().convert("L"), quality=85)
    add("gray.jpg", gray)
    # A single component has blocks of its own size, whatever its factors say.
    for factors in [0x22, 0x21, 0x12, 0x41]:
        add(f"gray-sampling-{factors:02x}.jpg", frame(gray, 11, bytes([factors])))


def scanned() -> None:
    add("progressive.jpg", cjpeg("-progressive"))
    add("progressive-gray.jpg", cjpeg("-progressive", "-grayscale"))
    add("restart-rows.jpg", cjpeg("-restart", "1"))
    add("restart-blocks.jpg", cjpeg("-restart", "1B"))
    add("restart-444.jpg", cjpeg("-restart", "3B", "-sample", "1x1"))
    add("restart-gray.jpg", cjpeg("-restart", "2B", "-grayscale"))
    add("scans-each.jpg", scans("0;\n1;\n2;\n"), "several scans")
    add("scans-two.jpg", scans("0;\n1 2;\n"), "several scans")
    add("scans-each-restart.jpg", scans("0;\n1;\n2;\n", "-restart", "2B"), "several scans")
    add("optimized.jpg", cjpeg("-optimize"))
    add("quality-1.jpg", cjpeg("-quality", "1"))
    add("quality-100.jpg", cjpeg("-quality", "100", "-sample", "1x1"))
    add("rgb.jpg", cjpeg("-rgb"))
    add("progressive-restart.jpg", cjpeg("-progressive", "-restart", "1B"), "restart markers")
    add("arithmetic.jpg", jpegtran("-arithmetic", data=cjpeg()), "arithmetic coding")
    add("arithmetic-progressive.jpg", jpegtran("-arithmetic", "-progressive", data=cjpeg()), "arithmetic coding")


def small() -> None:
    for width, height in [(1, 1), (1, 53), (75, 1), (2, 2), (8, 8), (16, 16), (17, 9)]:
        add(f"size-{width}x{height}.jpg", cjpeg(image=photo(width, height)))
    add("size-1x1-progressive.jpg", cjpeg("-progressive", image=photo(1, 1)))
    add("size-1x1-gray.jpg", save(photo(1, 1).convert("L")))
    add("size-1x1.png.jpg", save(photo(1, 1), "PNG"))


def colours() -> None:
    cmyk = save(photo().convert("CMYK"), quality=85)
    add("cmyk.jpg", cmyk, "CMYK or YCCK")
    # The last byte of Adobe's segment tells the transform.
    adobe = find(cmyk, 0xEE)
    add("ycck.jpg", patched(cmyk, adobe + 15, b"\2"), "CMYK or YCCK")
    add("cmyk-without-adobe.jpg", cmyk[:adobe] + cmyk[adobe + 16 :], "CMYK or YCCK")
    add("three-components-adobe-ycck.jpg", after_start(cjpeg(), segment(0xEE, b"Adobe\0d\0\0\0\0\2")))
    add("two-components.jpg", frame(cjpeg(), 9, b"\2"), "2 components")


def frames() -> None:
    """By their headers: no tool at hand writes these kinds."""
    base = cjpeg()
    add("bits-12.jpg", frame(base, 4, b"\x0c"), "12 bits")
    add("bits-12-extended.jpg", frame(frame(base, 4, b"\x0c"), 1, b"\xc1"), "12 bits")
    add("extended.jpg", frame(base, 1, b"\xc1"))
    add("lossless.jpg", frame(base, 1, b"\xc3"), "lossless")
    add("hierarchical.jpg", frame(base, 1, b"\xc5"), "hierarchical")
    add("jpeg-ls.jpg", frame(base, 1, b"\xf7"), "0xF7")
    add("height-later.jpg", frame(base, 5, b"\0\0"), "height")
    add("no-columns.jpg", frame(base, 7, b"\0\0"), "no columns")
    add("claims-60000.jpg", frame(base, 5, struct.pack(">HH", 60000, 60000)), "more than the")
    add("claims-65535-progressive.jpg", frame(cjpeg("-progressive"), 5, b"\xff\xff\xff\xff", 0xC2), "more than the")
    add("claims-taller.jpg", frame(base, 5, struct.pack(">H", 93)), "")
    add("two-frames.jpg", after_start(base, base[find(base, 0xC0) : find(base, 0xC4)]), "more than one frame")
    add("no-frame.jpg", base[: find(base, 0xC0)] + base[find(base, 0xC4) :], "no frame header")
    add("no-quantization.jpg", base[: find(base, 0xDB)] + base[find(base, 0xC0) :], "")
    add("sampling-0.jpg", frame(base, 11, b"\0"), "")
    add("sampling-5.jpg", frame(base, 11, b"\x51"), "")


def metadata() -> None:
    base = cjpeg()
    tiff = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    add("exif-orientation.jpg", after_start(base, segment(0xE1, b"Exif\0\0" + tiff)))
    add("exif-cut.jpg", after_start(base, segment(0xE1, b"Exif\0\0" + tiff[:11])))
    add("exif-loop.jpg", after_start(base, segment(0xE1, b"Exif\0\0" + tiff[:-4] + struct.pack(">I", 8))))
    add("exif-noise.jpg", after_start(base, segment(0xE1, b"Exif\0\0" + np.random.default_rng(2).bytes(300))))
    add("exif-empty.jpg", after_start(base, segment(0xE1, b"")))
    add("thumbnail.jpg", after_start(base, segment(0xE1, b"Exif\0\0" + tiff + cjpeg("-progressive", image=photo(16, 12)))))
    add("exif-length-lies.jpg", after_start(base, b"\xff\xe1\xff\xffExif\0\0"), "cut off")
    add("segment-too-short.jpg", after_start(base, b"\xff\xe1\0\1"), "shorter than its length field")
    add("no-jfif.jpg", base[:2] + base[find(base, 0xDB) :])
    add("icc-noise.jpg", after_start(base, segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(40))))
    add("fill-bytes.jpg", after_start(base, b"\xff\xff\xff"))
    add("trailing-bytes.jpg", base + b"\xff\xd8 and more \xff\xd9\0\0")
    add("two-images.jpg", base + cjpeg("-progressive", image=photo(30, 20)))
    add("stray-bytes.jpg", after_start(base, b"\0\0\0\0"), "stray bytes")
    add("unknown-marker.jpg", after_start(base, segment(0x60, b"what")), "0x60")
    at = find(base, 0xDB)
    add("quantization-renumbered.jpg", patched(base, at + 4, b"\1"), "a table is missing")
    at = find(base, 0xC4)
    add("huffman-renumbered.jpg", patched(base, at + 4, b"\1"), "a table is missing")
    add("huffman-all-ones.jpg", patched(base, at + 5, b"\2"), "no code")
    for name, standard in [("dqt", 0xDB), ("dht", 0xC4)]:
        at = find(base, standard)
        add(f"{name}-cut.jpg", patched(base, at + 2, struct.pack(">H", 20)), "")


def damaged() -> None:
    base = cjpeg("-sample", "2x2")
    start = data_start(base)
    middle = start + (len(base) - start) // 2
    add("empty.jpg", b"", "neither")
    add("zeros.jpg", bytes(4000), "neither")
    add("start-only.jpg", b"\xff\xd8", "cut off")
    add("start-and-end.jpg", b"\xff\xd8\xff\xd9", "ends before its data")
    add("cut-header.jpg", base[:200], "cut off")
    add("cut-half.jpg", base[:middle], "cut off")
    add("cut-end-marker.jpg", base[:-2], "cut off")
    add("cut-zeros.jpg", base[:middle] + bytes(len(base) - middle), "cut off")
    add("cut-half-ended.jpg", base[:middle] + b"\xff\xd9", "")
    add("cut-last-bytes-ended.jpg", base[:-6] + b"\xff\xd9", "")
    add("no-data.jpg", base[:start] + b"\xff\xd9", "")
    add("marker-in-data.jpg", patched(base, middle, b"\xff\xd3"), "")
    add("segment-in-data.jpg", base[:middle] + segment(0xFE, b"a comment") + base[middle:], "")
    rows = cjpeg("-restart", "1")
    marks = restarts(rows)
    assert len(marks) >= 3
    add("restart-missing.jpg", rows[: marks[1]] + rows[marks[1] + 2 :], "")
    add("restart-twice.jpg", rows[: marks[1]] + rows[marks[1] : marks[1] + 2] + rows[marks[1] :], "")
    add("restart-order.jpg", patched(rows, marks[1] + 1, b"\xd5"), "")
    add("restart-interval-gone.jpg", rows[: marks[0]] + rows[marks[1] :], "")
    add("restart-unannounced.jpg", rows[: find(rows, 0xDD)] + rows[find(rows, 0xDD) + 6 :], "")
    progressive = cjpeg("-progressive")
    start = data_start(progressive)
    second = progressive.index(b"\xff\xc4", start)
    add("progressive-first-scan-only.jpg", progressive[:second] + b"\xff\xd9", "ends before its data")
    add("progressive-no-data.jpg", progressive[:start] + b"\xff\xd9", "")
    add("progressive-cut.jpg", progressive[: len(progressive) * 2 // 3], "cut off")


def others() -> None:
    base = photo()
    add("png.jpg", save(base, "PNG", optimize=True))
    add("png-gray.jpg", save(base.convert("L"), "PNG", optimize=True))
    add("png-gray-alpha.jpg", save(base.convert("LA"), "PNG", optimize=True))
    add("png-alpha.jpg", save(base.convert("RGBA"), "PNG", optimize=True))
    add("png-palette.jpg", save(base.quantize(16), "PNG", optimize=True))
    add("png-palette-transparent.jpg", save(base.quantize(16), "PNG", transparency=3))
    add("png-bilevel.jpg", save(base.convert("1"), "PNG"))
    add("png-16.jpg", save(Image.fromarray((np.arange(400, dtype=np.uint16) * 163).reshape(20, 20)), "PNG"), None)
    png = save(base.convert("L"), "PNG", optimize=True)
    at = png.index(b"IDAT")
    add("png-cut.jpg", png[: len(png) * 2 // 3], "cut off")
    add("png-without-end.jpg", png[:-12], "cut off")
    add("png-checksum.jpg", patched(png, at + 40, bytes([png[at + 40] ^ 4])), "corrupt")
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = chunk(b"IDAT", zlib.compress(bytes(1 << 16), 9)) + chunk(b"IEND", b"")
    add("png-claims-60000.jpg", png[:8] + chunk(b"IHDR", header) + bomb, "more than the")
    short = chunk(b"IDAT", zlib.compress(bytes(76 * 20), 9)) + chunk(b"IEND", b"")
    header = struct.pack(">IIBBBBB", 75, 53, 8, 0, 0, 0, 0)
    add("png-too-few-rows.jpg", png[:8] + chunk(b"IHDR", header) + short, "")
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(16 << 20), 9))
    add("png-text-bomb.jpg", png[:33] + text + png[33:], like="png-gray.jpg")
    add("webp.jpg", save(base, "WEBP"), "neither")
    add("gif.jpg", save(base.quantize(8), "GIF"), "neither")
    add("tiff.jpg", save(base.resize((9, 7)), "TIFF"), "neither")
    add("bmp.jpg", save(base.resize((9, 7)), "BMP"), "neither")
    add("html.jpg", b"<html><body>404 Not Found</body></html>\n", "neither")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in filter(Path.is_file, OUT.iterdir()):
        old.unlink()
    for make in [sampled, scanned, small, colours, frames, metadata, damaged, others]:
        make()
    versions = {"pillow": PIL.__version__, "cjpeg": tool(["sh", "-c", "cjpeg -version 2>&1"], b"").decode().split(" (")[0]}
    text = ",\n  ".join(json.dumps(case) for case in CASES)
    (OUT / "cases.json").write_text(f'{{"made by": {json.dumps(versions)}, "cases": [\n  {text}\n]}}\n')


if __name__ == "__main__":
    main()
