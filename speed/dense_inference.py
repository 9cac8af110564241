"""Time and memory of dense patch tokens: one joint pass of overlapping patches beside shifted plain passes.

    python benchmarks/dense_inference.py [--out OUT.json] [--size 400] [--stride 4] [--threads 2] [--repeats 1]

One image of size x size pixels through ViT-B-16 in float32; its weights are random, which costs the same. Each variant
runs in a process of its own, after a small image. Seconds and processor seconds, of all threads together, which other
programs on the machine disturb less, are medians; memory is the most that a process held beyond the loaded model and
the image, in another process, whose allocator returns what a tensor leaves at once: what the tensors need, without
the leftovers beside it that differ from run to run. Linux with glibc only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from pacl.clip import load_clip
from pacl.clip.frozen import PASSES

RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # bytes of a tensor from which on its memory is


def run(passes: str, size: int, stride: int, threads: int, repeats: int) -> dict:
    """Of this process."""
    torch.set_num_threads(threads)
    clip = load_clip("ViT-B-16", "random", device="cpu")
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    clip.patch_features(images[..., :64, :64], stride, passes=passes)  # what the libraries take once
    before = restarted_peak()
    taken = [timed(clip.patch_features, images, stride, passes=passes) for _ in range(repeats)]
    seconds, processor_seconds = (statistics.median(values) for values in zip(*taken, strict=True))
    return {"seconds": seconds, "processor_seconds": processor_seconds, "gigabytes": (peak() - before) / 1e9}


def timed(call, *arguments, **options) -> tuple[float, float]:
    start, processor = time.perf_counter(), time.process_time()
    call(*arguments, **options)
    return time.perf_counter() - start, time.process_time() - processor


def restarted_peak() -> int:
    """Forgets what loading the model took for a moment."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def run_in_own_process(passes: str, allocator: dict, **settings: int) -> dict:
    options = [f"--{name}={value}" for name, value in settings.items()]
    command, environment = [sys.executable, __file__, "--only", passes, *options], os.environ | allocator
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)


def run_in_two_processes(passes: str, **settings: int) -> dict:
    """Times with the system's allocator as it is, memory with one that returns it."""
    memory = run_in_own_process(passes, RETURNED_AT_ONCE, **(settings | {"repeats": 1}))["gigabytes"]
    return run_in_own_process(passes, {}, **settings) | {"gigabytes": memory}


def measure(size: int = 400, stride: int = 4, threads: int = 2, repeats: int = 1) -> dict:
    settings = {"size": size, "stride": stride, "threads": threads, "repeats": repeats}
    row = {**settings, **{passes: run_in_two_processes(passes, **settings) for passes in PASSES}}
    return row | {"shifted_to_joint": {what: value / row["joint"][what] for what, value in row["shifted"].items()}}


def table(row: dict) -> str:
    lines = [f"{'':>16} {'seconds':>9} {'processor s':>12} {'GB':>7}"]
    for name in (*PASSES, "shifted_to_joint"):
        seconds, processor_seconds, gigabytes = row[name].values()
        lines.append(f"{name:>16} {seconds:9.2f} {processor_seconds:12.2f} {gigabytes:7.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    parser.add_argument("--size", type=int, default=400, help="pixels a side")
    parser.add_argument("--stride", type=int, default=4, help="pixels between tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=PASSES, help=argparse.SUPPRESS)  # for run_in_own_process
    options = vars(parser.parse_args())
    out, only = options.pop("out"), options.pop("only")
    if only:
        print(json.dumps(run(only, **options)))
        return
    row = measure(**options)
    print(table(row))
    if out:
        out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
