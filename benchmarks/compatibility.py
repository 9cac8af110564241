"""Time and memory of phi for all pairs, forward and backward, beside a plain autograd version of the same.

    python benchmarks/compatibility.py [--out OUT.json] [--sizes B,N,K,D ...] [--repeats 5] [--threads 1]

plain: the definition as two einsums, which make [B, K, N] and [B, K, D]. pacl: pacl.model.compatibility.
matched: the same with one average an image. Times are medians of interleaved repeats, the gradient being that of the
patches; with one thread they are processor times, which other programs on the machine disturb less. Memory is the most
that a process of its own held beyond the inputs and their gradient. The floor is the fewest known multiplications,
nothing computed twice, at the rate of a large matrix product measured between the repeats.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.model import compatibility

SIZES = ["256,64,256,128", "256,196,256,512"]  # B, N, K, D of the mini world, and of ViT-B/16 at 224 pixels
PLAIN_LIMIT = 2**28  # elements of [B, K, D] from which plain is left out, as it needs several times their memory


def plain(patches: Tensor, text: Tensor) -> Tensor:
    scores = torch.einsum("bnd,kd->bkn", F.normalize(patches, dim=-1), F.normalize(text, dim=-1))
    pooled = torch.einsum("bkn,bnd->bkd", (10.0 * scores).softmax(dim=-1), patches)
    return F.cosine_similarity(pooled, text, dim=-1)


def matched(patches: Tensor, text: Tensor) -> Tensor:
    return compatibility(patches, text, pooling="matched_only")


VARIANTS = {"plain": plain, "pacl": compatibility, "matched": matched}


def variants(B: int, N: int, K: int, D: int) -> list[str]:
    fits = {"plain": B * K * D < PLAIN_LIMIT, "pacl": True, "matched": B == K}
    return [name for name in VARIANTS if fits[name]]


def inputs(B: int, N: int, K: int, D: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    patches, text, g = (torch.randn(*size, generator=rng) for size in ((B, N, D), (K, D), (B, K)))
    return patches.requires_grad_(), text, g


def seconds(call, *arguments) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call(*arguments)
    return clock() - start


def step(variant: str, patches: Tensor, text: Tensor, g: Tensor) -> None:
    torch.autograd.grad(VARIANTS[variant](patches, text), patches, g)


def times(size: list[int], repeats: int) -> dict[str, float]:
    """Seconds of each variant, and of "product", a matrix product of 1024 x 1024 x 1024."""
    given, matrix, taken = inputs(*size), torch.randn(1024, 1024), []
    for _ in range(repeats + 1):
        taken.append({name: seconds(step, name, *given) for name in variants(*size)})
        taken[-1]["product"] = statistics.median(seconds(torch.mm, matrix, matrix) for _ in range(5))
    return {name: statistics.median(row[name] for row in taken[1:]) for name in taken[0]}  # the first warms up


def memory_in_own_process(variant: str, size: list[int], threads: int) -> float:
    """GB."""
    command = [sys.executable, __file__, "--memory-of", variant, "--threads", str(threads), "--sizes"]
    run = subprocess.run([*command, ",".join(map(str, size))], capture_output=True, text=True, check=True)
    return float(run.stdout)


def memory(variant: str, size: list[int]) -> float:
    step(variant, *inputs(2, 3, 2, 4))  # what the libraries take once
    patches, text, g = inputs(*size)
    before = peak()
    step(variant, patches, text, g)
    return (peak() - before - patches.nbytes) / 1e9


def peak() -> int:
    """Bytes. Linux only; getrusage would count the parent's memory, too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def operations(B: int, N: int, K: int, D: int) -> int:
    """Scores and their gradient, and of |v|^2 either u, x x^T and their gradients, or v and its gradients."""
    return 2 * B * min(2 * N * K * D + 2 * N * N * (K + D), 5 * N * K * D)


def measure(size: list[int], repeats: int, threads: int) -> dict:
    taken = times(size, repeats)
    rate = 2 * 1024**3 / taken.pop("product")  # operations a second
    held = {name: memory_in_own_process(name, size, threads) for name in taken}
    row = {"size": dict(zip("BNKD", size, strict=True)), "seconds": taken, "gigabytes": held}
    row |= {"matrix_product_gflops": rate / 1e9, "floor_seconds": operations(*size) / rate}
    if "plain" in taken:
        row["pacl_to_plain"] = {"seconds": taken["pacl"] / taken["plain"], "gigabytes": held["pacl"] / held["plain"]}
    row["pacl_to_floor"] = taken["pacl"] / row["floor_seconds"]
    return row


def table(rows: list[dict]) -> str:
    lines = [f"{'B,N,K,D':>18} {'variant':>8} {'seconds':>9} {'of plain':>9} {'of floor':>9} {'GB':>8} {'of plain':>9}"]
    for row in rows:
        for name, taken in row["seconds"].items():
            gigabytes = row["gigabytes"][name]
            of_plain = [
                f"{value / row[what]['plain']:9.2f}" if "plain" in row[what] else f"{'-':>9}"
                for what, value in (("seconds", taken), ("gigabytes", gigabytes))
            ]
            of_floor = f"{'-':>9}" if name == "matched" else f"{taken / row['floor_seconds']:9.2f}"
            size = ",".join(map(str, row["size"].values()))
            lines.append(f"{size:>18} {name:>8} {taken:9.4f} {of_plain[0]} {of_floor} {gigabytes:8.3f} {of_plain[1]}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="B,N,K,D")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)  # for memory_in_own_process
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [[int(part) for part in size.split(",")] for size in options.sizes]
    if options.memory_of:
        print(memory(options.memory_of, sizes[0]))
        return
    rows = [measure(size, options.repeats, options.threads) for size in sizes]
    print(table(rows))
    if options.out:
        options.out.write_text(json.dumps({"threads": options.threads, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
