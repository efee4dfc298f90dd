"""Shards behind real servers: nginx with and without ranges, and S3 as moto's server plays it.

    python tests/peers/servers.py target/release/mae

needs numpy, pillow, boto3, moto[server] and nginx. A short pre-training reads the same shards from the disk and from each server, with and
without an index, with and without a cache, plain and compressed: the weights must be the same to the bit. The first difference ends
the script with an error.
"""

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import boto3
import numpy as np
from PIL import Image

SHARDS, SAMPLES = 3, 24
BUCKET = "pictures"


def write_shards(folder):
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as tar:
            for sample in range(SAMPLES):
                small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
                file = io.BytesIO()
                small.resize((80 + sample, 64), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
                for suffix, data in [("cls", str(sample % 4).encode()), ("jpg", file.getvalue())]:
                    member = tarfile.TarInfo(f"{shard}{sample:03d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def mae(binary, *arguments, env=None):
    command = [binary, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done


def weights(binary, scratch, data, *flags, env=None):
    """SHA-256 of what a short training leaves, and what it logged."""
    run = Path(tempfile.mkdtemp(dir=scratch))
    done = mae(
        binary, "pretrain", "--data", data, "--model", "mae-micro-patch4", "--decoder-depth", 1, "--batch-size", 12,
        "--epochs", 2, "--warmup-epochs", 1, "--lr", "1e-3", "--output-dir", run, *flags, env=env,
    )  # fmt: skip
    newest = max((run / "checkpoints").iterdir())
    return hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest(), done.stderr


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"no server on port {port} after 10 seconds")


def nginx(scratch, root):
    """A server of `root` with ranges, and another without."""
    ports = [free_port(), free_port()]
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port}; root {root}; {extra} }}" for port, extra in zip(ports, ["", "max_ranges 0;"])
    )
    temporary = "".join(
        f"{kind}_temp_path {scratch}/nginx-{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    user = "user root;" if os.geteuid() == 0 else ""
    config = scratch / "nginx.conf"
    config.write_text(
        f"{user} daemon off; pid {scratch}/nginx.pid; error_log {scratch}/nginx.log; events {{}}"
        f"http {{ access_log {scratch}/access.log; {temporary} {servers} }}"
    )
    process = subprocess.Popen(["nginx", "-c", config, "-e", scratch / "nginx-start.log"])
    for port in ports:
        wait_for(port)
    return process, [f"http://127.0.0.1:{port}" for port in ports]


def moto(folder):
    port = free_port()
    server = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port)
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    for path in sorted(folder.iterdir()):
        client.upload_file(str(path), BUCKET, f"data/{path.name}")
    return process, env


def main(binary):
    scratch = Path(tempfile.mkdtemp())
    processes = []
    try:
        run(binary, scratch, processes)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def run(binary, scratch, processes):
    os.chmod(scratch, 0o755)
    data = scratch / "data"
    data.mkdir()
    write_shards(data)
    braces = f"train-{{000000..{SHARDS - 1:06d}}}.tar"
    expected, _ = weights(binary, scratch, data / braces)
    checked = 0

    def check(what, spec, *flags, env=None, say=None):
        nonlocal checked
        found, log = weights(binary, scratch, spec, *flags, env=env)
        if found != expected:
            sys.exit(f"{what}: other weights than from the disk\n{log}")
        if say and say not in log:
            sys.exit(f"{what}: the log does not say `{say}`\n{log}")
        checked += 1
        print(f"{what}: as from the disk")

    process, (ranged, whole) = nginx(scratch, scratch)
    processes.append(process)
    check("nginx, no index", f"{ranged}/data/{braces}", say="no entry in an index")
    check("nginx without ranges, no index", f"{whole}/data/{braces}", "--cache", scratch / "cache-0")

    # An index made from afar, kept on this machine.
    index = scratch / "mine.json"
    mae(binary, "index", f"{ranged}/data/{braces}", "--output", index)
    urls = [shard["url"] for shard in json.loads(index.read_text())["shardlist"]]
    if urls != [f"{ranged}/data/train-{shard:06d}.tar" for shard in range(SHARDS)]:
        sys.exit(f"mae index --output lists {urls}")
    check("nginx, an index of one's own", index)

    mae(binary, "index", data)
    check("nginx, index beside the shards", f"{ranged}/data/{braces}")
    check("nginx, the folder", f"{ranged}/data/")
    check("nginx, the index by name", f"{ranged}/data/index.json")
    check("nginx, cache", f"{ranged}/data/{braces}", "--cache", scratch / "cache-1")
    before = (scratch / "access.log").read_text().count(".tar")
    check("nginx, cache, again", f"{ranged}/data/{braces}", "--cache", scratch / "cache-1")
    requests = (scratch / "access.log").read_text().count(".tar") - before
    if requests != SHARDS:
        sys.exit(f"{requests} requests for {SHARDS} shards that are in the cache")
    check("nginx without ranges", f"{whole}/data/{braces}", "--cache", scratch / "cache-2")
    size = (data / "train-000000.tar").stat().st_size
    check("nginx, cache for two of three", f"{ranged}/data/{braces}", "--cache", scratch / "cache-5", "--cache-size", int(2.5 * size), "--window", "all")  # fmt: skip

    process, env = moto(data)
    processes.append(process)
    check("S3", f"s3://{BUCKET}/data/{braces}", env=env)
    check("S3, the folder", f"s3://{BUCKET}/data/", env=env)
    client = boto3.client("s3", endpoint_url=env["AWS_ENDPOINT_URL"], aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1")  # fmt: skip
    client.delete_object(Bucket=BUCKET, Key="data/index.json")
    check("S3, the folder, listed", f"s3://{BUCKET}/data/", env=env)

    compressed = scratch / "gz"
    compressed.mkdir()
    for path in sorted(data.glob("*.tar")):
        subprocess.run(["gzip", "-kc", path], stdout=open(compressed / f"{path.name}.gz", "wb"), check=True)
    # The names of shards are part of the order, so the comparison is with these from the disk.
    spec = f"train-{{000000..{SHARDS - 1:06d}}}.tar.gz"
    expected, _ = weights(binary, scratch, compressed / spec, "--cache", scratch / "cache-3")
    check("nginx, gzip", f"{ranged}/gz/{spec}", "--cache", scratch / "cache-4")

    refused = subprocess.run(
        [binary, "inspect", f"{ranged}/data/nothing.tar?key=secret"], capture_output=True, text=True
    )
    if refused.returncode != 1 or "nothing.tar" not in refused.stderr or "secret" in refused.stderr:
        sys.exit(f"a missing shard: exit code {refused.returncode}\n{refused.stderr}")
    print(f"{checked} ways to the same weights")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(os.path.abspath(sys.argv[1]))
