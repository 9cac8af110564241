"""A training's curves while it trains: the right points, none twice after a cut, the same training as without them."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.small_training import SHORT, params, random_pairs

from pacl.training import curves as curves_module
from pacl.training.cached import CachedPairs
from pacl.training.curves import Curves, keep_up_to
from pacl.training.train import train


def curve(folder, name):
    """(steps, values) of one of its curves."""
    rows = pd.read_csv(folder / f"plots/metrics/{name}.tsv", sep="\t")
    assert list(rows) == ["step", name]
    return rows["step"].tolist(), rows[name].tolist()


def trained(folder, source=None, **options):
    """The weights and the history of a training of six epochs of six steps."""
    settings = params(**SHORT)
    pairs = random_pairs(folder / "data", 30)
    source = source or CachedPairs(*pairs, settings)
    embedder, history = train(source, settings, validation=pairs, folder=folder / "out/mini", **options)
    return embedder.state_dict(), history


def test_points_are_means_of_the_losses_since_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr(curves_module, "EVERY", 4)
    curves = Curves(tmp_path)
    for step, losses in ((3, [9.0, 9.0, 9.0]), (4, [9.0, 1.0, 2.0, 3.0, 4.0]), (8, [5.0, 7.0])):  # 8: a new epoch's
        curves.loss(step, losses)
    assert curve(tmp_path, "loss") == ([4, 8], [2.5, 6.0])


def test_curves_are_the_history_s_and_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(curves_module, "EVERY", 3)
    plain, _ = trained(tmp_path / "plain")
    weights, history = trained(tmp_path / "watched", live=tmp_path / "live")
    assert all(torch.equal(weights[name], plain[name]) for name in plain)
    steps = [row["step"] for row in history]
    for name in ("validation_loss", "validation_retrieval", "logit_scale"):
        assert curve(tmp_path / "live", name) == (steps, pytest.approx([row[name] for row in history], abs=1e-6))
    found, losses = curve(tmp_path / "live", "loss")
    assert found == list(range(3, 37, 3))  # six steps an epoch: an epoch's mean is the mean of its two points
    assert np.mean(np.reshape(losses, (6, 2)), axis=1) == pytest.approx([row["loss"] for row in history], abs=1e-6)


def test_a_cut_training_s_curves_are_those_of_one_that_was_not(tmp_path, monkeypatch):
    """Cut in its fourth epoch, after points that its last saved state doesn't know of."""
    monkeypatch.setattr(curves_module, "EVERY", 1)
    trained(tmp_path / "whole", live=tmp_path / "whole/live")

    class Cut(CachedPairs):
        def epoch(self, number, *rest):
            for i, batch in enumerate(super().epoch(number, *rest)):
                if (number, i) == (3, 4):
                    raise KeyboardInterrupt
                yield batch

    cut, settings = tmp_path / "cut", params(**SHORT)
    with pytest.raises(KeyboardInterrupt):
        trained(cut, Cut(*random_pairs(cut / "data", 30), settings), live=cut / "live")
    assert curve(cut / "live", "loss")[0][-1] == 22  # its state is of step 18
    trained(cut, live=cut / "live")
    for name in ("loss", "validation_loss", "validation_retrieval", "logit_scale"):
        files = [folder / f"live/plots/metrics/{name}.tsv" for folder in (cut, tmp_path / "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("left", ["", "step\tlo", "step\tloss\n50\t2.0\n100\t1.0\n150\t0.5\n15"])
def test_torn_files_do_not_stop_a_training_that_goes_on(tmp_path, left):
    path = tmp_path / "plots/metrics/loss.tsv"
    path.parent.mkdir(parents=True)
    path.write_text(left)
    (tmp_path / "metrics.json").write_text('{"loss": 0.')
    Curves(tmp_path, 100).add(150, {"loss": 0.25})
    assert curve(tmp_path, "loss") == (([50, 100, 150], [2.0, 1.0, 0.25]) if "100" in left else ([150], [0.25]))


def test_a_new_training_starts_its_curves_anew(tmp_path):
    Curves(tmp_path).add(50, {"loss": 1.0, "old": 1.0})
    Curves(tmp_path).add(50, {"loss": 2.0})
    assert curve(tmp_path, "loss") == ([50], [2.0])
    assert not (tmp_path / "plots/metrics/old.tsv").exists()


def test_rows_are_cut_by_number_not_by_text(tmp_path):
    path = tmp_path / "loss.tsv"
    path.write_text("step\tloss\n9\t1\n10\t2\n100\t3\n")
    keep_up_to(10, path)
    assert path.read_text() == "step\tloss\n9\t1\n10\t2\n"


def test_no_time_is_written(tmp_path):
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
