"""The curves of a running training: the right points, none twice after an interruption, no effect on training."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers.small_training import SHORT, interrupted, params, random_pairs, same

from pacl.training import curves as curves_module
from pacl.training.cached import CachedPairs
from pacl.training.curves import Curves
from pacl.training.train import train


def curve(folder, name):
    """(steps, values) of a curve."""
    rows = pd.read_csv(folder / f"plots/metrics/{name}.tsv", sep="\t")
    assert list(rows) == ["step", name]
    return rows["step"].tolist(), rows[name].tolist()


def trained(folder, stop=None, **options):
    """The weights and the history of a training of six epochs of six steps, interrupted after `stop` steps."""
    settings, pairs = params(**SHORT), random_pairs(folder / "data", 30)
    source = CachedPairs(*pairs, settings)
    source = interrupted(source, stop) if stop else source
    embedder, history = train(source, settings, validation=pairs, folder=folder / "out/mini", **options)
    return embedder.state_dict(), history


def test_points_are_means_of_the_losses_since_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr(curves_module, "EVERY", 4)
    curves = Curves(tmp_path)
    for step, losses in ((3, [9.0, 9.0, 9.0]), (4, [9.0, 1.0, 2.0, 3.0, 4.0]), (8, [5.0, 7.0])):  # 8: a new epoch's
        curves.loss(step, losses)
    assert curve(tmp_path, "loss") == ([4, 8], [2.5, 6.0])


def test_curves_show_the_history_and_survive_an_interruption(tmp_path, monkeypatch):
    """Interrupted in the fourth epoch, after points that the last saved state doesn't include."""
    monkeypatch.setattr(curves_module, "EVERY", 3)
    plain, _ = trained(tmp_path / "plain")
    weights, history = trained(tmp_path / "watched", live=tmp_path / "watched/live")
    assert same(weights, plain)
    for name in ("validation_loss", "validation_retrieval", "logit_scale"):
        values = pytest.approx([row[name] for row in history], abs=1e-6)
        assert curve(tmp_path / "watched/live", name) == ([row["step"] for row in history], values)
    found, losses = curve(tmp_path / "watched/live", "loss")
    assert found == list(range(3, 37, 3))  # six steps an epoch: an epoch's mean is the mean of its two points
    assert np.mean(np.reshape(losses, (6, 2)), axis=1) == pytest.approx([row["loss"] for row in history], abs=1e-6)
    cut = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        trained(cut, 22, live=cut / "live")
    assert curve(cut / "live", "loss")[0][-1] == 21  # the saved state is of step 18
    trained(cut, live=cut / "live")
    for name in ("loss", "validation_loss", "validation_retrieval", "logit_scale"):
        one, other = ((folder / f"live/plots/metrics/{name}.tsv") for folder in (cut, tmp_path / "watched"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("left", ["", "step\tlo", "step\tloss\n50\t2.0\n100\t1.0\n150\t0.5\n15"])
def test_corrupt_files_do_not_stop_a_training_that_resumes(tmp_path, left):
    path = tmp_path / "plots/metrics/loss.tsv"
    path.parent.mkdir(parents=True)
    path.write_text(left)
    (tmp_path / "metrics.json").write_text('{"loss": 0.')
    Curves(tmp_path, 100).add(150, {"loss": 0.25})
    assert curve(tmp_path, "loss") == (([50, 100, 150], [2.0, 1.0, 0.25]) if "100" in left else ([150], [0.25]))


def test_a_new_training_starts_its_curves_again_and_writes_no_times(tmp_path):
    Curves(tmp_path).add(50, {"loss": 1.0, "old": 1.0})
    Curves(tmp_path).add(7, {"loss": 1.23456789})
    assert [" ".join(path.read_text().split()) for path in sorted(tmp_path.rglob("*.*"))] == [
        '{ "loss": 1.234568, "step": 7 }',
        "step loss 7 1.234568",
    ]


def test_in_a_repository_without_a_commit_a_training_has_no_curves_and_says_so(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="no live curves: commit once"):
        _, history = trained(tmp_path, live=tmp_path / "live")
    assert len(history) == SHORT["epochs"] and list((tmp_path / "live/plots/metrics").iterdir()) == []
