"""A long computation on a CPU in as many processes as there are cores: many small operations are faster side by side, a
thread each, than one after the other on all threads.
"""

import ctypes
import os
import pickle
import platform
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context

import torch
import tqdm.auto

shown = None  # in a fork: whether its progress is shown, which is that of the first part only


def in_parts(compute: Callable[[range], object], count: int, multiple: int = 1, *, parts: int | None = None) -> list:
    """compute(range) of consecutive ranges of `count` items, in their order; all but the last range have a length that
    `multiple` divides, so that batches are those of one process.

    parts: how many ranges, each a process; one a core if not given. The processes are forks, which share what compute
    holds; with a GPU, which a fork can't use, there is one range and no fork. Raises what a process raised, and
    ChildProcessError for one that died.
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
    answers = [_receive(*one) for one in started]  # of all, or one that has much to say would wait for a reader
    for _, error in answers:
        if error:
            raise error
    return [result for result, _ in answers]


def progress_bar(items=None, **options) -> tqdm.tqdm:
    """tqdm's bar over items, in a notebook its widget; in a fork, which can't reach the notebook, a line of text."""
    if shown is None:
        return tqdm.auto.tqdm(items, mininterval=5, **options)
    return tqdm.tqdm(items, mininterval=5, **(options | {"disable": not shown}))


def processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def keep_freed_memory() -> None:
    """From now on this process keeps what its tensors leave, up to 32 MB a tensor, for its next ones: to take it from
    the system anew at every step is a quarter of the time of training on tokens of a small CLIP. Linux, glibc only.
    """
    if platform.libc_ver()[0] == "glibc":
        libc, megabyte = ctypes.CDLL(None), 2**20
        for option, value in ((-3, 32), (-2, 64), (-1, 2047)):  # M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD
            libc.mallopt(option, value * megabyte)


def _send(compute, part: range, sender, inherited: list) -> None:
    global shown
    end_with_parent()
    shown = part.start == 0
    for receiver in inherited:  # or there would be a reader, this process itself, when the parent is killed
        receiver.close()
    keep_freed_memory()
    torch.set_num_threads(1)  # a fork must not use the threads that its parent had
    try:
        answer = compute(part), None
    except Exception as error:  # told to the parent, whatever it is
        answer = None, error
    with suppress(BrokenPipeError):  # the parent was killed
        sender.send_bytes(pickle.dumps(answer))  # plain bytes: a tensor in shared memory would end with this process


def _receive(process, receiver) -> tuple:
    """What the process computed and the error that it ended in, None for none."""
    try:
        answer = pickle.loads(receiver.recv_bytes())
    except EOFError:
        answer = None, ChildProcessError("a process of the evaluation died: is there enough memory?")
    process.join()
    return answer


def end_with_parent() -> None:
    """From now on this process is killed when the one that started it ends, and doesn't write on. Linux only."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
