"""Several processes give what one gives, errors included."""

import multiprocessing
import os
import platform
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from tqdm import tqdm
from tqdm.auto import tqdm as tqdm_auto

from pacl.runtime import processes
from pacl.runtime.processes import in_parts, progress_bar


@pytest.fixture(autouse=True)
def three(monkeypatch):
    monkeypatch.setattr(processes, "processes", lambda: 3)


def test_ranges_follow_each_other_in_whole_batches_and_in_other_processes(monkeypatch):
    found = in_parts(lambda part: (list(part), os.getpid()), 23, 4)
    assert [len(items) for items, _ in found] == [8, 8, 7]
    assert sum((items for items, _ in found), []) == list(range(23))
    assert len({pid for _, pid in found} | {os.getpid()}) == 4
    assert in_parts(lambda part: os.getpid(), 4, 4) == [os.getpid()]  # one batch needs no other process
    assert in_parts(list, 0, 4) == []
    assert in_parts(list, 5, parts=5) == [[0], [1], [2], [3], [4]]  # more processes than cores, if asked for
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # which a fork can't use
    assert in_parts(lambda part: (part, os.getpid()), 23, 4) == [(range(23), os.getpid())]


def test_forks_compute_on_a_thread_each():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert in_parts(lambda part: torch.get_num_threads(), 9, 3) == [1, 1, 1]
    finally:
        torch.set_num_threads(before)


def test_of_forks_only_the_first_shows_its_progress(capfd):
    assert in_parts(lambda part: len(list(progress_bar(part, desc=f"from {part.start}"))), 9, 3) == [3, 3, 3]
    assert list(progress_bar(range(2), desc="own")) == [0, 1]
    shown = capfd.readouterr().err
    assert "from 0: 100%" in shown and "own: 100%" in shown and "from 3" not in shown and "from 6" not in shown


def test_an_error_waits_for_the_other_parts_and_a_death_is_named():
    """Another part's answer is a megabyte, which doesn't fit into a pipe that nobody reads."""

    def fails(part):
        if part[0] == 0:
            raise ValueError("scene 0 is bad")
        return bytes(2**20)

    with pytest.raises(ValueError, match="scene 0 is bad"):
        in_parts(fails, 9, 3)
    assert not multiprocessing.active_children()
    with pytest.raises(ChildProcessError, match="died"):
        in_parts(lambda part: os._exit(1), 9, 3)


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux lists its processes in /proc")
@pytest.mark.parametrize("seconds", [0.5, 60])
def test_forks_end_when_their_parent_is_killed(tmp_path, monkeypatch, seconds):
    """They have an answer of a megabyte that nobody reads; or they are still computing, and the system ends them."""
    if seconds < 1:
        monkeypatch.setattr(processes, "end_with_parent", lambda: None)

    def answer(part):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(seconds)
        return bytes(2**20)

    parent = multiprocessing.get_context("fork").Process(target=in_parts, args=(answer, 9, 3))
    parent.start()
    while len(list(tmp_path.iterdir())) < 3:
        time.sleep(0.05)
    parent.kill()
    parent.join()
    children = [int(path.name) for path in tmp_path.iterdir()]
    for _ in range(200):
        if not any(is_running(pid) for pid in children):
            return
        time.sleep(0.05)
    pytest.fail("a fork is left")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_lock_that_a_killed_fork_or_another_thread_holds_stops_no_fork():
    """A fork dies while it draws its bar; then the parent forks while a thread of its own draws one."""

    def dies(part):
        with tqdm.get_lock(), tqdm_auto.get_lock():
            os.kill(os.getpid(), signal.SIGKILL)

    def draws(part):
        return len(list(progress_bar(part))), len(list(tqdm_auto(part, disable=False)))

    def parent():
        list(tqdm(range(1))), list(tqdm_auto(range(1)))  # they make their locks
        with pytest.raises(ChildProcessError):
            in_parts(dies, 9, 3)
        assert draws(range(2)) == (2, 2) and in_parts(draws, 9, 3) == [(3, 3)] * 3
        with tqdm.get_lock(), tqdm_auto.get_lock():
            assert in_parts(draws, 9, 3) == [(3, 3)] * 3

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    process.join(30)
    hangs = process.is_alive()
    process.kill()
    assert not hangs and process.exitcode == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory can be told to stay")
def test_freed_memory_is_kept_for_the_next_tensor():
    """A tensor of 16 MB is 4,096 pages, which the system must hand out each time unless they are kept."""

    def pages(times: range) -> int:  # in a fork, which keeps its memory
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in times:
            torch.ones(4 * 2**20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    once, often = in_parts(pages, 2, parts=2)[0], in_parts(lambda _: pages(range(20)), 2, parts=2)[0]
    assert once >= 2000 and often < 10 * once, "twenty times as many if nothing is kept"
