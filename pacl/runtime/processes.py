"""Splits a long computation on a CPU over one process per core: many small operations run faster in parallel, each on
one thread, than one after another on all threads.
"""

import ctypes
import os
import pickle
import platform
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context

import torch
import tqdm.auto

shown = None  # in a fork, whether it shows its progress: only the first part's does


def in_parts(compute: Callable[[range], object], count: int, multiple: int = 1, *, parts: int | None = None) -> list:
    """Results of compute(range) for consecutive ranges of `count` items, in order. `multiple` divides the length of all
    ranges but the last, so that batches are the same as in one process.

    parts: number of ranges, each a process; by default one per core. The processes are forks, which share what compute
    holds. With a GPU, which a fork can't use, there is one range and no fork. Raises what a process raised, and
    ChildProcessError if one died.
    """
    if torch.cuda.is_available():
        return [compute(range(count))] if count else []
    each = max(1, -(-count // ((parts or processes()) * multiple))) * multiple
    ranges = [range(start, min(start + each, count)) for start in range(0, count, each)]
    if len(ranges) < 2:
        return [compute(part) for part in ranges]
    context = get_context("fork")
    started = []
    for part in ranges:
        receiver, sender = context.Pipe(duplex=False)
        inherited = [*(other for _, other in started), receiver]
        process = context.Process(target=_send, args=(compute, part, sender, inherited), daemon=True)
        process.start()
        sender.close()
        started.append((process, receiver))
    answers = [_receive(*one) for one in started]  # all, or a fork with a long answer would wait for a reader
    for _, error in answers:
        if error:
            raise error
    return [result for result, _ in answers]


def progress_bar(items=None, **options) -> tqdm.tqdm:
    """tqdm's bar over items: a widget in a notebook; a line of text in a fork, which can't reach the notebook."""
    if shown is None:
        return tqdm.auto.tqdm(items, mininterval=5, **options)
    return tqdm.tqdm(items, mininterval=5, **(options | {"disable": not shown}))


def processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def keep_freed_memory() -> None:
    """Makes this process keep freed tensors' memory, up to 32 MB each, for its next ones. Asking the system again at
    every step takes a quarter of the time of training on a small CLIP's tokens. Linux with glibc only.
    """
    if platform.libc_ver()[0] == "glibc":
        libc, megabyte = ctypes.CDLL(None), 2**20
        for option, value in ((-3, 32), (-2, 64), (-1, 2047)):  # M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD
            libc.mallopt(option, value * megabyte)


def _send(compute, part: range, sender, inherited: list) -> None:
    global shown
    end_with_parent()
    shown = part.start == 0
    for receiver in inherited:  # else this process would be a reader itself once the parent is killed
        receiver.close()
    keep_freed_memory()
    take_own_locks()
    torch.set_num_threads(1)  # a fork must not use the threads that its parent had
    try:
        answer = compute(part), None
    except Exception as error:  # the parent raises it
        answer = None, error
    with suppress(BrokenPipeError):  # the parent was killed
        sender.send_bytes(pickle.dumps(answer))  # bytes: a shared-memory tensor ends with this process


def take_own_locks() -> None:
    """Gives a fork a lock of its own for its progress bars. It dies with tqdm's, which all forks share, if it is killed
    while it draws, and may have been made while a thread of the parent held it: others, or it, would wait for ever.
    """
    for bar in (tqdm.tqdm, tqdm.auto.tqdm):
        bar.set_lock(threading.RLock())


def _receive(process, receiver) -> tuple:
    """A process's result and its error, either None."""
    try:
        answer = pickle.loads(receiver.recv_bytes())
    except EOFError:
        answer = None, ChildProcessError("a process of the evaluation died: check that there is enough memory.")
    process.join()
    return answer


def end_with_parent() -> None:
    """Has the system kill this process when its parent ends, so that it writes no more. Linux only."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
