"""Writes golden/corpus/tars/: tars of every kind, and the samples that Python's webdataset reads from them.

`loader/tests/corpus/tars.rs` compares: the same samples, or an error that holds the text of `error`. Members hold a few bytes; the
Rust side looks at keys, suffixes and contents, not at images.

    python3 -m venv .venv && .venv/bin/pip install webdataset==1.0.2
    .venv/bin/python tests/reference/corpus_tars.py     # needs GNU tar
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from webdataset.tariterators import group_by_keys, tar_file_expander

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "golden" / "corpus" / "tars")

CASES: list[dict] = []


def member(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT, records: dict | None = None) -> bytes:
    """Ends in two blocks of zeros, without more padding."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=records) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    data = out.getvalue()
    return data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512 + 1024)


def gnu_tar(*options: str) -> bytes:
    """By GNU tar: a file with a hole, and a plain one."""
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder) / "a.jpg", "wb") as file:
            file.write(b"before")
            file.seek(1 << 16)
            file.write(b"after")
        (Path(folder) / "b.jpg").write_bytes(b"plain")
        for name in os.listdir(folder):
            os.utime(Path(folder) / name, (0, 0))
        command = ["tar", "--create", "--sparse", "--hole-detection=raw", "--blocking-factor=1", "--owner=0", "--group=0", "--numeric-owner"]
        return subprocess.run([*command, *options, "a.jpg", "b.jpg"], cwd=folder, stdout=subprocess.PIPE, check=True).stdout


def python_reads(data: bytes) -> list | str:
    """Samples as keys and, by suffix, sizes and checksums; or what webdataset raises."""

    def fail(error: Exception) -> bool:
        raise error

    try:
        files = tar_file_expander([{"url": "x.tar", "stream": io.BytesIO(data)}], handler=fail)
        samples = []
        for sample in group_by_keys(files, handler=fail):
            members = {key: value for key, value in sample.items() if not key.startswith("__")}
            sums = [[name, len(value), hashlib.sha256(value).hexdigest()[:16]] for name, value in members.items()]
            samples.append([sample["__key__"], sums])
        return samples
    except Exception as error:  # Whatever is raised is what it says.
        return f"{type(error).__name__}: {re.sub('<_io[^>]*>', 'file', str(error))[:60]}"


def add(name: str, data: bytes, error: str | None = None) -> None:
    """A case: the samples that webdataset reads, or an error that holds this text."""
    (OUT / name).write_bytes(data)
    case = {"file": name, "webdataset": python_reads(data)}
    if error is not None:
        case["error"] = error
    else:
        assert isinstance(case["webdataset"], list), case
    CASES.append(case)


def names() -> None:
    long = f"{'folder' * 20}/{'name' * 30}"
    both = [member("1.jpg", b"first"), member(f"{long}.jpg", b"long"), member(f"{long}.cls", b"3"), member("2.jpg", b"last")]
    add("gnu-long-names.tar", tar(*both, form=tarfile.GNU_FORMAT))
    add("pax-long-names.tar", tar(*both, form=tarfile.PAX_FORMAT))
    add("ustar-prefix.tar", tar(member(f"{'folder/' * 20}1.jpg", b"one")))
    words = [member("Bäume/Öl.jpg", b"one"), member("木.jpg", b"two"), member("木.seg.PNG", b"three")]
    add("pax-unicode.tar", tar(*words, form=tarfile.PAX_FORMAT))
    add("gnu-unicode.tar", tar(*words, form=tarfile.GNU_FORMAT))
    add("pax-global.tar", tar(member("1.jpg", b"one"), form=tarfile.PAX_FORMAT, records={"comment": "all of it"}))
    add("pax-times.tar", tar(member("1.jpg", b"one", mtime=1.5), member("2.jpg", b"two", mtime=2.5), form=tarfile.PAX_FORMAT))
    add("folders-and-dots.tar", tar(
        member("./a/1.jpg", b"one"), member("./a/1.cls", b"1"), member("a.b/2.jpg", b"two"),
        member("a.b/noextension", b"?"), member("3.tar.gz", b"three"), member(".jpg", b"?"),
        member("__meta__", b"{}"), member("5.JPG", b"five"),
    ))  # fmt: skip
    add("keys-return.tar", tar(member("1.jpg", b"one"), member("2.jpg", b"two"), member("1.cls", b"1"), member("1.jpg", b"three")))


def kinds() -> None:
    good = member("1.jpg", b"one")
    last = member("9.jpg", b"nine")
    for kind, name in [(tarfile.SYMTYPE, "symbolic-link"), (tarfile.LNKTYPE, "hard-link")]:
        add(f"{name}.tar", tar(good, member("2.jpg", type=kind, linkname="1.jpg"), last))
        long = member("3.jpg", type=kind, linkname="x" * 200)
        add(f"{name}-long.tar", tar(good, long, last, form=tarfile.GNU_FORMAT))
    devices = [(tarfile.CHRTYPE, "2.jpg"), (tarfile.BLKTYPE, "3.jpg"), (tarfile.FIFOTYPE, "4.jpg"), (tarfile.DIRTYPE, "5.jpg")]
    add("devices.tar", tar(good, *(member(name, type=kind) for kind, name in devices), last))
    add("old-and-contiguous.tar", tar(member("1.jpg", b"one", type=tarfile.AREGTYPE), member("2.jpg", b"two", type=tarfile.CONTTYPE)))
    add("old-folder.tar", tar(member("1.jpg/", b"", type=tarfile.AREGTYPE), last))
    add("unknown-kind.tar", tar(good, member("2.jpg", b"two", type=b"Z"), last))
    add("empty-members.tar", tar(member("1.jpg"), member("1.cls"), member("2.jpg", b"two")))
    add("sparse-gnu.tar", gnu_tar("--format=gnu"), "a sparse member")
    for form in ["0.0", "0.1", "1.0"]:
        add(f"sparse-pax-{form}.tar", gnu_tar("--format=posix", f"--sparse-version={form}", "--pax-option=delete=atime,delete=ctime,exthdr.name=x"), "a sparse member")


def ends() -> None:
    one, two = tar(member("1.jpg", b"one")), tar(member("2.jpg", b"two"))
    add("two-tars.tar", one + two)
    add("two-tars-far.tar", one + bytes(10240 - len(one)) + two)
    add("two-tars-joined.tar", one[:-1024] + two)
    add("no-end.tar", one[:-1024])
    add("half-an-end.tar", one[:-512])
    add("padded.tar", one + bytes(10240))
    add("text-behind.tar", one + b"text" * 100)
    add("one-zero-block-between.tar", one[:-512] + two)
    add("nothing-in-it.tar", bytes(1024), "no usable sample")
    add("empty.tar", b"", "")
    add("text.tar", b"<html>404 Not Found</html>" * 40, "not a tar")


def damage() -> None:
    three = tar(member("1.jpg", b"one"), member("2.jpg", b"two"), member("3.jpg", b"three"))
    broken = bytearray(three)
    broken[1024 + 3] ^= 1
    add("checksum.tar", bytes(broken), "byte 1024")
    broken = bytearray(three)
    broken[0] ^= 1
    add("checksum-first.tar", bytes(broken), "byte 0")
    add("duplicate-suffix.tar", tar(member("1.jpg", b"one"), member("1.JPG", b"two")), "repeats a suffix")
    add("duplicate-member.tar", tar(member("1.jpg", b"one"), member("1.jpg", b"one")), "repeats a suffix")
    add("cut-in-data.tar", tar(member("1.jpg", b"one"), member("2.jpg", bytes(3000)))[:2500], "cut off")
    add("cut-in-header.tar", three[:1200], "cut off")
    # The sum of bytes taken as signed, as some old tars wrote it.
    latin = bytearray(tar(member("ä.jpg", b"one")))
    total = sum(byte - 256 if byte > 127 else byte for byte in latin[:512]) - sum(latin[148:156]) + 8 * 32
    latin[148:156] = b"%06o\0 " % total
    add("checksum-signed.tar", bytes(latin), "")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for make in [names, kinds, ends, damage]:
        make()
    versions = {"webdataset": version("webdataset"), "python": sys.version.split()[0]}
    text = ",\n  ".join(json.dumps(case) for case in CASES)
    (OUT / "cases.json").write_text(f'{{"made by": {json.dumps(versions)}, "cases": [\n  {text}\n]}}\n')


if __name__ == "__main__":
    main()
