"""Nothing is lost: training and pre-training killed at random moments, torn and foreign states, disks that are full."""

import errno
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.small_training import SHORT, params, processes, random_pairs, run_pretraining, run_training
from safetensors.torch import save_file

from pacl.checkpoints import load_embedder, save_embedder
from pacl.model import VisionEmbedder
from pacl.runtime.files import write_durably
from pacl.training import resume
from pacl.training.cached import CachedPairs
from pacl.training.resume import Progress, read_state, sole_run
from pacl.training.train import Run, identify, train, train_profile


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def states_of(folder, pattern) -> set:
    """The files, none while the run removes their folder, on which glob would stumble."""
    try:
        return set(folder.glob(pattern))
    except FileNotFoundError:
        return set()


def killed_at_random_moments(start, folder, states, kills, longest):
    """Goes on with a run until it ends by itself, then with another one, until so many were killed that had a state
    to go on from; returns the runs' folders.

    states: where the run has them. longest: seconds from its first new state to a kill, at most.
    """
    chance, within, folders = random.Random(0), 0, []
    while within < kills:
        assert len(folders) < 10 * kills, "kills come too late: the runs end before them"
        folders.append(folder.with_name(f"{folder.name} {len(folders)}"))
        while True:
            before = states_of(folders[-1], states)
            process = start(folders[-1])
            while process.is_alive() and before == states_of(folders[-1], states):
                time.sleep(0.002)
            process.join(chance.uniform(0, longest))
            process.kill()  # nothing to one that has ended
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break
            within += bool(states_of(folders[-1], states))
        assert process.exitcode == 0
    return folders


@pytest.mark.parametrize("changes", [{}, {"text_embedder": "linear", "accumulate": 2}], ids=["default", "text head"])
def test_training_killed_at_random_moments_ends_in_the_same_bytes(tmp_path, changes):
    """Twice ten kills within the loop; what is written is compared byte by byte, history included."""

    def start(folder):
        folder.mkdir(exist_ok=True)
        process = processes.Process(target=run_training, args=(folder, changes))
        process.start()
        return process

    unbroken = start(tmp_path / "unbroken")
    unbroken.join()
    assert unbroken.exitcode == 0
    expected = files(tmp_path / "unbroken/out/mini")
    assert expected.keys() == {"best.json", "best.safetensors", "last.json", "last.safetensors"}
    for folder in killed_at_random_moments(start, tmp_path / "cut", "out/.resume/mini/*/step*", 10, 0.1):
        assert files(folder / "out/mini") == expected
        assert not (folder / "out/.resume/mini").exists()


def test_pretraining_killed_at_random_moments_ends_in_the_same_bytes(tmp_path):
    def start(folder):
        folder.mkdir(exist_ok=True)
        process = processes.Process(target=run_pretraining, args=(folder,))
        process.start()
        return process

    start(tmp_path / "unbroken").join()
    expected = files(tmp_path / "unbroken")
    assert expected.keys() == {"weights.safetensors", "history.json"}
    for folder in killed_at_random_moments(start, tmp_path / "cut", "state/*/step*", 4, 0.1):
        assert files(folder) == expected


def cut_training(folder, steps, settings, pairs, monkeypatch, held_out=None):
    """Its saved states: a run that ends with an error after so many steps, its state saved after each."""
    source = CachedPairs(*pairs, settings)
    whole = source.epoch

    def epoch(number, rank=0, world=1, start=0):
        for i, batch in enumerate(whole(number, rank, world, start), start):
            if number * source.steps + i == steps:
                raise KeyboardInterrupt
            yield batch

    source.epoch = epoch
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resume, "SAVE_SECONDS", 0)
        train(source, settings, validation=held_out or pairs, folder=folder)
    return sorted((folder.parent / ".resume" / folder.name).glob("*/*"))


def go_on(folder, settings, pairs, held_out=None):
    """The steps that the run takes, and its weights and history."""
    source, taken = CachedPairs(*pairs, settings), []
    whole = source.epoch
    source.epoch = lambda number, *who: (taken.append(number) or batch for batch in whole(number, *who))
    embedder, history = train(source, settings, validation=held_out or pairs, folder=folder)
    return taken, embedder.state_dict(), history


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


def test_a_cut_run_goes_on_where_it_was(tmp_path, monkeypatch):
    """Cut in the third epoch, after the last step of the second, and before the first step."""
    settings, pairs = params(**SHORT), random_pairs(tmp_path / "data", 30)
    _, weights, history = go_on(tmp_path / "unbroken", settings, pairs)
    for steps, epochs_seen in ((14, [2, 3, 4, 5]), (12, [2, 3, 4, 5]), (0, [0, 1, 2, 3, 4, 5])):
        folder = tmp_path / f"cut after {steps}"
        assert len(cut_training(folder, steps, settings, pairs, monkeypatch)) == (2 if steps else 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            taken, found, rows = go_on(folder, settings, pairs)
        assert sorted(set(taken)) == epochs_seen and len(taken) == 36 - steps
        assert equal(found, weights) and rows == history


def test_the_rest_of_an_epoch_has_its_number_of_batches_and_their_names(tmp_path, monkeypatch):
    """Cut after two batches of the third epoch; the sources it goes on with have too many batches, or a bad one."""
    settings, pairs = params(**SHORT), random_pairs(tmp_path / "data", 30)
    for name in ("too many", "bad"):
        cut_training(tmp_path / name, 14, settings, pairs, monkeypatch)
    source = CachedPairs(*pairs, settings)
    whole = source.epoch
    source.epoch = lambda number, *who: itertools.chain(whole(number, *who), whole(number))
    _, history = train(source, settings, validation=pairs, folder=tmp_path / "too many")
    assert [row["step"] for row in history] == [6, 12, 18, 24, 30, 36]
    source.epoch = lambda number, *who: (
        (tokens / 0 if i == 1 else tokens, *texts) for i, (tokens, *texts) in enumerate(whole(number, *who))
    )
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 15 \(epoch 3, batch 4\)"):
        train(source, settings, validation=pairs, folder=tmp_path / "bad")


def test_the_best_weights_come_back_though_their_files_are_gone(tmp_path, monkeypatch):
    """DVC deletes a stage's outputs before it runs it again."""
    settings, pairs = params(**SHORT | {"learning_rate": 0.03}), random_pairs(tmp_path / "data", 30)
    unrelated = random_pairs(tmp_path / "unrelated", 30, seed=1)  # in the end learning makes these worse
    go_on(tmp_path / "unbroken", settings, pairs, unrelated)
    expected = files(tmp_path / "unbroken")
    best = len(load_embedder(tmp_path / "unbroken/best")[1]["history"])
    assert best < 6
    cut_training(tmp_path / "cut", 6 * best + 3, settings, pairs, monkeypatch, unrelated)
    for path in (tmp_path / "cut").iterdir():
        path.unlink()
    go_on(tmp_path / "cut", settings, pairs, unrelated)
    assert files(tmp_path / "cut") == expected


def test_a_torn_state_is_refused_and_the_one_before_it_used(tmp_path, monkeypatch):
    settings, pairs = params(**SHORT), random_pairs(tmp_path / "data", 30)
    _, weights, history = go_on(tmp_path / "unbroken", settings, pairs)
    tears = {
        "cut": lambda content: content[: len(content) // 2],
        "empty": lambda content: b"",
        "zeros at its end": lambda content: content[:-100] + bytes(100),
        "one byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        "header": lambda content: content[:100] + b"}" + content[101:],
    }
    for name, tear in tears.items():
        older, newest = cut_training(tmp_path / name, 15, settings, pairs, monkeypatch)
        assert (older.stem, newest.stem) == ("step-000000014", "step-000000015")
        newest.write_bytes(tear(newest.read_bytes()))
        with pytest.warns(UserWarning, match=r"step-000000015.safetensors is torn.* the state before it is"):
            taken, found, rows = go_on(tmp_path / name, settings, pairs)
        assert taken.count(2) == 4 and equal(found, weights) and rows == history, name
    for path in cut_training(tmp_path / "both", 15, settings, pairs, monkeypatch):
        path.write_bytes(b"torn")
    with pytest.warns(UserWarning, match="is torn") as warned:
        taken, found, _ = go_on(tmp_path / "both", settings, pairs)
    assert len(warned) == 2 and taken.count(0) == 6 and equal(found, weights)


def test_other_settings_or_data_start_anew_and_lose_nothing(tmp_path, monkeypatch):
    settings, pairs = params(**SHORT), random_pairs(tmp_path / "data", 30)
    states = cut_training(tmp_path / "mini", 14, settings, pairs, monkeypatch)
    kept = {path: path.read_bytes() for path in states}
    other = settings.model_copy(update={"scale": 5.0})
    with pytest.warns(UserWarning, match="is of a run with other settings. It is not used: this run starts anew."):
        cut_training(tmp_path / "mini", 3, other, pairs, monkeypatch)
    with pytest.warns(UserWarning, match="is of a run with other .*data, validation data"):
        cut_training(tmp_path / "mini", 3, settings, random_pairs(tmp_path / "others", 30, seed=1), monkeypatch)
    assert {path: path.read_bytes() for path in states} == kept
    assert go_on(tmp_path / "mini", settings, pairs)[0].count(0) == 0
    assert not (tmp_path / ".resume/mini").exists()


def test_validation_data_of_another_source_are_other_data(tmp_path):
    settings, pairs = params(), random_pairs(tmp_path)
    source = CachedPairs(*pairs, settings)
    validations = None, pairs, SimpleNamespace(identity="a"), SimpleNamespace(identity="b")
    told = [identify(source, settings, validation)["validation data"] for validation in validations]
    assert len(set(told)) == 4 and told[0] == "" and told[1] == source.identity


def test_states_within_an_epoch_are_saved_only_when_they_are_due(tmp_path, monkeypatch):
    settings, pairs, saved = params(**SHORT), random_pairs(tmp_path / "data", 30), []
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


def test_processes_that_would_go_on_from_different_steps_are_refused(tmp_path, monkeypatch):
    settings = params()
    monkeypatch.setattr("pacl.training.distributed.same_everywhere", lambda number, device: False)
    with pytest.raises(ValueError, match="processes would go on from different steps: .*mini must be one folder for"):
        train(CachedPairs(*random_pairs(tmp_path), settings), settings, folder=tmp_path / "mini")


def test_a_foreign_state_is_refused(tmp_path):
    mine, theirs = (Progress(tmp_path / name, {"settings": name}) for name in ("mine", "theirs"))
    theirs.save(3, {"weight": torch.ones(2)})
    mine.save(2, {"weight": torch.zeros(2)})
    (mine.folder / "step-000000003.safetensors").write_bytes(
        (theirs.folder / "step-000000003.safetensors").read_bytes()
    )
    with pytest.warns(UserWarning, match="step-000000003.safetensors is of a run with other settings. It is not used"):
        assert torch.equal(Progress(tmp_path / "mine", {"settings": "mine"}).load()["weight"], torch.zeros(2))
    mine.save(4, {})
    assert sorted(path.stem for path in mine.folder.iterdir()) == ["step-000000002", "step-000000004"]


def test_a_state_of_another_run_is_named_and_a_torn_one_is_passed_over(tmp_path):
    torn, other, mine = (Progress(tmp_path, {"settings": name}) for name in ("torn", "other", "mine"))
    for progress in (torn, other):
        progress.save(1, {})
    torn.good[0].write_bytes(b"torn")
    with pytest.warns(UserWarning, match=f"{other.folder.name}.* is of a run with other settings") as warned:
        assert mine.load() is None
    assert len(warned) == 1


def test_a_changed_number_in_a_states_header_is_found(tmp_path):
    progress = Progress(tmp_path, {})
    progress.save(1, {"rate": 0.25, "weight": torch.ones(2)})
    (path,) = progress.good
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.75"))
    with pytest.raises(ValueError, match="is torn: its checksum is another"):
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


def test_no_state_is_ever_unpickled(tmp_path):
    """A pickle under a state's name is refused as any torn file is; nothing in it runs."""
    progress = Progress(tmp_path, {})
    progress.folder.mkdir()
    bomb = f"cposix\nsystem\n(S'touch {tmp_path}/ran'\ntR.".encode()
    (progress.folder / "step-000000001.safetensors").write_bytes(bomb)
    torch.save({"step": 1}, progress.folder / "step-000000002.safetensors")
    save_file({"step": torch.ones(1)}, progress.folder / "step-000000003.safetensors")  # whole, but another program's
    with pytest.warns(UserWarning, match="is torn or no saved state") as warned:
        assert progress.load() is None
    assert len(warned) == 3
    assert not (tmp_path / "ran").exists()


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {
        "weights": {"a": torch.randn(3, 4), "b": torch.tensor(2.5), "c": torch.arange(3), "d": torch.zeros(0)},
        "moments": {0: {"step": torch.tensor(1.0)}, 1: {}},
        "rate": 0.1 + 0.2,
        "history": [{"loss": 1e-300, "pair": [1, None, True, "é"]}],
    }
    Progress(tmp_path, {}).save(1, state)
    found = Progress(tmp_path, {}).load()
    assert torch.equal(found["weights"]["a"], state["weights"]["a"]) and found["weights"]["b"].shape == ()
    assert found["weights"]["c"].dtype == torch.int64 and found["weights"]["d"].shape == (0,)
    assert found["moments"].keys() == {0, 1} and found["rate"] == state["rate"] and found["history"] == state["history"]
    shared = torch.arange(6.0)
    Progress(tmp_path, {}).save(2, [shared, shared.view(2, 3), shared.view(2, 3).T])  # of one memory, one in strides
    found = Progress(tmp_path, {}).load()
    assert all(map(torch.equal, found, (shared, shared.view(2, 3), shared.view(2, 3).T)))
    Progress(tmp_path, {}).save(3, ("a", "tuple"))
    assert Progress(tmp_path, {}).load() == ["a", "tuple"]


# --- disks ---


@pytest.fixture
def small_disk():
    """No file may grow beyond 4,000 bytes: writing fails half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_good_state(tmp_path, request):
    progress = Progress(tmp_path, {})
    progress.save(1, {"weight": torch.ones(10)})
    request.getfixturevalue("small_disk")
    with pytest.raises(OSError, match=r"step-000000002.safetensors was not written; make room"):
        progress.save(2, {"weight": torch.ones(10_000)})
    assert [path.name for path in progress.folder.iterdir()] == ["step-000000001.safetensors"]
    assert torch.equal(Progress(tmp_path, {}).load()["weight"], torch.ones(10))


def test_a_full_disk_leaves_the_last_good_embedder(tmp_path, request):
    small, large = VisionEmbedder(4, 4), VisionEmbedder(64, 64)
    save_embedder(tmp_path / "best", small, {"history": [1]})
    request.getfixturevalue("small_disk")
    with pytest.raises(OSError, match="best.safetensors was not written"):
        save_embedder(tmp_path / "best", large, {"history": [1, 2]})
    found, about = load_embedder(tmp_path / "best")
    assert equal(found.state_dict(), small.state_dict()) and about["history"] == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "best.safetensors"]


def test_a_folder_that_cannot_be_written_stops_training_before_it_starts(tmp_path, monkeypatch):
    settings, pairs = params(**SHORT), random_pairs(tmp_path / "data", 30)
    source = CachedPairs(*pairs, settings)
    monkeypatch.setattr(source, "epoch", lambda *_: pytest.fail("training started"))
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="step-000000000.safetensors was not written; make room or make the folder"):
        train(source, settings, folder=tmp_path / "taken/mini")

    def read_only(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(OSError, match="Read-only file system: .*step-000000000.safetensors was not written"):
        train(source, settings, folder=tmp_path / "new/mini")
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]


def test_what_is_written_has_the_usual_rights_and_no_second_name(tmp_path):
    write_durably(tmp_path / "a b 'ü'.json", b"{}")
    (tmp_path / "plain").write_bytes(b"{}")
    assert (tmp_path / "a b 'ü'.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b 'ü'.json", "plain"]


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_name_is_afterwards(tmp_path, monkeypatch):
    """What a power cut leaves is the old file or the new one, whole."""
    calls = []
    for name in ("fsync", "replace", "close"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, call=call: calls.append(name) or call(*given))
    write_durably(tmp_path / "best.json", b"{}")
    assert calls == ["fsync", "replace", "fsync", "close"]


def test_a_second_training_of_a_folder_is_refused_while_the_first_one_lasts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    started, given = [], []
    monkeypatch.setattr("pacl.training.train.Texts", lambda folder, split: split)
    monkeypatch.setattr("pacl.training.train.read_features", lambda path, dimensions: path.name)
    monkeypatch.setattr("pacl.training.train.CachedPairs", lambda patches, texts, params: (patches, texts))

    def note(source, params, *, folder, **others):
        started.append(str(folder))
        given.append((source, others))

    monkeypatch.setattr("pacl.training.train.train", note)
    refused = pytest.raises(ValueError, match="another process trains checkpoints/mini at this moment: wait")
    with sole_run(Path("checkpoints/mini")), sole_run(Path("checkpoints/flickr8k")), refused:
        train_profile("mini")
    assert started == []
    train_profile("mini")
    assert started == ["checkpoints/mini"]
    train_profile("mini", lambda profile: f"{profile}'s shards")
    others = {"validation": ("validation_patches.npy", "validation"), "live": Path("reports/mini/live")}
    assert given == [(("train_patches.npy", "train"), others), ("mini's shards", others)]


KILLED = """
import os, sys, time
from pathlib import Path
from pacl.resume import sole_run
with sole_run(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(10)
        os._exit(0)
    print("it trains", flush=True)
    time.sleep(100)
"""


def test_a_run_goes_on_while_data_loaders_of_a_killed_one_still_end(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "mini"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "it trains\n"
    with pytest.raises(ValueError, match="another process trains"), sole_run(tmp_path / "mini"):
        pass
    killed.kill()
    killed.wait()
    with sole_run(tmp_path / "mini"):
        pass


# --- numbers ---


def test_last_is_of_a_whole_epoch_after_a_run_that_went_on_within_one_and_was_cut_again(tmp_path, monkeypatch):
    settings, pairs = params(**SHORT), random_pairs(tmp_path / "data", 30)
    cut_training(tmp_path / "once", 12, settings, pairs, monkeypatch)
    for steps in (15, 16):  # in the third epoch; what goes on from there is cut before that epoch's end
        cut_training(tmp_path / "twice", steps, settings, pairs, monkeypatch)
    (once, about), (twice, again) = (load_embedder(tmp_path / name / "last") for name in ("once", "twice"))
    assert equal(once.state_dict(), twice.state_dict()) and about["history"] == again["history"]


def test_a_bad_number_leaves_the_last_good_state(tmp_path):
    """The second epoch's tokens are no numbers: what is kept is the first epoch's."""
    settings, pairs = params(**SHORT), random_pairs(tmp_path / "data", 30)
    source = CachedPairs(*pairs, settings)
    whole = source.epoch
    source.epoch = lambda number, *who: (
        (tokens / 0 if number and i == 2 else tokens, *text) for i, (tokens, *text) in enumerate(whole(number, *who))
    )
    message = (
        r"the loss is nan at step 8 \(epoch 2, batch 3\): the tokens of its pairs 0, 1, 2, 3, 4 \(counted from 0\)"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(source, settings, folder=tmp_path / "mini")
    (state,) = (tmp_path / ".resume/mini").glob("*/*6.safetensors")
    _, tensors = read_state(state)
    assert all(np.isfinite(tensor.numpy()).all() for tensor in tensors.values())
    assert len(load_embedder(tmp_path / "mini/last")[1]["history"]) == 1


def test_weights_that_are_no_numbers_are_never_kept(tmp_path):
    """A rate so large that the first step's weights overflow; the loss of that step was a number."""
    settings, pairs = params(**SHORT | {"batch_size": 30, "epochs": 8, "learning_rate": 1e38}), None
    pairs = random_pairs(tmp_path / "data", 30)
    with pytest.raises(FloatingPointError, match="lower train.learning_rate"):
        train(CachedPairs(*pairs, settings), settings, folder=tmp_path / "mini")
    for path in (tmp_path / ".resume/mini").glob("*/*.safetensors"):
        assert all(
            torch.isfinite(tensor).all() for tensor in read_state(path)[1].values() if tensor.is_floating_point()
        )


def test_bad_texts_and_held_out_features_are_named(tmp_path):
    settings, (patches, texts) = params(pairs=8, batch_size=4), random_pairs(tmp_path / "data", 8)
    good, bad = random_pairs(tmp_path / "good", 8), random_pairs(tmp_path / "bad", 8)
    texts.caption_features[:] = np.inf
    with pytest.raises(
        FloatingPointError, match=r"batch 1\): the texts of its pairs 0, 1, 2, 3 \(counted from 0\) are no"
    ):
        train(CachedPairs(patches, texts, settings), settings)
    bad[0][5] = np.nan
    with pytest.raises(FloatingPointError, match="the validation loss is nan in batch 2: look for bad features"):
        train(CachedPairs(*good, settings), settings, validation=bad)
