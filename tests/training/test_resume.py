"""Nothing is lost: training and pre-training killed at random moments, corrupt and foreign states, full disks."""

import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch._dynamo  # else torch.utils.checkpoint imports it in every fork, which takes seconds
from helpers.small_training import (
    SHORT,
    changed,
    files,
    interrupted,
    params,
    processes,
    random_pairs,
    run_pretraining,
    run_training,
    same,
)
from safetensors.torch import save_file

from pacl.checkpoints import load_embedder, save_embedder
from pacl.model import VisionEmbedder
from pacl.training import resume
from pacl.training.cached import CachedPairs
from pacl.training.resume import Progress, read_state, sole_run
from pacl.training.train import Run, train


def states_of(folder, pattern) -> set:
    """The files, none while the run removes their folder, on which glob would stumble."""
    try:
        return set(folder.glob(pattern))
    except FileNotFoundError:
        return set()


def killed_at_random_moments(start, folder, states, kills, longest):
    """Resumes a run until it ends by itself, then another one, until so many were killed that had a state to resume
    from; returns the runs' folders.

    states: where the run has them. longest: seconds from its first new state to a kill, at most.
    """
    chance, within, folders = random.Random(0), 0, []
    while within < kills:
        assert len(folders) < 10 * kills, "kills come too late: the runs end before them"
        folders.append(folder.with_name(f"{folder.name} {len(folders)}"))
        while True:
            before = states_of(folders[-1], states)
            process = start(folders[-1])
            if within < kills:
                while process.is_alive() and before == states_of(folders[-1], states):
                    time.sleep(0.005)
                process.join(chance.uniform(0, longest))
                process.kill()  # no effect on one that has ended
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break
            within += bool(states_of(folders[-1], states))
        assert process.exitcode == 0
    return folders


def started(target, folder, **options):
    folder.mkdir(exist_ok=True)
    process = processes.Process(target=target, args=(folder,), kwargs=options)
    process.start()
    return process


def test_training_killed_at_random_moments_ends_in_the_same_bytes(tmp_path):
    """Kills within the loop; everything written is compared byte by byte, history included."""
    changes = {"text_embedder": "linear", "accumulate": 2}
    started(run_training, tmp_path / "unbroken", changes=changes).join()
    expected = files(tmp_path / "unbroken/out/mini")
    assert expected.keys() == {"best.json", "best.safetensors", "last.json", "last.safetensors"}
    start = partial(started, run_training, changes=changes)
    for folder in killed_at_random_moments(start, tmp_path / "cut", "out/.resume/mini/*/step*", 6, 0.3):
        assert files(folder / "out/mini") == expected
        assert not (folder / "out/.resume/mini").exists()


def test_pretraining_killed_at_random_moments_ends_in_the_same_bytes(tmp_path):
    started(run_pretraining, tmp_path / "unbroken").join()
    expected = files(tmp_path / "unbroken")
    assert expected.keys() == {"weights.safetensors", "history.json"}
    start = partial(started, run_pretraining)
    for folder in killed_at_random_moments(start, tmp_path / "cut", "state/*/step*", 4, 0.1):
        assert files(folder) == expected


def interrupt_training(folder, steps, settings, pairs, monkeypatch, held_out=None):
    """The states of a run that is interrupted after so many steps and saves its state after each."""
    source = interrupted(CachedPairs(*pairs, settings), steps)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resume, "SAVE_SECONDS", 0)
        train(source, settings, validation=held_out or pairs, folder=folder)
    return sorted((folder.parent / ".resume" / folder.name).glob("*/*"))


def resume_training(folder, settings, pairs, held_out=None):
    """The epochs of the steps that the run takes, its weights and its history."""
    taken = []
    source = changed(CachedPairs(*pairs, settings), lambda epoch, number, batch: taken.append(epoch) or batch)
    embedder, history = train(source, settings, validation=held_out or pairs, folder=folder)
    return taken, embedder.state_dict(), history


@pytest.fixture
def case(tmp_path):
    """Settings of six epochs of six steps, and their pairs."""
    return params(**SHORT), random_pairs(tmp_path / "data", 30)


def test_an_interrupted_run_resumes_where_it_was(tmp_path, monkeypatch, case):
    """Interrupted in the third epoch, after the last step of the second, and before the first step."""
    _, weights, history = resume_training(tmp_path / "unbroken", *case)
    for steps, epochs_seen in ((14, [2, 3, 4, 5]), (12, [2, 3, 4, 5]), (0, [0, 1, 2, 3, 4, 5])):
        folder = tmp_path / f"interrupted after {steps}"
        assert len(interrupt_training(folder, steps, *case, monkeypatch)) == (2 if steps else 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            taken, found, rows = resume_training(folder, *case)
        assert sorted(set(taken)) == epochs_seen and len(taken) == 36 - steps
        assert same(found, weights) and rows == history


def test_the_rest_of_an_epoch_has_its_number_of_batches_and_their_names(tmp_path, monkeypatch, case):
    """Interrupted after two batches of the third epoch; the next source has too many batches, or a bad one."""
    settings, pairs = case
    for name in ("too many", "bad"):
        interrupt_training(tmp_path / name, 14, *case, monkeypatch)
    source = CachedPairs(*pairs, settings)
    whole = source.batches
    source.batches = lambda epoch, *who: itertools.chain(whole(epoch, *who), whole(epoch))
    _, history = train(source, settings, validation=pairs, folder=tmp_path / "too many")
    assert [row["step"] for row in history] == [6, 12, 18, 24, 30, 36]
    bad = changed(CachedPairs(*pairs, settings), lambda _, n, batch: (batch[0] / 0, *batch[1:]) if n == 3 else batch)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 15 \(epoch 3, batch 4\)"):
        train(bad, settings, validation=pairs, folder=tmp_path / "bad")


def test_the_best_weights_come_back_though_their_files_are_gone(tmp_path, monkeypatch, case):
    """DVC deletes a stage's outputs before it runs it again."""
    settings, pairs = case[0].model_copy(update={"learning_rate": 0.03}), case[1]
    unrelated = random_pairs(tmp_path / "unrelated", 30, seed=1)  # in the end learning makes these worse
    resume_training(tmp_path / "unbroken", settings, pairs, unrelated)
    expected = files(tmp_path / "unbroken")
    best = len(load_embedder(tmp_path / "unbroken/best")[1]["history"])
    assert best < 6
    interrupt_training(tmp_path / "cut", 6 * best + 3, settings, pairs, monkeypatch, unrelated)
    for path in (tmp_path / "cut").iterdir():
        path.unlink()
    resume_training(tmp_path / "cut", settings, pairs, unrelated)
    assert files(tmp_path / "cut") == expected


def test_a_corrupt_state_is_skipped_and_the_one_before_it_used(tmp_path, monkeypatch, case):
    _, weights, history = resume_training(tmp_path / "unbroken", *case)
    older, newest = interrupt_training(tmp_path / "mini", 15, *case, monkeypatch)
    assert (older.stem, newest.stem) == ("step-000000014", "step-000000015")
    newest.write_bytes(newest.read_bytes()[:-100] + bytes(100))
    with pytest.warns(UserWarning, match=r"step-000000015.safetensors is corrupt.* resumes from an earlier state"):
        taken, found, rows = resume_training(tmp_path / "mini", *case)
    assert taken.count(2) == 4 and same(found, weights) and rows == history
    for path in interrupt_training(tmp_path / "both", 15, *case, monkeypatch):
        path.write_bytes(b"corrupt")
    with pytest.warns(UserWarning, match="is corrupt") as warned:
        taken, found, _ = resume_training(tmp_path / "both", *case)
    assert len(warned) == 2 and taken.count(0) == 6 and same(found, weights)


def test_other_settings_or_data_start_again_and_lose_nothing(tmp_path, monkeypatch, case):
    settings, pairs = case
    states = interrupt_training(tmp_path / "mini", 14, *case, monkeypatch)
    kept = {path: path.read_bytes() for path in states}
    other = settings.model_copy(update={"scale": 5.0})
    with pytest.warns(UserWarning, match="belongs to a run with other settings. It is skipped: this run starts again."):
        interrupt_training(tmp_path / "mini", 3, other, pairs, monkeypatch)
    with pytest.warns(UserWarning, match="belongs to a run with other .*data, validation data"):
        interrupt_training(tmp_path / "mini", 3, settings, random_pairs(tmp_path / "others", 30, seed=1), monkeypatch)
    assert {path: path.read_bytes() for path in states} == kept
    assert resume_training(tmp_path / "mini", *case)[0].count(0) == 0
    assert not (tmp_path / ".resume/mini").exists()


def test_states_within_an_epoch_are_saved_only_when_they_are_due(tmp_path, monkeypatch, case):
    settings, pairs = case
    saved = []
    monkeypatch.setattr(Progress, "save", lambda self, step, state: saved.append(step))
    monkeypatch.setattr(Progress, "remove", lambda self: None)
    monkeypatch.setattr(Progress, "due", lambda self: saved[-1] == 6)  # soon after the second epoch's start
    train(CachedPairs(*pairs, settings), settings, folder=tmp_path / "mini")
    assert saved == [0, 6, 7, 12, 18, 24, 30, 36]


def test_a_state_holds_torchs_random_numbers(tmp_path):
    """A source may draw from them."""
    settings = params()
    run = Run(CachedPairs(*random_pairs(tmp_path), settings), settings)
    state, expected = run.state(), torch.rand(3)
    run.restore(state)
    assert torch.equal(torch.rand(3), expected)


def test_processes_that_would_resume_from_different_steps_are_refused(tmp_path, monkeypatch):
    settings = params()
    monkeypatch.setattr("pacl.training.distributed.same_everywhere", lambda number, device: False)
    with pytest.raises(ValueError, match="processes would resume from different steps: .*mini must be one folder for"):
        train(CachedPairs(*random_pairs(tmp_path), settings), settings, folder=tmp_path / "mini")


def test_foreign_states_are_named_and_skipped(tmp_path):
    mine, theirs = (Progress(tmp_path / name, {"settings": name}) for name in ("mine", "theirs"))
    theirs.save(3, {"weight": torch.ones(2)})
    mine.save(2, {"weight": torch.zeros(2)})
    foreign = mine.folder / "step-000000003.safetensors"
    foreign.write_bytes((theirs.folder / foreign.name).read_bytes())
    with pytest.warns(UserWarning, match=f"{foreign.name} belongs to a run with other settings. It is skipped"):
        assert torch.equal(Progress(tmp_path / "mine", {"settings": "mine"}).load()["weight"], torch.zeros(2))
    mine.save(4, {})
    assert sorted(path.stem for path in mine.folder.iterdir()) == ["step-000000002", "step-000000004"]
    corrupt = Progress(tmp_path / "mine", {"settings": "corrupt"})  # another run's, which needs no warning
    corrupt.save(1, {})
    torch.save({"step": 1}, corrupt.good[0])  # never unpickled
    with pytest.warns(UserWarning, match=f"{mine.folder.name}.* belongs to a run with other settings") as warned:
        assert Progress(tmp_path / "mine", {"settings": "a third"}).load() is None
    assert len(warned) == 1


def test_a_changed_number_in_a_states_header_is_found(tmp_path):
    progress = Progress(tmp_path, {})
    progress.save(1, {"rate": 0.25, "weight": torch.ones(2)})
    (path,) = progress.good
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.75"))
    with pytest.raises(ValueError, match="is corrupt: its checksum differs"):
        read_state(path)
    save_file({"step": torch.ones(1)}, path)  # intact, but not a state
    with pytest.raises(ValueError, match="is corrupt or not a saved state"):
        read_state(path)


def test_a_state_is_due_when_the_last_one_is_old_enough(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: now)
    progress, due = Progress(tmp_path, {}), []
    for now in (299.0, 300.0, 599.0, 600.0):
        due.append(progress.due())
        if now == 300.0:
            progress.save(1, {})
    assert due == [False, True, False, True]


def test_a_state_comes_back_as_it_was(tmp_path):
    shared = torch.arange(6.0)
    state = {
        "weights": {"a": torch.randn(3, 4), "b": torch.tensor(2.5), "c": torch.arange(3), "d": torch.zeros(0)},
        "moments": {0: {"step": torch.tensor(1.0)}, 1: {}},
        "rate": 0.1 + 0.2,
        "history": [{"loss": 1e-300, "pair": [1, None, True, "é"]}],
        "shared": [shared, shared.view(2, 3), shared.view(2, 3).T],  # of one memory, one in strides
    }
    Progress(tmp_path, {}).save(1, state | {"tuple": ("a", "tuple")})
    found = Progress(tmp_path, {}).load()
    assert torch.equal(found["weights"]["a"], state["weights"]["a"]) and found["weights"]["b"].shape == ()
    assert found["weights"]["c"].dtype == torch.int64 and found["weights"]["d"].shape == (0,)
    assert found["moments"].keys() == {0, 1} and found["rate"] == state["rate"] and found["history"] == state["history"]
    assert all(map(torch.equal, found["shared"], state["shared"])) and found["tuple"] == ["a", "tuple"]


# --- disks ---


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_last_good_state_and_embedder(tmp_path, monkeypatch):
    progress, small, large = Progress(tmp_path / "states", {}), VisionEmbedder(4, 4), VisionEmbedder(64, 64)
    progress.save(1, {"weight": torch.ones(10)})
    save_embedder(tmp_path / "out/best", small, {"history": [1]})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"step-000000002.safetensors was not written; make room"):
        progress.save(2, {"weight": torch.ones(10_000)})
    with pytest.raises(OSError, match="best.safetensors was not written"):
        save_embedder(tmp_path / "out/best", large, {"history": [1, 2]})
    assert [path.name for path in progress.folder.iterdir()] == ["step-000000001.safetensors"]
    assert torch.equal(Progress(tmp_path / "states", {}).load()["weight"], torch.ones(10))
    found, about = load_embedder(tmp_path / "out/best")
    assert same(found.state_dict(), small.state_dict()) and about["history"] == [1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["best.json", "best.safetensors"]


def test_a_folder_that_cannot_be_written_stops_training_before_it_starts(tmp_path, monkeypatch, case):
    settings, pairs = case
    source = CachedPairs(*pairs, settings)
    monkeypatch.setattr(source, "batches", lambda *_: pytest.fail("training started"))
    (tmp_path / "taken").write_text("a file in place of the folder")
    with pytest.raises(OSError, match="step-000000000.safetensors was not written; make room or make the folder"):
        train(source, settings, folder=tmp_path / "taken/mini")


KILLED = """
import os, sys, time
from pathlib import Path
from pacl.training.resume import sole_run
with sole_run(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(10)
        os._exit(0)
    print("training", flush=True)
    time.sleep(100)
"""


def test_a_run_resumes_while_data_loaders_of_a_killed_one_still_end(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "mini"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "training\n"
    with pytest.raises(ValueError, match="another process is training"), sole_run(tmp_path / "mini"):
        pass
    killed.kill()
    killed.wait()
    with sole_run(tmp_path / "mini"):
        pass


# --- numbers ---


def test_last_is_of_a_full_epoch_after_a_resumed_run_is_interrupted_again(tmp_path, monkeypatch, case):
    interrupt_training(tmp_path / "once", 12, *case, monkeypatch)
    for steps in (15, 16):  # in the third epoch; the resumed run is interrupted before that epoch's end
        interrupt_training(tmp_path / "twice", steps, *case, monkeypatch)
    (once, about), (twice, again) = (load_embedder(tmp_path / name / "last") for name in ("once", "twice"))
    assert same(once.state_dict(), twice.state_dict()) and about["history"] == again["history"]


def test_a_bad_number_leaves_the_last_good_state(tmp_path, case):
    """The second epoch has tokens that are not numbers: the first epoch's state is kept."""
    settings, pairs = case

    def spoil(epoch, number, batch):
        return (batch[0] / 0, *batch[1:]) if (epoch, number) == (1, 2) else batch

    source = changed(CachedPairs(*pairs, settings), spoil)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 8 \(epoch 2, batch 3\): the tokens of its"):
        train(source, settings, folder=tmp_path / "mini")
    (state,) = (tmp_path / ".resume/mini").glob("*/*6.safetensors")
    assert all(np.isfinite(tensor.numpy()).all() for tensor in read_state(state)[1].values())
    assert len(load_embedder(tmp_path / "mini/last")[1]["history"]) == 1
