"""How items are measured: medians of calls that take turns, peak memory in a process of its own, the machine's rates.

A row is a dict: name; against, what the plain way is; seconds and gigabytes, of "ours" and "plain" if there is one;
ratio, of ours to plain; targets, for the ratios, or as "seconds_limit" and "gigabytes_limit" for ours itself;
floor_seconds, what physics asks for; floor, how that was computed; to_floor, ours as a multiple of it.
"""

import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from pacl.runtime.precision import has_bfloat16

MATRIX = 1024  # rows and columns of the matrices whose product gives the machine's rate
RATE_REPEATS = 20
COPIED = 2**28  # bytes of the copy that gives its bandwidth: many times a cache


def row(
    name: str,
    seconds: dict[str, float],
    *,
    against: str = "",
    gigabytes: dict[str, float] | None = None,
    targets: dict[str, float] | None = None,
    floor_seconds: float | None = None,
    floor: str = "",
    **more,
) -> dict:
    """A row with its ratios. more: other numbers to keep in it."""
    measured = {"seconds": seconds, "gigabytes": gigabytes or {}}
    ratio = {kind: of["ours"] / of["plain"] for kind, of in measured.items() if {"ours", "plain"} <= of.keys()}
    result = {"name": name, "against": against, **measured, "ratio": ratio, "targets": targets or {}}
    if floor_seconds is not None:
        result |= {"floor_seconds": floor_seconds, "floor": floor}
        if "ours" in seconds:
            result["to_floor"] = seconds["ours"] / floor_seconds
    return result | more


def seconds(call: Callable, *arguments) -> float:
    """Processor time with one thread, which other programs disturb less; with more threads the clock's."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call(*arguments)
    return clock() - start


def medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; they take turns, so that a slow minute of the machine slows all."""
    taken = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats + 1)]
    return {name: statistics.median(of[name] for of in taken[1:]) for name in calls}  # the first turn warms up


def waited(call: Callable[[], object], repeats: int) -> float:
    """Median seconds on the clock after a first call, which warms up; a GPU's work is waited for."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def in_own_process(function: Callable, *arguments):
    """function(*arguments) in a new Python, which has imported and allocated nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def held(call: Callable[[], object]) -> float:
    """The most GB that the process held during the call, beyond what it held before. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is held now
    before = _peak()
    call()
    return (_peak() - before) / 1e9


def _peak() -> int:
    """Bytes. getrusage would count the parent's memory, too."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def product_rate(dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a large matrix product, with torch's threads."""
    matrix = torch.randn(MATRIX, MATRIX, dtype=dtype)
    return 2 * MATRIX**3 / _best(lambda: torch.mm(matrix, matrix))


def copy_rate() -> float:
    """Bytes per second that a large copy in memory reads, and writes elsewhere."""
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    return COPIED / _best(lambda: target.copy_(source))


def _best(call: Callable) -> float:
    """Seconds of the fastest of many calls: what the machine can do undisturbed."""
    return min(seconds(call) for _ in range(RATE_REPEATS))


def machine() -> dict:
    """The machine in words; load: programs that wanted a processor in the last minute, 0 on a quiet machine."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def processor() -> str:
    """Its name, and whether rows in bfloat16 are float32 on it."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    lacking = "" if has_bfloat16("cpu") else " without bfloat16 (float32 in its place)"
    return (model[1] if model else platform.machine()) + lacking
